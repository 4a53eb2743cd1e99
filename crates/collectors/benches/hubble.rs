//! Flows a second that one core carries from the socket to counters, beside a bare tonic client that only decodes them,
//! and the memory of many pairs of workloads. The server is a process of its own on another CPU; what counts is the CPU
//! time of this process.

#[path = "../tests/hubble/flows.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod flows;
#[path = "../../../benches/measure.rs"]
#[expect(dead_code, reason = "shared with the other benches")]
mod measure;
#[path = "../tests/hubble/world.rs"]
#[expect(dead_code, reason = "shared with the tests")]
mod world;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use flows::{dns, flow, http, l7, pod, remote, reply, seen, tcp, udp};
use hubble::messages::{GET_FLOWS, GetFlowsRequest};
use hubble::server::Setup;
use hubble::server::messages::{Endpoint, Flow, GetFlowsResponse};
use rustix::thread::ClockId::ProcessCPUTime as CLOCK;
use serde_json::json;

/// Flows of one round.
const FLOWS: usize = 400_000;
/// Pairs of workloads whose memory is asked for.
const PAIRS: usize = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "serve") {
        return serve(&arguments[at + 1]);
    }
    measure::pin(measure::cpus().0)?;
    let rounds = if measure::pairs() == 3 { 1 } else { 5 };
    println!("One core, rounds of {FLOWS} flows, medians of the process's CPU time; the server is on another CPU");
    println!("{:<52} {:>10} {:>12} {:>8}", "", "ns/flow", "flows/s", "dropped");
    let mut medians = Vec::new();
    for script in ["whole", "masked"] {
        let (mut bare, mut all, mut dropped) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            bare.push(decode_only(&Server::start(script)?)?);
            let (time, lost) = collect(&Server::start(script)?);
            all.push(time);
            dropped += lost;
        }
        for (what, times, lost) in
            [("a bare tonic client decodes", bare, 0), ("from the socket to counters", all, dropped)]
        {
            let mut each: Vec<f64> = times.iter().map(|time| time.as_nanos() as f64 / FLOWS as f64).collect();
            let each = measure::median(&mut each);
            println!("{:<52} {each:>10.0} {:>12.0} {lost:>8}", format!("{what}, {script} flows"), 1e9 / each);
            medians.push(each);
        }
    }
    println!(
        "times the bare client: {:.2} whole, {:.2} masked (goal: 0.7)",
        medians[0] / medians[1],
        medians[2] / medians[3]
    );
    let before = measure::memory(std::process::id(), "VmRSS").unwrap_or_default();
    let server = Server::start("pairs")?;
    let world = start(&server, 20_000);
    let readings = world.settled(PAIRS as u64);
    let after = measure::memory(std::process::id(), "VmRSS").unwrap_or_default();
    println!(
        "{PAIRS} pairs of workloads, 20000 series at most: {:.1} MB (goal: 80)",
        after.saturating_sub(before) as f64 / 1e6
    );
    let flows = readings.iter().filter(|(name, _)| name.starts_with("hubble_flows_total"));
    let (mut own, mut overflow) = ((0, 0.0), 0.0);
    for (name, count) in flows {
        if name.contains("otel.metric.overflow") {
            overflow += count;
        } else {
            own = (own.0 + 1, own.1 + count);
        }
    }
    println!("of {PAIRS} flows {:.0} in {} series of their own, {overflow:.0} in the overflow series", own.1, own.0);
    Ok(())
}

/// A server in a process of its own.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(script: &str) -> Result<Self, Box<dyn Error>> {
        let mut child =
            Command::new(std::env::current_exe()?).args(["serve", script]).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(script: &str) -> Result<(), Box<dyn Error>> {
    measure::pin(measure::cpus().1)?;
    let messages = match script {
        "pairs" => pairs(),
        script => repeated(&kinds(script == "masked")),
    };
    let runtime = world::runtime();
    let (_player, address) = world::play(&runtime, Setup::default(), world::once(messages));
    println!("{address}");
    std::thread::sleep(Duration::from_mins(10));
    Ok(())
}

