//! A stack of values that programs take from and both sides put on.

use std::marker::PhantomData;

use crate::error::Error;
use crate::sys::{RawMap, kind};
use crate::table::Plain;

/// A map of the kind stack.
#[derive(Debug)]
pub struct Stack<V> {
    raw: RawMap,
    name: String,
    shape: PhantomData<fn() -> V>,
}

impl<V: Plain> Stack<V> {
    pub(crate) fn new(raw: RawMap, name: &str) -> Result<Self, Error> {
        if raw.info.kind != kind::STACK {
            return Err(Error::Kind { map: name.to_owned(), expected: "a stack" });
        }
        let (expected, actual) = (size_of::<V>(), raw.info.value_size as usize);
        if expected != actual {
            return Err(Error::Shape { map: name.to_owned(), part: "value", expected, actual });
        }
        Ok(Self { raw, name: name.to_owned(), shape: PhantomData })
    }

    /// Puts a value on top.
    ///
    /// # Errors
    /// Fails when the stack is full.
    pub fn push(&mut self, value: &V) -> Result<(), Error> {
        let fail = |source| Error::Map { map: self.name.clone(), action: "put a value on", source };
        self.raw.update(&[], value.as_bytes()).map_err(fail)
    }

    /// Takes the value from the top; nothing when there is none.
    ///
    /// # Errors
    /// Fails when the kernel refuses to change the map.
    pub fn pop(&mut self) -> Result<Option<V>, Error> {
        let mut value = V::new_zeroed();
        let fail = |source| Error::Map { map: self.name.clone(), action: "take a value from", source };
        let found = self.raw.take(&[], value.as_mut_bytes()).map_err(fail)?;
        Ok(found.then_some(value))
    }
}
