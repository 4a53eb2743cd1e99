use std::sync::Mutex;

use model::{Party, Points, Scope};

use super::*;
use crate::collector::Scrape;
use crate::series::{Limits, Moment, Origin};

static BYTES: Metric = Metric::counter("bytes", "By", "h", &["port"]);
const NAMES: [&str; 2] = ["source", "destination"];

/// Names of cgroups: those from 10 on come late.
#[derive(Default)]
struct Names(Mutex<HashMap<u64, Arc<Attributes>>>);

fn named(name: &str) -> Arc<Attributes> {
    Arc::new(Attributes::new([("name".into(), name.to_owned().into())]))
}

impl Names {
    fn of(&self, who: Who) -> Option<Arc<Attributes>> {
        let Who::Cgroup(id) = who else { return None };
        self.0.lock().unwrap().get(&id).cloned().or((id < 10).then(|| named(&id.to_string())))
    }
}

impl Resolver for Names {
    fn generation(&self) -> u64 {
        0
    }

    fn resolve(&self, subject: Subject) -> Answer {
        let known = match subject {
            Subject::Pair { source, destination } => self.of(source.who).zip(self.of(destination.who)).map(|both| {
                let name = |one: Arc<Attributes>| Text::from(one.get("name").unwrap_or_default().to_owned());
                let pairs = NAMES.into_iter().map(Text::from).zip([name(both.0), name(both.1)]);
                Arc::new(Attributes::new(pairs))
            }),
            Subject::Cgroup(id) => self.of(Who::Cgroup(id)),
            _ => None,
        };
        known.map_or(Answer::Pending, Answer::Known)
    }

    fn resolve_now(&self, subject: Subject) -> Answer {
        match self.resolve(subject) {
            Answer::Pending => Answer::Unknown(named("late"), "late"),
            answer => answer,
        }
    }

    fn remember(&self, cgroup: u64, attributes: Arc<Attributes>) {
        self.0.lock().unwrap().insert(cgroup, attributes);
    }
}

fn between(source: u64, destination: u64) -> Subject {
    let party = |id| Party::from(Who::Cgroup(id));
    Subject::Pair { source: party(source), destination: party(destination) }
}

/// Gathers once with these amounts between two; gives what is shown.
fn gather(store: &mut Store, names: &Names, number: u64, amounts: &[(u64, u64, u64)]) -> Vec<u64> {
    let moment = Moment { number, now: number * 100, before: number * 100 - 100, steady: number * 100 };
    let mut scrape = Scrape::default();
    for &(source, destination, bytes) in amounts {
        scrape.record(&BYTES, between(source, destination), ["80".into()], bytes);
    }
    store.begin(moment, names);
    store.merge(Origin { collector: 0, attached: 50, superseded: false }, &scrape, moment, names).unwrap();
    let mut all = Vec::new();
    for family in store.finish(moment, u64::MAX) {
        let Points::Numbers(points) = &family.points else { continue };
        all.extend(points.iter().map(|point| point.value.as_f64() as u64));
    }
    all.sort_unstable();
    all
}

#[test]
fn what_is_between_two_goes_on_though_it_waits_for_names_or_its_workloads_are_gone() {
    let limits = Limits {
        series_per_metric: 10,
        series_total: 10,
        samples_per_workload: 10,
        bucket_doublings: 0,
        series_ttl: 1000,
    };
    let store = || {
        let mut store = Store::new(limits);
        let scope = Arc::new(Scope { name: "t".into(), version: "1".into(), schema_url: String::new() });
        store.declare(&[&BYTES], &scope);
        store
    };
    let saving = Saving { collector: 0, name: "connection", since: 50, metrics: &[&BYTES], bequest: &[] };
    let (mut first, names) = (store(), Names::default());
    assert_eq!(gather(&mut first, &names, 1, &[(1, 2, 5), (1, 10, 7), (1, 11, 4)]), [5], "two wait");
    let saved = first.save(100, std::slice::from_ref(&saving), &names);
    // The next one counts on from there, and knows again whom it asks for.
    let (mut second, names) = (store(), Names::default());
    second.resume(&saved, &saving, 150, &names);
    names.remember(10, named("late"));
    assert_eq!(names.0.lock().unwrap().len(), 3, "1 and 2, and what came since");
    assert_eq!(gather(&mut second, &names, 2, &[(1, 2, 1), (1, 10, 3)]), [3, 6, 11], "11 waited under one name");
    // What has had names since waits no longer.
    let saved = second.save(200, std::slice::from_ref(&saving), &names);
    assert!(saved.parts[0].unnamed.is_empty());
}
