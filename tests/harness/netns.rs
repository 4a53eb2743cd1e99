//! Network namespaces that a test makes: two, joined by veth, with addresses of both families.
//!
//! A namespace lives as long as something holds it, so nothing is left behind after a panic or a kill. What happens in
//! [`Netns::run`], child processes included, happens in it.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with its loopback interface up.
pub struct Netns(File);

/// What an interface has carried, link headers included; a packet of many segments counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
}

impl Counters {
    /// Gives what was carried since an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            rx_packets: self.rx_packets - earlier.rx_packets,
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
        }
    }
}

impl Netns {
    /// Makes a namespace.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("telesonde-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let file = File::open(Path::new("/run/netns").join(&name));
        // The open file keeps the namespace, not the name.
        ip(&["netns", "del", &name]);
        let netns = Self(file.unwrap());
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// Gives the namespace that the tests themselves are in: the host's.
    pub fn own() -> Self {
        Self(File::open("/proc/self/ns/net").unwrap())
    }

    /// Runs something inside, on a thread of its own; a child process that it starts is born inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &[&str]) {
        self.run(|| ip(arguments));
    }

    /// Writes a file below `/proc/sys/net` of this namespace.
    pub fn set(&self, name: &str, value: &str) {
        self.run(|| fs::write(Path::new("/proc/sys/net").join(name), value))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Reads an interface's counters.
    pub fn counters(&self, interface: &str) -> Counters {
        let text = self.read("dev");
        let line = text.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        let fields: Vec<u64> =
            line.unwrap_or_default().split_whitespace().filter_map(|field| field.parse().ok()).collect();
        assert_eq!(fields.len(), 16, "{interface}: {text}");
        Counters { rx_bytes: fields[0], rx_packets: fields[1], tx_bytes: fields[8], tx_packets: fields[9] }
    }

    /// Reads an interface's counters once nothing of its own crosses it any more, such as an announced address.
    pub fn quiet(&self, interface: &str) -> Counters {
        super::eventually("the interface is quiet", || {
            let before = self.counters(interface);
            std::thread::sleep(Duration::from_millis(300));
            Some(self.counters(interface)).filter(|after| *after == before)
        })
    }

    /// Reads a counter of `/proc/net/snmp` or `/proc/net/netstat`, such as `Tcp` `RetransSegs`.
    pub fn snmp(&self, group: &str, name: &str) -> u64 {
        for file in ["snmp", "netstat"] {
            let text = self.read(file);
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
            let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            if let Some((_, value)) = names.split(' ').zip(values.split(' ')).find(|(found, _)| *found == name) {
                return value.parse().unwrap();
            }
        }
        panic!("no counter {group} {name}");
    }

    /// Reads a counter of `/proc/net/snmp6`, such as `Ip6OutOctets`; 0 where it is absent.
    pub fn snmp6(&self, name: &str) -> u64 {
        let text = self.read("snmp6");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0)
    }

    /// The kernel takes up to a second to act on a new link; then it announces addresses.
    pub fn wait_for_link(&self, interface: &str) {
        super::eventually("the link is up", || {
            let output = self.run(|| Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap());
            String::from_utf8_lossy(&output.stdout).contains(" state UP ").then_some(())
        });
    }

    /// Reads a file below `/proc/net` of this namespace.
    pub fn read(&self, file: &str) -> String {
        self.run(|| fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap())
    }

    /// Gives a path that names the namespace while it lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Two namespaces joined by a veth pair; the interface is `veth` in both. Neighbours are fixed and nothing is
/// advertised, so what crosses the link is what the test sends.
pub struct Pair {
    pub client: Netns,
    pub server: Netns,
}

