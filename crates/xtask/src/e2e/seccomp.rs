//! The profile of system calls that containers have by default, as Podman's package brings it, of a runtime that knows what
//! `CAP_BPF` and `CAP_PERFMON` are for.

use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Where it is.
pub const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// Reads it.
///
/// # Errors
/// Fails when there is none, or it is none.
pub fn profile() -> Result<Value> {
    let text = fs::read_to_string(PROFILE).with_context(|| format!("cannot read {PROFILE}"))?;
    let mut profile: Value = serde_json::from_str(&text).with_context(|| PROFILE.to_owned())?;
    let rules = profile["syscalls"].as_array_mut().with_context(|| format!("{PROFILE} has no system calls"))?;
    let granted = [("bpf", "CAP_BPF"), ("perf_event_open", "CAP_PERFMON")];
    for rule in rules.iter_mut().filter(|rule| rule["action"] != "SCMP_ACT_ALLOW") {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| granted.iter().all(|(call, _)| name != call));
        }
    }
    rules.extend(granted.map(|(call, capability)| {
        json!({"names": [call], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {"caps": [capability]}, "excludes": {}})
    }));
    Ok(profile)
}
