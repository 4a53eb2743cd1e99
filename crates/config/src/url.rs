//! The little of URLs that endpoints need: scheme, authority and path.

/// The parts of an `http` or `https` URL; query and fragment are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub(crate) scheme: &'a str,
    pub(crate) authority: &'a str,
    /// Empty, or beginning with a slash.
    pub(crate) path: &'a str,
}

/// Takes a URL apart, or says what is wrong with it without repeating it: it may hold a password.
pub(crate) fn parse(text: &str) -> Result<Parts<'_>, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("the scheme is missing: write http://HOST:PORT, or https://HOST:PORT for TLS".to_owned());
    };
    if scheme != "http" && scheme != "https" {
        return Err("the scheme must be http or https".to_owned());
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.contains('@') {
        return Err("user and password do not belong in a URL: send them with headers".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err("a query or fragment has no meaning here".to_owned());
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it contains white space".to_owned());
    }
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(host, port)| (host, port.strip_prefix(':'))),
        None => match authority.rsplit_once(':') {
            Some((host, port)) => Some((host, Some(port))),
            None => Some((authority, None)),
        },
    };
    match host {
        Some((host, port)) if !host.is_empty() && port.is_none_or(|port| port.parse::<u16>().is_ok()) => {
            Ok(Parts { scheme, authority, path })
        }
        Some(("", _)) | None => Err("the host is missing".to_owned()),
        Some(_) => Err("the port is not between 0 and 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        let parts = parse("https://[::1]:4318/base/v1/metrics").expect("valid");
        assert_eq!(parts, Parts { scheme: "https", authority: "[::1]:4318", path: "/base/v1/metrics" });
        assert_eq!(parse("http://host").expect("valid").path, "");
    }

    #[test]
    fn each_mistake_has_its_own_sentence() {
        for (text, part) in [
            ("collector:4317", "scheme is missing"),
            ("grpc://collector:4317", "http or https"),
            ("http://user:secret@host", "headers"),
            ("http://:4317", "host is missing"),
            ("http://host:port", "port"),
            ("http://host/?a=b", "query"),
            ("http://ho st", "white space"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part) && !error.contains("secret@"), "{text}: {error}");
        }
    }
}
