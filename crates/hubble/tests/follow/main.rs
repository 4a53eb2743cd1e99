//! A client against a server that plays a script: every end of a stream, TLS, and what looks like an end but is none.

mod ends;
mod secured;
mod silence;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use telesonde_hubble::messages::{GetFlowsRequest, ServerStatus};
use telesonde_hubble::server::messages::Flow;
use telesonde_hubble::server::{Player, Script, Setup};
use telesonde_hubble::{Address, Failure, Kind, Options, Sink, follow};
use tokio::task::JoinHandle;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client has got so far.
#[derive(Debug, Default)]
struct Seen {
    messages: Vec<Bytes>,
    connected: u32,
    ends: Vec<(Kind, String)>,
}

#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Seen>>);

impl Sink for Notes {
    fn message(&mut self, message: Bytes) {
        self.0.lock().unwrap().messages.push(message);
    }

    fn connected(&mut self, status: &ServerStatus) {
        assert_eq!(status.version, "v0.0.0-player");
        self.0.lock().unwrap().connected += 1;
    }

    fn ended(&mut self, failure: &Failure) {
        self.0.lock().unwrap().ends.push((failure.kind, failure.to_string()));
    }
}

/// A client that follows until it is dropped.
struct Client {
    notes: Notes,
    task: JoinHandle<()>,
}

impl Client {
    fn start(options: Options) -> Self {
        let notes = Notes::default();
        let mut sink = notes.clone();
        Self { notes, task: tokio::spawn(async move { follow(options, &mut sink).await }) }
    }

    /// Waits until something has been seen.
    async fn until<T>(&self, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        let looking = async {
            loop {
                if let Some(found) = look(&self.notes.0.lock().unwrap()) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("{what}: {:?}", self.notes.0.lock().unwrap()))
    }

    /// Waits until so many messages have come.
    async fn messages(&self, count: usize) {
        self.until(&format!("{count} messages"), |seen| (seen.messages.len() >= count).then_some(())).await;
    }

    /// Waits for the first end; gives its kind and what is said of it.
    async fn end(&self) -> (Kind, String) {
        self.until("an end", |seen| seen.ends.first().cloned()).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Options for tests: quick to ask, quick to come back.
fn options(address: SocketAddr) -> Options {
    let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
    let pauses = (Duration::from_millis(10), Duration::from_millis(50));
    Options { pauses, ..Options::new(address, GetFlowsRequest::follow()) }
}

fn play(setup: Setup, script: Script) -> (Player, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (Player::tcp(listener, setup, script), address)
}

/// Gives a message that can be told from others.
fn message(number: usize) -> Bytes {
    Flow { uuid: format!("flow-{number}"), ..Flow::default() }.response()
}
