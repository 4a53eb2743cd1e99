//! Capabilities are each thread's own on Linux, and no thread can take those of another: here each gives up its own, for a
//! signal that all of them get.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// How long threads have.
const PATIENCE: Duration = Duration::from_secs(5);

/// What threads keep.
static KEEP: AtomicU64 = AtomicU64::new(0);

/// Gives up all capabilities of every thread of the process but these; nobody gets them back.
///
/// # Errors
/// Fails where a thread still has others after some seconds, and says which.
pub fn keep_capabilities(keep: CapabilitySet) -> io::Result<()> {
    KEEP.store(keep.bits(), Ordering::SeqCst);
    let signal = listen()?;
    let until = Instant::now() + PATIENCE;
    let mut clean = 0;
    // A thread that has some may start another one behind the back of whoever looks: twice nobody is nobody.
    while clean < 2 {
        let holders = holders(keep)?;
        clean = if holders.is_empty() { clean + 1 } else { 0 };
        if clean == 0 && Instant::now() > until {
            return Err(io::Error::other(format!("threads keep capabilities: {holders:?}")));
        }
        for thread in holders {
            tell(thread, signal);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What a thread does for the signal. It makes system calls and nothing else, which a handler of a signal may.
extern "C" fn obey(_: libc::c_int) {
    let keep = CapabilitySet::from_bits_retain(KEEP.load(Ordering::SeqCst));
    let Ok(has) = capabilities(None) else { return };
    let (effective, permitted) = (has.effective & keep, has.permitted & keep);
    // Whether it was done is looked up afterwards.
    let _ = set_capabilities(None, CapabilitySets { effective, permitted, inheritable: has.inheritable & keep });
}

/// Handles the first real-time signal that nobody else handles, for good: one may be on its way when all is done.
fn listen() -> io::Result<libc::c_int> {
    let handler: extern "C" fn(libc::c_int) = obey;
    for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        #[expect(unsafe_code, reason = "neither std nor rustix handles signals")]
        // SAFETY: both structures are valid for their type when zero; `obey` is async-signal-safe and lives for ever.
        let done = unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut now) != 0 {
                continue;
            }
            let ours = handler as *const () as libc::sighandler_t;
            if now.sa_sigaction != libc::SIG_DFL && now.sa_sigaction != ours {
                continue;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            (action.sa_sigaction, action.sa_flags) = (ours, libc::SA_RESTART);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()) == 0
        };
        if done {
            return Ok(signal);
        }
    }
    Err(io::Error::other("no real-time signal is free"))
}

/// Sends a thread of this process a signal. One that has ended is none that keeps anything.
fn tell(thread: libc::pid_t, signal: libc::c_int) {
    #[expect(unsafe_code, reason = "neither std nor rustix sends a signal to a thread")]
    // SAFETY: it takes numbers alone.
    unsafe {
        libc::syscall(libc::SYS_tgkill, libc::pid_t::try_from(std::process::id()).unwrap_or(-1), thread, signal);
    }
}

/// Gives the threads that have, or may take, capabilities that are not to be kept.
fn holders(keep: CapabilitySet) -> io::Result<Vec<libc::pid_t>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        // It may have ended since it was listed.
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else { continue };
        let has = |key: &str| {
            let set = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
            u64::from_str_radix(set.trim(), 16).is_ok_and(|set| set & !keep.bits() != 0)
        };
        if ["CapPrm:", "CapEff:", "CapInh:"].into_iter().any(has) {
            found.extend(entry.file_name().to_str().and_then(|id| id.parse::<libc::pid_t>().ok()));
        }
    }
    Ok(found)
}
