//! The names of question types, response codes (both from the IANA registry of DNS parameters) and roles.

use std::borrow::Cow;

use bpf::abi::dns::{ROLE_SERVER, TYPE_OTHER, TYPE_WORDS};

/// The types that have series of their own: whatever else is asked for is one more, so that nobody who sends packets
/// can make labels.
const TYPES: &[(u32, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (29, "LOC"),
    (33, "SRV"),
    (35, "NAPTR"),
    (39, "DNAME"),
    (43, "DS"),
    (44, "SSHFP"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (51, "NSEC3PARAM"),
    (52, "TLSA"),
    (59, "CDS"),
    (60, "CDNSKEY"),
    (61, "OPENPGPKEY"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (99, "SPF"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

const RCODES: [&str; 12] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
];

/// Gives the known types as the kernel side wants them: a set of bits.
pub(super) const fn known() -> [u64; TYPE_WORDS] {
    let mut words = [0; TYPE_WORDS];
    let mut at = 0;
    while at < TYPES.len() {
        let number = TYPES[at].0;
        words[(number / 64) as usize] |= 1 << (number % 64);
        at += 1;
    }
    words
}

/// Names a type as the kernel side counts it.
pub(super) fn question(number: u32) -> &'static str {
    let known = TYPES.iter().find(|(known, _)| *known == number && number != TYPE_OTHER);
    known.map_or("TYPE-other", |(_, name)| name)
}

/// Names a question type that somebody else has named already.
pub(crate) fn question_named(name: &[u8]) -> &'static str {
    TYPES.iter().find(|(_, known)| known.as_bytes() == name).map_or("TYPE-other", |(_, known)| known)
}

/// Names a response code that may be of more than a header's four bits; what is not known keeps its number.
pub(crate) fn extended_response(code: u32) -> Cow<'static, str> {
    RCODES.get(code as usize).map_or_else(|| code.to_string().into(), |&name| name.into())
}

/// Names a response code of a header.
pub(super) fn response(code: u32) -> &'static str {
    RCODES.get(code as usize).copied().unwrap_or("RCODE-other")
}

/// Names a role; clients are what is meant where nothing is said.
pub(super) fn role(role: u32) -> &'static str {
    if role == u32::from(ROLE_SERVER) { "server" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_has_a_name() {
        let words = known();
        for number in 0..TYPE_WORDS as u32 * 64 {
            let known = words[(number / 64) as usize] >> (number % 64) & 1 == 1;
            assert_eq!(known, question(number) != "TYPE-other", "{number}");
        }
        assert_eq!((question(28), question(TYPE_OTHER), question(65535)), ("AAAA", "TYPE-other", "TYPE-other"));
        assert_eq!((response(3), response(11), response(15)), ("NXDOMAIN", "DSOTYPENI", "RCODE-other"));
    }
}
