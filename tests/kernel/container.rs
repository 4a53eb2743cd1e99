//! The agent in a container: in namespaces of its own, with what it is shown of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{Cgroup, mount};
use crate::harness::{directory, live, path_of, skipped, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";

/// Hides hierarchies that this machine has mounted elsewhere.
const HIDE: &str = "
for mount in $(awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts); do
    case $mount in /sys/fs/cgroup*) ;; *) umount -l $mount ;; esac
done";
/// Mounts the host's hierarchies at another place, and in theirs what a container sees of its own.
const VOLUME: &str = "mkdir -p $HERE/host && mount --rbind /sys/fs/cgroup $HERE/host";
const PRIVATE: &str = "
if [ -d /sys/fs/cgroup/memory ]; then
    mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/memory /sys/fs/cgroup/unified &&
    mount -t cgroup -o memory none /sys/fs/cgroup/memory && mount -t cgroup2 none /sys/fs/cgroup/unified
else
    umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup
fi";

/// All namespaces that hide something from an agent; it ends with its parent, which does not pass signals on.
const IN_ALL: &str = "--mount --cgroup --pid --fork --kill-child --mount-proc";

/// A program that enters a cgroup and namespaces, prepares them, and becomes the agent.
struct Container {
    directory: PathBuf,
    cgroup: Cgroup,
}

impl Container {
    fn new(namespaces: &str, mounts: &[&str], arguments: &str) -> Self {
        let (directory, cgroup) = (directory("container"), Cgroup::new("container"));
        let outside = format!(
            "#!/bin/sh\nexport HERE={0}\necho $$ > {1}/cgroup.procs\nexec {2} {namespaces} {0}/inside \"$@\"\n",
            directory.display(),
            cgroup.directory().display(),
            path_of("unshare").display(),
        );
        let program = env!("CARGO_BIN_EXE_telesonde");
        let inside = format!("#!/bin/sh\nset -e{HIDE}\n{}\nexec {program} \"$@\" {arguments}\n", mounts.join("\n"));
        for (name, script) in [("agent", outside), ("inside", inside)] {
            fs::write(directory.join(name), script).unwrap();
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { directory, cgroup }
    }

    fn program(&self) -> PathBuf {
        self.directory.join("agent")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.directory.join("host"));
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Says whether the hierarchy is where containers expect it: the tests cover it there.
fn is_usual() -> bool {
    mount().is_ok_and(|mount| mount.starts_with("/sys/fs/cgroup"))
}

fn finding<'v>(report: &'v Value, what: &str) -> &'v Value {
    report["host"].as_array().unwrap().iter().find(|finding| finding["what"] == what).unwrap()
}

fn wish(program: &Path) -> Wish<'_> {
    Wish { program: Some(program), ..Wish::default() }
}

#[test]
fn the_hosts_hierarchy_is_seen_through_a_mount() {
    let _kernel = live!();
    if !is_usual() {
        skipped("no /sys/fs/cgroup");
        return;
    }
    // It is found by itself, since it shows the whole, or it is named.
    for arguments in ["", "--set host.cgroup=$HERE/host"] {
        let older = Cgroup::new("older");
        let container = Container::new("--mount --cgroup", &[VOLUME, PRIVATE], arguments);
        let program = container.program();
        let agent = Agent::start(wish(&program));
        let newer = Cgroup::new("newer");
        for cgroup in [&older, &newer] {
            stimulus::run(cgroup, &["getppid=321"]);
            let labels = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
            agent.until("it has its name", |scrape| (scrape.value(COUNT, &labels)? == 321.0).then_some(()));
        }
        let usage = [("cgroup_path", container.cgroup.path())];
        agent.until("files are read", |scrape| scrape.value("cgroup_memory_usage_bytes", &usage));
        agent.stop();
        let (_, report) = Agent::check(wish(&program));
        let found = finding(&report, "cgroups");
        assert!(found["ok"] == true && found["found"].as_str().unwrap().contains("/host"), "{found}");
        assert_eq!(finding(&report, "pid namespace")["ok"], true);
    }
}

#[test]
fn check_says_what_a_container_hides() {
    let _kernel = live!();
    if !is_usual() {
        skipped("no /sys/fs/cgroup");
        return;
    }
    let container = Container::new("--mount --cgroup --pid --fork --mount-proc", &[PRIVATE], "");
    let program = container.program();
    let (code, report) = Agent::check(wish(&program));
    assert_eq!(code, Some(1), "{report}");
    for (what, fix) in [("cgroups", "host.cgroup"), ("pid namespace", "hostPID: true")] {
        let found = finding(&report, what);
        assert!(found["ok"] == false && found["fix"].as_str().unwrap().contains(fix), "{found}");
    }
    let now = finding(&report, "names now")["found"].as_str().unwrap();
    assert!(now.contains("cgroup_not_found") && !now.contains("such as"), "{now}");
    let collectors = report["collectors"].as_array().unwrap();
    let cgroup = collectors.iter().find(|collector| collector["name"] == "cgroup").unwrap();
    assert!(cgroup["state"] == "degraded" && cgroup["why"].as_str().unwrap().contains("host.cgroup"), "{cgroup}");
}

