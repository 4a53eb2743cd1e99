//! The agent's series of real cgroups, whose pods an API server tells of early, late or never.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{id, owned, pod, restart, run, uid};
use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, Mood, NODE};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;
use crate::harness::{directory, eventually, live, stimulus};

pub(super) const COUNT: &str = "ebpf_syscall_count_total";
pub(super) const SET: (&str, &str, &str) = ("apps/v1", "StatefulSet", "web");

/// Starts an agent that asks an API server, with further keys of `integrations.ebpf`.
fn agent(server: &ApiServer, ebpf: &[&str]) -> Agent {
    let enrich = enrich(server, "");
    Agent::start(Wish { enrich: &enrich, node: NODE, ebpf, ..Wish::default() })
}

/// Gives the section of an agent that asks an API server, with further keys of `enrich.kubernetes`.
pub(super) fn enrich(server: &ApiServer, more: &str) -> String {
    let kubeconfig = server.kubeconfig(&directory("kubeconfig"));
    format!("kubernetes: {{kubeconfig: \"{}\"{more}}}", kubeconfig.display())
}

/// The directory of a pod's cgroups, as the kubelet names it.
pub(super) fn pod_cgroup(above: &Cgroup, uid: &str) -> Cgroup {
    above.child(&format!("pod{uid}"))
}

pub(super) fn getppids(scrape: &Scrape, labels: &[(&str, &str)]) -> Option<f64> {
    scrape.value(COUNT, &[labels, &[("syscall", "getppid")]].concat())
}

fn web(pod: &str) -> [(&str, &str); 4] {
    [
        ("k8s_namespace_name", "shop"),
        ("k8s_pod_name", pod),
        ("k8s_container_name", "web"),
        ("k8s_statefulset_name", "web"),
    ]
}

/// Fails when two lines of an exposition are of one series, or a counter has fallen since the last look.
fn look(page: &str, before: &mut BTreeMap<String, f64>) {
    let mut now = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(now.insert(series.to_owned(), value.parse::<f64>().unwrap()).is_none(), "twice: {series}");
    }
    for (series, value) in &now {
        let name = series.split('{').next().unwrap();
        let least = before.get(series).copied().filter(|_| name.ends_with("_total")).unwrap_or(f64::MIN);
        assert!(*value >= least, "{series} fell from {least} to {value}");
    }
    *before = now;
}

/// A container restarts twenty times and its pod is recreated twice: one series, whatever their ids are.
#[test]
fn restarted_and_recreated_workloads_are_one_series() {
    let _kernel = live!();
    let (server, receiver) = (ApiServer::start(), Receiver::start());
    let enrich = enrich(&server, "");
    let otlp = Some(receiver.address());
    let agent = Agent::start(Wish { enrich: &enrich, node: NODE, otlp, ..Wish::default() });
    let above = Cgroup::new("kubepods");
    let (mut calls, mut number, mut seen) = (0.0, 0_u32, BTreeMap::new());
    for life in 0..3 {
        let uid = uid(100 + life);
        server.put(owned("web-0", &uid, SET));
        let pod = pod_cgroup(&above, &uid);
        for _ in 0..=20 {
            number += 1;
            let container = pod.child(&format!("crio-{}", id(number)));
            let count = 10 * number;
            // The first calls come before anybody knows the container, the rest after.
            stimulus::run(&container, &[&format!("getppid={count}")]);
            server.change("web-0", |pod| run(pod, &id(number)));
            stimulus::run(&container, &[&format!("getppid={count}")]);
            drop(container);
            server.change("web-0", |pod| restart(pod, &id(number), None));
            calls += f64::from(2 * count);
            look(&agent.page(), &mut seen);
        }
        drop(pod);
        server.delete("web-0");
    }
    agent.until("all calls are counted", |scrape| {
        let total = getppids(scrape, &web("web-0")).unwrap_or_default();
        assert!(total <= calls, "{total} of {calls} calls");
        (total == calls).then_some(())
    });
    look(&agent.page(), &mut seen);
    let pushed = [web("web-0").as_slice(), &[("syscall", "getppid")]].concat();
    let pushed: Vec<(String, &str)> =
        pushed.iter().map(|(key, value)| (key.replace("k8s_", "k8s.").replace("_name", ".name"), *value)).collect();
    let pushed: Vec<(&str, &str)> = pushed.iter().map(|(key, value)| (key.as_str(), *value)).collect();
    eventually("OTLP has them all", || (receiver.number("ebpf_syscall_count", &pushed)? == calls).then_some(()));
    assert_eq!(receiver.faults(), Vec::<String>::new());
    let scrape = agent.scrape();
    let sum = |key: &str, value: &str| scrape.sum(COUNT, &[(key, value), ("syscall", "getppid")]);
    let elsewhere = (1..=number).map(|number| sum("container_id", &id(number))).sum::<f64>()
        + (100..103).map(|number| sum("k8s_pod_uid", &uid(number))).sum::<f64>();
    assert_eq!(elsewhere, 0.0, "nothing went elsewhere");
    agent.stop();
}

