//! Everything that is derived from the descriptors and the command line: `list`, `metrics`, and the generated documents.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use model::{Kind, Metric, name};
use runtime::{Descriptor, Need};
use serde_json::{Value, json};

use crate::cli::{Cli, Format};
use crate::table::Table;
use crate::wiring::sections;

/// Gives the list of collectors.
pub fn list(registry: &[&Descriptor], format: Format) -> String {
    if format == Format::Json {
        let all: Vec<Value> = registry.iter().map(|descriptor| collector_json(descriptor)).collect();
        return pretty(&json!(all));
    }
    let mut table = Table::new(["COLLECTOR", "METRICS", "NEEDS", "WHAT IT MEASURES"]);
    for descriptor in registry {
        let needs: Vec<String> = descriptor.needs.iter().map(need).collect();
        table.row([
            descriptor.name.to_owned(),
            descriptor.metrics.len().to_string(),
            needs.join(", "),
            descriptor.summary.to_owned(),
        ]);
    }
    table.to_string()
}

/// Gives the list of metrics.
pub fn metrics(registry: &[&Descriptor], format: Format) -> String {
    let all = all_metrics(registry).into_iter();
    if format == Format::Json {
        let all: Vec<Value> = all.map(|(collector, metric)| metric_json(collector, metric)).collect();
        return pretty(&json!(all));
    }
    let mut table = Table::new(["METRIC", "KIND", "UNIT", "ATTRIBUTES", "COLLECTOR"]);
    for (collector, metric) in all {
        table.row([
            metric.name.to_string(),
            kind(metric.kind).to_owned(),
            metric.unit.to_string(),
            metric.attributes.join(", "),
            collector.to_owned(),
        ]);
    }
    table.to_string()
}

/// Gives every metric with who measures it: each collector's own, what collectors share, and the agent's.
fn all_metrics(registry: &[&Descriptor]) -> Vec<(&'static str, &'static Metric)> {
    let shared = |metric: &Metric| runtime::own::SHARED.iter().any(|other| other.name == metric.name);
    let mut all = Vec::new();
    for descriptor in registry {
        all.extend(descriptor.metrics.iter().filter(|metric| !shared(metric)).map(|metric| (descriptor.name, *metric)));
    }
    let agent = runtime::own::METRICS.iter().chain(&export::otlp::telemetry::METRICS);
    let agent = agent.chain(&export::prometheus::telemetry::METRICS).chain(&export::events::METRICS);
    all.extend(runtime::own::SHARED.iter().map(|metric| ("any", *metric)));
    all.extend(agent.map(|metric| ("the agent", *metric)));
    all
}

/// Writes the generated documents below `out`.
///
/// # Errors
/// Fails when a file cannot be written, and names it.
pub fn generate(registry: &[&'static Descriptor], out: &Path) -> anyhow::Result<()> {
    let sections = sections(registry);
    let defaults =
        config::load(&config::Sources::default(), &sections).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let files = [
        ("charts/telesonde/collectors.yaml", chart_needs(registry, &defaults)),
        ("docs/collectors.md", collectors_page(registry)),
        ("docs/metrics.md", metrics_page(registry)),
        ("docs/otel-variables.md", config::otel_table()),
        ("configs/reference.yaml", config::reference(&sections)),
    ];
    for (name, text) in files {
        let path = out.join(name);
        let directory = path.parent().unwrap_or(out);
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    command_line(out)
}

/// Writes the manual, a page for each command, and what completes the command line in shells.
fn command_line(out: &Path) -> anyhow::Result<()> {
    let (manual, completions) = (out.join("packaging/man"), out.join("packaging/completions"));
    for directory in [&manual, &completions] {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(&command, &manual).with_context(|| format!("cannot write into {}", manual.display()))?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut Cli::command(), "telesonde", &completions)
            .with_context(|| format!("cannot write into {}", completions.display()))?;
    }
    Ok(())
}

/// Writes the manual's page of a command, and those of the commands below it.
fn pages(command: &clap::Command, manual: &Path) -> std::io::Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, manual)?;
    }
    let source = format!("telesonde {}", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.clone()).source(source).manual("Telesonde");
    let file = page.get_filename();
    let mut text = Vec::new();
    page.render(&mut text)?;
    if file == "telesonde.1" {
        text.extend_from_slice(include_bytes!("manual.roff"));
    }
    std::fs::write(manual.join(file), text)
}

