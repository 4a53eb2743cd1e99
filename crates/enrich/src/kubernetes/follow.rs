//! Lists, watches, and begins again: from where the watch ended, or with a list when the server has forgotten that.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use model::Text;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{Client, Trouble, chain};
use super::lines::Lines;
use super::owner::{self, Owner, Owners, Told};
use super::pod::{self, Event, List, Metadata, Object, Status, Versioned};
use super::{KUBERNETES, Kubernetes};
use crate::{Kind, Pod, State, Workloads};

/// The pause after the first failure, and what pauses grow to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the server lets a watch be, give or take a tenth, so that the watches of many nodes do not end together.
const WATCH_SECONDS: f64 = 260.0;
/// A watch that shows no sign of life for so long is dead: the server sends a bookmark each minute.
const SILENCE: Duration = Duration::from_secs(150);
/// The largest object: etcd holds less than 2 MiB of it in a denser form.
const OBJECT_LIMIT: usize = 16 << 20;
/// How many owners are asked for at once.
const ASKED_AT_ONCE: usize = 4;
/// How long an owner may take: its pods wait.
const OWNER_PATIENCE: Duration = Duration::from_secs(3);

/// A pod that waits for what its owner belongs to.
struct Held {
    pod: Pod,
    gone: bool,
}

/// What became of a question for an owner.
struct Asked {
    uid: String,
    resource: &'static str,
    answer: Result<Owner, Trouble>,
    fallback: Owner,
}

/// Follows the pods of a node.
pub(super) struct Follower {
    options: Kubernetes,
    workloads: Arc<Workloads>,
    owners: Owners,
    held: HashMap<String, Vec<Held>>,
    answers: (mpsc::UnboundedSender<Asked>, mpsc::UnboundedReceiver<Asked>),
    questions: Arc<Semaphore>,
    /// Resources that the agent may not get.
    forbidden: BTreeSet<&'static str>,
    listed: bool,
}

impl Follower {
    pub fn new(options: Kubernetes, workloads: Arc<Workloads>) -> Self {
        Self {
            options,
            workloads,
            owners: Owners::default(),
            held: HashMap::new(),
            answers: mpsc::unbounded_channel(),
            questions: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
            forbidden: BTreeSet::new(),
            listed: false,
        }
    }

