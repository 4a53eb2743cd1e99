//! Lists, watches, and begins again: from where the watch ended, or with a list when the server has forgotten that.

use std::collections::HashSet;
use std::future::{Future, pending};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{Client, Trouble, chain};
use super::lines::Lines;
use super::pod::{self, Event, List, Status, Versioned};
use crate::{State, Workloads};

/// The pause after the first failure, and what pauses grow to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the server lets a watch be, give or take a tenth, so that the watches of many nodes do not end together.
const WATCH_SECONDS: f64 = 260.0;
/// A watch that shows no sign of life for so long is dead: the server sends a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(150);
/// The largest object: etcd holds less than 2 MiB of it in a denser form.
const OBJECT_LIMIT: usize = 16 << 20;

/// How a source of names tells how it fares.
#[derive(Clone)]
pub(super) struct Account {
    pub workloads: Arc<Workloads>,
    /// The name of the source.
    pub source: &'static str,
}

impl Account {
    pub fn report(&self, state: State) {
        self.workloads.report(self.source, state);
    }

    /// Counts what went wrong; says whether it is the first of its type.
    pub fn fail(&self, kind: &'static str) -> bool {
        self.workloads.fail(self.source, kind)
    }

    /// Counts what the server should not have sent; the first of its type is logged.
    pub fn wrong(&self, kind: &'static str, what: &str) {
        if self.fail(kind) {
            tracing::warn!("names from {}: {what}; further ones are only counted", self.source);
        }
    }
}

/// What is listed and watched, and what becomes of it.
pub(super) trait Resource: Send {
    /// What the API calls it.
    const NAME: &'static str;
    /// Its path.
    const PATH: &'static str;

    /// Gives which of it are wanted; without a field selector all are.
    fn selector(&self) -> Option<String> {
        None
    }

    /// Takes over what an object is now, or was last; gives its key.
    fn take(&mut self, object: &str, gone: bool, client: &Client) -> Option<String>;

    /// Forgets what is not among these keys.
    fn keep(&mut self, listed: &HashSet<String>);

    /// Notes that a list or watch failed.
    fn fail(&mut self) {}

    /// Gives the state while the watch runs.
    fn state(&self) -> State {
        State::Running
    }

    /// Does what else there is to do in the meantime; it may be dropped unfinished.
    fn idle(&mut self) -> impl Future<Output = ()> + Send {
        pending()
    }
}

/// Follows a resource.
pub(super) struct Follower<R> {
    kubeconfig: Option<PathBuf>,
    account: Account,
    resource: R,
}

impl<R: Resource> Follower<R> {
    pub fn new(kubeconfig: Option<PathBuf>, account: Account, resource: R) -> Self {
        Self { kubeconfig, account, resource }
    }

    pub async fn run(mut self) {
        let (mut client, mut version, mut failures) = (None, None, 0_u32);
        self.account.report(State::Starting);
        loop {
            let begun = Instant::now();
            let ended = self.turn(&mut client, &mut version, &mut failures).await;
            let pause = match ended {
                // As long as the server lets a watch be.
                Ok(()) if begun.elapsed() > PAUSES.0 => Duration::ZERO,
                Ok(()) => PAUSES.0,
                Err((what, trouble)) => {
                    self.account.fail(trouble.kind());
                    match trouble {
                        Trouble::Refused(410, _) => version = None,
                        _ => self.complain(trouble.explain(what, R::NAME)),
                    }
                    if matches!(trouble, Trouble::Refused(401, _) | Trouble::Configuration(_)) {
                        // Credentials are read anew: they may have been replaced.
                        client = None;
                    }
                    failures = failures.saturating_add(1);
                    pause(failures, random())
                }
            };
            self.sleep(pause).await;
        }
    }

    fn complain(&mut self, why: String) {
        self.account.report(State::Degraded(why));
        self.resource.fail();
    }

