//! Counts by the name asked for: a map with a budget of its own, in which names that nobody asks for any more make room.

use std::collections::HashMap;

use bpf::abi::dns::{Named, RESPONSE};
use bpf::{Object, PerCpuTable};
use model::Text;
use runtime::{MakeError, Platform, Scrape};

use super::{QUERIES, RESPONSES, names, wire};
use crate::retire::Retirement;
use crate::table::{Entry, Key, sum};

/// A name that was idle for so many rounds makes room once the map is crowded.
const IDLE_ROUNDS: u32 = 4;

/// The map.
pub(super) struct NamedCounts {
    table: PerCpuTable<Named, u64>,
    known: HashMap<Named, Known>,
    dead: Retirement<Named>,
}

/// What is remembered of an entry.
struct Known {
    name: Text,
    reading: u64,
    idle: u32,
}

impl NamedCounts {
    pub(super) fn open(object: &Object, platform: &Platform) -> Result<Self, MakeError> {
        let table = object.table("dns_names").map_err(crate::refused)?;
        Ok(Self { table, known: HashMap::new(), dead: Retirement::new(platform.census.clone()) })
    }

    /// Records every count.
    pub(super) fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        // As it was in the round before: an entry that goes is to be shown once.
        let is_crowded = self.known.len() > self.table.capacity() as usize / 4 * 3;
        let Self { table, known, dead } = self;
        let mut idle = Vec::new();
        table.for_each(|key, cells| {
            let total = sum(cells);
            let now = known.entry(*key).or_insert_with(|| Known { name: text(key), reading: total, idle: 0 });
            now.idle = if now.reading == total { now.idle + 1 } else { 0 };
            now.reading = total;
            if dead.note(*key, key.tally.cgroup, total) {
                return;
            }
            if is_crowded && now.idle >= IDLE_ROUNDS {
                idle.push(*key);
                return;
            }
            record(&mut Entry::new(scrape, key.tally.subject(), false), key, now.name.clone(), total);
        })?;
        idle.extend(dead.finish());
        for key in idle {
            let Some(Known { name, .. }) = known.remove(&key) else { continue };
            if let Some(cells) = table.take(&key)? {
                record(&mut Entry::new(scrape, key.tally.subject(), true), &key, name, sum(&cells));
            }
        }
        Ok(())
    }
}

fn text(key: &Named) -> Text {
    // The kernel's side has found the end of the name; what is none nevertheless has no place among labels.
    wire::name(&key.name).map_or(Text::Static(""), |(name, _)| name.into())
}

fn record(entry: &mut Entry<'_>, key: &Named, name: Text, total: u64) {
    let role = names::role(key.tally.role.into());
    if key.tally.what == RESPONSE {
        entry.count(&RESPONSES, [names::response(key.tally.code).into(), name, role.into()], total);
    } else {
        entry.count(&QUERIES, [names::question(key.tally.code).into(), name, role.into()], total);
    }
}