    pub async fn run(mut self) {
        let (mut client, mut version, mut failures) = (None, None, 0_u32);
        self.workloads.report(KUBERNETES, State::Starting);
        loop {
            let begun = Instant::now();
            let ended = self.turn(&mut client, &mut version, &mut failures).await;
            let pause = match ended {
                // As long as the server lets a watch be.
                Ok(()) if begun.elapsed() > PAUSES.0 => Duration::ZERO,
                Ok(()) => PAUSES.0,
                Err((what, trouble)) => {
                    self.workloads.fail(KUBERNETES, trouble.kind());
                    match trouble {
                        Trouble::Refused(410, _) => version = None,
                        _ => self.complain(trouble.explain(what, "pods")),
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

    /// Says that something is wrong; nobody waits for names before there have been any.
    fn complain(&self, why: String) {
        self.workloads.report(KUBERNETES, State::Degraded(why));
        if !self.listed {
            self.workloads.expect(Kind::Pods, false);
        }
    }

    /// Lists where that is due and watches until the watch ends. Tells what could not be done, and why.
    async fn turn(
        &mut self,
        client: &mut Option<Client>,
        version: &mut Option<String>,
        failures: &mut u32,
    ) -> Result<(), (&'static str, Trouble)> {
        if client.is_none() {
            let made = Client::new(self.options.kubeconfig.as_deref()).await;
            *client = Some(made.map_err(|trouble| ("reach", trouble))?);
        }
        let Some(client) = client.clone() else { return Ok(()) };
        if version.is_none() {
            let body = client.list(&self.options.node).await.map_err(|trouble| ("list", trouble))?;
            *version = Some(self.take_list(&body, &client).map_err(|trouble| ("list", trouble))?);
        }
        let from = version.clone().unwrap_or_default();
        let seconds = (WATCH_SECONDS * (0.9 + 0.2 * random())) as u32;
        let body = client.watch(&self.options.node, &from, seconds).await.map_err(|trouble| ("watch", trouble))?;
        *failures = 0;
        self.tell();
        self.take_watch(body, version, &client).await.map_err(|trouble| ("watch", trouble))
    }

    /// Takes over a list; gives its version.
    fn take_list(&mut self, body: &[u8], client: &Client) -> Result<String, Trouble> {
        let list: List<'_> = serde_json::from_slice(body)
            .map_err(|error| Trouble::Foreign(format!("its list of pods is none: {}", chain(&error))))?;
        let Some(version) = list.metadata.resource_version else {
            return Err(Trouble::Foreign("its list of pods has no version".to_owned()));
        };
        let items = list.items.unwrap_or_default();
        let listed: HashSet<String> = items.iter().filter_map(|item| self.take(item.get(), false, client)).collect();
        for uid in self.workloads.pods() {
            if !listed.contains(&*uid) {
                self.workloads.remove_pod(&uid);
            }
        }
        self.listed = true;
        self.workloads.expect(Kind::Pods, true);
        tracing::debug!(pods = listed.len(), version, "listed the pods of this node");
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
                Some(asked) = self.answers.1.recv() => {
                    self.hear(asked);
                    continue;
                }
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
            self.wrong("oversized", &format!("an object of more than {OBJECT_LIMIT} bytes"));
            return Ok(());
        };
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let event: Event<'_> = match serde_json::from_slice(line) {
            Ok(event) => event,
            Err(error) => {
                self.wrong("malformed", &format!("an event that cannot be read: {}", chain(&error)));
                return Ok(());
            }
        };
        let object = event.object.get();
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => drop(self.take(object, false, client)),
            "DELETED" => drop(self.take(object, true, client)),
            "BOOKMARK" => {}
            "ERROR" => {
                let status: Status = serde_json::from_str(object).unwrap_or_default();
                return Err(Trouble::Refused(status.code, pod::value(&status.message)));
            }
            other => self.wrong("malformed", &format!("an event of the type {}", pod::value(other))),
        }
        if let Ok(Versioned { metadata }) = serde_json::from_str(object)
            && let Some(new) = metadata.resource_version
        {
            *version = Some(new);
        }
        Ok(())
    }

    /// Takes over what a pod is now, or was last; gives its UID.
    fn take(&mut self, object: &str, gone: bool, client: &Client) -> Option<String> {
        let (object, labels, annotations) = match self.options.read(object) {
            Ok(read) => read,
            Err(error) => {
                self.wrong("malformed", &format!("a pod that cannot be read: {}", chain(&error)));
                return None;
            }
        };
        let (metadata, flaws) = (&object.metadata, object.flaws());
        for flaw in &flaws {
            self.wrong("malformed", flaw);
        }
        if !metadata.is_sound() {
            return None;
        }
        let pod = self.options.describe(&object, &labels, &annotations);
        match owner::told(metadata, &labels) {
            Told::Certain(owner) => self.put(pod, gone, &owner),
            Told::Ask { api, resource, fallback } => {
                if let Some(owner) = metadata.owner() {
                    self.ask(Held { pod, gone }, metadata, owner, (api, resource, fallback), client);
                }
            }
        }
        Some(object.metadata.uid)
    }

    fn put(&self, mut pod: Pod, gone: bool, owner: &Owner) {
        if let Some((key, name)) = owner.as_ref().filter(|(_, name)| pod::is_name(name)) {
            let owner = (Text::Static(key), Text::Shared(Arc::clone(name)));
            pod.names = pod.names.into_iter().chain([owner]).collect();
        }
        let uid = Arc::clone(&pod.uid);
        if !self.workloads.put_pod(pod) {
            self.wrong("too_many", "more pods than can be on one node");
        }
        if gone {
            self.workloads.remove_pod(&uid);
        }
    }

    /// Puts a pod as soon as it is known what its owner belongs to, which is asked for once.
    fn ask(
        &mut self,
        held: Held,
        metadata: &Metadata<'_>,
        owner: &pod::OwnerReference,
        (api, resource, fallback): (&'static str, &'static str, Owner),
        client: &Client,
    ) {
        if let Some(owner) = self.owners.get(&owner.uid) {
            return self.put(held.pod, held.gone, owner);
        }
        if let Some(waiting) = self.held.get_mut(&owner.uid) {
            waiting.retain(|other| other.pod.uid != held.pod.uid);
            waiting.push(held);
            return;
        }
        self.held.insert(owner.uid.clone(), vec![held]);
        let path = format!("{api}/namespaces/{}/{resource}", metadata.namespace);
        let (name, uid) = (owner.name.clone(), owner.uid.clone());
        let (client, answers, questions) = (client.clone(), self.answers.0.clone(), Arc::clone(&self.questions));
        tokio::spawn(async move {
            let _turn = questions.acquire_owned().await;
            let asked = timeout(OWNER_PATIENCE, client.metadata(&path, &name)).await;
            let late = || Trouble::Unreachable(format!("no answer within {} s", OWNER_PATIENCE.as_secs()));
            let answer = asked.unwrap_or_else(|_| Err(late())).and_then(|body| {
                let object = serde_json::from_slice::<Object<'_>>(&body);
                let object = object.map_err(|error| Trouble::Foreign(chain(&error)))?;
                Ok(owner::of(&object.metadata, fallback.clone()))
            });
            // Nobody listens any more when the agent stops.
            let _ = answers.send(Asked { uid, resource, answer, fallback });
        });
    }

    fn hear(&mut self, Asked { uid, resource, answer, fallback }: Asked) {
        let owner = answer.unwrap_or_else(|trouble| {
            if self.workloads.fail(KUBERNETES, trouble.kind()) {
                tracing::warn!("names from {KUBERNETES}: {}", trouble.explain("get", resource));
            }
            if matches!(trouble, Trouble::Refused(403, _)) && self.forbidden.insert(resource) {
                self.tell();
            }
            fallback
        });
        for held in self.held.remove(&uid).unwrap_or_default() {
            self.put(held.pod, held.gone, &owner);
        }
        self.owners.put(uid, owner);
    }

    /// Tells how the watch fares while it runs.
    fn tell(&self) {
        let state = if self.forbidden.is_empty() {
            State::Running
        } else {
            let resources: Vec<&str> = self.forbidden.iter().copied().collect();
            let resources = resources.join(" and ");
            State::Degraded(format!("the right to get {resources} is missing: some pods' owners stay unknown"))
        };
        self.workloads.report(KUBERNETES, state);
    }

    /// Counts what the server should not have sent; the first of its type is logged.
    fn wrong(&self, kind: &'static str, what: &str) {
        if self.workloads.fail(KUBERNETES, kind) {
            tracing::warn!("names from {KUBERNETES}: {what}; further ones are only counted");
        }
    }

    async fn sleep(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                Some(asked) = self.answers.1.recv() => self.hear(asked),
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
