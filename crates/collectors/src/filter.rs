//! Which processes and cgroups are counted: the kernel's side is `bpf/lib/filter.bpf.h`.

use bpf::abi::filter::{COMM_EXCLUDE, COMM_INCLUDE};
use bpf::{Loader, Object};
use runtime::{MakeError, Platform};

/// Sets the constants of an object that includes the filter, and lets it use the table of cgroups. By `sample_rate`
/// fewer values go to its histograms.
pub fn tune(loader: Loader, platform: &Platform) -> Loader {
    let comm_filter = match (platform.process_filter.is_empty(), platform.exclude_processes.is_empty()) {
        (false, _) => COMM_INCLUDE,
        (true, false) => COMM_EXCLUDE,
        (true, true) => 0,
    };
    let loader = loader.sample_histograms(platform.sample_every).constant("comm_filter", &comm_filter);
    share(loader.constant("own_tgid", &platform.excluded_process.unwrap_or_default()), platform)
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
    let mut comms = object.hash::<[u64; 2], u32>("comms").map_err(crate::refused)?;
    for (names, rule) in [(&platform.process_filter, COMM_INCLUDE), (&platform.exclude_processes, COMM_EXCLUDE)] {
        for name in names {
            // The kernel keeps 15 bytes of a command and a NUL.
            let mut comm = [0_u8; 16];
            for (to, from) in comm.iter_mut().take(15).zip(name.bytes()) {
                *to = from;
            }
            let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| comm[at + byte]));
            comms.insert(&[half(0), half(8)], &rule).map_err(crate::refused)?;
        }
    }
    Ok(())
}
