//! What the bytes of a map's keys and values mean, as text.

use std::fmt::Write;

use super::{TYPE, Types, kind, kind_of, word};
use crate::dump::hex;

/// Types lie no deeper within each other; those of maps do not come near it.
const DEPTH: u32 = 16;

/// The declaration of a map in an object's types.
pub(crate) struct Declaration<'b> {
    btf: &'b [u8],
    types: Types,
    key: Option<u32>,
    value: Option<u32>,
}

impl<'b> Declaration<'b> {
    /// Finds a map's declaration.
    pub(crate) fn find(btf: &'b [u8], map: &str) -> Option<Self> {
        let types = Types::read(btf)?;
        let variable = types.find(btf, kind::VARIABLE, |at| types.is_named(btf, at, map))?;
        let record = types.of_kind(btf, word(btf, variable + 8)?, kind::STRUCT)?;
        let of = |name: &str| {
            let member = Types::members(btf, record).find(|&at| types.is_named(btf, at, name))?;
            word(btf, types.of_kind(btf, word(btf, member + 4)?, kind::POINTER)? + 8)
        };
        let (key, value) = (of("key"), of("value"));
        Some(Self { btf, types, key, value })
    }

    /// Gives a key as text; nothing where its type is not declared, or of another size.
    pub(crate) fn key(&self, bytes: &[u8]) -> Option<String> {
        self.text(self.key?, bytes)
    }

    /// Gives a value as text, likewise.
    pub(crate) fn value(&self, bytes: &[u8]) -> Option<String> {
        self.text(self.value?, bytes)
    }

    /// Describes how keys and values are laid out: every field with its place.
    pub(crate) fn layout(&self) -> String {
        let mut out = String::new();
        for id in [self.key, self.value].into_iter().flatten() {
            let _ = self.outline(id, DEPTH, &mut out);
            out.push(';');
        }
        out
    }

    fn outline(&self, id: u32, depth: u32, out: &mut String) -> Option<()> {
        let (at, depth) = (self.resolve(id)?, depth.checked_sub(1)?);
        let kind = kind_of(self.btf, at)?;
        let _ = write!(out, "{kind}:{}", self.size(at, depth)?);
        match kind {
            kind::STRUCT | kind::UNION => {
                let count = (word(self.btf, at + 4)? & 0xffff) as usize;
                for member in (0..count).map(|index| at + TYPE + 12 * index) {
                    let _ = write!(out, ",{}@{}=", self.types.text(self.btf, member)?, word(self.btf, member + 8)?);
                    self.outline(word(self.btf, member + 4)?, depth, out)?;
                }
                Some(())
            }
            kind::ARRAY => self.outline(word(self.btf, at + TYPE)?, depth, out),
            _ => Some(()),
        }
    }

    fn text(&self, id: u32, bytes: &[u8]) -> Option<String> {
        let mut out = String::new();
        self.write(id, bytes, DEPTH, &mut out)?;
        Some(out)
    }

    /// Gives where a type begins that is no other name of one.
    fn resolve(&self, mut id: u32) -> Option<usize> {
        for _ in 0..DEPTH {
            let at = *self.types.at.get(id as usize).filter(|&&at| at != usize::MAX)?;
            match kind_of(self.btf, at)? {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST => id = word(self.btf, at + 8)?,
                _ => return Some(at),
            }
        }
        None
    }

    fn size(&self, at: usize, depth: u32) -> Option<usize> {
        match kind_of(self.btf, at)? {
            kind::POINTER => Some(8),
            kind::ARRAY => {
                let element = self.resolve(word(self.btf, at + TYPE)?)?;
                self.size(element, depth.checked_sub(1)?)?.checked_mul(word(self.btf, at + TYPE + 8)? as usize)
            }
            _ => Some(word(self.btf, at + 8)? as usize),
        }
    }

    fn write(&self, id: u32, bytes: &[u8], depth: u32, out: &mut String) -> Option<()> {
        let (at, depth) = (self.resolve(id)?, depth.checked_sub(1)?);
        let bytes = bytes.get(..self.size(at, depth)?)?;
        match kind_of(self.btf, at)? {
            kind::STRUCT | kind::UNION => self.write_members(at, bytes, depth, out),
            kind::ARRAY => self.write_elements(at, bytes, depth, out),
            found => {
                let mut number = [0; 8];
                number.get_mut(..bytes.len())?.copy_from_slice(bytes);
                let number = u64::from_le_bytes(number);
                let signed = found == kind::INTEGER && word(self.btf, at + TYPE)? >> 24 & 1 == 1;
                let unused = 64_u32.checked_sub(8 * bytes.len() as u32)?;
                let _ = if signed && unused < 64 {
                    write!(out, "{}", ((number << unused) as i64) >> unused)
                } else {
                    write!(out, "{number}")
                };
                Some(())
            }
        }
    }

