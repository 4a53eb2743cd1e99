//! Who knows whose address it is.

use std::sync::Arc;

use config::Config;
use enrich::kubernetes::{ENDPOINT_SLICES, SERVICES};
use enrich::peers::{NODE, Network};
use enrich::{Learned, Peers, Services, State, Workloads};

use crate::exit::{Exit, Failure};

/// Gives who knows whose address it is: the sources of pods, of services, what was learned of flows, then the configured
/// networks.
///
/// # Errors
/// Fails when a network of the configuration is none.
pub fn peers(config: &Config, workloads: &Arc<Workloads>, learned: &Arc<Learned>) -> Result<Arc<Peers>, Failure> {
    let networks = networks(config)?;
    let services = services(config, workloads)?;
    let mut directories = vec![Arc::clone(workloads) as _];
    directories.extend(services.iter().map(|services| Arc::clone(services) as _));
    directories.push(Arc::clone(learned) as _);
    let is_named = !config.enrich.attributes.drop.iter().any(|key| key == NODE);
    let node = super::kubernetes(config)?.ok().filter(|_| is_named).map(|kubernetes| kubernetes.node.into());
    Ok(Arc::new(Peers::new(directories, services, &networks).on(node)))
}

/// Follows the services of the cluster, where that is wanted and there is an API server.
fn services(config: &Config, workloads: &Arc<Workloads>) -> Result<Option<Arc<Services>>, Failure> {
    if !config.enrich.kubernetes.services {
        return Ok(None);
    }
    match super::kubernetes(config)? {
        Ok(kubernetes) => {
            let services = Arc::new(Services::new(config.enrich.attributes.drop.clone()));
            // Whoever looks before the task has begun has to know that they are to be waited for.
            for source in [SERVICES, ENDPOINT_SLICES] {
                workloads.report(source, State::Starting);
            }
            drop(tokio::spawn(kubernetes.follow_services(Arc::clone(&services), Arc::clone(workloads))));
            Ok(Some(services))
        }
        Err(why) => {
            workloads.report(SERVICES, State::Off(why));
            Ok(None)
        }
    }
}

/// Gives the networks that have names.
///
/// # Errors
/// Fails when one of them is none.
pub fn networks(config: &Config) -> Result<Vec<(String, Network)>, Failure> {
    let mut networks = Vec::new();
    for (name, all) in &config.enrich.networks {
        for text in all {
            let wrong = |why| Failure::new(Exit::Configuration, format!("enrich.networks.{name}: {why}"));
            networks.push((name.clone(), text.parse().map_err(wrong)?));
        }
    }
    Ok(networks)
}