fn repeated(kinds: &[Bytes]) -> Vec<Bytes> {
    kinds.iter().cycle().take(FLOWS).cloned().collect()
}

/// A mixture as a busy node sees it: mostly packets, some requests and names.
fn kinds(masked: bool) -> Vec<Bytes> {
    let labels = |mut endpoint: Endpoint| {
        endpoint.labels.extend((0..6).map(|n| format!("k8s:label-number-{n}.example.com/key=some-value-{n}")));
        endpoint
    };
    let mut all = Vec::new();
    for n in 0..64 {
        let (web, api) = (labels(pod("shop", &format!("web-{n}"), n)), labels(remote("shop", "api")));
        let between = || flow(web.clone(), api.clone(), i64::from(n));
        for _ in 0..3 {
            all.push(seen(tcp(between(), (40_000 + n, 80), "A"), 3, 2));
            all.push(seen(reply(tcp(between(), (80, 40_000 + n), "AP")), 101, 3));
        }
        all.push(seen(tcp(between(), (40_000 + n, 80), "S"), 3, 1));
        all.push(seen(tcp(between(), (40_000 + n, 80), "FA"), 3, 2));
        all.push(udp(between()));
        all.push(l7(between(), 1, 0, http("GET", "http://api/cart", 0, "HTTP/1.1", &[])));
        all.push(l7(reply(between()), 2, 5_000_000, http("GET", "http://api/cart", 200, "HTTP/1.1", &[])));
        all.push(l7(udp(between()), 1, 0, dns(&["A"], 0)));
    }
    // What the field mask leaves out.
    let rest = |flow: Flow| Flow {
        uuid: "0b9a4a3e-7f8e-4c3b-9c43-2f7a6a1d9f10".to_owned(),
        source_names: vec!["web.shop.svc.cluster.local".to_owned()],
        destination_names: vec!["api.shop.svc.cluster.local".to_owned()],
        ..flow
    };
    all.into_iter().map(|flow| if masked { flow } else { rest(flow) }.response()).collect()
}

fn pairs() -> Vec<Bytes> {
    let side = PAIRS.isqrt() + 1;
    let name = |n: usize| format!("workload-number-{n}");
    let pair = |n: usize| {
        let (a, b) = (n / side, n % side);
        udp(flow(pod("shop", &name(a), a as u32), pod("bank", &name(b), b as u32), 0)).response()
    };
    (0..PAIRS).map(pair).collect()
}

/// Measures a client that decodes every message and does nothing with it.
fn decode_only(server: &Server) -> Result<Duration, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (time, read) = measure::timed(CLOCK, || {
        runtime.block_on(async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address))?;
            let mut client = tonic::client::Grpc::new(endpoint.connect().await?);
            client.ready().await?;
            let codec = tonic_prost::ProstCodec::<GetFlowsRequest, GetFlowsResponse>::default();
            let request = tonic::Request::new(GetFlowsRequest::follow());
            let mut stream = client.server_streaming(request, GET_FLOWS.parse()?, codec).await?.into_inner();
            for _ in 0..FLOWS {
                std::hint::black_box(stream.message().await?);
            }
            Ok::<_, Box<dyn Error>>(())
        })
    });
    read.map(|()| time)
}

fn start(server: &Server, series: usize) -> world::World {
    let keys = json!({"max_flows_per_second": 10_000_000, "flow_buffer_size": 65_536, "max_series": series});
    world::World::start(&server.address, &keys)
}

/// Measures the collector with everything on; gives how many flows it dropped, too.
fn collect(server: &Server) -> (Duration, u64) {
    let (time, readings) = measure::timed(CLOCK, || start(server, 20_000).settled(FLOWS as u64));
    let counted = world::outcome(&readings, "counted", "");
    (time, FLOWS as u64 - counted)
}
