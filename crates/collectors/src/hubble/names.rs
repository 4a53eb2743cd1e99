//! The words of Hubble's enumerators. What a newer server may add keeps its number.

use std::borrow::Cow;

use hubble::flow::{Flow, Protocol, Record};

/// Gives the enumerator with a number, or the number.
fn word(words: &'static [(i64, &'static str)], number: i64) -> Cow<'static, str> {
    match words.binary_search_by_key(&number, |(number, _)| *number) {
        Ok(at) => Cow::Borrowed(words[at].1),
        Err(_) => Cow::Owned(number.to_string()),
    }
}

pub fn verdict(number: i32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] = &[
        (0, "UNKNOWN"),
        (1, "FORWARDED"),
        (2, "DROPPED"),
        (3, "ERROR"),
        (4, "AUDIT"),
        (5, "REDIRECTED"),
        (6, "TRACED"),
        (7, "TRANSLATED"),
    ];
    word(WORDS, number.into())
}

/// Gives what a policy said, in its own words.
pub fn decision(number: i32) -> Cow<'static, str> {
    match number {
        1 => Cow::Borrowed("ALLOWED"),
        2 => Cow::Borrowed("DENIED"),
        number => verdict(number),
    }
}

pub const DROP: i32 = 1;
pub const TRACE: i32 = 4;
pub const POLICY_VERDICT: i32 = 5;
pub const L7: i32 = 129;

/// Gives the kind of a flow's event.
pub fn event(number: i32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] = &[
        (0, "Unknown"),
        (1, "Drop"),
        (2, "Debug"),
        (3, "Capture"),
        (4, "Trace"),
        (5, "PolicyVerdict"),
        (6, "RecordCapture"),
        (7, "TraceSock"),
        (129, "L7"),
        (130, "Agent"),
    ];
    word(WORDS, number.into())
}

pub fn direction(number: i32) -> Cow<'static, str> {
    word(&[(0, "unknown"), (1, "ingress"), (2, "egress")], number.into())
}

/// Gives where on its way a packet was seen, as Cilium's exporter calls it.
pub fn point(number: i32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] = &[
        (0, ""),
        (1, "to-proxy"),
        (2, "to-host"),
        (3, "to-stack"),
        (4, "to-overlay"),
        (5, "from-endpoint"),
        (6, "from-proxy"),
        (7, "from-host"),
        (8, "from-stack"),
        (9, "from-overlay"),
        (10, "from-network"),
        (11, "to-network"),
        (12, "from-crypto"),
        (13, "to-crypto"),
        (101, "to-endpoint"),
    ];
    word(WORDS, number.into())
}

/// Gives a response code of DNS, as Cilium's exporter calls it.
pub fn rcode(number: u32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] = &[
        (0, "No Error"),
        (1, "Format Error"),
        (2, "Server Failure"),
        (3, "Non-Existent Domain"),
        (4, "Not Implemented"),
        (5, "Query Refused"),
    ];
    word(WORDS, number.into())
}

/// Says which end of the connection reports it.
pub fn reporter(direction: i32) -> &'static str {
    match direction {
        1 => "server",
        2 => "client",
        _ => "unknown",
    }
}

/// Gives how a policy matched.
pub fn policy_match(number: u32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] =
        &[(0, "none"), (1, "L3-Only"), (2, "L3-L4"), (3, "L4-Only"), (4, "all"), (5, "L3-Proto"), (6, "Proto-Only")];
    word(WORDS, number.into())
}

/// Where the ring of Hubble overtakes a slow reader.
pub const LOST_IN_RING: i32 = 3;

/// Gives where events were lost.
pub fn lost(number: i32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] =
        &[(0, "UNKNOWN"), (1, "PERF_EVENT_RING_BUFFER"), (2, "OBSERVER_EVENTS_QUEUE"), (3, "HUBBLE_RING_BUFFER")];
    word(WORDS, number.into())
}

/// Gives the state of a node.
pub fn node_state(number: i32) -> Cow<'static, str> {
    const WORDS: &[(i64, &str)] = &[(0, "unknown"), (1, "connected"), (2, "unavailable"), (3, "gone"), (4, "error")];
    word(WORDS, number.into())
}

/// Gives a transport protocol.
pub fn transport(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Unknown => "Unknown",
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Icmp4 => "ICMPv4",
        Protocol::Icmp6 => "ICMPv6",
        Protocol::Sctp => "SCTP",
        Protocol::Vrrp => "VRRP",
        Protocol::Igmp => "IGMP",
    }
}

/// Gives the uppermost protocol of a flow.
pub fn protocol(flow: &Flow<'_>) -> &'static str {
    match flow.l7.map(|l7| l7.record) {
        Some(Record::Dns { .. }) => "DNS",
        Some(Record::Http(_)) => "HTTP",
        Some(Record::Kafka { .. }) => "Kafka",
        Some(Record::Unknown) | None => transport(flow.l4.protocol),
    }
}

/// Gives a method of HTTP; those that are none of the registered ones are one.
pub fn method(method: &[u8]) -> &'static str {
    const METHODS: [&str; 10] =
        ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY"];
    METHODS.into_iter().find(|known| known.as_bytes() == method).unwrap_or("_OTHER")
}

/// Gives why a packet was dropped.
pub fn drop_reason(number: u32) -> Cow<'static, str> {
    word(DROP_REASONS, number.into())
}