/// The status of a container that has ended, told as that of its last run or of the run before a next one.
fn ended(name: &str, id: &str, before: bool) -> Value {
    let id = format!("containerd://{id}");
    let ended = json!({"terminated": {"exitCode": 0, "containerID": id}});
    if before {
        json!({"name": name, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended})
    } else {
        json!({"name": name, "containerID": id, "state": ended, "lastState": {}})
    }
}

/// Each container lives 50 ms; its id is told 0 to 3 s after its end, of one in five only as the end of an earlier
/// run, of one in twenty never.
#[test]
fn brief_containers_get_the_names_that_are_told_after_their_end() {
    const CONTAINERS: u32 = 500;
    const PODS: u32 = 50;
    let _kernel = live!();
    let server = ApiServer::start();
    let agent = agent(&server, &[]);
    let above = Cgroup::new("kubepods-brief");
    let pods: Vec<Cgroup> = (0..PODS)
        .map(|number| {
            let name = format!("web-{number}");
            let mut pod = owned(&name, &uid(number), SET);
            // Ten containers each: every one has a name of its own.
            pod["status"]["containerStatuses"] = json!([]);
            server.put(pod);
            pod_cgroup(&above, &uid(number))
        })
        .collect();
    // As containerd does: the sandbox comes first, and nobody publishes it.
    let sandboxes: Vec<Cgroup> = pods
        .iter()
        .zip(0..)
        .map(|(pod, number)| pod.child(&format!("cri-containerd-{}.scope", id(9000 + number))))
        .collect();
    for sandbox in &sandboxes {
        stimulus::run(sandbox, &["getppid=1"]);
    }
    let mut random = 42_u64;
    let mut next = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    let mut due: Vec<(Instant, u32, u64)> = Vec::new();
    let mut told = vec![false; CONTAINERS as usize];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut seen = BTreeMap::new();
            while !stop.load(Ordering::Relaxed) {
                look(&agent.page(), &mut seen);
            }
        });
        let tell = |due: &mut Vec<(Instant, u32, u64)>, now: Instant| {
            due.retain(|&(when, number, how)| {
                if when > now {
                    return true;
                }
                let status = ended(&format!("c{}", number / PODS), &id(number), how < 4);
                server.change(&format!("web-{}", number % PODS), |pod| {
                    pod["status"]["containerStatuses"].as_array_mut().unwrap().push(status);
                });
                false
            });
        };
        for number in 0..CONTAINERS {
            let container = pods[(number % PODS) as usize].child(&format!("cri-containerd-{}.scope", id(number)));
            let begun = Instant::now();
            stimulus::run(&container, &["getppid=20"]);
            std::thread::sleep(Duration::from_millis(50).saturating_sub(begun.elapsed()));
            drop(container);
            // Of twenty: one never, four only as the end of an earlier run.
            let how = next(20);
            if how < 19 {
                told[number as usize] = true;
                due.push((Instant::now() + Duration::from_millis(next(3000)), number, how));
            }
            tell(&mut due, Instant::now());
        }
        while !due.is_empty() {
            std::thread::sleep(Duration::from_millis(20));
            tell(&mut due, Instant::now());
        }
        let published = told.iter().filter(|told| **told).count() as f64;
        let all = f64::from(CONTAINERS);
        let scrape = agent.until("every container has its names, or none for good", |scrape| {
            let in_pods = scrape.sum(COUNT, &[("k8s_namespace_name", "shop"), ("syscall", "getppid")]);
            (in_pods == 20.0 * all + f64::from(PODS)).then(|| scrape.clone())
        });
        stop.store(true, Ordering::Relaxed);
        let named = |number: &u32| {
            let (pod, name) = (format!("web-{}", number % PODS), format!("c{}", number / PODS));
            let labels = [("k8s_pod_name", &*pod), ("k8s_container_name", &*name), ("k8s_statefulset_name", "web")];
            getppids(&scrape, &labels) == Some(20.0)
        };
        let right = (0..CONTAINERS).filter(named).count() as f64;
        println!("{right} of {published} published containers have their names, of {all}");
        assert!(right >= 0.99 * published, "{right} of {published}");
        // What is known of a pod alone: its sandbox, and what was never published.
        let nameless: f64 = scrape
            .all(COUNT, &[("syscall", "getppid"), ("k8s_namespace_name", "shop")])
            .filter(|sample| !sample.labels.contains_key("k8s_container_name"))
            .map(|sample| sample.value)
            .sum();
        assert_eq!(nameless, f64::from(PODS) + 20.0 * (all - right));
        if right < all {
            let misses = scrape.sum("telesonde_enrichment_misses_total", &[("reason", "container_unknown")]);
            assert!(misses >= all - right, "{misses} misses");
        }
        let podless =
            (0..PODS).map(|number| scrape.sum(COUNT, &[("k8s_pod_uid", &uid(number)), ("syscall", "getppid")]));
        assert_eq!(podless.sum::<f64>(), 0.0, "every call has the names of its pod");
    });
    agent.stop();
}

