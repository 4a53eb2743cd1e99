//! What the files of a cgroup say, in both versions.

use std::path::{Path, PathBuf};

use bpf::probe::{Cgroups, Hierarchy};

/// One figure that only grows; the number is its place in [`Figures::counters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Counter {
    /// Periods in which the cgroup was throttled; only where it has or had a limit.
    ThrottledPeriods,
    /// In nanoseconds.
    Throttled,
    High,
    Max,
    Oom,
    OomKill,
    /// In microseconds, as the five that follow.
    CpuSome,
    CpuFull,
    MemorySome,
    MemoryFull,
    IoSome,
    IoFull,
}

/// How many there are.
pub(super) const COUNTERS: usize = Counter::IoFull as usize + 1;

/// One reading of a cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub counters: [Option<u64>; COUNTERS],
    pub usage: Option<u64>,
    pub limit: Option<u64>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// `cpu.stat` of either version.
    CpuStat,
    Usage,
    /// `max`, or on version 1 a number near 2^63, is no limit.
    Limit,
    /// `memory.events`.
    Events,
    /// `memory.failcnt`: how often the limit was hit.
    Failures,
    /// `memory.oom_control`, with `oom_kill` from Linux 4.13 on.
    OomControl,
    /// A pressure file; the counter of its line `some`, before that of `full`.
    Pressure(Counter, Counter),
}

/// A file that each cgroup may have below a hierarchy's mount point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub mount: PathBuf,
    pub name: &'static str,
    pub content: Content,
}

