//! Which processes and cgroups are counted: the kernel's side is `bpf/lib/filter.bpf.h`.

use std::collections::HashMap;

use bpf::abi::executable::{OWNERS_MEMORY, OWNERS_UNIFIED};
use bpf::abi::filter::{COMM_EXCLUDE, COMM_INCLUDE, CommRule, comm, comm_slot};
use bpf::probe::Hierarchy;
use bpf::{Loader, Object};
use runtime::{MakeError, Platform};

/// The maps that [`fill`] writes, each process anew.
pub const FILLED: &[&str] = &["comms"];

/// Sets the constants of an object that includes the filter, and lets it use the tables of cgroups and executables. By `sample_rate`
/// fewer values go to its histograms.
pub fn tune(loader: Loader, platform: &Platform) -> Loader {
    let comm_filter = match (platform.process_filter.is_empty(), platform.exclude_processes.is_empty()) {
        (false, _) => COMM_INCLUDE,
        (true, false) => COMM_EXCLUDE,
        (true, true) => 0,
    };
    let Comms { seed, mask, .. } = Comms::of(platform);
    let loader = loader
        .sample_histograms(platform.sample_every)
        .constant("comm_filter", &comm_filter)
        .constant("comm_seed", &seed)
        .constant("comm_mask", &mask)
        .max_entries("comms", mask + 1);
    let loader = loader.passing("own_tgid", &platform.excluded_process.unwrap_or_default());
    let loader = match &platform.executables {
        Some(executables) => executables.share(loader),
        None => loader.constant(
            "owners_by",
            &match platform.facts.cgroups.primary {
                Hierarchy::Unified => OWNERS_UNIFIED,
                Hierarchy::Memory => OWNERS_MEMORY,
            },
        ),
    };
    share(loader, platform)
}

/// Lets an object that includes only the table of cgroups use it.
pub fn share(loader: Loader, platform: &Platform) -> Loader {
    match &platform.cgroup_rules {
        Some(rules) => rules.share(loader),
        None => loader,
    }
}

/// Writes the commands of `process_filter` and `exclude_processes` before the object's programs are attached; an
/// excluded one stays excluded.
///
/// # Errors
/// Fails when the kernel refuses to write the map.
pub fn fill(platform: &Platform, object: &Object) -> Result<(), MakeError> {
    let Comms { slots, .. } = Comms::of(platform);
    let mut comms = object.cells::<CommRule>("comms").map_err(crate::refused)?;
    for (slot, rule) in slots {
        comms.set(slot, &rule).map_err(crate::refused)?;
    }
    Ok(())
}

/// The names of processes that have a rule, in slots of their own: one look at one slot tells a program.
struct Comms {
    seed: u64,
    mask: u32,
    slots: HashMap<u32, CommRule>,
}

impl Comms {
    fn of(platform: &Platform) -> Self {
        let included = platform.process_filter.iter().map(|name| (comm(name), COMM_INCLUDE));
        let excluded = platform.exclude_processes.iter().map(|name| (comm(name), COMM_EXCLUDE));
        Self::spread(&included.chain(excluded).collect())
    }

    /// Looks for a seed that gives each name its own slot; with a slot for each pair of names the first or second does.
    fn spread(rules: &HashMap<[u64; 2], u32>) -> Self {
        const FEWEST: u32 = 64;
        let pairs = u32::try_from(rules.len() * rules.len()).unwrap_or(u32::MAX);
        let mut mask = pairs.clamp(FEWEST, 1 << 20).next_power_of_two() - 1;
        let mut seed = 0;
        loop {
            let place = |(&comm, &rule): (&[u64; 2], &u32)| {
                (comm_slot(comm, seed, mask), CommRule { comm, rule: u64::from(rule) })
            };
            let slots: HashMap<u32, CommRule> = rules.iter().map(place).collect();
            // Past the last size two names may share a slot after all: thousands of names are no filter.
            if slots.len() == rules.len() || mask > 1 << 24 {
                return Self { seed, mask, slots };
            }
            seed += 1;
            if seed % 64 == 0 {
                mask = mask * 2 + 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_a_slot_of_its_own() {
        for count in [0_usize, 1, 2, 10, 300] {
            let rules: HashMap<[u64; 2], u32> =
                (0..count).map(|number| (comm(&format!("process-{number}")), COMM_EXCLUDE)).collect();
            let Comms { seed, mask, slots } = Comms::spread(&rules);
            assert_eq!(slots.len(), count);
            assert!((mask + 1).is_power_of_two() && (mask as usize) < 4 * (count * count).max(64), "{mask}");
            for (&comm, &rule) in &rules {
                assert_eq!(slots[&comm_slot(comm, seed, mask)], CommRule { comm, rule: u64::from(rule) });
            }
        }
    }

    #[test]
    fn a_name_is_what_the_kernel_keeps_of_it() {
        assert_eq!(comm("systemd"), [u64::from_ne_bytes(*b"systemd\0"), 0]);
        assert_eq!(comm("a-name-of-20-letters"), comm("a-name-of-20-le"));
    }
}
