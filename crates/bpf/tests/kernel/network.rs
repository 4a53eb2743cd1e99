//! The programs of the network collector load and count on this kernel.

use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;

use bpf::Loader;
use bpf::abi::network::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT, FAMILY_IPV4, Flow, NetworkLoss, Traffic};
use bpf::probe::Hierarchy;

use crate::bench::{facts, ready};

pub const UDP: u16 = 17;

/// Gives the id of our own cgroup in the primary hierarchy.
pub fn own_cgroup() -> u64 {
    let cgroups = &facts().cgroups;
    let text = std::fs::read_to_string("/proc/self/cgroup").expect("readable");
    let path = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let wanted = if cgroups.primary == Hierarchy::Unified { "" } else { "memory" };
        controllers.split(',').any(|controller| controller == wanted).then_some(path)
    });
    let mount = cgroups.mount.as_ref().expect("a hierarchy is mounted");
    std::fs::metadata(mount.join(&path.expect("a path")[1..])).expect("a directory").ino()
}

#[test]
fn datagrams_are_counted_under_their_owner() {
    const COUNT: u64 = 1000;
    let Some(types) = ready() else { return };
    let root = facts().cgroups.open_root().expect("the version 2 hierarchy");
    let legacy: &[&str] = if facts().is_legacy() { &["network_legacy"] } else { &["network", "network_legacy"] };
    for &name in legacy {
        let loader = Loader::new(name).constant("hierarchy", &(facts().cgroups.primary as u32));
        let mut object = loader.load(&types).expect("the object loads");
        for program in ["network_create", "network_egress", "network_ingress"] {
            object.attach_cgroup(program, &root, &types).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        if name == "network" {
            for program in ["sock_send_length", "sock_recv_length"] {
                if types.has_tracepoint(program) {
                    object.attach(program, &types).expect("attaches");
                }
            }
            object.load_iterator("network_seed", "task_file", &types).expect("loads");
            object.walk("network_seed", &mut Vec::new()).expect("walks");
            if types.enumeration("skb_drop_reason").is_some() {
                let drops = object.attach("kfree_skb__socket", &types);
                drops.or_else(|_| object.attach("kfree_skb__reason", &types)).expect("attaches");
            }
        }
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bound");
        for _ in 0..COUNT {
            sender.send_to(&[0; 72], receiver.local_addr().expect("bound")).expect("sent");
            receiver.recv(&mut [0; 128]).expect("received");
        }
        let flows = object.table::<Flow, Traffic>("flows").expect("flows");
        for direction in [DIRECTION_TRANSMIT, DIRECTION_RECEIVE] {
            let key = Flow { cgroup: own_cgroup(), direction, family: FAMILY_IPV4, transport: UDP, padding: 0 };
            let cells = flows.get(&key).expect("readable").unwrap_or_default();
            let (packets, bytes) = (cells.iter().map(|cell| cell.packets), cells.iter().map(|cell| cell.bytes));
            // Others in the same cgroup may send as well.
            let (packets, bytes) = (packets.sum::<u64>(), bytes.sum::<u64>());
            assert!(packets >= COUNT && bytes >= COUNT * 100, "{name}: {packets} packets, {bytes} bytes of {key:?}");
        }
        let losses = object.per_cpu_cells::<NetworkLoss>("losses").expect("losses").get(0).expect("readable");
        assert!(losses.iter().all(|loss| *loss == NetworkLoss::default()), "{losses:?}");
    }
}
