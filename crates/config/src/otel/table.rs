//! One table of all standard variables: it drives the reading, the documentation and the tests.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::inert;

/// One standard variable.
#[derive(Clone, Copy, Debug)]
pub struct OtelVariable {
    /// Its name.
    pub name: &'static str,
    /// What becomes of it.
    pub status: Status,
    /// A value that it may have.
    pub example: &'static str,
    pub(crate) form: Form,
}

/// What becomes of a standard variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It sets this key.
    Honoured(&'static str),
    /// It has no meaning here, and why.
    NotApplicable(&'static str),
}

/// How the text of a variable becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its own code reads it.
    Special,
    /// It concerns traces alone.
    Traces,
    /// As it stands.
    Text,
    /// A number of milliseconds.
    Milliseconds,
    /// A whole number.
    Count,
    /// Words of the specification and ours.
    Words(&'static [(&'static str, &'static str)]),
}

impl Form {
    /// Returns the value of the key, or what is wrong with the text.
    pub(crate) fn read(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Special | Self::Traces | Self::Text => Ok(json!(text)),
            Self::Milliseconds => match text.parse::<u64>() {
                Ok(milliseconds) => Ok(json!(format!("{milliseconds}ms"))),
                Err(_) => Err(format!("{text:?} is not a whole number of milliseconds")),
            },
            Self::Count => match text.parse::<u64>() {
                Ok(count) => Ok(json!(count)),
                Err(_) => Err(format!("{text:?} is not a whole number")),
            },
            Self::Words(words) => {
                if let Some((_, ours)) = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
                    Ok(json!(ours))
                } else {
                    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                    Err(format!("{text:?} is none of {}", known.join(", ")))
                }
            }
        }
    }
}

const PROTOCOL: Form = Form::Words(&[("grpc", "grpc"), ("http/protobuf", "http/protobuf")]);
const COMPRESSION: Form = Form::Words(&[("none", "none"), ("gzip", "gzip"), ("zstd", "zstd")]);
// Kernel series are what the specification calls asynchronous, and those stay cumulative under lowmemory.
const TEMPORALITY: Form = Form::Words(&[("cumulative", "cumulative"), ("delta", "delta"), ("lowmemory", "cumulative")]);
const HISTOGRAM: Form =
    Form::Words(&[("base2_exponential_bucket_histogram", "exponential"), ("explicit_bucket_histogram", "explicit")]);
const LEVEL: Form = Form::Words(&[
    ("none", "off"),
    ("off", "off"),
    ("fatal", "error"),
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("verbose", "trace"),
    ("trace", "trace"),
    ("all", "trace"),
]);

const fn set(name: &'static str, key: &'static str, example: &'static str, form: Form) -> OtelVariable {
    OtelVariable { name, status: Status::Honoured(key), example, form }
}

const fn not(name: &'static str, why: &'static str, example: &'static str) -> OtelVariable {
    OtelVariable { name, status: Status::NotApplicable(why), example, form: Form::Special }
}

const fn traces(name: &'static str, example: &'static str) -> OtelVariable {
    OtelVariable { name, status: Status::NotApplicable("Telesonde produces no traces"), example, form: Form::Traces }
}

