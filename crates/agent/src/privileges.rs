//! What the process may do: what it is permitted and collectors declare, it makes use of; the rest it gives up.

use bpf::probe::Facts;
use config::sections::integrations::Buffer;
use runtime::{Descriptor, Need};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

use crate::exit::{Exit, Failure};

/// What the agent itself makes use of where it is permitted to: to read what others keep to themselves, such as the names of
/// a user's own containers; to listen on ports below 1024; to lift the limit on memory of maps (before Linux 5.11).
const OWN: CapabilitySet =
    CapabilitySet::DAC_READ_SEARCH.union(CapabilitySet::NET_BIND_SERVICE).union(CapabilitySet::SYS_RESOURCE);

/// Before this version the kernel may refuse to read maps, too, to whoever lacks the capability to make them.
const READS_FREELY: (u32, u32) = (5, 19);

/// Why nothing attaches any more.
pub const GIVEN_UP: &str =
    "agent.privileges is drop, and the capabilities that this takes have been given up; a restart does it";

/// Raises every capability that the process is permitted. The capabilities of the binary's file are permitted alone where it
/// asks for no more: an effective one that a container does not grant would keep the binary from being started at all.
/// Threads that are started later have them, too.
pub fn raise() {
    let Ok(sets) = capabilities(None) else { return };
    // What fails here, `check` and the collectors say of themselves.
    let _ = set_capabilities(None, CapabilitySets { effective: sets.permitted, ..sets });
}

/// Gives up what no collector declares, and the agent itself does not use. It is done before there is a second thread.
pub fn keep_declared(registry: &[&'static Descriptor], facts: &Facts, buffer: Buffer) {
    let Ok(CapabilitySets { permitted, .. }) = capabilities(None) else { return };
    let needs = registry.iter().flat_map(|descriptor| descriptor.needs);
    let declared = needs.filter_map(|need| if let Need::Capability(name) = need { set_of(name) } else { None });
    let mut keep = declared.fold(OWN, CapabilitySet::union);
    // It stands in for those two, opens a hierarchy of cgroups that is mounted nowhere, and is what the kernels of some
    // distributions want for perf buffers.
    let lacks = !permitted.contains(CapabilitySet::BPF | CapabilitySet::PERFMON);
    if lacks || facts.cgroups.unified.is_none() || buffer == Buffer::Perf {
        keep |= CapabilitySet::SYS_ADMIN;
    }
    let kept = permitted & keep;
    // To have more than that is no fault that the agent cannot run with.
    let _ = set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    );
}

/// Gives up, in every thread, what is left once everything is attached.
///
/// # Errors
/// Fails where a thread keeps some: whoever wants them given up must not be told so falsely.
pub fn give_up(facts: &Facts) -> Result<(), Failure> {
    let free = facts.version >= READS_FREELY || facts.unprivileged_bpf_disabled == Some(0);
    let now = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let keep = match (free, now.contains(CapabilitySet::BPF)) {
        (true, _) => CapabilitySet::empty(),
        (false, true) => CapabilitySet::BPF,
        (false, false) => CapabilitySet::SYS_ADMIN,
    };
    bpf::threads::keep_capabilities(keep)
        .map_err(|error| Failure::new(Exit::Privileges, format!("agent.privileges is drop, but {error}")))?;
    match names(keep).as_slice() {
        [] => tracing::info!("all capabilities are given up"),
        kept => tracing::warn!(kept = kept.join(", "), "this kernel lets no other read maps: all others are given up"),
    }
    Ok(())
}

/// Gives the names of the capabilities that the process makes use of now.
pub fn effective() -> Vec<String> {
    capabilities(None).map(|sets| names(sets.effective)).unwrap_or_default()
}

fn names(set: CapabilitySet) -> Vec<String> {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

fn set_of(name: &str) -> Option<CapabilitySet> {
    CapabilitySet::from_name(name.strip_prefix("CAP_")?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_capability_is_known_by_its_name() {
        for need in collectors::ALL.iter().flat_map(|descriptor| descriptor.needs) {
            if let Need::Capability(name) = need {
                assert_eq!(set_of(name).map(names), Some(vec![(*name).to_owned()]));
            }
        }
    }
}