/// Static, init, ephemeral and nested containers have the names of what they belong to.
#[test]
fn containers_of_every_sort_are_named() {
    let _kernel = live!();
    let server = ApiServer::start();
    let hash = "c1a5d4b2e8f70391aa44bb55cc66dd77";
    let mut mirror = owned("etcd", &uid(1), ("v1", "Node", NODE));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": hash});
    mirror["spec"]["hostNetwork"] = json!(true);
    run(&mut mirror, &id(1));
    server.put(mirror);
    let mut app = owned("app", &uid(2), ("apps/v1", "ReplicaSet", "app-5d9c7b8f4"));
    app["metadata"]["labels"] = json!({"pod-template-hash": "5d9c7b8f4"});
    run(&mut app, &id(2));
    for (list, name, number) in [("initContainerStatuses", "setup", 3), ("ephemeralContainerStatuses", "debug", 4)] {
        app["status"][list] = json!([{"name": name, "containerID": format!("cri-o://{}", id(number)), "state": {}}]);
    }
    server.put(app);
    let agent = agent(&server, &[]);
    let above = Cgroup::new("kubepods-sorts");
    let (mirror, app) = (pod_cgroup(&above, hash), pod_cgroup(&above, &uid(2)));
    let containers = [(&mirror, 1), (&app, 2), (&app, 3), (&app, 4)];
    let containers = containers.map(|(pod, number)| pod.child(&format!("crio-{}", id(number))));
    let docker = containers[1].child("docker");
    let nested = docker.child(&id(77));
    for (cgroup, calls) in containers.iter().chain([&nested]).zip([10, 20, 30, 40, 50]) {
        stimulus::run(cgroup, &[&format!("getppid={calls}")]);
    }
    for (pod, name, calls) in
        [("etcd", "web", 10.0), ("app", "web", 70.0), ("app", "setup", 30.0), ("app", "debug", 40.0)]
    {
        let labels = [("k8s_pod_name", pod), ("k8s_container_name", name)];
        let sample = agent.until(name, |scrape| {
            (getppids(scrape, &labels)? == calls)
                .then(|| scrape.all(COUNT, &[labels[0], labels[1], ("syscall", "getppid")]).next().cloned())?
        });
        let owner = sample.labels.get("k8s_deployment_name").map(String::as_str);
        assert_eq!(owner, (pod == "app").then_some("app"), "{sample:?}");
    }
    agent.stop();
}