    /// Lists where that is due and watches until the watch ends. Tells what could not be done, and why.
    async fn turn(
        &mut self,
        client: &mut Option<Client>,
        version: &mut Option<String>,
        failures: &mut u32,
    ) -> Result<(), (&'static str, Trouble)> {
        if client.is_none() {
            let made = Client::new(self.kubeconfig.as_deref()).await;
            *client = Some(made.map_err(|trouble| ("reach", trouble))?);
        }
        let Some(client) = client.clone() else { return Ok(()) };
        if version.is_none() {
            let body =
                client.list(R::PATH, self.resource.selector().as_deref()).await.map_err(|trouble| ("list", trouble))?;
            *version = Some(self.take_list(&body, &client).map_err(|trouble| ("list", trouble))?);
        }
        let from = version.clone().unwrap_or_default();
        let seconds = (WATCH_SECONDS * (0.9 + 0.2 * random())) as u32;
        let selector = self.resource.selector();
        let body = client.watch(R::PATH, selector.as_deref(), &from, seconds).await;
        let body = body.map_err(|trouble| ("watch", trouble))?;
        *failures = 0;
        self.account.report(self.resource.state());
        self.take_watch(body, version, &client).await.map_err(|trouble| ("watch", trouble))
    }

    /// Takes over a list; gives its version.
    fn take_list(&mut self, body: &[u8], client: &Client) -> Result<String, Trouble> {
        let list: List<'_> = serde_json::from_slice(body)
            .map_err(|error| Trouble::Foreign(format!("its list of {} is none: {}", R::NAME, chain(&error))))?;
        let Some(version) = list.metadata.resource_version else {
            return Err(Trouble::Foreign(format!("its list of {} has no version", R::NAME)));
        };
        let items = list.items.unwrap_or_default();
        let listed: HashSet<String> =
            items.iter().filter_map(|item| self.resource.take(item.get(), false, client)).collect();
        self.resource.keep(&listed);
        tracing::debug!(number = listed.len(), version, "listed {}", R::NAME);
        Ok(version)
    }

    async fn take_watch(
        &mut self,
        mut body: Body,
        version: &mut Option<String>,
        client: &Client,
    ) -> Result<(), Trouble> {
        let mut lines = Lines::new(OBJECT_LIMIT);
        loop {
            let frame = tokio::select! {
                () = self.resource.idle() => continue,
                frame = timeout(SILENCE, body.frame()) => frame,
            };
            let silent = |_| Trouble::Unreachable(format!("the watch was silent for {} s", SILENCE.as_secs()));
            let Some(frame) = frame.map_err(silent)? else { return Ok(()) };
            let frame = frame.map_err(|error| Trouble::Unreachable(chain(&error)))?;
            if let Ok(data) = frame.into_data() {
                lines.push(&data, |line| self.take_event(line, version, client))?;
            }
        }
    }

    fn take_event(
        &mut self,
        line: Option<&[u8]>,
        version: &mut Option<String>,
        client: &Client,
    ) -> Result<(), Trouble> {
        let Some(line) = line else {
            self.account.wrong("oversized", &format!("an object of more than {OBJECT_LIMIT} bytes"));
            return Ok(());
        };
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let event: Event<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            Err(error) => {
                self.account.wrong("malformed", &format!("an event that cannot be read: {}", chain(&error)));
                return Ok(());
            }
        };
        let object = event.object.get();
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => drop(self.resource.take(object, false, client)),
            "DELETED" => drop(self.resource.take(object, true, client)),
            "BOOKMARK" => {}
            "ERROR" => {
                let status: Status = serde_json::from_str(object).unwrap_or_default();
                return Err(Trouble::Refused(status.code, pod::value(&status.message)));
            }
            other => self.account.wrong("malformed", &format!("an event of the type {}", pod::value(other))),
        }
        if let Ok(Versioned { metadata }) = serde_json::from_str(object)
            && let Some(new) = metadata.resource_version
        {
            *version = Some(new);
        }
        Ok(())
    }

    async fn sleep(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = self.resource.idle() => {}
                () = sleep_until(until) => return,
            }
        }
    }
}

/// Gives how long to wait after so many failures in a row: by half at random, so that many agents do not ask together.
fn pause(failures: u32, random: f64) -> Duration {
    let pause = PAUSES.0 * 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    pause.min(PAUSES.1).mul_f64(1.0 - 0.5 * random)
}

/// Gives a random number between 0 and 1.
fn random() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_are_scattered() {
        let millis = |failures, random| pause(failures, random).as_millis();
        let grown = [1, 2, 3, 6, 7, 100, u32::MAX].map(|failures| millis(failures, 0.0));
        assert_eq!(grown, [500, 1000, 2000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!([0.0, 0.5, 1.0].map(|random| millis(2, random)), [1000, 750, 500]);
        let drawn: BTreeSet<u64> = (0..100).map(|_| random().to_bits()).collect();
        assert!(drawn.len() > 90 && (0..100).all(|_| (0.0..=1.0).contains(&random())));
    }
}
