//! What the process can never do, whatever becomes of it: system calls that no agent makes are refused (seccomp), and files
//! are written only where the configuration names places (Landlock). Both are set before there is a second thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::Config;
use config::sections::agent::Sandbox as Wish;
use landlock::{
    ABI, Access, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use serde_json::{Value, json};
use syscalls::Sysno;

use crate::exit::{Exit, Failure};
use crate::lock;

/// The newest rules of Landlock that are asked for; older kernels hold those that they know.
const RULES: ABI = ABI::V7;

/// The calls that are refused, whoever makes them. A list of what is allowed instead would end the agent with the first C
/// library or kernel that does the same by a new call; what is here, it never does. `fsopen` and its kin are not here:
/// where no cgroup hierarchy of version 2 is mounted, one is opened by them, for the programs at its root alone.
const REFUSED: [&str; 7] = [
    // Other programs.
    "execve execveat fork vfork uselib",
    // Other processes.
    "kill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal pidfd_getfd ptrace process_vm_readv process_vm_writev \
     process_madvise process_mrelease kcmp migrate_pages move_pages",
    // Other users.
    "setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups",
    // Other namespaces, mounts and roots.
    "setns unshare mount umount umount2 move_mount open_tree mount_setattr fspick pivot_root chroot swapon swapoff \
     quotactl quotactl_fd acct",
    // The kernel itself.
    "init_module finit_module delete_module kexec_load kexec_file_load reboot syslog iopl ioperm modify_ldt personality \
     vhangup lookup_dcookie userfaultfd io_uring_setup io_uring_enter io_uring_register",
    // The machine's clock and names.
    "settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname",
    // Keys, devices, owners, and files past their directories.
    "add_key request_key keyctl mknod mknodat chown fchown lchown fchownat setxattr lsetxattr fsetxattr removexattr \
     lremovexattr fremovexattr open_by_handle_at fanotify_init",
];

/// The families of sockets that are made: Unix, IP of both versions, netlink.
const FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// The flag that makes a new task a thread of this process.
const CLONE_THREAD: u64 = 0x0001_0000;

/// How far the process is confined: what holds, or why nothing does.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Of system calls.
    pub seccomp: Result<String, String>,
    /// Of files.
    pub landlock: Result<String, String>,
}

impl Sandbox {
    /// Confines this thread and all that it starts from now on, as the configuration wants it.
    ///
    /// # Errors
    /// Fails when the configuration requires what cannot be had.
    pub fn enter(config: &Config) -> Result<Self, Failure> {
        let wish = config.agent.sandbox;
        if wish == Wish::Off {
            let off = Err("agent.sandbox is off".to_owned());
            return Ok(Self { seccomp: off.clone(), landlock: off });
        }
        // In this order: the second refuses nothing that the first takes, but a list may grow.
        let landlock = confine_files(&writable(config));
        let entered = Self { seccomp: confine_calls(), landlock };
        let lacking = entered.landlock.as_ref().err().or(entered.seccomp.as_ref().err());
        if let (Wish::Require, Some(why)) = (wish, lacking) {
            return Err(Failure::new(Exit::Unable, format!("agent.sandbox is `require`, but {why}")));
        }
        Ok(entered)
    }

    /// Gives it for `/status`.
    pub fn json(&self) -> Value {
        let part = |part: &Result<String, String>| {
            let says = part.as_ref().unwrap_or_else(|why| why);
            json!({"active": part.is_ok(), "says": says})
        };
        json!({"seccomp": part(&self.seccomp), "landlock": part(&self.landlock)})
    }
}

/// Gives the directories below which the agent writes: its lock and its socket lie in one, pinned maps in the other.
fn writable(config: &Config) -> Vec<PathBuf> {
    let beside = lock::directory(&config.admin.socket);
    let pins = config.integrations.ebpf.pin_path.ancestors().find(|path| path.is_dir());
    let pins = pins.filter(|path| path.parent().is_some());
    let mut all: Vec<PathBuf> = [Some(beside), pins].into_iter().flatten().map(Path::to_owned).collect();
    all.dedup();
    all
}

fn confine_files(writable: &[PathBuf]) -> Result<String, String> {
    let status = restrict(writable).map_err(|error| format!("Landlock does not confine it: {error}"))?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
        LandlockStatus::NotEnabled => return Err("the kernel has Landlock, but was booted without it".to_owned()),
        LandlockStatus::NotImplemented => {
            return Err("the kernel has no Landlock (Linux 5.13), or a container runtime hides it".to_owned());
        }
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err("Landlock enforces nothing".to_owned());
    }
    let places: Vec<String> = writable.iter().map(|path| path.display().to_string()).collect();
    let places = if places.is_empty() { "nowhere".to_owned() } else { format!("below {} alone", places.join(" and ")) };
    Ok(format!("files are written {places}, none is executed (ABI {abi})"))
}

