//! What the agent's own cgroup may take of memory, and what it takes. The lowest limit on the way to the root counts, with
//! what is used below it.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of a cgroup: its limits, what it uses, and the line of `memory.stat` with the file pages that the kernel takes
/// back before it ends anybody.
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    inactive: &'static str,
}

const V1: Files =
    Files { limits: &["memory.limit_in_bytes"], used: "memory.usage_in_bytes", inactive: "total_inactive_file" };
/// Past `memory.high` a cgroup is slowed down until it can do nothing any more.
const V2: Files = Files { limits: &["memory.max", "memory.high"], used: "memory.current", inactive: "inactive_file" };

/// As much as no machine has: how version 1 says that there is no limit.
const UNLIMITED: u64 = 1 << 60;

/// Gives the bytes that count against the lowest limit, and that limit, where there is one.
pub(super) fn taken() -> Option<(u64, u64)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (own, files) = own(&read("/proc/self/cgroup"))?;
    lowest(&levels(&own, &files, &read("/proc/self/mountinfo")), &files)
}

/// Finds the process in the hierarchy that has the memory controller.
fn own(cgroups: &str) -> Option<(PathBuf, Files)> {
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), PathBuf::from(fields.next()?)))
    };
    let all: Vec<_> = cgroups.lines().filter_map(of).collect();
    let v1 = all.iter().find(|(controllers, _)| controllers.split(',').any(|one| one == "memory"));
    let v2 = || all.iter().find(|(controllers, _)| controllers.is_empty());
    match (v1, v2) {
        (Some((_, path)), _) => Some((path.clone(), V1)),
        (None, v2) => v2().map(|(_, path)| (path.clone(), V2)),
    }
}

/// Gives the directories of a cgroup and of those above it, as far as they are to be seen.
fn levels(own: &Path, files: &Files, mountinfo: &str) -> Vec<PathBuf> {
    let is_v1 = files.used == V1.used;
    // What was mounted later hides what was mounted before.
    for line in mountinfo.lines().rev() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let (Some(root), Some(mount)) = (left.get(3), left.get(4)) else { continue };
        let [kind, _, options] = right[..] else { continue };
        let fits =
            if is_v1 { kind == "cgroup" && options.split(',').any(|one| one == "memory") } else { kind == "cgroup2" };
        // In a cgroup namespace of one's own, what is above its root has no name.
        let Some(below) = own.strip_prefix(root).ok().filter(|_| fits) else { continue };
        let at = Path::new(mount).join(below);
        if at.join(files.used).exists() {
            return at.ancestors().take_while(|level| level.starts_with(mount)).map(Path::to_owned).collect();
        }
    }
    Vec::new()
}

fn lowest(levels: &[PathBuf], files: &Files) -> Option<(u64, u64)> {
    let number = |level: &Path, file: &str| fs::read_to_string(level.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = |level: &Path| files.limits.iter().filter_map(|file| number(level, file)).min();
    let limits = levels.iter().filter_map(|level| Some((limit(level).filter(|&limit| limit < UNLIMITED)?, level)));
    let (limit, level) = limits.min_by_key(|(limit, _)| *limit)?;
    let used = number(level, files.used)?;
    let stat = fs::read_to_string(level.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| line.strip_prefix(files.inactive)?.strip_prefix(' ')?.parse().ok());
    Some((used.saturating_sub(inactive.unwrap_or(0)), limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_found_where_the_memory_controller_is() {
        let hybrid = "5:devices:/a\n4:memory,hugetlb:/b/c\n1:name=systemd:/d\n0::/e\n";
        let (path, files) = own(hybrid).unwrap();
        assert_eq!((path.as_path(), files.used), (Path::new("/b/c"), V1.used));
        let (path, files) = own("0::/e:f\n").unwrap();
        assert_eq!((path.as_path(), files.used), (Path::new("/e:f"), V2.used));
        assert!(own("").is_none());
    }

    #[test]
    fn the_lowest_limit_counts_with_what_is_used_below_it() {
        let place = std::env::temp_dir().join(format!("telesonde-memory-{}", std::process::id()));
        let write = |level: &str, all: &[(&str, &str)]| {
            fs::create_dir_all(place.join(level)).unwrap();
            for (file, text) in all {
                fs::write(place.join(level).join(file), text).unwrap();
            }
        };
        let stat = "file 5\ninactive_file 300\nslab 1\n";
        write("pod", &[("memory.max", "5000\n"), ("memory.current", "4000\n"), ("memory.stat", stat)]);
        write("pod/a", &[("memory.max", "max\n"), ("memory.high", "max\n"), ("memory.current", "77\n")]);
        let mounted = |root: &str| {
            let own = place.display();
            format!("1 2 0:3 / /proc rw - proc proc rw\n4 5 0:6 {root} {own} rw shared:1 - cgroup2 cgroup2 rw\n")
        };
        let taken = |own: &str, root: &str| lowest(&levels(Path::new(own), &V2, &mounted(root)), &V2);
        assert_eq!(taken("/pod/a", "/"), Some((3700, 5000)), "of the pod");
        assert_eq!(taken("/x/pod/a", "/x"), Some((3700, 5000)));
        write("pod/a", &[("memory.high", "100\n")]);
        assert_eq!(taken("/pod/a", "/"), Some((77, 100)), "its own");
        assert_eq!(taken("/pod/a", "/../.."), None, "seen from within a namespace");
        assert_eq!(taken("/nowhere", "/"), None);
        write("pod", &[("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "1\n")]);
        assert_eq!(lowest(&[place.join("pod")], &V1), None, "version 1 has a number for none");
        fs::remove_dir_all(place).unwrap();
    }
}
