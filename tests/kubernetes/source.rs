//! The watch by itself: what it asks for, and how it takes what an API server should not do. No kernel is needed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use enrich::kubernetes::{KUBERNETES, Kubernetes, parse_selector};
use enrich::{Container, Hierarchy, Kind, Pod, Settings, State, Workloads};
use model::{Answer, Census, CgroupChange, Resolver, Subject};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{id, owned, pod, restart, run, uid};
use crate::harness::apiserver::{ApiServer, Mood, NODE};
use crate::harness::recorded::recorded;
use crate::harness::{directory, eventually};

/// A watch of an API server, and what it tells.
struct Source {
    server: ApiServer,
    workloads: Arc<Workloads>,
    _runtime: Runtime,
}

impl Source {
    fn start(options: Kubernetes) -> Self {
        Self::with(ApiServer::start(), options)
    }

    fn with(server: ApiServer, options: Kubernetes) -> Self {
        let directory = directory("kubernetes");
        std::fs::create_dir_all(directory.join("cgroups")).unwrap();
        let filters_pods = !options.namespaces.is_empty() || !options.selector.selects_all();
        let settings = Settings { expects: vec![Kind::Pods], filters_pods, ..Settings::default() };
        let workloads =
            Workloads::start(Hierarchy { mount: directory.join("cgroups"), whole: true }, &settings).map(Arc::new);
        let workloads = workloads.unwrap();
        let runtime = Runtime::new().unwrap();
        let kubeconfig: Option<PathBuf> = Some(server.kubeconfig(&directory));
        let options = Kubernetes { node: NODE.to_owned(), kubeconfig, ..options };
        runtime.spawn(options.follow(Arc::clone(&workloads)));
        Self { server, workloads, _runtime: runtime }
    }

    fn made(&self, cgroup: u64, path: &str) {
        self.workloads.changed(CgroupChange::Made { id: cgroup, parent: 1, path: Some(path.into()) });
    }

