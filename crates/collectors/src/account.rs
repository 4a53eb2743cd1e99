//! What the kernel counts per task, settled per cgroup: the kernel's side is `bpf/lib/account.bpf.h`.
//!
//! Scheduler and memory each have an object, and so a walk, of their own: either works without the other, and what a
//! second walk costs (some 100 ns a task and gather) is less than what one would have to know of the other.

use bpf::{Error, Object, Types, cost};
use runtime::{MakeError, Need, Platform};
use rustix::time::{ClockId, clock_gettime};

/// The hooks of a collector that keeps accounts.
pub const NEEDS: [Need; 3] =
    [Need::Tracepoint("task_newtask"), Need::Tracepoint("cgroup_attach_task"), Need::Tracepoint("sched_process_free")];

/// The accounts of kernels that have no storage beside a task, as `bpf/lib/account.bpf.h` has them.
const LEGACY_ACCOUNTS: u32 = 32_768;

/// Gives the maps of the accounts with the bytes that they take.
pub fn maps<W>(map: &'static str, entries: u32, cpus: usize) -> Vec<(&'static str, u64)> {
    // A cgroup, a mark, and what is settled.
    let account = 16 + size_of::<W>();
    let accounts = if bpf::probe::is_legacy_version() {
        cost::hash(LEGACY_ACCOUNTS, size_of::<u64>(), account)
    } else {
        cost::storage(account, cpus)
    };
    vec![(map, cost::per_cpu_hash(entries, size_of::<u64>(), size_of::<W>(), cpus)), ("accounts", accounts)]
}

/// Gives the constant `attached`: the monotonic clock in nanoseconds.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Attaches the hooks of the accounts and opens one for every task that there is; tasks count from now on.
///
/// # Errors
/// Fails when the kernel refuses one of them.
pub fn open(object: &mut Object, types: &Types, platform: &Platform) -> Result<(), MakeError> {
    // The end of a task first, its beginning last: whoever has an account is settled.
    for hook in ["sched_process_free", "cgroup_attach_task", "task_newtask"] {
        object.attach(hook, types).map_err(crate::refused)?;
    }
    if platform.executables.is_some() {
        object.attach("sched_process_exec", types).map_err(crate::refused)?;
    }
    object.load_iterator("walk", "task", types).map_err(crate::refused)?;
    settle(object).map_err(crate::refused)
}

/// Settles all accounts: afterwards the object's maps hold all that was done until now.
///
/// # Errors
/// Fails when the kernel refuses to walk over its tasks.
pub fn settle(object: &mut Object) -> Result<(), Error> {
    // Makes the scheduler set the clock of this CPU, which the walk compares with its own.
    let _ = clock_gettime(ClockId::ThreadCPUTime);
    object.walk("walk", &mut Vec::new())
}
