//! Names that sources give, early and late.

use super::*;
use crate::{Container, Kind, Names, Pod};

const UID: &str = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";

fn names(pairs: &[(&'static str, &str)]) -> Names {
    pairs.iter().map(|&(key, value)| (model::Text::Static(key), value.to_owned().into())).collect()
}

fn container(digit: char, name: &str) -> Container {
    Container { id: String::from(digit).repeat(64).into(), names: names(&[("k8s.container.name", name)]) }
}

/// The pod `web-0` with containers by the digit of their ids.
fn pod(uid: &str, containers: &[(char, &str)]) -> Pod {
    let containers = containers.iter().map(|&(digit, name)| container(digit, name)).collect();
    Pod {
        uid: uid.into(),
        alias: None,
        names: names(&[("k8s.pod.name", "web-0")]),
        observed: true,
        containers,
        addresses: Vec::new(),
    }
}

fn path(uid: &str, digit: char) -> String {
    format!("/kubepods/pod{uid}/{}", String::from(digit).repeat(64))
}

fn made(workloads: &Workloads, id: u64, path: &str) {
    workloads.changed(CgroupChange::Made { id, parent: 1, path: Some(path.into()) });
}

fn of(workloads: &Workloads, id: u64) -> String {
    match workloads.resolve(Subject::Cgroup(id)) {
        Answer::Known(set) => {
            set.pairs().iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect::<Vec<_>>().join(" ")
        }
        other => text(&other),
    }
}

fn start(fake: &Fake, settings: Settings) -> Workloads {
    Workloads::start(fake.hierarchy(), &Settings { expects: vec![Kind::Pods], ..settings }).unwrap()
}

const WEB: &str = "k8s.container.name=web k8s.pod.name=web-0";

#[test]
fn a_container_waits_for_its_name() {
    let fake = Fake::new("sources-late");
    let workloads = start(&fake, Settings::default());
    made(&workloads, 5000, &path(UID, 'a'));
    workloads.changed(CgroupChange::Removed { id: 5000 });
    assert_eq!(of(&workloads, 5000), "Pending", "nobody knows the pod");
    let generation = workloads.generation();
    workloads.put_pod(pod(UID, &[]));
    assert_eq!(of(&workloads, 5000), "Pending", "nobody knows the container");
    assert!(matches!(workloads.resolve_now(Subject::Cgroup(5000)), Answer::Unknown(set, "container_unknown")
        if set.get("k8s.pod.name") == Some("web-0")));
    workloads.put_pod(pod(UID, &[('a', "web")]));
    assert_eq!(of(&workloads, 5000), WEB);
    assert!(workloads.generation() > generation);
    let generation = workloads.generation();
    workloads.put_pod(pod(UID, &[('a', "web")]));
    workloads.put_pod(pod(UID, &[('a', "web"), ('b', "other")]));
    workloads.remove_pod(UID);
    assert_eq!(workloads.generation(), generation, "no news of this cgroup");
    assert_eq!(of(&workloads, 5000), WEB, "it keeps its names");
}

#[test]
fn restarts_and_recreations_look_alike() {
    let fake = Fake::new("sources-alike");
    let workloads = start(&fake, Settings::default());
    let mut sets = Vec::new();
    for (number, (uid, digit)) in
        [(UID, 'a'), (UID, 'b'), ("6fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913", 'c')].into_iter().enumerate()
    {
        made(&workloads, 5000 + number as u64, &path(uid, digit));
        workloads.put_pod(pod(uid, &[(digit, "web")]));
        match workloads.resolve(Subject::Cgroup(5000 + number as u64)) {
            Answer::Known(set) => sets.push(set),
            other => panic!("{other:?}"),
        }
    }
    assert!(sets.iter().all(|set| Arc::ptr_eq(set, &sets[0])));
}

#[test]
fn waiting_has_an_end() {
    let fake = Fake::new("sources-patience");
    let workloads = start(&fake, Settings { patience: Duration::from_millis(50), ..Settings::default() });
    made(&workloads, 5000, &path(UID, 'a'));
    made(&workloads, 5001, "/kubepods/pod7fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913");
    workloads.put_pod(pod(UID, &[]));
    assert_eq!(text(&answer(&workloads, 5000)), "container_unknown");
    assert_eq!(text(&answer(&workloads, 5001)), "pod_unknown");
    let stats = workloads.stats();
    assert!(stats.misses[Reason::ContainerUnknown as usize] > 0 && stats.misses[Reason::PodUnknown as usize] > 0);
    workloads.put_pod(pod(UID, &[('a', "web")]));
    assert_eq!(of(&workloads, 5000), WEB, "better late than never");
}

#[test]
fn nobody_waits_for_a_source_that_fails() {
    let fake = Fake::new("sources-fail");
    let workloads = start(&fake, Settings::default());
    made(&workloads, 5000, &format!("/kubepods/pod{UID}"));
    assert_eq!(of(&workloads, 5000), "Pending");
    workloads.expect(Kind::Pods, false);
    assert_eq!(of(&workloads, 5000), format!("k8s.pod.uid={UID}"));
    workloads.expect(Kind::Pods, true);
    workloads.put_pod(pod(UID, &[]));
    assert_eq!(of(&workloads, 5000), "k8s.pod.name=web-0");
}

#[test]
fn the_sandbox_of_a_pod_has_the_names_of_the_pod() {
    let fake = Fake::new("sources-sandbox");
    let workloads = start(&fake, Settings::default());
    workloads.put_pod(pod(UID, &[]));
    for (id, digit) in [(5001, 'a'), (5002, 'b'), (5003, 'c')] {
        made(&workloads, id, &path(UID, digit));
    }
    workloads.put_pod(pod(UID, &[('c', "web")]));
    assert_eq!(of(&workloads, 5001), "k8s.pod.name=web-0");
    assert_eq!(of(&workloads, 5002), "Pending", "an init container, whose id is still to come");
    assert_eq!(of(&workloads, 5003), WEB);
}

#[test]
fn attributes_that_tell_apart_are_by_wish() {
    let fake = Fake::new("sources-add");
    let add = vec!["k8s.pod.uid".to_owned(), "container.id".to_owned()];
    let workloads = start(&fake, Settings { add, ..Settings::default() });
    workloads.put_pod(pod(UID, &[('a', "web")]));
    made(&workloads, 5000, &path(UID, 'a'));
    assert_eq!(of(&workloads, 5000), format!("container.id={} {WEB} k8s.pod.uid={UID}", "a".repeat(64)));
}

#[test]
fn filters_follow_names() {
    let fake = Fake::new("sources-filters");
    let settings = Settings { filters_pods: true, container_filter: vec!["web".to_owned()], ..Settings::default() };
    let workloads = start(&fake, settings);
    let rule = |id| workloads.rule(id).unwrap();
    made(&workloads, 4999, &format!("/kubepods/pod{UID}"));
    made(&workloads, 5000, &path(UID, 'a'));
    made(&workloads, 5001, "/system.slice/a.service");
    made(&workloads, 5002, &format!("/docker/{}", "d".repeat(64)));
    made(&workloads, 5003, &path(UID, 'b'));
    assert_eq!((rule(4999), rule(5000)), (Rule::Skip, Rule::Allow), "observed until its name is known");
    assert_eq!((rule(5001), rule(5002)), (Rule::Skip, Rule::Deny));
    assert_eq!((of(&workloads, 5000), of(&workloads, 5002)), ("Pending".into(), "Excluded".into()));
    let (known, _) = workloads.rules(0).unwrap();
    workloads.put_pod(pod(UID, &[('a', "web"), ('b', "sidecar")]));
    let rules: BTreeSet<u64> = workloads
        .rules(known)
        .unwrap()
        .1
        .into_iter()
        .filter(|(_, rule)| *rule == Rule::Allow)
        .map(|(id, _)| id)
        .collect();
    assert_eq!(rules, BTreeSet::from([5000]));
    assert_eq!((of(&workloads, 5000), of(&workloads, 5003)), (WEB.into(), "Excluded".into()));
    workloads.put_pod(Pod { observed: false, ..pod(UID, &[('a', "web"), ('b', "sidecar")]) });
    assert_eq!((rule(5000), of(&workloads, 5000)), (Rule::Deny, "Excluded".into()));
}

#[test]
fn sources_and_cgroups_may_meet() {
    let fake = Fake::new("sources-threads");
    let workloads = start(&fake, Settings::default());
    let uid = |number: u64| format!("{number:08x}-3a02-4b1e-9f0f-2d4c67a8e913");
    thread::scope(|scope| {
        let workloads = &workloads;
        scope.spawn(move || (0..2000).for_each(|number| made(workloads, 5000 + number, &path(&uid(number), 'a'))));
        scope.spawn(move || {
            (0..2000).for_each(|number| assert!(workloads.put_pod(pod(&uid(number), &[('a', "web")]))));
        });
        scope.spawn(move || (0..2000).for_each(|number| drop(workloads.resolve(Subject::Cgroup(5000 + number)))));
    });
    assert!((0..2000).all(|number| of(&workloads, 5000 + number) == WEB));
}
