//! Elections among the agents of a cluster, by Leases of the Kubernetes API.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use enrich::kubernetes::Election;
use model::Standing;
use model::standing::{Note, Party};
use runtime::Elections;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Elections by Leases.
pub struct Leases {
    kubeconfig: Option<PathBuf>,
    candidate: String,
    /// Where requests are made; nowhere for who only looks on.
    runtime: Option<Handle>,
    /// Those in which who looks on never stands.
    never: Mutex<Vec<watch::Sender<Standing>>>,
}

impl Leases {
    /// Stands as a candidate with the credentials of a kubeconfig, or of the agent's pod.
    pub fn new(kubeconfig: Option<PathBuf>, candidate: String, runtime: Option<Handle>) -> Self {
        Self { kubeconfig, candidate, runtime, never: Mutex::default() }
    }
}

impl Elections for Leases {
    fn stand(&self, name: &str, party: Party, note: Note) -> watch::Receiver<Standing> {
        let (tell, standing) = watch::channel(Standing::Pending);
        let (kubeconfig, candidate) = (self.kubeconfig.clone(), self.candidate.clone());
        match &self.runtime {
            Some(runtime) => {
                let name = name.to_owned();
                drop(runtime.spawn(Election { kubeconfig, name, candidate, party, note }.stand(tell)));
            }
            None => self.never.lock().unwrap_or_else(PoisonError::into_inner).push(tell),
        }
        standing
    }
}
