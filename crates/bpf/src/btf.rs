//! What aya does not do with types: where those of an object say how large its maps are, and the names and values of
//! the kernel's enumerations.

mod decode;

pub(crate) use decode::Declaration;

/// The kinds of BTF types that are read here, from the kernel's `btf.h`.
mod kind {
    pub const INTEGER: u32 = 1;
    pub const POINTER: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const TYPEDEF: u32 = 8;
    pub const VOLATILE: u32 = 9;
    pub const CONST: u32 = 10;
    pub const VARIABLE: u32 = 14;
}

/// The bytes of a type before what depends on its kind.
const TYPE: usize = 12;

/// Replaces the `__uint(value_size, …)` of maps in a BTF section: name and bytes. Says what is wrong with it if it cannot.
pub(crate) fn set_value_sizes(btf: &mut [u8], sizes: &[(String, u32)]) -> Result<(), String> {
    const BROKEN: &str = "the object's types are not whole";
    let types = Types::read(btf).ok_or(BROKEN)?;
    for (map, bytes) in sizes {
        let at = types.value_size(btf, map).ok_or_else(|| format!("map {map} declares no value_size of its own"))?;
        let field = btf.get_mut(at..at + 4).ok_or(BROKEN)?;
        field.copy_from_slice(&bytes.to_le_bytes());
    }
    Ok(())
}

/// Gives the `__uint(max_entries, …)` of all maps that a BTF section declares, 0 where one has none.
pub(crate) fn map_sizes(btf: &[u8]) -> Option<Vec<(&str, u32)>> {
    let types = Types::read(btf)?;
    let variables = types.at.iter().filter(|&&at| at != usize::MAX && kind_of(btf, at) == Some(kind::VARIABLE));
    let maps = variables.filter_map(|&at| {
        let record = types.of_kind(btf, word(btf, at + 8)?, kind::STRUCT)?;
        Types::members(btf, record).find(|&member| types.is_named(btf, member, "type"))?;
        let array = types.sizing(btf, record, "max_entries").map(|(_, array)| word(btf, array + TYPE + 8));
        Some((types.text(btf, at)?, array.unwrap_or(Some(0))?))
    });
    Some(maps.collect())
}

/// Gives the names and values of an enumeration; nothing where there is none of that name.
pub(crate) fn enumeration(btf: &[u8], name: &str) -> Option<Vec<(String, u32)>> {
    let types = Types::read(btf)?;
    let count = |at: usize| word(btf, at + 4).unwrap_or(0) as usize & 0xffff;
    // One without members is only declared.
    let at = types.find(btf, kind::ENUM, |at| count(at) > 0 && types.is_named(btf, at, name))?;
    let member = |index: usize| {
        let member = at + TYPE + 8 * index;
        Some((types.text(btf, member)?.to_owned(), word(btf, member + 4)?))
    };
    (0..count(at)).map(member).collect()
}

/// Where each type of a BTF section begins; the first one is the type «void», which is not written.
struct Types {
    at: Vec<usize>,
    strings: usize,
}

impl Types {
    fn read(btf: &[u8]) -> Option<Self> {
        let header = word(btf, 4)? as usize;
        let begin = header + word(btf, 8)? as usize;
        let end = begin + word(btf, 12)? as usize;
        let strings = header + word(btf, 16)? as usize;
        let (mut at, mut next) = (vec![usize::MAX], begin);
        while next < end {
            at.push(next);
            let info = word(btf, next + 4)?;
            let count = (info & 0xffff) as usize;
            // The bytes that follow each kind.
            next += TYPE
                + match (info >> 24) & 0x1f {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    4 | 5 | 15 | 19 => 12 * count,
                    6 | 13 => 8 * count,
                    _ => 0,
                };
        }
        Some(Self { at, strings })
    }

