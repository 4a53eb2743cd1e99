//! Programs of several objects behind one hook.

use std::net::UdpSocket;

use bpf::abi::network::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT, FAMILY_IPV4, Flow, Traffic};
use bpf::abi::sample::TIME_NONE;
use bpf::{Gates, Loader, Object};

use crate::bench::{Cgroup, Work, builds, facts, is_locked, ready};
use crate::dns::SHAPE;
use crate::network::{UDP, own_cgroup};
use crate::{call, loader, total};

/// Counts the links of this process to programs on a hook.
fn links() -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fdinfo").expect("fdinfo");
    let texts = descriptors.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.filter(|text| text.contains("link_type:")).count()
}

/// Other tests attach programs at the same time, so this one runs in a process of its own.
#[test]
fn whoever_comes_and_goes_each_counts_every_call() {
    const ALONE: &str = "TELESONDE_TEST_ALONE";
    let Some(types) = ready() else { return };
    if std::env::var_os(ALONE).is_none() {
        let own = std::env::current_exe().expect("a path");
        let test = "gate::whoever_comes_and_goes_each_counts_every_call";
        let run = std::process::Command::new(own).args(["--exact", test]).env(ALONE, "1").output().expect("it runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
        return;
    }
    let work = |calls| {
        let cgroup = Cgroup::make("gate");
        cgroup.run(Work { getppid: calls, ..Work::default() });
        call(cgroup.id(), libc::SYS_getppid)
    };
    for &name in builds() {
        let gates = Gates::default();
        let enter = || {
            let mut object = loader(name, TIME_NONE).load(&types).expect("the object loads");
            object.attach_behind(&gates, "sys_exit", &types).expect("sys_exit attaches");
            object
        };
        let (first, second, third) = (enter(), enter(), enter());
        assert_eq!(links(), 1, "one program sits on the hook");
        let done = work(700);
        assert_eq!([&first, &second, &third].map(|object| total(object, done)), [700; 3]);
        // The one in the middle, the one that runs first, the last one.
        drop(second);
        let done = work(800);
        assert_eq!([&first, &third].map(|object| total(object, done)), [800; 2]);
        drop(third);
        let fourth = enter();
        drop(first);
        let done = work(900);
        assert_eq!(total(&fourth, done), 900);
        assert!(fourth.watch().programs().iter().all(|program| program.misses.unwrap_or(0) == 0));
        drop(fourth);
        assert_eq!(links(), 0, "nothing is left on the hook");
        let again = enter();
        let done = work(50);
        assert_eq!(total(&again, done), 50);
    }
}

#[test]
fn a_hook_without_a_gate_is_an_error() {
    let Some(types) = ready() else { return };
    let mut object = Loader::new("floor").load(&types).expect("the object loads");
    let error = object.attach_behind(&Gates::default(), "sched_switch", &types).expect_err("no gate").to_string();
    assert_eq!(error, "the eBPF object floor has no map next_sched_switch");
}

#[test]
fn a_packet_passes_all_who_look_at_it() {
    const COUNT: u64 = 300;
    let Some(types) = ready() else { return };
    let root = facts().cgroups.open_root().expect("the version 2 hierarchy");
    let builds: &[[&str; 2]] = &[["network", "dns"], ["network_legacy", "dns_legacy"]];
    for &[network, dns] in &builds[usize::from(facts().is_legacy())..] {
        // These read the current task.
        if is_locked() && dns == "dns_legacy" {
            continue;
        }
        let gates = Gates::default();
        let enter = |name: &'static str, programs: [&str; 2]| {
            let loader = Loader::new(name).constant("hierarchy", &(facts().cgroups.primary as u32));
            let loader = if name == dns { loader.histogram("dns_latency", SHAPE) } else { loader };
            let mut object = loader.load(&types).expect("the object loads");
            if name == network {
                object.attach_cgroup("network_create", &root, &types).expect("attaches");
            }
            for program in programs {
                object.attach_cgroup_behind(&gates, program, &root, &types).unwrap_or_else(|why| panic!("{why}"));
            }
            object
        };
        let first = enter(network, ["network_ingress", "network_egress"]);
        let between = enter(dns, ["dns_ingress", "dns_egress"]);
        let last = enter(network, ["network_ingress", "network_egress"]);
        let packets = |object: &Object| {
            let flows = object.table::<Flow, Traffic>("flows").expect("flows");
            [DIRECTION_TRANSMIT, DIRECTION_RECEIVE].map(|direction| {
                let key = Flow { cgroup: own_cgroup(), direction, family: FAMILY_IPV4, transport: UDP, padding: 0 };
                let cells = flows.get(&key).expect("readable").unwrap_or_default();
                cells.iter().map(|cell| cell.packets).sum::<u64>()
            })
        };
        let send = || {
            let ends = [0, 0].map(|port: u16| UdpSocket::bind(("127.0.0.1", port)).expect("bound"));
            for _ in 0..COUNT {
                ends[0].send_to(&[0; 9], ends[1].local_addr().expect("bound")).expect("sent");
                ends[1].recv(&mut [0; 16]).expect("received");
            }
        };
        // Others in the same cgroup may send as well.
        send();
        for object in [&first, &last] {
            assert!(packets(object).iter().all(|&packets| packets >= COUNT), "{network}: {:?}", packets(object));
        }
        drop(between);
        drop(last);
        let before = packets(&first);
        send();
        let after = packets(&first);
        assert!((0..2).all(|way| after[way] >= before[way] + COUNT), "{network}: {before:?} {after:?}");
    }
}
