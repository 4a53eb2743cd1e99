//! An API server of Kubernetes, as much of it as an agent may ask for: the pods of a node and the services of the
//! cluster, listed from the cache and watched, the metadata of owners, and Leases. Whatever else is asked for fails the test. What it refuses, and how it ends a
//! watch, it says as a real one was heard to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::leases::Leases;
use super::recorded::recorded;

/// The node whose pods are asked for.
pub const NODE: &str = "worker-1";
const PODS: &str = "/api/v1/pods";
/// What is asked for of the whole cluster.
pub const SERVICES: &str = "/api/v1/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// What is answered in place of what was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    /// Nothing: connections are closed as soon as they are made.
    Closed,
    /// Something else.
    Answers(u16, &'static str, String),
    /// What a real one said, by the name of the record.
    Recorded(&'static str),
}

#[derive(Default)]
struct State {
    version: u64,
    /// By the path of the resource and the name.
    objects: BTreeMap<(&'static str, String), Value>,
    /// What has happened to which resource, as lines of a watch.
    events: Vec<(u64, &'static str, Vec<u8>)>,
    /// What came before is forgotten.
    oldest: u64,
    owners: BTreeMap<String, Value>,
    leases: Leases,
    forbidden: BTreeSet<String>,
    requests: Vec<String>,
    mood: Option<Mood>,
    /// Watches that began before the last cut end.
    cuts: u64,
    /// Watches stop in the middle of what they have to tell.
    held: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

/// A running API server; it ends with the process.
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl ApiServer {
    /// Listens on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::<Shared>::default());
        shared.state().version = 1000;
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || while serve(&stream, &server).is_some() {});
            }
        });
        Self { address, shared }
    }

    /// Writes a kubeconfig into a directory; gives its path.
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "agent", "user": {"token": "secret"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
        });
        let path = directory.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Makes or changes a pod.
    pub fn put(&self, mut pod: Value) {
        pod["spec"]["nodeName"] = json!(NODE);
        self.put_at(PODS, pod);
    }

    /// Makes or changes an object of a resource.
    pub fn put_at(&self, path: &'static str, mut object: Value) {
        let mut state = self.shared.state();
        let version = state.next();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let before = state.objects.insert((path, object["metadata"]["name"].to_string()), object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.happen(version, path, &json!({"type": kind, "object": object}).to_string());
        self.shared.news.notify_all();
    }

    /// Changes a pod that exists.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = self.shared.state().objects[&(PODS, json!(name).to_string())].clone();
        change(&mut pod);
        self.put(pod);
    }

    /// Deletes a pod.
    pub fn delete(&self, name: &str) {
        self.delete_at(PODS, name);
    }

    /// Deletes an object of a resource.
    pub fn delete_at(&self, path: &'static str, name: &str) {
        let mut state = self.shared.state();
        let version = state.next();
        let mut object = state.objects.remove(&(path, json!(name).to_string())).unwrap();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.happen(version, path, &json!({"type": "DELETED", "object": object}).to_string());
        self.shared.news.notify_all();
    }

    /// Sends a line to all watches of pods, whatever it is.
    pub fn send(&self, line: &str) {
        let mut state = self.shared.state();
        let version = state.next();
        state.happen(version, PODS, line);
        self.shared.news.notify_all();
    }

    /// Sends a bookmark: all that has happened so far need not be told again.
    pub fn bookmark(&self) {
        let version = self.shared.state().version + 1;
        let watch = recorded("watch").body;
        let mut bookmark: Value = serde_json::from_str(watch.lines().last().unwrap()).unwrap();
        assert_eq!(bookmark["type"], "BOOKMARK");
        bookmark["object"]["metadata"]["resourceVersion"] = json!(version.to_string());
        self.send(&bookmark.to_string());
    }

    /// Has the pods of a recorded list, at its version.
    pub fn replay(&self, list: &str) {
        let list: Value = serde_json::from_str(&recorded(list).body).unwrap();
        let mut state = self.shared.state();
        state.version = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        for pod in list["items"].as_array().unwrap() {
            state.objects.insert((PODS, pod["metadata"]["name"].to_string()), pod.clone());
        }
    }

    /// Forgets all that has happened so far.
    pub fn compact(&self) {
        let mut state = self.shared.state();
        state.version += 10;
        state.oldest = state.version;
        state.events.clear();
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.shared.state().cuts += 1;
        self.shared.news.notify_all();
    }

    /// Lets all watches stop in the middle of what comes next, or go on.
    pub fn hold(&self, held: bool) {
        self.shared.state().held = held;
        self.shared.news.notify_all();
    }

    /// Answers in this way from now on, and ends all watches.
    pub fn be(&self, mood: Option<Mood>) {
        self.shared.state().mood = mood;
        self.cut();
    }

    /// Makes something that owns pods, by the path of its resource.
    pub fn put_owner(&self, path: &str, owner: Option<(&str, &str, &str)>) {
        let references = owner.map(|(api, kind, name)| {
            json!([{"apiVersion": api, "kind": kind, "name": name, "uid": "top", "controller": true}])
        });
        let name = path.rsplit('/').next().unwrap();
        let metadata = json!({"name": name, "namespace": "shop", "uid": path, "ownerReferences": references});
        self.shared
            .state()
            .owners
            .insert(path.to_owned(), json!({"kind": "PartialObjectMetadata", "metadata": metadata}));
    }

    /// Gives what the holder of a Lease has noted in it.
    pub fn note(&self, lease: &str) -> Option<String> {
        self.shared.state().leases.note(lease)
    }

    /// Gives who holds a Lease.
    pub fn holder(&self, lease: &str) -> Option<String> {
        self.shared.state().leases.holder(lease)
    }

    /// Denies what is below a path.
    pub fn forbid(&self, path: &str) {
        self.shared.state().forbidden.insert(path.to_owned());
    }

    /// Denies nothing any more.
    pub fn allow_all(&self) {
        self.shared.state().forbidden.clear();
    }

    /// Gives the requests so far that have a part in common with this.
    pub fn requests(&self, part: &str) -> Vec<String> {
        self.shared.state().requests.iter().filter(|request| request.contains(part)).cloned().collect()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn happen(&mut self, version: u64, path: &'static str, line: &str) {
        self.events.push((version, path, [line, "\n"].concat().into_bytes()));
    }
}

