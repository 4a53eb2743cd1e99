//! What is asked of the server: only what is collected. Filters are asked for where the server's mean exactly ours.

use hubble::messages::{EventTypeFilter, FieldMask, FlowFilter, GetFlowsRequest};

use super::config::Config;
use super::names;

/// Makes the request that a configuration needs.
pub fn request(config: &Config) -> GetFlowsRequest {
    let prefixes = |names: &[String]| names.iter().map(|name| format!("{name}/")).collect::<Vec<_>>();
    let (watched, excluded) = (prefixes(&config.watch_namespaces), prefixes(&config.exclude_namespaces));
    let event_type = kinds(config);
    let mut whitelist = Vec::new();
    if !watched.is_empty() {
        let one = FlowFilter { event_type: event_type.clone(), ..FlowFilter::default() };
        whitelist.push(FlowFilter { source_pod: watched.clone(), ..one.clone() });
        whitelist.push(FlowFilter { destination_pod: watched, ..one });
    } else if !event_type.is_empty() {
        whitelist.push(FlowFilter { event_type, ..FlowFilter::default() });
    }
    let mut blacklist = Vec::new();
    if !excluded.is_empty() {
        // What has one end in none of these is left out here as well, but no filter says «without a namespace».
        let (source_pod, destination_pod) = (excluded.clone(), excluded);
        blacklist.push(FlowFilter { source_pod, destination_pod, event_type: Vec::new() });
    }
    GetFlowsRequest { follow: true, blacklist, whitelist, field_mask: Some(FieldMask { paths: fields(config) }) }
}

/// Gives the kinds of events that are wanted; none where all are.
fn kinds(config: &Config) -> Vec<EventTypeFilter> {
    if config.collect_flows {
        return Vec::new();
    }
    let l7 = config.collect_l7_flows || config.collect_services || config.collect_policies;
    let wanted =
        [(config.collect_drops, names::DROP), (config.collect_policies, names::POLICY_VERDICT), (l7, names::L7)];
    wanted.into_iter().filter(|(wanted, _)| *wanted).map(|(_, kind)| EventTypeFilter { kind }).collect()
}

/// Gives the fields of flows that are read. Only whole fields: a path into one that excludes others gives stale values.
fn fields(config: &Config) -> Vec<String> {
    let Config { collect_flows: flows, collect_policies: policies, collect_services: services, .. } = *config;
    let l7 = config.collect_l7_flows || services || policies;
    let wanted = [
        ("time", true),
        ("node_name", true),
        ("event_type", true),
        ("verdict", flows || policies),
        ("l4", true),
        ("source", true),
        ("destination", true),
        ("IP", true),
        ("is_reply", flows),
        ("trace_observation_point", flows),
        ("trace_reason", flows),
        ("l7", flows || l7),
        ("traffic_direction", true),
        ("policy_match_type", policies),
        ("drop_reason_desc", config.collect_drops || flows && config.labels.cilium),
        ("source_service", services),
        ("destination_service", services),
        ("source_names", config.labels.wants_dns()),
        ("destination_names", config.labels.wants_dns()),
        ("aggregate", true),
    ];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name.to_owned()).collect()
}

impl Config {
    /// Says whether anything at all is collected.
    pub fn wants_something(&self) -> bool {
        let flows = self.collect_flows || self.collect_l7_flows || self.collect_services;
        flows || self.collect_drops || self.collect_policies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_collected_is_asked_for() {
        let all = request(&Config::default());
        assert!(all.follow && all.whitelist.is_empty() && all.blacklist.is_empty());
        let config = Config {
            collect_flows: false,
            collect_l7_flows: false,
            collect_services: false,
            collect_policies: false,
            watch_namespaces: vec!["shop".to_owned()],
            exclude_namespaces: vec!["kube-system".to_owned()],
            ..Config::default()
        };
        let drops = request(&config);
        let filter = |source: &[&str], destination: &[&str], kinds: &[i32]| FlowFilter {
            source_pod: source.iter().map(|&name| name.to_owned()).collect(),
            destination_pod: destination.iter().map(|&name| name.to_owned()).collect(),
            event_type: kinds.iter().map(|&kind| EventTypeFilter { kind }).collect(),
        };
        assert_eq!(drops.whitelist, [filter(&["shop/"], &[], &[1]), filter(&[], &["shop/"], &[1])]);
        assert_eq!(drops.blacklist, [filter(&["kube-system/"], &["kube-system/"], &[])]);
        let paths = drops.field_mask.unwrap().paths;
        let expected =
            "time node_name event_type l4 source destination IP traffic_direction drop_reason_desc aggregate";
        assert_eq!(paths.join(" "), expected);
    }
}
