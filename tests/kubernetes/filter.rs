//! Filters by the names of containers, and when the kernel hears of what they choose.

use super::live::{COUNT, enrich, getppids, pod_cgroup};
use super::{id, pod, run, uid};
use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, NODE};
use crate::harness::cgroup::Cgroup;
use crate::harness::{eventually, live, stimulus};
use serde_json::json;

/// What the kernel's table says of cgroups.
const ALLOW: u32 = 1;
const DENY: u32 = 2;

/// A pod of the containers `web` and `proxy`, whose ids are known.
fn two(name: &str, number: u32) -> serde_json::Value {
    let mut pod = pod(name, &uid(number));
    run(&mut pod, &id(2 * number));
    let proxy = json!({"name": "proxy", "state": {}, "containerID": format!("containerd://{}", id(2 * number + 1))});
    pod["status"]["containerStatuses"].as_array_mut().unwrap().push(proxy);
    pod
}

/// The containers that the filter names are counted from their first call on, in pods that come and go while the agent
/// runs; of the others nothing is ever shown.
#[test]
fn containers_are_chosen_by_name() {
    let _kernel = live!();
    let server = ApiServer::start();
    let enrich = enrich(&server, "");
    let agent =
        Agent::start(Wish { enrich: &enrich, node: NODE, ebpf: &["container_filter: [web]"], ..Wish::default() });
    let above = Cgroup::new("kubepods-named");
    let chosen = |scrape: &crate::harness::scrape::Scrape| {
        let others = scrape
            .all(COUNT, &[])
            .find(|sample| sample.labels.get("k8s_container_name").is_none_or(|name| name != "web"));
        assert_eq!(others, None, "only the container web is shown");
    };
    for round in 0..3 {
        let name = format!("shop-{round}");
        let cgroup = pod_cgroup(&above, &uid(round));
        // The API tells of the ids before, amid and after the calls.
        if round == 0 {
            server.put(two(&name, round));
        } else {
            server.put(pod(&name, &uid(round)));
        }
        let [web, proxy] = [0, 1].map(|at| cgroup.child(&format!("crio-{}", id(2 * round + at))));
        for container in [&web, &proxy] {
            stimulus::run(container, &["getppid=70"]);
        }
        if round == 1 {
            server.put(two(&name, round));
        }
        for container in [&web, &proxy] {
            stimulus::run(container, &["getppid=30"]);
        }
        chosen(&agent.scrape());
        if round == 2 {
            server.put(two(&name, round));
        }
        let labels = [("k8s_pod_name", name.as_str()), ("k8s_container_name", "web")];
        agent.until("all its calls are counted", |scrape| {
            chosen(scrape);
            (getppids(scrape, &labels)? == 100.0).then_some(())
        });
        // By now the kernel knows the names as well.
        eventually("the kernel has the rules", || {
            let rules = agent.rules();
            (rules.get(&web.id()) == Some(&ALLOW) && rules.get(&proxy.id()) == Some(&DENY)).then_some(())
        });
        drop((web, proxy, cgroup));
        server.delete(&name);
        chosen(&agent.scrape());
    }
    agent.stop();
}

/// What a filter says of a new pod reaches the kernel by the events of its making and of its names: no gather and no look
/// through the file system comes first, so no interval of either bounds how soon a pod is measured.
#[test]
fn events_bring_new_pods_to_the_kernel() {
    let _kernel = live!();
    let server = ApiServer::start();
    let enrich = enrich(&server, "");
    let ebpf = &["namespace_filter: [shop]", "pod_selector: app=web", "scrape_interval: 1h"];
    let agent = Agent::start(Wish { enrich: &enrich, node: NODE, ebpf, ..Wish::default() });
    let above = Cgroup::new("kubepods-events");
    eventually("the pods are listed", || {
        (agent.status()?["enrichment"]["sources"]["kubernetes"]["state"] == "running").then_some(())
    });
    let looks = || {
        let status = agent.status().unwrap();
        (status["last_gather"]["number"].as_u64().unwrap(), status["enrichment"]["walks"].as_u64().unwrap())
    };
    let (mut undisturbed, mut made) = (0, Vec::new());
    for number in 0..6 {
        let before = looks();
        let chosen = number % 2 == 0;
        let name = if chosen { format!("web-{number}") } else { format!("db-{number}") };
        // The cgroup comes before the pod's names, or after.
        if number < 3 {
            server.put(pod(&name, &uid(number)));
        }
        let cgroup = pod_cgroup(&above, &uid(number));
        let container = cgroup.child(&format!("crio-{}", id(number)));
        stimulus::run(&container, &["getppid=100"]);
        if number >= 3 {
            server.put(pod(&name, &uid(number)));
        }
        let rule = if chosen { ALLOW } else { DENY };
        eventually("the kernel has its rule", || (agent.rules().get(&container.id()) == Some(&rule)).then_some(()));
        stimulus::run(&container, &["getppid=11"]);
        // Whatever else runs here may let the agent look through the file system now and then.
        undisturbed += usize::from(looks() == before);
        made.push((chosen, name, container, cgroup));
    }
    assert!(undisturbed > 0, "each pod waited for a gather or a walk");
    agent.until("all calls of the chosen are counted", |scrape| {
        let of = |name: &str| getppids(scrape, &[("k8s_pod_name", name)]);
        assert!(made.iter().all(|(chosen, name, ..)| *chosen || of(name).is_none()), "a pod that is left out is shown");
        made.iter().all(|(chosen, name, ..)| !chosen || of(name) == Some(111.0)).then_some(())
    });
    agent.stop();
}
