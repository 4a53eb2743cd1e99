//! Leases as an API server keeps them: made once, replaced only by who knows the present version.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The path of the Leases of the namespace that an agent's credentials are for.
const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

/// All Leases, by name.
#[derive(Default)]
pub struct Leases(BTreeMap<String, Value>);

impl Leases {
    /// Says whether a path is one of Leases.
    pub fn has(path: &str) -> bool {
        path.starts_with(PATH)
    }

    /// Answers a request; `version` is what the object becomes if it changes.
    pub fn answer(&mut self, method: &str, path: &str, body: &[u8], version: u64) -> (u16, Value) {
        let name = path[PATH.len()..].trim_start_matches('/');
        let said = |body: &[u8]| -> Value {
            let lease: Value = serde_json::from_slice(body).unwrap();
            let spec = &lease["spec"];
            assert!(spec["holderIdentity"].is_string() && spec["leaseDurationSeconds"].as_u64() > Some(0), "{lease}");
            for time in ["acquireTime", "renewTime"] {
                // MicroTime: 2006-01-02T15:04:05.000000Z
                let text = spec[time].as_str().unwrap();
                assert!(text.len() == 27 && text.ends_with('Z') && text.as_bytes()[19] == b'.', "{time}: {text}");
            }
            lease
        };
        match method {
            "GET" => match self.0.get(name) {
                Some(lease) => (200, lease.clone()),
                None => refusal(404, "NotFound", &format!("leases.coordination.k8s.io {name:?} not found")),
            },
            "POST" => {
                let mut lease = said(body);
                let name = lease["metadata"]["name"].as_str().unwrap().to_owned();
                if self.0.contains_key(&name) {
                    let why = format!("leases.coordination.k8s.io {name:?} already exists");
                    return refusal(409, "AlreadyExists", &why);
                }
                lease["metadata"]["namespace"] = json!("default");
                lease["metadata"]["uid"] = json!("lease");
                lease["metadata"]["resourceVersion"] = json!(version.to_string());
                self.0.insert(name, lease.clone());
                (201, lease)
            }
            "PUT" => {
                let mut lease = said(body);
                let known = &self.0[name]["metadata"]["resourceVersion"];
                if *known != lease["metadata"]["resourceVersion"] {
                    let why = format!(
                        "Operation cannot be fulfilled on leases.coordination.k8s.io {name:?}: the object has been \
                         modified; please apply your changes to the latest version and try again"
                    );
                    return refusal(409, "Conflict", &why);
                }
                lease["metadata"]["resourceVersion"] = json!(version.to_string());
                self.0.insert(name.to_owned(), lease.clone());
                (200, lease)
            }
            method => panic!("{method} of a Lease"),
        }
    }

    /// Gives what its holder has noted.
    pub fn note(&self, name: &str) -> Option<String> {
        Some(self.0.get(name)?["metadata"]["annotations"]["telesonde.io/note"].as_str()?.to_owned())
    }

    /// Gives who holds one.
    pub fn holder(&self, name: &str) -> Option<String> {
        let holder = self.0.get(name)?["spec"]["holderIdentity"].as_str()?;
        (!holder.is_empty()).then(|| holder.to_owned())
    }
}

fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    (code, status)
}
