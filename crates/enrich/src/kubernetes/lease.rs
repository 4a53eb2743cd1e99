//! One of many, elected by a Lease of the API server: who holds it renews it, and whoever sees it unchanged for as long as
//! it lasts takes it. A holder that cannot renew gives up well before that, so that there are never two.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use model::Standing;
use model::standing::{Note, Party};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::client::{Client, Trouble};

/// How long others leave a Lease to its holder after they last saw it renewed.
const LASTS: Duration = Duration::from_secs(6);
/// How long after its last renewal a holder takes itself for one. What is left of [`LASTS`] is for clocks that differ in pace.
const HOLDS: Duration = Duration::from_secs(4);
/// How often the Lease is renewed, or looked at.
const PERIOD: Duration = Duration::from_millis(1500);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest that nobody can have held a Lease: what is said to be longer is a wrong clock.
const LONGEST: Duration = Duration::from_hours(24);

/// The same where many hold it together. One of them renews it, the others see to that: whoever finds that it was not
/// takes its place, long before somebody else may.
const LASTS_MANY: Duration = Duration::from_secs(45);
const HEIR: Duration = Duration::from_secs(25);
const PERIOD_MANY: Duration = Duration::from_secs(10);
/// What the identities begin with of those who hold it together.
const MANY: &str = "many/";
/// The annotation of a Lease that holds what its holder noted.
const NOTE: &str = "telesonde.io/note";

/// An election.
pub struct Election {
    /// A kubeconfig file; without one the service account of the agent's pod.
    pub kubeconfig: Option<PathBuf>,
    /// The name of the Lease, in the namespace of the credentials.
    pub name: String,
    /// Who stands; something of its own is added to each.
    pub candidate: String,
    /// With whom it stands.
    pub party: Party,
    /// What the holder notes in the Lease for the next one.
    pub note: Note,
}

/// What a candidate takes over: for how long nobody held the Lease, and what was noted last.
type Term = (Duration, String);

/// What was last seen of the Lease, and since when it is so.
struct Seen {
    lease: Lease,
    since: Instant,
}

impl Election {
    /// Stands for as long as somebody wants to know; gives the Lease back then.
    pub async fn stand(self, tell: watch::Sender<Standing>) {
        let many = self.party == Party::Many;
        let identity = format!("{}_{:016x}", self.candidate, RandomState::new().hash_one(std::process::id()));
        let identity = if many { format!("{MANY}{identity}") } else { identity };
        let (lasts, holding) = if many { (HEIR, PERIOD_MANY) } else { (HOLDS, PERIOD) };
        let (mut client, mut seen, mut holds) = (None, None, None::<Instant>);
        loop {
            let begun = Instant::now();
            // A holder's question is of no use once it holds no more.
            let patience = holds.map_or(PATIENCE, |until| until.saturating_duration_since(begun).min(PATIENCE));
            let led = holds.is_some();
            let tried = timeout(patience, self.attempt(&mut client, &mut seen, &identity, led)).await;
            let late = || Err(Trouble::Unreachable(format!("no answer within {} s", PATIENCE.as_secs())));
            let standing = match tried.unwrap_or_else(|_| late()) {
                Ok(Some((vacant, note))) => {
                    holds = Some(begun + lasts);
                    (!led).then_some(Standing::Leads { vacant, note })
                }
                Ok(None) => {
                    holds = None;
                    let barred =
                        !many && seen.as_ref().is_some_and(|seen: &Seen| holder_of(&seen.lease).starts_with(MANY));
                    Some(if barred { Standing::Barred } else { Standing::Waits })
                }
                Err(trouble) => {
                    if matches!(trouble, Trouble::Refused(401, _) | Trouble::Configuration(_)) {
                        // Credentials are read anew: they may have been replaced.
                        client = None;
                    }
                    let over = holds.is_none_or(|until| Instant::now() >= until);
                    over.then(|| {
                        holds = None;
                        Standing::Unknown(trouble.explain("use", "leases"))
                    })
                }
            };
            if let Some(standing) = standing {
                tell.send_if_modified(|told| {
                    let changed = *told != standing;
                    *told = standing;
                    changed
                });
            }
            let left = holds.map(|until| until.saturating_duration_since(Instant::now()));
            let pause = left.map_or(PERIOD * if many { 2 } else { 1 }, |left| left.min(holding));
            tokio::select! {
                () = sleep(pause) => {}
                () = tell.closed() => break,
            }
        }
        // Of many the others go on.
        if let (Some(client), Some(Seen { lease, .. }), true) = (client, seen, holds.is_some() && !many) {
            let _ = timeout(PATIENCE, self.put(&client, self.noted(free(lease)))).await;
        }
    }

