//! One agent of a cluster reads the relay: each stands in an election, and reads for as long as it is the one. Those who
//! read their own nodes because they found a server there stand, too, together: while they read, nobody reads the relay.

use std::time::Duration;

use hubble::{Address, Options};
use model::Standing;
use model::standing::Party;
use tokio::sync::watch;

use super::config::Config;
use super::reader::Reader;

/// How long the node's own server may take to answer before the relay is read instead.
const PROBE: Duration = Duration::from_secs(3);
/// How often it is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows the server while this agent is one that does; ends when nobody holds elections any more.
pub async fn follow(options: Options, reader: &mut Reader, mut standing: watch::Receiver<Standing>, party: Party) {
    let reads = |standing: &Standing, yielded: bool| match standing {
        Standing::Leads { .. } => true,
        // An own node is read by nobody else, unless somebody has said so: what was said last holds until it can be asked again.
        Standing::Unknown(_) => party == Party::Many && !yielded,
        Standing::Pending | Standing::Waits | Standing::Barred => false,
    };
    let mut yielded = false;
    loop {
        let now = standing.borrow_and_update().clone();
        reader.stands(&now, party, yielded);
        if !matches!(now, Standing::Unknown(_)) {
            yielded = now == Standing::Waits;
        }
        if !reads(&now, yielded) {
            if standing.changed().await.is_err() {
                return;
            }
            continue;
        }
        // Whoever is elected next begins with what comes then: what is on its way to this one is read by nobody.
        tokio::select! {
            biased;
            _ = standing.wait_for(|standing| !reads(standing, false)) => {}
            () = hubble::follow(options.clone(), reader) => {}
        }
        if standing.has_changed().is_err() {
            return;
        }
    }
}

/// Says whether this node has a Hubble of its own: one whose socket is there, even if it does not answer just now.
///
/// # Errors
/// Says which key holds no address.
pub async fn is_own(config: &Config) -> Result<bool, String> {
    let address = config.address(false)?;
    if let Address::Unix(path) = &address {
        return Ok(path.exists());
    }
    let answer = hubble::status(&address, config.tls(&address).as_ref(), PROBE).await;
    Ok(answer.inspect_err(|failure| tracing::debug!("this node has no Hubble: {failure}")).is_ok())
}

/// Waits until this node has a Hubble of its own; for ever where there is no configuration to find it by.
pub async fn until_own(config: Option<Config>) {
    let Some(config) = config else { return std::future::pending().await };
    while is_own(&config).await != Ok(true) {
        tokio::time::sleep(AGAIN).await;
    }
}
