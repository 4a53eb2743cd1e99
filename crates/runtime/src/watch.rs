//! Self-telemetry of the collectors' kernel objects: memory and use of maps, programs and what they missed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use crate::manager::Watches;
use crate::own::{collector, metrics};

/// Makes the observable instruments on a meter.
pub(crate) fn observe(meter: &Meter, watches: &Watches) {
    let shared = Arc::clone(watches);
    meter
        .u64_observable_gauge(&*metrics::PROGRAMS.name)
        .with_unit(&*metrics::PROGRAMS.unit)
        .with_description(&*metrics::PROGRAMS.help)
        .with_callback(move |observer| {
            for (name, watches) in shared.read().unwrap_or_else(PoisonError::into_inner).iter() {
                let mut kinds = HashMap::new();
                for program in watches.iter().flat_map(bpf::Watch::programs) {
                    *kinds.entry(program.kind).or_insert(0) += 1;
                }
                for (kind, count) in kinds {
                    observer.observe(count, &[collector(name), KeyValue::new("program_type", kind)]);
                }
            }
        })
        .build();
    let shared = Arc::clone(watches);
    meter
        .u64_observable_counter(&*metrics::MISSES.name)
        .with_unit(&*metrics::MISSES.unit)
        .with_description(&*metrics::MISSES.help)
        .with_callback(move |observer| {
            let programs = each(&shared, bpf::Watch::programs).into_iter();
            let misses = programs.filter_map(|program| Some((program.name, program.misses?)));
            for (name, misses) in merge(misses, |sum, more| sum + more) {
                observer.observe(misses, &[KeyValue::new("program", name)]);
            }
        })
        .build();
    let shared = Arc::clone(watches);
    meter
        .u64_observable_gauge(&*metrics::MAP_MEMORY.name)
        .with_unit(&*metrics::MAP_MEMORY.unit)
        .with_description(&*metrics::MAP_MEMORY.help)
        .with_callback(move |observer| {
            let maps = each(&shared, bpf::Watch::maps).into_iter().map(|map| (map.name, map.memory));
            for (name, memory) in merge(maps, |sum, more| sum + more) {
                observer.observe(memory, &[KeyValue::new("map", name)]);
            }
        })
        .build();
    let shared = Arc::clone(watches);
    meter
        .f64_observable_gauge(&*metrics::MAP_USE.name)
        .with_unit(&*metrics::MAP_USE.unit)
        .with_description(&*metrics::MAP_USE.help)
        .with_callback(move |observer| {
            let maps = each(&shared, bpf::Watch::maps).into_iter();
            let percent = |map: bpf::cost::MapCost| {
                let used = map.used?;
                Some((map.name, used as f64 * 100.0 / f64::from(map.capacity.max(1))))
            };
            for (name, percent) in merge(maps.filter_map(percent), f64::max) {
                observer.observe(percent, &[KeyValue::new("map", name)]);
            }
        })
        .build();
}

/// Gives what all watches of all collectors see.
fn each<T>(watches: &Watches, look: impl Fn(&bpf::Watch) -> Vec<T>) -> Vec<T> {
    let watches = watches.read().unwrap_or_else(PoisonError::into_inner);
    watches.iter().flat_map(|(_, watches)| watches.iter().flat_map(&look)).collect()
}

/// Joins what has one name: collectors may have programs on one hook, and maps of one library. An instrument takes one
/// value for each name.
fn merge<T: Copy>(values: impl Iterator<Item = (String, T)>, join: impl Fn(T, T) -> T) -> BTreeMap<String, T> {
    let mut merged = BTreeMap::new();
    for (name, value) in values {
        merged.entry(name).and_modify(|before| *before = join(*before, value)).or_insert(value);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_one_value() {
        let values = [("sys_exit", 3), ("sys_enter", 1), ("sys_exit", 4)].map(|(name, value)| (name.to_owned(), value));
        let merged = merge(values.into_iter(), |sum, more| sum + more);
        assert_eq!(merged.into_iter().collect::<Vec<_>>(), [("sys_enter".to_owned(), 1), ("sys_exit".to_owned(), 7)]);
    }
}
