//! Services of the cluster and their endpoints as names of peers: what is asked for, and what series then carry.

use std::net::IpAddr;
use std::sync::Arc;

use enrich::kubernetes::{ENDPOINT_SLICES, Kubernetes, SERVICES as SOURCE};
use enrich::peers::Addresses;
use enrich::{Hierarchy, Services, Settings, State, Workloads};
use model::Attributes;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::live::enrich;
use crate::harness::agent::{Agent, Wish};
use crate::harness::apiserver::{ApiServer, NODE, SERVICES, SLICES};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::peer::Peer;
use crate::harness::traffic::Traffic;
use crate::harness::{directory, eventually, live};

fn service(name: &str, address: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("service-{name}")},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "targetPort": 7000}]},
        "status": {"loadBalancer": {}},
    })
}

fn slice(service: &str, number: u32, endpoints: &[(&str, Option<&str>)]) -> Value {
    let endpoint = |(address, pod): &(&str, Option<&str>)| {
        let target = pod.map(|pod| json!({"kind": "Pod", "name": pod, "namespace": "shop"}));
        json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": target, "nodeName": "worker-2"})
    };
    json!({
        "metadata": {
            "name": format!("{service}-{number}"), "namespace": "shop", "uid": format!("slice-{service}-{number}"),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "", "port": 7000, "protocol": "TCP"}],
    })
}

/// The watches by themselves.
struct Watched {
    server: ApiServer,
    services: Arc<Services>,
    workloads: Arc<Workloads>,
    _runtime: Runtime,
}

impl Watched {
    fn start(server: ApiServer) -> Self {
        let directory = directory("services");
        std::fs::create_dir_all(directory.join("cgroups")).unwrap();
        let hierarchy = Hierarchy { mount: directory.join("cgroups"), whole: true };
        let workloads = Workloads::start(hierarchy, &Settings::default()).map(Arc::new).unwrap();
        let (services, runtime) = (Arc::<Services>::default(), Runtime::new().unwrap());
        let kubeconfig = Some(server.kubeconfig(&directory));
        let options = Kubernetes { node: NODE.to_owned(), kubeconfig, ..Kubernetes::default() };
        runtime.spawn(options.follow_services(Arc::clone(&services), Arc::clone(&workloads)));
        Self { server, services, workloads, _runtime: runtime }
    }

    fn until_named(&self, address: &str, port: u16, names: &str) {
        let address: IpAddr = address.parse().unwrap();
        let text = |set: Option<Arc<Attributes>>| {
            let set = set.unwrap_or_default();
            set.pairs().iter().map(|pair| pair.value.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        eventually(names, || (text(self.services.owner(address, port)) == names).then_some(()));
    }

    fn until_state(&self, source: &str, is: impl Fn(&State) -> bool) -> State {
        eventually("the source's state", || {
            let all = self.workloads.sources().into_iter();
            all.filter(|one| one.name == source).map(|one| one.state).find(|state| is(state))
        })
    }
}

#[test]
fn services_come_and_go() {
    let server = ApiServer::start();
    server.put_at(SERVICES, service("web", "10.96.0.1"));
    server.put_at(SERVICES, service("db", "None"));
    server.put_at(SLICES, slice("web", 1, &[("10.0.1.1", Some("web-0")), ("10.0.1.2", Some("web-1"))]));
    let watched = Watched::start(server);
    watched.until_named("10.96.0.1", 0, "shop web");
    watched.until_named("10.0.1.2", 7000, "shop web-1 web");
    watched.until_named("10.0.1.2", 0, "");
    let server = &watched.server;
    server.put_at(SLICES, slice("db", 1, &[("10.0.1.3", None)]));
    watched.until_named("10.0.1.3", 7000, "shop db");
    server.put_at(SERVICES, service("web", "10.96.0.2"));
    watched.until_named("10.96.0.2", 80, "shop web");
    watched.until_named("10.96.0.1", 80, "");
    let mut balanced = service("web", "10.96.0.2");
    balanced["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.7"}, {"hostname": "web.example"}]);
    server.put_at(SERVICES, balanced);
    watched.until_named("192.0.2.7", 80, "shop web");
    watched.until_named("192.0.2.7", 22, "");
    server.put_at(SLICES, slice("web", 1, &[("10.0.1.9", Some("web-0"))]));
    watched.until_named("10.0.1.9", 7000, "shop web-0 web");
    watched.until_named("10.0.1.1", 7000, "");
    server.delete_at(SLICES, "web-1");
    watched.until_named("10.0.1.9", 7000, "");
    // What went while nobody watched is gone from the next list.
    server.compact();
    server.cut();
    server.put_at(SERVICES, json!({"metadata": {"name": "broken"}}));
    server.delete_at(SERVICES, "web");
    watched.until_named("10.96.0.2", 80, "");
    let errors = watched.workloads.sources().into_iter().find(|one| one.name == SOURCE).unwrap().errors;
    assert!(errors.get("malformed") >= Some(&1), "{errors:?}");
    for source in [SOURCE, ENDPOINT_SLICES] {
        watched.until_state(source, |state| *state == State::Running);
    }
    let lists = server.requests(&format!("GET {SERVICES}"));
    assert!(lists.iter().all(|list| list.contains("resourceVersion=0")), "{lists:?}");
}