/// Without an API server names fall back at once; what comes later goes to the pod's own series, and nothing is lost.
#[test]
fn names_come_back_with_the_api_server() {
    let _kernel = live!();
    let server = ApiServer::start();
    server.be(Some(Mood::Closed));
    let mut web0 = owned("web-0", &uid(1), SET);
    run(&mut web0, &id(1));
    server.put(web0);
    let agent = agent(&server, &[]);
    let source = |agent: &Agent| agent.status().unwrap()["enrichment"]["sources"]["kubernetes"].clone();
    agent.until("the agent says so", |_| (source(&agent)["state"] == "degraded").then_some(()));
    assert!(source(&agent)["why"].as_str().unwrap().contains("cannot list pods"), "{}", source(&agent));
    let above = Cgroup::new("kubepods-outage");
    let pod = pod_cgroup(&above, &uid(1));
    let container = pod.child(&format!("crio-{}", id(1)));
    stimulus::run(&container, &["getppid=30"]);
    let fallback = [("k8s_pod_uid", &*uid(1)), ("container_id", &*id(1))];
    agent.until("the ids stand in", |scrape| (getppids(scrape, &fallback)? == 30.0).then_some(()));
    server.be(None);
    agent.until("it is back", |_| (source(&agent)["state"] == "running").then_some(()));
    stimulus::run(&container, &["getppid=12"]);
    agent.until("the rest has the names", |scrape| (getppids(scrape, &web("web-0"))? == 12.0).then_some(()));
    assert_eq!(getppids(&agent.scrape(), &fallback), Some(30.0), "what has been told stays");
    agent.stop();
}

/// The kernel is told which pods to observe before they start, and whenever their labels change.
#[test]
fn pods_are_chosen_by_namespace_and_label() {
    let _kernel = live!();
    let server = ApiServer::start();
    let filters = ["namespace_filter: [shop]", "pod_selector: app in (web)"];
    let agent = agent(&server, &filters);
    let above = Cgroup::new("kubepods-filter");
    let mut cgroups = Vec::new();
    for (number, name, namespace) in [(1, "web-0", "shop"), (2, "db-0", "shop"), (3, "web-1", "bank")] {
        let mut pod = pod(name, &uid(number));
        pod["metadata"]["namespace"] = json!(namespace);
        server.put(pod);
        server.change(name, |pod| run(pod, &id(number)));
        let pod = pod_cgroup(&above, &uid(number));
        let container = pod.child(&format!("crio-{}", id(number)));
        stimulus::run(&container, &["getppid=100"]);
        cgroups.push((container, pod));
    }
    stimulus::run(&above, &["getppid=100"]);
    let mine = [("k8s_pod_name", "web-0"), ("k8s_namespace_name", "shop")];
    agent.until("the chosen pod is counted from its first call", |scrape| {
        (getppids(scrape, &mine)? == 100.0).then_some(())
    });
    let scrape = agent.scrape();
    assert!(scrape.all(COUNT, &[]).all(|sample| sample.labels.get("k8s_pod_name").is_some_and(|name| name == "web-0")));
    let counted = |cgroup: &Cgroup| agent.counted_cgroups().contains(&cgroup.id());

    // By now the kernel knows of all: what is made within a pod that is left out is not counted at all.
    let below = cgroups[1].0.child("init.scope");
    stimulus::run(&below, &["getppid=100"]);
    assert!(!counted(&below));
    server.change("db-0", |pod| pod["metadata"]["labels"] = json!({"app": "web"}));
    let chosen = [("k8s_pod_name", "db-0")];
    agent.until("it is observed from now on", |scrape| {
        stimulus::run(&below, &["getppid=1"]);
        (getppids(scrape, &chosen)? > 0.0).then_some(())
    });
    assert!(counted(&below));
    agent.stop();
}

