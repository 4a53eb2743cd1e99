//! The whole over temporary directories, and over the real hierarchy where that is allowed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod sources;

use super::*;

/// Ends a wait for the background thread that would not end.
const DEADLINE: Duration = Duration::from_secs(20);

/// A directory that takes the place of a hierarchy.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("telesonde-enrich-{}-{name}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn make(&self, path: &str) -> u64 {
        fs::create_dir_all(self.0.join(path)).unwrap();
        self.hierarchy().id(path).unwrap()
    }

    fn hierarchy(&self) -> Hierarchy {
        Hierarchy { mount: self.0.clone(), whole: true }
    }

    fn start(&self) -> Workloads {
        Workloads::start(self.hierarchy(), &Settings::default()).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Asks until the answer is not pending.
fn answer(workloads: &Workloads, id: u64) -> Answer {
    let begin = Instant::now();
    loop {
        match workloads.resolve(Subject::Cgroup(id)) {
            Answer::Pending if begin.elapsed() < DEADLINE => thread::sleep(Duration::from_millis(1)),
            answer => return answer,
        }
    }
}

fn text(answer: &Answer) -> String {
    match answer {
        Answer::Known(set) => {
            set.pairs().iter().flat_map(|pair| [pair.key.as_str(), "=", pair.value.as_str()]).collect()
        }
        Answer::Unknown(_, reason) => (*reason).to_owned(),
        other => format!("{other:?}"),
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < DEADLINE, "still not: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_first_walk_names_what_exists() {
    let fake = Fake::new("walk");
    let nginx = fake.make("system.slice/nginx.service");
    let job = fake.make("batch/job-1/step");
    fs::write(fake.0.join("batch/cgroup.procs"), "").unwrap();
    let workloads = fake.start();
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(nginx))), "systemd.unit=nginx.service");
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(job))), "cgroup.path=/batch/job-1/step");
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(fake.make("")))), "cgroup.path=/");
    assert_eq!(workloads.path(job).as_deref(), Some("/batch/job-1/step"));
    let stats = workloads.stats();
    assert_eq!((stats.hits, stats.entries, stats.removed, stats.scans), (3, 6, 0, 1));
}

#[test]
fn other_subjects_need_no_cgroup() {
    let workloads = Fake::new("subjects").start();
    assert_eq!(text(&workloads.resolve(Subject::Node)), "");
    assert_eq!(text(&workloads.resolve(Subject::Kernel)), "workload.name=kernel");
    assert_eq!(text(&workloads.resolve(Subject::Overflow)), "otel.metric.overflow=true");
}

/// Executables 100 to 102 of one cgroup.
struct Three(u64);

impl model::Executables for Three {
    fn find(&self, id: u64) -> Option<model::Executable> {
        let name = ["sh", "cat", "cat"].get(usize::try_from(id).ok()?.checked_sub(100)?)?;
        Some(model::Executable { cgroup: self.0, name: (*name).into() })
    }
}

#[test]
fn an_executable_has_its_name_beside_that_of_its_workload() {
    let fake = Fake::new("executables");
    let nginx = fake.make("a.service");
    let executables = Some(Arc::new(Three(nginx)) as Arc<dyn model::Executables>);
    let settings = Settings { executables, ..Settings::default() };
    let workloads = Workloads::start(fake.hierarchy(), &settings).unwrap();
    let of = |id| workloads.resolve(Subject::Executable(id));
    assert_eq!(text(&of(100)), "process.executable.name=shsystemd.unit=a.service");
    let (Answer::Known(one), Answer::Known(two)) = (of(101), of(102)) else { panic!("no names") };
    assert!(Arc::ptr_eq(&one, &two), "equal sets are one");
    assert_eq!(text(&of(103)), "cgroup_not_found");
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(nginx))), "systemd.unit=a.service");

    assert_eq!(workloads.removed_for(100), None);
    workloads.changed(CgroupChange::Removed { id: nginx });
    assert!(workloads.removed_for(100).is_some() && workloads.removed_for(nginx).is_some());
    assert_eq!(text(&of(100)), "process.executable.name=shsystemd.unit=a.service", "it outlives its cgroup");

    let drop = vec!["process.executable.name".to_owned()];
    let workloads = Workloads::start(fake.hierarchy(), &Settings { drop, ..settings }).unwrap();
    assert_eq!(text(&workloads.resolve(Subject::Executable(101))), "systemd.unit=a.service");
}

#[test]
fn a_missing_mount_is_an_error() {
    let hierarchy = Hierarchy { mount: "/no/such/place".into(), whole: true };
    let error = Workloads::start(hierarchy, &Settings::default()).err().unwrap();
    assert!(error.to_string().contains("/no/such/place"), "{error}");
}

#[test]
fn an_unknown_id_is_looked_for_once() {
    let fake = Fake::new("unknown");
    let workloads = fake.start();
    let late = fake.make("late");
    assert!(matches!(workloads.resolve(Subject::Cgroup(late)), Answer::Pending));
    assert!(matches!(workloads.resolve_now(Subject::Cgroup(late)), Answer::Unknown(_, "cgroup_not_found")));
    let generation = workloads.generation();
    assert_eq!(text(&answer(&workloads, late)), "cgroup.path=/late");
    assert!(workloads.generation() >= generation);
    assert_eq!(workloads.removed_for(late), None);

    assert_eq!(workloads.removed_for(u64::MAX), None, "not known to be missing yet");
    assert_eq!(text(&answer(&workloads, u64::MAX)), "cgroup_not_found");
    assert!(workloads.removed_for(u64::MAX).is_some());
    let scans = workloads.stats().scans;
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(u64::MAX))), "cgroup_not_found");
    let stats = workloads.stats();
    assert_eq!((stats.misses[Reason::NotFound as usize], stats.scans), (3, scans));
    assert!(stats.misses[Reason::Pending as usize] >= 2);
}

