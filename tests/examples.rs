//! The examples say what holds: configurations are ones of the agent, the unit grants what collectors need.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use runtime::Need;
use serde_json::Value;

use crate::harness::live;

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

/// The numbers of the capabilities of the network, of tracing and of programs.
const CAPABILITIES: [u32; 3] = [12, 38, 39];

/// What `check` says of each collector when it is run by somebody; a few are tried, of those that need the network's capability and others.
fn collectors_of(command: &mut Command) -> Vec<(String, String)> {
    command.args(["check", "--format", "json", "--set", "admin.socket="]);
    for name in ["cgroup", "connection", "dns", "file_io", "block", "scheduler", "memory"] {
        command.arg("--set").arg(format!("integrations.ebpf.collect_{name}=false"));
    }
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    report["collectors"].as_array().unwrap().iter().map(|one| (text(&one["name"]), text(&one["state"]))).collect()
}

/// As the unit has it, by ambient capabilities; and as a pod that is not root has it, by what the binary's file permits, with no more
/// than that in reach.
#[test]
fn the_agent_needs_no_root() {
    let _kernel = live!();
    let root = collectors_of(&mut Command::new(env!("CARGO_BIN_EXE_telesonde")));
    // A build below a home directory is out of reach for another user.
    let directory = std::env::temp_dir().join(format!("telesonde-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let binary = directory.join("telesonde");
    std::fs::copy(env!("CARGO_BIN_EXE_telesonde"), &binary).unwrap();
    let reach = "-all,+net_admin,+perfmon,+bpf";
    let user = ["--reuid=65532", "--regid=65532", "--clear-groups"];
    let mut ambient = Command::new("setpriv");
    ambient.args(user).arg(format!("--bounding-set={reach}")).arg(format!("--inh-caps={reach}"));
    ambient.arg(format!("--ambient-caps={reach}")).arg("--no-new-privs").arg(&binary);
    let by_unit = collectors_of(&mut ambient);
    let permitted = CAPABILITIES.iter().fold(0_u64, |set, number| set | 1 << number);
    // struct vfs_cap_data of version 2, without the flag that makes them effective.
    let words = [0x0200_0000, permitted as u32, 0, (permitted >> 32) as u32, 0];
    let data: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    rustix::fs::setxattr(&binary, "security.capability", &data, rustix::fs::XattrFlags::empty()).unwrap();
    let pod = |reach: &str| {
        let mut command = Command::new("setpriv");
        command.args(user).arg(format!("--bounding-set={reach}")).arg("--inh-caps=-all").arg(&binary);
        collectors_of(&mut command)
    };
    let (by_file, without_network) = (pod(reach), pod("-all,+perfmon,+bpf"));
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(root.iter().any(|(_, state)| state == "usable"), "{root:?}");
    assert_eq!((&by_unit, &by_file), (&root, &root));
    for descriptor in collectors::ALL {
        let state = |all: &[(String, String)]| all.iter().find(|(name, _)| name == descriptor.name).unwrap().1.clone();
        if !descriptor.needs.contains(&Need::Capability("CAP_NET_ADMIN")) {
            assert_eq!(state(&without_network), state(&root), "{} without CAP_NET_ADMIN", descriptor.name);
        }
    }
}