#[test]
fn a_right_that_is_missing_is_named() {
    let server = ApiServer::start();
    server.forbid(SLICES);
    server.put_at(SERVICES, service("web", "10.96.0.1"));
    let watched = Watched::start(server);
    let state = watched.until_state(ENDPOINT_SLICES, |state| matches!(state, State::Degraded(_)));
    assert!(state.why().unwrap().contains("the right to list endpointslices is missing"), "{state}");
    watched.until_named("10.96.0.1", 80, "shop web");
    watched.server.allow_all();
    watched.until_state(ENDPOINT_SLICES, |state| *state == State::Running);
}

/// A service's address and its endpoints have its name, with the totals of all; other ports of an endpoint have not.
#[test]
fn peers_are_services() {
    const BYTES: &str = "ebpf_connection_bytes_total";
    let _kernel = live!();
    let server = ApiServer::start();
    server.put_at(SERVICES, service("web", "10.96.0.1"));
    server.put_at(SLICES, slice("db", 1, &[("10.99.0.9", Some("db-0")), ("10.99.0.2", Some("db-1"))]));
    let pair = Pair::new();
    pair.client.ip(&["route", "add", "10.96.0.0/16", "dev", "veth", "src", "10.99.0.1"]);
    for address in ["10.96.0.1", "10.99.0.9"] {
        let to = ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"];
        pair.client.ip(&[&["neighbour", "add", address], &to[..]].concat());
    }
    let (mut all, mut asked) = (Vec::new(), Vec::new());
    let requests = || [SERVICES, SLICES].map(|path| server.requests(path).len());
    for wanted in [true, false] {
        let before = requests();
        let enrich = enrich(&server, &format!(", services: {wanted}"));
        let collectors = [
            "connection: {enabled: require}",
            "network: {enabled: require, peers: true}",
            "tcp: {enabled: require, peers: true}",
        ];
        let agent = Agent::start(Wish { collectors: &collectors, enrich: &enrich, node: NODE, ..Wish::default() });
        if wanted {
            eventually("the sources run", || {
                let status = agent.status()?;
                let runs = |source: &str| status["enrichment"]["sources"][source]["state"] == "running";
                (runs(SOURCE) && runs(ENDPOINT_SLICES)).then_some(())
            });
        }
        let cgroup = |name: &str| Cgroup::new(&format!("{name}-{wanted}"));
        let (sender, receiver, caller) = (cgroup("to-services"), cgroup("behind-service"), cgroup("calls-service"));
        let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", "10.99.0.2", "7000", "101"]);
        for (address, port) in
            [("10.96.0.1", "80"), ("10.99.0.9", "7000"), ("10.99.0.9", "7001"), ("10.99.0.2", "7000")]
        {
            Traffic::run(&pair.client, &sender, &["udp_send", address, port, "101", "300"]);
        }
        receiving.finish();
        let sent = 101.0 * 328.0;
        let own = ("source_cgroup_path", sender.path());
        let read = |labels: &[(&str, &str)]| {
            agent.until_exactly(&format!("{labels:?}"), (if wanted { sent } else { 0.0 }, 0.0), |scrape| {
                (scrape.sum(BYTES, labels), 0.0)
            });
        };
        agent.until_exactly("all", (4.0 * sent, 0.0), |scrape| (scrape.sum(BYTES, &[own]), 0.0));
        let (namespace, name) = (("destination_k8s_namespace_name", "shop"), "destination_k8s_service_name");
        read(&[own, namespace, (name, "web")]);
        read(&[own, namespace, (name, "db"), ("destination_k8s_pod_name", "db-0")]);
        read(&[own, namespace, (name, "db"), ("destination_cgroup_path", receiver.path())]);
        // Whatever the port, an endpoint's address is of its node; who is on this one is known without services.
        let on = |node: &str, bytes: f64| {
            let labels = [own, ("destination_k8s_node_name", node)];
            agent.until_exactly(node, (bytes, 0.0), |scrape| (scrape.sum(BYTES, &labels), 0.0));
        };
        on("worker-2", if wanted { 2.0 * sent } else { 0.0 });
        on(NODE, sent);
        let here = [own, ("source_k8s_node_name", NODE)];
        assert_eq!(agent.scrape().sum(BYTES, &here), 4.0 * sent);
        let peer = [("cgroup_path", sender.path()), ("peer_k8s_node_name", "worker-2")];
        let traffic = agent.scrape().sum("ebpf_network_bytes_total", &peer);
        assert_eq!(traffic, if wanted { 2.0 * sent } else { 0.0 });
        let network = [("cgroup_path", sender.path()), ("peer_k8s_service_name", "web")];
        let scrape = agent.scrape();
        assert_eq!(scrape.sum("ebpf_network_bytes_total", &network), if wanted { sent } else { 0.0 });
        let mut peer = Peer::start(&caller, &pair.client);
        peer.ask("begin 10.96.0.1 80 3");
        peer.ask("close 3");
        let own_calls = ("cgroup_path", caller.path());
        let scrape = agent.until("calls that were given up", |scrape| {
            (scrape.sum("ebpf_tcp_connect_errors_total", &[own_calls]) == 3.0).then(|| scrape.clone())
        });
        let named = [own_calls, ("peer_k8s_service_name", "web"), ("peer_k8s_namespace_name", "shop")];
        assert_eq!(scrape.sum("ebpf_tcp_connect_errors_total", &named), if wanted { 3.0 } else { 0.0 });
        all.push([scrape.sum(BYTES, &[own]), scrape.sum("ebpf_network_bytes_total", &network[..1])]);
        agent.stop();
        let [services, slices] = requests();
        assert_eq!(services - before[0], slices - before[1]);
        asked.push(services - before[0]);
    }
    assert_eq!(all[0], all[1], "the totals are the same");
    assert_eq!(asked, [2, 0], "a list and a watch of each, by wish alone");
}
