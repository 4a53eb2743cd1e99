//! Everything through which telemetry and status leave: begun, set up otherwise and ended as the configuration says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use config::Config;
use export::http::{Limits, Listener, Server};
use export::otlp::{Endpoint, Remains};
use export::{health, otlp, prometheus};
use model::Source;
use opentelemetry::metrics::Meter;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::Admin;
use crate::exit::{Exit, Failure};
use crate::shutdown::stopped;
use crate::wiring;

/// A listener that is served.
struct Served<O> {
    options: O,
    listener: Listener,
    stop: watch::Sender<bool>,
}

/// A listener that is to be served.
struct Fresh<O> {
    options: O,
    listener: Listener,
    server: Server,
}

/// An endpoint that is pushed to.
struct Pusher {
    options: otlp::Options,
    flush: Duration,
    stop: watch::Sender<bool>,
    task: JoinHandle<Remains>,
}

/// All of them.
pub struct Outlets {
    source: Arc<dyn Source>,
    meter: Meter,
    ready: Arc<dyn health::Ready>,
    admin: Arc<Admin>,
    prometheus: Option<Served<prometheus::Options>>,
    health: Option<Served<std::net::SocketAddr>>,
    remote: Option<Served<std::net::SocketAddr>>,
    socket: watch::Sender<bool>,
    pushers: BTreeMap<String, Pusher>,
    servers: JoinSet<()>,
}

impl Outlets {
    /// Binds all listeners and starts all readers.
    ///
    /// # Errors
    /// Fails with the first that cannot be had.
    pub fn start(
        config: &Config,
        source: Arc<dyn Source>,
        meter: &Meter,
        ready: Arc<dyn health::Ready>,
        admin: Arc<Admin>,
    ) -> Result<Self, Failure> {
        let mut outlets = Self {
            source,
            meter: meter.clone(),
            ready,
            admin,
            prometheus: None,
            health: None,
            remote: None,
            socket: watch::Sender::new(false),
            pushers: BTreeMap::new(),
            servers: JoinSet::new(),
        };
        outlets.apply(config)?;
        // It comes last: who finds it finds everything.
        let socket = Listener::unix(&config.admin.socket, "admin.socket").map_err(unheard)?;
        let server = asked(socket, &outlets.admin).map_err(unheard)?;
        serve(&mut outlets.servers, server, outlets.socket.subscribe());
        Ok(outlets)
    }

    /// Starts what the configuration has and is not there, ends what is there and it has not. A listener whose address
    /// stays keeps its socket, an endpoint that is set up otherwise goes on from what its receiver has acknowledged.
    ///
    /// # Errors
    /// Fails with the first that cannot be had; then nothing is changed.
    pub fn apply(&mut self, config: &Config) -> Result<(), Failure> {
        let prometheus = wiring::prometheus(config)?;
        let fresh = prometheus.as_ref().map(|options| {
            let make = |listener| prometheus::server(listener, options.clone(), Arc::clone(&self.source), &self.meter);
            let known = self.prometheus.as_ref().map(|served| (served.options.listen, served));
            prepare(options, (options.listen, "exporters.prometheus.listen"), known, make)
        });
        let fresh = fresh.transpose()?.flatten();
        let listen = config.health.listen;
        let known = self.health.as_ref().map(|served| (served.options, served));
        let make = |listener| health::server(listener, Arc::clone(&self.ready));
        let probes = prepare(&listen, (listen, "health.listen"), known, make)?;
        let remote = config.admin.listen.map(|address| {
            let known = self.remote.as_ref().map(|served| (served.options, served));
            let make = |listener| asked(listener, &self.admin);
            prepare(&address, (address, "admin.listen"), known, make)
        });
        let remote = remote.transpose()?.flatten();
        let flush = flush_time(config.shutdown_timeout);
        let wanted = wiring::endpoints(config);
        let mut endpoints = Vec::new();
        for options in &wanted {
            let known = self.pushers.get(&options.name);
            if known.is_none_or(|pusher| pusher.options != *options || pusher.flush != flush) {
                let endpoint = Endpoint::new(options.clone(), Arc::clone(&self.source), &self.meter)
                    .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
                endpoints.push((options.clone(), endpoint));
            }
        }

        // From here on nothing fails.
        begin(&mut self.servers, &mut self.prometheus, prometheus.is_some(), fresh);
        begin(&mut self.servers, &mut self.health, true, probes);
        begin(&mut self.servers, &mut self.remote, config.admin.listen.is_some(), remote);
        for (name, pusher) in self.pushers.extract_if(.., |name, _| !wanted.iter().any(|options| options.name == *name))
        {
            self.admin.shown().endpoints.retain(|status| status.borrow().name != name);
            pusher.stop.send_replace(true);
            self.servers.spawn(async move { drop(pusher.task.await) });
        }
        for (options, endpoint) in endpoints {
            self.push(options, endpoint, flush);
        }
        let address = |listener: &Listener| listener.local_addr().map(|address| address.to_string());
        let listeners = [
            ("prometheus", self.prometheus.as_ref().and_then(|served| address(&served.listener))),
            ("health", self.health.as_ref().and_then(|served| address(&served.listener))),
        ];
        self.admin.shown().listeners =
            listeners.into_iter().filter_map(|(name, address)| Some((name, address?))).collect();
        Ok(())
    }

