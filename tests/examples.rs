//! The examples say what holds: configurations are ones of the agent, the unit grants what collectors need.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use runtime::Need;

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

#[test]
fn a_configuration_is_one_of_the_agent() {
    for folder in ["otel-collector", "prometheus", "systemd"] {
        let file = examples().join(folder).join("telesonde.yaml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_telesonde"));
        let output = command.args(["config", "validate", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(said, "the configuration is valid\n", "{}", file.display());
    }
}

#[test]
fn the_unit_grants_what_collectors_need() {
    let path = examples().join("systemd/telesonde.service");
    let unit = std::fs::read_to_string(&path).unwrap();
    let needs = collectors::ALL.iter().flat_map(|descriptor| descriptor.needs);
    let capability = |need: &Need| if let Need::Capability(name) = need { Some(*name) } else { None };
    let needed: BTreeSet<&str> = needs.filter_map(capability).collect();
    for key in ["AmbientCapabilities=", "CapabilityBoundingSet="] {
        let granted = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        assert_eq!(granted.split(' ').collect::<BTreeSet<_>>(), needed, "{key}");
    }
    // Its own rating: 0 is shut, 100 open; a service without any of this has 96.
    let mut command = Command::new("systemd-analyze");
    // Only where there is systemd.
    let Ok(output) = command.args(["security", "--offline=true", "--threshold=30"]).arg(&path).output() else { return };
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    // Before systemd 250 it rates only what is loaded.
    assert!(output.status.success() || said.contains("unrecognized option"), "{said}");
}
