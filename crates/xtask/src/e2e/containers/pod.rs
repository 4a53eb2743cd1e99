//! A pod of the chart as a container runtime of Kubernetes would start it: what Helm renders, in the words of the OCI's runtime
//! specification.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::at;
use crate::e2e::seccomp;
use crate::process;
use crate::tools::{self, Tool};

/// Helm renders YAML; this template has it render the same as JSON, one object a line.
const AS_JSON: &str = r#"{{- range list "daemonset" "configmap" }}
---
{{ include (printf "%s/%s.yaml" $.Template.BasePath .) $ | fromYaml | toJson }}
{{- end }}
"#;

/// A pod, as far as its containers are concerned.
pub struct Pod {
    /// The container with the agent.
    pub agent: Part,
    /// The one that runs before it, if any.
    pub init: Option<Part>,
    spec: Value,
    files: Value,
}

/// A container of a pod.
pub struct Part {
    /// What its image's program is given.
    pub arguments: Vec<String>,
    /// The user.
    pub user: u64,
    /// What it may have, with the prefix of the kernel's names.
    pub capabilities: Vec<String>,
    container: Value,
}

impl Part {
    fn of(container: &Value) -> Result<Self> {
        let words = |pointer: &str| -> Result<Vec<String>> {
            let words = at(container, pointer)?.as_array().into_iter().flatten();
            Ok(words.filter_map(|word| word.as_str().map(str::to_owned)).collect())
        };
        ensure!(
            words("/securityContext/capabilities/drop")? == ["ALL"],
            "the chart leaves capabilities to the runtime"
        );
        let capabilities = words("/securityContext/capabilities/add")?;
        Ok(Self {
            arguments: words("/args")?,
            user: at(container, "/securityContext/runAsUser")?.as_u64().context("a user is no number")?,
            capabilities: capabilities.iter().map(|name| format!("CAP_{name}")).collect(),
            container: container.clone(),
        })
    }
}