    /// Gives the names of a cgroup, or the reason why there are none.
    fn names(&self, cgroup: u64) -> String {
        match self.workloads.resolve_now(Subject::Cgroup(cgroup)) {
            Answer::Known(set) => {
                let pairs = set.pairs().iter().map(|pair| format!("{}={}", pair.key, pair.value));
                pairs.collect::<Vec<_>>().join(" ")
            }
            Answer::Unknown(_, reason) => reason.to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn until_named(&self, cgroup: u64, names: &str) {
        eventually(names, || (self.names(cgroup) == names).then_some(()));
    }

    fn until_state(&self, is: impl Fn(&State) -> bool) -> String {
        eventually("the source's state", || {
            let source = self.workloads.sources().into_iter().find(|source| source.name == KUBERNETES)?;
            is(&source.state).then(|| source.state.to_string())
        })
    }

    fn errors(&self, kind: &str) -> u64 {
        let source = self.workloads.sources().into_iter().find(|source| source.name == KUBERNETES);
        source.and_then(|source| source.errors.get(kind).copied()).unwrap_or_default()
    }
}

fn path(uid: &str, container: u32) -> String {
    format!("/kubepods/burstable/pod{uid}/{}", id(container))
}

const WEB: &str = "k8s.container.name=web k8s.namespace.name=shop k8s.pod.name=web-0 k8s.statefulset.name=web";
const SET: (&str, &str, &str) = ("apps/v1", "StatefulSet", "web");

#[test]
fn a_thousand_pods_cost_one_watch_and_one_get_per_owner() {
    let source = Source::start(Kubernetes::default());
    source.until_state(|state| *state == State::Running);
    for job in 0..5 {
        source.server.put_owner(
            &format!("/apis/batch/v1/namespaces/shop/jobs/report-{job}"),
            Some(("batch/v1", "CronJob", "report")),
        );
    }
    for number in 0..1000 {
        let (name, uid) = (format!("web-{number}"), uid(number));
        let owner = format!("report-{}", number % 5);
        let kind = match number % 4 {
            0 => ("batch/v1", "Job", owner.as_str()),
            1 => SET,
            2 => ("apps/v1", "DaemonSet", "agent"),
            _ => ("batch/v1", "Job", "migrate"),
        };
        source.server.put(owned(&name, &uid, kind));
        source.server.change(&name, |pod| run(pod, &id(number)));
        source.made(5000 + u64::from(number), &path(&uid, number));
    }
    for number in 0..1000_u32 {
        let owner =
            ["k8s.cronjob.name=report", "k8s.statefulset.name=web", "k8s.daemonset.name=agent", "k8s.job.name=migrate"];
        let owner = owner[number as usize % 4];
        let mut names = [
            "k8s.container.name=web".to_owned(),
            owner.to_owned(),
            "k8s.namespace.name=shop".to_owned(),
            format!("k8s.pod.name=web-{number}"),
        ];
        names.sort();
        source.until_named(5000 + u64::from(number), &names.join(" "));
    }
    assert_eq!(source.server.requests("GET /api/v1/pods").len(), 1, "one list");
    assert_eq!(source.server.requests("WATCH").len(), 1, "one watch");
    assert_eq!(source.server.requests("/jobs/").len(), 5, "one for each owner");
    assert_eq!(source.server.requests("").len(), 7, "and nothing else: {:?}", source.server.requests(""));
    assert_eq!(source.workloads.stats().pods, 1000);
}

#[test]
fn a_watch_that_ends_is_resumed_from_its_last_bookmark() {
    let source = Source::start(Kubernetes::default());
    source.until_state(|state| *state == State::Running);
    source.server.put(owned("web-0", &uid(1), SET));
    source.made(5000, &path(&uid(1), 7));
    source.until_named(5000, "container_unknown");
    source.server.bookmark();
    source.server.put(owned("web-1", &uid(2), SET));
    source.made(5001, &path(&uid(2), 8));
    source.until_named(5001, "container_unknown");
    source.server.cut();
    eventually("a second watch", || (source.server.requests("WATCH").len() == 2).then_some(()));
    source.server.change("web-0", |pod| run(pod, &id(7)));
    source.until_named(5000, WEB);
    let watches = source.server.requests("WATCH");
    assert!(watches[1].ends_with("resourceVersion=1003"), "{watches:?}");
    assert_eq!(source.server.requests("GET").len(), 1, "no second list");
    source.until_state(|state| *state == State::Running);
}

#[test]
fn a_version_that_is_forgotten_costs_a_list() {
    let source = Source::start(Kubernetes::default());
    source.server.put(owned("web-0", &uid(1), SET));
    source.server.put(owned("web-1", &uid(2), SET));
    eventually("both are known", || (source.workloads.pods().len() == 2).then_some(()));
    source.server.be(Some(Mood::Closed));
    source.until_state(|state| matches!(state, State::Degraded(_)));
    source.made(5000, &path(&uid(1), 7));
    assert_eq!(source.names(5000), "container_unknown", "what is known stays known");
    source.server.delete("web-1");
    source.server.change("web-0", |pod| run(pod, &id(7)));
    source.server.compact();
    source.server.be(None);
    source.until_named(5000, WEB);
    assert_eq!(source.workloads.pods(), [uid(1).into()]);
    assert_eq!(source.errors("expired"), 1);
    assert_eq!(source.server.requests("GET").len(), 2);
    source.until_state(|state| *state == State::Running);
}

#[test]
fn what_a_deleted_pod_was_last_is_taken_over() {
    let source = Source::start(Kubernetes::default());
    source.server.put(owned("web-0", &uid(1), SET));
    source.made(5000, &path(&uid(1), 7));
    source.made(5001, &path(&uid(1), 8));
    source.until_named(5000, "container_unknown");
    source.server.change("web-0", |pod| restart(pod, &id(7), Some(&id(8))));
    source.server.delete("web-0");
    source.until_named(5000, WEB);
    source.until_named(5001, WEB);
    eventually("it is gone", || source.workloads.pods().is_empty().then_some(()));
    source.made(5002, &path(&uid(1), 7));
    assert_eq!(source.names(5002), WEB, "it is remembered for what comes late");
}

#[test]
fn missing_rights_are_named() {
    let server = ApiServer::start();
    server.forbid("/api/v1/pods");
    let source = Source::with(server, Kubernetes::default());
    source.made(5000, &path(&uid(1), 7));
    let state = source.until_state(|state| matches!(state, State::Degraded(_)));
    assert!(state.contains("the right to list pods is missing (403"), "{state}");
    assert_eq!(source.names(5000), format!("container.id={} k8s.pod.uid={}", id(7), uid(1)), "nobody waits");
    source.server.allow_all();
    source.server.forbid("/apis/batch");
    source.server.put(owned("web-0", &uid(1), ("batch/v1", "Job", "report-20240428")));
    source.server.change("web-0", |pod| run(pod, &id(7)));
    let names = WEB
        .replace("k8s.statefulset.name=web", "")
        .replace("k8s.namespace.name", "k8s.job.name=report-20240428 k8s.namespace.name");
    source.until_named(5000, names.trim_end());
    let state = source.until_state(|state| matches!(state, State::Degraded(why) if why.contains("jobs")));
    assert!(state.contains("the right to get jobs is missing"), "{state}");
    assert_eq!(source.server.requests("/jobs/").len(), 1, "asked for once");
}

#[test]
fn what_is_no_api_server_is_told() {
    let moods = [
        (Mood::Closed, "unreachable", "cannot list pods"),
        (
            Mood::Answers(200, "text/html", "<html>Sign in</html>".to_owned()),
            "not_kubernetes",
            "200 with content of type text/html",
        ),
        (Mood::Answers(200, "application/json", "<html>".to_owned()), "not_kubernetes", "is none"),
        (Mood::Answers(200, "application/json", "{\"items\": []}".to_owned()), "not_kubernetes", "no version"),
        (Mood::Answers(502, "text/html", "<html>\u{1b}[2J".to_owned()), "server", "502: Bad Gateway"),
        (
            Mood::Answers(401, "application/json", "{\"message\": \"Unauthorized\"}".to_owned()),
            "unauthorized",
            "does not know the agent",
        ),
        (Mood::Answers(429, "application/json", "{}".to_owned()), "throttled", "429"),
    ];
    for (mood, kind, words) in moods {
        let server = ApiServer::start();
        server.be(Some(mood));
        let source = Source::with(server, Kubernetes::default());
        let state = source.until_state(|state| matches!(state, State::Degraded(_)));
        assert!(state.contains(words), "{kind}: {state}");
        assert!(source.errors(kind) > 0, "{kind}: {:?}", source.workloads.sources());
        assert!(!state.contains('\u{1b}') && !state.contains("ServiceError"), "{state}");
        source.server.be(None);
        source.until_state(|state| *state == State::Running);
    }
}

/// What a real server said when it did not give what was asked for.
#[test]
fn a_real_servers_refusals_are_told() {
    let refusals = [
        ("unauthorized_expired", "unauthorized", "(401: Unauthorized); check its service account"),
        ("forbidden", "forbidden", "the right to list pods is missing (403: pods is forbidden: User"),
        // It does not know anybody's rights yet.
        ("starting_403", "forbidden", "the right to list pods is missing"),
        // Its body is JSON, and it says that it is not.
        ("etcd_down", "server", "refuses to list pods (504: Gateway Timeout)"),
    ];
    for (name, kind, words) in refusals {
        let server = ApiServer::start();
        server.be(Some(Mood::Recorded(name)));
        let source = Source::with(server, Kubernetes::default());
        let state = source.until_state(|state| matches!(state, State::Degraded(_)));
        assert!(state.contains(words), "{name}: {state}");
        assert!(source.errors(kind) > 0, "{name}: {:?}", source.workloads.sources());
        source.server.be(None);
        source.until_state(|state| *state == State::Running);
    }
    let server = ApiServer::start();
    server.be(Some(Mood::Recorded("list_too_old")));
    let source = Source::with(server, Kubernetes::default());
    eventually("it is counted", || (source.errors("expired") > 0).then_some(()));
    source.server.be(None);
    source.until_state(|state| *state == State::Running);
}

/// A list and a watch of a real server: a pod that is there, and one that is made, runs and goes.
#[test]
fn a_real_servers_pods_are_named() {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let container = |pod: &Value| {
        text(&pod["status"]["containerStatuses"][0]["containerID"]).trim_start_matches("containerd://").to_owned()
    };
    let server = ApiServer::start();
    server.replay("list");
    let source = Source::with(server, Kubernetes::default());
    let listed = json(&recorded("list").body)["items"][0].clone();
    let pod = format!("/kubepods/burstable/pod{}", text(&listed["metadata"]["uid"]));
    source.made(5000, &pod);
    let web = "k8s.deployment.name=web k8s.namespace.name=shop k8s.pod.name=web-6d4cf56db6-4x2lq";
    source.until_named(5000, web);
    source.made(5001, &format!("{pod}/{}", container(&listed)));
    source.until_named(5001, &format!("k8s.container.name=app {web}"));

    let events: Vec<Value> = recorded("watch").body.lines().map(json).collect();
    let [added, .., bookmark] = events.as_slice() else { panic!("{} events", events.len()) };
    let deleted = events.iter().find(|event| event["type"] == "DELETED").unwrap();
    let uid = text(&added["object"]["metadata"]["uid"]).replace('-', "_");
    let slice = format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice");
    source.made(5002, &format!("{slice}/cri-containerd-{}.scope", container(&deleted["object"])));
    for event in &events {
        source.server.send(&event.to_string());
    }
    source.until_named(5002, "k8s.container.name=app k8s.namespace.name=shop k8s.pod.name=db-0");
    eventually("it is gone", || (source.workloads.pods().len() == 1).then_some(()));
    assert!(source.workloads.sources()[0].errors.is_empty(), "{:?}", source.workloads.sources());

    source.server.cut();
    let watches = eventually("a second watch", || {
        let watches = source.server.requests("WATCH");
        (watches.len() == 2).then_some(watches)
    });
    let version = format!("resourceVersion={}", text(&bookmark["object"]["metadata"]["resourceVersion"]));
    assert!(watches[1].ends_with(&version), "{watches:?} should go on from the bookmark's {version}");
}

#[test]
fn what_is_no_pod_is_counted_and_left_out() {
    let source = Source::start(Kubernetes { annotations: vec!["note".to_owned()], ..Kubernetes::default() });
    source.until_state(|state| *state == State::Running);
    let odd = |name: &str, uid: &str| json!({"type": "ADDED", "object": {"metadata": {"name": name, "namespace": "shop", "uid": uid}}});
    for line in [
        "<html>".to_owned(),
        "{}".to_owned(),
        json!({"type": "ADDED", "object": {"metadata": {"name": 7}}}).to_string(),
        json!({"type": "SOMETHING", "object": {"metadata": {"resourceVersion": "1"}}}).to_string(),
        odd("web\u{1b}[2J", "a").to_string(),
        odd("web", "a\nb").to_string(),
        odd(&"x".repeat(1000), "c").to_string(),
    ] {
        source.server.send(&line);
    }
    let mut big = owned("web-0", &uid(1), SET);
    big["metadata"]["annotations"] = json!({"note": "x\n".repeat(1 << 19), "other": "y".repeat(1 << 20)});
    big["status"]["containerStatuses"][0] = json!({"name": "a\u{7}", "containerID": format!("containerd://{}", id(6))});
    source.server.put(big);
    eventually("all are counted", || (source.errors("malformed") == 8).then_some(()));
    source.made(5000, &format!("/kubepods/pod{}", uid(1)));
    eventually("the pod is known", || source.names(5000).contains("web-0").then_some(()));
    let note = format!("k8s.pod.annotation.note={} ", "x ".repeat(128).trim_end());
    assert!(source.names(5000).replace("  ", " ").contains(&note), "{}", source.names(5000));
    assert_eq!(source.workloads.pods().len(), 1);
    assert_eq!(source.server.requests("WATCH").len(), 1, "the watch goes on");
}

#[test]
fn static_pods_are_known_by_their_mirrors() {
    let source = Source::start(Kubernetes::default());
    let hash = "c1a5d4b2e8f70391aa44bb55cc66dd77";
    let mut mirror = owned("etcd-worker-1", &uid(1), ("v1", "Node", "worker-1"));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash});
    source.server.put(mirror);
    source.server.change("etcd-worker-1", |pod| run(pod, &id(7)));
    source.made(5000, &path(hash, 7));
    source.until_named(5000, "k8s.container.name=web k8s.namespace.name=shop k8s.pod.name=etcd-worker-1");
}

