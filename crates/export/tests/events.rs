//! Events as their sinks write them: golden lines in both modes, and log records at a receiver that tonic serves.

extern crate telesonde_export as export;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use export::events::{Account, Pace};
use export::otlp::logs::{Identity, Logs};
use export::otlp::{Options, Signal, retry};
use export::stdout;
use model::event::{
    Address, Carried, Change, Coming, Detail, DnsResponse, Ending, Event, Feed, Record, Refusal, RefusedFlow,
};
use model::{Attributes, Subject};
use opentelemetry::metrics::MeterProvider;
use opentelemetry::metrics::noop::NoopMeterProvider;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

const TIME: u64 = 1_703_764_800_000_000_000;

fn set(pairs: &[(&'static str, &'static str)]) -> Arc<Attributes> {
    Arc::new(Attributes::new(pairs.iter().map(|&(key, value)| (key.into(), value.into()))))
}

fn record(number: u64, command: &str, detail: Detail, workload: &Arc<Attributes>) -> Arc<Record> {
    let mut bytes = [0; 16];
    bytes[..command.len()].copy_from_slice(command.as_bytes());
    let event = Event { time: TIME + number, subject: Subject::Cgroup(7), pid: 1234, command: bytes, detail };
    Arc::new(Record { id: 0x1a2b_3c4d_5e6f_7890 + number, collector: "process", event, workload: Arc::clone(workload) })
}

/// One event of each kind.
fn events(workload: &Arc<Attributes>) -> Vec<Arc<Record>> {
    let address = |ip: &str, port| Address { ip: ip.parse().unwrap(), port };
    let connection = |change| {
        let port = if matches!(change, Change::Failed(_)) { 0 } else { 40000 };
        let (local, peer) = (address("10.244.1.5", port), address("142.250.191.14", 443));
        Detail::Connection { change, transport: "tcp", local, peer }
    };
    let v6 = Detail::Connection {
        change: Change::Accepted,
        transport: "tcp",
        local: address("2001:db8::1", 8080),
        peer: address("2001:db8::2", 50000),
    };
    let details = [
        connection(Change::Opened),
        v6,
        connection(Change::Failed("refused")),
        Detail::Exec { parent: 1, path: Some("/usr/bin/cu\"rl".into()) },
        Detail::Exec { parent: 1, path: None },
        Detail::Exit(Ending::Code(3)),
        Detail::Exit(Ending::Signal(9)),
        Detail::OomKill,
        Detail::DnsResponse(Box::new(DnsResponse {
            name: Some("www.test".into()),
            question: "AAAA",
            code: "NXDOMAIN",
            latency: 5_000_000,
            server: "10.96.0.10".parse().unwrap(),
            transport: "udp",
        })),
    ];
    details.into_iter().zip(0..).map(|(detail, number)| record(number, "curl", detail, workload)).collect()
}

fn lines(records: &[Arc<Record>], node: Option<&str>) -> String {
    let mut buffer = Vec::new();
    for record in records {
        stdout::line(record, node, &mut buffer).unwrap();
    }
    String::from_utf8(buffer).unwrap()
}

/// Compares with a golden file, or writes it where `TELESONDE_BLESS` is set.
fn golden(name: &str, found: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("TELESONDE_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap(), "{path}");
}

#[test]
fn lines_in_vm_mode_are_golden() {
    golden("events_vm.jsonl", &lines(&events(&set(&[("systemd.unit", "nginx.service")])), None));
    // The seed's own example, whole and in its order, is how a line begins.
    let example = concat!(
        r#"{"id":"1a2b3c4d5e6f7890","type":"connection","pid":1234,"command":"curl","timestamp":1703764800000000000,"#,
        r#""time":"2023-12-28T12:00:00.000000000Z","source_ip":"10.244.1.5","dest_ip":"142.250.191.14","dest_port":443"#,
    );
    assert!(lines(&events(&set(&[])), None).starts_with(example));
}

#[test]
fn lines_in_kubernetes_mode_are_golden() {
    let pod = set(&[
        ("k8s.namespace.name", "ebpf-system"),
        ("k8s.pod.name", "ebpf-monitor-abcde"),
        ("k8s.container.name", "monitor"),
    ]);
    golden("events_kubernetes.jsonl", &lines(&events(&pod), Some("worker-node-1")));
    let keys = [
        "id",
        "type",
        "pid",
        "command",
        "timestamp",
        "time",
        "k8s_node_name",
        "k8s_pod_name",
        "k8s_namespace",
        "source_ip",
        "dest_ip",
        "dest_port",
    ];
    let line = lines(&events(&pod)[..1], Some("worker-node-1"));
    let places: Vec<_> = keys.iter().map(|key| line.find(&format!("\"{key}\":")).expect(key)).collect();
    assert!(places.is_sorted(), "{line}");
}

/// Gives prepared batches, then ends.
#[derive(Debug)]
struct Batches(Mutex<VecDeque<Vec<Arc<Record>>>>);

impl Batches {
    fn new(batches: impl IntoIterator<Item = Vec<Arc<Record>>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(batches.into_iter().collect())))
    }
}

