//! The table of connections, read in place: what has grown since the last time goes to the pairs, and slots whose
//! connection is over go back to the kernel.
//!
//! A slot is taken back in two steps. Its generation becomes even first, so that no program adds to it from then on;
//! once nobody can still be adding, it is read for the last time, emptied and put on the stack of free ones. So
//! nothing is lost in between. Where the next agent may go on with the table, it waits in between until what was read is
//! written.

use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bpf::abi::connection::{CONNECTION_HALF_OPEN, Connection, Tuple};
use bpf::abi::network::Traffic;
use bpf::{Error, Mapped, Object, Stack, Table};

use super::bequest::{Inherited, Seen, pair, traffic};
use super::pairs::{Pairs, Place};

/// Gives which word of a slot is at an offset.
const fn word(offset: usize) -> usize {
    offset / size_of::<u64>()
}

const GENERATION: usize = word(offset_of!(Connection, generation));
const LAST: usize = word(offset_of!(Connection, last));
const CLOSED: usize = word(offset_of!(Connection, closed));
const SENT: usize = word(offset_of!(Connection, sent));
const RECEIVED: usize = word(offset_of!(Connection, received));

/// How long a program may still be adding to a slot that it found before it was taken back.
const GRACE: u64 = Duration::from_millis(100).as_nanos() as u64;
/// How long the kernel waits for the end of a handshake, its retransmissions included.
const HALF_OPEN: u64 = Duration::from_secs(75).as_nanos() as u64;
/// When a connection is over whose end was missed.
const FORGOTTEN: u64 = Duration::from_hours(2).as_nanos() as u64;
/// The same while there is little room, when every silent one has to go; what it sends later is counted anew.
const CROWDED: u64 = Duration::from_secs(5).as_nanos() as u64;

const TCP: u8 = 6;

/// What is known of a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Life {
    stage: Stage,
    generation: u32,
    place: Place,
    sent: Traffic,
    received: Traffic,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    /// Nobody's.
    #[default]
    Free,
    Live,
    /// Taken back at this time.
    Leaving(u64),
    /// Read for the last time.
    Settled,
}

/// The table.
pub(super) struct Slots {
    connections: Mapped<Connection>,
    free: Stack<u32>,
    tuples: Table<Tuple, u64>,
    lives: Vec<Life>,
    /// After how long without packets a connection without an end is over.
    idle: u64,
    /// The same where the kernel does not tell the ends of TCP connections.
    idle_tcp: u64,
    in_use: usize,
    /// Room for the slots that a sweep finds taken, and for those that it gives back.
    fresh: Vec<u32>,
    over: Vec<u32>,
    /// What has ended since somebody took it, where somebody does.
    ended: Option<Vec<Connection>>,
    /// What was read for the last time and is not yet written for the next agent, where there may be one that goes on.
    settled: Option<Vec<u32>>,
    /// What the agent before has counted, until the first look.
    inherited: Option<Inherited>,
}

impl Slots {
    /// Opens the table of an object. Where the kernel does not tell their ends (`ends`), TCP connections end by silence.
    pub(super) fn open(object: &Object, idle: Duration, ends: bool) -> Result<Self, Error> {
        let connections = object.mapped::<Connection>("connections")?;
        let idle = idle.as_nanos() as u64;
        Ok(Self {
            free: object.stack("slots")?,
            tuples: object.hash("tuples")?,
            lives: Vec::new(),
            idle,
            idle_tcp: if ends { FORGOTTEN } else { idle.max(5 * 60_000_000_000) },
            in_use: 0,
            fresh: Vec::new(),
            over: Vec::new(),
            ended: None,
            settled: None,
            inherited: None,
            connections,
        })
    }

    /// Lets slots wait until the next agent can know what they had; goes on from what the agent before has counted.
    pub(super) fn last(&mut self, inherited: Vec<Seen>) {
        self.settled = Some(Vec::new());
        self.inherited = Some(Inherited::new(inherited));
    }

    /// Gives what has been counted of each slot, and those that may be given back once that is written.
    pub(super) fn bequeath(&mut self, pairs: &Pairs) -> Option<(Vec<Seen>, Vec<u32>)> {
        let settled = std::mem::take(self.settled.as_mut()?);
        let seen = |(slot, life): (usize, &Life)| Seen {
            slot: slot as u32,
            generation: life.generation,
            sent: pair(life.sent),
            received: pair(life.received),
            other: if life.stage == Stage::Settled { None } else { pairs.other(life.place) },
        };
        let lives = self.lives.iter().enumerate().filter(|(_, life)| life.stage != Stage::Free);
        Some((lives.map(seen).collect(), settled))
    }