    /// Finds the number of elements of the array that stands for the size of a map's values; nothing where another
    /// declaration uses the same array.
    fn value_size(&self, btf: &[u8], map: &str) -> Option<usize> {
        let variable = self.find(btf, kind::VARIABLE, |at| self.is_named(btf, at, map))?;
        let record = self.of_kind(btf, word(btf, variable + 8)?, kind::STRUCT)?;
        let (pointer, at) = self.sizing(btf, record, "value_size")?;
        let array = word(btf, self.of_kind(btf, pointer, kind::POINTER)? + 8)?;
        let uses = self.at.iter().filter(|&&at| at != usize::MAX).map(|&at| {
            let points = kind_of(btf, at) == Some(kind::POINTER) && word(btf, at + 8) == Some(array);
            let members = Self::members(btf, at).filter(|member| word(btf, member + 4) == Some(pointer));
            usize::from(points) + members.count()
        });
        // The pointer's, and that of the one member.
        (uses.sum::<usize>() == 2).then_some(at + TYPE + 8)
    }

    /// Finds the pointer that a map's declaration writes a number with, by its id, and the array that it points to.
    fn sizing(&self, btf: &[u8], record: usize, member: &str) -> Option<(u32, usize)> {
        let found = Self::members(btf, record).find(|&at| self.is_named(btf, at, member))?;
        let pointer = word(btf, found + 4)?;
        let array = word(btf, self.of_kind(btf, pointer, kind::POINTER)? + 8)?;
        Some((pointer, self.of_kind(btf, array, kind::ARRAY)?))
    }

    fn find(&self, btf: &[u8], kind: u32, fits: impl Fn(usize) -> bool) -> Option<usize> {
        self.at.iter().copied().find(|&at| at != usize::MAX && kind_of(btf, at) == Some(kind) && fits(at))
    }

    fn of_kind(&self, btf: &[u8], id: u32, kind: u32) -> Option<usize> {
        let at = *self.at.get(id as usize)?;
        (at != usize::MAX && kind_of(btf, at) == Some(kind)).then_some(at)
    }

    /// Gives where the members of a struct begin; none for other types.
    fn members(btf: &[u8], at: usize) -> impl Iterator<Item = usize> + use<> {
        let count = if kind_of(btf, at) == Some(kind::STRUCT) { word(btf, at + 4).unwrap_or(0) & 0xffff } else { 0 };
        (0..count as usize).map(move |index| at + TYPE + 12 * index)
    }

    /// Gives the name at the beginning of a type or a member.
    fn text<'b>(&self, btf: &'b [u8], at: usize) -> Option<&'b str> {
        let text = btf.get(self.strings.checked_add(word(btf, at)? as usize)?..)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(&text[..end]).ok()
    }

    fn is_named(&self, btf: &[u8], at: usize, name: &str) -> bool {
        self.text(btf, at) == Some(name)
    }
}

/// Gives the kind of the type that begins there.
fn kind_of(btf: &[u8], at: usize) -> Option<u32> {
    Some((word(btf, at + 4)? >> 24) & 0x1f)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, an INT, then an ENUM of two.
    fn fruits() -> Vec<u8> {
        let strings = b"\0fruit\0APPLE\0PEAR\0";
        let types: &[u32] = &[0, 1 << 24, 4, 32, 1, kind::ENUM << 24 | 2, 4, 7, 3, 13, u32::MAX];
        let words = [0x1_eb9f, 24, 0, types.len() as u32 * 4, types.len() as u32 * 4, strings.len() as u32];
        let words = words.iter().chain(types).flat_map(|word| word.to_le_bytes());
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn an_enumeration_is_found_by_name() {
        let found = enumeration(&fruits(), "fruit").unwrap();
        assert_eq!(found, [("APPLE".to_owned(), 3), ("PEAR".to_owned(), u32::MAX)]);
        assert_eq!(enumeration(&fruits(), "stone"), None);
    }

    #[test]
    fn broken_types_are_no_enumeration() {
        let whole = fruits();
        for end in 0..whole.len() {
            assert_eq!(enumeration(&whole[..end], "fruit"), None, "cut at {end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let _ = enumeration(&bytes, "fruit");
            }
        }
    }
}