const DROP_REASONS: &[(i64, &str)] = &[
    (0, "DROP_REASON_UNKNOWN"),
    (130, "INVALID_SOURCE_MAC"),
    (131, "INVALID_DESTINATION_MAC"),
    (132, "INVALID_SOURCE_IP"),
    (133, "POLICY_DENIED"),
    (134, "INVALID_PACKET_DROPPED"),
    (135, "CT_TRUNCATED_OR_INVALID_HEADER"),
    (136, "CT_MISSING_TCP_ACK_FLAG"),
    (137, "CT_UNKNOWN_L4_PROTOCOL"),
    (138, "CT_CANNOT_CREATE_ENTRY_FROM_PACKET"),
    (139, "UNSUPPORTED_L3_PROTOCOL"),
    (140, "MISSED_TAIL_CALL"),
    (141, "ERROR_WRITING_TO_PACKET"),
    (142, "UNKNOWN_L4_PROTOCOL"),
    (143, "UNKNOWN_ICMPV4_CODE"),
    (144, "UNKNOWN_ICMPV4_TYPE"),
    (145, "UNKNOWN_ICMPV6_CODE"),
    (146, "UNKNOWN_ICMPV6_TYPE"),
    (147, "ERROR_RETRIEVING_TUNNEL_KEY"),
    (148, "ERROR_RETRIEVING_TUNNEL_OPTIONS"),
    (149, "INVALID_GENEVE_OPTION"),
    (150, "UNKNOWN_L3_TARGET_ADDRESS"),
    (151, "STALE_OR_UNROUTABLE_IP"),
    (152, "NO_MATCHING_LOCAL_CONTAINER_FOUND"),
    (153, "ERROR_WHILE_CORRECTING_L3_CHECKSUM"),
    (154, "ERROR_WHILE_CORRECTING_L4_CHECKSUM"),
    (155, "CT_MAP_INSERTION_FAILED"),
    (156, "INVALID_IPV6_EXTENSION_HEADER"),
    (157, "IP_FRAGMENTATION_NOT_SUPPORTED"),
    (158, "SERVICE_BACKEND_NOT_FOUND"),
    (160, "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT"),
    (161, "FAILED_TO_INSERT_INTO_PROXYMAP"),
    (162, "REACHED_EDT_RATE_LIMITING_DROP_HORIZON"),
    (163, "UNKNOWN_CONNECTION_TRACKING_STATE"),
    (164, "LOCAL_HOST_IS_UNREACHABLE"),
    (165, "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION"),
    (166, "UNSUPPORTED_L2_PROTOCOL"),
    (167, "NO_MAPPING_FOR_NAT_MASQUERADE"),
    (168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE"),
    (169, "FIB_LOOKUP_FAILED"),
    (170, "ENCAPSULATION_TRAFFIC_IS_PROHIBITED"),
    (171, "INVALID_IDENTITY"),
    (172, "UNKNOWN_SENDER"),
    (173, "NAT_NOT_NEEDED"),
    (174, "IS_A_CLUSTERIP"),
    (175, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND"),
    (176, "FORBIDDEN_ICMPV6_MESSAGE"),
    (177, "DENIED_BY_LB_SRC_RANGE_CHECK"),
    (178, "SOCKET_LOOKUP_FAILED"),
    (179, "SOCKET_ASSIGN_FAILED"),
    (180, "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL"),
    (181, "POLICY_DENY"),
    (182, "VLAN_FILTERED"),
    (183, "INVALID_VNI"),
    (184, "INVALID_TC_BUFFER"),
    (185, "NO_SID"),
    (186, "MISSING_SRV6_STATE"),
    (187, "NAT46"),
    (188, "NAT64"),
    (189, "AUTH_REQUIRED"),
    (190, "CT_NO_MAP_FOUND"),
    (191, "SNAT_NO_MAP_FOUND"),
    (192, "INVALID_CLUSTER_ID"),
    (193, "UNSUPPORTED_PROTOCOL_FOR_DSR_ENCAP"),
    (194, "NO_EGRESS_GATEWAY"),
    (195, "UNENCRYPTED_TRAFFIC"),
    (196, "TTL_EXCEEDED"),
    (197, "NO_NODE_ID"),
    (198, "DROP_RATE_LIMITED"),
    (199, "IGMP_HANDLED"),
    (200, "IGMP_SUBSCRIBED"),
    (201, "MULTICAST_HANDLED"),
    (202, "DROP_HOST_NOT_READY"),
    (203, "DROP_EP_NOT_READY"),
    (204, "DROP_NO_EGRESS_IP"),
    (205, "DROP_PUNT_PROXY"),
    (207, "DROP_FRAG_NOT_FOUND_WORLD"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_stay_numbers() {
        assert_eq!((verdict(5), verdict(77), verdict(-1)), ("REDIRECTED".into(), "77".into(), "-1".into()));
        assert_eq!(
            (drop_reason(181), drop_reason(159), drop_reason(999)),
            ("POLICY_DENY".into(), "159".into(), "999".into())
        );
        assert!(DROP_REASONS.is_sorted());
        assert_eq!((method(b"GET"), method(b"get"), method(b"\xff")), ("GET", "_OTHER", "_OTHER"));
    }
}