    /// Lets slots wait again: what they had was not written.
    pub(super) fn keep(&mut self, slots: Vec<u32>) {
        self.settled.get_or_insert_default().extend(slots);
    }

    /// Keeps what ends until somebody takes it.
    pub(super) fn keep_ended(&mut self) {
        self.ended = Some(Vec::new());
    }

    /// Gives what has ended, with all that it carried.
    pub(super) fn take_ended(&mut self) -> impl Iterator<Item = Connection> {
        self.ended.iter_mut().flat_map(|ended| ended.drain(..))
    }

    /// Gives a slot's present content, for those who print it.
    fn get(&self, slot: u32) -> Connection {
        self.connections.get(slot as usize).unwrap_or_default()
    }

    /// Gives what the connection in a slot has sent.
    pub(super) fn sent(&self, slot: u32) -> Traffic {
        self.get(slot).sent
    }

    /// Looks through the table: what has grown goes to the pairs, and what is over goes back.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change its maps.
    pub(super) fn sweep(&mut self, pairs: &mut Pairs, now: u64) -> Result<(), Error> {
        let crowded = self.in_use > self.connections.len() / 8 * 7;
        let (mut fresh, mut over) = (std::mem::take(&mut self.fresh), std::mem::take(&mut self.over));
        let mut in_use = 0;
        for slot in 0..self.connections.len() {
            let generation = self.connections.words(slot)[GENERATION].load(Ordering::Acquire) as u32;
            if slot == self.lives.len() {
                // Slots are taken in their order: from the first one that never was, none has been.
                if generation == 0 {
                    break;
                }
                self.lives.push(Life::default());
            }
            let life = &mut self.lives[slot];
            if generation != life.generation {
                if life.stage == Stage::Live {
                    // A program took it and at once gave it back, in vain.
                    pairs.leave(life.place);
                    pairs.forget(slot as u32);
                }
                *life = Life { generation, ..Life::default() };
                if generation % 2 == 1 || self.inherited.is_some() && self.has_left(slot)? {
                    fresh.push(slot as u32);
                }
            } else if life.stage == Stage::Settled {
                in_use += 1;
            } else if life.stage != Stage::Free {
                in_use += 1;
                self.count(slot, pairs);
                if self.is_over(slot, now, crowded) {
                    over.push(slot as u32);
                }
            }
        }
        in_use += fresh.len();
        self.meet(&fresh, pairs, now);
        self.inherited = None;
        over.extend(fresh.drain(..).filter(|&slot| self.is_over(slot as usize, now, crowded)));
        if pairs.is_renamed() {
            self.rename(pairs);
        }
        // Last: until here each found its other end, though both began and ended since the last time.
        for slot in over.drain(..) {
            if self.lives[slot as usize].stage == Stage::Live {
                self.take_back(slot as usize, pairs, now)?;
                continue;
            }
            pairs.release(self.lives[slot as usize].place);
            if let Some(settled) = &mut self.settled {
                self.lives[slot as usize].stage = Stage::Settled;
                settled.push(slot);
            } else {
                self.release(slot)?;
            }
        }
        (self.fresh, self.over) = (fresh, over);
        self.in_use = in_use;
        self.connections.set_used(in_use as u64);
        Ok(())
    }