impl Feed for Batches {
    fn take(&self, _: usize, _: Duration) -> Coming<'_> {
        Box::pin(async { self.0.lock().unwrap().pop_front().unwrap_or_default() })
    }

    fn overflowed(&self) -> u64 {
        0
    }

    fn cut(&self) -> u64 {
        0
    }
}

const PACE: Pace = Pace { batch: 100, linger: Duration::ZERO, patience: Duration::from_secs(20) };

#[derive(Clone, Copy)]
enum Reply {
    Accept,
    Partial(i64),
    Unavailable,
    Refuse,
}

#[derive(Clone, Default)]
struct Receiver {
    requests: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    script: Arc<Mutex<VecDeque<Reply>>>,
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        assert_eq!(request.metadata().get("x-tenant").map(tonic::metadata::MetadataValue::as_bytes), Some(&b"7"[..]));
        let reply = self.script.lock().unwrap().pop_front().unwrap_or(Reply::Accept);
        let rejected = match reply {
            Reply::Unavailable => return Err(tonic::Status::unavailable("later")),
            Reply::Refuse => return Err(tonic::Status::invalid_argument("never")),
            Reply::Accept => 0,
            Reply::Partial(rejected) => rejected,
        };
        self.requests.lock().unwrap().push(request.into_inner());
        let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: String::new() };
        Ok(tonic::Response::new(ExportLogsServiceResponse { partial_success: Some(partial) }))
    }
}

impl Receiver {
    fn start(script: &[Reply]) -> (Self, SocketAddr) {
        let receiver = Self::default();
        receiver.script.lock().unwrap().extend(script);
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = incoming.local_addr().unwrap();
        let service = LogsServiceServer::new(receiver.clone()).accept_compressed(CompressionEncoding::Zstd);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        (receiver, address)
    }

    fn records(&self) -> Vec<LogRecord> {
        let requests = self.requests.lock().unwrap().clone();
        let resources = requests.into_iter().flat_map(|request| request.resource_logs);
        resources.flat_map(|resource| resource.scope_logs).flat_map(|scope| scope.log_records).collect()
    }
}

fn logs(address: SocketAddr, limit: usize) -> Logs {
    let mut options = Options::new("main", format!("http://{address}"));
    options.signal = Signal::Logs;
    options.headers = vec![("x-tenant".to_owned(), "7".to_owned())];
    options.retry = retry::Policy { initial: Duration::from_millis(1), max: Duration::from_millis(2) };
    options.request_limit = limit;
    let identity = Identity {
        resource: set(&[("service.name", "telesonde")]),
        version: "1.2.3".to_owned(),
        schema_url: "https://opentelemetry.io/schemas/1.0.0".to_owned(),
    };
    Logs::new(options, identity, &NoopMeterProvider::new().meter("test")).unwrap()
}

async fn deliver(address: SocketAddr, limit: usize, batches: Vec<Vec<Arc<Record>>>, pace: Pace) -> [u64; 3] {
    let account = Arc::new(Account::default());
    let (_stop, stopping) = watch::channel(false);
    logs(address, limit).run(Batches::new(batches), Arc::clone(&account), pace, stopping).await;
    account.outcomes().map(|(_, events)| events)
}

