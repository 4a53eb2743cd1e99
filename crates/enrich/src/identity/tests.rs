//! Names and filters by themselves.

use super::*;

const ID: &str = "3f1a9c5be0d24786bb0c9a7f61d2e8453f1a9c5be0d24786bb0c9a7f61d2e845";

fn known(named: &Named) -> Arc<Attributes> {
    known_of(&named.answer)
}

fn known_of(answer: &Answer) -> Arc<Attributes> {
    match answer {
        Answer::Known(set) => Arc::clone(set),
        other => panic!("no names: {other:?}"),
    }
}

fn text(set: &Attributes) -> String {
    set.pairs().iter().flat_map(|pair| [pair.key.as_str(), "=", pair.value.as_str(), " "]).collect()
}

#[test]
fn names_follow_the_place() {
    let identities = Identities::new(&Settings::default());
    let uid = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";
    let cases = [
        (
            format!("/kubepods/burstable/pod{uid}/crio-{ID}"),
            format!("container.id={ID} container.runtime.name=cri-o k8s.pod.uid={uid} "),
        ),
        (format!("/kubepods/burstable/pod{uid}"), format!("k8s.pod.uid={uid} ")),
        ("/system.slice/nginx.service/worker".to_owned(), "systemd.unit=nginx.service ".to_owned()),
        ("/batch/17".to_owned(), "cgroup.path=/batch/17 ".to_owned()),
        ("/".to_owned(), "cgroup.path=/ ".to_owned()),
    ];
    for (path, expected) in cases {
        assert_eq!(text(&known(&identities.named(&path))), expected);
    }
    assert_eq!(text(&identities.kernel), "workload.name=kernel ");
    assert_eq!(text(&identities.overflow), "otel.metric.overflow=true ");
}

#[test]
fn equal_sets_are_one() {
    let identities = Identities::new(&Settings::default());
    let above = known(&identities.named(&format!("/docker/{ID}")));
    let below = known(&identities.named(&format!("/docker/{ID}/init.scope")));
    assert!(Arc::ptr_eq(&above, &below));

    let drop = vec!["container.id".to_owned(), "systemd.unit".to_owned()];
    let identities = Identities::new(&Settings { drop, ..Settings::default() });
    let container = known(&identities.named(&format!("/docker/{ID}")));
    assert_eq!(text(&container), "container.runtime.name=docker ");
    assert!(Arc::ptr_eq(
        &container,
        &known(&identities.named(&format!("/system.slice/docker-{}.scope", "a".repeat(64))))
    ));
    assert!(known(&identities.named("/a.service")).is_empty());
}

#[test]
fn unused_sets_are_swept() {
    let identities = Identities::new(&Settings::default());
    let kept = known(&identities.named("/kept"));
    for number in 0..10_000 {
        let _ = identities.named(&format!("/{number}"));
    }
    assert!(identities.sets().all.len() <= 512);
    assert!(Arc::ptr_eq(&kept, &known(&identities.named("/kept"))));
}

#[test]
fn the_filter_leaves_out_other_containers() {
    let container_filter = vec!["3f1a9c".to_owned()];
    let identities = Identities::new(&Settings { container_filter, ..Settings::default() });
    assert!(matches!(identities.named(&format!("/docker/{ID}/x")).answer, Answer::Known(_)));
    assert!(matches!(identities.named(&format!("/docker/{}", "a".repeat(64))).answer, Answer::Excluded));
    assert!(matches!(identities.named("/nginx.service").answer, Answer::Excluded));
    assert!(matches!(identities.unknown(7, Reason::NotFound), Answer::Excluded));

    let other = "a".repeat(64);
    let rules = [
        (format!("/docker/{ID}"), Rule::Allow),
        (format!("/docker/{ID}/x"), Rule::Allow),
        (format!("/docker/{other}"), Rule::Deny),
        (format!("/docker/{other}/x"), Rule::Deny),
        ("/docker".to_owned(), Rule::Skip),
        ("/".to_owned(), Rule::Skip),
        ("/nginx.service".to_owned(), Rule::Skip),
    ];
    for (path, rule) in rules {
        assert_eq!(identities.rule(&path), rule, "{path}");
    }
}

#[test]
fn sets_that_nobody_uses_are_forgotten() {
    let identities = Identities::new(&Settings::default());
    let used: Vec<_> = (0..1000).map(|number| known(&identities.named(&format!("/used/{number}")))).collect();
    for number in 0..10_000 {
        identities.named(&format!("/brief/{number}"));
    }
    assert!(identities.sets().all.len() <= 1300, "{} of {} in use", identities.sets().all.len(), used.len());
    assert!(Arc::ptr_eq(&used[0], &known(&identities.named("/used/0"))));
}

#[test]
fn a_node_is_one_workload() {
    let identities = Identities::new(&Settings { granularity: Granularity::Node, ..Settings::default() });
    assert!(known(&identities.named(&format!("/docker/{ID}"))).is_empty());
    assert!(identities.kernel.is_empty() && !identities.overflow.is_empty());
}

#[test]
fn a_nameless_cgroup_belongs_to_what_is_around_it() {
    let identities = Identities::new(&Settings::default());
    assert_eq!(text(&known(&identities.inherited("/a.service/b", 7))), "systemd.unit=a.service ");
    match identities.inherited("/batch", 7).answer {
        Answer::Unknown(set, "cgroup_unnamed") => assert_eq!(set.get("cgroup.id"), Some("7")),
        other => panic!("unexpected: {other:?}"),
    }
}

/// Two users, or a user and the host, may call containers by one name.
#[test]
fn containers_of_users_have_their_user() {
    let identities = Identities::new(&Settings::default());
    let names = || [("container.name".into(), "web".into())].into();
    let other = ID.replace('3', "4");
    for id in [ID, &other] {
        identities.directory.put_container(Container { id: id.into(), names: names() }, std::time::Instant::now());
    }
    let own = format!("/user.slice/user-4711.slice/user@4711.service/user.slice/libpod-{other}.scope");
    let cases = [
        (format!("/machine.slice/libpod-{ID}.scope"), ""),
        (own.clone(), "user.id=4711 "),
        (own + "/container", "user.id=4711 "),
    ];
    for (path, user) in cases {
        let expected = format!("container.name=web container.runtime.name=podman {user}");
        assert_eq!(text(&known(&identities.named(&path))), expected, "{path}");
    }
}