    fn write_members(&self, at: usize, bytes: &[u8], depth: u32, out: &mut String) -> Option<()> {
        let count = (word(self.btf, at + 4)? & 0xffff) as usize;
        out.push('{');
        let mut first = true;
        for member in (0..count).map(|index| at + TYPE + 12 * index) {
            let name = self.types.text(self.btf, member)?;
            if name.starts_with("padding") {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push_str(", ");
            }
            if !name.is_empty() {
                let _ = write!(out, "{name}: ");
            }
            // In bits; where a type has bit fields their width lies above.
            let offset = (word(self.btf, member + 8)? & 0x00ff_ffff) as usize / 8;
            self.write(word(self.btf, member + 4)?, bytes.get(offset..)?, depth, out)?;
        }
        out.push('}');
        Some(())
    }

    fn write_elements(&self, at: usize, bytes: &[u8], depth: u32, out: &mut String) -> Option<()> {
        let (id, count) = (word(self.btf, at + TYPE)?, word(self.btf, at + TYPE + 8)? as usize);
        let element = self.resolve(id)?;
        let size = self.size(element, depth)?;
        if size == 1 && kind_of(self.btf, element)? == kind::INTEGER {
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            match std::str::from_utf8(&bytes[..end]) {
                Ok(text) if !text.is_empty() && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) => {
                    let _ = write!(out, "{text:?}");
                }
                _ => hex(bytes, out),
            }
            return Some(());
        }
        out.push('[');
        for index in 0..count {
            if index > 0 {
                out.push_str(", ");
            }
            self.write(id, bytes.get(index * size..)?, depth, out)?;
        }
        out.push(']');
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(object: &str, map: &str) -> Declaration<'static> {
        let file = crate::objects().find(|(name, _)| *name == object).unwrap().1;
        Declaration::find(crate::image::types(file).unwrap(), map).unwrap()
    }

    #[test]
    fn keys_and_values_are_what_their_types_say() {
        let flows = declaration("network", "flows");
        let mut key = [0; 16];
        key[..8].copy_from_slice(&77_u64.to_le_bytes());
        (key[8], key[9], key[10]) = (1, 4, 17);
        assert_eq!(flows.key(&key).unwrap(), "{cgroup: 77, direction: 1, family: 4, transport: 17}");
        let mut value = [0; 16];
        (value[0], value[8]) = (100, 2);
        assert_eq!(flows.value(&value).unwrap(), "{bytes: 100, packets: 2}");
        assert_eq!(flows.value(&value[..15]), None, "too short");
        assert_eq!(declaration("connection", "slots").key(&[]), None, "it has none");
    }

    #[test]
    fn a_layout_names_every_field_and_its_place() {
        let layout = declaration("network", "flows").layout();
        assert!(layout.starts_with("4:16,cgroup@0=1:8,direction@64=1:1,"), "{layout}");
        assert_ne!(layout, declaration("syscalls", "calls").layout());
    }

    #[test]
    fn within_each_other_and_bytes() {
        let connections = declaration("connection", "connections");
        let text = connections.value(&[b'x'; 152]).or_else(|| connections.value(&[b'x'; 256])).unwrap();
        assert!(text.starts_with("{tuple: {cgroup: "), "{text}");
        assert!(text.contains("local: \"xxxxxxxxxxxxxxxx\"") && text.contains("sent: {bytes: "), "{text}");
        let zeros = connections.value(&[0; 256]).unwrap();
        assert!(zeros.contains("remote: 0x00000000000000000000000000000000"), "{zeros}");
    }

    #[test]
    fn broken_types_are_no_declaration() {
        let file = crate::objects().find(|(name, _)| *name == "network").unwrap().1;
        let whole = crate::image::types(file).unwrap();
        for end in (0..whole.len()).step_by(97) {
            let _ = Declaration::find(&whole[..end], "flows").map(|found| found.value(&[0; 16]));
        }
    }
}
