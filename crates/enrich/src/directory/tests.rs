//! The directory by itself, with the time given by hand.

use super::*;
use crate::container::locate;

const HOUR: Duration = Duration::from_hours(1);
const UID: &str = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";
const ALIAS: &str = "c1a5d4b2e8f70391aa44bb55cc66dd77";

fn names(pairs: &[(&'static str, &str)]) -> Names {
    pairs.iter().map(|&(key, value)| (Text::Static(key), value.to_owned().into())).collect()
}

fn id(number: usize) -> Arc<str> {
    format!("{number:064x}").into()
}

fn container(number: usize) -> Container {
    Container { id: id(number), names: names(&[("k8s.container.name", "web")]) }
}

fn pod(containers: impl IntoIterator<Item = usize>) -> Pod {
    let containers = containers.into_iter().map(container).collect();
    Pod {
        uid: UID.into(),
        alias: None,
        names: names(&[("k8s.pod.name", "web-0")]),
        observed: true,
        containers,
        addresses: Vec::new(),
    }
}

/// Says whether the pod and the container of a path are known.
fn finds(directory: &Directory, path: &str) -> (bool, bool) {
    let found = directory.find(&locate(path));
    (found.pod.is_some(), found.container.is_some())
}

#[test]
fn only_what_is_new_is_news() {
    let (directory, now) = (Directory::new(HOUR, 10), Instant::now());
    let news = |pod| directory.put_pod(pod, now).unwrap();
    assert_eq!(news(pod([])), [UID.into()]);
    assert_eq!(news(pod([])), []);
    assert_eq!(news(pod([1])), [id(1), UID.into()]);
    assert_eq!(news(pod([1])), []);
    assert_eq!(news(pod([2])), [id(2), UID.into()], "a restarted container");
    assert_eq!(news(Pod { observed: false, ..pod([2]) }), [UID.into()]);
    let path = |uid: &str, number| format!("/kubepods/pod{uid}/{}", id(number));
    assert_eq!(finds(&directory, &path(UID, 2)), (true, true));
    assert_eq!(finds(&directory, &path(UID, 1)), (true, true), "what it was before");
    assert_eq!(finds(&directory, &path(UID, 3)), (true, false));
    assert_eq!(finds(&directory, &format!("{}/docker/{}", path(UID, 2), id(9))), (true, true), "within it");
    assert_eq!(finds(&directory, &format!("/k8s.io/{}", id(2))), (true, true), "the id tells of the pod, too");
    assert_eq!(finds(&directory, &path(ALIAS, 2)), (false, true));
    directory.put_pod(Pod { alias: Some(ALIAS.into()), ..pod([2]) }, now);
    assert_eq!(finds(&directory, &path(ALIAS, 3)), (true, false));
}

#[test]
fn what_is_gone_is_remembered_for_a_while() {
    let (directory, now) = (Directory::new(HOUR, 2), Instant::now());
    let path = format!("/kubepods/pod{ALIAS}/{}", id(1));
    let put = |now| directory.put_pod(Pod { alias: Some(ALIAS.into()), ..pod([1]) }, now);
    put(now);
    directory.remove_pod(UID, now);
    assert!(directory.pods().is_empty());
    assert_eq!(finds(&directory, &path), (true, true));
    put(now + HOUR / 2);
    directory.remove_pod("other", now + HOUR);
    assert_eq!(finds(&directory, &path), (true, true), "it is back");
    directory.remove_pod(UID, now + HOUR);
    directory.remove_pod("other", now + HOUR * 2);
    assert_eq!((finds(&directory, &path), directory.len()), ((false, false), (0, 0)));

    for number in 0..10 {
        directory.put_container(container(number), now);
        directory.remove_container(&id(number), now);
    }
    assert_eq!(directory.len(), (0, 2), "the oldest go first");
    assert_eq!(finds(&directory, &format!("/docker/{}", id(9))), (false, true));
}

#[test]
fn nothing_grows_without_bound() {
    let (directory, now) = (Directory::new(HOUR, 10), Instant::now());
    for number in 0..1000 {
        directory.put_pod(pod([number]), now);
    }
    assert_eq!(directory.len(), (1, 1 + FORMER));
    for number in 0..MOST + 10 {
        let uid = format!("{number:032x}").into();
        let room = directory.put_pod(Pod { uid, ..pod([]) }, now).is_some();
        assert_eq!(room, number < MOST - 1, "{number}");
    }
}

#[test]
fn a_pods_source_knows_its_containers_best() {
    let (directory, now) = (Directory::new(HOUR, 10), Instant::now());
    directory.put_pod(pod([1]), now);
    let local = Container { id: id(1), names: names(&[("container.name", "k8s_web")]) };
    assert_eq!(directory.put_container(local, now), Some(false));
    let found = directory.find(&locate(&format!("/docker/{}", id(1))));
    assert_eq!(found.container.unwrap().names[0].0.as_str(), "k8s.container.name");
}

#[test]
fn an_address_belongs_to_its_latest_pod() {
    let (directory, now) = (Directory::new(HOUR, 1), Instant::now());
    let (address, other): (IpAddr, IpAddr) = ("10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap());
    let put = |uid: &str, addresses: &[IpAddr]| {
        directory.put_pod(Pod { uid: uid.into(), addresses: addresses.to_vec(), ..pod([]) }, now);
        directory.addresses()
    };
    let owner = |address| directory.owner(address).map(|(uid, _)| uid.to_string());
    assert_eq!(owner(address), None);
    let first = put("first", &[address, other]);
    assert_eq!((owner(address).as_deref(), owner(other).as_deref()), (Some("first"), Some("first")));
    assert_eq!(put("first", &[address, other]), first, "that is no news");
    assert_eq!(put("first", &[]), first, "what has ended keeps its name");
    let second = put("second", &[address]);
    assert!(second > first);
    assert_eq!((owner(address).as_deref(), owner(other).as_deref()), (Some("second"), Some("first")));
    assert_eq!(put("first", &[address, other]), second, "and takes nothing back");
    assert_eq!(owner(address).as_deref(), Some("second"));
    directory.put_pod(Pod { uid: "second".into(), names: Names::default(), addresses: vec![address], ..pod([]) }, now);
    let renamed = directory.addresses();
    assert!(renamed > second, "another name is news");
    assert!(put("second", &[other]) > renamed);
    assert_eq!((owner(address), owner(other).as_deref()), (None, Some("second")), "another address, too");
    directory.remove_pod("first", now);
    directory.remove_pod("second", now);
    assert_eq!(owner(other).as_deref(), Some("second"), "what is gone is remembered");
    directory.remove_pod("third", now + 2 * HOUR);
    assert_eq!(owner(other), None, "for a while");
}
