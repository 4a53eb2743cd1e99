//! Hooks that several objects share: one program sits on each and hands over to theirs in turn (`bpf/lib/gate.bpf.h`).

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zerocopy::IntoBytes;

use crate::error::Error;
use crate::object::{Loader, Object};
use crate::sys::RawMap;
use crate::types::Types;

/// How the maps begin that hold the program after the own one; the hook's name follows.
pub(crate) const NEXT: &str = "next_";

/// The only key of such a map.
const FIRST: &[u8] = &[0; 4];

/// All shared hooks. Clones share them; a gate is there as long as somebody is behind it.
#[derive(Clone, Default)]
pub struct Gates(Arc<Mutex<HashMap<String, Gate>>>);

struct Gate {
    /// What keeps its program on the hook.
    object: Object,
    next: RawMap,
    /// In the order in which they run.
    guests: Vec<Guest>,
    /// The number of the last guest.
    number: u64,
}

struct Guest {
    number: u64,
    program: OwnedFd,
    next: RawMap,
}

/// A program's place behind a gate; given up by dropping.
pub(crate) struct Passage {
    gates: Gates,
    hook: String,
    number: u64,
}

impl Gates {
    /// Puts a loaded program behind the gate of a hook, before those that are there. `next` is the program's own map of
    /// who comes after it. A gate of packets sits at a cgroup. Also gives the gate's program.
    pub(crate) fn enter(
        &self,
        hook: &str,
        program: &OwnedFd,
        next: RawMap,
        cgroup: Option<&File>,
        types: &Types,
    ) -> Result<(Passage, OwnedFd), Error> {
        let fail = |source| Error::Map { map: format!("{NEXT}{hook}"), action: "write", source };
        let program = program.try_clone().map_err(fail)?;
        let mut gates = self.lock();
        if !gates.contains_key(hook) {
            gates.insert(hook.to_owned(), Gate::open(hook, cgroup, types)?);
        }
        let Some(gate) = gates.get_mut(hook) else { return Err(fail(std::io::ErrorKind::NotFound.into())) };
        let own = gate.object.program_of(hook)?;
        // First who comes after it, so that nobody is left out for a moment.
        if let Some(first) = gate.guests.first() {
            put(&next, &first.program).map_err(fail)?;
        }
        put(&gate.next, &program).map_err(fail)?;
        gate.number += 1;
        let number = gate.number;
        gate.guests.insert(0, Guest { number, program, next });
        drop(gates);
        Ok((Passage { gates: self.clone(), hook: hook.to_owned(), number }, own))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Gate>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    fn open(hook: &str, cgroup: Option<&File>, types: &Types) -> Result<Self, Error> {
        let mut object = Loader::new("gate").load(types)?;
        let next = object.raw(&format!("{NEXT}{hook}"))?;
        match cgroup {
            Some(cgroup) => object.attach_cgroup(hook, cgroup, types)?,
            None => object.attach(hook, types)?,
        }
        Ok(Self { object, next, guests: Vec::new(), number: 0 })
    }

    fn leave(&mut self, number: u64) {
        let Some(at) = self.guests.iter().position(|guest| guest.number == number) else { return };
        let before = if at == 0 { &self.next } else { &self.guests[at - 1].next };
        // Neither fails for a map and a program that are held here.
        let _ = match self.guests.get(at + 1) {
            Some(after) => put(before, &after.program),
            None => before.delete(FIRST).map(drop),
        };
        self.guests.remove(at);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let mut gates = self.gates.lock();
        let Some(gate) = gates.get_mut(&self.hook) else { return };
        gate.leave(self.number);
        if gate.guests.is_empty() {
            gates.remove(&self.hook);
        }
    }
}

fn put(map: &RawMap, program: &OwnedFd) -> std::io::Result<()> {
    map.update(FIRST, program.as_raw_fd().as_bytes())
}
