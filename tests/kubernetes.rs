//! Names from Kubernetes, against an API server within the test.

mod filter;
mod hostile;
mod identity;
mod live;
mod many;
mod services;
mod source;

use serde_json::{Value, json};

/// Makes the UID of a pod by number.
fn uid(number: u32) -> String {
    format!("{number:08x}-3a02-4b1e-9f0f-2d4c67a8e913")
}

/// Makes the id of a container by number.
fn id(number: u32) -> String {
    format!("{number:064x}")
}

/// A pod of the namespace `shop` with one container, `web`, that has not been started yet.
fn pod(name: &str, uid: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": uid, "creationTimestamp": "2024-04-28T12:00:00Z",
            "labels": {"app": name.split('-').next()},
        },
        "spec": {"containers": [{"name": "web", "image": "nginx:1.27"}]},
        "status": {"phase": "Pending", "containerStatuses": [
            {"name": "web", "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}},
        ]},
    })
}

/// The same, owned by something.
fn owned(name: &str, uid: &str, kind: (&str, &str, &str)) -> Value {
    let mut pod = pod(name, uid);
    let (api, kind, owner) = kind;
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": api, "kind": kind, "name": owner, "uid": format!("uid-{owner}"), "controller": true}]);
    pod
}

/// Notes that the container `web` runs.
fn run(pod: &mut Value, id: &str) {
    pod["status"]["phase"] = json!("Running");
    let status = &mut pod["status"]["containerStatuses"][0];
    status["containerID"] = json!(format!("containerd://{id}"));
    status["state"] = json!({"running": {"startedAt": "2024-04-28T12:00:01Z"}});
}

/// Notes that the container `web` was started anew: of the one before it only its end is told.
fn restart(pod: &mut Value, ended: &str, id: Option<&str>) {
    let status = &mut pod["status"]["containerStatuses"][0];
    status["lastState"] = json!({"terminated": {"exitCode": 1, "containerID": format!("containerd://{ended}")}});
    match id {
        Some(id) => run(pod, id),
        None => status["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}}),
    }
}
