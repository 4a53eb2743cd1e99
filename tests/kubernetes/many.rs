//! Ten thousand pods on the watch: what is measured meanwhile is exact, and no gather waits for the API server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use super::live::{SET, enrich, getppids, pod_cgroup};
use super::{id, owned, run, uid};
use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, NODE};
use crate::harness::cgroup::Cgroup;
use crate::harness::{live, stimulus};

const PODS: u32 = 10_000;

#[test]
fn ten_thousand_pods_do_not_disturb_a_gather() {
    let _kernel = live!();
    let server = ApiServer::start();
    for number in 0..PODS {
        let mut pod = owned(&format!("web-{number}"), &uid(number), SET);
        run(&mut pod, &id(number));
        server.put(pod);
    }
    let enrich = enrich(&server, "");
    let agent = Agent::start(Wish { enrich: &enrich, node: NODE, ..Wish::default() });
    let pods = || agent.status().unwrap()["enrichment"]["pods"].as_u64().unwrap();
    agent.until("all pods are known", |_| (pods() == u64::from(PODS)).then_some(()));
    let above = Cgroup::new("kubepods-many");
    let pod = pod_cgroup(&above, &uid(7));
    let container = pod.child(&format!("crio-{}", id(7)));
    let labels = [("k8s_pod_name", "web-7"), ("k8s_container_name", "web"), ("k8s_statefulset_name", "web")];
    let mut calls = 0;
    let mut work = |agent: &Agent| {
        calls += 100;
        stimulus::run(&container, &["getppid=100"]);
        agent.until("all calls are counted", |scrape| {
            let found = getppids(scrape, &labels).unwrap_or_default();
            assert!(found <= f64::from(calls), "{found} of {calls}");
            (found == f64::from(calls)).then_some(())
        });
    };

    // Pods change, restart and go, one after the other, as fast as they can.
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..PODS).filter(|number| *number != 7).take_while(|_| !stop.load(Ordering::Relaxed)) {
                let name = format!("web-{number}");
                match number % 3 {
                    0 => server.change(&name, |pod| pod["status"]["phase"] = json!("Running")),
                    1 => server.change(&name, |pod| run(pod, &id(PODS + number))),
                    _ => server.delete(&name),
                }
                changes.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..10 {
            work(&agent);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(changes.load(Ordering::Relaxed) > 0);

    // The watch stops in the middle of an object: nobody waits for the rest of it.
    server.hold(true);
    server.put(owned("late", &uid(PODS), SET));
    let number = |agent: &Agent| agent.status().unwrap()["last_gather"]["number"].as_u64().unwrap();
    let before = number(&agent);
    for _ in 0..10 {
        work(&agent);
    }
    assert!(number(&agent) >= before + 10, "a gather for each scrape");
    let late = pod_cgroup(&above, &uid(PODS));
    stimulus::run(&late, &["getppid=5"]);
    server.hold(false);
    let late = [("k8s_pod_name", "late"), ("k8s_statefulset_name", "web")];
    agent.until("what waited has its names", |scrape| (getppids(scrape, &late)? == 5.0).then_some(()));
    work(&agent);
    agent.stop();
}
