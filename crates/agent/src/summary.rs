//! The short live summary of `run`: what is attached, where to scrape, which workloads are busiest.

use std::collections::HashMap;
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Attributes, Points, Snapshot, Source};
use runtime::{Manager, State};

/// The counter by which workloads are ranked.
const RANKED_BY: &str = "ebpf_syscall_count";
const ON_TERMINAL: Duration = Duration::from_secs(2);
const IN_LOG: Duration = Duration::from_mins(1);
const WORKLOADS: usize = 5;

/// The total of each workload of a snapshot, by the workload's label.
type Totals = HashMap<String, f64>;

/// Shows the summary until the future is dropped: redrawn in place on a terminal, as plain lines elsewhere.
/// Where nobody looks on it makes do with the snapshots that readers caused.
pub async fn show(manager: Arc<Manager>, places: Vec<String>) {
    let terminal = std::io::stdout().is_terminal();
    let mut before: Option<(Instant, Totals)> = None;
    let mut drawn = 0;
    print(&heading(&manager, &places).join("\n"));
    loop {
        tokio::time::sleep(if terminal { ON_TERMINAL } else { IN_LOG }).await;
        if terminal {
            manager.snapshot(ON_TERMINAL / 2).await;
        }
        let Some((taken, snapshot)) = manager.latest() else { continue };
        if before.as_ref().is_some_and(|(then, _)| *then == taken) {
            continue;
        }
        let totals = totals(&snapshot);
        let mut lines = Vec::new();
        if let Some((then, old)) = &before {
            lines = busiest(old, &totals, taken.duration_since(*then));
        }
        before = Some((taken, totals));
        if lines.is_empty() {
            continue;
        }
        if terminal {
            // Up over what was drawn last, then clear to the end of the screen.
            let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            drawn = lines.len();
            print(&format!("{up}{}", lines.join("\n")));
        } else {
            print(&lines.join("; "));
        }
    }
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A closed pipe must not end the agent.
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

fn heading(manager: &Manager, places: &[String]) -> Vec<String> {
    let mut lines = vec![format!("telesonde {} runs", env!("CARGO_PKG_VERSION"))];
    for status in manager.status() {
        if status.state != State::Disabled {
            lines.push(format!("  collector {}: {}", status.name, status.state));
        }
    }
    lines.extend(places.iter().map(|place| format!("  {place}")));
    lines
}

fn totals(snapshot: &Snapshot) -> Totals {
    let mut totals = Totals::new();
    for family in snapshot.families.iter().filter(|family| family.metric.name == RANKED_BY) {
        if let Points::Numbers(points) = &family.points {
            for point in points {
                *totals.entry(label(&point.series.entity)).or_default() += point.value.as_f64();
            }
        }
    }
    totals
}

fn busiest(old: &Totals, new: &Totals, span: Duration) -> Vec<String> {
    let rate = |(name, total): (&String, &f64)| {
        let grown = total - old.get(name).copied().unwrap_or(0.0);
        (grown / span.as_secs_f64().max(0.001), name.clone())
    };
    let mut rates: Vec<_> = new.iter().map(rate).filter(|(rate, _)| *rate > 0.0).collect();
    rates.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut lines = vec![format!("busiest of {} workloads, syscalls/s:", new.len())];
    for (rate, name) in rates.into_iter().take(WORKLOADS) {
        lines.push(format!("{rate:>10.0}  {name}"));
    }
    lines
}

/// Names a workload in one short piece of text.
pub fn label(entity: &Attributes) -> String {
    let keys = ["k8s.pod.name", "k8s.container.name", "systemd.unit", "container.id", "cgroup.path"];
    let known = keys.iter().find_map(|key| entity.get(key));
    let fallback = || entity.pairs().first().map_or("node".to_owned(), |pair| format!("{}={}", pair.key, pair.value));
    known.map_or_else(fallback, |name| if name.len() > 60 { format!("{}…", &name[..12]) } else { name.to_owned() })
}
