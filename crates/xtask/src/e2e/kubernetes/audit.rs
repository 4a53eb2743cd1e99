//! What the agent asked for, from the API server's audit log.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::NODE;

/// The file of the log within the run's directory.
pub const LOG: &str = "audit.jsonl";

/// What is logged: neither the administrator nor what the server asks itself.
pub const POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
    - {level: None, userGroups: ['system:masters']}\n- {level: None, nonResourceURLs: ['/*']}\n- {level: Metadata}\n";

/// One request.
#[derive(Debug)]
pub struct Request {
    /// What was to be done: get, list, watch.
    pub verb: String,
    /// With the query.
    pub path: String,
    /// The status of the answer.
    pub status: u64,
}

impl Request {
    /// Tells whether this is a list of pods or the start of a watch of them.
    pub fn of_pods(&self, verb: &str) -> bool {
        self.verb == verb && self.path.starts_with("/api/v1/pods?")
    }
}

/// Gives everything that was asked, in the order of the answers; a watch that was granted counts when it begins.
///
/// # Errors
/// Fails when the log cannot be read.
pub fn requests(dir: &Path) -> Result<Vec<Request>> {
    let text = fs::read_to_string(dir.join(LOG)).context("cannot read the audit log")?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut requests = Vec::new();
    for line in complete.lines() {
        let entry: Value = serde_json::from_str(line).context("the audit log is damaged")?;
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let (verb, status) = (text("verb"), entry["responseStatus"]["code"].as_u64().unwrap_or(0));
        let begun = entry["stage"] == "ResponseStarted";
        if begun == (verb == "watch" && status == 200) {
            requests.push(Request { verb, path: text("requestURI"), status });
        }
    }
    Ok(requests)
}

/// Nothing but pods of the node is listed or watched, and no owner is asked for twice.
///
/// # Errors
/// Fails with the request that is too much.
pub fn frugal(requests: &[Request]) -> Result<String> {
    let selector = format!("fieldSelector=spec.nodeName%3D{NODE}");
    let mut owners = Vec::new();
    for request in requests.iter().filter(|request| request.status != 401) {
        let whole = request.verb == "list" || request.verb == "watch";
        let pods = request.path.starts_with("/api/v1/pods?") && request.path.contains(&selector);
        if whole && !pods {
            bail!("the agent asked for more than the pods of its node: {} {}", request.verb, request.path);
        }
        // What is not of a group is the node and the cluster's first namespace, once for each start of an agent.
        if !whole && request.status == 200 && request.path.starts_with("/apis/") {
            if owners.contains(&&request.path) {
                bail!("the agent asked twice for {}", request.path);
            }
            owners.push(&request.path);
        }
    }
    let count = |verb| requests.iter().filter(|request| request.of_pods(verb)).count();
    Ok(format!("{} lists, {} watches, {} owners", count("list"), count("watch"), owners.len()))
}
