//! What is done to the cluster, and what the agent must have seen of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api::JSON;
use super::pods::{self, Driver, NAMESPACE, Owner, Pod};
use super::seen::{self, Spread, names, within};
use super::{Stage, audit, scene, token};
use crate::e2e::stimulus::Workload;
use crate::e2e::{Report, peers, prometheus};

/// The longest that the agent may take to try again after an error, with its pauses growing.
const RECOVERY: Duration = Duration::from_secs(90);

/// The longest that names may take to reach every way out while nothing is wrong.
pub const SOON: Duration = Duration::from_secs(20);

const BINDING: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/telesonde";

/// Runs all checks, in an order in which each leaves the agent able to do the next.
pub fn all(stage: &mut Stage, report: &mut Report) {
    for (driver, name) in [(Driver::Cgroupfs, "cgroupfs"), (Driver::Systemd, "systemd")] {
        report.check("pods", &format!("a deployment's pod, {name} driver"), || deployment(stage, driver));
    }
    report.check("pods", "names of owners", || owners(stage));
    report.check("pods", "a static pod, an init and an ephemeral container", || kinds(stage));
    report.check("pods", "a container published after its end", || late(stage));
    report.check("pods", "a container that is restarted", || restarted(stage));
    report.check("pods", "a pod deleted, and made again under its name", || again(stage));
    report.check("pods", "a thousand pods of one owner", || thousand(stage));
    report.check("restart", "the API server restarts", || restart(stage));
    report.check("expiry", "the watch resumes from a version that is gone (410)", || expiry(stage));
    report.check("denial", "the right is taken away and given back", || denial(stage));
    report.check("token", "the token ends and is replaced", || expired(stage));
    report.check("requests", "only what is needed is asked for", || audit::frugal(&audit::requests(&stage.peers.dir)?));
    report.check("series", "no counter of a pod ever fell in Prometheus", || monotone(stage));
}

/// Makes calls in a new container of a pod, which is published while they are made.
///
/// # Errors
/// Fails when the container cannot be made or published.
pub fn work(stage: &Stage, pod: &mut Pod, calls: u64) -> Result<()> {
    let (id, workload) = pod.run(calls, Duration::from_secs(2))?;
    std::thread::sleep(Duration::from_millis(700));
    pod.publish(&stage.api, "containerStatuses", "app", &id, 0)?;
    workload.finish()?;
    Ok(())
}

/// Says whether all ways out have the calls of a container in the one series that has its names.
///
/// # Errors
/// Fails when one has not.
pub fn counted(stage: &Stage, pod: &Pod, names: &seen::Names, calls: u64) -> Result<()> {
    seen::counted(&stage.peers, pod, names, calls, Spread::Named)
}

fn owned(owner: &Owner, labels: &Value) -> Value {
    json!({"ownerReferences": owner.reference(), "labels": labels})
}

fn deployment(stage: &Stage, driver: Driver) -> Result<String> {
    const CALLS: u64 = 30_011;
    let end = if driver == Driver::Systemd { "4x2lq" } else { "8kz7m" };
    let name = format!("web-{}-{end}", scene::HASH);
    let metadata = owned(&stage.scene.web(), &json!({"app": "web", "pod-template-hash": scene::HASH}));
    let mut pod = Pod::create(&stage.api, &name, driver, &metadata, &json!({}))?;
    work(stage, &mut pod, CALLS)?;
    let mut expected = names(&pod, "app").to_vec();
    expected.push(("k8s_deployment_name", "web"));
    within(SOON, || counted(stage, &pod, &expected, CALLS))?;
    pod.delete(&stage.api)?;
    Ok(format!("{CALLS} calls in one series named after deployment, pod and container: scraped, pushed, as deltas"))
}

