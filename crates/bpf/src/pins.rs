//! What outlives the agent: maps and hooks that are pinned on a BPF file system, and who takes them over.
//!
//! On each hook stays `dispatcher.bpf.c`, which hands over to the one program in its map. Whoever comes next loads its own
//! programs with the maps that are there, and puts each in its predecessor's place in one step: no event is counted
//! by both or by neither.

mod checkpoint;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock, statfs};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

pub use checkpoint::Checkpoint;

use crate::error::Error;
use crate::object::{Loader, Object};
use crate::sys::{self, MapInfo, RawMap, create_map, kind, put_in_place};
use crate::types::Types;

/// Grows when the contents of maps mean something else although they are laid out as before.
const ABI: u64 = 2;
/// What `statfs` says of a BPF file system.
const BPF_FS: i64 = 0xcafe_4a11;
/// What lies in the directory of an object; what counts goes first when it is removed.
const LINKS: &str = "links";
const PROGRAMS: &str = "programs";
const NEXT: &str = "next";
const MAPS: &str = "maps";
const STATE: &str = "state";

/// The directory of all pins of an agent. Clones share it.
#[derive(Clone, Debug)]
pub struct Pins(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Locked as long as this process lives.
    _lock: File,
    left: AtomicBool,
    taken: Mutex<HashMap<&'static str, Taken>>,
    /// What collectors of the agent before knew besides their maps, and when these were made.
    inherited: Mutex<HashMap<String, (u64, Vec<u8>)>>,
}

/// An object whose pins are in use.
#[derive(Debug)]
struct Taken {
    kept: Kept,
    /// The programs that have been put on their hooks.
    programs: HashSet<String>,
}

/// What became of the pins of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whether they were there and fitted.
    pub adopted: bool,
    /// When its maps were made, in Unix nanoseconds; no other maps have the same.
    pub since: u64,
    /// Why what was there could not be taken over.
    pub refused: Option<String>,
}

/// What the pins of an object say of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct State {
    layout: u64,
    constants: u64,
    since: u64,
}

/// What has to be the same for maps to be taken over.
pub(crate) struct Identity {
    pub layout: u64,
    pub constants: u64,
}

