//! A map's entries as text, by what the object's own types say of its keys and values. Reading takes nothing from it.

use std::fmt::Write;
use std::io;

use crate::btf::Declaration;
use crate::sys::{RawMap, kind};

/// Writes the entries of a map, a line each; elements of arrays that are all zeros are left out, and so is what is beyond
/// `limit`, with a line that says so.
pub(crate) fn entries(map: &RawMap, declaration: Option<&Declaration<'_>>, limit: usize) -> io::Result<String> {
    let mut out = String::new();
    match map.info.kind {
        kind::HASH | kind::PERCPU_HASH => hash(map, declaration, limit, &mut out)?,
        kind::ARRAY | kind::PERCPU_ARRAY => array(map, declaration, limit, &mut out)?,
        _ => out.push_str("(reading its entries would take them from it, or is not possible)\n"),
    }
    Ok(out)
}

fn hash(map: &RawMap, declaration: Option<&Declaration<'_>>, limit: usize, out: &mut String) -> io::Result<()> {
    let mut key = vec![0; map.info.key_size as usize];
    let mut next = key.clone();
    let mut value = vec![0; map.value_bytes];
    let mut more = map.next_key(None, &mut next)?;
    // A walk begins anew where the key was removed meanwhile; no longer than the map is.
    for count in 0..map.info.max_entries as usize {
        if !more {
            return Ok(());
        }
        if count == limit {
            break;
        }
        key.copy_from_slice(&next);
        if map.lookup(&key, &mut value)? {
            line(map, declaration, &key, &value, out);
        }
        more = map.next_key(Some(&key), &mut next)?;
    }
    if more {
        out.push_str("(further entries are not shown)\n");
    }
    Ok(())
}

fn array(map: &RawMap, declaration: Option<&Declaration<'_>>, limit: usize, out: &mut String) -> io::Result<()> {
    let mut value = vec![0; map.value_bytes];
    let mut shown = 0;
    for index in 0..map.info.max_entries {
        let key = index.to_ne_bytes();
        if !map.lookup(&key, &mut value)? || value.iter().all(|&byte| byte == 0) {
            continue;
        }
        if shown == limit {
            out.push_str("(further entries are not shown)\n");
            break;
        }
        line(map, declaration, &key, &value, out);
        shown += 1;
    }
    Ok(())
}

fn line(map: &RawMap, declaration: Option<&Declaration<'_>>, key: &[u8], value: &[u8], out: &mut String) {
    text(declaration.and_then(|declaration| declaration.key(key)), key, out);
    let size = value.len() / map.cpus;
    for (cpu, value) in value.chunks(size.max(1)).enumerate() {
        let value = &value[..(map.info.value_size as usize).min(value.len())];
        if map.cpus > 1 {
            if value.iter().all(|&byte| byte == 0) {
                continue;
            }
            let _ = write!(out, " cpu{cpu}");
        }
        out.push_str(" = ");
        text(declaration.and_then(|declaration| declaration.value(value)), value, out);
    }
    out.push('\n');
}

/// Writes what was decoded, else the bytes.
fn text(decoded: Option<String>, bytes: &[u8], out: &mut String) {
    match decoded {
        Some(decoded) => out.push_str(&decoded),
        None => hex(bytes, out),
    }
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8], out: &mut String) {
    out.push_str("0x");
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}
