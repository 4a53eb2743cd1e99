//! Who has room within the budget, and who makes it.

use super::*;

#[test]
fn a_busy_workload_takes_the_room_of_an_idle_one() {
    let mut bench = Bench::new(1, 1_000_000);
    bench.names.set(1, named("idle"));
    bench.names.set(2, named("busy"));
    let mut folded = 0;
    for round in 1..=10 {
        let families = bench.gather(|s| {
            calls(s, 1, 5);
            calls(s, 2, round * 10);
        });
        let overflow = numbers(&families, "calls")
            .iter()
            .filter(|p| p.series.entity.get("otel.metric.overflow").is_some())
            .map(|p| p.value.as_f64() as u64)
            .sum();
        assert!(overflow >= folded, "the overflow series fell");
        folded = overflow;
    }
    let families = bench.gather(|s| {
        calls(s, 1, 5);
        calls(s, 2, 110);
    });
    let busy: Vec<_> =
        numbers(&families, "calls").into_iter().filter(|p| p.series.entity.get("pod") == Some("busy")).collect();
    assert_eq!(busy.len(), 1);
    assert_eq!(busy[0].value.as_f64() as u64 + folded, 110);
}

/// Records so many calls by their names.
fn kinds(scrape: &mut Scrape, subject: u64, from: u64, to: u64, count: u64) {
    for kind in from..to {
        scrape.record(&CALLS, Subject::Cgroup(subject), [format!("call{kind}").into()], count);
    }
}

#[test]
fn a_share_binds_only_where_all_have_theirs() {
    let share = 10;
    let mut bench = Bench::with_share(1000, share, 1_000_000);
    let names: Vec<&'static str> = (0..=WORKLOADS).map(|number| &*format!("w{number}").leak()).collect();
    for (subject, name) in (0..).zip(&names) {
        bench.names.set(subject, named(name));
    }
    let of = |families: &[Family], name: &str| {
        let points = numbers(families, "calls");
        points.iter().filter(|point| point.series.entity.get("pod") == Some(name)).count()
    };
    // One has nine tenths of what there is for all, which it may as long as nobody else wants it.
    let much = (WORKLOADS * share * 9 / 10) as u64;
    let families = bench.gather(|s| kinds(s, 0, 0, much, 1));
    assert_eq!(of(&families, "w0"), much as usize);
    let mut families = Vec::new();
    for round in 2..12 {
        families = bench.gather(|s| {
            kinds(s, 0, 0, much, 1);
            (1..=WORKLOADS as u64).for_each(|subject| kinds(s, subject, 0, share as u64, round));
        });
    }
    for name in &names[1..] {
        assert_eq!(of(&families, name), share, "{name} has its share");
    }
    assert_eq!(of(&families, "w0"), share, "what was idle made room");
    // Within a share the busy take the room of the idle, and what came late is counted as a whole.
    for round in 12..24 {
        families = bench.gather(|s| {
            (1..=WORKLOADS as u64).for_each(|subject| kinds(s, subject, 0, share as u64, 11));
            kinds(s, 1, 100, 103, round);
        });
    }
    let points = numbers(&families, "calls");
    let late =
        |point: &NumberPoint| point.series.dimensions.get("syscall").is_some_and(|call| call.starts_with("call10"));
    assert_eq!(points.iter().filter(|point| late(point)).count(), 3);
    assert_eq!(of(&families, "w1"), share);
}
