//! Names of containers outside of pods, from what their runtimes keep on this host.
//!
//! Only what has been seen to exist is looked up, in the background, each container a few times; nothing is asked over a
//! socket. A file that cannot be understood names nothing, and is counted.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use model::Text;

use crate::{Container, Kind, State, Workloads};

pub use places::Places;

/// What this source is called.
pub const RUNTIMES: &str = "container_runtimes";

/// How often it is looked whether there are new containers, and how often one is looked up: its files may come after it.
const PAUSE: Duration = Duration::from_millis(200);
const TRIES: u32 = 10;

/// Makes a container of a name and, where it is known, an image; nothing without a name.
fn container(id: &str, name: &str, image: &str) -> Option<Container> {
    /// Longer than any runtime allows a name.
    const LONGEST: usize = 255;
    let plain = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST).collect::<String>();
    let names = [("container.name", plain(name)), ("container.image.name", plain(repository(image)))];
    if names[0].1.is_empty() {
        return None;
    }
    let names = names.into_iter().filter(|(_, value)| !value.is_empty());
    Some(Container { id: id.into(), names: names.map(|(key, value)| (key.into(), Text::from(value))).collect() })
}

/// Gives an image's name without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    // A colon before a slash belongs to the registry's port.
    image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(image, |(name, _)| name)
}

/// Names the containers of a node in the background, for as long as it has workloads.
///
/// # Errors
/// Fails when no thread can be started.
pub fn start(places: Places, workloads: &Arc<Workloads>) -> io::Result<()> {
    workloads.report(RUNTIMES, state(&places));
    let workloads = Arc::downgrade(workloads);
    thread::Builder::new().name("enrich-runtimes".into()).spawn(move || follow(&places, &workloads)).map(drop)
}

/// A container that has or wants a name.
struct Sought {
    tries: u32,
    /// Whose its cgroup is.
    owner: u32,
    alive: bool,
}

/// Says whether there is anything to read: a runtime may be installed while the agent runs.
fn state(places: &Places) -> State {
    if places.readable() {
        State::Running
    } else {
        State::Off("no state of Docker, containerd, Podman or CRI-O is to be seen (host.root, host.run)".to_owned())
    }
}

fn follow(places: &Places, workloads: &Weak<Workloads>) {
    let mut tried: HashMap<String, Sought> = HashMap::new();
    let mut known = 0;
    loop {
        {
            let Some(workloads) = workloads.upgrade() else { return };
            if let Some((number, present)) = workloads.containers(known, PAUSE * TRIES) {
                known = number;
                workloads.expect(Kind::Containers, places.readable());
                workloads.report(RUNTIMES, state(places));
                for (id, sought) in &mut tried {
                    let alive = present.get(id).is_some_and(|seen| seen.alive);
                    match (sought.alive, alive) {
                        (true, false) => workloads.remove_container(id),
                        // It was started again.
                        (false, true) => sought.tries = 0,
                        _ => {}
                    }
                    sought.alive = alive;
                }
                tried.retain(|id, sought| present.contains_key(id) || sought.tries < TRIES);
                for (id, seen) in present {
                    let owner = || workloads.owner(&seen.path).unwrap_or_default();
                    tried.entry(id).or_insert_with(|| Sought { tries: 0, owner: owner(), alive: seen.alive });
                }
            }
            for (id, sought) in tried.iter_mut().filter(|(_, sought)| sought.tries < TRIES) {
                sought.tries += 1;
                match places.find(id, sought.owner) {
                    Ok(Some(container)) => {
                        sought.tries = TRIES;
                        workloads.put_container(container);
                        // What has run already has its name from now on, and keeps it as long as others do.
                        if !sought.alive {
                            workloads.remove_container(id);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        if workloads.fail(RUNTIMES, "unreadable") {
                            tracing::warn!("cannot name a container: {error}");
                        }
                    }
                }
            }
        }
        thread::sleep(PAUSE);
    }
}

mod places;
#[cfg(test)]
mod tests;