    /// Says whether a slot that the agent before took back may have more than that one has counted. One that it was
    /// emptying is given back.
    fn has_left(&mut self, slot: usize) -> Result<bool, Error> {
        let connection = self.get(slot as u32);
        if connection.sent.packets == 0 && connection.received.packets == 0 {
            return Ok(false);
        }
        let inherited = self.inherited.as_ref().and_then(|inherited| inherited.of(slot as u32, &connection));
        if inherited.is_some_and(|seen| seen.is_more_than(&connection)) {
            self.release(slot as u32)?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Finds out whose the slots are that have been taken since the last time.
    fn meet(&mut self, fresh: &[u32], pairs: &mut Pairs, now: u64) {
        // All ends first, so that each finds its other end in whatever order they come.
        for &slot in fresh {
            pairs.note(slot, &self.get(slot));
        }
        for &slot in fresh {
            let connection = self.get(slot);
            let seen = self.inherited.as_ref().and_then(|inherited| inherited.of(slot, &connection));
            let (place, other) = pairs.enter(&connection, seen.and_then(|seen| seen.other));
            let (sent, received) =
                seen.map_or_else(Default::default, |seen| (traffic(seen.sent), traffic(seen.received)));
            pairs.go_on(place, [sent.packets > 0, received.packets > 0]);
            let generation = self.lives[slot as usize].generation;
            self.lives[slot as usize] = Life { stage: Stage::Live, generation, place, sent, received };
            self.count(slot as usize, pairs);
            if generation.is_multiple_of(2) {
                self.lives[slot as usize].stage = Stage::Leaving(now);
                pairs.close(place);
                continue;
            }
            if let Some(other) = other.filter(|&other| other != slot) {
                self.pair_anew(other, pairs);
            }
        }
        for &slot in fresh.iter().filter(|&&slot| self.lives[slot as usize].stage != Stage::Live) {
            pairs.forget(slot);
        }
    }

    /// Looks again who the other end of a connection is: what it does from now on counts there.
    fn pair_anew(&mut self, slot: u32, pairs: &mut Pairs) {
        if self.lives.get(slot as usize).is_none_or(|life| life.stage != Stage::Live) {
            return;
        }
        self.count(slot as usize, pairs);
        let (place, _) = pairs.enter(&self.get(slot), None);
        let life = &mut self.lives[slot as usize];
        pairs.leave(life.place);
        life.place = place;
    }

    fn rename(&mut self, pairs: &mut Pairs) {
        for slot in 0..self.lives.len() as u32 {
            self.pair_anew(slot, pairs);
        }
    }

    /// Adds what has grown.
    fn count(&mut self, slot: usize, pairs: &mut Pairs) {
        let words = self.connections.words(slot);
        let read = |at: usize| words[at].load(Ordering::Relaxed);
        let traffic = |at: usize| Traffic { bytes: read(at), packets: read(at + 1) };
        let (sent, received) = (traffic(SENT), traffic(RECEIVED));
        let life = self.lives[slot];
        if pairs.tells() && (sent != life.sent || received != life.received) {
            let connection = self.get(slot as u32);
            pairs.carry(&connection, since(sent, life.sent), since(received, life.received));
        }
        let life = &mut self.lives[slot];
        if sent != life.sent {
            pairs.add_sent(life.place, since(sent, life.sent));
            life.sent = sent;
        }
        if received != life.received {
            pairs.add_received(life.place, since(received, life.received));
            life.received = received;
        }
    }

    /// Says whether a connection is over, or was taken back so long ago that nobody adds to its slot any more.
    fn is_over(&self, slot: usize, now: u64, crowded: bool) -> bool {
        if let Stage::Leaving(since) = self.lives[slot].stage {
            return now.saturating_sub(since) >= GRACE;
        }
        let words = self.connections.words(slot);
        if words[CLOSED].load(Ordering::Relaxed) != 0 {
            return true;
        }
        let silent = now.saturating_sub(words[LAST].load(Ordering::Relaxed));
        if silent < CROWDED.min(self.idle) {
            return false;
        }
        let Connection { tuple, flags, .. } = self.get(slot as u32);
        let most = match tuple.transport {
            TCP if flags & CONNECTION_HALF_OPEN != 0 => HALF_OPEN,
            TCP => self.idle_tcp,
            _ => self.idle,
        };
        silent >= if crowded { most.min(CROWDED) } else { most }
    }

    fn take_back(&mut self, slot: usize, pairs: &mut Pairs, now: u64) -> Result<(), Error> {
        let connection = self.get(slot as u32);
        // Not to be found first: who asks now makes another one.
        if self.tuples.get(&connection.tuple)?.is_some_and(|place| place as u32 == slot as u32) {
            self.tuples.remove(&connection.tuple)?;
        }
        self.connections.words(slot)[GENERATION].fetch_add(1, Ordering::AcqRel);
        let life = &mut self.lives[slot];
        life.stage = Stage::Leaving(now);
        life.generation = life.generation.wrapping_add(1);
        pairs.close(life.place);
        pairs.forget(slot as u32);
        Ok(())
    }

    /// Empties a slot and gives it back.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change its map.
    pub(super) fn release(&mut self, slot: u32) -> Result<(), Error> {
        let connection = self.get(slot);
        if let Some(ended) = &mut self.ended {
            ended.push(connection);
        }
        for word in &self.connections.words(slot as usize)[SENT..RECEIVED + 2] {
            word.store(0, Ordering::Relaxed);
        }
        let life = &mut self.lives[slot as usize];
        *life = Life { generation: life.generation, ..Life::default() };
        self.free.push(&slot)
    }
}

fn since(now: Traffic, before: Traffic) -> Traffic {
    Traffic { bytes: now.bytes.wrapping_sub(before.bytes), packets: now.packets.wrapping_sub(before.packets) }
}
