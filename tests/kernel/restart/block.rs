//! What disks did goes on, under whoever it was charged to, also where that is told by a hierarchy of its own.

use super::{kill, outcome, since};
use crate::harness::agent::{Agent, Wish};
use crate::harness::bpffs::BpfFs;
use crate::harness::cgroup::{Cgroup, io};
use crate::harness::disk::{self, Loop};
use crate::harness::otlp::Receiver;
use crate::harness::{live, skipped, stimulus};

const BYTES: &str = "ebpf_block_io_bytes_total";
const TIMED: &str = "ebpf_block_io_latency_ns_count";

/// A workload with its cgroup of the I/O controller.
struct Charged(Cgroup, Option<Cgroup>);

impl Charged {
    fn new(name: &str) -> Self {
        let cgroup = Cgroup::new(name);
        let twin = cgroup.twin(&io().unwrap());
        Self(cgroup, twin)
    }

    fn write(&self, device: &Loop, blocks: u32) {
        let cgroups: Vec<_> = [Some(&self.0), self.1.as_ref()].into_iter().flatten().map(Cgroup::directory).collect();
        stimulus::files(device.path(), &format!("write_direct={blocks}"), &cgroups);
    }
}

#[test]
fn what_disks_did_goes_on() {
    let _kernel = live!();
    if let Err(reason) = disk::permitted().and_then(|()| io().map(drop)) {
        skipped(&reason);
        return;
    }
    assert!((0..5).any(|_| round()));
}

/// Has disks write over a restart; says whether all was seen: the kernel shows nobody what completes while it interrupts
/// certain tasks.
fn round() -> bool {
    let (bpffs, receiver, device) = (BpfFs::mount(), Receiver::start(), Loop::new(8 << 20));
    let key = bpffs.key();
    let ebpf = [key.as_str()];
    let collectors = ["block: {enabled: require}"];
    let otlp = Some(receiver.address());
    let wish = Wish { alone: true, ebpf: &ebpf, collectors: &collectors, otlp, ..Wish::default() };
    let [stays, busy, ends, comes] = ["stays", "busy", "ends", "comes"].map(Charged::new);
    let until_written = |agent: &Agent, path: &str, blocks: f64| {
        let found = agent.at_rest(
            "all that was written is counted",
            |scrape| {
                let of = [("cgroup_path", path), ("system_device", device.name()), ("disk_io_direction", "write")];
                (scrape.value(BYTES, &of).unwrap_or_default() / 4096.0, scrape.value(TIMED, &of).unwrap_or_default())
            },
            |found| *found == (blocks, blocks),
        );
        let near = |found: f64| found <= blocks && found >= (blocks * 0.99).floor() - 1.0;
        assert!(near(found.0) && near(found.1), "{path}: {found:?} of {blocks}");
        found == (blocks, blocks)
    };

    let first = Agent::start(wish);
    assert_eq!(outcome(&first, "block").as_deref(), Some("absent"));
    stays.write(&device, 100);
    ends.write(&device, 50);
    let dead = ends.0.path().to_owned();
    let mut exact = until_written(&first, &dead, 50.0);
    drop(ends);
    let of = [("cgroup.path", stays.0.path()), ("system.device", device.name())];
    let began = since(&receiver, "ebpf_block_io_latency_ns", &of, 98);
    let second = std::thread::scope(|scope| {
        let writing = scope.spawn(|| (0..5).for_each(|_| busy.write(&device, 2_000)));
        let of = [("cgroup_path", busy.0.path())];
        first.until("it writes", |scrape| Some(scrape.sum(BYTES, &of)).filter(|bytes| *bytes > 0.0));
        kill(first);
        // Nobody is there but the kernel.
        stays.write(&device, 70);
        comes.write(&device, 30);
        // Another program than before, with the same maps: it is measured.
        let second = Agent::start(Wish { env: &[("TELESONDE_BUDGET__CPU_PERCENT", "1000")], ..wish });
        writing.join().unwrap();
        second
    });
    assert_eq!(outcome(&second, "block").as_deref(), Some("adopted"), "{}", second.log());
    for (path, blocks) in [(stays.0.path(), 170.0), (&*dead, 50.0), (comes.0.path(), 30.0), (busy.0.path(), 1e4)] {
        exact &= until_written(&second, path, blocks);
    }
    assert_eq!(since(&receiver, "ebpf_block_io_latency_ns", &of, 168), began, "start times");
    second.stop();
    // Maps of other sizes cannot go on.
    let larger = Agent::start(Wish { collectors: &["block: {enabled: require, max_transfers: 2000}"], ..wish });
    assert_eq!(outcome(&larger, "block").as_deref(), Some("refused"));
    assert!(larger.log().contains("begins afresh"), "{}", larger.log());
    stays.write(&device, 3);
    exact &= until_written(&larger, stays.0.path(), 3.0);
    larger.stop();
    exact
}