#[test]
fn filters_by_namespace_and_label_choose_pods() {
    let selector = parse_selector("app in (web),!canary").unwrap();
    let source = Source::start(Kubernetes { namespaces: vec!["shop".to_owned()], selector, ..Kubernetes::default() });
    let pods = [("web-0", "shop", "web", true), ("db-0", "shop", "db", false), ("web-1", "bank", "web", false)];
    for (number, (name, namespace, app, _)) in pods.iter().enumerate() {
        let mut pod = pod(name, &uid(number as u32));
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["labels"] = json!({"app": app});
        source.server.put(pod);
        source.made(5000 + number as u64, &format!("/kubepods/pod{}", uid(number as u32)));
    }
    let is_excluded = |cgroup| matches!(source.workloads.resolve(Subject::Cgroup(cgroup)), Answer::Excluded);
    let is_known = |cgroup| matches!(source.workloads.resolve(Subject::Cgroup(cgroup)), Answer::Known(_));
    for (number, (name, _, _, observed)) in pods.iter().enumerate() {
        let cgroup = 5000 + number as u64;
        eventually(name, || (if *observed { is_known(cgroup) } else { is_excluded(cgroup) }).then_some(()));
    }
    source.server.change("web-0", |pod| pod["metadata"]["labels"]["canary"] = json!("yes"));
    eventually("it is left out", || is_excluded(5000).then_some(()));
}

