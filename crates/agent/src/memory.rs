//! The memory limit of the agent's own cgroup: looked at every second. When it is close, what can be done without is given
//! up, and the rest is kept small, before the kernel ends the process.

mod cgroup;

use std::sync::Arc;
use std::time::{Duration, Instant};

use enrich::Workloads;
use opentelemetry::metrics::Meter;
use runtime::own::metrics;
use runtime::{Bus, Headroom};
use tokio::sync::watch;
use tokio::task::block_in_place;

use crate::shutdown::stopped;

/// How often the limit is looked at, and how often freed memory is given back while it is close.
const PERIOD: Duration = Duration::from_secs(1);
const RELIEF: Duration = Duration::from_secs(10);

/// Looks after the limit until the agent stops.
pub fn guard(meter: &Meter, bus: &Arc<Bus>, workloads: &Arc<Workloads>, stopping: watch::Receiver<bool>) {
    observe(meter, bus.headroom());
    let mut guard = Guard { bus: Arc::clone(bus), workloads: Arc::clone(workloads), relieved: None };
    drop(tokio::spawn(async move {
        let mut period = tokio::time::interval(PERIOD);
        let look = async {
            loop {
                period.tick().await;
                block_in_place(|| guard.look());
            }
        };
        tokio::select! {
            () = look => {}
            () = stopped(stopping) => {}
        }
    }));
}

struct Guard {
    bus: Arc<Bus>,
    workloads: Arc<Workloads>,
    /// When memory was last given back, while the limit is close.
    relieved: Option<Instant>,
}

impl Guard {
    fn look(&mut self) {
        let headroom = self.bus.headroom();
        let changed = headroom.note(cgroup::taken());
        match (changed, headroom.remark()) {
            (Some(true), Some(remark)) => {
                tracing::warn!("{remark}; raise the limit, or lower limits.series_total and exporters.events.queue");
            }
            (Some(false), _) => tracing::info!("the memory limit is no longer close"),
            _ => {}
        }
        if !headroom.is_close() {
            self.relieved = None;
        } else if self.relieved.is_none_or(|since| since.elapsed() >= RELIEF) {
            self.bus.cut();
            self.workloads.relieve();
            bpf::memory::trim();
            self.relieved = Some(Instant::now());
        }
    }
}

/// What an instrument shows.
#[derive(Clone, Copy)]
enum Shown {
    Used,
    Limit,
    Close,
}

/// Makes the instruments, which show something only where there is a limit.
fn observe(meter: &Meter, headroom: &Arc<Headroom>) {
    for (metric, shown) in [
        (&metrics::MEMORY_USED, Shown::Used),
        (&metrics::MEMORY_LIMIT, Shown::Limit),
        (&metrics::MEMORY_CLOSE, Shown::Close),
    ] {
        let headroom = Arc::clone(headroom);
        meter
            .u64_observable_gauge(&*metric.name)
            .with_unit(&*metric.unit)
            .with_description(&*metric.help)
            .with_callback(move |observer| {
                let Some((used, limit)) = headroom.reading() else { return };
                let value = match shown {
                    Shown::Used => used,
                    Shown::Limit => limit,
                    Shown::Close => u64::from(headroom.is_close()),
                };
                observer.observe(value, &[]);
            })
            .build();
    }
}
