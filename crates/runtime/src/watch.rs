//! Self-telemetry of the collectors' kernel objects: memory and use of maps, programs and what they missed.

use std::collections::HashMap;
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
            for (_, watches) in shared.read().unwrap_or_else(PoisonError::into_inner).iter() {
                for program in watches.iter().flat_map(bpf::Watch::programs) {
                    if let Some(misses) = program.misses {
                        observer.observe(misses, &[KeyValue::new("program", program.name)]);
                    }
                }
            }
        })
        .build();
    let shared = Arc::clone(watches);
    meter
        .u64_observable_gauge(&*metrics::MAP_MEMORY.name)
        .with_unit(&*metrics::MAP_MEMORY.unit)
        .with_description(&*metrics::MAP_MEMORY.help)
        .with_callback(move |observer| {
            for (_, watches) in shared.read().unwrap_or_else(PoisonError::into_inner).iter() {
                for map in watches.iter().flat_map(bpf::Watch::maps) {
                    observer.observe(map.memory, &[KeyValue::new("map", map.name)]);
                }
            }
        })
        .build();
    let shared = Arc::clone(watches);
    meter
        .f64_observable_gauge(&*metrics::MAP_USE.name)
        .with_unit(&*metrics::MAP_USE.unit)
        .with_description(&*metrics::MAP_USE.help)
        .with_callback(move |observer| {
            for (_, watches) in shared.read().unwrap_or_else(PoisonError::into_inner).iter() {
                for map in watches.iter().flat_map(bpf::Watch::maps) {
                    if let Some(used) = map.used {
                        let percent = used as f64 * 100.0 / f64::from(map.capacity.max(1));
                        observer.observe(percent, &[KeyValue::new("map", map.name)]);
                    }
                }
            }
        })
        .build();
}
