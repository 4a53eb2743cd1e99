//! Turns a cgroup's path into attributes, one shared set for all cgroups that look alike.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Answer, Attributes, Rule, Text};

use crate::container::{self, Place};
use crate::stats::Reason;
use crate::unit;
use crate::{Granularity, Settings};

/// The name of what no task owns, beside `systemd.unit` and `cgroup.path` the third way to name a workload.
const KERNEL: (&str, &str) = ("workload.name", "kernel");

/// Makes attribute sets by the configuration's rules.
pub(crate) struct Identities {
    granularity: Granularity,
    drop: Vec<String>,
    filter: Vec<String>,
    sets: Mutex<Sets>,
    pub(crate) empty: Arc<Attributes>,
    pub(crate) kernel: Arc<Attributes>,
    pub(crate) overflow: Arc<Attributes>,
}

/// All sets in use, so that equal ones are one.
#[derive(Default)]
struct Sets {
    all: HashSet<Arc<Attributes>>,
    sweep_at: usize,
}

impl Identities {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut identities = Self {
            granularity: settings.granularity,
            drop: settings.drop.clone(),
            filter: settings.container_filter.clone(),
            sets: Mutex::default(),
            empty: Arc::default(),
            kernel: Arc::default(),
            overflow: Arc::new(Attributes::new([("otel.metric.overflow".into(), "true".into())])),
        };
        identities.kernel = identities.share(vec![(KERNEL.0, Text::Static(KERNEL.1))]);
        identities
    }

    /// Gives the answer for a cgroup with a path from the hierarchy's root.
    pub(crate) fn named(&self, path: &str) -> Answer {
        let place = container::locate(path);
        if self.excludes(&place) {
            return Answer::Excluded;
        }
        Answer::Known(self.share(Self::describe(path, place)))
    }

    /// Gives the answer for a nameless cgroup below one with a path: it belongs to the container or unit around it.
    pub(crate) fn inherited(&self, parent: &str, id: u64) -> Answer {
        let place = container::locate(parent);
        if place != Place::default() || unit::unit(parent).is_some() {
            self.named(parent)
        } else {
            self.unknown(id, Reason::Unnamed)
        }
    }

    /// Gives the answer for a cgroup of which only the id is known.
    pub(crate) fn unknown(&self, id: u64, reason: Reason) -> Answer {
        if !self.filter.is_empty() {
            return Answer::Excluded;
        }
        Answer::Unknown(self.share(vec![("cgroup.id", id.to_string().into())]), reason.as_str())
    }

    /// Says whether a cgroup has to be known at all.
    pub(crate) fn tells_apart(&self) -> bool {
        self.granularity != Granularity::Node || !self.filter.is_empty()
    }

    /// Says whether some cgroups are left out.
    pub(crate) fn filters(&self) -> bool {
        !self.filter.is_empty()
    }

    /// Says what the filter wants of the cgroup with a path. Another container keeps all that is within it out; of
    /// what is made below anything else nobody knows before it has its name.
    pub(crate) fn rule(&self, path: &str) -> Rule {
        let place = container::locate(path);
        if !self.excludes(&place) {
            Rule::Allow
        } else if place.container.is_some() {
            Rule::Deny
        } else {
            Rule::Skip
        }
    }

    fn excludes(&self, place: &Place<'_>) -> bool {
        let matches = |id: &str| self.filter.iter().any(|prefix| id.starts_with(prefix.as_str()));
        !self.filter.is_empty() && !place.container.as_ref().is_some_and(|container| matches(&container.id))
    }

    fn describe(path: &str, place: Place<'_>) -> Vec<(&'static str, Text)> {
        let text = |value: Cow<'_, str>| Text::from(value.into_owned());
        let mut pairs = Vec::with_capacity(3);
        if let Some(container) = place.container {
            pairs.push(("container.id", text(container.id)));
            if let Some(runtime) = container.runtime {
                pairs.push(("container.runtime.name", Text::Static(runtime)));
            }
        }
        if let Some(pod) = place.pod {
            pairs.push(("k8s.pod.uid", text(pod)));
        }
        if pairs.is_empty() {
            let (key, value) = match unit::unit(path) {
                Some(unit) => ("systemd.unit", unit),
                None => ("cgroup.path", path),
            };
            pairs.push((key, text(value.into())));
        }
        pairs
    }

    fn share(&self, mut pairs: Vec<(&'static str, Text)>) -> Arc<Attributes> {
        if self.granularity == Granularity::Node {
            return Arc::clone(&self.empty);
        }
        pairs.retain(|(key, _)| !self.drop.iter().any(|dropped| dropped == key));
        if pairs.is_empty() {
            return Arc::clone(&self.empty);
        }
        let set = Attributes::new(pairs.into_iter().map(|(key, value)| (Text::Static(key), value)));
        let mut sets = self.sets();
        if let Some(known) = sets.all.get(&set) {
            return Arc::clone(known);
        }
        if sets.all.len() >= sets.sweep_at {
            // Doubling the mark makes the sweeps' cost a constant per set, whatever comes and goes.
            sets.all.retain(|set| Arc::strong_count(set) > 1);
            sets.sweep_at = (2 * sets.all.len()).max(256);
        }
        let set = Arc::new(set);
        sets.all.insert(Arc::clone(&set));
        set
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1a9c5be0d24786bb0c9a7f61d2e8453f1a9c5be0d24786bb0c9a7f61d2e845";

    fn known(answer: &Answer) -> Arc<Attributes> {
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
        assert!(matches!(identities.named(&format!("/docker/{ID}/x")), Answer::Known(_)));
        assert!(matches!(identities.named(&format!("/docker/{}", "a".repeat(64))), Answer::Excluded));
        assert!(matches!(identities.named("/nginx.service"), Answer::Excluded));
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
    fn a_node_is_one_workload() {
        let identities = Identities::new(&Settings { granularity: Granularity::Node, ..Settings::default() });
        assert!(known(&identities.named(&format!("/docker/{ID}"))).is_empty());
        assert!(identities.kernel.is_empty() && !identities.overflow.is_empty());
    }

    #[test]
    fn a_nameless_cgroup_belongs_to_what_is_around_it() {
        let identities = Identities::new(&Settings::default());
        assert_eq!(text(&known(&identities.inherited("/a.service/b", 7))), "systemd.unit=a.service ");
        match identities.inherited("/batch", 7) {
            Answer::Unknown(set, "cgroup_unnamed") => assert_eq!(set.get("cgroup.id"), Some("7")),
            other => panic!("unexpected: {other:?}"),
        }
    }
}