/// Pods of two containers, each in a cgroup of its own beside the sandbox's and the pod's.
#[test]
fn a_pod_takes_little_memory() {
    const PODS: u32 = 2000;
    let directory = directory("kubernetes-memory");
    let settings = Settings { expects: vec![Kind::Pods], ..Settings::default() };
    let workloads = Workloads::start(Hierarchy { mount: directory, whole: true }, &settings).unwrap();
    let name = |key: &'static str, value: String| (model::Text::Static(key), value.into());
    let fill = |number: u32| {
        let container = |at: u32| Container {
            id: id(4 * number + at).into(),
            names: [
                name("k8s.container.name", format!("container-{at}")),
                name("container.image.name", "registry/shop/web".into()),
            ]
            .into(),
        };
        let names = [
            name("k8s.namespace.name", "shop".into()),
            name("k8s.pod.name", format!("web-5d9c7b8f4-{number:05}")),
            name("k8s.deployment.name", "web".into()),
        ];
        let containers = vec![container(1), container(2)];
        assert!(workloads.put_pod(Pod {
            uid: uid(number).into(),
            alias: None,
            names: names.into(),
            observed: true,
            containers,
            addresses: Vec::new(),
        }));
        let made = |at: u32, path: String| {
            let id = u64::from(10 + 4 * number + at);
            workloads.changed(CgroupChange::Made { id, parent: 1, path: Some(path.into()) });
        };
        made(0, format!("/kubepods/burstable/pod{}", uid(number)));
        (1..4).for_each(|at| made(at, path(&uid(number), 4 * number + at)));
    };
    let names = allocation_counter::measure(|| (0..PODS).for_each(fill));
    let each = names.bytes_current / i64::from(PODS);
    println!("{each} B a pod");
    assert!(each < 8192, "{each} B a pod");
}

