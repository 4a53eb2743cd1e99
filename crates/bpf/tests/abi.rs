//! Compares the C structs in the objects' BTF with their Rust mirrors: size, names, offsets.

use std::collections::HashMap;
use std::mem::offset_of;

use bpf::abi::histogram::HistShape;
use bpf::abi::{
    block, cgroup, connection, cost, dns, event, executable, file_io, filter, memory, network, process, scheduler,
    starts, syscalls, tcp,
};
use object::{Object, ObjectSection};

struct Record {
    size: usize,
    /// Name and offset in bytes.
    members: Vec<(String, usize)>,
}

/// Reads the structs of an object's BTF by name.
fn structs(name: &str) -> HashMap<String, Record> {
    let (_, bytes) = bpf::objects().find(|(object, _)| *object == name).expect("the object is embedded");
    let file = object::File::parse(bytes).expect("an ELF file");
    let btf = file.section_by_name(".BTF").expect("BTF").data().expect("readable").to_vec();
    let word = |at: usize| u32::from_le_bytes(btf[at..at + 4].try_into().expect("four bytes")) as usize;
    let header = word(4);
    let (types, types_end, strings) = (header + word(8), header + word(8) + word(12), header + word(16));
    let text = |offset: usize| {
        let bytes = &btf[strings + offset..];
        let end = bytes.iter().position(|&byte| byte == 0).expect("a NUL");
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let mut found = HashMap::new();
    let mut at = types;
    while at < types_end {
        let (name, info, size) = (text(word(at)), word(at + 4), word(at + 8));
        let (count, kind) = (info & 0xffff, (info >> 24) & 0x1f);
        at += 12;
        if kind == 4 {
            let members = (0..count).map(|index| {
                let member = at + index * 12;
                (text(word(member)), (word(member + 8) & 0x00ff_ffff) / 8)
            });
            found.insert(name, Record { size, members: members.collect() });
        }
        // The bytes that follow each kind, from the kernel's btf.h.
        at += match kind {
            1 | 14 | 17 => 4,
            3 => 12,
            4 | 5 | 15 | 19 => 12 * count,
            6 | 13 => 8 * count,
            _ => 0,
        };
    }
    found
}

/// Compares a mirror with its struct: every member, in order.
fn compare(structs: &HashMap<String, Record>, name: &str, size: usize, members: &[(&str, usize)]) {
    let record = structs.get(name).unwrap_or_else(|| panic!("the object's BTF lacks struct {name}"));
    let found: Vec<(&str, usize)> = record.members.iter().map(|(name, offset)| (name.as_str(), *offset)).collect();
    assert_eq!(found, members, "members of struct {name}");
    assert_eq!(record.size, size, "size of struct {name}");
}

macro_rules! mirror {
    ($structs:expr, $name:literal, $type:ty, $($member:ident)+) => {
        compare($structs, $name, size_of::<$type>(), &[$((stringify!($member), offset_of!($type, $member))),+])
    };
}

#[test]
fn the_mirrors_of_syscalls_fit() {
    for object in ["syscalls", "syscalls_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "call", syscalls::Call, cgroup nr abi);
        mirror!(&structs, "failure", syscalls::Failure, cgroup nr abi number);
        mirror!(&structs, "start", starts::Start, pid nr time);
        mirror!(&structs, "loss", syscalls::Loss, calls errors busy stale);
    }
}

#[test]
fn the_mirror_of_filters_fits() {
    mirror!(&structs("syscalls"), "comm_rule", filter::CommRule, comm rule);
    mirror!(&structs("syscalls"), "executable", executable::Executable, cgroup comm);
}

#[test]
fn the_mirrors_of_costs_fit() {
    for object in ["syscalls", "network", "dns", "block", "tcp"] {
        let structs = structs(object);
        mirror!(&structs, "cost", cost::Cost, runs next samples time);
        mirror!(&structs, "stage", cost::Stage, since every before);
    }
}

#[test]
fn the_mirror_of_histograms_fits() {
    mirror!(&structs("scales"), "hist_shape", HistShape, scale low slots);
}

#[test]
fn the_mirrors_of_file_io_fit() {
    for object in ["file_io", "file_io_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "amount", file_io::Amount, cgroup magic kind);
        mirror!(&structs, "loss", file_io::Loss, read written opens amounts busy stale far);
    }
}

#[test]
fn the_mirrors_of_scheduler_and_memory_fit() {
    for object in ["scheduler", "scheduler_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "work", scheduler::Work, runtime voluntary involuntary);
        mirror!(&structs, "loss", scheduler::Loss, work works);
    }
    for object in ["memory", "memory_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "work", memory::Work, minor major kills);
        mirror!(&structs, "loss", memory::Loss, work works);
    }
}

#[test]
fn the_mirrors_of_network_fit() {
    let structs = structs("network");
    mirror!(&structs, "flow", network::Flow, cgroup direction family transport padding);
    mirror!(&structs, "traffic", network::Traffic, bytes packets);
    mirror!(&structs, "drop", network::Dropped, cgroup reason padding);
    mirror!(&structs, "network_loss", network::NetworkLoss, traffic drops overflows owners);
}

#[test]
fn the_mirrors_of_connection_fit() {
    for object in ["connection", "connection_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "tuple", connection::Tuple, cgroup local remote local_port remote_port transport padding);
        mirror!(&structs, "connection", connection::Connection,
            tuple backend generation role flags backend_port first last closed sent received);
        mirror!(&structs, "stray", connection::Stray, tuple traffic time direction role padding);
        mirror!(&structs, "connection_loss", connection::ConnectionLoss, sent received strays);
    }
}

#[test]
fn the_mirrors_of_block_fit() {
    for object in ["block", "block_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "transfer", block::Transfer, cgroup device direction padding);
        mirror!(&structs, "loss", block::Loss, read written transfers untimed);
    }
}

#[test]
fn the_mirrors_of_process_fit() {
    for object in ["process", "process_perf"] {
        let structs = structs(object);
        mirror!(&structs, "event_head", event::EventHead, time cgroup comm pid kind);
        mirror!(&structs, "exit_event", process::ExitEvent, head started status padding);
        mirror!(
            &structs, "connection_event", process::ConnectionEvent,
            head local peer local_port peer_port family error
        );
        let record = &structs["exec_event"];
        let (path, head) = record.members.split_last().expect("members");
        assert_eq!(*path, ("path".to_owned(), size_of::<process::ExecEvent>()), "the path follows the mirror");
        assert_eq!(head.len(), 3);
    }
}

#[test]
fn the_mirrors_of_dns_fit() {
    for object in ["dns", "dns_legacy", "dns_perf"] {
        let structs = structs(object);
        mirror!(&structs, "tally", dns::Tally, cgroup code role what);
        mirror!(&structs, "named", dns::Named, tally name);
        mirror!(&structs, "asked", dns::Asked, socket peer port id role);
        mirror!(&structs, "pending", dns::Pending, time cgroup comm pid before);
        mirror!(&structs, "loss", dns::Loss, queries responses names pending unread);
        let record = &structs["response_event"];
        let (question, head) = record.members.split_last().expect("members");
        assert_eq!(*question, ("question".to_owned(), size_of::<dns::ResponseEvent>()), "it follows the mirror");
        assert_eq!(head.len(), 7);
    }
}

#[test]
fn the_mirror_of_cgroup_fits() {
    let structs = structs("cgroup");
    let record = &structs["change"];
    let (path, head) = record.members.split_last().expect("members");
    assert_eq!(*path, ("path".to_owned(), size_of::<cgroup::Change>()), "the path follows the mirror");
    let found: Vec<(&str, usize)> = head.iter().map(|(name, offset)| (name.as_str(), *offset)).collect();
    let expected = [
        ("time", offset_of!(cgroup::Change, time)),
        ("id", offset_of!(cgroup::Change, id)),
        ("parent", offset_of!(cgroup::Change, parent)),
        ("length", offset_of!(cgroup::Change, length)),
        ("kind", offset_of!(cgroup::Change, kind)),
        ("truncated", offset_of!(cgroup::Change, truncated)),
        ("padding", offset_of!(cgroup::Change, padding)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_mirrors_of_tcp_fit() {
    for object in ["tcp", "tcp_legacy"] {
        let structs = structs(object);
        mirror!(&structs, "owner", tcp::Owner, cgroup network padding);
        mirror!(&structs, "peer", tcp::Peer, cgroup address network port padding);
        mirror!(&structs, "lifecycle", tcp::Lifecycle, connects accepts closes resets retransmits failed);
        mirror!(&structs, "connections", tcp::Connections, past open visits);
        mirror!(&structs, "visit", tcp::Visit, rtt count round);
        mirror!(&structs, "tcp_loss", tcp::TcpLoss, connections unfollowed strangers);
    }
}
