//! What `/proc` says of the programs and maps that this process has open.

use std::collections::HashMap;
use std::error::Error;
use std::fs;

/// Gives these fields of each descriptor that has all of them and whose `id` is among the names, by name.
pub fn read<const N: usize>(
    id: &str,
    names: &HashMap<u64, String>,
    fields: [&str; N],
) -> Result<HashMap<String, [u64; N]>, Box<dyn Error>> {
    let mut all = HashMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // A descriptor may be closed meanwhile.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let Some(name) = field(id).and_then(|id| names.get(&id)) else { continue };
        let found: Vec<u64> = fields.iter().filter_map(|name| field(name)).collect();
        if let Ok(found) = found.try_into() {
            all.insert(name.clone(), found);
        }
    }
    Ok(all)
}
