//! Turns a cgroup's path, and what the directory knows of it, into attributes: one shared set for all that look alike.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::{Answer, Attributes, Rule, Text};

use crate::container::{self, Place};
use crate::directory::{Container, Directory, Found, Kind};
use crate::stats::Reason;
use crate::unit;
use crate::{Granularity, Settings};

/// The name of what no task owns, beside `systemd.unit` and `cgroup.path` the third way to name a workload.
const KERNEL: (&str, &str) = ("workload.name", "kernel");

/// Attributes of named containers that are left out unless they are asked for: they differ where nothing else does.
const OPTIONAL: &[&str] = &["container.id", "container.image.name", "k8s.pod.uid"];

/// The names of containers by which `container_filter` may choose.
const CONTAINER_NAMES: &[&str] = &["k8s.container.name", "container.name"];

/// The name of an executable within a workload.
const EXECUTABLE: &str = "process.executable.name";

/// Makes attribute sets by the configuration's rules.
pub(crate) struct Identities {
    granularity: Granularity,
    drop: Vec<String>,
    add: Vec<String>,
    container_filter: Vec<String>,
    filters_pods: bool,
    sets: Mutex<Sets>,
    pub(crate) directory: Directory,
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

/// An answer, and what may become of it.
pub(crate) struct Named {
    pub(crate) answer: Answer,
    /// Whether a better one is expected.
    pub(crate) expected: bool,
    /// Where the pod is known, but the cgroup is within a container: whether that one is known, too.
    pub(crate) published: Option<bool>,
}

/// What the filters say of a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Observed,
    /// The name that decides is still to come.
    Open,
    /// It is not observed. Says whether neither is anything below it.
    LeftOut(bool),
}

impl Named {
    /// An answer that stands for good.
    pub(crate) fn for_good(answer: Answer) -> Self {
        Self { answer, expected: false, published: None }
    }
}

