//! A receiver that is away for a while gets everything once, whatever the temporality.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::{eventually, live, stimulus};

#[test]
fn nothing_is_lost_or_counted_twice() {
    let _kernel = live!();
    for temporality in ["cumulative", "delta"] {
        let receiver = Receiver::start();
        let endpoint = format!("interval: 1s, temporality: {temporality}");
        let otlp = Some(receiver.address());
        let agent = Agent::start(Wish { otlp, endpoint: &endpoint, ..Wish::default() });
        let cgroup = Cgroup::new("outage");
        let labels = [("cgroup.path", cgroup.path()), ("syscall", "getppid")];
        let arrived = || receiver.number("ebpf_syscall_count", &labels).unwrap_or_default();
        let until = |expected: f64| {
            eventually("the calls are received", || {
                let count = arrived();
                assert!(count <= expected, "{temporality}: {count} of {expected}");
                (count == expected).then_some(())
            });
        };
        stimulus::run(&cgroup, &["getppid=100"]);
        until(100.0);
        receiver.refuse(true);
        for _ in 0..3 {
            let before = receiver.refused();
            stimulus::run(&cgroup, &["getppid=1000"]);
            eventually("an export is refused", || (receiver.refused() > before).then_some(()));
        }
        assert_eq!(arrived(), 100.0);
        receiver.refuse(false);
        stimulus::run(&cgroup, &["getppid=11"]);
        until(3111.0);
        agent.stop();
        assert_eq!(arrived(), 3111.0, "{temporality}: the last flush repeats nothing");
    }
}
