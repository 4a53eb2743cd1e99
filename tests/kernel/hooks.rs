//! How many of our programs the kernel runs at each hook.

use std::collections::BTreeMap;

use crate::harness::agent::{Agent, Wish};
use crate::harness::live;

/// One for what its collector counts, and one more where two collectors need the same event.
const MOST: usize = 2;

/// Fields of a link that do not say where it is attached.
const OWN: &[&str] = &["pos", "flags", "mnt_id", "ino", "link_id", "prog_tag", "prog_id"];

#[test]
fn at_most_two_programs_sit_on_a_hook() {
    let _kernel = live!();
    let agent = Agent::start(Wish { all: true, events: "stdout: true", ..Wish::default() });
    let names: BTreeMap<u32, String> = aya::programs::loaded_programs()
        .flatten()
        .map(|program| (program.id(), program.name_as_str().unwrap_or_default().to_owned()))
        .collect();
    let mut hooks: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for link in agent.links() {
        let fields = link.lines().filter_map(|line| line.split_once(':'));
        let hook: Vec<&str> = fields.clone().filter(|(name, _)| !OWN.contains(name)).map(|(_, at)| at.trim()).collect();
        let program = fields.clone().find(|(name, _)| *name == "prog_id").and_then(|(_, id)| id.trim().parse().ok());
        let name = program.and_then(|id: u32| names.get(&id)).map_or("", String::as_str);
        hooks.entry(hook.join(" ")).or_default().push(name);
    }
    assert!(hooks.values().flatten().any(|name| *name == "sys_exit"), "{hooks:?}");
    for (hook, programs) in &hooks {
        assert!(programs.len() <= MOST, "{hook}: {programs:?}");
    }
    // `cargo xtask kernel --record` reads what each program came to on this kernel.
    let listed = agent.tool(&["debug", "programs"]).stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.lines().any(|line| line.starts_with("syscalls/sys_exit ")), "{listed}");
    for line in listed.lines() {
        println!("PROGRAM {line}");
    }
    agent.stop();
}
