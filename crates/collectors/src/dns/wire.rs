//! Names as they stand in messages. Whoever sends packets chooses their bytes, so nothing is taken on trust.

use std::fmt::Write as _;

/// A name and its end have so many bytes at most.
const MOST: usize = 255;
/// A label has so many bytes at most; what is above is a pointer, or nothing at all.
const LABEL: usize = 63;

/// Reads a name from the beginning of these bytes, as people write it (RFC 1035, 5.1), and gives what follows. Nothing
/// where it is no whole name, or goes on elsewhere in its message.
pub(super) fn name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut text = String::new();
    let mut rest = bytes;
    loop {
        let (&length, after) = rest.split_first()?;
        let length = usize::from(length);
        if length == 0 {
            if bytes.len() - after.len() > MOST {
                return None;
            }
            if text.is_empty() {
                text.push('.');
            }
            return Some((text, after));
        }
        if length > LABEL || length > after.len() {
            return None;
        }
        let (label, after) = after.split_at(length);
        if !text.is_empty() {
            text.push('.');
        }
        for &byte in label {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(byte)]),
                b'!'..=b'~' => text.push(char::from(byte.to_ascii_lowercase())),
                // Writing to a string cannot fail.
                _ => _ = write!(text, "\\{byte:03}"),
            }
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_people_do() {
        assert_eq!(name(b"\x03wWw\x04test\0\0\x01"), Some(("www.test".to_owned(), &b"\0\x01"[..])));
        assert_eq!(name(b"\0"), Some((".".to_owned(), &b""[..])));
        assert_eq!(name(b"\x05a.b\\\x07\x02\xff \0").unwrap().0, "a\\.b\\\\\\007.\\255\\032");
    }

    #[test]
    fn what_is_no_name_has_none() {
        for bytes in [&b""[..], b"\x01", b"\x01a", b"\x02a", b"\xc0\x0c", b"\x01a\xc0\x0c", b"\x40a\0", b"\x80\0"] {
            assert_eq!(name(bytes), None, "{bytes:?}");
        }
        let labels = |count: usize| [b"\x01a".repeat(count), vec![0]].concat();
        assert_eq!(name(&labels(127)).unwrap().0.len(), 253, "the longest");
        assert_eq!(name(&labels(128)), None);
    }

    #[test]
    fn any_bytes_give_printable_text_of_bounded_length() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..260)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    // Mostly lengths that a label may have, so that names go on for a while.
                    if state >> 62 == 0 { (state >> 40) as u8 } else { (state >> 40) as u8 & 0x0f }
                })
                .collect();
            if let Some((text, rest)) = name(&bytes) {
                assert!(text.len() <= 4 * MOST && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
                assert!(bytes.len() - rest.len() <= MOST);
            }
        }
    }
}