fn owners(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 5_003;
    let uid = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";
    let minutes = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 60;
    let due = format!("backup-{minutes}");
    let of = |version, kind, name| Owner { version, kind, name, uid };
    let cases = [
        ("db-0", of("apps/v1", "StatefulSet", "db"), ("k8s_statefulset_name", "db")),
        ("logs-x7k2p", of("apps/v1", "DaemonSet", "logs"), ("k8s_daemonset_name", "logs")),
        ("once-9hjwz", of("batch/v1", "Job", "once"), ("k8s_job_name", "once")),
        ("backup-lm4c8", of("batch/v1", "Job", &due), ("k8s_cronjob_name", "backup")),
        // The agent has to ask for it, once for both.
        ("yearly-28930320-f5x8s", stage.scene.yearly(), ("k8s_cronjob_name", "yearly")),
        ("yearly-28930320-zt6vd", stage.scene.yearly(), ("k8s_cronjob_name", "yearly")),
    ];
    for (name, owner, expected) in &cases {
        let mut pod = Pod::create(&stage.api, name, Driver::Systemd, &owned(owner, &json!({})), &json!({}))?;
        work(stage, &mut pod, CALLS)?;
        let expected = [&names(&pod, "app")[..], &[*expected]].concat();
        within(SOON, || counted(stage, &pod, &expected, CALLS))?;
        pod.delete(&stage.api)?;
    }
    let is_owner = |request: &&audit::Request| request.verb == "get" && request.path.contains("/jobs/");
    let asked = audit::requests(&stage.peers.dir)?.iter().filter(is_owner).count();
    if asked != 1 {
        bail!("the agent asked for {asked} owners and should have asked for one");
    }
    Ok(format!("{} pods, one owner asked for", cases.len()))
}

fn kinds(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 4_001;
    let hash = "3b1f0c9d8e7a6b5c4d3e2f1a0b9c8d7e";
    let annotations = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash,
        "kubernetes.io/config.source": "file"});
    let metadata = json!({"annotations": annotations});
    let mut mirror = Pod::create(&stage.api, "proxy-telesonde-e2e", Driver::Cgroupfs, &metadata, &json!({}))?;
    work(stage, &mut mirror, CALLS)?;
    within(SOON, || counted(stage, &mirror, &names(&mirror, "app"), CALLS)).context("the static pod")?;
    mirror.delete(&stage.api)?;

    let init = json!({"initContainers": [{"name": "migrate", "image": "registry.example/shop/migrate:1"}]});
    let mut pod = Pod::create(&stage.api, "cart", Driver::Systemd, &json!({}), &init)?;
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "registry.example/debug:1"}]}});
    let path = format!("{}/cart/ephemeralcontainers", pods::collection());
    stage.api.must("PATCH", &path, "application/strategic-merge-patch+json", &debug.to_string())?;
    let containers =
        [("initContainerStatuses", "migrate"), ("containerStatuses", "app"), ("ephemeralContainerStatuses", "debug")];
    for (list, container) in containers {
        let (id, workload) = pod.run(CALLS, Duration::from_secs(1))?;
        pod.publish(&stage.api, list, container, &id, 0)?;
        workload.finish()?;
        within(SOON, || counted(stage, &pod, &names(&pod, container), CALLS)).context(container)?;
    }
    pod.delete(&stage.api)?;
    Ok("each with its own name and its own calls".to_owned())
}

/// A container lives 50 ms, its pod's status tells of it later.
fn late(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 2_003;
    let mut pod = Pod::create(&stage.api, "brief", Driver::Cgroupfs, &json!({}), &json!({}))?;
    let (id, workload) = pod.run(CALLS, Duration::from_millis(50))?;
    workload.finish()?;
    std::thread::sleep(Duration::from_secs(2));
    pod.publish(&stage.api, "containerStatuses", "app", &id, 0)?;
    within(SOON, || counted(stage, &pod, &names(&pod, "app"), CALLS))?;
    pod.delete(&stage.api)?;
    Ok("published 2 s after a life of 50 ms; nothing lost, nothing twice".to_owned())
}

/// A container is started three times; of the second life the API tells only the end.
fn restarted(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 1_511;
    let mut pod = Pod::create(&stage.api, "crash", Driver::Systemd, &json!({}), &json!({}))?;
    for restarts in 0..3 {
        let (id, workload) = pod.run(CALLS, Duration::from_millis(300))?;
        if restarts != 1 {
            pod.publish(&stage.api, "containerStatuses", "app", &id, restarts)?;
        }
        workload.finish()?;
    }
    within(SOON, || counted(stage, &pod, &names(&pod, "app"), 3 * CALLS))?;
    pod.delete(&stage.api)?;
    Ok(format!("3 lives, one series with {} calls", 3 * CALLS))
}