fn flat(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("neither text nor number: {other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

#[tokio::test]
async fn an_end_has_what_was_carried() {
    let (receiver, address) = Receiver::start(&[]);
    let of = |ip: &str, port| Address { ip: ip.parse().unwrap(), port };
    let change = Change::Closed(Carried { accepted: true, sent: 1500, received: 700, duration: 2_000_000 });
    let detail =
        Detail::Connection { change, transport: "udp", local: of("10.0.0.1", 80), peer: of("10.0.0.2", 40000) };
    let closed = record(0, "", detail, &set(&[]));
    let line = lines(&[Arc::clone(&closed)], None);
    let expected = r#""source_ip":"10.0.0.2","dest_ip":"10.0.0.1","dest_port":80,"source_port":40000,"state":"closed","bytes_sent":1500,"bytes_received":700,"duration_ns":2000000,"transport":"udp"#;
    assert!(line.contains(expected), "{line}");
    assert_eq!(deliver(address, 1 << 20, vec![vec![closed]], PACE).await, [1, 0, 0]);
    let log = flat(receiver.records()[0].attributes.clone());
    let keys = ["bytes_sent", "bytes_received", "duration_ns"].map(|key| format!("connection.{key}"));
    let keys = keys.iter().map(String::as_str).chain(["network.connection.change", "network.transport"]);
    assert_eq!(keys.map(|key| &*log[key]).collect::<Vec<_>>(), ["1500", "700", "2000000", "closed", "udp"]);
}

#[tokio::test]
async fn log_records_have_names_severities_and_attributes() {
    let (receiver, address) = Receiver::start(&[]);
    let sent = events(&set(&[("systemd.unit", "nginx.service")]));
    assert_eq!(deliver(address, 1 << 20, vec![sent.clone()], PACE).await, [sent.len() as u64, 0, 0]);
    let request = receiver.requests.lock().unwrap()[0].clone();
    let [resource] = &request.resource_logs[..] else { panic!("not one resource") };
    let of_agent = flat(resource.resource.clone().unwrap().attributes);
    assert_eq!(of_agent["service.name"], "telesonde");
    let scope = resource.scope_logs[0].scope.clone().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("telesonde.process", "1.2.3"));

    let records = receiver.records();
    let names: Vec<_> = records.iter().map(|log| log.event_name.as_str()).collect();
    let connections = ["connection"; 3];
    let others = ["process.exec", "process.exec", "process.exit", "process.exit", "oom_kill", "dns.response"];
    assert_eq!(names, [&connections[..], &others[..]].concat());
    let severities: Vec<_> = records.iter().map(|log| log.severity_text.as_str()).collect();
    assert_eq!(severities, ["INFO", "INFO", "WARN", "INFO", "INFO", "INFO", "WARN", "ERROR", "INFO"]);
    assert!(records.iter().zip(TIME..).all(|(log, time)| log.time_unix_nano == time));
    let failed = flat(records[2].attributes.clone());
    let expected = [
        ("error.type", "refused"),
        ("event.id", "1a2b3c4d5e6f7892"),
        ("network.connection.change", "failed"),
        ("network.local.address", "10.244.1.5"),
        ("network.peer.address", "142.250.191.14"),
        ("network.peer.port", "443"),
        ("network.transport", "tcp"),
        ("network.type", "ipv4"),
        ("process.executable.name", "curl"),
        ("process.pid", "1234"),
        ("systemd.unit", "nginx.service"),
    ];
    assert_eq!(failed, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    assert_eq!(flat(records[3].attributes.clone())["process.executable.path"], "/usr/bin/cu\"rl");
    assert_eq!(flat(records[5].attributes.clone())["process.exit.code"], "3");
    let dns = flat(records[8].attributes.clone());
    let keys =
        ["dns.question.name", "dns.question.type", "dns.response_code", "dns.latency_ns", "network.peer.address"];
    assert_eq!(keys.map(|key| dns[key].as_str()), ["www.test", "AAAA", "NXDOMAIN", "5000000", "10.96.0.10"]);
}

#[tokio::test]
async fn the_account_closes_whatever_the_receiver_says() {
    let script = [Reply::Unavailable, Reply::Unavailable, Reply::Partial(3), Reply::Refuse, Reply::Accept];
    let (receiver, address) = Receiver::start(&script);
    let batch = events(&set(&[]));
    let accounts = deliver(address, 1 << 20, vec![batch.clone(), batch.clone(), batch.clone()], PACE).await;
    assert_eq!(accounts, [6 + 9, 3 + 9, 0], "of three batches of nine");
    assert_eq!(receiver.records().len(), 18);
}

#[tokio::test]
async fn a_batch_too_large_goes_in_parts_and_in_order() {
    let (receiver, address) = Receiver::start(&[]);
    let workload = set(&[]);
    let batch: Vec<_> = (0..100).map(|number| record(number, "x", Detail::OomKill, &workload)).collect();
    assert_eq!(deliver(address, 2000, vec![batch], PACE).await, [100, 0, 0]);
    assert!(receiver.requests.lock().unwrap().len() > 1);
    assert!(receiver.records().iter().zip(TIME..).all(|(log, time)| log.time_unix_nano == time));
    assert_eq!(receiver.records().len(), 100);
    assert_eq!(deliver(address, 10, vec![events(&workload)], PACE).await, [0, 9, 0], "even alone too large");
}

#[tokio::test]
async fn what_a_dead_receiver_does_not_get_is_counted() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let pace = Pace { patience: Duration::from_millis(20), ..PACE };
    let batch = events(&set(&[]));
    assert_eq!(deliver(address, 1 << 20, vec![batch.clone(), batch], pace).await, [0, 0, 18]);
}

/// A disk that is full once its room is used up, and has room again after the first failure.
struct Disk {
    room: [usize; 2],
    taken: Arc<Mutex<Vec<u8>>>,
}

impl std::io::Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(self.room[0]);
        if count == 0 {
            self.room = [self.room[1], 0];
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.room[0] -= count;
        self.taken.lock().unwrap().extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_what_it_did_not_take() {
    let batch = events(&set(&[]));
    let whole = lines(&batch, None);
    for room in [0, 1, whole.len() / 2, whole.len() - 1] {
        let (account, taken) = (Arc::new(Account::default()), Arc::<Mutex<Vec<u8>>>::default());
        let disk = Disk { room: [room, 1 << 20], taken: Arc::clone(&taken) };
        let batches = Batches::new([batch.clone(), batch.clone()]);
        stdout::start(batches, Arc::clone(&account), PACE, None, disk).unwrap().await.unwrap();
        let taken = String::from_utf8(std::mem::take(&mut *taken.lock().unwrap())).unwrap();
        let read = taken.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count() as u64;
        let cut = u64::from(room > 0 && !whole[room - 1..=room].contains('\n'));
        assert_eq!(taken.lines().count() as u64, read + cut, "what was cut off stands alone");
        let written = whole[..=room].matches('\n').count() as u64;
        assert_eq!(account.outcomes().map(|(_, events)| events), [written + 9, 0, 9 - written], "{room} bytes");
        assert_eq!(read, written + 9);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_taken_are_counted() {
    let batch = events(&set(&[]));
    let account = Arc::new(Account::default());
    let end = stdout::start(Batches::new([batch]), Arc::clone(&account), PACE, None, std::io::sink()).unwrap();
    end.await.unwrap();
    assert_eq!(account.outcomes().map(|(_, events)| events), [9, 0, 0]);
}

#[tokio::test]
async fn a_refused_flow_has_both_ends_and_its_reason() {
    let flow = RefusedFlow {
        refusal: Refusal::Denied,
        reason: "POLICY_DENIED".into(),
        source: Some(Address { ip: "10.0.0.1".parse().unwrap(), port: 40_000 }),
        destination: Some(Address { ip: "10.0.0.2".parse().unwrap(), port: 80 }),
        peer: "shop/web-1".into(),
        direction: "ingress",
        transport: "tcp",
        node: "node-1".into(),
    };
    let sent = record(0, "", Detail::Flow(Box::new(flow)), &set(&[("k8s.pod.name", "api-2")]));
    let line: serde_json::Value = serde_json::from_str(&lines(&[Arc::clone(&sent)], Some("worker-1"))).unwrap();
    let keys =
        ["type", "source_ip", "dest_ip", "reason", "direction", "peer", "reported_by", "k8s_pod_name", "severity"];
    let found = keys.map(|key| line[key].as_str().unwrap());
    let expected =
        ["hubble.policy", "10.0.0.1", "10.0.0.2", "POLICY_DENIED", "ingress", "shop/web-1", "node-1", "api-2", "WARN"];
    assert_eq!(found, expected);
    assert_eq!((&line["source_port"], &line["dest_port"]), (&40_000.into(), &80.into()));
    let (receiver, address) = Receiver::start(&[]);
    assert_eq!(deliver(address, 1 << 20, vec![vec![sent]], PACE).await, [1, 0, 0]);
    let log = flat(receiver.records()[0].attributes.clone());
    let keys = ["reason", "source.address", "source.port", "destination.address", "peer.name", "k8s.node.name"];
    assert_eq!(
        keys.map(|key| log[key].as_str()),
        ["POLICY_DENIED", "10.0.0.1", "40000", "10.0.0.2", "shop/web-1", "node-1"]
    );
}
