//! Mirrors of `bpf/cgroup.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `change.kind`: the cgroup was made.
pub const CHANGE_MADE: u8 = 1;
/// `change.kind`: the cgroup was removed.
pub const CHANGE_REMOVED: u8 = 2;

/// What the ring `changes` holds, without the path that follows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Change {
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// The cgroup's id.
    pub id: u64,
    /// Its parent's id, or 0.
    pub parent: u64,
    /// The bytes of the path that follow; 0 where it is not known.
    pub length: u16,
    /// Made or removed.
    pub kind: u8,
    /// 1 where the path was longer.
    pub truncated: u8,
    /// Nothing.
    pub padding: u32,
}

impl Change {
    /// Reads a record of the ring: the change, and its path from the hierarchy's root where it is known whole.
    pub fn decode(record: &[u8]) -> Option<(Self, Option<&str>)> {
        let (change, rest) = Self::read_from_prefix(record).ok()?;
        let path = rest.get(..usize::from(change.length)).and_then(|path| std::str::from_utf8(path).ok());
        Some((change, path.filter(|path| !path.is_empty() && change.truncated == 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_with_its_path() {
        let change = Change { time: 1, id: 7, parent: 1, length: 4, kind: CHANGE_MADE, truncated: 0, padding: 0 };
        let record = [change.as_bytes(), b"/pod"].concat();
        assert_eq!(Change::decode(&record), Some((change, Some("/pod"))));
        let cut = Change { truncated: 1, ..change };
        assert_eq!(Change::decode(&[cut.as_bytes(), b"/pod"].concat()), Some((cut, None)));
        assert_eq!(Change::decode(&record[..8]), None);
    }
}