/// Answers one request; nothing when the connection has ended.
fn serve(stream: &TcpStream, shared: &Shared) -> Option<()> {
    if shared.state().mood == Some(Mood::Closed) {
        return None;
    }
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.replace("%3D", "=").replace("%2F", "/");
    let mut words = head.split(' ');
    let method = words.next()?;
    let (path, query) = words.next().map(|target| target.split_once('?').unwrap_or((target, "")))?;
    assert!(head.to_ascii_lowercase().contains("authorization: bearer secret"), "{head}");
    let parameter = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let watches = parameter("watch") == Some("true");
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let mut state = shared.state();
    state.requests.push(format!("{} {path}?{query}", if watches { "WATCH" } else { method }));
    match state.mood.clone() {
        Some(Mood::Answers(code, content, body)) => {
            drop(state);
            return answer(stream, code, content, &body);
        }
        Some(Mood::Recorded(name)) => {
            drop(state);
            return say(stream, name);
        }
        Some(Mood::Closed) | None => {}
    }
    if state.forbidden.iter().any(|denied| path.starts_with(denied)) {
        drop(state);
        return say(stream, "forbidden");
    }
    if Leases::has(path) {
        let version = state.next();
        let (code, object) = state.leases.answer(method, path, &body, version);
        drop(state);
        return answer(stream, code, "application/json", &object.to_string());
    }
    assert_eq!(method, "GET", "{head}");
    let Some(path) = [PODS, SERVICES, SLICES].into_iter().find(|known| *known == path) else {
        assert!(head.contains("as=PartialObjectMetadata"), "{head}");
        let owner = state.owners.get(path).cloned();
        drop(state);
        return match owner {
            Some(owner) => answer(stream, 200, "application/json", &owner.to_string()),
            None => say(stream, "owner_missing"),
        };
    };
    let of_node = format!("spec.nodeName={NODE}");
    assert_eq!(parameter("fieldSelector"), (path == PODS).then_some(&*of_node), "{head}");
    let from = parameter("resourceVersion").unwrap();
    if !watches {
        assert_eq!((from, parameter("limit")), ("0", None), "{head}");
        let of_path = state.objects.iter().filter(|((at, _), _)| *at == path);
        let items: Vec<&Value> = of_path.map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": state.version.to_string()});
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string();
        drop(state);
        return answer(stream, 200, "application/json", &list);
    }
    assert_eq!(parameter("allowWatchBookmarks"), Some("true"), "{head}");
    let next = from.parse::<u64>().unwrap() + 1;
    watch(stream, shared, state, path, next)
}

/// Tells of what happens from a version on, until the connection ends or the watch is cut.
fn watch<'a>(
    mut stream: &TcpStream,
    shared: &'a Shared,
    mut state: MutexGuard<'a, State>,
    path: &str,
    mut next: u64,
) -> Option<()> {
    let cuts = state.cuts;
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        .ok()?;
    if next <= state.oldest {
        drop(state);
        chunk(stream, format!("{}\n", recorded("watch_too_old").body).as_bytes())?;
        return chunk(stream, b"");
    }
    loop {
        let due = state.events.iter().filter(|(version, of, _)| *version >= next && *of == path);
        let due: Vec<u8> = due.flat_map(|(.., line)| line.clone()).collect();
        (next, state) = (state.version + 1, state);
        let ended = state.cuts != cuts;
        if !due.is_empty() {
            let (first, rest) = due.split_at(if state.held { due.len() / 2 } else { due.len() });
            drop(state);
            chunk(stream, first)?;
            state = shared.state();
            while state.held {
                let waited = shared.news.wait_timeout(state, Duration::from_millis(100));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            drop(state);
            if !rest.is_empty() {
                chunk(stream, rest)?;
            }
            state = shared.state();
        } else if ended {
            drop(state);
            chunk(stream, b"")?;
            return None;
        } else {
            let waited = shared.news.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if is_closed(stream) {
                return None;
            }
        }
    }
}

/// Answers as a real server did.
fn say(stream: &TcpStream, name: &str) -> Option<()> {
    let recorded = recorded(name);
    answer(stream, recorded.code, &recorded.content, &recorded.body)
}

fn answer(mut stream: &TcpStream, code: u16, content: &str, body: &str) -> Option<()> {
    let head = format!("HTTP/1.1 {code} X\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()
}

fn chunk(mut stream: &TcpStream, bytes: &[u8]) -> Option<()> {
    write!(stream, "{:x}\r\n", bytes.len()).ok()?;
    stream.write_all(bytes).and_then(|()| stream.write_all(b"\r\n")).ok()
}

fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}
