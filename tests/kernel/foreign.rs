//! Filters of somebody else work the same before, with and after us, whether we stop or are killed.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use aya::Ebpf;
use aya::programs::links::CgroupAttachMode;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{CgroupSkb, CgroupSkbAttachType, LinkOrder, SchedClassifier, TcAttachType};
use bpf::probe::Facts;

use crate::harness::agent::{Agent, Wish};
use crate::harness::netns::Pair;
use crate::harness::{eventually, live, stimulus};

const OPEN: u16 = 7000;
const NONE: &[u16] = &[];
/// The ports of those filters that come after us.
const LATE: &[u16] = &[7003, 7006, 7007, 7008];

/// The server's sockets, and the client's.
struct Ports {
    open: UdpSocket,
    others: Vec<UdpSocket>,
    client: UdpSocket,
}

impl Ports {
    fn new(pair: &Pair) -> Self {
        let bind = |address: IpAddr, port| {
            let socket = UdpSocket::bind((address, port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        pair.server.run(|| Self {
            open: bind(Pair::SERVER_V4, OPEN),
            others: (1..=8).map(|port| bind(Pair::SERVER_V4, OPEN + port)).collect(),
            client: pair.client.run(|| bind(Pair::CLIENT_V4, 0)),
        })
    }

    /// Sends to every port; gives those that got it. What comes to the open port came last.
    fn reached(&self) -> Vec<u16> {
        let send = |socket: &UdpSocket| match self.client.send_to(&[1], socket.local_addr().unwrap()) {
            Err(error) if error.kind() != ErrorKind::PermissionDenied => panic!("{error}"),
            _ => {}
        };
        let got = |socket: &UdpSocket| match socket.recv(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            result => Some(result.map(|_| socket.local_addr().unwrap().port()).unwrap()),
        };
        self.others.iter().for_each(send);
        send(&self.open);
        eventually("the open port is reached", || got(&self.open));
        self.others.iter().filter_map(got).collect()
    }
}

fn attach_cgroup(filters: &mut Ebpf, name: &str, hook: CgroupSkbAttachType, root: &File) {
    let program: &mut CgroupSkb = filters.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(root, hook, CgroupAttachMode::Single).unwrap();
}

fn attach_tc(filters: &mut Ebpf, name: &str, options: TcAttachOptions) {
    let program: &mut SchedClassifier = filters.program_mut(name).unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach_with_options("veth", TcAttachType::Egress, options).unwrap();
}

#[test]
fn filters_of_others_drop_what_they_dropped() {
    let _kernel = live!();
    // All that hooks packets or sockets.
    let wish = Wish {
        collectors: &[
            "network: {enabled: require}",
            "dns: {enabled: require, servers: true}",
            "tcp: {enabled: require}",
        ],
        ..Wish::default()
    };
    let pair = Pair::new();
    let ports = Ports::new(&pair);
    assert_eq!(ports.reached(), (7001..=7008).collect::<Vec<_>>());

    let mut filters = Ebpf::load_file(stimulus::bpf("foreign.bpf.c")).unwrap();
    let facts = Facts::gather();
    let root = facts.cgroups.open_root().unwrap();
    // Before Linux 6.6 there is only the qdisc.
    let has_tcx = facts.version >= (6, 6);
    let second = || {
        if has_tcx {
            TcAttachOptions::TcxOrder(LinkOrder::default())
        } else {
            TcAttachOptions::Netlink(NlOptions::default())
        }
    };
    attach_cgroup(&mut filters, "foreign_early", CgroupSkbAttachType::Egress, &root);
    attach_cgroup(&mut filters, "foreign_ingress", CgroupSkbAttachType::Ingress, &root);
    pair.client.run(|| {
        qdisc_add_clsact("veth").unwrap();
        attach_tc(&mut filters, "foreign_tc", TcAttachOptions::Netlink(NlOptions::default()));
        attach_tc(&mut filters, "foreign_tcx", second());
    });
    assert_eq!(ports.reached(), LATE, "before us");

    let mut agent = Agent::start(wish);
    assert_eq!(ports.reached(), LATE, "with us");
    attach_cgroup(&mut filters, "foreign_late", CgroupSkbAttachType::Egress, &root);
    attach_cgroup(&mut filters, "foreign_late_ingress", CgroupSkbAttachType::Ingress, &root);
    pair.client.run(|| {
        attach_tc(&mut filters, "foreign_late_tc", TcAttachOptions::Netlink(NlOptions::default()));
        attach_tc(&mut filters, "foreign_late_tcx", second());
    });
    assert_eq!(ports.reached(), NONE, "behind us");
    agent.signal("KILL");
    agent.wait();
    assert_eq!(ports.reached(), NONE, "after we were killed");

    let agent = Agent::start(wish);
    assert_eq!(ports.reached(), NONE, "before a second one of us");
    agent.stop();
    assert_eq!(ports.reached(), NONE, "after us");
    drop(filters);
    // The kernel takes a moment to detach what nobody holds any more; a filter of a qdisc stays.
    let all_but_tc: &[u16] = if has_tcx { &[7001, 7002, 7003, 7005, 7006, 7008] } else { &[7001, 7002, 7003, 7006] };
    eventually("all but the qdisc's filters are gone", || (ports.reached() == all_but_tc).then_some(()));
}
