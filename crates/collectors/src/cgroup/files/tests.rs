//! Fixture directories in place of a mounted hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bpf::probe::{CgroupMode, Cgroups, Hierarchy};
use model::CgroupChange;

use super::*;

/// A census whose list the test makes.
#[derive(Default)]
struct Listed(Mutex<(u64, Vec<Root>)>);

impl Listed {
    fn set(&self, roots: &[(u64, &str, Instant)]) {
        let mut list = self.0.lock().unwrap();
        list.0 += 1;
        list.1 = roots.iter().map(|&(id, path, since)| Root { id, path: path.into(), since }).collect();
    }
}

impl Census for Listed {
    fn changed(&self, _: CgroupChange) {}

    fn removed_for(&self, _: u64) -> Option<Duration> {
        None
    }

    fn roots(&self, known: u64) -> Option<(u64, Vec<Root>)> {
        let list = self.0.lock().unwrap();
        (list.0 != known).then(|| list.clone())
    }
}

struct Fixture(PathBuf);

impl Fixture {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("telesonde-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn facts(&self) -> Facts {
        let cgroups = Cgroups {
            whole: true,
            mode: CgroupMode::V2,
            primary: Hierarchy::Unified,
            hierarchy_id: 0,
            mount: Some(self.0.clone()),
            unified: Some(self.0.clone()),
            cpu: None,
            io: None,
        };
        Facts { cgroups, pressure: true, ..Facts::gather() }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn counter(files: &Files, id: u64, counter: Counter) -> Option<u64> {
    let watched = &files.watched[&id];
    Some(watched.last.counters[counter as usize]? - watched.base[counter as usize])
}

#[test]
fn only_what_happens_in_the_agents_time_counts() {
    let fixture = Fixture::new("time");
    let census = Listed::default();
    for path in ["old", "new"] {
        fixture.write(&format!("{path}/memory.events"), "low 0\nhigh 0\nmax 10\noom 1\noom_kill 1\n");
        fixture.write(&format!("{path}/memory.current"), "8192\n");
        fixture.write(&format!("{path}/memory.max"), "max\n");
    }
    census.set(&[(7, "/old", Instant::now())]);
    let mut files = Files::new(&fixture.facts(), 100, &census);
    census.set(&[(7, "/old", Instant::now()), (8, "/new", Instant::now())]);
    fixture.write("old/memory.events", "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n");
    let mut scrape = Scrape::default();
    files.read(&census, &mut scrape);
    assert_eq!((counter(&files, 7, Counter::Max), counter(&files, 7, Counter::OomKill)), (Some(2), Some(0)));
    assert_eq!((counter(&files, 8, Counter::Max), counter(&files, 8, Counter::OomKill)), (Some(10), Some(1)));
    assert_eq!(files.watched[&7].last.usage, Some(8192));
    assert_eq!(scrape.len(), 10, "four events and the usage of each; no limit, throttling or pressure");
}

#[test]
fn a_file_may_come_later_and_go() {
    let fixture = Fixture::new("later");
    let census = Listed::default();
    let mut files = Files::new(&fixture.facts(), 100, &census);
    fs::create_dir_all(fixture.0.join("a")).unwrap();
    census.set(&[(7, "/a", Instant::now())]);
    files.read(&census, &mut Scrape::default());
    assert_eq!((counter(&files, 7, Counter::Throttled), files.open), (None, 0));
    fixture.write("a/cpu.stat", "nr_periods 4\nnr_throttled 3\nthrottled_usec 5\n");
    fixture.write("a/io.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=17\n");
    files.read(&census, &mut Scrape::default());
    assert_eq!(counter(&files, 7, Counter::ThrottledPeriods), Some(3));
    assert_eq!((counter(&files, 7, Counter::Throttled), counter(&files, 7, Counter::IoSome)), (Some(5000), Some(17)));
    assert_eq!(files.open, 2);

    census.set(&[]);
    let mut scrape = Scrape::default();
    files.read(&census, &mut scrape);
    assert_eq!((files.open, files.watched.len(), scrape.len()), (0, 0, 3), "the last values are recorded");
}

#[test]
fn descriptors_keep_within_their_budget() {
    let fixture = Fixture::new("budget");
    let census = Listed::default();
    let open = |path: &Path| {
        let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
        all.filter(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(path))).count()
    };
    let names: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
    for name in &names {
        fixture.write(&format!("{name}/memory.current")[1..], "4096\n");
    }
    let roots: Vec<_> = names.iter().enumerate().map(|(id, name)| (id as u64, &**name, Instant::now())).collect();
    census.set(&roots);
    let mut files = Files::new(&fixture.facts(), 10, &census);
    for _ in 0..3 {
        let mut scrape = Scrape::default();
        files.read(&census, &mut scrape);
        assert_eq!((open(&fixture.0), files.open, scrape.len()), (10, 10, 50), "nothing is missing");
    }
    census.set(&roots[..5]);
    files.read(&census, &mut Scrape::default());
    assert_eq!(open(&fixture.0) as u64, files.open);
    assert!(files.open <= 5);
}
