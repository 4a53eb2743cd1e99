//! A change of the running set concerns whom it names, and nobody waits for who hangs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use telesonde_runtime::{Change, Options, Own, Platform, Selection, State};

use crate::scripted::{Act, Birth, FIRST_COLLECTOR, SECOND_COLLECTOR, STEP, World};
use crate::{options, platform, select, start_with, state, steady, until, value};

/// Says of the collectors what a test wants.
fn change(manager_platform: &Arc<Platform>, selections: Vec<Selection>) -> Change {
    let Options { limits, housekeeping, .. } = options();
    Change { selections, platform: Arc::clone(manager_platform), anew: Vec::new(), limits, housekeeping }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_concerns_whom_it_names_and_nobody_else() {
    let own = Own::new();
    let anew = Arc::new(platform(&own));
    let lives: &[(Birth, &[Act])] = &[(Birth::Fine, &[Act::Count])];
    let first = |world: &str, enabled| Selection { enabled, ..select(&FIRST_COLLECTOR, world, lives) };
    let second = |enabled| Selection { enabled, ..select(&SECOND_COLLECTOR, "change-second", lives) };
    let all = |first, second| vec![first, second, steady("change-steady")];
    let manager = start_with(options(), all(first("change-1", true), second(false)), own).unwrap();
    let before = until(&manager, |_| true).await;
    assert_eq!(value(&before, "first"), Some(STEP * before.number));
    assert_eq!(value(&before, "second"), None);

    let same = manager.change(change(&anew, all(first("change-1", true), second(false)))).await;
    assert_eq!(same, Vec::<&str>::new(), "nothing is said otherwise");

    // The second one is switched on; the first one shares with it and is made anew.
    let concerned = manager.change(change(&anew, all(first("change-1", true), second(true)))).await;
    assert_eq!(concerned, ["first", "second"]);
    assert_eq!((state(&manager, "first"), state(&manager, "second")), (State::Running, State::Running));
    let after = until(&manager, |_| true).await;
    assert_eq!(World::of("change-1").dropped.load(Ordering::SeqCst), 1, "the old one was detached");
    assert_eq!(World::of("change-1").made.load(Ordering::SeqCst), 2);
    assert_eq!(
        value(&after, "first"),
        Some(STEP * after.number),
        "each round once, the last one before the change too"
    );
    assert_eq!(value(&after, "second"), Some(STEP));

    // Another section for the first one, and the second one is switched off.
    let concerned = manager.change(change(&anew, all(first("change-2", true), second(false)))).await;
    assert_eq!(concerned, ["first", "second"]);
    assert_eq!(state(&manager, "second"), State::Disabled);
    let last = until(&manager, |_| true).await;
    assert_eq!(World::of("change-2").made.load(Ordering::SeqCst), 1);
    assert_eq!(value(&last, "first"), Some(STEP * last.number));
    assert_eq!(value(&last, "second"), Some(STEP * 2), "what it has counted stays");
    assert_eq!(value(&last, "second_depth"), None, "what it shows does not");
    assert_eq!(World::of("change-steady").made.load(Ordering::SeqCst), 1, "nobody has touched the steady one");

    // And on again, together with a required one that cannot be: it has a state, the others go on.
    let mut impossible = select(&FIRST_COLLECTOR, "change-3", &[(Birth::Unsupported, &[])]);
    impossible.required = true;
    manager.change(change(&anew, all(impossible, second(true)))).await;
    assert_eq!(state(&manager, "first"), State::Unsupported("needs another kernel".to_owned()));
    assert!(manager.status().iter().any(|status| status.name == "first" && status.required));
    let back = until(&manager, |_| true).await;
    assert_eq!(value(&back, "second"), Some(STEP * 3), "it goes on from its total");
    manager.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_leaves_behind_who_hangs() {
    let world = World::of("change-hang");
    let lives: &[(Birth, &[Act])] = &[(Birth::Fine, &[Act::Count, Act::Hang]), (Birth::Fine, &[Act::Count])];
    let own = Own::new();
    let anew = Arc::new(platform(&own));
    let hanging = select(&FIRST_COLLECTOR, "change-hang", lives);
    let manager = start_with(options(), vec![hanging, steady("change-hang-steady")], own).unwrap();
    until(&manager, |_| true).await;
    let other = select(&FIRST_COLLECTOR, "change-other", &[(Birth::Fine, &[Act::Count])]);
    assert_eq!(manager.change(change(&anew, vec![other, steady("change-hang-steady")])).await, ["first"]);
    assert_eq!(state(&manager, "first"), State::Running);
    let after = until(&manager, |_| true).await;
    assert_eq!(value(&after, "first"), Some(2 * STEP));
    world.open();
    until(&manager, |_| world.dropped.load(Ordering::SeqCst) == 1).await;
    let last = until(&manager, |_| true).await;
    assert_eq!(value(&last, "first"), Some(STEP * World::of("change-other").left.load(Ordering::SeqCst) + STEP));
    manager.stop();
}
