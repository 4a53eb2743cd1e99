//! What can go wrong between user space and the kernel, with the place and the way out.

use std::io;

use thiserror::Error;

/// Why an object could not be loaded, attached or read.
#[derive(Debug, Error)]
pub enum Error {
    /// No such object is embedded.
    #[error("no eBPF object is named {name}; there are {known}")]
    UnknownObject {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The kernel's type information cannot be read.
    #[error(
        "cannot read the kernel's types from {path}: {reason}; the kernel needs CONFIG_DEBUG_INFO_BTF; where /sys is hidden give integrations.ebpf.btf_path"
    )]
    Types {
        /// Where they were looked for.
        path: String,
        /// Why it failed.
        reason: String,
    },
    /// A file of types was given that cannot be used.
    #[error(
        "integrations.ebpf.btf_path: {path}: {reason}; give a copy of the running kernel's /sys/kernel/btf/vmlinux, or nothing"
    )]
    GivenTypes {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object's maps cannot be made, or its code does not fit this kernel's types.
    #[error("cannot load the eBPF object {object}: {reason}{hint}")]
    Load {
        /// The object.
        object: String,
        /// Why it failed.
        reason: String,
        /// What helps; begins with `; ` where it is not empty.
        hint: &'static str,
    },
    /// The object has no such program.
    #[error("the eBPF object {object} has no program {program} on a tracepoint with BTF")]
    UnknownProgram {
        /// The object.
        object: String,
        /// The program asked for.
        program: String,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the program {program} for {hook}: {reason}{hint}{log}")]
    Verify {
        /// The program.
        program: String,
        /// The tracepoint.
        hook: String,
        /// The system's error.
        reason: String,
        /// What helps; begins with `; ` where it is not empty.
        hint: &'static str,
        /// The verifier's last lines; begins with `; ` where it is not empty.
        log: String,
    },
    /// A verified program cannot be attached.
    #[error("cannot attach the program {program} to {hook}: {reason}{hint}")]
    Attach {
        /// The program.
        program: String,
        /// The tracepoint.
        hook: String,
        /// Why it failed.
        reason: String,
        /// What helps; begins with `; ` where it is not empty.
        hint: &'static str,
    },
    /// The object has no such map, or it was taken.
    #[error("the eBPF object {object} has no map {map}")]
    UnknownMap {
        /// The object.
        object: String,
        /// The map asked for.
        map: String,
    },
    /// A map's key or value is not of the size of the type it is read as.
    #[error("the map {map} has a {part} of {actual} bytes, not of {expected}")]
    Shape {
        /// The map.
        map: String,
        /// `key` or `value`.
        part: &'static str,
        /// The type's size.
        expected: usize,
        /// The map's.
        actual: usize,
    },
    /// The map is of another kind than asked for.
    #[error("the map {map} is not {expected}")]
    Kind {
        /// The map.
        map: String,
        /// The kind asked for.
        expected: &'static str,
    },
    /// Nothing can be pinned there.
    #[error("{path}: {reason}")]
    Pins {
        /// The directory, or what is in it.
        path: String,
        /// What is wrong with it, and the fix.
        reason: String,
    },
    /// The kernel refused an operation on a map.
    #[error("cannot {action} the map {map}: {source}")]
    Map {
        /// The map.
        map: String,
        /// What was tried.
        action: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    /// Says whether the kernel refused for want of a privilege, or because it is locked down.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Load { hint, .. } | Self::Verify { hint, .. } | Self::Attach { hint, .. } => {
                [REFUSED, LOCKED].contains(hint)
            }
            Self::Map { source, .. } => source.raw_os_error() == Some(libc::EPERM),
            _ => false,
        }
    }
}

const REFUSED: &str = "; run as root or with CAP_BPF and CAP_PERFMON, under a seccomp profile that lets them use bpf (older \
                       container runtimes' do not), and see /sys/kernel/security/lockdown";
const LOCKED: &str = "; the kernel is locked down (confidentiality) and bars programs from reading its memory";
const MEMORY: &str = "; raise RLIMIT_MEMLOCK or the memory limit of the agent's cgroup";

/// Gives the advice for a system error, or nothing.
pub(crate) fn hint(error: Option<i32>) -> &'static str {
    match error {
        Some(libc::EPERM | libc::EACCES) => REFUSED,
        Some(libc::ENOMEM) => MEMORY,
        _ => "",
    }
}

/// Gives the advice for a program that was refused with this log.
pub(crate) fn refusal_hint(error: Option<i32>, log: &str) -> &'static str {
    // aya knows the helper by its older name where its own probe of the newer one was refused.
    if log.contains("unknown func bpf_probe_read") { LOCKED } else { hint(error) }
}

/// Finds the system error among an error's causes.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// Writes an error with its causes on one line, each once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text.push_str(": ");
            text.push_str(&reason);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}
