//! Addresses to listen on: an address and a port, `127.0.0.1:9464` or `[::]:9464`.

use std::net::{Ipv4Addr, SocketAddr};

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Parses an address to listen on; `localhost` is 127.0.0.1, other names are refused because what they resolve to may change.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    Err(match text.rsplit_once(':') {
        Some(("", port)) if port.parse::<u16>().is_ok() => {
            format!("write 0.0.0.0:{port} or [::]:{port} to listen on every address")
        }
        Some((host, port)) if port.parse::<u16>().is_ok() && host.contains(':') && !host.starts_with('[') => {
            format!("an IPv6 address needs brackets: [{host}]:{port}")
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => "the host must be an IP address or localhost".to_owned(),
        _ => "the port is missing or is not between 0 and 65535".to_owned(),
    })
}

pub(crate) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
    address.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The same for a listener that is off unless it is given.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Serialize, Serializer, SocketAddr, de, parse};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(address: &Option<SocketAddr>, serializer: S) -> Result<S::Ok, S::Error> {
        address.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| parse(&text).map_err(de::Error::custom)).transpose()
    }
}

pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^.+:[0-9]+$",
        "examples": ["127.0.0.1:9464", "[::]:9464"],
        "x-kind": "listen"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_or_say_why_not() {
        for text in ["127.0.0.1:9464", "[::]:9464", "localhost:0", "[fe80::1]:1"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for (text, part) in [
            (":9464", "0.0.0.0:9464"),
            ("::1:9464", "[::1]:9464"),
            ("node-1:9464", "IP address"),
            ("127.0.0.1", "port"),
            ("127.0.0.1:70000", "port"),
            ("", "port"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
