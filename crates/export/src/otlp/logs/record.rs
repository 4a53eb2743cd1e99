//! One event as a log record, with the keys of the semantic conventions where they have one.

use std::time::{Duration, SystemTime};

use model::event::{Change, Detail, Ending, Record, Severity};
use opentelemetry::logs::{AnyValue, LogRecord, Logger};
use opentelemetry_sdk::logs::{SdkLogRecord, SdkLogger};

/// Makes the log record of an event.
pub(super) fn make(logger: &SdkLogger, record: &Record) -> SdkLogRecord {
    let event = &record.event;
    let mut log = logger.create_log_record();
    log.set_event_name(event.kind().name());
    log.set_timestamp(SystemTime::UNIX_EPOCH + Duration::from_nanos(event.time));
    log.set_observed_timestamp(SystemTime::now());
    log.set_severity_text(event.severity().name());
    log.set_severity_number(match event.severity() {
        Severity::Info => opentelemetry::logs::Severity::Info,
        Severity::Warn => opentelemetry::logs::Severity::Warn,
        Severity::Error => opentelemetry::logs::Severity::Error,
    });
    log.add_attribute("event.id", format!("{:016x}", record.id));
    if event.pid != 0 {
        log.add_attribute("process.pid", i64::from(event.pid));
        log.add_attribute("process.executable.name", event.command().into_owned());
    }
    detail(&mut log, &event.detail);
    for pair in record.workload.pairs() {
        log.add_attribute(pair.key.as_str().to_owned(), pair.value.as_str().to_owned());
    }
    log
}

fn detail(log: &mut SdkLogRecord, detail: &Detail) {
    let mut add = |key: &'static str, value: AnyValue| log.add_attribute(key, value);
    match detail {
        Detail::Exec { parent, path } => {
            add("process.parent_pid", i64::from(*parent).into());
            if let Some(path) = path {
                add("process.executable.path", path.to_string().into());
            }
        }
        Detail::Exit(Ending::Code(code)) => add("process.exit.code", i64::from(*code).into()),
        Detail::Exit(Ending::Signal(signal)) => add("process.exit.signal", i64::from(*signal).into()),
        Detail::OomKill => {}
        Detail::Connection { change, transport, local, peer } => {
            add("network.connection.change", change.name().into());
            add("network.transport", (*transport).into());
            add("network.type", if peer.ip.is_ipv6() { "ipv6" } else { "ipv4" }.into());
            add("network.local.address", local.ip.to_string().into());
            if local.port != 0 {
                add("network.local.port", i64::from(local.port).into());
            }
            add("network.peer.address", peer.ip.to_string().into());
            add("network.peer.port", i64::from(peer.port).into());
            match change {
                Change::Failed(reason) => add("error.type", (*reason).into()),
                Change::Closed(carried) => {
                    for (key, value) in [
                        ("connection.bytes_sent", carried.sent),
                        ("connection.bytes_received", carried.received),
                        ("connection.duration_ns", carried.duration),
                    ] {
                        add(key, i64::try_from(value).unwrap_or(i64::MAX).into());
                    }
                }
                Change::Opened | Change::Accepted => {}
            }
        }
        Detail::Flow(flow) => {
            add("reason", flow.reason.to_string().into());
            add("direction", flow.direction.into());
            add("peer.name", flow.peer.to_string().into());
            add("k8s.node.name", flow.node.to_string().into());
            if !flow.transport.is_empty() {
                add("network.transport", flow.transport.into());
            }
            for (address, port, end) in [
                ("source.address", "source.port", flow.source),
                ("destination.address", "destination.port", flow.destination),
            ] {
                let Some(end) = end else { continue };
                add(address, end.ip.to_string().into());
                if end.port != 0 {
                    add(port, i64::from(end.port).into());
                }
            }
        }
        Detail::Throttle(throttle) => {
            add("collector", throttle.collector.into());
            add("step", throttle.step.into());
            add("reason", throttle.reason.to_string().into());
        }
        Detail::DnsResponse(response) => {
            if let Some(name) = &response.name {
                add("dns.question.name", name.to_string().into());
            }
            add("dns.question.type", response.question.into());
            add("dns.response_code", response.code.into());
            add("dns.latency_ns", i64::try_from(response.latency).unwrap_or(i64::MAX).into());
            add("network.transport", response.transport.into());
            add("network.type", if response.server.is_ipv6() { "ipv6" } else { "ipv4" }.into());
            add("network.peer.address", response.server.to_string().into());
        }
    }
}