impl Pod {
    /// Renders the chart with some values, in a directory of its own.
    ///
    /// # Errors
    /// Fails when Helm does, or what it renders is no pod.
    pub fn of_chart(dir: &Path, values: &[&str]) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let chart = dir.join("chart");
        process::must(Command::new("cp").arg("-r").arg(process::root().join("charts/telesonde")).arg(&chart))?;
        fs::write(chart.join("templates/as-json.yaml"), AS_JSON)?;
        let mut helm = Command::new(tools::install(Tool::Helm)?);
        helm.args(["template", "telesonde", "--kube-version", "1.36.0", "--show-only", "templates/as-json.yaml"]);
        helm.args(values.iter().flat_map(|value| ["--set", value])).arg(&chart);
        let rendered = process::output(&mut helm).context("helm renders nothing")?;
        let objects: Vec<Value> = rendered.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).context(kind.to_owned());
        let spec = at(of_kind("DaemonSet")?, "/spec/template/spec")?.clone();
        Ok(Self {
            agent: Part::of(at(&spec, "/containers/0")?)?,
            init: spec.pointer("/initContainers/0").map(Part::of).transpose()?,
            files: at(of_kind("ConfigMap")?, "/data")?.clone(),
            spec,
        })
    }

    /// Writes the bundle of a container, with other arguments.
    ///
    /// # Errors
    /// Fails when the pod has what is not known here.
    pub fn write(&self, part: &Part, bundle: &Path, root: &Path, arguments: &[&str]) -> Result<()> {
        let _ = fs::remove_file(bundle.join("config.json"));
        process::must(Command::new("runc").args(["spec", "--bundle"]).arg(bundle))?;
        let mut config: Value = serde_json::from_str(&fs::read_to_string(bundle.join("config.json"))?)?;
        let security = at(&part.container, "/securityContext")?;
        let group = security["runAsGroup"].as_u64().unwrap_or(0);
        let (program, all) = ([&["/usr/bin/telesonde"], arguments].concat(), &part.capabilities);
        config["process"] = json!({
            "user": {"uid": part.user, "gid": group},
            "args": program,
            "env": ["PATH=/usr/bin", "NODE_NAME=node", "POD_NAME=pod", "POD_NAMESPACE=telesonde"],
            "cwd": "/",
            // Kubernetes has no ambient ones: the user gets them by the program's file, root by being root.
            "capabilities": {"bounding": all, "effective": all, "permitted": all, "inheritable": [], "ambient": []},
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
        });
        config["root"] = json!({"path": root, "readonly": security["readOnlyRootFilesystem"] == true});
        let mounts = config["mounts"].as_array_mut().context("runc mounts nothing")?;
        for mount in at(&part.container, "/volumeMounts")?.as_array().into_iter().flatten() {
            mounts.push(self.mount(bundle, mount)?);
        }
        let shares = |key: &str| self.spec[key] == true;
        let namespaces = config["linux"]["namespaces"].as_array_mut().context("runc makes no namespaces")?;
        namespaces.retain(|one| {
            !(one["type"] == "pid" && shares("hostPID") || one["type"] == "network" && shares("hostNetwork"))
        });
        // As kubelets do where version 2 of cgroups is primary.
        if !Path::new("/sys/fs/cgroup/memory").exists() && !namespaces.iter().any(|one| one["type"] == "cgroup") {
            namespaces.push(json!({"type": "cgroup"}));
        }
        if self.spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault" {
            config["linux"]["seccomp"] = default_profile(&part.capabilities)?;
        }
        fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(())
    }

    /// Gives a mount with what is mounted, which is made if it is the pod's own.
    fn mount(&self, bundle: &Path, mount: &Value) -> Result<Value> {
        let volumes = at(&self.spec, "/volumes")?.as_array().into_iter().flatten();
        let name = &mount["name"];
        let volume =
            volumes.into_iter().find(|volume| volume["name"] == *name).with_context(|| format!("no volume {name}"))?;
        let own = bundle.join("volumes").join(name.as_str().unwrap_or_default());
        let source = if let Some(path) = volume["hostPath"]["path"].as_str() {
            // As the kubelet does.
            if volume["hostPath"]["type"] == "DirectoryOrCreate" {
                fs::create_dir_all(path)?;
            }
            PathBuf::from(path)
        } else {
            fs::create_dir_all(&own)?;
            if volume["emptyDir"].is_object() {
                fs::set_permissions(&own, fs::Permissions::from_mode(0o777))?;
            } else if volume["configMap"].is_object() {
                for (file, text) in self.files.as_object().into_iter().flatten() {
                    fs::write(own.join(file), text.as_str().unwrap_or_default())?;
                }
            } else {
                bail!("the volume {name} is of a kind that is not known here");
            }
            own
        };
        let access = if mount["readOnly"] == true { "ro" } else { "rw" };
        Ok(
            json!({"destination": mount["mountPath"], "type": "bind", "source": source, "options": ["rbind", "rprivate", access]}),
        )
    }
}

/// Gives the profile of system calls that a runtime has by default, as it is for these capabilities.
fn default_profile(capabilities: &[String]) -> Result<Value> {
    let profile = seccomp::profile()?;
    let held = |cap: &str| capabilities.iter().any(|own| own == cap);
    let caps = |caps: &Value| -> Vec<bool> {
        caps.as_array().into_iter().flatten().filter_map(Value::as_str).map(held).collect()
    };
    let architecture = if std::env::consts::ARCH == "x86_64" { "amd64" } else { "arm64" };
    let is_for = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let here = includes["arches"].as_array().is_none_or(|all| all.iter().any(|one| one == architecture));
        let some = rule["names"].as_array().is_some_and(|names| !names.is_empty());
        some && here && caps(&includes["caps"]).into_iter().all(|has| has) && !caps(&excludes["caps"]).contains(&true)
    };
    let converted = |rule: &Value| {
        let mut kept = json!({"names": rule["names"], "action": rule["action"]});
        for key in ["args", "errnoRet"] {
            let value = &rule[key];
            if value.as_array().is_none_or(|list| !list.is_empty()) && !value.is_null() {
                kept[key] = value.clone();
            }
        }
        kept
    };
    let rules = profile["syscalls"].as_array().into_iter().flatten().filter(is_for).map(converted);
    let mut all = json!({"defaultAction": profile["defaultAction"], "syscalls": rules.collect::<Vec<_>>()});
    if let Some(errno) = profile["defaultErrnoRet"].as_u64() {
        all["defaultErrnoRet"] = json!(errno);
    }
    Ok(all)
}
