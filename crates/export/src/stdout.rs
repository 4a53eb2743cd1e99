//! Events as JSON lines: the keys of the first seed document, in its order, then what else is known.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::Attributes;
use model::event::{Change, Detail, Ending, Feed, Record};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::events::{Account, Pace};

/// The keys of a workload that have places of their own.
const PLACED: [&str; 2] = ["k8s.pod.name", "k8s.namespace.name"];

/// One line.
#[derive(Serialize)]
struct Line<'r> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    pid: u32,
    command: Cow<'r, str>,
    timestamp: u64,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s_node_name: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s_pod_name: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    k8s_namespace: Option<&'r str>,
    #[serde(flatten)]
    detail: Own<'r>,
    severity: &'static str,
    #[serde(flatten)]
    workload: Rest<'r>,
}

/// What only some events have.
#[derive(Default, Serialize)]
struct Own<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dest_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    question_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reported_by: Option<&'r str>,
}

impl<'r> Own<'r> {
    fn new(detail: &'r Detail) -> Self {
        match detail {
            Detail::Exec { parent, path } => {
                Self { path: path.as_deref(), parent_pid: Some(*parent), ..Self::default() }
            }
            Detail::Exit(Ending::Code(code)) => Self { exit_code: Some(*code), ..Self::default() },
            Detail::Exit(Ending::Signal(signal)) => Self { signal: Some(*signal), ..Self::default() },
            Detail::OomKill => Self::default(),
            Detail::Flow(flow) => Self {
                source_ip: flow.source.map(|end| end.ip),
                dest_ip: flow.destination.map(|end| end.ip),
                dest_port: flow.destination.map(|end| end.port).filter(|&port| port != 0),
                source_port: flow.source.map(|end| end.port).filter(|&port| port != 0),
                transport: Some(flow.transport).filter(|transport| !transport.is_empty()),
                reason: Some(&flow.reason),
                direction: Some(flow.direction),
                peer: Some(&*flow.peer).filter(|peer| !peer.is_empty()),
                reported_by: Some(&*flow.node).filter(|node| !node.is_empty()),
                ..Self::default()
            },
            Detail::Throttle(throttle) => Self {
                of: Some(throttle.collector),
                step: Some(throttle.step),
                reason: Some(&throttle.reason),
                ..Self::default()
            },
            Detail::DnsResponse(response) => Self {
                dest_ip: Some(response.server),
                name: response.name.as_deref(),
                question_type: Some(response.question),
                response_code: Some(response.code),
                latency_ns: Some(response.latency),
                transport: Some(response.transport),
                ..Self::default()
            },
            Detail::Connection { change, transport, local, peer } => {
                let (error, carried) = match change {
                    Change::Failed(reason) => (Some(*reason), None),
                    Change::Closed(carried) => (None, Some(carried)),
                    Change::Opened | Change::Accepted => (None, None),
                };
                let accepted = carried.map_or(*change == Change::Accepted, |carried| carried.accepted);
                let (source, destination) = if accepted { (peer, local) } else { (local, peer) };
                Self {
                    source_ip: Some(source.ip),
                    dest_ip: Some(destination.ip),
                    dest_port: Some(destination.port),
                    source_port: Some(source.port).filter(|&port| port != 0),
                    state: Some(change.name()),
                    transport: Some(transport),
                    error,
                    bytes_sent: carried.map(|carried| carried.sent),
                    bytes_received: carried.map(|carried| carried.received),
                    duration_ns: carried.map(|carried| carried.duration),
                    ..Self::default()
                }
            }
        }
    }
}

/// The workload's attributes that have no place of their own, with underscores as in Prometheus.
struct Rest<'r>(&'r Attributes);

impl Serialize for Rest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for pair in self.0.pairs().iter().filter(|pair| !PLACED.contains(&pair.key.as_str())) {
            map.serialize_entry(&model::name::label(pair.key.as_str()), pair.value.as_str())?;
        }
        map.end()
    }
}

/// Appends an event's line. `node` is the Kubernetes node, where there is one.
///
/// # Errors
/// Fails when the buffer cannot be written to, which memory can.
pub fn line(record: &Record, node: Option<&str>, buffer: &mut Vec<u8>) -> serde_json::Result<()> {
    let event = &record.event;
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(event.time);
    let line = Line {
        id: format!("{:016x}", record.id),
        kind: event.kind().name(),
        pid: event.pid,
        command: event.command(),
        timestamp: event.time,
        time: humantime::format_rfc3339_nanos(time).to_string(),
        k8s_node_name: node,
        k8s_pod_name: record.workload.get("k8s.pod.name"),
        k8s_namespace: record.workload.get("k8s.namespace.name"),
        detail: Own::new(&event.detail),
        severity: event.severity().name(),
        workload: Rest(&record.workload),
    };
    serde_json::to_writer(&mut *buffer, &line)?;
    buffer.push(b'\n');
    Ok(())
}

/// Writes all events until the feed ends, on a thread of its own: whoever reads the output may stop reading.
/// The answer comes when the last event is written.
///
/// # Errors
/// Fails when the system gives no thread.
pub fn start(
    feed: Arc<dyn Feed>,
    account: Arc<Account>,
    pace: Pace,
    node: Option<String>,
    mut output: impl Write + Send + 'static,
) -> io::Result<oneshot::Receiver<()>> {
    let runtime = Handle::current();
    let (done, end) = oneshot::channel();
    std::thread::Builder::new().name("events".to_owned()).spawn(move || {
        let mut buffer = Vec::new();
        let (mut broken, mut torn) = (false, false);
        loop {
            let records = runtime.block_on(feed.take(pace.batch, pace.linger));
            if records.is_empty() {
                // Nobody may wait for it.
                let _ = done.send(());
                return;
            }
            buffer.clear();
            let encoded = records.iter().try_for_each(|record| line(record, node.as_deref(), &mut buffer));
            let (whole, result) = match encoded {
                Ok(()) => put(&mut output, &mut torn, &buffer),
                Err(error) => (0, Err(error.into())),
            };
            account.delivered(whole);
            if let Err(error) = result {
                account.failed(records.len() - whole);
                if !std::mem::replace(&mut broken, true) {
                    tracing::warn!(
                        "events cannot be written to standard output: {error}; further ones are only counted"
                    );
                }
            }
        }
    })?;
    Ok(end)
}

/// Writes lines; gives how many the output took whole, and what kept it from taking all.
fn put(output: &mut impl Write, torn: &mut bool, lines: &[u8]) -> (usize, io::Result<()>) {
    // What is left of a line that a full disk has cut off stays alone.
    if *torn && let Err(error) = output.write_all(b"\n") {
        return (0, Err(error));
    }
    *torn = false;
    let (mut rest, mut result) = (lines, Ok(()));
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => result = Err(error),
        }
        if result.is_err() {
            break;
        }
    }
    let taken = &lines[..lines.len() - rest.len()];
    *torn = taken.last().is_some_and(|&byte| byte != b'\n');
    // One that lacks nothing but its end gets that with the next one.
    let ended = usize::from(*torn && rest.first() == Some(&b'\n'));
    let whole = taken.split(|&byte| byte == b'\n').count() - 1 + ended;
    (whole, result.and_then(|()| output.flush()))
}