/// What the kernel reports has its whole path; what cannot be known is not named after something else.
#[test]
fn a_part_of_the_hierarchy_gives_no_wrong_names() {
    let _kernel = live!();
    if !is_usual() {
        skipped("no /sys/fs/cgroup");
        return;
    }
    let older = Cgroup::new("older");
    let container = Container::new("--mount --cgroup", &[PRIVATE], "");
    let program = container.program();
    let agent = Agent::start(wish(&program));
    let newer = Cgroup::new("newer");
    stimulus::run(&older, &["getppid=77"]);
    stimulus::run(&newer, &["getppid=55"]);
    let call = ("syscall", "getppid");
    let (id, path) = (older.id().to_string(), newer.path().to_owned());
    agent.until("both are counted", |scrape| {
        let older = scrape.value(COUNT, &[("cgroup_id", &id), call])?;
        (older == 77.0 && scrape.value(COUNT, &[("cgroup_path", &path), call])? == 55.0).then_some(())
    });
    drop(newer);
    let scrape = agent.scrape();
    assert_eq!(scrape.value(COUNT, &[("cgroup_path", &path), call]), Some(55.0));
    assert_eq!(scrape.all(COUNT, &[("cgroup_path", "/")]).count(), 0, "its own cgroup is no root");
    assert!(scrape.0.iter().all(|sample| !sample.name.starts_with("cgroup_")));
    agent.stop();
}

/// The agent in namespaces of its own for cgroups, mounts and processes, with the host's root, cgroups and /run as volumes.
#[test]
fn containers_of_the_host_have_names_inside() {
    let _kernel = live!();
    if !is_usual() {
        skipped("no /sys/fs/cgroup");
        return;
    }
    let (docker, ctr) = ("3f1a9c5be0d24786bb0c9a7f61d2e8453f1a9c5be0d24786bb0c9a7f61d2e845", "7".repeat(64));
    let keys = "--set host.root=$HERE/root --set host.cgroup=$HERE/host --set host.run=$HERE/run";
    let container = Container::new(IN_ALL, &[VOLUME, PRIVATE], keys);
    let files = [
        (format!("root/var/lib/docker/containers/{docker}/config.v2.json"), r#"{"Name":"/web"}"#),
        (
            format!("run/containerd/io.containerd.runtime.v2.task/default/{ctr}/config.json"),
            r#"{"annotations":{"nerdctl/name":"db"}}"#,
        ),
        ("root/etc/hostname".to_owned(), "the-host\n"),
    ];
    for (file, text) in &files {
        let file = container.directory.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let program = container.program();
    let agent = Agent::start(wish(&program));
    let all = Cgroup::new("all");
    for (above, id, name) in [("docker", docker, "web"), ("nerdctl", &*ctr, "db")] {
        let above = all.child(above);
        let cgroup = above.child(id);
        stimulus::run(&cgroup, &["getppid=321"]);
        let labels = [("container_name", name), ("syscall", "getppid")];
        agent.until(name, |scrape| (scrape.value(COUNT, &labels)? == 321.0).then_some(()));
        drop(cgroup);
    }
    agent.until("the host's name", |scrape| scrape.value("target_info", &[("host_name", "the-host")]));
    drop(agent);
    let (_, report) = Agent::check(wish(&program));
    assert_eq!(finding(&report, "container_runtimes")["found"], "names workloads");
    assert_eq!(finding(&report, "cgroups")["ok"], true);
}

#[test]
fn check_names_the_key_of_a_mount_that_lacks() {
    let _kernel = live!();
    if !is_usual() {
        skipped("no /sys/fs/cgroup");
        return;
    }
    let cases = [
        // A volume was forgotten.
        ("--set host.cgroup=$HERE/host", &[PRIVATE][..], Some(2), "cgroups", "host.cgroup"),
        ("--set host.root=$HERE/root", &[PRIVATE], Some(2), "cgroups", "host.cgroup"),
        // Runtimes keep what they know elsewhere.
        (
            "--set host.root=$HERE/root --set host.cgroup=$HERE/host",
            &[VOLUME, PRIVATE],
            Some(1),
            "container_runtimes",
            "host.run",
        ),
        ("", &[VOLUME, PRIVATE, "mount -t tmpfs none /sys/kernel"], Some(2), "BTF", "btf_path"),
    ];
    for (keys, mounts, expected, what, words) in cases {
        let container = Container::new(IN_ALL, mounts, keys);
        let (code, report) = Agent::check(wish(&container.program()));
        let found = finding(&report, what).to_string();
        assert!(code == expected && found.contains(words), "{keys}: {code:?} {found}");
    }
}
