//! Where the agent spends its time, as it tells itself.

use prost::Message;
use telesonde::profile::Profile;

use crate::harness::agent::{Agent, Wish};
use crate::harness::{directory, eventually, live};

/// Gives the names of the functions that samples were found in.
fn functions(profile: &Profile) -> Vec<&str> {
    let name = |id: u64| {
        let function = profile.function.iter().find(|function| function.id == id).unwrap();
        profile.string_table[usize::try_from(function.name).unwrap()].as_str()
    };
    let place = |id: &u64| profile.location.iter().find(|location| location.id == *id).unwrap();
    let places = profile.sample.iter().flat_map(|sample| &sample.location_id).map(place);
    places.flat_map(|place| &place.line).map(|line| name(line.function_id)).collect()
}

#[test]
fn a_profile_has_our_functions() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let path = directory("profile").join("cpu.pb");
    let file = path.to_str().unwrap();
    eventually("a sample of our own work", || {
        let output = std::thread::scope(|scope| {
            let tool = scope.spawn(|| agent.tool(&["debug", "profile", "--seconds", "1", "-o", file]));
            // What there is to do: scrapes.
            while !tool.is_finished() {
                agent.page();
            }
            tool.join().unwrap()
        });
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let profile = Profile::decode(&*std::fs::read(&path).unwrap()).unwrap();
        let text = |at: i64| profile.string_table[usize::try_from(at).unwrap()].as_str();
        let types: Vec<_> = profile.sample_type.iter().map(|kind| (text(kind.kind), text(kind.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert!(profile.sample.iter().all(|sample| sample.value[1] == sample.value[0] * profile.period));
        let all = functions(&profile);
        println!("{} samples, {} places", profile.sample.len(), all.len());
        all.into_iter().find(|name| name.contains("telesonde_")).map(|name| println!("{name}"))
    });
    let wrong = agent.tool(&["debug", "profile", "--seconds", "61", "-o", file]);
    assert!(!wrong.status.success());
    agent.stop();
}
