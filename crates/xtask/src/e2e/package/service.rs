//! A unit of systemd, started without systemd: its command, with the user, capabilities and limits that it names.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit};

/// One of the users that systemd gives a service for as long as it runs.
const DYNAMIC_USER: u32 = 62_742;

/// The capabilities that a unit may name, with their numbers.
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// The settings of a unit, in their order.
pub struct Service {
    settings: Vec<(String, String)>,
}

impl Service {
    /// Reads a unit.
    ///
    /// # Errors
    /// Fails when it is not there.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::parse(&fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with(['#', ';', '[']));
        let settings = lines.filter_map(|line| line.split_once('='));
        Self { settings: settings.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect() }
    }

    fn get(&self, key: &str) -> Result<&str> {
        let found = self.settings.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the unit has no {key}="))
    }

    /// Gives the set of capabilities that the service is started with, as the kernel numbers them.
    ///
    /// # Errors
    /// Fails when there is none, or one that is not known here.
    pub fn capabilities(&self) -> Result<u64> {
        self.get("AmbientCapabilities")?.split_whitespace().try_fold(0, |set, name| {
            let known = CAPABILITIES.iter().find(|(known, _)| *known == name);
            let (_, number) = known.with_context(|| format!("AmbientCapabilities= names {name}, unknown here"))?;
            Ok(set | 1 << number)
        })
    }

    /// Gives a limit as prlimit takes it: the unit's, or the most that whoever runs this may have, if that is less.
    fn limit(&self, key: &str, resource: Resource) -> Result<String> {
        let text = self.get(key)?;
        let wanted = match text {
            "infinity" => u64::MAX,
            number => number.parse().with_context(|| format!("{key}={number} is no number"))?,
        };
        let given = wanted.min(getrlimit(resource).maximum.unwrap_or(u64::MAX));
        Ok(if given == u64::MAX { "unlimited".to_owned() } else { given.to_string() })
    }

    /// Gives the service's command, and makes the directory that it is promised.
    ///
    /// # Errors
    /// Fails when a setting is missing that the command takes, or the directory cannot be made.
    pub fn command(&self) -> Result<Command> {
        if self.get("DynamicUser")? != "yes" || self.get("NoNewPrivileges")? != "yes" {
            bail!("the unit should have DynamicUser=yes and NoNewPrivileges=yes");
        }
        let runtime = Path::new("/run").join(self.get("RuntimeDirectory")?);
        fs::create_dir_all(&runtime).with_context(|| format!("cannot make {}", runtime.display()))?;
        chown(&runtime, Some(DYNAMIC_USER), Some(DYNAMIC_USER))?;
        let sets = |key: &str| -> Result<String> {
            let names = self.get(key)?.split_whitespace().map(|name| name.trim_start_matches("CAP_").to_lowercase());
            Ok(std::iter::once("-all".to_owned())
                .chain(names.map(|name| format!("+{name}")))
                .collect::<Vec<_>>()
                .join(","))
        };
        let (ambient, bounding) = (sets("AmbientCapabilities")?, sets("CapabilityBoundingSet")?);
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={}", self.limit("LimitNOFILE", Resource::Nofile)?));
        command.arg(format!("--memlock={}", self.limit("LimitMEMLOCK", Resource::Memlock)?));
        command.args(["setpriv", "--clear-groups", "--no-new-privs"]);
        command.args([format!("--reuid={DYNAMIC_USER}"), format!("--regid={DYNAMIC_USER}")]);
        command.args([format!("--bounding-set={bounding}"), format!("--inh-caps={ambient}")]);
        command.arg(format!("--ambient-caps={ambient}"));
        command.args(self.get("ExecStart")?.split_whitespace());
        // As a service starts: nothing of whoever runs this.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin").current_dir("/");
        command.env("RUNTIME_DIRECTORY", &runtime);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_settings() {
        let unit = "# As no root.\n[Service]\nExecStart=/usr/bin/x run\nAmbientCapabilities=CAP_BPF CAP_NET_ADMIN\n";
        let service = Service::parse(unit);
        assert_eq!(service.get("ExecStart").unwrap(), "/usr/bin/x run");
        assert_eq!(service.capabilities().unwrap(), 1 << 39 | 1 << 12);
        assert!(service.get("User").unwrap_err().to_string().contains("no User="));
        let other = Service::parse("AmbientCapabilities=CAP_SYS_ADMIN\n");
        assert!(other.capabilities().unwrap_err().to_string().contains("CAP_SYS_ADMIN"));
    }
}
