//! The admin socket: `/status` and `/cardinality` as JSON, kernel maps and programs as text, `/reload`, and the client that asks for them.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use enrich::kubernetes::Known;
use export::http::{Handler, Method, Request, Response, StatusCode};
use export::otlp;
use model::{Attributes, Points, Series, Snapshot};
use runtime::{Headroom, Manager};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};

use crate::cli::Format;
use crate::exit::{Exit, Failure};
use crate::reload::{Outcome, Wish};
use crate::sandbox::Sandbox;
use crate::table::Table;
use crate::{privileges, profile};

/// The most entries of a map that are shown.
const ENTRIES: usize = 65_536;

/// How long the running agent may take to answer, and to apply another configuration.
const LOOK: Duration = Duration::from_secs(5);
pub const RELOAD: Duration = Duration::from_mins(2);

/// What the socket answers from.
pub struct Admin {
    /// The integration manager.
    pub manager: Arc<Manager>,
    /// Enrichment's counts.
    pub workloads: Arc<enrich::Workloads>,
    /// How close the memory limit is.
    pub headroom: Arc<Headroom>,
    /// The identity of the agent and its node.
    pub identity: Identity,
    /// How far the process is confined.
    pub sandbox: Sandbox,
    /// Where wishes for a reload go.
    pub reload: mpsc::Sender<Wish>,
    /// What a reload may change.
    pub shown: Mutex<Shown>,
}

/// What a reload may change.
#[derive(Default)]
pub struct Shown {
    /// How each OTLP endpoint fares.
    pub endpoints: Vec<watch::Receiver<otlp::Status>>,
    /// The addresses that are listened on, by purpose.
    pub listeners: BTreeMap<&'static str, String>,
    /// What the configuration had warnings about.
    pub warnings: Vec<String>,
    /// What became of the last reload.
    pub reload: Option<Outcome>,
}

/// The identity of the agent and its node.
pub struct Identity {
    /// The attributes of the resource.
    pub resource: Arc<Attributes>,
    /// What the API server was asked for it.
    pub known: Vec<Known>,
}

#[async_trait]
impl Handler for Admin {
    async fn handle(&self, request: Request) -> Response {
        if request.path == "/reload" {
            return self.reload(&request.method).await;
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Response::method_not_allowed("GET, HEAD");
        }
        match request.path.as_str() {
            "/status" => Response::json(StatusCode::OK, crate::documents::pretty(&self.status())),
            "/cardinality" => {
                let body = self.manager.latest().map_or(Value::Null, |(_, snapshot)| cardinality(&snapshot));
                Response::json(StatusCode::OK, crate::documents::pretty(&body))
            }
            "/maps" => Response::text(StatusCode::OK, self.maps()),
            "/programs" => Response::text(StatusCode::OK, self.programs()),
            "/debug/pprof/profile" => match profile::take(&request.query).await {
                Ok(bytes) => Response::new(StatusCode::OK, "application/octet-stream", bytes),
                Err(error @ profile::Error::Seconds(_)) => {
                    Response::text(StatusCode::BAD_REQUEST, format!("{error}\n"))
                }
                Err(error) => Response::text(StatusCode::CONFLICT, format!("{error}\n")),
            },
            path => match path.strip_prefix("/maps/").and_then(|map| map.split_once('/')) {
                Some((collector, map)) => self.entries(path, collector, map),
                None => Response::not_found(
                    path,
                    "/status, /cardinality, /maps, /maps/COLLECTOR/MAP, /programs, /debug/pprof/profile or /reload",
                ),
            },
        }
    }
}

impl Admin {
    /// Gives what a reload may change.
    pub fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the configuration be read again, and waits for what becomes of it.
    async fn reload(&self, method: &Method) -> Response {
        if method != Method::POST {
            return Response::method_not_allowed("POST");
        }
        let (wish, answer) = oneshot::channel();
        let sent = self.reload.send(wish).await;
        let outcome = if sent.is_ok() { answer.await.ok() } else { None };
        match outcome {
            Some(outcome) => Response::json(StatusCode::OK, crate::documents::pretty(&outcome.json())),
            None => Response::text(StatusCode::SERVICE_UNAVAILABLE, "the agent is starting or stopping\n"),
        }
    }

