//! What messages of ICMP are called, as Cilium's exporter spells it. Types and codes are those of RFC 792 and its
//! successors, and of RFC 4443 and 4861.

use std::borrow::Cow;

/// A type: its number, its name, and those of its codes from 0 on.
type Kind = (u8, &'static str, &'static [&'static str]);

const VERSION_4: &[Kind] = &[
    (0, "EchoReply", &[]),
    (3, "DestinationUnreachable", UNREACHABLE_4),
    (4, "SourceQuench", &[]),
    (5, "Redirect", &["Net", "Host", "TOS+Net", "TOS+Host"]),
    (8, "EchoRequest", &[]),
    (9, "RouterAdvertisement", &[]),
    (10, "RouterSolicitation", &[]),
    (11, "TimeExceeded", &["TTLExceeded", "FragmentReassemblyTimeExceeded"]),
    (12, "ParameterProblem", &["PointerIndicatesError", "MissingOption", "BadLength"]),
    (13, "TimestampRequest", &[]),
    (14, "TimestampReply", &[]),
    (15, "InfoRequest", &[]),
    (16, "InfoReply", &[]),
    (17, "AddressMaskRequest", &[]),
    (18, "AddressMaskReply", &[]),
];

const UNREACHABLE_4: &[&str] = &[
    "Net",
    "Host",
    "Protocol",
    "Port",
    "FragmentationNeeded",
    "SourceRoutingFailed",
    "NetUnknown",
    "HostUnknown",
    "SourceIsolated",
    "NetAdminProhibited",
    "HostAdminProhibited",
    "NetTOS",
    "HostTOS",
    "CommAdminProhibited",
    "HostPrecedence",
    "PrecedenceCutoff",
];

const VERSION_6: &[Kind] = &[
    (1, "DestinationUnreachable", UNREACHABLE_6),
    (2, "PacketTooBig", &[]),
    (3, "TimeExceeded", &["HopLimitExceeded", "FragmentReassemblyTimeExceeded"]),
    (4, "ParameterProblem", &["ErroneousHeaderField", "UnrecognizedNextHeader", "UnrecognizedIPv6Option"]),
    (128, "EchoRequest", &[]),
    (129, "EchoReply", &[]),
    (133, "RouterSolicitation", &[]),
    (134, "RouterAdvertisement", &[]),
    (135, "NeighborSolicitation", &[]),
    (136, "NeighborAdvertisement", &[]),
    (137, "Redirect", &[]),
];

const UNREACHABLE_6: &[&str] = &[
    "NoRouteToDst",
    "AdminProhibited",
    "BeyondScopeOfSrc",
    "AddressUnreachable",
    "PortUnreachable",
    "SrcAddressFailedPolicy",
    "RejectRouteToDst",
];

/// Gives the name of a type and code of ICMP.
pub fn version_4(message: (u8, u8)) -> Cow<'static, str> {
    name(VERSION_4, message)
}

/// Gives the name of a type and code of `ICMPv6`.
pub fn version_6(message: (u8, u8)) -> Cow<'static, str> {
    name(VERSION_6, message)
}

fn name(kinds: &'static [Kind], (kind, code): (u8, u8)) -> Cow<'static, str> {
    let Some((_, name, codes)) = kinds.iter().find(|(number, ..)| *number == kind) else {
        return format!("{kind}({code})").into();
    };
    match codes.get(usize::from(code)) {
        Some(code) => format!("{name}({code})").into(),
        None if codes.is_empty() && code == 0 => (*name).into(),
        None => format!("{name}(Code: {code})").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_codes_have_names_and_what_is_unknown_numbers() {
        assert_eq!(version_4((8, 0)), "EchoRequest");
        assert_eq!(version_4((3, 3)), "DestinationUnreachable(Port)");
        assert_eq!(version_4((8, 1)), "EchoRequest(Code: 1)");
        assert_eq!(version_4((3, 16)), "DestinationUnreachable(Code: 16)");
        assert_eq!(version_4((255, 7)), "255(7)");
        assert_eq!(version_6((128, 0)), "EchoRequest");
        assert_eq!(version_6((1, 4)), "DestinationUnreachable(PortUnreachable)");
    }
}