fn collectors_page(registry: &[&Descriptor]) -> String {
    let mut page = String::from("# Collectors\n\nGenerated by `cargo xtask gen` from the collectors' descriptors.\n");
    for descriptor in registry {
        let needs: Vec<String> = descriptor.needs.iter().map(need).collect();
        _ = write!(page, "\n## {}\n\n{}\n\nNeeds: {}.\n", descriptor.name, descriptor.summary, needs.join(", "));
        if !descriptor.metrics.is_empty() {
            page.push_str("\nMetrics:\n\n");
            for metric in descriptor.metrics {
                _ = writeln!(page, "- `{}`: {}", metric.name, metric.help);
            }
        }
        if !descriptor.limits.is_empty() {
            page.push_str("\nWhat it cannot see:\n\n");
            for limit in descriptor.limits {
                _ = writeln!(page, "- {limit}");
            }
        }
    }
    page
}

fn metrics_page(registry: &[&Descriptor]) -> String {
    let mut page = String::from(
        "# Metrics\n\nGenerated by `cargo xtask gen` from the collectors' descriptors. In Prometheus dots of labels are \
         underscores.\nEvery series of a workload also has the workload's attributes; those of the agent itself begin \
         with `telesonde_`.\n\n\
         With the defaults a node of 30 pods and 60 containers has at most 10,000 samples in a scrape as text, where a \
         histogram of\nlatencies counts as 10: seven bounds (`exporters.prometheus.bucket_ratio`), `+Inf`, sum and count. \
         Services that serve, call, log and ask\nfor names have some 135 each, and a container that did all there is \
         would have 230: past `limits.samples_per_workload` (130, times 60\nor the number of workloads, if that is more) \
         what has not changed for longest goes into its metric's overflow series, and comes back when it\nis busier than \
         others. `telesonde_series_folded` counts it, and OTLP pushes the same series. The agent's own take 500 to 1000.\n\
         `tests/kernel/samples.rs` measures both.\n\n| metric | in Prometheus | kind | unit | own attributes | collector | meaning |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (collector, metric) in all_metrics(registry) {
        let attributes: Vec<String> = metric.attributes.iter().map(|key| format!("`{key}`")).collect();
        _ = writeln!(
            page,
            "| `{}` | `{}` | {} | `{}` | {} | {collector} | {} |",
            metric.name,
            name::prometheus(metric),
            kind(metric.kind),
            metric.unit,
            attributes.join(", "),
            metric.help,
        );
    }
    page
}

/// Gives what the chart must know of each collector, to choose what the pod is allowed.
fn chart_needs(registry: &[&Descriptor], defaults: &config::Loaded) -> String {
    let mut page = String::from(
        "# Generated by `cargo xtask gen` from the collectors' descriptors: what each needs of its pod, where its section of\n\
         # the configuration is, and whether it is on by default.\n",
    );
    for descriptor in registry {
        let name = descriptor.name;
        let capability = |need: &Need| match need {
            Need::Capability(name) => Some(name.trim_start_matches("CAP_")),
            _ => None,
        };
        let capabilities: Vec<&str> = descriptor.needs.iter().filter_map(capability).collect();
        let host_pid = descriptor.needs.contains(&Need::HostPid);
        let section = config::section_key(name);
        let own = section.strip_prefix("integrations.ebpf.collectors.");
        let short = own.map(|name| format!("\n  short: {}", config::short_form(name))).unwrap_or_default();
        let selection = defaults.collectors.iter().find(|selection| selection.name == name);
        let enabled = selection.is_some_and(|selection| selection.enabled != config::Enabled::False);
        _ = writeln!(
            page,
            "{name}:\n  section: {section}{short}\n  enabled: {enabled}\n  capabilities: [{}]\n  hostPID: {host_pid}",
            capabilities.join(", "),
        );
    }
    page
}

fn collector_json(descriptor: &Descriptor) -> Value {
    json!({
        "name": descriptor.name,
        "summary": descriptor.summary,
        "limits": descriptor.limits,
        "needs": descriptor.needs.iter().map(need).collect::<Vec<_>>(),
        "metrics": descriptor.metrics.iter().map(|metric| metric.name.as_ref()).collect::<Vec<_>>(),
    })
}

fn metric_json(collector: &str, metric: &Metric) -> Value {
    json!({
        "name": metric.name,
        "prometheus": name::prometheus(metric),
        "kind": kind(metric.kind),
        "unit": metric.unit,
        "help": metric.help,
        "attributes": metric.attributes,
        "collector": collector,
    })
}

/// Names a need as `list` and the documents show it.
pub fn need(need: &Need) -> String {
    match need {
        Need::Btf => "BTF".to_owned(),
        Need::Tracepoint(name) => format!("tracepoint {name}"),
        Need::Capability(name) => (*name).to_owned(),
        Need::HostPid => "the host's pid namespace".to_owned(),
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// Renders JSON for people who read it.
pub fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