    fn watches(&self) -> Vec<(&'static str, bpf::Watch)> {
        let watches = self.manager.watches();
        let watches = watches.read().unwrap_or_else(PoisonError::into_inner);
        let of =
            |(name, all): &(_, Vec<bpf::Watch>)| all.iter().map(|watch| (*name, watch.clone())).collect::<Vec<_>>();
        watches.iter().flat_map(of).collect()
    }

    /// Lists the maps of all collectors.
    fn maps(&self) -> String {
        let mut table = Table::new(["MAP", "KIND", "CAPACITY", "BYTES WHEN FULL"]);
        for (collector, watch) in self.watches() {
            for map in watch.maps() {
                let name = format!("{collector}/{}", map.name);
                table.row([name, map.kind.to_owned(), map.capacity.to_string(), map.memory.to_string()]);
            }
        }
        table.to_string()
    }

    /// Lists the programs of all collectors.
    fn programs(&self) -> String {
        let mut table = Table::new(["PROGRAM", "TYPE", "TAG", "VERIFIED", "MISSES"]);
        let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        for (collector, watch) in self.watches() {
            for program in watch.programs() {
                let (verified, misses) = (shown(program.verified.map(u64::from)), shown(program.misses));
                let name = format!("{collector}/{}", program.name);
                table.row([name, program.kind.to_owned(), program.tag, verified, misses]);
            }
        }
        table.to_string()
    }

    /// Gives the entries of a map.
    fn entries(&self, path: &str, collector: &str, map: &str) -> Response {
        let mut watches = self.watches().into_iter().filter(|(name, _)| *name == collector);
        match watches.find_map(|(_, watch)| watch.dump(map, ENTRIES)) {
            Some(Ok(entries)) => Response::text(StatusCode::OK, entries),
            Some(Err(error)) => {
                let message = format!("cannot read the map {map} of {collector}: {error}\n");
                Response::text(StatusCode::INTERNAL_SERVER_ERROR, message)
            }
            None => Response::not_found(path, "one of those that /maps lists"),
        }
    }

    fn status(&self) -> Value {
        let integrations: Vec<Value> = self
            .manager
            .status()
            .into_iter()
            .map(|status| {
                let watches = self.manager.watches();
                let watches = watches.read().unwrap_or_else(PoisonError::into_inner);
                let own = watches.iter().filter(|(name, _)| *name == status.name).flat_map(|(_, watches)| watches);
                let (programs, maps): (Vec<_>, Vec<_>) = own.map(|watch| (watch.programs(), watch.maps())).unzip();
                let program = |p: bpf::cost::ProgramCost| {
                    json!({"name": p.name, "type": p.kind, "tag": p.tag, "misses": p.misses, "verified": p.verified})
                };
                let map = |m: bpf::cost::MapCost| {
                    json!({"name": m.name, "kind": m.kind, "entries": m.used, "capacity": m.capacity, "bytes": m.memory})
                };
                json!({
                    "name": status.name,
                    "state": status.state.name(),
                    "why": status.state.why(),
                    "required": status.required,
                    "since": seconds(status.since),
                    "readings": status.readings,
                    "pins": status.kept,
                    "programs": programs.into_iter().flatten().map(program).collect::<Vec<_>>(),
                    "maps": maps.into_iter().flatten().map(map).collect::<Vec<_>>(),
                })
            })
            .collect();
        let gather = self.manager.latest().map(|(taken, snapshot)| {
            let series: usize = snapshot.families.iter().map(|family| series(&family.points).count()).sum();
            json!({
                "number": snapshot.number,
                "time": snapshot.time as f64 / 1e9,
                "age_seconds": taken.elapsed().as_secs_f64(),
                "series": series,
            })
        });
        let shown = self.shown();
        let endpoints: serde_json::Map<String, Value> =
            shown.endpoints.iter().map(|status| endpoint(&status.borrow())).collect();
        let stats = self.workloads.stats();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "capabilities": privileges::effective(),
            "sandbox": self.sandbox.json(),
            "listeners": shown.listeners,
            "integrations": integrations,
            "last_gather": gather,
            "memory": self.headroom.reading().map(|(used, limit)| {
                json!({"used": used, "limit": limit, "limit_is_close": self.headroom.is_close()})
            }),
            "otlp": endpoints,
            "enrichment": {
                "hits": stats.hits,
                "misses": misses(&stats),
                "hit_rate": hit_rate(&stats),
                "excluded": stats.excluded,
                "cgroups": stats.entries,
                "walks": stats.scans,
                "pods": stats.pods,
                "containers": stats.containers,
                "sources": sources(&self.workloads.sources()),
            },
            "resource": self.identity.attributes(),
            "resource_lacks": self.identity.lacks(),
            "warnings": shown.warnings,
            "reload": shown.reload.as_ref().map(Outcome::json),
        })
    }
}