impl Pins {
    /// Takes a directory, making it where it is missing.
    ///
    /// # Errors
    /// Fails when it is not on a BPF file system, cannot be written, or is another agent's.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |reason: String| Error::Pins { path: root.display().to_string(), reason };
        let denied = |error: io::Error| fail(format!("{error}; {}", hint(&error)));
        Self::examine(root)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(denied)?;
        let lock = File::open(root).map_err(denied)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(fail("another agent has it; stop that one first, or choose another directory".to_owned()));
        }
        let owner = lock.metadata().map_err(denied)?.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(fail(foreign(owner)));
        }
        let probe = root.join("probe");
        let probed = fs::DirBuilder::new().mode(0o700).create(&probe).and_then(|()| fs::remove_dir(&probe));
        probed.map_err(denied)?;
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            _lock: lock,
            left: AtomicBool::new(false),
            taken: Mutex::default(),
            inherited: Mutex::default(),
        })))
    }

    /// Makes the directory for an agent that runs as another user, and gives that one all that is in it.
    ///
    /// # Errors
    /// Fails when it is not on a BPF file system, cannot be made or given away, or is of a third user.
    pub fn prepare(root: &Path, user: u32) -> Result<(), Error> {
        let fail = |reason: String| Error::Pins { path: root.display().to_string(), reason };
        let denied = |error: io::Error| fail(format!("{error}; making it and giving it away takes root"));
        Self::examine(root)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(denied)?;
        let found = fs::symlink_metadata(root).map_err(denied)?;
        if ![0, user].contains(&found.uid()) || !found.is_dir() {
            return Err(fail(foreign(found.uid())));
        }
        give(root, user, 0o700).map_err(denied)
    }

    /// Says whether a directory can be on a BPF file system, without making it.
    ///
    /// # Errors
    /// Fails where what is there, or above it, is none or cannot be looked at.
    pub fn examine(root: &Path) -> Result<(), Error> {
        let fail = |reason: String| Error::Pins { path: root.display().to_string(), reason };
        let there = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let found = statfs(there).map_err(|error| fail(format!("{error}; {}", hint(&error.into()))))?;
        if i128::from(found.f_type) == i128::from(BPF_FS) {
            return Ok(());
        }
        Err(fail(format!(
            "{} is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf) and choose a directory on it",
            there.display()
        )))
    }

    /// Leaves everything in its place from now on, for the next agent: what is dropped is not detached.
    pub fn leave(&self) {
        self.0.left.store(true, Ordering::Relaxed);
    }

    /// Says what became of the pins under a name; nothing where there are none.
    pub fn kept(&self, name: &str) -> Option<Kept> {
        self.taken().get(name).map(|taken| taken.kept.clone())
    }

    /// Removes the programs under a name that are on their hooks and have not been put there by this process: all that it
    /// wants are there by now.
    pub fn settle(&self, name: &str) {
        let taken = self.taken();
        let Some(Taken { programs, .. }) = taken.get(name) else { return };
        let directory = self.0.root.join(name);
        for entry in fs::read_dir(directory.join(LINKS)).into_iter().flatten().filter_map(Result::ok) {
            let program = entry.file_name();
            if !program.to_str().is_some_and(|program| programs.contains(program)) {
                for part in [LINKS, NEXT, PROGRAMS] {
                    let _ = fs::remove_file(directory.join(part).join(&program));
                }
            }
        }
    }

    /// Takes note of what a collector of the agent before knew besides its maps, which were made at `since`.
    pub fn hand_down(&self, name: &str, since: u64, known: Vec<u8>) {
        let mut inherited = self.0.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        inherited.insert(name.to_owned(), (since, known));
    }

    /// Gives what a collector knew besides its maps in the agent before, once, where those under the name `maps` were taken
    /// over.
    pub fn inherited(&self, maps: &str, name: &str) -> Option<Vec<u8>> {
        let kept = self.kept(maps).filter(|kept| kept.adopted)?;
        let mut inherited = self.0.inherited.lock().unwrap_or_else(PoisonError::into_inner);
        inherited.remove(name).filter(|(since, _)| *since == kept.since).map(|(_, known)| known)
    }

    /// Removes the pins of all but these.
    pub fn sweep(&self, names: &[&str]) {
        let Ok(entries) = fs::read_dir(&self.0.root) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let stays = name.to_str().is_some_and(|name| names.contains(&name));
            if !stays && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = remove(&entry.path());
            }
        }
    }

    /// Opens the place of what only user space knows.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(self.0.root.join("checkpoint"))
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<&'static str, Taken>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the maps that are pinned under a name, in place of those that were just made; where they do not fit,
    /// these are pinned.
    pub(crate) fn take(
        &self,
        name: &'static str,
        identity: &Identity,
        maps: &[(String, BorrowedFd<'_>)],
    ) -> Result<Pinned, Error> {
        let directory = self.0.root.join(name);
        let failed =
            |error: io::Error| Error::Pins { path: directory.display().to_string(), reason: error.to_string() };
        let kept = match adopt(&directory, identity, maps) {
            Ok(since) => Kept { adopted: true, since, refused: None },
            Err(refused) => {
                remove(&directory).map_err(failed)?;
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let since = since.map_or(0, |since| since.as_nanos() as u64);
                begin(&directory, identity, since, maps).map_err(failed)?;
                Kept { adopted: false, since, refused }
            }
        };
        self.taken().insert(name, Taken { kept, programs: HashSet::new() });
        Ok(Pinned { pins: self.clone(), name, directory })
    }
}

/// Puts pinned maps in the places of others; gives when they were made, or why they cannot be used (nothing where there
/// are none).
fn adopt(directory: &Path, identity: &Identity, maps: &[(String, BorrowedFd<'_>)]) -> Result<u64, Option<String>> {
    if !directory.exists() {
        return Err(None);
    }
    let broken = |what: &str, error: &dyn std::fmt::Display| Some(format!("{what} cannot be opened: {error}"));
    let mut state = State::new_zeroed();
    let held = sys::pinned(&directory.join(STATE)).and_then(RawMap::new);
    let held = held.and_then(|map| map.lookup(0_u32.as_bytes(), state.as_mut_bytes()));
    held.map_err(|error| broken("their description", &error))?;
    if state.layout != identity.layout {
        return Err(Some("maps are laid out otherwise than by this version and configuration".to_owned()));
    }
    if state.constants != identity.constants {
        return Err(Some("the configuration of the programs is another one".to_owned()));
    }
    let mut found = Vec::new();
    for (name, own) in maps {
        let map = sys::pinned(&directory.join(MAPS).join(name)).map_err(|error| broken(name, &error))?;
        let info = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().and_then(|fd| sys::map_info(&fd));
        let same = info(map.as_fd()).and_then(|theirs| Ok(shape(&theirs) == shape(&info(*own)?)));
        if !same.map_err(|error| broken(name, &error))? {
            return Err(Some(format!("the map {name} has another shape")));
        }
        found.push((map, *own));
    }
    for (map, own) in found {
        put_in_place(&map, own).map_err(|error| broken("a map", &error))?;
    }
    Ok(state.since)
}

fn shape(info: &MapInfo) -> [u32; 5] {
    [info.kind, info.key_size, info.value_size, info.max_entries, info.flags]
}

/// Pins maps; their description last, so that what is half done is nothing.
fn begin(directory: &Path, identity: &Identity, since: u64, maps: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
    for part in [LINKS, PROGRAMS, NEXT, MAPS] {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory.join(part))?;
    }
    for (name, map) in maps {
        sys::pin(*map, &directory.join(MAPS).join(name))?;
    }
    let state = State { layout: identity.layout, constants: identity.constants, since };
    let map = create_map(kind::ARRAY, STATE, size_of::<u32>(), size_of::<State>(), 1, 0)?;
    let map = RawMap::new(map)?;
    map.update(0_u32.as_bytes(), state.as_bytes())?;
    sys::pin(map.fd.as_fd(), &directory.join(STATE))
}

/// Removes the pins of an object: its programs are detached first.
fn remove(directory: &Path) -> io::Result<()> {
    let there = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    there(fs::remove_dir_all(directory.join(LINKS)))?;
    there(fs::remove_dir_all(directory))
}

fn foreign(owner: u32) -> String {
    format!("it belongs to user {owner}, who could change what is counted; remove it")
}

/// Gives a directory and all that is in it to a user, itself last: whoever has it has the rest. It is taken first, so that
/// it can be looked into without further capabilities.
fn give(directory: &Path, user: u32, mode: u32) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if fs::symlink_metadata(directory)?.uid() != own {
        lchown(directory, Some(own), None)?;
    }
    fs::set_permissions(directory, Permissions::from_mode(mode))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), user, mode)?;
        } else {
            lchown(entry.path(), Some(user), None)?;
        }
    }
    if user == own { Ok(()) } else { lchown(directory, Some(user), None) }
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "let the agent's user write there (a BPF file system is often of mode 700: as root, `telesonde prepare --user` \
         makes the directory and gives it to that user)"
    } else {
        "choose a directory on a BPF file system that the agent can write to"
    }
}