/// Gives the files that this host's cgroups can have.
pub(super) fn files(cgroups: &Cgroups, pressure: bool) -> Vec<File> {
    const V1: [(&str, Content); 4] = [
        ("memory.usage_in_bytes", Content::Usage),
        ("memory.limit_in_bytes", Content::Limit),
        ("memory.failcnt", Content::Failures),
        ("memory.oom_control", Content::OomControl),
    ];
    const V2: [(&str, Content); 3] =
        [("memory.current", Content::Usage), ("memory.max", Content::Limit), ("memory.events", Content::Events)];
    const PRESSURE: [(&str, Content); 3] = [
        ("cpu.pressure", Content::Pressure(Counter::CpuSome, Counter::CpuFull)),
        ("memory.pressure", Content::Pressure(Counter::MemorySome, Counter::MemoryFull)),
        ("io.pressure", Content::Pressure(Counter::IoSome, Counter::IoFull)),
    ];
    let mut all = Vec::new();
    let mut add = |mount: Option<&Path>, files: &[(&'static str, Content)]| {
        let Some(mount) = mount else { return };
        all.extend(files.iter().map(|&(name, content)| File { mount: mount.to_owned(), name, content }));
    };
    let memory = if cgroups.primary == Hierarchy::Memory { &V1[..] } else { &V2[..] };
    add(cgroups.mount.as_deref(), memory);
    add(cgroups.cpu.as_deref().or(cgroups.unified.as_deref()), &[("cpu.stat", Content::CpuStat)]);
    if pressure {
        add(cgroups.unified.as_deref(), &PRESSURE);
    }
    all
}

impl Figures {
    /// Takes over what a file says; what is not understood stays absent.
    pub fn take(&mut self, content: Content, text: &str) {
        match content {
            Content::CpuStat => self.take_cpu(text),
            Content::Usage => self.usage = text.trim().parse().ok(),
            // Version 1 rounds the largest signed number down to whole pages, of at most 64 KiB.
            Content::Limit => self.limit = text.trim().parse().ok().filter(|&limit| limit < i64::MAX as u64 - 0xffff),
            Content::Events => {
                for (name, counter) in [
                    ("high", Counter::High),
                    ("max", Counter::Max),
                    ("oom", Counter::Oom),
                    ("oom_kill", Counter::OomKill),
                ] {
                    self.set(counter, field(text, name));
                }
            }
            Content::Failures => self.set(Counter::Max, text.trim().parse().ok()),
            Content::OomControl => self.set(Counter::OomKill, field(text, "oom_kill")),
            Content::Pressure(some, full) => {
                self.set(some, stalled(text, "some "));
                self.set(full, stalled(text, "full "));
            }
        }
    }

    fn take_cpu(&mut self, text: &str) {
        // Without a limit there are no periods.
        if field(text, "nr_periods").is_none_or(|periods| periods == 0) {
            return;
        }
        self.set(Counter::ThrottledPeriods, field(text, "nr_throttled"));
        let microseconds = || field(text, "throttled_usec").map(|time| time.saturating_mul(1000));
        self.set(Counter::Throttled, field(text, "throttled_time").or_else(microseconds));
    }

    fn set(&mut self, counter: Counter, value: Option<u64>) {
        self.counters[counter as usize] = value;
    }
}

/// Finds the number of a line `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Finds the microseconds of a line of a pressure file.
fn stalled(text: &str, share: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(share))?;
    line.rsplit_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use bpf::probe::CgroupMode;

    use super::*;

    fn figures(files: &[(Content, &str)]) -> Figures {
        let mut figures = Figures::default();
        for (content, text) in files {
            figures.take(*content, text);
        }
        figures
    }

    fn of(figures: &Figures, counter: Counter) -> Option<u64> {
        figures.counters[counter as usize]
    }

    #[test]
    fn version_2_is_understood() {
        let pressure =
            "some avg10=0.00 avg60=0.12 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=56\n";
        let read = figures(&[
            (Content::CpuStat, "usage_usec 9\nnr_periods 40\nnr_throttled 7\nthrottled_usec 123456\nnr_bursts 0\n"),
            (Content::Usage, "4096\n"),
            (Content::Limit, "1048576\n"),
            (Content::Events, "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            (Content::Pressure(Counter::IoSome, Counter::IoFull), pressure),
            // Before Linux 5.13 the CPU has no line `full`.
            (Content::Pressure(Counter::CpuSome, Counter::CpuFull), pressure.lines().next().unwrap()),
        ]);
        assert_eq!((read.usage, read.limit), (Some(4096), Some(1_048_576)));
        let expected = [
            (Counter::ThrottledPeriods, Some(7)),
            (Counter::Throttled, Some(123_456_000)),
            (Counter::High, Some(2)),
            (Counter::Max, Some(3)),
            (Counter::Oom, Some(4)),
            (Counter::OomKill, Some(5)),
            (Counter::IoSome, Some(1234)),
            (Counter::IoFull, Some(56)),
            (Counter::CpuSome, Some(1234)),
            (Counter::CpuFull, None),
            (Counter::MemorySome, None),
        ];
        for (counter, value) in expected {
            assert_eq!(of(&read, counter), value, "{counter:?}");
        }
    }

    #[test]
    fn version_1_is_understood() {
        let read = figures(&[
            (Content::CpuStat, "nr_periods 3\nnr_throttled 2\nthrottled_time 98765\n"),
            (Content::Limit, "67108864\n"),
            (Content::Failures, "11\n"),
            (Content::OomControl, "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ]);
        assert_eq!((of(&read, Counter::ThrottledPeriods), of(&read, Counter::Throttled)), (Some(2), Some(98_765)));
        assert_eq!((of(&read, Counter::Max), of(&read, Counter::OomKill)), (Some(11), Some(1)));
        assert_eq!((of(&read, Counter::High), of(&read, Counter::Oom), read.limit), (None, None, Some(67_108_864)));
        // Before Linux 4.13.
        assert_eq!(figures(&[(Content::OomControl, "oom_kill_disable 0\nunder_oom 0\n")]), Figures::default());
    }

    #[test]
    fn what_has_no_limit_or_makes_no_sense_is_absent() {
        let read = figures(&[
            (Content::CpuStat, "usage_usec 9\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n"),
            (Content::Limit, "max\n"),
            (Content::Usage, ""),
            (Content::Events, "high x\noom_kill\n\u{fffd}"),
            (Content::Pressure(Counter::IoSome, Counter::IoFull), "some avg10=0.00\nfull total=-1\n"),
        ]);
        assert_eq!(read, Figures::default());
        assert_eq!(figures(&[(Content::Limit, "9223372036854771712\n")]), Figures::default(), "4 KiB pages");
        assert_eq!(figures(&[(Content::Limit, "9223372036854710272\n")]), Figures::default(), "64 KiB pages");
    }

    #[test]
    fn each_kind_of_host_has_its_files() {
        let names = |cgroups: &Cgroups, pressure| {
            let path = |file: &File| file.mount.join(file.name).display().to_string();
            files(cgroups, pressure).iter().map(path).collect::<Vec<_>>()
        };
        let v2 = Cgroups {
            whole: true,
            mode: CgroupMode::V2,
            primary: Hierarchy::Unified,
            hierarchy_id: 0,
            mount: Some("/c".into()),
            unified: Some("/c".into()),
            cpu: None,
            io: None,
        };
        assert_eq!(names(&v2, false), ["/c/memory.current", "/c/memory.max", "/c/memory.events", "/c/cpu.stat"]);
        assert_eq!(names(&v2, true)[4..], ["/c/cpu.pressure", "/c/memory.pressure", "/c/io.pressure"]);
        let hybrid = Cgroups { primary: Hierarchy::Memory, mount: Some("/m".into()), cpu: Some("/p".into()), ..v2 };
        assert_eq!(names(&hybrid, true)[3..6], ["/m/memory.oom_control", "/p/cpu.stat", "/c/cpu.pressure"]);
        let v1 = Cgroups { unified: None, ..hybrid };
        assert_eq!(names(&v1, true).len(), 5);
    }
}