impl Pair {
    pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1));
    pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
    pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
    pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));

    /// Makes both.
    pub fn new() -> Self {
        let pair = Self { client: Netns::new(), server: Netns::new() };
        pair.join("veth", "10.99.0", "fd00:");
        pair
    }

    /// Joins both by a veth pair, whose ends have the same name and the addresses 1 (the client's) and 2 of two networks.
    pub fn join(&self, interface: &str, v4: &str, v6: &str) {
        let peer = self.server.path();
        self.client.ip(&["link", "add", interface, "type", "veth", "peer", "name", interface, "netns", &peer]);
        self.set_up(interface, v4, v6);
        for netns in [&self.client, &self.server] {
            netns.wait_for_link(interface);
        }
    }

    /// Gives an interface that both have their addresses, and tells each who its neighbour is.
    pub fn set_up(&self, interface: &str, v4: &str, v6: &str) {
        const MACS: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];
        for (end, netns) in [&self.client, &self.server].into_iter().enumerate() {
            let (own, other) = (end + 1, 2 - end);
            netns.ip(&["link", "set", interface, "address", MACS[end], "addrgenmode", "none"]);
            for (name, value) in [("accept_ra", "0"), ("router_solicitations", "0"), ("accept_dad", "0")] {
                netns.set(&format!("ipv6/conf/{interface}/{name}"), value);
            }
            // Multicast groups are announced within milliseconds, not seconds.
            netns.set(&format!("ipv6/conf/{interface}/mldv2_unsolicited_report_interval"), "1");
            netns.ip(&["address", "add", &format!("{v4}.{own}/24"), "dev", interface]);
            netns.ip(&["address", "add", &format!("{v6}:{own}/64"), "dev", interface, "nodad"]);
            netns.ip(&["link", "set", interface, "up"]);
            for peer in [format!("{v4}.{other}"), format!("{v6}:{other}")] {
                netns.ip(&["neighbour", "add", &peer, "lladdr", MACS[1 - end], "dev", interface, "nud", "permanent"]);
            }
        }
    }
}

impl Pair {
    /// Gives by how much the client's interface counts a packet longer than IP has it, sent and received: the link
    /// header, which veth leaves out where it receives like a network card.
    pub fn link_header(&self) -> (u64, u64) {
        const IP_UDP: u64 = 28;
        let bind = |netns: &Netns, address: IpAddr| netns.run(|| UdpSocket::bind((address, 7)).unwrap());
        let (client, server) = (bind(&self.client, Self::CLIENT_V4), bind(&self.server, Self::SERVER_V4));
        let before = self.client.quiet("veth");
        client.send_to(&[], (Self::SERVER_V4, 7)).unwrap();
        server.send_to(&[], (Self::CLIENT_V4, 7)).unwrap();
        client.recv_from(&mut []).unwrap();
        server.recv_from(&mut []).unwrap();
        let link = self.client.quiet("veth").since(&before);
        assert_eq!((link.tx_packets, link.rx_packets), (1, 1));
        (link.tx_bytes - IP_UDP, link.rx_bytes - IP_UDP)
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}

#[test]
fn datagrams_cross_between_namespaces() {
    let _kernel = super::live!();
    let pair = Pair::new();
    for (client, server) in [(Pair::CLIENT_V4, Pair::SERVER_V4), (Pair::CLIENT_V6, Pair::SERVER_V6)] {
        let receiver = pair.server.run(|| UdpSocket::bind((server, 7000)).unwrap());
        let sender = pair.client.run(|| UdpSocket::bind((client, 0)).unwrap());
        let before = pair.server.counters("veth");
        sender.send_to(b"hello", (server, 7000)).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receiver.recv_from(&mut buffer).unwrap(), (5, sender.local_addr().unwrap()));
        let after = pair.server.counters("veth");
        assert!(after.rx_packets > before.rx_packets);
        let child =
            pair.client.run(|| Command::new("ip").args(["route", "get", &server.to_string()]).output().unwrap());
        assert!(child.status.success(), "a child process is born inside");
    }
    assert_eq!(pair.client.snmp("Udp", "OutDatagrams"), 1);
    assert_eq!(pair.client.snmp6("Udp6OutDatagrams"), 1);
}
