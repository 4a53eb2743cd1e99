//! Names of system calls and errors, by the tables of the machine.

use std::collections::HashMap;

use bpf::abi::syscalls::{ABI_COMPAT, ABI_NATIVE, ABI_X32};
use model::Text;

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64::Sysno as Native, arm::Sysno as Compat};
#[cfg(target_arch = "x86_64")]
use syscalls::{x86::Sysno as Compat, x86_64::Sysno as Native};

/// What stands before the name of a call of the 32-bit table.
#[cfg(target_arch = "x86_64")]
const COMPAT: &str = "i386:";
#[cfg(target_arch = "aarch64")]
const COMPAT: &str = "arm:";
/// What stands before the name of a call of the x32 table.
const X32: &str = "x32:";

/// The names of the calls that were seen, each made once.
#[derive(Default)]
pub(super) struct Names {
    others: HashMap<(u32, u32), Text>,
}

impl Names {
    /// Names a call: `read`, `i386:read`, `x32:read`, or `unknown` with the table's prefix.
    pub fn call(&mut self, abi: u32, nr: u32) -> Text {
        if abi == ABI_NATIVE {
            return native(nr).unwrap_or("unknown").into();
        }
        let make = || match abi {
            ABI_COMPAT => format!("{COMPAT}{}", compat(nr).unwrap_or("unknown")).into(),
            _ => format!("{X32}{}", x32(nr).unwrap_or("unknown")).into(),
        };
        self.others.entry((abi, nr)).or_insert_with(make).clone()
    }
}

fn native(nr: u32) -> Option<&'static str> {
    Native::new(nr as usize).map(|call| call.name())
}

fn compat(nr: u32) -> Option<&'static str> {
    Compat::new(nr as usize).map(|call| call.name())
}

/// The x32 table is the native one, but for numbers from 512 on, which only x32 has.
fn x32(nr: u32) -> Option<&'static str> {
    const OWN: [&str; 36] = [
        "rt_sigaction",
        "rt_sigreturn",
        "ioctl",
        "readv",
        "writev",
        "recvfrom",
        "sendmsg",
        "recvmsg",
        "execve",
        "ptrace",
        "rt_sigpending",
        "rt_sigtimedwait",
        "rt_sigqueueinfo",
        "sigaltstack",
        "timer_create",
        "mq_notify",
        "kexec_load",
        "waitid",
        "set_robust_list",
        "get_robust_list",
        "vmsplice",
        "move_pages",
        "preadv",
        "pwritev",
        "rt_tgsigqueueinfo",
        "recvmmsg",
        "sendmmsg",
        "process_vm_readv",
        "process_vm_writev",
        "setsockopt",
        "getsockopt",
        "io_setup",
        "io_submit",
        "execveat",
        "preadv2",
        "pwritev2",
    ];
    match nr {
        512.. => OWN.get(nr as usize - 512).copied(),
        _ => native(nr),
    }
}

/// Gives the number of a call in a table.
pub(super) fn number(abi: u32, name: &str) -> Option<u32> {
    let find = |name_of: fn(u32) -> Option<&'static str>| (0..1024).find(|&nr| name_of(nr) == Some(name));
    match abi {
        ABI_NATIVE => find(native),
        ABI_COMPAT => find(compat),
        ABI_X32 if cfg!(target_arch = "x86_64") => find(x32),
        _ => None,
    }
}

/// Says whether some table has the call.
pub(super) fn is_known(name: &str) -> bool {
    [ABI_NATIVE, ABI_COMPAT].into_iter().any(|abi| number(abi, name).is_some())
}

/// Names an error by its number (`include/uapi/asm-generic/errno.h`, which x86 and arm64 share).
pub(super) fn error(number: u16) -> Text {
    match NAMES.get(usize::from(number)) {
        Some(name) if !name.is_empty() => (*name).into(),
        _ => format!("E{number}").into(),
    }
}