/// How long a look-up takes is printed for whoever wants to know.
#[test]
fn ten_thousand_pods_are_looked_up_in_memory() {
    const PODS: u32 = 10_000;
    let source = Source::start(Kubernetes::default());
    for number in 0..PODS {
        let name = format!("web-{number}");
        source.server.put(owned(&name, &uid(number), SET));
        source.server.change(&name, |pod| run(pod, &id(number)));
    }
    eventually("all are known", || (source.workloads.stats().containers == u64::from(PODS)).then_some(()));
    for number in 0..PODS {
        source.made(5000 + u64::from(number), &path(&uid(number), number));
    }
    let begun = Instant::now();
    let known = (0..PODS).filter(|number| {
        matches!(source.workloads.resolve(Subject::Cgroup(5000 + u64::from(*number))), Answer::Known(_))
    });
    assert_eq!(known.count(), PODS as usize);
    println!("{:.0} ns a look-up", begun.elapsed().as_nanos() as f64 / f64::from(PODS));
    let generation = source.workloads.generation();
    for number in 0..1000 {
        source.server.change(&format!("web-{number}"), |pod| pod["status"]["phase"] = json!("Running"));
    }
    source.server.put(pod("last", &uid(PODS)));
    eventually("the last is known", || (source.workloads.stats().pods == u64::from(PODS) + 1).then_some(()));
    assert_eq!(source.workloads.generation(), generation, "what changes no name disturbs nobody");
}
