//! What only user space knows, kept beside the pins: an array that is mapped, so that it survives the process whenever
//! that is killed. Two halves take turns; the header of one is written when the other's bytes are whole.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::digest;
use crate::error::Error;
use crate::mapped::Mapped;
use crate::sys::{self, MAPPABLE, RawMap, create_map, kind};

/// The words of a page, the unit of the array.
const PAGE: usize = 512;
type Page = [u64; PAGE];

/// The words of a half's header: its number, its bytes, their digest.
const HEADER: usize = 3;
/// The pages of a half at least, and how many times those that are needed: an agent that has given up its capabilities
/// cannot make another array.
const FEWEST: usize = 64;
const ROOM: usize = 4;

/// The place where bytes outlive the process.
pub struct Checkpoint {
    path: PathBuf,
    held: Option<Mapped<Page>>,
    number: u64,
}

impl Checkpoint {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, held: None, number: 0 }
    }

    /// Gives what was written last; nothing where nothing was, or where it is not whole.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        let held = open(&self.path).ok()?;
        let mut best: Option<(u64, Vec<u8>)> = None;
        for half in 0..2 {
            let header: Vec<u64> = held
                .words(0)
                .get(half * HEADER..)?
                .iter()
                .take(HEADER)
                .map(|word| word.load(Ordering::Acquire))
                .collect();
            let &[number, length, sum] = header.as_slice() else { return None };
            let Some(bytes) = take(&held, half, usize::try_from(length).ok()?) else { continue };
            let newer = best.as_ref().is_none_or(|(best, _)| number > *best);
            if number > 0 && newer && digest([bytes.as_slice()]) == sum {
                best = Some((number, bytes));
            }
        }
        let (number, bytes) = best?;
        (self.number, self.held) = (number, Some(held));
        Some(bytes)
    }

    /// Writes bytes in place of those before; whoever reads finds the ones or the others.
    ///
    /// # Errors
    /// Fails when the kernel refuses to make or pin the array.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let failed =
            |error: io::Error| Error::Pins { path: self.path.display().to_string(), reason: error.to_string() };
        let pages = bytes.len().div_ceil(PAGE * 8);
        if let Some(held) = self.held.as_ref().filter(|held| pages <= half(held)) {
            self.number += 1;
            fill(held, self.number, bytes);
            return Ok(());
        }
        let (map, held) = make((pages * ROOM).max(FEWEST)).map_err(failed)?;
        fill(&held, 1, bytes);
        // The new one takes the place of the old one when it is whole.
        let aside = self.path.with_file_name("checkpoint_next");
        let _ = fs::remove_file(&aside);
        sys::pin(map.fd.as_fd(), &aside).and_then(|()| fs::rename(&aside, &self.path)).map_err(failed)?;
        (self.number, self.held) = (1, Some(held));
        Ok(())
    }
}

fn open(path: &Path) -> Result<Mapped<Page>, Error> {
    let failed = |source| Error::Map { map: path.display().to_string(), action: "open", source };
    let map = sys::pinned(path).and_then(RawMap::new).map_err(failed)?;
    Mapped::new(&map, "checkpoint", Arc::default())
}

fn make(half: usize) -> io::Result<(RawMap, Mapped<Page>)> {
    let pages = u32::try_from(1 + 2 * half).map_err(io::Error::other)?;
    let map = create_map(kind::ARRAY, "checkpoint", size_of::<u32>(), size_of::<Page>(), pages, MAPPABLE)?;
    let map = RawMap::new(map)?;
    let held = Mapped::new(&map, "checkpoint", Arc::default()).map_err(io::Error::other)?;
    Ok((map, held))
}

/// Gives the pages of each half.
fn half(held: &Mapped<Page>) -> usize {
    held.len().saturating_sub(1) / 2
}

fn fill(held: &Mapped<Page>, number: u64, bytes: &[u8]) {
    let which = (number % 2) as usize;
    let first = 1 + which * half(held);
    for (page, bytes) in bytes.chunks(PAGE * 8).enumerate() {
        for (to, from) in held.words(first + page).iter().zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..from.len()].copy_from_slice(from);
            to.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }
    let header = [number, bytes.len() as u64, digest([bytes])];
    for (to, word) in held.words(0).iter().skip(which * HEADER).zip(header) {
        to.store(word, Ordering::Release);
    }
}

fn take(held: &Mapped<Page>, which: usize, length: usize) -> Option<Vec<u8>> {
    let pages = length.div_ceil(PAGE * 8);
    if pages > half(held) {
        return None;
    }
    let first = 1 + which * half(held);
    let words = (first..first + pages).flat_map(|page| held.words(page));
    let mut bytes: Vec<u8> = words.flat_map(|word| word.load(Ordering::Acquire).to_ne_bytes()).collect();
    bytes.truncate(length);
    Some(bytes)
}
