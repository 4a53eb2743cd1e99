//! What no API server should say, said to an agent: counted, logged once, and nothing that is shown grows with it.

use serde_json::{Value, json};

use super::live::{SET, enrich, getppids, pod_cgroup};
use super::{id, owned, run, uid};
use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, Mood, NODE};
use crate::harness::cgroup::Cgroup;
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

/// How often each of it is said.
const TIMES: usize = 50;

fn errors(scrape: &Scrape, kind: &str) -> f64 {
    scrape.sum("telesonde_enrichment_errors_total", &[("source", "kubernetes"), ("error_type", kind)])
}

/// Objects, each of which has one thing that is wrong.
fn flawed() -> Vec<Value> {
    let sound = || json!({"name": "x", "namespace": "shop", "uid": "u"});
    let with = |key: &str, value: Value| {
        let mut metadata = sound();
        metadata[key] = value;
        json!({"metadata": metadata})
    };
    vec![
        json!(null),
        json!([]),
        json!("pod"),
        with("name", json!("web\u{1b}[2J\n0")),
        with("name", json!(17)),
        with("name", json!("")),
        with("namespace", json!("sh\u{0}op")),
        with("uid", json!("u".repeat(100_000))),
        with("labels", json!({"app": {"deep": []}})),
        with("annotations", json!({"note": 7})),
        with("ownerReferences", json!([{"kind": 7}])),
        json!({"metadata": sound(), "status": {"containerStatuses": [{"name": "a\u{7}", "containerID": "containerd://1"}]}}),
        json!({"metadata": sound(), "status": {"containerStatuses": [{"name": "a", "containerID": "containerd://1\n2"}]}}),
        json!({"metadata": sound(), "spec": 9}),
    ]
}

#[test]
fn bad_input_is_counted_and_logged_once() {
    let _kernel = live!();
    let server = ApiServer::start();
    let enrich = enrich(&server, ", annotations: [note], labels: [app]");
    let agent =
        Agent::start(Wish { enrich: &enrich, node: NODE, ebpf: &["pod_selector: \"!never\""], ..Wish::default() });
    let mut web0 = owned("web-0", &uid(1), SET);
    // Times of creation that no clock shows; an owner's name that would be a time.
    web0["metadata"]["creationTimestamp"] = json!("9999-12-31T23:59:59Z");
    web0["metadata"]["annotations"] =
        json!({"note": "\u{1b}]0;x\u{7}\n".repeat(1 << 17), "other": "y".repeat(1 << 20)});
    web0["metadata"]["labels"] = json!({"app": "web"});
    run(&mut web0, &id(1));
    server.put(web0);
    for (number, created) in
        ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "-1", "2262-04-12T00:00:00Z"].iter().enumerate()
    {
        let mut job = owned(&format!("job-{number}"), &uid(10 + number as u32), ("batch/v1", "Job", "run-00000000"));
        job["metadata"]["creationTimestamp"] = json!(created);
        server.put(job);
    }
    for _ in 0..TIMES {
        server.send("<html>");
        for object in flawed() {
            server.send(&json!({"type": "ADDED", "object": object}).to_string());
        }
    }
    let all = (TIMES * (1 + flawed().len())) as f64;
    let scrape = agent.until("all of it is counted", |scrape| {
        let count = errors(scrape, "malformed");
        assert!(count <= all, "{count} of {all}");
        (count == all).then(|| scrape.clone())
    });
    assert_eq!(errors(&scrape, "malformed"), all);
    server.be(Some(Mood::Answers(200, "text/html", "<html>Sign in</html>".to_owned())));
    agent.until("it is told again and again", |scrape| (errors(scrape, "not_kubernetes") >= 3.0).then_some(()));
    server.be(None);
    agent.until("it is back", |_| {
        (agent.status()?["enrichment"]["sources"]["kubernetes"]["state"] == "running").then_some(())
    });

    let above = Cgroup::new("kubepods-hostile");
    let pod = pod_cgroup(&above, &uid(1));
    let container = pod.child(&format!("crio-{}", id(1)));
    stimulus::run(&container, &["getppid=30"]);
    let labels = [("k8s_pod_name", "web-0"), ("k8s_container_name", "web"), ("k8s_pod_label_app", "web")];
    let scrape =
        agent.until("the sound pod is named", |scrape| (getppids(scrape, &labels)? == 30.0).then(|| scrape.clone()));
    for sample in &scrape.0 {
        let odd = sample.labels.values().find(|value| value.len() > 256 || value.contains(char::is_control));
        assert_eq!(odd, None, "{}", sample.name);
    }
    let log = agent.log();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(
        (lines("further ones are only counted"), lines("no Kubernetes API"), lines("panicked")),
        (1, 1, 0),
        "{log}"
    );
    agent.stop();
}
