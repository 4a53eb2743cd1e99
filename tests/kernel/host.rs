//! Hosts that lack something, and files that are to make up for it.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::{directory, live, stimulus};
use crate::pipeline::tutorial;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const COUNT: &str = "ebpf_syscall_count_total";

/// A file of types; it is removed with its directory.
struct Types(PathBuf);

impl Types {
    fn new(bytes: &[u8]) -> Self {
        let directory = directory("types");
        fs::write(directory.join("vmlinux"), bytes).unwrap();
        Self(directory)
    }

    fn key(&self) -> String {
        format!("btf_path: {}", self.0.join("vmlinux").display())
    }
}

impl Drop for Types {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn host<'v>(report: &'v Value, what: &str) -> &'v Value {
    report["host"].as_array().unwrap().iter().find(|finding| finding["what"] == what).unwrap()
}

#[test]
fn a_copy_of_the_kernels_types_will_do() {
    let _kernel = live!();
    let types = Types::new(&fs::read(VMLINUX).unwrap());
    let key = types.key();
    for hidden in [&[][..], &["/sys/kernel/btf"][..]] {
        let wish = Wish { ebpf: &[&key], hidden, ..Wish::default() };
        let agent = Agent::start(wish);
        let cgroup = Cgroup::new("types");
        stimulus::run(&cgroup, &["getppid=77"]);
        let labels = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
        agent.until("it counts", |scrape| (scrape.value(COUNT, &labels)? == 77.0).then_some(()));
        agent.stop();

        let (_, report) = Agent::check(wish);
        let finding = host(&report, "BTF");
        assert_eq!(finding["ok"], hidden.is_empty(), "{finding}");
        let limit = if hidden.is_empty() { "the same as /sys/kernel/btf/vmlinux" } else { "not to be seen" };
        assert!(finding["found"].as_str().unwrap().contains(limit), "{finding}");
        let syscalls = report["collectors"].as_array().unwrap().iter().find(|one| one["name"] == "syscalls").unwrap();
        assert_eq!(syscalls["state"], "usable", "{syscalls}");
    }
    let (code, log) = Agent::refused(Wish { hidden: &["/sys/kernel/btf"], ..Wish::default() });
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("btf_path"), "{log}");
}

#[test]
fn a_wrong_file_of_types_is_one_clear_error() {
    let _kernel = live!();
    let own = fs::read(VMLINUX).unwrap();
    let mut foreign = own.clone();
    // A letter of some name near the end: still a whole BTF, but not this kernel's.
    let at = foreign.iter().rposition(u8::is_ascii_lowercase).unwrap();
    foreign[at] ^= 1;
    for (bytes, reason) in [
        (&b"\x7fELF and so on"[..], "it is no BTF"),
        (&[][..], "it is no BTF"),
        (&own[..own.len() / 2], "it is no BTF"),
        (&foreign[..], "another kernel"),
    ] {
        let types = Types::new(bytes);
        let key = types.key();
        let wish = Wish { ebpf: &[&key], ..Wish::default() };
        let (code, log) = Agent::refused(wish);
        assert_eq!(code, Some(4), "{log}");
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("btf_path")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(reason) && lines[0].contains("/vmlinux"), "{log}");
        let (code, report) = Agent::check(wish);
        assert_eq!((code, &host(&report, "BTF")["ok"]), (Some(2), &Value::Bool(false)));
    }
    let (code, log) = Agent::refused(Wish { ebpf: &["btf_path: /no/such/file"], ..Wish::default() });
    assert_eq!(code, Some(4), "{log}");
    assert!(log.contains("/no/such/file: No such file"), "{log}");
}

#[test]
fn an_unsupported_collector_is_a_reason_or_fatal() {
    let _kernel = live!();
    let hidden = &["/proc/pressure"][..];
    let wish = Wish { program: Some(tutorial()), hidden, ..Wish::default() };
    let agent = Agent::start(Wish { collectors: &["pressure: {enabled: true}"], ..wish });
    let status = agent.status().unwrap();
    let pressure = status["integrations"].as_array().unwrap().iter().find(|one| one["name"] == "pressure").unwrap();
    assert_eq!(pressure["state"], "unsupported", "{pressure}");
    assert!(pressure.to_string().contains("no pressure stall information"), "{pressure}");
    let state = [("collector", "pressure"), ("state", "unsupported")];
    assert_eq!(agent.scrape().value("telesonde_collector_state", &state), Some(1.0));
    agent.stop();

    let (code, log) = Agent::refused(Wish { collectors: &["pressure: {enabled: require}"], ..wish });
    assert_eq!(code, Some(6), "{log}");
    let reason = "integrations.ebpf.collectors.pressure.enabled is `require`, but the collector is";
    assert!(log.contains(reason) && log.contains("no pressure stall information"), "{log}");
}
