//! Which cgroups' own files speak for whole workloads, so that nothing is counted twice under one set of attributes.
//!
//! A container's cgroup does, with all that is within it. Any other cgroup does unless one below it is of another
//! workload: a slice, a pod or a service with scopes of its own is left to those below. Within what has one set of
//! attributes it is the topmost that counts, and the hierarchy's root never does.

use std::collections::HashMap;
use std::sync::Arc;

use model::{Answer, Attributes, Root};

use crate::cache::Alive;
use crate::container;

/// Chooses among all cgroups that exist.
pub(crate) fn roots(all: Vec<Alive>) -> Vec<Root> {
    let places: HashMap<&str, usize> = all.iter().enumerate().map(|(at, one)| (&*one.path, at)).collect();
    let above: Vec<Option<usize>> = all.iter().map(|one| places.get(parent(&one.path)?).copied()).collect();
    // A cgroup's path is longer than those above it, so this order goes from below to above.
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_unstable_by_key(|&at| std::cmp::Reverse(all[at].path.len()));
    let mut whole = vec![true; all.len()];
    for &at in &order {
        if let Some(above) = above[at] {
            whole[above] &= whole[at] && same(&all[at].answer, &all[above].answer);
        }
    }
    let mut chosen = vec![false; all.len()];
    for &at in order.iter().rev() {
        let one = &all[at];
        let counts = whole[at] || container::locate(&one.path).container.is_some();
        let covered = std::iter::successors(above[at], |&at| above[at])
            .any(|above| chosen[above] && same(&all[above].answer, &one.answer));
        chosen[at] = &*one.path != "/" && workload(&one.answer).is_some() && counts && !covered;
    }
    let chosen = all.into_iter().zip(chosen).filter(|(_, chosen)| *chosen);
    chosen.map(|(Alive { id, path, since, .. }, _)| Root { id, path, since }).collect()
}

fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/')? {
        ("", "") => None,
        ("", _) => Some("/"),
        (parent, _) => Some(parent),
    }
}

fn workload(answer: &Answer) -> Option<&Arc<Attributes>> {
    match answer {
        Answer::Known(attributes) | Answer::Unknown(attributes, _) => Some(attributes),
        Answer::Pending | Answer::Excluded => None,
    }
}

/// Equal sets are shared, so comparing pointers is enough.
fn same(a: &Answer, b: &Answer) -> bool {
    workload(a).zip(workload(b)).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::identity::Identities;
    use crate::{Granularity, Settings};

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const POD: &str = "/kubepods/pod5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";

    fn chosen(settings: &Settings, paths: &[&str]) -> Vec<String> {
        let identities = Identities::new(settings);
        let alive = |(id, path): (usize, &&str)| Alive {
            id: id as u64,
            path: (*path).into(),
            since: Instant::now(),
            answer: identities.named(path).answer,
        };
        let mut paths: Vec<String> =
            roots(paths.iter().enumerate().map(alive).collect()).into_iter().map(|root| root.path.into()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn no_workload_is_counted_twice() {
        let container = format!("{POD}/crio-{A}");
        let inner = format!("/docker/{A}/docker/{B}");
        let (outer, init) = (format!("/docker/{A}"), format!("{container}/init.scope"));
        let cases: [(&[&str], &[&str]); 6] = [
            (&["/"], &[]),
            (&["/", "/batch", "/batch-2", "/batch/17"], &["/batch-2", "/batch/17"]),
            (&["/", "/kubepods", POD, &container, &init], &[&container]),
            (&["/", "/docker", &outer, &inner], &[&outer, &inner]),
            (
                &["/", "/system.slice", "/system.slice/a.service", "/system.slice/a.service/b"],
                &["/system.slice/a.service"],
            ),
            (
                &["/", "/user@1.service", "/user@1.service/init.scope", "/user@1.service/app.slice"],
                &["/user@1.service/app.slice", "/user@1.service/init.scope"],
            ),
        ];
        for (paths, expected) in cases {
            assert_eq!(chosen(&Settings::default(), paths), expected, "{paths:?}");
        }
    }

    #[test]
    fn what_looks_alike_is_read_at_its_top() {
        let node = Settings { granularity: Granularity::Node, ..Settings::default() };
        assert_eq!(chosen(&node, &["/", "/a", "/a/b.service", "/c"]), ["/a", "/c"]);
        let drop = vec!["cgroup.path".to_owned()];
        let settings = Settings { drop, ..Settings::default() };
        assert_eq!(chosen(&settings, &["/", "/a", "/a/b", "/c", "/c/d.service"]), ["/a", "/c/d.service"]);
        let settings = Settings { container_filter: vec!["aa".to_owned()], ..Settings::default() };
        let (mine, other) = (format!("/docker/{A}"), format!("/docker/{B}"));
        assert_eq!(chosen(&settings, &["/", "/docker", &mine, &other, "/c"]), [mine]);
    }
}
