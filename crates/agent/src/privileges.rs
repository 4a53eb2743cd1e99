//! What the process may do: what it is permitted, it makes use of.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{capabilities, set_capabilities, set_no_new_privs};

/// Raises every capability that the process is permitted. The capabilities of the binary's file are permitted alone where it
/// asks for no more: an effective one that a container does not grant would keep the binary from being started at all.
/// Threads that are started later have them, too.
pub fn raise() {
    let Ok(sets) = capabilities(None) else { return };
    // What fails here, `check` and the collectors say of themselves.
    let _ = set_capabilities(None, rustix::thread::CapabilitySets { effective: sets.permitted, ..sets });
}

/// Sees to it that the process and whatever it might start never gain more than they have: it starts nothing.
pub fn gain_no_more() {
    // Every kernel that runs our programs knows it.
    let _ = set_no_new_privs(true);
}

/// Lets the process have as many files open as it may allow itself: maps, programs and cgroups take one each.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // What fails here, collectors say of themselves.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
