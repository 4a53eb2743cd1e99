//! The pods of a node, and what they belong to.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use model::Text;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::client::{Client, Trouble, chain};
use super::follow::{Account, Resource};
use super::owner::{self, Owner, Owners, Told};
use super::pod::{self, Metadata, Object};
use super::{KUBERNETES, Kubernetes};
use crate::{Kind, Pod, State, Workloads};

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

/// The pods of a node.
pub(super) struct Pods {
    options: Kubernetes,
    account: Account,
    owners: Owners,
    held: HashMap<String, Vec<Held>>,
    answers: (mpsc::UnboundedSender<Asked>, mpsc::UnboundedReceiver<Asked>),
    questions: Arc<Semaphore>,
    /// Resources that the agent may not get.
    forbidden: BTreeSet<&'static str>,
    listed: bool,
}

impl Pods {
    pub fn new(options: Kubernetes, workloads: Arc<Workloads>) -> Self {
        Self {
            options,
            account: Account { workloads, source: KUBERNETES },
            owners: Owners::default(),
            held: HashMap::new(),
            answers: mpsc::unbounded_channel(),
            questions: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
            forbidden: BTreeSet::new(),
            listed: false,
        }
    }

    fn put(&self, mut pod: Pod, gone: bool, owner: &Owner) {
        if let Some((key, name)) = owner.as_ref().filter(|(_, name)| pod::is_name(name)) {
            let owner = (Text::Static(key), Text::Shared(Arc::clone(name)));
            pod.names = pod.names.into_iter().chain([owner]).collect();
        }
        let uid = Arc::clone(&pod.uid);
        if !self.account.workloads.put_pod(pod) {
            self.account.wrong("too_many", "more pods than can be on one node");
        }
        if gone {
            self.account.workloads.remove_pod(&uid);
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
            if self.account.fail(trouble.kind()) {
                tracing::warn!("names from {KUBERNETES}: {}", trouble.explain("get", resource));
            }
            if matches!(trouble, Trouble::Refused(403, _)) && self.forbidden.insert(resource) {
                self.account.report(self.state());
            }
            fallback
        });
        for held in self.held.remove(&uid).unwrap_or_default() {
            self.put(held.pod, held.gone, &owner);
        }
        self.owners.put(uid, owner);
    }
}

impl Resource for Pods {
    const NAME: &'static str = "pods";
    const PATH: &'static str = "/api/v1/pods";

    fn selector(&self) -> Option<String> {
        Some(format!("spec.nodeName={}", self.options.node))
    }

    fn take(&mut self, object: &str, gone: bool, client: &Client) -> Option<String> {
        let (object, labels, annotations) = match self.options.read(object) {
            Ok(read) => read,
            Err(error) => {
                self.account.wrong("malformed", &format!("a pod that cannot be read: {}", chain(&error)));
                return None;
            }
        };
        let (metadata, flaws) = (&object.metadata, object.flaws());
        for flaw in &flaws {
            self.account.wrong("malformed", flaw);
        }
        if !metadata.is_sound() {
            return None;
        }
        self.account.workloads.put_host(&object.host_addresses());
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

    fn keep(&mut self, listed: &HashSet<String>) {
        let workloads = &self.account.workloads;
        for uid in workloads.pods() {
            if !listed.contains(&*uid) {
                workloads.remove_pod(&uid);
            }
        }
        self.listed = true;
        workloads.expect(Kind::Pods, true);
    }

    /// Nobody waits for names before there have been any.
    fn fail(&mut self) {
        if !self.listed {
            self.account.workloads.expect(Kind::Pods, false);
        }
    }

    fn state(&self) -> State {
        if self.forbidden.is_empty() {
            State::Running
        } else {
            let resources: Vec<&str> = self.forbidden.iter().copied().collect();
            let resources = resources.join(" and ");
            State::Degraded(format!("the right to get {resources} is missing: some pods' owners stay unknown"))
        }
    }

    async fn idle(&mut self) {
        if let Some(asked) = self.answers.1.recv().await {
            self.hear(asked);
        }
    }
}