fn restrict(writable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    let write = AccessFs::from_write(RULES);
    let rules = Ruleset::default().handle_access(write | AccessFs::Execute)?.scope(Scope::from_all(RULES))?.create()?;
    // A place that is not there needs no rule.
    let places = writable.iter().filter_map(|path| PathFd::new(path).ok());
    rules.add_rules(places.map(|place| Ok::<_, RulesetError>(PathBeneath::new(place, write))))?.restrict_self()
}

fn confine_calls() -> Result<String, String> {
    let set = |program: Result<BpfProgram, seccompiler::Error>| {
        program.and_then(|program| seccompiler::apply_filter(&program)).map_err(|error| format!("no seccomp: {error}"))
    };
    // The first to be set is asked last: both are always asked.
    set(threads_by_clone())?;
    set(refusals())?;
    Ok(format!(
        "{} system calls, new processes and sockets of other families than Unix, IP and netlink are refused",
        refused().count()
    ))
}

/// Gives the calls that are refused, as far as this architecture has them.
fn refused() -> impl Iterator<Item = Sysno> {
    REFUSED.iter().flat_map(|group| group.split_whitespace()).filter_map(|name| name.parse().ok())
}

/// What `clone3` is to do lies in memory, where no filter looks. Where it is missing, C libraries take `clone`.
fn threads_by_clone() -> Result<BpfProgram, seccompiler::Error> {
    filter(BTreeMap::from([(i64::from(Sysno::clone3.id()), Vec::new())]), Errno::NOSYS)
}

fn refusals() -> Result<BpfProgram, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = refused().map(|call| (i64::from(call.id()), Vec::new())).collect();
    let argument = |operator, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    let process = SeccompRule::new(vec![argument(SeccompCmpOp::MaskedEq(CLONE_THREAD), 0)?])?;
    rules.insert(i64::from(Sysno::clone.id()), vec![process]);
    let families: Result<Vec<_>, _> = FAMILIES.iter().map(|family| argument(SeccompCmpOp::Ne, *family)).collect();
    rules.insert(i64::from(Sysno::socket.id()), vec![SeccompRule::new(families?)?]);
    filter(rules, Errno::PERM)
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, refusal: Errno) -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let refuse = SeccompAction::Errno(refusal.raw_os_error().unsigned_abs());
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use super::*;

    /// Only the thread that asks for it is confined, so each test has one of its own.
    fn apart(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn what_is_refused_is_refused_and_nothing_else() {
        apart(|| {
            let said = confine_calls().unwrap();
            assert!(said.starts_with(char::is_numeric), "{said}");
            let refused = Command::new("true").spawn().map(|_| ()).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(Errno::PERM.raw_os_error()), "{refused}");
            let family = rustix::net::AddressFamily::from_raw(17);
            let packets = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None);
            assert_eq!(packets.unwrap_err(), Errno::PERM);
            assert_eq!(rustix::process::chroot("/").unwrap_err(), Errno::PERM);
            UdpSocket::bind("127.0.0.1:0").unwrap();
            // New threads can be made, and are confined, too.
            let inherited = std::thread::spawn(|| rustix::process::chroot("/").unwrap_err());
            assert_eq!(inherited.join().unwrap(), Errno::PERM);
        });
    }

    #[test]
    fn files_are_written_where_they_may_be_and_read_anywhere() {
        let directory = std::env::temp_dir().join(format!("telesonde-sandbox-{}", std::process::id()));
        let (inside, outside) = (directory.join("inside"), directory.join("outside"));
        for path in [&inside, &outside] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(outside.join("read"), "what is there").unwrap();
        let places = (inside.clone(), outside.clone());
        apart(move || {
            let (inside, outside) = places;
            let said = confine_files(std::slice::from_ref(&inside));
            if std::fs::write(outside.join("written"), "").is_ok() {
                // Only a kernel without Landlock lets this happen, and then that is what is said.
                println!("SKIPPED files_are_written_where_they_may_be_and_read_anywhere: {}", said.unwrap_err());
                return;
            }
            assert!(said.unwrap().contains(&inside.display().to_string()));
            assert_eq!(std::fs::read_to_string(outside.join("read")).unwrap(), "what is there");
            assert!(std::fs::remove_file(outside.join("read")).is_err());
            std::fs::write(inside.join("written"), "").unwrap();
            std::fs::remove_file(inside.join("written")).unwrap();
            assert!(Command::new("true").status().is_err(), "nothing is executed");
        });
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn names_of_calls_are_names_of_calls() {
        let old = ["uselib", "umount", "modify_ldt", "iopl", "ioperm", "fork", "vfork", "mknod", "chown", "lchown"];
        for name in REFUSED.iter().flat_map(|group| group.split_whitespace()) {
            // aarch64 never had some of them.
            assert!(name.parse::<Sysno>().is_ok() || old.contains(&name), "{name}");
        }
    }
}