    /// Renews the Lease, or takes it where nobody holds it; gives what it takes over, or nothing where it is somebody
    /// else's.
    async fn attempt(
        &self,
        client: &mut Option<Client>,
        seen: &mut Option<Seen>,
        identity: &str,
        led: bool,
    ) -> Result<Option<Term>, Trouble> {
        let client = match client {
            Some(client) => client,
            none => none.insert(Client::new(self.kubeconfig.as_deref()).await?),
        };
        let many = self.party == Party::Many;
        let mine = |lease: &Lease| holder_of(lease) == identity;
        if !led || seen.as_ref().is_none_or(|seen| !mine(&seen.lease)) {
            let current = match client.lease(&self.name).await {
                Ok(current) => current,
                Err(Trouble::Refused(404, _)) => {
                    let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                    let lease = self.noted(held(Lease { metadata, spec: None }, identity));
                    return match client.make_lease(&lease).await {
                        Ok(lease) => {
                            *seen = Some(Seen { lease, since: Instant::now() });
                            Ok(Some(Term::default()))
                        }
                        Err(Trouble::Refused(409, _)) => Ok(None),
                        Err(trouble) => Err(trouble),
                    };
                }
                Err(trouble) => return Err(trouble),
            };
            if seen.as_ref().is_none_or(|seen| seen.lease.spec != current.spec) {
                *seen = Some(Seen { lease: current, since: Instant::now() });
            } else if let Some(seen) = seen {
                seen.lease = current;
            }
        }
        let Some(known) = seen else { return Ok(None) };
        let spec = known.lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let lasts = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let lasts = lasts.map_or(LASTS, Duration::from_secs);
        let together = many && holder.starts_with(MANY);
        let lasts = if together { HEIR } else { lasts };
        if !holder.is_empty() && holder != identity && known.since.elapsed() < lasts {
            return Ok(together.then(Term::default));
        }
        let vacant = if holder == identity { Duration::ZERO } else { vacant(&spec) };
        let note = known.lease.metadata.annotations.as_ref().and_then(|all| all.get(NOTE)).cloned();
        match self.put(client, self.noted(held(known.lease.clone(), identity))).await {
            Ok(lease) => {
                *seen = Some(Seen { lease, since: Instant::now() });
                Ok(Some((vacant, note.unwrap_or_default())))
            }
            Err(Trouble::Refused(409, _)) if led => {
                // Somebody wrote to it: whether it is still ours the server says.
                let current = client.lease(&self.name).await?;
                let (ours, together) = (mine(&current), many && holder_of(&current).starts_with(MANY));
                *seen = Some(Seen { lease: current, since: Instant::now() });
                if !ours {
                    // Of many another may hold it now: that is as good.
                    return Ok(together.then(Term::default));
                }
                let Some(known) = seen else { return Ok(None) };
                known.lease = self.put(client, self.noted(held(known.lease.clone(), identity))).await?;
                Ok(Some(Term::default()))
            }
            Err(Trouble::Refused(409, _)) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// Writes into a Lease what its holder has for the next one.
    fn noted(&self, mut lease: Lease) -> Lease {
        lease.metadata.annotations.get_or_insert_default().insert(NOTE.to_owned(), (self.note)());
        lease
    }

    async fn put(&self, client: &Client, lease: Lease) -> Result<Lease, Trouble> {
        client.put_lease(&self.name, &lease).await
    }
}

/// Gives the identity of who holds a Lease; empty where nobody does.
fn holder_of(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

/// Gives a Lease as who holds it writes it.
fn held(mut lease: Lease, identity: &str) -> Lease {
    let lasts = if identity.starts_with(MANY) { LASTS_MANY } else { LASTS };
    let now = Some(MicroTime(Timestamp::now()));
    let before = lease.spec.take().unwrap_or_default();
    let mine = before.holder_identity.as_deref() == Some(identity);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(lasts.as_secs() as i32),
        acquire_time: if mine { before.acquire_time.clone() } else { now.clone() },
        renew_time: now,
        lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(i32::from(!mine))),
        ..before
    });
    lease
}

/// Gives a Lease as who held it leaves it.
fn free(mut lease: Lease) -> Lease {
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
    }
    lease
}

/// Gives for how long nobody has renewed a Lease, by the clocks of who held it and of this host.
fn vacant(spec: &LeaseSpec) -> Duration {
    let renewed = spec.renew_time.as_ref().map(|MicroTime(time)| *time);
    let passed = renewed.and_then(|renewed| Duration::try_from(Timestamp::now().duration_since(renewed)).ok());
    passed.filter(|passed| *passed < LONGEST).unwrap_or_default()
}