impl Identity {
    fn attributes(&self) -> BTreeMap<&str, &str> {
        self.resource.pairs().iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect()
    }

    fn lacks(&self) -> BTreeMap<&str, &str> {
        self.known.iter().filter_map(|(key, uid)| Some((*key, uid.as_ref().err()?.as_str()))).collect()
    }
}

fn endpoint(status: &otlp::Status) -> (String, Value) {
    let how = json!({
        "url": status.url,
        "connected": status.connected,
        "last_success": status.last_success.map(seconds),
        "last_failure": status.last_failure.map(seconds),
        "last_error": status.last_error,
        "consecutive_failures": status.consecutive_failures,
    });
    (status.name.clone(), how)
}

/// Gives enrichment's misses by reason.
pub fn misses(stats: &enrich::Stats) -> BTreeMap<&'static str, u64> {
    enrich::Reason::ALL.iter().zip(stats.misses).map(|(reason, count)| (reason.as_str(), count)).collect()
}

/// Gives the share of look-ups that found their names, of those that did not have to wait; nothing before the first.
fn hit_rate(stats: &enrich::Stats) -> Option<f64> {
    let waiting = stats.misses[enrich::Reason::Pending as usize];
    let all = stats.hits + stats.misses.iter().sum::<u64>() - waiting;
    (all > 0).then(|| stats.hits as f64 / all as f64)
}

/// Gives how the sources of names fare.
fn sources(sources: &[enrich::Source]) -> BTreeMap<&'static str, Value> {
    let source = |source: &enrich::Source| {
        let state = &source.state;
        (source.name, json!({"state": state.name(), "why": state.why(), "errors": source.errors}))
    };
    sources.iter().map(source).collect()
}

/// Gives Unix seconds.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn series(points: &Points) -> Box<dyn Iterator<Item = &Arc<Series>> + '_> {
    match points {
        Points::Numbers(points) => Box::new(points.iter().map(|point| &point.series)),
        Points::Histogram { points, .. } => Box::new(points.iter().map(|point| &point.series)),
    }
}

/// Gives the number of series by metric and, within it, the number of values by label; the largest first.
fn cardinality(snapshot: &Snapshot) -> Value {
    let mut metrics: Vec<(usize, Value)> = Vec::new();
    for family in &snapshot.families {
        let mut labels: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        let mut count = 0;
        for series in series(&family.points) {
            count += 1;
            for pair in series.entity.pairs().iter().chain(series.dimensions.pairs()) {
                labels.entry(pair.key.as_str()).or_default().insert(pair.value.as_str());
            }
        }
        let labels: BTreeMap<_, _> = labels.into_iter().map(|(key, values)| (key, values.len())).collect();
        metrics.push((count, json!({"metric": family.metric.name, "series": count, "labels": labels})));
    }
    metrics.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    json!(metrics.into_iter().map(|(_, metric)| metric).collect::<Vec<_>>())
}

fn silent(socket: &Path, error: &std::io::Error) -> Failure {
    let message = format!(
        "no agent answers on {}: {error}; start one with `telesonde run`, or give the same admin.socket",
        socket.display()
    );
    Failure::new(Exit::Failure, message)
}

/// Asks the running agent for its kernel maps, or for the entries of one.
///
/// # Errors
/// Fails when no agent answers on the socket, or has no such map.
pub fn show_maps(socket: &Path, map: Option<&str>) -> Result<String, Failure> {
    let path = map.map_or_else(|| "/maps".to_owned(), |map| format!("/maps/{map}"));
    get(socket, &path).map_err(|error| silent(socket, &error))
}

