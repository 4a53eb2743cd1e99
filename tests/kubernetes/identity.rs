//! Who the agent says that it is, and how it is told so.

use std::process::{Command, Stdio};

use super::live::{enrich, pod_cgroup};
use super::{id, owned, run, uid};
use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, NODE};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::{eventually, live, stimulus};

const NODE_PATH: &str = "/api/v1/nodes/worker-1";
const CLUSTER_PATH: &str = "/api/v1/namespaces/kube-system";
/// What a `DaemonSet` passes on by the downward API.
const VARIABLES: &[(&str, &str)] =
    &[("NODE_NAME", "Worker-1"), ("POD_NAME", "telesonde-x7k2p"), ("POD_NAMESPACE", "monitoring")];

/// The node and the cluster are in the resource, the agent's own pod only in `telesonde_info`.
#[test]
fn variables_and_the_api_server_say_where_the_agent_is() {
    let _kernel = live!();
    let (server, receiver) = (ApiServer::start(), Receiver::start());
    server.put_owner(NODE_PATH, None);
    server.put_owner(CLUSTER_PATH, None);
    let enrich = enrich(&server, "");
    let wish = Wish { enrich: &enrich, otlp: Some(receiver.address()), env: VARIABLES, ..Wish::default() };
    let agent = Agent::start(wish);
    let status = agent.status().unwrap();
    // The fake's UIDs are the paths.
    for (key, value) in [("k8s.node.name", "Worker-1"), ("k8s.node.uid", NODE_PATH), ("k8s.cluster.uid", CLUSTER_PATH)]
    {
        assert_eq!(status["resource"][key], value, "{status}");
        eventually("OTLP has it", || (receiver.resource().get(key)? == value).then_some(()));
    }
    assert_eq!(status["resource_lacks"], serde_json::json!({}));
    assert!(receiver.resource().keys().all(|key| !key.starts_with("k8s.pod.")), "{:?}", receiver.resource());
    let pod = [("k8s_pod_name", "telesonde-x7k2p"), ("k8s_namespace_name", "monitoring")];
    let scrape = agent.scrape();
    assert_eq!(scrape.value("telesonde_info", &pod), Some(1.0));
    let theirs =
        scrape.0.iter().filter(|sample| sample.labels.get("k8s_pod_name").is_some_and(|name| name == pod[0].1));
    assert_eq!(theirs.count(), 1, "nothing that is measured has the name of the agent's pod");
    agent.stop();
    assert_eq!(server.requests("GET /api/v1/nodes").len(), 1);
}

#[test]
fn without_the_right_the_node_has_its_name_alone() {
    let _kernel = live!();
    let server = ApiServer::start();
    server.forbid("/api/v1/nodes");
    let enrich = enrich(&server, "");
    let wish = Wish { enrich: &enrich, node: NODE, ..Wish::default() };
    let agent = Agent::start(wish);
    let status = agent.status().unwrap();
    assert_eq!((&status["resource"]["k8s.node.name"], &status["resource"]["k8s.node.uid"]), (&NODE.into(), &().into()));
    let why = |key: &str| status["resource_lacks"][key].as_str().unwrap().to_owned();
    assert!(why("k8s.node.uid").contains("the right to get nodes is missing (403"), "{status}");
    assert!(why("k8s.cluster.uid").contains("refuses to get namespaces (404"), "{status}");
    agent.stop();
    // Whoever wants no names from Kubernetes is asked for nothing.
    let asked = server.requests("").len();
    let agent = Agent::start(Wish { env: &[("DEPLOYMENT_MODE", "vm")], ..wish });
    let status = agent.status().unwrap();
    assert_eq!(status["resource"]["k8s.node.name"], serde_json::Value::Null, "{status}");
    assert_eq!(status["enrichment"]["sources"]["kubernetes"]["state"], "off");
    agent.stop();
    assert_eq!(server.requests("").len(), asked);
    // And who says that this is a cluster has its node's name, and is told why there are no names of pods.
    let env = &[("DEPLOYMENT_MODE", "kubernetes"), ("NODE_NAME", "worker-9")];
    let agent = Agent::start(Wish { env, ..Wish::default() });
    let status = agent.status().unwrap();
    assert_eq!(status["resource"]["k8s.node.name"], "worker-9", "{status}");
    assert_ne!(status["enrichment"]["sources"]["kubernetes"]["state"], "off", "{status}");
    agent.stop();
}

/// A task that sleeps in a cgroup until it is dropped.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start(cgroup: &Cgroup) -> Self {
        let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        std::fs::write(cgroup.directory().join("cgroup.procs"), child.id().to_string()).unwrap();
        Self(child)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `check` tells how many workloads have names now, which have none and why, and what the running agent has found.
#[test]
fn check_tells_how_often_names_are_found() {
    let _kernel = live!();
    let server = ApiServer::start();
    let mut web0 = owned("web-0", &uid(1), ("apps/v1", "StatefulSet", "web"));
    run(&mut web0, &id(1));
    server.put(web0);
    let enrich = enrich(&server, "");
    let agent = Agent::start(Wish { enrich: &enrich, node: NODE, ..Wish::default() });
    let above = Cgroup::new("kubepods-check");
    let pods = [1, 2].map(|number| pod_cgroup(&above, &uid(number)));
    let known = pods[0].child(&format!("crio-{}", id(1)));
    let strange = pods[1].child(&format!("crio-{}", id(2)));
    let _tasks = [&known, &strange].map(Sleeper::start);
    stimulus::run(&known, &["getppid=10"]);
    agent.scrape();
    let (code, report) = agent.examine();
    let enrichment = &report["enrichment"];
    let nameless = enrichment["nameless"].as_array().unwrap();
    let of =
        |cgroup: &Cgroup| nameless.iter().find(|one| one["path"] == cgroup.path()).map(|one| one["reason"].clone());
    assert_eq!((of(&known), of(&strange)), (None, Some("pod_unknown".into())), "{enrichment}");
    let count = |key: &str| enrichment[key].as_u64().unwrap();
    assert_eq!(count("workloads"), count("named") + nameless.len() as u64);
    assert!(enrichment["agent"]["hits"].as_u64().unwrap() > 0 && enrichment["agent"]["hit_rate"].is_number());
    assert!(enrichment["agent"]["misses"]["pod_unknown"].is_u64(), "{enrichment}");
    let finding = |what: &str| report["host"].as_array().unwrap().iter().find(|one| one["what"] == what).unwrap();
    let now = finding("names now");
    assert!(now["ok"] == false && now["fix"].as_str().unwrap().contains("NODE_NAME"), "{now}");
    assert!(now["found"].as_str().unwrap().contains("pod_unknown"), "{now}");
    assert!(finding("names so far")["found"].as_str().unwrap().contains('%'), "{report}");
    assert_eq!(code, Some(1));
    agent.stop();
}
