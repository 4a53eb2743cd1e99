//! Pods as the API writes them, and as nobody should.

use super::*;

/// A pod with an init container that has ended, a sidecar, a container that was restarted and an ephemeral one.
const POD: &str = r#"{
  "kind": "Pod", "apiVersion": "v1",
  "metadata": {
    "name": "web-5d9c7b8f4-x2x7k", "namespace": "shop", "uid": "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913",
    "resourceVersion": "1042", "creationTimestamp": "2024-04-28T12:00:00Z",
    "labels": {"app": "web", "pod-template-hash": "5d9c7b8f4"},
    "annotations": {"note": "line 1\nline 2", "big": "BIG", "number": "7"},
    "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9c7b8f4", "uid": "9", "controller": true}]
  },
  "spec": {
    "nodeName": "worker-1", "hostNetwork": true,
    "initContainers": [{"name": "migrate", "image": "registry:5000/shop/migrate:3@sha256:00"},
                       {"name": "mesh", "image": "mesh", "restartPolicy": "Always"}],
    "containers": [{"name": "web", "image": "nginx:1.27"}],
    "ephemeralContainers": [{"name": "debugger-x", "image": "busybox@sha256:00"}]
  },
  "status": {
    "phase": "Running", "podIP": "10.0.0.7",
    "initContainerStatuses": [
      {"name": "migrate", "containerID": "containerd://a1", "state": {"terminated": {"exitCode": 0, "containerID": "containerd://a1"}}, "lastState": {}},
      {"name": "mesh", "containerID": "containerd://a2", "state": {"running": {}}, "lastState": {}}],
    "containerStatuses": [
      {"name": "web", "containerID": "containerd://b2", "state": {"running": {"startedAt": "2024-04-28T12:01:00Z"}},
       "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://b1"}}, "restartCount": 1},
      {"name": "waiting", "containerID": "", "state": {"waiting": {"reason": "ContainerCreating"}}}],
    "ephemeralContainerStatuses": [{"name": "debugger-x", "containerID": "cri-o://c1", "state": null}]
  }
}"#;

fn read(text: &str) -> Object<'_> {
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_sort_of_container_is_found() {
    let pod = read(POD);
    let found: Vec<_> = pod.containers().collect();
    let expected = [
        ("migrate", Some("registry:5000/shop/migrate"), "a1"),
        ("migrate", Some("registry:5000/shop/migrate"), "a1"),
        ("mesh", Some("mesh"), "a2"),
        ("web", Some("nginx"), "b1"),
        ("web", Some("nginx"), "b2"),
        ("debugger-x", Some("busybox"), "c1"),
    ];
    assert_eq!(found, expected);
    assert_eq!(pod.metadata.owner().map(|owner| owner.name.as_str()), Some("web-5d9c7b8f4"));
    assert!(pod.metadata.created().is_some() && pod.metadata.is_sound());
}

#[test]
fn only_what_is_wanted_is_kept() {
    let text = POD.replace("BIG", &"x".repeat(1 << 20));
    let pod = read(&text);
    let annotations = pod.metadata.annotations(|key| key == "note").unwrap();
    assert_eq!(annotations, BTreeMap::from([("note".to_owned(), "line 1\nline 2".to_owned())]));
    assert_eq!(pod.metadata.labels(|key| key == "app").unwrap().len(), 1);
    assert_eq!(pod.metadata.labels(|_| true).unwrap().len(), 2);
    assert!(
        read(r#"{"metadata": {"name": "a", "uid": "b", "labels": null}}"#)
            .metadata
            .labels(|_| true)
            .unwrap()
            .is_empty()
    );
    assert_eq!(value(&annotations["note"]), "line 1 line 2");
    assert_eq!(value(&"ä".repeat(200)).len(), LONGEST_VALUE);
}

#[test]
fn what_is_no_pod_is_refused() {
    let broken = [
        "",
        "{}",
        "[]",
        "null",
        "<html>",
        r#"{"metadata": {}}"#,
        r#"{"metadata": {"name": 7, "uid": "b"}}"#,
        r#"{"metadata": {"name": "a", "uid": "b"}, "status": {"containerStatuses": [{"containerID": 9}]}}"#,
        r#"{"metadata": {"name": "a", "uid": "b"}, "status": 7}"#,
    ];
    for text in broken {
        assert!(serde_json::from_str::<Object<'_>>(text).is_err(), "{text}");
    }
    let deep =
        format!(r#"{{"metadata": {{"name": "a", "uid": "b"}}, "spec": {}1{}}}"#, "[".repeat(9999), "]".repeat(9999));
    assert!(serde_json::from_str::<Object<'_>>(&deep).is_err());
    assert!(read(r#"{"metadata": {"name": "a", "uid": "b", "labels": 7}}"#).metadata.labels(|_| true).is_err());
    let named = |name: &str| {
        let text = serde_json::json!({"metadata": {"name": name, "namespace": "n", "uid": "u"}}).to_string();
        read(&text).metadata.is_sound()
    };
    assert!(named("web-0") && !named("") && !named("a\nb") && !named("a\u{1b}[2J") && !named(&"x".repeat(254)));
}

#[test]
fn addresses_of_the_node_and_of_what_has_ended_are_not_the_pods() {
    let own = POD
        .replace("\"hostNetwork\": true,", "")
        .replace("\"podIP\"", "\"podIPs\": [{\"ip\": \"fd00::7\"}, {\"ip\": \"x\"}], \"podIP\"");
    let addresses: Vec<String> = read(&own).addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.7", "fd00::7"]);
    assert!(read(POD).addresses().is_empty(), "of the node");
    assert!(read(&own.replace("\"Running\"", "\"Failed\"")).addresses().is_empty(), "ended");
}
