//! Reads protobuf where it lies: fields one by one, nothing copied, nothing allocated.

use thiserror::Error;

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed message")]
pub struct Malformed;

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number, a truth value or an enumerator.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// Four bytes.
    Fixed32(u32),
}

impl<'a> Value<'a> {
    /// Gives a number; 0 where the field is of another type than it should be.
    pub fn number(self) -> u64 {
        if let Self::Varint(number) = self { number } else { 0 }
    }

    /// Gives text, bytes or a message; nothing where the field is of another type than it should be.
    pub fn bytes(self) -> &'a [u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }
}

/// The fields of one message, in the order in which they lie.
#[derive(Clone, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all are of one byte.
        if let [first, rest @ ..] = self.0
            && *first < 0x80
        {
            self.0 = rest;
            return Ok(u64::from(*first));
        }
        let mut value = 0;
        for (at, &byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (at * 7);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number != 0).ok_or(Malformed)?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)?),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().map(u32::from_le_bytes).map_err(|_| Malformed)?),
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// All occurrences of one field of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Repeated<'a> {
    /// The message.
    pub message: &'a [u8],
    /// The field's number.
    pub number: u32,
}

impl<'a> Repeated<'a> {
    /// Gives them in the order in which they lie.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        let fields = Fields(self.message).map_while(Result::ok);
        fields.filter(move |(number, _)| *number == self.number).map(|(_, value)| value.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_type_are_read() {
        let message = [0x08, 0x96, 0x01, 0x11, 1, 0, 0, 0, 0, 0, 0, 0, 0x1a, 2, b'h', b'i', 0x25, 7, 0, 0, 0];
        let fields: Vec<_> = Fields(&message).map(Result::unwrap).collect();
        let expected =
            [(1, Value::Varint(150)), (2, Value::Fixed64(1)), (3, Value::Bytes(b"hi")), (4, Value::Fixed32(7))];
        assert_eq!(fields, expected);
    }

    #[test]
    fn what_is_cut_off_or_no_field_is_malformed() {
        let wrong: [&[u8]; 6] = [&[0x08], &[0x1a, 5, b'h'], &[0x0b], &[0x00, 1], &[0x08; 1], &[0xff; 12]];
        for message in wrong {
            assert_eq!(Fields(message).find(Result::is_err), Some(Err(Malformed)), "{message:?}");
        }
        assert_eq!(Fields(&[]).next(), None);
    }
}
