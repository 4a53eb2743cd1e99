//! The host, as an agent in a container sees it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where an agent in a container sees what is its host's. On the host itself there is nothing to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Host {
    /// Where the host's root directory is mounted, such as /host; empty for the agent's own root.
    #[schemars(extend("x-kind" = "file"))]
    pub root: PathBuf,
    /// Where the host's cgroup hierarchies are mounted; empty for sys/fs/cgroup below root, or without one for wherever a
    /// hierarchy is to be seen whole.
    #[schemars(extend("x-kind" = "file"))]
    pub cgroup: PathBuf,
    /// Where the host's /run is mounted: the state and the sockets of container runtimes; empty for run below root.
    #[schemars(extend("x-kind" = "file"))]
    pub run: PathBuf,
}

impl Host {
    /// Gives the path at which the agent sees a file of the host, whose path begins with `/`.
    pub fn file(&self, path: &str) -> PathBuf {
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        match path.strip_prefix("/run/").filter(|_| given(&self.run)) {
            Some(below) => self.run.join(below),
            None if given(&self.root) => self.root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    /// Gives where the host's cgroup hierarchies are, unless they are wherever they are found.
    pub fn cgroups(&self) -> Option<PathBuf> {
        if !self.cgroup.as_os_str().is_empty() {
            return Some(self.cgroup.clone());
        }
        (!self.root.as_os_str().is_empty()).then(|| self.root.join("sys/fs/cgroup"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_host_are_where_it_is_mounted() {
        let host =
            |root: &str, cgroup: &str, run: &str| Host { root: root.into(), cgroup: cgroup.into(), run: run.into() };
        let cases = [
            (host("", "", ""), "/run/docker.sock", "/run/docker.sock", None),
            (host("/host", "", ""), "/run/docker.sock", "/host/run/docker.sock", Some("/host/sys/fs/cgroup")),
            (host("/host", "", ""), "/etc/passwd", "/host/etc/passwd", Some("/host/sys/fs/cgroup")),
            (host("/host", "/cg", "/run"), "/run/docker.sock", "/run/docker.sock", Some("/cg")),
            (host("", "", "/host/run"), "/run/docker.sock", "/host/run/docker.sock", None),
            (host("", "", "/host/run"), "/etc/passwd", "/etc/passwd", None),
        ];
        for (host, file, seen, cgroups) in cases {
            assert_eq!((host.file(file), host.cgroups()), (seen.into(), cgroups.map(PathBuf::from)), "{host:?}");
        }
    }
}