#[test]
fn a_brief_cgroup_keeps_its_names() {
    let fake = Fake::new("brief");
    let workloads = fake.start();
    let root = fake.make("");
    workloads.changed(CgroupChange::Made { id: 5000, parent: root, path: Some("/a.service".into()) });
    assert_eq!(workloads.removed_for(5000), None);
    workloads.changed(CgroupChange::Removed { id: 5000 });
    assert!(workloads.removed_for(5000).is_some());
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(5000))), "systemd.unit=a.service");
}

#[test]
fn a_path_that_the_kernel_withheld_is_found() {
    let fake = Fake::new("withheld");
    let above = fake.make("a.service");
    let plain = fake.make("plain");
    let workloads = fake.start();
    let child = fake.make("plain/child");
    workloads.changed(CgroupChange::Made { id: child, parent: plain, path: None });
    assert_eq!(text(&answer(&workloads, child)), "cgroup.path=/plain/child");

    workloads.changed(CgroupChange::Made { id: u64::MAX, parent: above, path: None });
    workloads.changed(CgroupChange::Removed { id: u64::MAX });
    assert_eq!(text(&answer(&workloads, u64::MAX)), "systemd.unit=a.service");

    workloads.changed(CgroupChange::Made { id: u64::MAX - 1, parent: u64::MAX - 2, path: None });
    assert_eq!(text(&answer(&workloads, u64::MAX - 1)), "cgroup_unnamed");
    until("what no walk finds is gone", || workloads.removed_for(u64::MAX - 1).is_some());
}

#[test]
fn lost_reports_are_made_up_for() {
    let fake = Fake::new("lost");
    let old = fake.make("old");
    let workloads = fake.start();
    let new = fake.make("new");
    fs::remove_dir(fake.0.join("old")).unwrap();
    for _ in 0..1000 {
        workloads.changed(CgroupChange::Lost);
    }
    until("the new one is known", || workloads.path(new).is_some());
    assert!(workloads.removed_for(old).is_some());
    assert_eq!(text(&workloads.resolve(Subject::Cgroup(old))), "cgroup.path=/old");
    assert!(workloads.stats().scans < 100, "walks are coalesced");
}

#[test]
fn changes_and_questions_may_meet() {
    let fake = Fake::new("threads");
    let root = fake.make("");
    let workloads = fake.start();
    thread::scope(|scope| {
        for writer in 0..4_u64 {
            let workloads = &workloads;
            scope.spawn(move || {
                for step in 0..2000 {
                    let id = 1_000_000 * (writer + 1) + step;
                    let path = Some(format!("/{writer}/{step}").into());
                    workloads.changed(CgroupChange::Made { id, parent: root, path });
                    if step % 100 == 0 {
                        workloads.changed(CgroupChange::Lost);
                    }
                    workloads.changed(CgroupChange::Removed { id });
                }
            });
            scope.spawn(move || {
                for step in 0..2000 {
                    let id = 1_000_000 * (writer + 1) + step;
                    let answer = workloads.resolve(Subject::Cgroup(id));
                    assert!(!matches!(answer, Answer::Excluded));
                    let _ = workloads.removed_for(id);
                }
            });
        }
    });
    for writer in 0..4_u64 {
        for step in 0..2000 {
            let answer = workloads.resolve(Subject::Cgroup(1_000_000 * (writer + 1) + step));
            assert_eq!(text(&answer), format!("cgroup.path=/{writer}/{step}"));
        }
    }
    assert_eq!(workloads.stats().removed, 8000);
}

#[test]
fn real_cgroups_are_found_and_buried() {
    let mounts = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
    let Some(mount) = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists()) else {
        println!("SKIPPED real_cgroups_are_found_and_buried: no cgroup hierarchy is mounted");
        return;
    };
    let root = mount.join(format!("telesonde-enrich-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&root) {
        println!("SKIPPED real_cgroups_are_found_and_buried: cannot make a cgroup: {error}");
        return;
    }
    let hierarchy = Hierarchy { mount: mount.to_owned(), whole: true };
    let workloads = Workloads::start(hierarchy.clone(), &Settings::default()).unwrap();
    let name = root.file_name().unwrap().to_str().unwrap();
    let mut ids = BTreeSet::new();
    for number in 0..50 {
        fs::create_dir(root.join(number.to_string())).unwrap();
        ids.insert(hierarchy.id(&format!("/{name}/{number}")).unwrap());
    }
    assert_eq!(ids.len(), 50);
    let named = ids.iter().filter(|&&id| text(&answer(&workloads, id)).starts_with(&format!("cgroup.path=/{name}/")));
    assert_eq!(named.count(), 50);
    for number in 0..50 {
        fs::remove_dir(root.join(number.to_string())).unwrap();
    }
    fs::remove_dir(&root).unwrap();
    workloads.changed(CgroupChange::Lost);
    until("all are gone", || ids.iter().all(|&id| workloads.removed_for(id).is_some()));
    assert!(ids.iter().all(|&id| text(&workloads.resolve(Subject::Cgroup(id))).contains(name)));
}