/// A `StatefulSet`'s pod goes and comes back, twice; all its lives are one series.
fn again(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 1_009;
    let uid = "7a0c1b7e-52d1-4c8e-8a35-90e1b1a4c7d2";
    let owner = Owner { version: "apps/v1", kind: "StatefulSet", name: "queue", uid };
    for life in 1..=3 {
        let mut pod = Pod::create(&stage.api, "queue-0", Driver::Systemd, &owned(&owner, &json!({})), &json!({}))?;
        work(stage, &mut pod, CALLS)?;
        let expected = [&names(&pod, "app")[..], &[("k8s_statefulset_name", "queue")]].concat();
        within(SOON, || counted(stage, &pod, &expected, life * CALLS)).with_context(|| format!("life {life}"))?;
        pod.delete(&stage.api)?;
    }
    Ok(format!("3 lives, one series with {} calls", 3 * CALLS))
}

fn thousand(stage: &Stage) -> Result<String> {
    const PODS: usize = 1_000;
    const HANDS: usize = 4;
    let before = audit::requests(&stage.peers.dir)?.len();
    let metadata = owned(&stage.scene.web(), &json!({"many": "yes", "pod-template-hash": scene::HASH}));
    let create = |hand: usize| -> Result<()> {
        for number in (hand..PODS).step_by(HANDS) {
            let mut metadata = metadata.clone();
            metadata["name"] = json!(format!("web-{}-{number:05}", scene::HASH));
            let spec = json!({"nodeName": super::NODE, "containers": [{"name": "app", "image": "app"}]});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            stage.api.create(&pods::collection(), &pod)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|hand| scope.spawn(move || create(hand))).collect();
        hands.into_iter().try_for_each(|hand| hand.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    let all = format!("{}?labelSelector=many%3Dyes", pods::collection());
    let now = r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}"#;
    stage.api.must("DELETE", &all, JSON, now)?;
    let requests = audit::requests(&stage.peers.dir)?;
    let meanwhile = &requests[before..];
    let lists = meanwhile.iter().filter(|request| request.verb == "list").count();
    let watches = meanwhile.iter().filter(|request| request.verb == "watch").count();
    // A watch has its own end, which may fall into this time.
    if lists > 0 || watches > 1 {
        bail!("{lists} lists and {watches} watches while {PODS} pods were created and deleted");
    }
    let frugal = audit::frugal(&requests)?;
    Ok(format!("{PODS} created and deleted: no list, {watches} new watches; since the start {frugal}"))
}

/// Publishes a new pod whose calls are made while something is wrong, and waits until the agent names it and all add up.
fn recovers(stage: &Stage, pod: &Pod, workload: Workload, id: &str, calls: u64) -> Result<()> {
    pod.publish(&stage.api, "containerStatuses", "app", id, 0)?;
    workload.finish()?;
    let found = || seen::counted(&stage.peers, pod, &names(pod, "app"), calls, Spread::Anywhere);
    within(RECOVERY, found).with_context(|| pod.name.clone())
}

fn restart(stage: &mut Stage) -> Result<String> {
    const CALLS: u64 = 20_011;
    let mut old = Pod::create(&stage.api, "before", Driver::Cgroupfs, &json!({}), &json!({}))?;
    let (id, workload) = old.run(CALLS, Duration::from_secs(15))?;
    old.publish(&stage.api, "containerStatuses", "app", &id, 0)?;
    stage.server.end(Duration::from_secs(90))?;
    stage.server = stage.cluster.start()?;
    let mut new = Pod::create(&stage.api, "after", Driver::Systemd, &json!({}), &json!({}))?;
    let (new_id, new_workload) = new.run(CALLS, Duration::from_secs(1))?;
    recovers(stage, &new, new_workload, &new_id, CALLS)?;
    workload.finish()?;
    within(SOON, || counted(stage, &old, &names(&old, "app"), CALLS)).context("before")?;
    old.delete(&stage.api)?;
    new.delete(&stage.api)?;
    Ok("a pod from before and one from after it are exact".to_owned())
}

fn expiry(stage: &mut Stage) -> Result<String> {
    const CALLS: u64 = 7_001;
    let gone = Pod::create(&stage.api, "gone", Driver::Cgroupfs, &json!({}), &json!({}))?;
    stage.link.cut();
    let lists = |stage: &Stage| -> Result<usize> {
        Ok(audit::requests(&stage.peers.dir)?.iter().filter(|request| request.of_pods("list")).count())
    };
    let before = lists(stage)?;
    gone.delete(&stage.api)?;
    let mut pod = Pod::create(&stage.api, "unseen", Driver::Systemd, &json!({}), &json!({}))?;
    let (id, workload) = pod.run(CALLS, Duration::from_secs(1))?;
    pod.publish(&stage.api, "containerStatuses", "app", &id, 0)?;
    // A server that has just started remembers no events from before.
    stage.server.end(Duration::from_secs(90))?;
    stage.server = stage.cluster.start()?;
    stage.link.join();
    recovers(stage, &pod, workload, &id, CALLS)?;
    let after = lists(stage)?;
    if after == before {
        bail!("the agent did not list again");
    }
    pod.delete(&stage.api)?;
    Ok(format!("{} new list, and a pod that no watch told of is exact", after - before))
}

/// The reason that the agent gives for missing names, wherever in its status.
fn complains(stage: &Stage, word: &str) -> Result<String> {
    let status = seen::status(&stage.peers)?;
    let kubernetes = &status["enrichment"]["sources"]["kubernetes"];
    let text = kubernetes.to_string();
    if !text.contains(word) {
        bail!("the status does not say `{word}` but {text}");
    }
    Ok(text)
}

fn denial(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 6_007;
    stage.api.must("DELETE", BINDING, JSON, "")?;
    stage.link.cut();
    stage.link.join();
    within(RECOVERY, || complains(stage, "(403"))?;
    let mut pod = Pod::create(&stage.api, "denied", Driver::Cgroupfs, &json!({}), &json!({}))?;
    let (id, workload) = pod.run(CALLS, Duration::from_secs(1))?;
    pod.publish(&stage.api, "containerStatuses", "app", &id, 0)?;
    let said = complains(stage, "(403")?;
    let mut command = Command::new(peers::agent());
    command.arg("check");
    for file in ["telesonde.yaml", "kubernetes.yaml"] {
        command.arg("--config").arg(stage.peers.dir.join(file));
    }
    let checked = seen::check(&stage.peers, &mut command, "denied.txt")?;
    if !checked.contains("(403") {
        bail!("check says {checked}");
    }
    stage.api.apply(scene::AGENT)?;
    recovers(stage, &pod, workload, &id, CALLS)?;
    pod.delete(&stage.api)?;
    Ok(format!("said {said}, and so did check; exact once it was allowed again"))
}

fn expired(stage: &Stage) -> Result<String> {
    const CALLS: u64 = 6_011;
    let file = stage.peers.dir.join("token");
    fs::write(&file, stage.signer.token(&stage.scene.account, Duration::from_secs(1))?)?;
    std::thread::sleep(Duration::from_secs(2));
    // The agent may keep the old token for a while; a new connection is refused once it reads the new one.
    within(RECOVERY, || {
        stage.link.cut();
        stage.link.join();
        std::thread::sleep(Duration::from_secs(2));
        complains(stage, "(401")
    })?;
    let mut pod = Pod::create(&stage.api, "outlived", Driver::Systemd, &json!({}), &json!({}))?;
    let (id, workload) = pod.run(CALLS, Duration::from_secs(1))?;
    fs::write(&file, token::issued(&stage.api)?)?;
    recovers(stage, &pod, workload, &id, CALLS)?;
    pod.delete(&stage.api)?;
    Ok("refused with 401, exact after the file had a new one".to_owned())
}

fn monotone(stage: &Stage) -> Result<String> {
    let of = format!("ebpf_syscall_count_total{{job=\"scraped\",k8s_namespace_name=\"{NAMESPACE}\"}}");
    let fell = prometheus::query(&stage.peers, &format!("resets({of}[1h]) > 0"), None)?;
    let all = prometheus::query(&stage.peers, &format!("count_over_time({of}[1h])"), None)?;
    if !fell.is_empty() || all.is_empty() {
        bail!("{} of {} series fell, among them {:?}", fell.len(), all.len(), fell.first());
    }
    Ok(format!("{} series", all.len()))
}