#[test]
fn check_tells_of_the_api_server() {
    let _kernel = live!();
    let server = ApiServer::start();
    let kubeconfig = server.kubeconfig(&directory("kubeconfig"));
    let found = |path: &Path| {
        let enrich = format!("kubernetes: {{kubeconfig: \"{}\"}}", path.display());
        let (_, report) = Agent::check(Wish { enrich: &enrich, node: NODE, ..Wish::default() });
        let host = report["host"].as_array().unwrap().clone();
        host.into_iter().find(|finding| finding["what"] == "kubernetes").unwrap()
    };
    assert_eq!(found(&kubeconfig)["ok"], true);
    server.forbid("/api/v1/pods");
    let denied = found(&kubeconfig);
    assert!(denied["ok"] == false && denied["fix"].as_str().unwrap().contains("the right to list pods"), "{denied}");
    let missing = found(Path::new("/no/such/kubeconfig"));
    assert!(missing["fix"].as_str().unwrap().contains("/no/such/kubeconfig"), "{missing}");
}

/// Who has an address that no socket of this node has: the pod that the API says has it, or had it last; not one that
/// shares the node's address; else the configured network.
#[test]
fn peers_are_pods_by_their_addresses_then_networks() {
    const BYTES: &str = "ebpf_connection_bytes_total";
    let _kernel = live!();
    let server = ApiServer::start();
    let addressed = |name: &str, number, addresses: &[&str], host: bool| {
        let mut pod = pod(name, &uid(number));
        run(&mut pod, &id(number));
        let all: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        pod["status"]["podIPs"] = json!(all);
        pod["status"]["podIP"] = json!(addresses[0]);
        pod["spec"]["hostNetwork"] = json!(host);
        pod
    };
    server.put(addressed("db-0", 1, &["10.99.0.9", "fd00::9"], false));
    let mut proxy = addressed("proxy-0", 2, &["10.99.0.8"], true);
    proxy["status"]["hostIP"] = json!("10.99.0.8");
    server.put(proxy);
    let kubeconfig = server.kubeconfig(&directory("peers"));
    let enrich = format!("kubernetes: {{kubeconfig: \"{}\"}}, networks: {{lab: [10.99.0.0/16]}}", kubeconfig.display());
    let collectors = ["connection: {enabled: require}"];
    let agent = Agent::start(Wish { collectors: &collectors, enrich: &enrich, node: NODE, ..Wish::default() });
    let (pair, sender) = (Pair::new(), Cgroup::new("to-peers"));
    for address in ["10.99.0.7", "10.99.0.8", "10.99.0.9", "fd00::9"] {
        let to = ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"];
        pair.client.ip(&[&["neighbour", "add", address], &to[..]].concat());
    }
    let send = |address: &str| Traffic::run(&pair.client, &sender, &["udp_send", address, "7000", "101", "300"]);
    let expect = |key: &str, name: &str, bytes: f64| {
        let labels = [("source_cgroup_path", sender.path()), (key, name)];
        agent.until_exactly(name, (bytes, 0.0), |scrape| (scrape.sum(BYTES, &labels), 0.0));
    };
    let (v4, v6) = (101.0 * 328.0, 101.0 * 348.0);
    ["10.99.0.9", "fd00::9", "10.99.0.8", "10.99.0.7"].into_iter().for_each(send);
    expect("destination_k8s_pod_name", "db-0", v4 + v6);
    expect("destination_workload_name", "lab", v4);
    // A pod with the node's address is not all that the node does.
    expect("destination_workload_name", "node", v4);
    expect("destination_k8s_node_name", NODE, 2.0 * v4 + v6);
    server.delete("db-0");
    send("10.99.0.9");
    expect("destination_k8s_pod_name", "db-0", 2.0 * v4 + v6);
    server.put(addressed("cache-0", 3, &["10.99.0.9"], false));
    agent.until("the agent knows the new pod", |_| {
        send("10.99.0.9");
        let scrape = agent.scrape();
        (scrape.sum(BYTES, &[("destination_k8s_pod_name", "cache-0")]) > 0.0).then_some(())
    });
    let total = [("source_cgroup_path", sender.path())];
    let old = agent.scrape().sum(BYTES, &[total[0], ("destination_k8s_pod_name", "db-0")]);
    send("fd00::9");
    expect("destination_k8s_pod_name", "db-0", old + v6);
    agent.stop();
}
