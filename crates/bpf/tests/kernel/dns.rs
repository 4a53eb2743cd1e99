//! The programs of the dns collector load and count on this kernel.

use std::net::UdpSocket;

use bpf::Loader;
use bpf::abi::dns::{Asked, Named, Pending, QUERY, RESPONSE, ROLE_CLIENT, ROLE_SERVER, TYPE_OTHER, Tally};
use bpf::abi::filter::COMM_EXCLUDE;
use bpf::abi::histogram::HistShape;

use crate::bench::{facts, is_locked, ready};
use crate::network::own_cgroup;

pub const SHAPE: HistShape = HistShape::new(2, 12, 34);
/// An address of this host where no resolver listens.
const SERVER: (&str, u16) = ("127.53.53.53", 53);

#[test]
fn queries_and_answers_are_counted_under_their_client() {
    const ANSWERED: u16 = 100;
    const ALL: u16 = 150;
    const A: u32 = 1;
    let Some(types) = ready() else { return };
    let root = facts().cgroups.open_root().expect("the version 2 hierarchy");
    let builds: &[&str] = if facts().is_legacy() { &["dns_legacy"] } else { &["dns", "dns_perf", "dns_legacy"] };
    // The legacy build reads the current task.
    let choices = builds.iter().flat_map(|build| [(build, 0_u32), (build, 1)]);
    for (&name, by_name) in choices.filter(|(name, _)| !(is_locked() && name.ends_with("_legacy"))) {
        let loader = Loader::new(name)
            .constant("hierarchy", &(facts().cgroups.primary as u32))
            .constant("known_types", &[1_u64 << A, 0, 0, 0, 0])
            // Every rule is compiled in, and none applies to us.
            .constant("own_tgid", &1_u32)
            .constant("comm_filter", &COMM_EXCLUDE)
            .constant("window", &u64::MAX)
            // All that there is by choice, too.
            .constant("names", &by_name)
            .constant("servers", &1_u32)
            .constant("reports", &1_u32)
            .histogram("dns_latency", SHAPE);
        let mut object = loader.load(&types).expect("the object loads");
        for program in ["dns_bind4", "dns_bind6", "dns_ingress", "dns_egress"] {
            object.attach_cgroup(program, &root, &types).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let server = UdpSocket::bind(SERVER).expect("bound");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bound");
        for id in 0..ALL {
            let kind = if id % 2 == 0 { A as u8 } else { 77 };
            let question = [0, 0, kind, 0, 1];
            let query = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &question].concat();
            client.send_to(&query, SERVER).expect("sent");
            let mut message = [0; 64];
            let (size, from) = server.recv_from(&mut message).expect("received");
            if id < ANSWERED {
                message[2] |= 0x80;
                message[3] = 3;
                server.send_to(&message[..size], from).expect("sent");
                client.recv(&mut message).expect("received");
            }
        }
        let cgroup = own_cgroup();
        let count = |map: &str, code, role, what| {
            let key = Tally { cgroup, code, role, what };
            let cells = if by_name == 1 {
                // The root.
                let table = object.table::<Named, u64>("dns_names").expect("a table");
                table.get(&Named { tally: key, name: [0; 256] }).expect("readable")
            } else {
                object.table::<Tally, u64>(map).expect("a table").get(&key).expect("readable")
            };
            cells.unwrap_or_default().iter().sum::<u64>()
        };
        for role in [ROLE_CLIENT, ROLE_SERVER] {
            assert_eq!(count("dns_queries", A, role, QUERY), u64::from(ALL / 2), "{name}");
            assert_eq!(count("dns_queries", TYPE_OTHER, role, QUERY), u64::from(ALL / 2), "{name}");
            assert_eq!(count("dns_responses", 3, role, RESPONSE), u64::from(ANSWERED), "{name}");
        }
        let pending = object.hash::<Asked, Pending>("dns_pending").expect("a table").entries().expect("readable");
        let ours = pending.iter().filter(|(_, query)| query.cgroup == cgroup).count();
        assert_eq!(ours, 2 * usize::from(ALL - ANSWERED), "{name}");
    }
}