/// Numbers 41 and 58 were never given.
#[rustfmt::skip]
const NAMES: [&str; 134] = [
    "", "EPERM", "ENOENT", "ESRCH", "EINTR", "EIO", "ENXIO", "E2BIG", "ENOEXEC", "EBADF", "ECHILD", "EAGAIN", "ENOMEM",
    "EACCES", "EFAULT", "ENOTBLK", "EBUSY", "EEXIST", "EXDEV", "ENODEV", "ENOTDIR", "EISDIR", "EINVAL", "ENFILE",
    "EMFILE", "ENOTTY", "ETXTBSY", "EFBIG", "ENOSPC", "ESPIPE", "EROFS", "EMLINK", "EPIPE", "EDOM", "ERANGE", "EDEADLK",
    "ENAMETOOLONG", "ENOLCK", "ENOSYS", "ENOTEMPTY", "ELOOP", "", "ENOMSG", "EIDRM", "ECHRNG", "EL2NSYNC", "EL3HLT",
    "EL3RST", "ELNRNG", "EUNATCH", "ENOCSI", "EL2HLT", "EBADE", "EBADR", "EXFULL", "ENOANO", "EBADRQC", "EBADSLT", "",
    "EBFONT", "ENOSTR", "ENODATA", "ETIME", "ENOSR", "ENONET", "ENOPKG", "EREMOTE", "ENOLINK", "EADV", "ESRMNT", "ECOMM",
    "EPROTO", "EMULTIHOP", "EDOTDOT", "EBADMSG", "EOVERFLOW", "ENOTUNIQ", "EBADFD", "EREMCHG", "ELIBACC", "ELIBBAD",
    "ELIBSCN", "ELIBMAX", "ELIBEXEC", "EILSEQ", "ERESTART", "ESTRPIPE", "EUSERS", "ENOTSOCK", "EDESTADDRREQ",
    "EMSGSIZE", "EPROTOTYPE", "ENOPROTOOPT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT", "EOPNOTSUPP", "EPFNOSUPPORT",
    "EAFNOSUPPORT", "EADDRINUSE", "EADDRNOTAVAIL", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNABORTED", "ECONNRESET",
    "ENOBUFS", "EISCONN", "ENOTCONN", "ESHUTDOWN", "ETOOMANYREFS", "ETIMEDOUT", "ECONNREFUSED", "EHOSTDOWN",
    "EHOSTUNREACH", "EALREADY", "EINPROGRESS", "ESTALE", "EUCLEAN", "ENOTNAM", "ENAVAIL", "EISNAM", "EREMOTEIO",
    "EDQUOT", "ENOMEDIUM", "EMEDIUMTYPE", "ECANCELED", "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED", "EKEYREJECTED",
    "EOWNERDEAD", "ENOTRECOVERABLE", "ERFKILL", "EHWPOISON",
];

#[cfg(test)]
mod tests {
    use bpf::abi::syscalls::NR_UNKNOWN;

    use super::*;

    #[test]
    fn tables_are_told_apart() {
        let mut names = Names::default();
        let getppid = number(ABI_NATIVE, "getppid").unwrap();
        assert_eq!(names.call(ABI_NATIVE, getppid).as_str(), "getppid");
        assert_eq!(names.call(ABI_COMPAT, 64).as_str(), format!("{COMPAT}getppid"));
        assert_eq!(names.call(ABI_NATIVE, NR_UNKNOWN).as_str(), "unknown");
        assert_eq!(names.call(ABI_COMPAT, NR_UNKNOWN).as_str(), format!("{COMPAT}unknown"));
        assert!(is_known("openat") && !is_known("raed"));
    }

    #[test]
    fn errors_have_their_names() {
        for (number, name) in [(2, "ENOENT"), (11, "EAGAIN"), (38, "ENOSYS"), (110, "ETIMEDOUT"), (133, "EHWPOISON")] {
            assert_eq!(error(number).as_str(), name);
        }
        assert_eq!(error(524).as_str(), "E524");
        assert_eq!(error(41).as_str(), "E41");
    }
}
