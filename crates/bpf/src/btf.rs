//! What aya does not do with types. It sets the size of a map's values in an object that is not loaded yet, which aya
//! takes from the object's own types alone, and reads the names and values of the kernel's enumerations.

/// The kinds of BTF types that are read here, from the kernel's `btf.h`.
mod kind {
    pub const POINTER: u32 = 2;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const ENUM: u32 = 6;
    pub const VARIABLE: u32 = 14;
}

/// The bytes of a type before what depends on its kind.
const TYPE: usize = 12;

/// Replaces the `__uint(value_size, …)` of maps: name and bytes. Says what is wrong with the object if it cannot.
pub(crate) fn set_value_sizes(object: &mut [u8], sizes: &[(String, u32)]) -> Result<(), String> {
    let (start, end) = section(object, b".BTF").ok_or("the object has no types")?;
    let btf = object.get_mut(start..end).ok_or("the object's types lie outside of it")?;
    let types = Types::read(btf).ok_or("the object's types are not whole")?;
    for (map, bytes) in sizes {
        let at = types.value_size(btf, map).ok_or_else(|| format!("map {map} declares no value_size of its own"))?;
        let field = btf.get_mut(at..at + 4).ok_or("the object's types are not whole")?;
        field.copy_from_slice(&bytes.to_le_bytes());
    }
    Ok(())
}

/// Gives the names and values of an enumeration; nothing where there is none of that name.
pub(crate) fn enumeration(btf: &[u8], name: &str) -> Option<Vec<(String, u32)>> {
    let types = Types::read(btf)?;
    let count = |at: usize| word(btf, at + 4).unwrap_or(0) as usize & 0xffff;
    // One without members is only declared.
    let at = types.find(btf, kind::ENUM, |at| count(at) > 0 && types.is_named(btf, at, name))?;
    let member = |index: usize| {
        let member = at + TYPE + 8 * index;
        let text = btf.get(types.strings + word(btf, member)? as usize..)?;
        let end = text.iter().position(|&byte| byte == 0)?;
        Some((std::str::from_utf8(&text[..end]).ok()?.to_owned(), word(btf, member + 4)?))
    };
    (0..count(at)).map(member).collect()
}

/// Finds a section of a 64-bit ELF file: where it begins and ends.
fn section(file: &[u8], name: &[u8]) -> Option<(usize, usize)> {
    let (table, size, count) = (long(file, 40)?, half(file, 58)?, half(file, 60)?);
    let header = |index: usize| index.checked_mul(size)?.checked_add(table);
    let place = |header: usize| Some((long(file, header + 24)?, long(file, header + 32)?));
    let (names, _) = place(header(half(file, 62)?)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let text = file.get(names.checked_add(word(file, header)? as usize)?..)?;
        let (start, length) = place(header)?;
        (text.strip_prefix(name)?.first() == Some(&0)).then_some((start, start.checked_add(length)?))
    })
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
        let pointer = Self::members(btf, record).find(|&member| self.is_named(btf, member, "value_size"))?;
        let pointer = word(btf, pointer + 4)?;
        let array = word(btf, self.of_kind(btf, pointer, kind::POINTER)? + 8)?;
        let uses = self.at.iter().filter(|&&at| at != usize::MAX).map(|&at| {
            let points = kind_of(btf, at) == Some(kind::POINTER) && word(btf, at + 8) == Some(array);
            let members = Self::members(btf, at).filter(|member| word(btf, member + 4) == Some(pointer));
            usize::from(points) + members.count()
        });
        // The pointer's, and that of the one member.
        (uses.sum::<usize>() == 2).then_some(self.of_kind(btf, array, kind::ARRAY)? + TYPE + 8)
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

    fn is_named(&self, btf: &[u8], at: usize, name: &str) -> bool {
        let text = word(btf, at).and_then(|offset| btf.get(self.strings + offset as usize..));
        text.and_then(|text| text.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Gives the kind of the type that begins there.
fn kind_of(btf: &[u8], at: usize) -> Option<u32> {
    Some((word(btf, at + 4)? >> 24) & 0x1f)
}

fn half(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Vec<u8> {
        crate::objects().find(|(name, _)| *name == "scales").unwrap().1.to_vec()
    }

    #[test]
    fn only_the_named_map_changes_and_only_its_number() {
        let (old, mut new) = (object(), object());
        set_value_sizes(&mut new, &[("samples".to_owned(), 0x0101_0101)]).unwrap();
        let changed: Vec<usize> = (0..old.len()).filter(|&at| old[at] != new[at]).collect();
        assert!((1..=4).contains(&changed.len()) && changed[changed.len() - 1] - changed[0] < 4, "{changed:?}");
    }

    #[test]
    fn a_map_without_a_size_of_its_own_is_refused() {
        for map in ["nothing", "thread"] {
            let error = set_value_sizes(&mut object(), &[(map.to_owned(), 8)]).unwrap_err();
            assert!(error.contains(map), "{error}");
        }
    }

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

    #[test]
    fn what_is_no_object_is_refused() {
        let whole = object();
        for length in [0, 1, 63, 64, 1000, whole.len() / 2] {
            let mut cut = whole[..length].to_vec();
            assert!(set_value_sizes(&mut cut, &[("samples".to_owned(), 8)]).is_err(), "{length} bytes");
        }
    }
}
