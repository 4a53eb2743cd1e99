//! What the agent measures of itself: the statics from which instruments, documents and tests derive.

use model::Metric;
use model::metric::SECOND_BOUNDS;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident = $kind:ident($text:literal, $unit:literal, $help:literal, $attributes:expr $(, $bounds:expr)?);)*) => {
        $($(#[$doc])* pub static $name: Metric = Metric::$kind($text, $unit, $help, &$attributes $(, $bounds)?);)*
        /// All metrics of the runtime that the OpenTelemetry SDK keeps, and the agent's info and enrichment metrics.
        pub static METRICS: &[&Metric] = &[$(&$name),*];
    };
}

metrics! {
    /// Whether a collector is attached.
    LOAD_STATUS = gauge("telesonde_bpf_load_status", "{collector}", "1 when the collector is attached, 0 when it is not.", ["collector"]);
    /// Attempts to attach.
    LOAD_ATTEMPTS = counter("telesonde_bpf_load_attempts", "{attempt}", "Attempts to attach the collector.", ["collector"]);
    /// Time to attach.
    LOAD_DURATION = gauge("telesonde_bpf_load_duration_seconds", "s", "How long the last attempt to attach took.", ["collector"]);
    /// Failures to attach.
    BPF_ERRORS = counter("telesonde_bpf_errors", "{error}", "Attempts to attach that failed.", ["collector", "error.type"]);
    /// Pins that were taken over.
    PIN_TAKEOVERS = counter("telesonde_bpf_pin_takeovers", "{takeover}", "Starts of the collector where pin_path is set, by what the agent before had left: adopted, refused (it did not fit, so all begins afresh) or absent.", ["collector", "outcome"]);
    /// Attached programs.
    PROGRAMS = gauge("telesonde_bpf_programs_attached", "{program}", "Kernel programs that the collector has attached.", ["collector", "program_type"]);
    /// Skipped runs.
    MISSES = counter("telesonde_bpf_misses", "{run}", "Runs of a kernel program that the kernel skipped because it was re-entered.", ["program"]);
    /// Memory of maps.
    MAP_MEMORY = gauge("telesonde_bpf_map_memory_bytes", "By", "Kernel memory that the map takes when it is full.", ["map"]);
    /// Use of maps.
    MAP_USE = gauge("telesonde_bpf_map_utilization_percent", "%", "How full the map is, where its entries come and go.", ["map"]);
    /// Time of a round.
    COLLECTION_DURATION = histogram("telesonde_collection_duration_seconds", "s", "How long the collector took to give its readings.", ["collector"], SECOND_BOUNDS);
    /// Failed rounds.
    COLLECTOR_ERRORS = counter("telesonde_collector_errors", "{error}", "Rounds that the collector failed.", ["collector", "error.type"]);
    /// The state of a collector.
    COLLECTOR_STATE = gauge("telesonde_collector_state", "{collector}", "1 for the state that the collector is in.", ["collector", "state"]);
    /// CPU time of a collector.
    COLLECTOR_CPU = counter("telesonde_collector_cpu_seconds", "s", "CPU time of the collector, where a budget is set: of its programs in the kernel, by one run in 1,024, and of its rounds.", ["collector", "part"]);
    /// How far a collector goes.
    COLLECTOR_STEP = gauge("telesonde_collector_step", "{collector}", "1 for the step on which the collector is to keep within its budget, where one is set: full, sampling, counting or paused.", ["collector", "step"]);
    /// Series by metric.
    SERIES = gauge("telesonde_series", "{series}", "Series of the metric, the overflow series aside.", ["metric"]);
    /// Folded entries.
    SERIES_FOLDED = counter("telesonde_series_folded", "{series}", "Kernel entries that found no room in the metric's budget and went into its overflow series.", ["metric"]);
    /// Readings of a gather.
    BATCH_SIZE = gauge("telesonde_batch_size", "{reading}", "Readings of the last gather.", []);
    /// Jumps of the clock.
    CLOCK_JUMPS = counter("telesonde_clock_jumps", "{jump}", "How often the system's clock was set by a second or more, or the machine slept.", ["direction"]);
    /// Names found.
    ENRICHMENT_HITS = counter("telesonde_enrichment_hits", "{lookup}", "Look-ups of workload names that found them.", []);
    /// Names not found.
    ENRICHMENT_MISSES = counter("telesonde_enrichment_misses", "{lookup}", "Look-ups of workload names that did not find them.", ["reason"]);
    /// Errors of sources of names.
    ENRICHMENT_ERRORS = counter("telesonde_enrichment_errors", "{error}", "What a source of workload names could not tell, or told in vain.", ["source", "error.type"]);
    /// Look-ups of addresses in what flows told.
    PEER_LOOKUPS = counter("telesonde_peer_lookups", "{lookup}", "Look-ups of peers' addresses in what flows of Hubble told of them.", ["outcome"]);
    /// Addresses of which flows told.
    PEER_ADDRESSES = gauge("telesonde_peer_addresses", "{address}", "Addresses of which flows of Hubble have told whose they are.", []);
    /// What runs here.
    INFO = gauge("telesonde_info", "{agent}", "1, with what runs here, and in which pod where POD_NAME and POD_NAMESPACE say so.", ["version", "revision", "kernel", "arch", "k8s.namespace.name", "k8s.pod.name"]);
    /// Reloads of the configuration.
    CONFIG_RELOADS = counter("telesonde_config_reloads", "{reload}", "Configurations that were read again, by outcome: success, invalid (nothing was changed) or failed (it is valid, but something it asks for cannot be had).", ["outcome"]);
    /// Lines of the log that were lost.
    LOG_LOST = counter("telesonde_log_lost", "{line}", "Lines of the agent's log that could not be written, such as to a full disk.", []);
    /// The memory limit.
    MEMORY_LIMIT = gauge("telesonde_memory_limit_bytes", "By", "The lowest memory limit of the agent's cgroup and of those above it, where there is one.", []);
    /// What counts against it.
    MEMORY_USED = gauge("telesonde_memory_used_bytes", "By", "Memory that counts against that limit, kernel maps included, without file pages that the kernel would take back first.", []);
    /// Whether it is close.
    MEMORY_CLOSE = gauge("telesonde_memory_limit_close", "{agent}", "1 while the memory limit is close, where there is one: new series go to the overflow series and queues of events are short.", []);
    /// CPU time.
    CPU = counter("process_cpu_seconds_total", "s", "Time that the agent's threads spent on a CPU.", []);
    /// Resident memory.
    RESIDENT = gauge("process_resident_memory_bytes", "By", "Memory of the agent that is in RAM.", []);
    /// Start time.
    STARTED = gauge("process_start_time_seconds", "s", "When the agent started, in Unix seconds.", []);
    /// File descriptors.
    OPEN_FDS = gauge("process_open_fds", "{fd}", "File descriptors that the agent holds.", []);
}

pub(super) fn counter(meter: &Meter, metric: &'static Metric) -> Counter<u64> {
    meter.u64_counter(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
}

pub(super) fn spent(meter: &Meter, metric: &'static Metric) -> Counter<f64> {
    meter.f64_counter(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
}

pub(super) fn gauge(meter: &Meter, metric: &'static Metric) -> Gauge<u64> {
    meter.u64_gauge(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
}

pub(super) fn seconds(meter: &Meter, metric: &'static Metric) -> Gauge<f64> {
    meter.f64_gauge(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
}

pub(super) fn durations(meter: &Meter, metric: &'static Metric) -> Histogram<f64> {
    meter.f64_histogram(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
}
