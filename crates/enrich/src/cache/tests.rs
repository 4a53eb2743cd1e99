//! The table by itself, with the time given by hand.

use std::hash::Hasher;

use super::*;
use crate::Settings;
use crate::identity::Named;

const HOUR: Duration = Duration::from_hours(1);

fn parts(limit: usize) -> (Cache, Identities, Counters, Instant) {
    let settings = Settings { retention: HOUR, brief_retention: HOUR, removed_limit: limit, ..Settings::default() };
    (Cache::new(&settings), Identities::new(&settings), Counters::default(), Instant::now())
}

fn path_of(cache: &Cache, id: u64) -> String {
    match cache.look_up(id) {
        Some(Lookup::Found(Answer::Known(set))) => set.get("cgroup.path").unwrap_or("?").to_owned(),
        Some(Lookup::Found(Answer::Unknown(set, reason))) => {
            format!("{reason} {}", set.get("cgroup.id").unwrap_or("?"))
        }
        Some(Lookup::Found(other)) => format!("{other:?}"),
        Some(Lookup::Expected(_)) => "Expected".to_owned(),
        Some(Lookup::Sought(_)) => "Pending".to_owned(),
        None => "nothing".to_owned(),
    }
}

fn found(all: &[(u64, &str)]) -> Walk {
    Walk { found: all.iter().map(|&(id, path)| (id, path.to_owned())).collect(), complete: true }
}

#[test]
fn a_removed_cgroup_keeps_its_names() {
    let (cache, identities, counters, now) = parts(10);
    cache.made(7, "/a", &identities, now);
    let generation = cache.generation();
    cache.removed(7, &identities, now);
    cache.evict(&counters, now + HOUR / 2);
    assert_eq!(path_of(&cache, 7), "/a");
    assert_eq!(cache.life(7), Some((Life::Gone, now)));
    assert_eq!(cache.generation(), generation, "no answer changed");

    cache.evict(&counters, now + HOUR);
    assert_eq!(path_of(&cache, 7), "nothing");
    assert_eq!(counters.evictions.load(Relaxed), 1);
    assert_eq!(cache.len(), (0, 0));
}

#[test]
fn what_is_of_no_container_is_forgotten_sooner() {
    let settings = Settings { retention: HOUR, brief_retention: HOUR / 10, removed_limit: 3, ..Settings::default() };
    let (cache, identities) = (Cache::new(&settings), Identities::new(&settings));
    let (counters, now) = (Counters::default(), Instant::now());
    let pod = "/kubepods/pod01234567-89ab-cdef-0123-456789abcdef";
    for (id, path) in [(2, "/system.slice/a.service"), (3, pod), (4, "/user.slice")] {
        cache.made(id, path, &identities, now);
        cache.removed(id, &identities, now);
    }
    let kept = || [2, 3, 4].map(|id| cache.life(id).is_some());
    cache.evict(&counters, now + Duration::from_secs(359));
    assert_eq!(kept(), [true; 3]);
    cache.evict(&counters, now + HOUR / 10);
    assert_eq!(kept(), [false, true, false]);
    cache.evict(&counters, now + HOUR);
    assert_eq!((kept(), cache.len(), counters.evictions.load(Relaxed)), ([false; 3], (0, 0), 3));

    // Past the limit the oldest goes first, whatever it is of.
    for (id, path) in [(2, pod), (3, "/a"), (4, "/b"), (5, "/c")] {
        let then = now + Duration::from_secs(id);
        cache.made(id, path, &identities, then);
        cache.removed(id, &identities, then);
    }
    cache.evict(&counters, now + Duration::from_secs(5));
    assert_eq!(kept(), [false, true, true]);
    cache.forget(Duration::ZERO, &counters, now + Duration::from_secs(5));
    assert_eq!(cache.len(), (0, 0), "for want of memory");
}

#[test]
fn an_id_that_comes_back_is_a_new_cgroup() {
    let (cache, identities, counters, now) = parts(10);
    cache.made(7, "/a", &identities, now);
    cache.removed(7, &identities, now);
    let generation = cache.generation();
    cache.made(7, "/b", &identities, now);
    assert_eq!(path_of(&cache, 7), "/b");
    assert_eq!(cache.life(7).map(|(life, _)| life), Some(Life::Alive));
    assert!(cache.generation() > generation);
    cache.evict(&counters, now + 2 * HOUR);
    assert_eq!(path_of(&cache, 7), "/b", "the old removal does not count any more");
    assert_eq!(cache.len(), (1, 0));
}

