//! Arrays that are read and written in place: the kernel's memory is mapped, so that a look costs no system call.

use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::sys::{RawMap, kind};
use crate::table::Plain;

/// An array with `BPF_F_MMAPABLE`, its values as atomic words: programs change them at any time.
#[derive(Debug)]
pub struct Mapped<V> {
    memory: NonNull<AtomicU64>,
    bytes: usize,
    entries: usize,
    /// The entries in use, for self-telemetry.
    used: Arc<AtomicU64>,
    shape: PhantomData<fn() -> V>,
}

#[expect(unsafe_code, reason = "a raw pointer is not Send by itself")]
// SAFETY: the memory is mapped for the whole process and only reached through atomics.
unsafe impl<V> Send for Mapped<V> {}
#[expect(unsafe_code, reason = "a raw pointer is not Sync by itself")]
// SAFETY: as above.
unsafe impl<V> Sync for Mapped<V> {}

impl<V: Plain> Mapped<V> {
    /// The words of a value.
    const WORDS: usize = size_of::<V>() / 8;

    pub(crate) fn new(raw: &RawMap, name: &str, used: Arc<AtomicU64>) -> Result<Self, Error> {
        let fail = |source| Error::Map { map: name.to_owned(), action: "map", source };
        if raw.info.kind != kind::ARRAY {
            return Err(Error::Kind { map: name.to_owned(), expected: "an array" });
        }
        let (expected, actual) = (size_of::<V>(), raw.info.value_size as usize);
        if expected != actual || !expected.is_multiple_of(8) {
            return Err(Error::Shape { map: name.to_owned(), part: "value", expected, actual });
        }
        let entries = raw.info.max_entries as usize;
        let bytes = entries * expected;
        #[expect(unsafe_code, reason = "aya maps no arrays")]
        // SAFETY: a new mapping of a descriptor that is open; the kernel refuses what is larger than the array.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                raw.fd.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(fail(std::io::Error::last_os_error()));
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| fail(std::io::ErrorKind::InvalidData.into()))?;
        Ok(Self { memory, bytes, entries, used, shape: PhantomData })
    }

    /// Gives the number of values.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Says how many entries are in use, which only the program's user can know.
    pub fn set_used(&self, entries: u64) {
        self.used.store(entries, Ordering::Relaxed);
    }

    /// Gives the words of a value; none beyond the end.
    pub fn words(&self, index: usize) -> &[AtomicU64] {
        if index >= self.entries {
            return &[];
        }
        #[expect(unsafe_code, reason = "the memory is the kernel's")]
        // SAFETY: the index is within the array, whose memory stays mapped as long as we are there; a page is aligned
        // for any word.
        unsafe {
            std::slice::from_raw_parts(self.memory.as_ptr().add(index * Self::WORDS), Self::WORDS)
        }
    }

    /// Copies a value, word by word; nothing beyond the end.
    pub fn get(&self, index: usize) -> Option<V> {
        let mut value = V::new_zeroed();
        let words = self.words(index);
        for (bytes, word) in value.as_mut_bytes().chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Acquire).to_ne_bytes());
        }
        (!words.is_empty()).then_some(value)
    }
}

impl<V> Drop for Mapped<V> {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "what was mapped is unmapped")]
        // SAFETY: this is the mapping that was made, and nothing refers to it any more.
        unsafe {
            libc::munmap(self.memory.as_ptr().cast(), self.bytes);
        }
    }
}
