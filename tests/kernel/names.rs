//! Workloads get the names of their containers.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::{live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const ID: &str = "7d1b3f5a9c8e2640b7d1f3a5c9e82640a1b2c3d4e5f60718293a4b5c6d7e8f90";
const POD: &str = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";

/// The cgroup is gone before the agent is asked for the first time, and its tasks ran in one below it as well.
#[test]
fn a_brief_container_keeps_its_names() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let above = Cgroup::new("names");
    let kubepods = above.child("kubepods");
    let pod = kubepods.child(&format!("pod{POD}"));
    let container = pod.child(&format!("crio-{ID}"));
    let below = container.child("init.scope");
    stimulus::run(&container, &["getppid=30"]);
    stimulus::run(&below, &["getppid=12"]);
    drop((below, container, pod, kubepods, above));
    let labels = [("container_id", ID), ("k8s_pod_uid", POD), ("syscall", "getppid")];
    let sample = agent.until("the container is seen", |scrape| {
        let sample = scrape.all(COUNT, &labels).next()?.clone();
        assert!(sample.value <= 42.0, "{sample:?}");
        (sample.value == 42.0).then_some(sample)
    });
    assert_eq!(sample.labels.get("container_runtime_name").map(String::as_str), Some("cri-o"));
    assert!(!sample.labels.contains_key("cgroup_path"), "{sample:?}");
    agent.stop();
}
