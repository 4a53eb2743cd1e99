//! An embedded object as it is before it is loaded: the constants of its programs and the sizes of its maps can be set.
//!
//! aya could set constants, too, but never forgets them, and one loader of aya serves all objects; and it takes the size
//! of a map's values from the object's own types alone.

use object::{File, Object, ObjectSection, ObjectSymbol};
use zerocopy::IntoBytes;

use crate::btf;

/// A copy of an object's file.
pub(crate) struct Image {
    /// Words, because ELF files are read in place.
    words: Vec<u64>,
    length: usize,
}

impl Image {
    /// Copies a file.
    pub fn new(file: &[u8]) -> Self {
        let mut image = Self { words: vec![0; file.len().div_ceil(8)], length: file.len() };
        image.bytes_mut().copy_from_slice(file);
        image
    }

    /// Gives the file.
    pub fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.length]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.length]
    }

    /// Sets a `const volatile` global; says whether the object has one of that name.
    pub fn set_constant(&mut self, name: &str, value: &[u8]) -> Result<bool, String> {
        let file = self.file()?;
        let Some(symbol) = file.symbols().find(|symbol| symbol.name() == Ok(name)) else { return Ok(false) };
        if symbol.size() != value.len() as u64 {
            return Err(format!("the constant {name} takes {} bytes, not {}", symbol.size(), value.len()));
        }
        let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
        let start = section.and_then(|section| section.file_range()).and_then(|(start, length)| {
            let end = symbol.address().checked_add(symbol.size())?;
            start.checked_add(symbol.address()).filter(|_| end <= length)
        });
        let start = start.and_then(|start| usize::try_from(start).ok());
        let field = start.and_then(|start| self.bytes_mut().get_mut(start..start + value.len()));
        field.ok_or_else(|| format!("the constant {name} lies nowhere in the object"))?.copy_from_slice(value);
        Ok(true)
    }

    /// Sets the bytes of a value of maps, by name.
    pub fn set_value_sizes(&mut self, sizes: &[(String, u32)]) -> Result<(), String> {
        if sizes.is_empty() {
            return Ok(());
        }
        let (start, end) = section(&self.file()?)?;
        let btf = self.bytes_mut().get_mut(start..end).ok_or("the object's types lie outside of it")?;
        btf::set_value_sizes(btf, sizes)
    }

    fn file(&self) -> Result<File<'_>, String> {
        File::parse(self.bytes()).map_err(|error| error.to_string())
    }
}

/// Gives the maps of an object with the entries that they are declared with.
pub(crate) fn map_sizes(file: &[u8]) -> Result<Vec<(&str, u32)>, String> {
    btf::map_sizes(types(file)?).ok_or_else(|| "the object's types are not whole".to_owned())
}

/// Gives the types of an object.
pub(crate) fn types(file: &[u8]) -> Result<&[u8], String> {
    let (start, end) = section(&File::parse(file).map_err(|error| error.to_string())?)?;
    file.get(start..end).ok_or_else(|| "the object's types are not whole".to_owned())
}

/// Finds the types of an object.
fn section(file: &File<'_>) -> Result<(usize, usize), String> {
    let section = file.section_by_name(".BTF").and_then(|section| section.file_range());
    let (start, length) = section.ok_or("the object has no types")?;
    let end = start.checked_add(length).and_then(|end| usize::try_from(end).ok());
    end.map(|end| (end - length as usize, end)).ok_or_else(|| "the object's types lie outside of it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(name: &str) -> &'static [u8] {
        crate::objects().find(|(object, _)| *object == name).unwrap().1
    }

    /// Gives where an image differs from its file.
    fn changed(image: &Image, file: &[u8]) -> Vec<usize> {
        (0..file.len()).filter(|&at| file[at] != image.bytes()[at]).collect()
    }

    #[test]
    fn only_the_named_map_changes_and_only_its_number() {
        let mut image = Image::new(embedded("scales"));
        image.set_value_sizes(&[("samples".to_owned(), 0x0101_0101)]).unwrap();
        let changed = changed(&image, embedded("scales"));
        assert!((1..=4).contains(&changed.len()) && changed[changed.len() - 1] - changed[0] < 4, "{changed:?}");
    }

    #[test]
    fn a_map_without_a_size_of_its_own_is_refused() {
        for map in ["nothing", "thread"] {
            let error = Image::new(embedded("scales")).set_value_sizes(&[(map.to_owned(), 8)]).unwrap_err();
            assert!(error.contains(map), "{error}");
        }
    }

    #[test]
    fn only_the_named_constant_changes() {
        let mut image = Image::new(embedded("syscalls"));
        assert_eq!(image.set_constant("sample_span", &0x0101_0101_u32.to_ne_bytes()), Ok(true));
        let places = changed(&image, embedded("syscalls"));
        assert_eq!(places, (places[0]..places[0] + 4).collect::<Vec<_>>());
        assert_eq!(image.set_constant("no_such_thing", &[0; 4]), Ok(false));
        assert!(image.set_constant("sample_span", &[0; 8]).unwrap_err().contains("takes 4 bytes"));
    }

    #[test]
    fn maps_have_the_sizes_of_their_declarations() {
        let sizes = map_sizes(embedded("syscalls")).unwrap();
        for size in [("calls", 16384), ("losses", 1), ("inflight", 0)] {
            assert!(sizes.contains(&size), "{size:?} in {sizes:?}");
        }
        for (name, file) in crate::objects() {
            assert!(map_sizes(file).is_ok_and(|sizes| !sizes.is_empty()), "{name} has maps");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let whole = embedded("scales");
        for length in [0, 1, 63, 64, 1000, whole.len() / 2] {
            let mut cut = Image::new(&whole[..length]);
            assert!(cut.set_value_sizes(&[("samples".to_owned(), 8)]).is_err(), "{length} bytes");
            assert!(map_sizes(cut.bytes()).is_err(), "{length} bytes");
            assert!(cut.set_constant("thread", &[0; 4]).is_err(), "{length} bytes");
        }
    }
}