/// Asks the running agent for its programs in the kernel.
///
/// # Errors
/// Fails when no agent answers on the socket.
pub fn show_programs(socket: &Path) -> Result<String, Failure> {
    get(socket, "/programs").map_err(|error| silent(socket, &error))
}

/// Asks the running agent for its cardinality and renders the answer.
///
/// # Errors
/// Fails when no agent answers on the socket.
pub fn show_cardinality(socket: &Path, format: Format) -> Result<String, Failure> {
    let body = get(socket, "/cardinality").map_err(|error| silent(socket, &error))?;
    if format == Format::Json {
        return Ok(body);
    }
    let all: Vec<Value> = serde_json::from_str(&body).unwrap_or_default();
    let mut table = Table::new(["METRIC", "SERIES", "VALUES BY LABEL"]);
    for metric in &all {
        let mut labels: Vec<(&String, u64)> = metric["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, count)| (key, count.as_u64().unwrap_or(0)))
            .collect();
        labels.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let labels: Vec<String> = labels.into_iter().map(|(key, count)| format!("{key} {count}")).collect();
        let name = metric["metric"].as_str().unwrap_or_default().to_owned();
        table.row([name, metric["series"].to_string(), labels.join(", ")]);
    }
    Ok(table.to_string())
}

/// Lets the running agent read its configuration again; gives what it says of that and the exit code.
///
/// # Errors
/// Fails when no agent answers on the socket.
pub fn reload(socket: &Path, format: Format) -> Result<(String, Exit), Failure> {
    let body = ask(socket, &Method::POST, "/reload", RELOAD).map_err(|error| silent(socket, &error))?;
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let code = answer["exit_code"].as_u64().unwrap_or(1);
    let exits = [Exit::Success, Exit::Configuration, Exit::Listen, Exit::Unable, Exit::Privileges];
    let exit = exits.into_iter().find(|exit| *exit as u64 == code).unwrap_or(Exit::Failure);
    if format == Format::Json {
        return Ok((body, exit));
    }
    let texts = |key: &str| -> Vec<String> {
        answer[key].as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut said = String::new();
    for error in texts("errors") {
        _ = writeln!(said, "{error}");
    }
    if exit != Exit::Success {
        said.push_str("nothing was changed\n");
    } else if texts("changed").is_empty() {
        said.push_str("nothing differs from what runs\n");
    }
    for key in texts("changed") {
        _ = writeln!(said, "applied: {key}");
    }
    for (name, state) in answer["collectors"].as_object().into_iter().flatten() {
        _ = writeln!(said, "collector {name}: {}", state.as_str().unwrap_or_default());
    }
    for key in texts("needs_restart") {
        _ = writeln!(said, "waits for a restart: {key}");
    }
    Ok((said, exit))
}

/// Asks the running agent for a profile of itself.
///
/// # Errors
/// Fails when no agent answers on the socket, or has no profile.
pub fn take_profile(socket: &Path, seconds: u64) -> Result<Vec<u8>, Failure> {
    let path = format!("/debug/pprof/profile?seconds={seconds}");
    fetch(socket, &Method::GET, &path, profile::PATIENCE).map_err(|error| silent(socket, &error))
}

/// Asks the admin socket for a path and gives the body.
pub fn get(socket: &Path, path: &str) -> std::io::Result<String> {
    ask(socket, &Method::GET, path, LOOK)
}

fn ask(socket: &Path, method: &Method, path: &str, patience: Duration) -> std::io::Result<String> {
    let body = fetch(socket, method, path, patience)?;
    String::from_utf8(body).map_err(std::io::Error::other)
}

fn fetch(socket: &Path, method: &Method, path: &str, patience: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: telesonde\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let body = answer.split_off(end);
    let head = String::from_utf8_lossy(&answer);
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 200 ") {
        return Ok(body);
    }
    let why = String::from_utf8_lossy(&body);
    let why = why.lines().next().map_or_else(String::new, |why| format!(": {why}"));
    Err(std::io::Error::other(format!("it answered `{status}`{why}")))
}