    /// Says where telemetry is to be had, a line each.
    pub fn places(&self) -> Vec<String> {
        let mut places = Vec::new();
        if let Some(Served { options, listener, .. }) = &self.prometheus
            && let Some(address) = listener.local_addr()
        {
            let scheme = if options.tls.is_some() { "https" } else { "http" };
            places.push(format!("scrape {scheme}://{address}{}", options.path));
        }
        for (name, Pusher { options, .. }) in &self.pushers {
            places.push(format!("push {name} to {} every {:?}", options.endpoint, options.interval));
        }
        if self.pushers.is_empty() {
            places.push("push over OTLP: off until exporters.otlp.main.endpoint is set".to_owned());
        }
        places
    }

    /// Starts an endpoint, in the place of the one of its name if there is one.
    fn push(&mut self, options: otlp::Options, endpoint: Endpoint, flush: Duration) {
        let name = options.name.clone();
        let (stop, stopping) = watch::channel(false);
        let mut shown = self.admin.shown();
        shown.endpoints.retain(|status| status.borrow().name != name);
        shown.endpoints.push(endpoint.status());
        drop(shown);
        let before = self.pushers.remove(&name);
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.stop.send_replace(true);
                if let Ok(remains) = before.task.await {
                    endpoint.inherit(remains);
                }
            }
            endpoint.run(stopped(stopping), flush).await
        });
        self.pushers.insert(name, Pusher { options, flush, stop, task });
    }

    /// Ends everything, each endpoint with a last export; waits until all is done.
    pub async fn finish(mut self) {
        self.socket.send_replace(true);
        let listeners = [&self.health, &self.remote].into_iter().flatten().map(|served| &served.stop);
        for stop in listeners.chain(self.prometheus.as_ref().map(|served| &served.stop)) {
            stop.send_replace(true);
        }
        for pusher in self.pushers.values() {
            pusher.stop.send_replace(true);
        }
        for pusher in std::mem::take(&mut self.pushers).into_values() {
            drop(pusher.task.await);
        }
        while self.servers.join_next().await.is_some() {}
    }
}

/// Makes a server of the admin interface: what is asked there may take as long as collectors take to attach.
fn asked(listener: Listener, admin: &Arc<Admin>) -> Result<Server, export::http::Error> {
    let limits = Limits { request_time: crate::admin::RELOAD.max(crate::profile::PATIENCE), ..Limits::default() };
    Server::new(listener, None, Arc::clone(admin) as _, Arc::new(()), limits)
}

/// Makes a server unless the one that is there is set up just so.
fn prepare<O: Clone + PartialEq>(
    options: &O,
    (address, key): (std::net::SocketAddr, &str),
    known: Option<(std::net::SocketAddr, &Served<O>)>,
    make: impl FnOnce(Listener) -> Result<Server, export::http::Error>,
) -> Result<Option<Fresh<O>>, Failure> {
    let listener = match known {
        Some((_, served)) if served.options == *options => return Ok(None),
        Some((before, served)) if before == address => again(&served.listener)?,
        _ => Listener::tcp(address, key).map_err(unheard)?,
    };
    let server = make(again(&listener)?).map_err(unheard)?;
    Ok(Some(Fresh { options: options.clone(), listener, server }))
}

/// Puts a server in the place of another, or ends one that is no longer wanted.
fn begin<O>(servers: &mut JoinSet<()>, place: &mut Option<Served<O>>, wanted: bool, fresh: Option<Fresh<O>>) {
    if fresh.is_none() && wanted {
        return;
    }
    if let Some(before) = place.take() {
        before.stop.send_replace(true);
    }
    if let Some(Fresh { options, listener, server }) = fresh {
        let (stop, stopping) = watch::channel(false);
        serve(servers, server, stopping);
        *place = Some(Served { options, listener, stop });
    }
}

fn serve(servers: &mut JoinSet<()>, server: Server, stopping: watch::Receiver<bool>) {
    servers.spawn(async move {
        if let Err(error) = server.run(stopped(stopping)).await {
            tracing::error!("{error}");
        }
    });
}

fn again(listener: &Listener) -> Result<Listener, Failure> {
    listener.again().map_err(|error| Failure::new(Exit::Listen, format!("no descriptor for a listener: {error}")))
}

#[expect(clippy::needless_pass_by_value, reason = "it stands where errors are mapped")]
fn unheard(error: export::http::Error) -> Failure {
    Failure::new(Exit::Listen, error.to_string())
}

/// Leaves a little of the deadline for detaching.
fn flush_time(deadline: Duration) -> Duration {
    deadline.saturating_sub(deadline / 10)
}
