//! What happens when a kernel map is full, and that nobody takes more memory than was said.

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

/// Maps of one value for each CPU and the like.
const SMALL: u64 = 16 * 1024;

#[test]
fn the_plan_knows_every_map() {
    let _kernel = live!();
    let agent = Agent::start(Wish { all: true, events: "stdout: true", ..Wish::default() });
    let status = agent.status().unwrap();
    let cpus = aya::util::nr_cpus().unwrap();
    for descriptor in collectors::ALL {
        let plan = (descriptor.plan)(&(descriptor.section.defaults)(), cpus);
        let collector = status["integrations"].as_array().unwrap().iter().find(|one| one["name"] == descriptor.name);
        let maps = collector.unwrap()["maps"].as_array().unwrap();
        // What asks a network peer needs none.
        assert!(!maps.is_empty() || plan.maps.is_empty(), "{} runs", descriptor.name);
        for map in maps {
            let (name, bytes) = (map["name"].as_str().unwrap(), map["bytes"].as_u64().unwrap());
            let planned = plan.maps.iter().find(|(map, _)| *map == name).map(|&(_, bytes)| bytes);
            let said = planned.unwrap_or_default() + SMALL >= bytes;
            assert!(said, "{}: {name} takes {bytes} bytes, not {planned:?}", descriptor.name);
        }
        for (name, _) in plan.maps {
            assert!(maps.iter().any(|map| map["name"] == name), "{} has no map {name}", descriptor.name);
        }
    }
    agent.stop();
}