/// Every variable of the OpenTelemetry specification; where several set one key, the later wins.
pub const OTEL_VARIABLES: &[OtelVariable] = &[
    set("OTEL_SDK_DISABLED", "integrations.ebpf.enabled", "true", Form::Special),
    set("OTEL_RESOURCE_ATTRIBUTES", "agent.resource", "deployment.environment.name=prod", Form::Special),
    set("OTEL_SERVICE_NAME", "agent.resource.\"service.name\"", "node-telemetry", Form::Special),
    set("OTEL_LOG_LEVEL", "log.level", "debug", LEVEL),
    set("OTEL_METRICS_EXPORTER", "exporters.prometheus.enabled", "otlp", Form::Special),
    set("OTEL_LOGS_EXPORTER", "exporters.events.otlp", "none", Form::Special),
    set("OTEL_EXPORTER_PROMETHEUS_HOST", "exporters.prometheus.listen", "0.0.0.0", Form::Special),
    set("OTEL_EXPORTER_PROMETHEUS_PORT", "exporters.prometheus.listen", "9100", Form::Special),
    set("OTEL_METRIC_EXPORT_INTERVAL", "exporters.otlp.main.interval", "60000", Form::Milliseconds),
    set("OTEL_METRIC_EXPORT_TIMEOUT", "exporters.otlp.main.timeout", "20000", Form::Milliseconds),
    set("OTEL_EXPORTER_OTLP_ENDPOINT", "exporters.otlp.main.endpoint", "http://collector:4317", Form::Special),
    set("OTEL_EXPORTER_OTLP_INSECURE", "exporters.otlp.main.endpoint", "true", Form::Special),
    set("OTEL_EXPORTER_OTLP_PROTOCOL", "exporters.otlp.main.protocol", "http/protobuf", PROTOCOL),
    set("OTEL_EXPORTER_OTLP_HEADERS", "exporters.otlp.main.headers", "authorization=Bearer%20TOKEN", Form::Special),
    set("OTEL_EXPORTER_OTLP_COMPRESSION", "exporters.otlp.main.compression", "gzip", COMPRESSION),
    set("OTEL_EXPORTER_OTLP_TIMEOUT", "exporters.otlp.main.timeout", "5000", Form::Milliseconds),
    set("OTEL_EXPORTER_OTLP_CERTIFICATE", "exporters.otlp.main.tls.ca", "/etc/otlp/ca.pem", Form::Text),
    set("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "exporters.otlp.main.tls.cert", "/etc/otlp/client.pem", Form::Text),
    set("OTEL_EXPORTER_OTLP_CLIENT_KEY", "exporters.otlp.main.tls.key", "/etc/otlp/client.key", Form::Text),
    set("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "exporters.otlp.main.endpoint", "http://metrics:4317", Form::Special),
    set("OTEL_EXPORTER_OTLP_METRICS_INSECURE", "exporters.otlp.main.endpoint", "true", Form::Special),
    set("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "exporters.otlp.main.protocol", "http/protobuf", PROTOCOL),
    set("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "exporters.otlp.main.headers", "x-tenant=7", Form::Special),
    set("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "exporters.otlp.main.compression", "none", COMPRESSION),
    set("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "exporters.otlp.main.timeout", "3000", Form::Milliseconds),
    set("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "exporters.otlp.main.tls.ca", "/etc/otlp/ca.pem", Form::Text),
    set(
        "OTEL_EXPORTER_OTLP_METRICS_CLIENT_CERTIFICATE",
        "exporters.otlp.main.tls.cert",
        "/etc/otlp/client.pem",
        Form::Text,
    ),
    set("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "exporters.otlp.main.tls.key", "/etc/otlp/client.key", Form::Text),
    set("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "exporters.otlp.main.temporality", "delta", TEMPORALITY),
    set(
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "exporters.otlp.main.histogram",
        "explicit_bucket_histogram",
        HISTOGRAM,
    ),
    set("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "exporters.otlp.logs.endpoint", "http://logs:4317", Form::Special),
    set("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "exporters.otlp.logs.endpoint", "true", Form::Special),
    set("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "exporters.otlp.logs.protocol", "http/protobuf", PROTOCOL),
    set("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "exporters.otlp.logs.headers", "x-tenant=7", Form::Special),
    set("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "exporters.otlp.logs.compression", "none", COMPRESSION),
    set("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "exporters.otlp.logs.timeout", "3000", Form::Milliseconds),
    set("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "exporters.otlp.logs.tls.ca", "/etc/otlp/ca.pem", Form::Text),
    set(
        "OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE",
        "exporters.otlp.logs.tls.cert",
        "/etc/otlp/client.pem",
        Form::Text,
    ),
    set("OTEL_EXPORTER_OTLP_LOGS_CLIENT_KEY", "exporters.otlp.logs.tls.key", "/etc/otlp/client.key", Form::Text),
    set("OTEL_BLRP_SCHEDULE_DELAY", "exporters.events.schedule_delay", "500", Form::Milliseconds),
    set("OTEL_BLRP_EXPORT_TIMEOUT", "exporters.events.export_timeout", "10000", Form::Milliseconds),
    set("OTEL_BLRP_MAX_QUEUE_SIZE", "exporters.events.queue", "4096", Form::Count),
    set("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "exporters.events.batch", "512", Form::Count),
    not(
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "values are aggregated in the kernel, where there are no exemplars",
        "always_off",
    ),
    not(
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "the specification exempts metrics, and the attributes of events are bounded already",
        "256",
    ),
    not(
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "the specification exempts metrics, and the attributes of events are a fixed set",
        "64",
    ),
    not("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "the attributes of events are bounded already", "256"),
    not("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "the attributes of events are a fixed set", "64"),
    not("OTEL_CONFIG_FILE", "it describes an SDK, not an agent; use --config", "/etc/otel.yaml"),
    not("OTEL_EXPERIMENTAL_CONFIG_FILE", "it describes an SDK, not an agent; use --config", "/etc/otel.yaml"),
    not(
        "OTEL_ENTITIES",
        "the entity is the node, which the agent finds out itself; use OTEL_RESOURCE_ATTRIBUTES",
        "host{host.id=1}",
    ),
    not("OTEL_SEMCONV_STABILITY_OPT_IN", "only stable conventions are used", "http"),
    traces("OTEL_PROPAGATORS", "tracecontext"),
    traces("OTEL_TRACES_EXPORTER", "otlp"),
    traces("OTEL_TRACES_SAMPLER", "always_on"),
    traces("OTEL_TRACES_SAMPLER_ARG", "0.5"),
    traces("OTEL_BSP_SCHEDULE_DELAY", "5000"),
    traces("OTEL_BSP_EXPORT_TIMEOUT", "30000"),
    traces("OTEL_BSP_MAX_QUEUE_SIZE", "2048"),
    traces("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"),
    traces("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "256"),
    traces("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "128"),
    traces("OTEL_SPAN_EVENT_COUNT_LIMIT", "128"),
    traces("OTEL_SPAN_LINK_COUNT_LIMIT", "128"),
    traces("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "128"),
    traces("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "128"),
    traces("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://zipkin:9411/api/v2/spans"),
    traces("OTEL_EXPORTER_ZIPKIN_TIMEOUT", "10000"),
    traces("OTEL_EXPORTER_OTLP_SPAN_INSECURE", "true"),
    traces("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317"),
    traces("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
    traces("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
    traces("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-tenant=7"),
    traces("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
    traces("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "10000"),
    traces("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/etc/otlp/ca.pem"),
    traces("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/etc/otlp/client.pem"),
    traces("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "/etc/otlp/client.key"),
    not(
        "OTEL_EXPORTER_OTLP_METRIC_INSECURE",
        "the specification dropped it; use OTEL_EXPORTER_OTLP_METRICS_INSECURE",
        "true",
    ),
];

/// Renders the table for docs/otel-variables.md.
pub fn otel_table() -> String {
    let mut text = String::from(
        "# OpenTelemetry variables\n\n\
        This page is generated from the table that drives the code (`crates/config/src/otel/table.rs`).\n\n\
        Precedence, key by key: `--set`, then `TELESONDE_*`, then files, then the variable of the signal, then the generic one, then the\n\
        default. Headers are one key: where a file sets any, those of the environment are ignored with a warning. The endpoint `main` is\n\
        created when `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` is set, or `OTEL_METRICS_EXPORTER` names\n\
        `otlp`; `logs` when a variable of logs differs. The generic endpoint gets `/v1/metrics` appended under `http/protobuf`, the one\n\
        of a signal is used as it is. A bare `HOST:PORT` is taken for gRPC, with TLS unless `INSECURE` is `true`. The default protocol is\n\
        `grpc`. An unknown word or a bad number is ignored with a warning, as the specification asks; a bad URL or header list is an error.\n\
        A variable that is set and not applicable gives one warning, those of traces none. The temporality `lowmemory` means\n\
        `cumulative`: an endpoint has one temporality, and kernel series are what the specification calls asynchronous.\n\n\
        | variable | status | key or reason | example |\n|---|---|---|---|\n",
    );
    for variable in OTEL_VARIABLES {
        let (status, detail) = match variable.status {
            Status::Honoured(key) if is_silent(key) => ("honoured", format!("`{key}`, without effect in this version")),
            Status::Honoured(key) => ("honoured", format!("`{key}`")),
            Status::NotApplicable(why) => ("not applicable because", why.to_owned()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{}` | {status} | {detail} | `{}` |", variable.name, variable.example);
    }
    text
}

/// Tells keys whose effect is still to come; what concerns logs waits for events as a whole.
fn is_silent(key: &str) -> bool {
    let events = inert::silent().any(|silent| silent == "exporters.events.otlp");
    inert::silent().any(|silent| silent == key) || (events && key.starts_with("exporters.otlp.logs."))
}

/// Reads `a=b,c=d` with percent-encoded values; the message never repeats a value, which may be secret.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()))
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| "it must be a list of name=value, separated by commas".to_owned())?;
        let decoded = decode(value).ok_or_else(|| format!("the value of {name} has a % that begins no valid code"))?;
        pairs.push((decode(name).unwrap_or_else(|| name.to_owned()), decoded));
    }
    Ok(pairs)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            bytes.push((digit(rest.next())? * 16 + digit(rest.next())?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_pairs_decode() {
        assert_eq!(
            pairs("a=b%20c, d=e=f ,"),
            Ok(vec![("a".to_owned(), "b c".to_owned()), ("d".to_owned(), "e=f".to_owned())])
        );
        for text in ["a", "=b", "a=%zz", "a=%2", "a=%ff"] {
            assert!(pairs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_table_names_each_variable_once() {
        for (i, variable) in OTEL_VARIABLES.iter().enumerate() {
            assert!(OTEL_VARIABLES[..i].iter().all(|other| other.name != variable.name), "{}", variable.name);
            assert!(!variable.example.is_empty());
        }
    }
}