/// Gives a number that differs where what it was made of does: FNV-1a, which is the same in every version.
pub(crate) fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ ABI;
    for part in parts {
        for byte in part.iter().copied().chain((part.len() as u64).to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

/// Where a program sits.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Tracepoint(&'a str),
    /// A cgroup, by the program of the dispatcher that is for such.
    Cgroup(&'static str, &'a File),
}

/// The pins of an object, which go when it is dropped unless they are left to the next agent.
pub(crate) struct Pinned {
    pins: Pins,
    name: &'static str,
    directory: PathBuf,
}

impl Pinned {
    /// Gives when the object's maps were made, in Unix nanoseconds, if by an agent before.
    pub fn adopted_since(&self) -> Option<u64> {
        self.pins.kept(self.name).filter(|kept| kept.adopted).map(|kept| kept.since)
    }

    /// Puts a program in the place of the one before it, or on its hook where there is none. Gives the program that
    /// hands over to it.
    pub fn install(&self, program: &str, fd: &OwnedFd, place: Place<'_>, types: &Types) -> Result<OwnedFd, Error> {
        let at = |part: &str| self.directory.join(part).join(program);
        let failed = |error: io::Error| Error::Pins { path: at(NEXT).display().to_string(), reason: error.to_string() };
        if let Some(taken) = self.pins.taken().get_mut(self.name) {
            taken.programs.insert(program.to_owned());
        }
        let there = [LINKS, PROGRAMS, NEXT].map(|part| sys::pinned(&at(part)));
        if let [Ok(_), Ok(dispatcher), Ok(next)] = there {
            put(&RawMap::new(next).map_err(failed)?, fd).map_err(failed)?;
            return Ok(dispatcher);
        }
        for part in [LINKS, NEXT, PROGRAMS] {
            let _ = fs::remove_file(at(part));
        }
        let mut object = Loader::new("dispatcher").load(types)?;
        let next = object.raw(NEXT)?;
        put(&next, fd).map_err(failed)?;
        let (dispatcher, link) = object.fasten(place, types)?;
        sys::pin(next.fd.as_fd(), &at(NEXT)).map_err(failed)?;
        sys::pin(dispatcher.as_fd(), &at(PROGRAMS)).map_err(failed)?;
        // Whoever finds the link has the rest.
        link.pin(at(LINKS)).map_err(|error| failed(io::Error::other(error)))?;
        Ok(dispatcher)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.pins.0.left.load(Ordering::Relaxed) {
            self.pins.taken().remove(self.name);
            let _ = remove(&self.directory);
        }
    }
}

fn put(next: &RawMap, program: &OwnedFd) -> io::Result<()> {
    next.update(0_u32.as_bytes(), program.as_raw_fd().as_bytes())
}

impl Object {
    /// Says when the object's maps were made, in Unix nanoseconds, where it has taken them over from an agent before.
    pub fn adopted_since(&self) -> Option<u64> {
        self.pinned.as_ref().and_then(Pinned::adopted_since)
    }
}