impl Identities {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut identities = Self {
            granularity: settings.granularity,
            drop: settings.drop.clone(),
            add: settings.add.clone(),
            container_filter: settings.container_filter.clone(),
            filters_pods: settings.filters_pods,
            sets: Mutex::default(),
            directory: Directory::new(settings.retention, settings.removed_limit),
            empty: Arc::default(),
            kernel: Arc::default(),
            overflow: Arc::new(Attributes::new([("otel.metric.overflow".into(), "true".into())])),
        };
        for &kind in &settings.expects {
            identities.directory.expect(kind, true);
        }
        identities.kernel = identities.share(vec![(KERNEL.0.into(), Text::Static(KERNEL.1))]);
        identities
    }

    /// Gives the answer for a cgroup with a path from the hierarchy's root.
    pub(crate) fn named(&self, path: &str) -> Named {
        let place = container::locate(path);
        let found = self.directory.find(&place);
        let published = (found.pod.is_some() && place.container.is_some()).then_some(found.container.is_some());
        let (answer, expected) = match self.judge(&place, &found) {
            Verdict::Observed => self.describe(path, &place, &found),
            Verdict::Open => (Answer::Excluded, true),
            Verdict::LeftOut(_) => (Answer::Excluded, false),
        };
        Named { answer, expected, published }
    }

    /// Gives the answer for a nameless cgroup below one with a path: it belongs to the container or unit around it.
    pub(crate) fn inherited(&self, parent: &str, id: u64) -> Named {
        let place = container::locate(parent);
        if place != Place::default() || unit::unit(parent).is_some() {
            self.named(parent)
        } else {
            Named::for_good(self.unknown(id, Reason::Unnamed))
        }
    }

    /// Gives the answer for a cgroup of which only the id is known.
    pub(crate) fn unknown(&self, id: u64, reason: Reason) -> Answer {
        if self.filters() {
            return Answer::Excluded;
        }
        Answer::Unknown(self.share(vec![("cgroup.id".into(), id.to_string().into())]), reason.as_str())
    }

    /// Says whether a cgroup has to be known at all.
    pub(crate) fn tells_apart(&self) -> bool {
        self.granularity != Granularity::Node || self.filters()
    }

    /// Says whether some cgroups are left out.
    pub(crate) fn filters(&self) -> bool {
        self.filters_pods || !self.container_filter.is_empty()
    }

    /// Says what the filters want of the cgroup with a path. What a name still to come decides is observed until then.
    pub(crate) fn rule(&self, path: &str) -> Rule {
        let place = container::locate(path);
        match self.judge(&place, &self.directory.find(&place)) {
            Verdict::Observed | Verdict::Open => Rule::Allow,
            Verdict::LeftOut(true) => Rule::Deny,
            Verdict::LeftOut(false) => Rule::Skip,
        }
    }

    fn judge(&self, place: &Place<'_>, found: &Found) -> Verdict {
        match (self.judge_pod(place, found), self.judge_container(place, found)) {
            (Verdict::Observed, other) | (other, Verdict::Observed) => other,
            (Verdict::LeftOut(a), Verdict::LeftOut(b)) => Verdict::LeftOut(a || b),
            (out @ Verdict::LeftOut(_), _) | (_, out @ Verdict::LeftOut(_)) => out,
            (Verdict::Open, Verdict::Open) => Verdict::Open,
        }
    }

    fn judge_pod(&self, place: &Place<'_>, found: &Found) -> Verdict {
        match &found.pod {
            _ if !self.filters_pods => Verdict::Observed,
            Some(pod) if pod.observed => Verdict::Observed,
            Some(_) => Verdict::LeftOut(true),
            None if place.pod.is_some() && self.directory.expects(Kind::Pods) => Verdict::Open,
            // Pods may lie below a container: in kind every node is one.
            None => Verdict::LeftOut(place.pod.is_some()),
        }
    }

    /// Another container keeps all that is within it out; of what is made below anything else nobody knows before it has
    /// its name.
    fn judge_container(&self, place: &Place<'_>, found: &Found) -> Verdict {
        let Some(container) = place.container.as_ref().filter(|_| !self.container_filter.is_empty()) else {
            return if self.container_filter.is_empty() { Verdict::Observed } else { Verdict::LeftOut(false) };
        };
        let begins = |id: &str| self.container_filter.iter().any(|prefix| id.starts_with(prefix.as_str()));
        let is_named = |found: &Container| {
            let names = found.names.iter().filter(|(key, _)| CONTAINER_NAMES.contains(&key.as_str()));
            names.into_iter().any(|(_, name)| self.container_filter.iter().any(|wanted| wanted == name.as_str()))
        };
        if begins(&container.id) || place.outer.as_deref().is_some_and(begins) {
            return Verdict::Observed;
        }
        match &found.container {
            Some(container) if is_named(container) => Verdict::Observed,
            None if self.directory.expects(kind(place)) => Verdict::Open,
            _ => Verdict::LeftOut(true),
        }
    }

    fn describe(&self, path: &str, place: &Place<'_>, found: &Found) -> (Answer, bool) {
        let runtime = place.container.as_ref().and_then(|container| container.runtime);
        let runtime = runtime.map(|runtime| (Text::Static("container.runtime.name"), Text::Static(runtime)));
        let ids = || {
            let container = place.container.as_ref().map(|found| ("container.id", found.id.to_string()));
            let pod = place.pod.as_ref().map(|uid| ("k8s.pod.uid", uid.to_string()));
            container.into_iter().chain(pod).map(|(key, id)| (Text::Static(key), Text::from(id)))
        };
        let wanted = |pair: &(Text, Text)| self.wants(pair.0.as_str());
        let names = |names: &[(Text, Text)]| names.iter().filter(|pair| wanted(pair)).cloned().collect::<Vec<_>>();
        let user = || unit::user(path).map(|user| ("user.id".into(), user.to_owned().into()));
        let mut pairs = match (&found.pod, &found.container) {
            (None, None) => {
                let mut pairs: Vec<_> = ids().chain(runtime).collect();
                if pairs.is_empty() {
                    let unit = unit::unit(path).or_else(|| unit::slice(path)).map(|unit| ("systemd.unit", unit));
                    let name = unit.unwrap_or(("cgroup.path", path));
                    pairs.push((name.0.into(), name.1.to_owned().into()));
                    pairs.extend(user());
                }
                pairs
            }
            (Some(pod), None) => names(&pod.names),
            (Some(pod), Some(container)) => [names(&pod.names), names(&container.names)].concat(),
            // What users call their containers is no name for the whole host.
            (None, Some(container)) => names(&container.names).into_iter().chain(runtime).chain(user()).collect(),
        };
        let reason = match (&found.pod, &found.container) {
            (None, None) if place.pod.is_some() => Some(Reason::PodUnknown),
            (_, None) if place.container.is_some() => Some(Reason::ContainerUnknown),
            _ => None,
        };
        if found.pod.is_some() || found.container.is_some() {
            // Of a pod that no source knows the UID is all there is.
            let nameless = found.pod.is_none() && !pairs.iter().any(|(key, _)| key.as_str() == "k8s.pod.name");
            pairs.extend(ids().filter(|pair| wanted(pair) || nameless && pair.0.as_str() == "k8s.pod.uid"));
        }
        let set = self.share(pairs);
        match reason {
            Some(reason) if self.directory.expects(kind(place)) => (Answer::Unknown(set, reason.as_str()), true),
            _ => (Answer::Known(set), false),
        }
    }

    /// Gives the names of the pod that has an address; none of one that is left out, and nothing when no pod has it.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<Arc<Attributes>> {
        let (uid, pod) = self.directory.owner(address)?;
        if self.filters_pods && !pod.observed {
            return Some(Arc::clone(&self.empty));
        }
        let uid = (Text::Static("k8s.pod.uid"), Text::Shared(uid));
        let names = pod.names.iter().cloned().chain([uid]).filter(|(key, _)| self.wants(key.as_str()));
        Some(self.share(names.collect()))
    }

    fn wants(&self, key: &str) -> bool {
        !OPTIONAL.contains(&key) || self.add.iter().any(|added| added == key)
    }

    /// Gives a workload's set with the name of an executable within it.
    pub(crate) fn within(&self, workload: &Attributes, executable: &Text) -> Arc<Attributes> {
        let pairs = workload.pairs().iter().map(|pair| (pair.key.clone(), pair.value.clone()));
        self.share(pairs.chain([(Text::Static(EXECUTABLE), executable.clone())]).collect())
    }

    fn share(&self, mut pairs: Vec<(Text, Text)>) -> Arc<Attributes> {
        if self.granularity == Granularity::Node {
            return Arc::clone(&self.empty);
        }
        pairs.retain(|(key, _)| !self.drop.iter().any(|dropped| dropped == key.as_str()));
        if pairs.is_empty() {
            return Arc::clone(&self.empty);
        }
        let set = Attributes::new(pairs);
        let mut sets = self.sets();
        if let Some(known) = sets.all.get(&set) {
            return Arc::clone(known);
        }
        if sets.all.len() >= sets.sweep_at {
            // A mark that grows with what stays makes the sweeps' cost a constant per set, whatever comes and goes.
            sets.all.retain(|set| Arc::strong_count(set) > 1);
            sets.sweep_at = (sets.all.len() + sets.all.len() / 4).max(256);
        }
        let set = Arc::new(set);
        sets.all.insert(Arc::clone(&set));
        set
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives who could name a place.
fn kind(place: &Place<'_>) -> Kind {
    if place.pod.is_some() { Kind::Pods } else { Kind::Containers }
}

#[cfg(test)]
mod tests;