#[test]
fn the_dead_are_bounded_and_the_oldest_go_first() {
    let (cache, identities, counters, now) = parts(1000);
    cache.made(1, "/", &identities, now);
    for id in 2..100_002 {
        cache.made(id, &format!("/dead/{id}"), &identities, now);
        cache.removed(id, &identities, now);
        cache.evict(&counters, now);
    }
    assert_eq!(cache.len(), (1001, 1000));
    assert_eq!(counters.evictions.load(Relaxed), 99_000);
    assert_eq!(cache.journal().gone.each_ref().map(VecDeque::len), [0, 1000]);
    assert_eq!((path_of(&cache, 99_001), path_of(&cache, 99_002)), ("nothing".into(), "/dead/99002".into()));
    assert_eq!(path_of(&cache, 1), "/");
}

#[test]
fn a_walk_finds_and_buries() {
    let (cache, identities, _, now) = parts(10);
    cache.made(1, "/", &identities, now);
    cache.made(2, "/old", &identities, now);
    assert!(cache.ask(3, now) && cache.ask(4, now));
    let mark = cache.mark();
    let again = cache.compare(&found(&[(1, "/"), (3, "/asked")]), mark, &identities, now);
    assert_eq!((path_of(&cache, 4), again), ("Pending".into(), Some(now + GRACE)), "its report may be on its way");
    let mark = cache.mark();
    let again = cache.compare(&found(&[(1, "/"), (3, "/asked")]), mark, &identities, now + GRACE);
    assert_eq!(again, None);
    assert_eq!(path_of(&cache, 2), "/old");
    assert_eq!(cache.life(2).map(|(life, _)| life), Some(Life::Gone));
    assert_eq!(path_of(&cache, 3), "/asked");
    assert_eq!(path_of(&cache, 4), "cgroup_not_found 4");
    assert_eq!(cache.len(), (4, 2));
}

#[test]
fn an_incomplete_walk_buries_nothing() {
    let (cache, identities, _, now) = parts(10);
    cache.made(2, "/old", &identities, now);
    let walk = Walk { complete: false, ..found(&[(1, "/")]) };
    cache.compare(&walk, cache.mark(), &identities, now);
    assert_eq!(cache.life(2).map(|(life, _)| life), Some(Life::Alive));
}

#[test]
fn a_walk_does_not_undo_what_was_reported_meanwhile() {
    let (cache, identities, _, now) = parts(10);
    cache.made(2, "/removed", &identities, now);
    let mark = cache.mark();
    cache.removed(2, &identities, now);
    cache.made(3, "/made", &identities, now);
    cache.removed(4, &identities, now);
    assert!(cache.ask(5, now));
    assert_eq!(path_of(&cache, 4), "cgroup_unnamed 4");
    let walk = found(&[(1, "/"), (2, "/removed"), (4, "/brief"), (5, "/asked")]);
    cache.compare(&walk, mark, &identities, now);
    assert_eq!(cache.life(2).map(|(life, _)| life), Some(Life::Gone));
    assert_eq!(cache.life(3).map(|(life, _)| life), Some(Life::Alive));
    assert_eq!((path_of(&cache, 4), cache.life(4).map(|(life, _)| life)), ("/brief".into(), Some(Life::Gone)));
    assert_eq!(path_of(&cache, 5), "/asked");
}

#[test]
fn a_renamed_cgroup_gets_its_new_name() {
    let (cache, identities, _, now) = parts(10);
    cache.made(2, "/old", &identities, now);
    let generation = cache.generation();
    cache.compare(&found(&[(2, "/new")]), cache.mark(), &identities, now);
    assert_eq!(path_of(&cache, 2), "/new");
    assert!(cache.generation() > generation);
}

#[test]
fn questions_are_bounded() {
    let (cache, _, _, now) = parts(10);
    let room = (0..100).filter(|&id| cache.ask(id, now)).count();
    assert_eq!((room, cache.len()), (20, (20, 20)));
}

#[test]
fn an_orphan_is_named_once() {
    let (cache, identities, _, now) = parts(10);
    cache.made_nameless(7, 1, now);
    assert_eq!(path_of(&cache, 7), "Pending");
    assert_eq!(cache.take_orphans(), HashMap::from([(1, vec![7])]));
    cache.adopt(7, "/a", &identities);
    cache.give_up(7, Named::for_good(identities.unknown(7, Reason::Unnamed)));
    cache.made_nameless(7, 1, now);
    assert_eq!(path_of(&cache, 7), "/a");
    assert!(cache.take_orphans().is_empty());
}

#[test]
fn ids_spread_over_tags_and_positions() {
    use std::hash::Hash;
    let hash = |id: u64| {
        let mut spread = Spread::default();
        id.hash(&mut spread);
        spread.finish()
    };
    let positions: HashSet<u64> = (0..4096).map(|step| hash(step * SHARDS as u64) & 0xfff).collect();
    let tags: HashSet<u64> = (0..4096).map(|step| hash(step * SHARDS as u64) >> 57).collect();
    assert!(positions.len() > 2000 && tags.len() == 128, "{} positions, {} tags", positions.len(), tags.len());
}
