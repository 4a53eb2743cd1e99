//! One agent of a cluster reads the relay: each stands in an election, and reads for as long as it is the one.

use hubble::Options;
use model::Standing;
use tokio::sync::watch;

use super::reader::Reader;

/// Follows the server while this agent is the one that does; ends when nobody holds elections any more.
pub async fn follow(options: Options, reader: &mut Reader, mut standing: watch::Receiver<Standing>) {
    loop {
        let now = standing.borrow_and_update().clone();
        reader.stands(&now);
        if !leads(&now) {
            if standing.changed().await.is_err() {
                return;
            }
            continue;
        }
        // Whoever is elected next begins with what comes then: what is on its way to this one is read by nobody.
        tokio::select! {
            biased;
            _ = standing.wait_for(|standing| !leads(standing)) => {}
            () = hubble::follow(options.clone(), reader) => {}
        }
        if standing.has_changed().is_err() {
            return;
        }
    }
}

fn leads(standing: &Standing) -> bool {
    matches!(standing, Standing::Leads { .. })
}
