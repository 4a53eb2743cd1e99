//! What happens when a kernel map is full.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::{live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";

#[test]
fn what_does_not_fit_is_in_the_overflow_series() {
    let _kernel = live!();
    let agent = Agent::start(Wish { syscalls: "syscalls: [sched_rr_get_interval], max_calls: 8", ..Wish::default() });
    let above = Cgroup::new("full");
    let cgroups: Vec<_> = (0..40).map(|number| above.child(&number.to_string())).collect();
    for cgroup in &cgroups {
        stimulus::run(cgroup, &["sched_rr_get_interval=25"]);
    }
    let scrape = agent.until("all calls are counted", |scrape| {
        let sum = scrape.sum(COUNT, &[]);
        assert!(sum <= 1000.0, "{sum} of 1000 calls");
        (sum == 1000.0).then(|| scrape.clone())
    });
    let overflow = scrape.value(COUNT, &[("otel_metric_overflow", "true")]).unwrap_or_default();
    let whole = |cgroup: &&Cgroup| scrape.value(COUNT, &[("cgroup_path", cgroup.path())]) == Some(25.0);
    let known = cgroups.iter().filter(whole).count();
    assert_eq!(overflow + 25.0 * known as f64, 1000.0, "a cgroup is counted apart or not at all");
    assert!(0 < known && known <= 8, "{known} of 8 entries");
    assert!(scrape.sum("telesonde_bpf_map_overflow_total", &[]) > 0.0, "a full map is never silent");
    agent.stop();
}
