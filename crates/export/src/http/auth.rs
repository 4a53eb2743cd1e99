//! HTTP authentication: basic credentials or a bearer token.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq as _;

use super::Response;

/// Who may ask. Its debug output shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// A user name and a password.
    Basic {
        /// The user name; it has no colon.
        username: String,
        /// The password.
        password: String,
    },
    /// A token.
    Bearer {
        /// The token.
        token: String,
    },
}

impl Auth {
    /// Says whether a request carries the credentials, in a time that does not depend on how much of them is right.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
        let Some(at) = value.as_bytes().iter().position(|&byte| byte == b' ') else { return false };
        let (scheme, given) = value.as_bytes().split_at(at);
        let given = given.trim_ascii();
        match self {
            Self::Basic { username, password } => {
                let given = scheme.eq_ignore_ascii_case(b"basic").then(|| STANDARD.decode(given).ok()).flatten();
                given.is_some_and(|given| same(&given, format!("{username}:{password}").as_bytes()))
            }
            Self::Bearer { token } => scheme.eq_ignore_ascii_case(b"bearer") && same(given, token.as_bytes()),
        }
    }

    /// Makes the answer to a request without the credentials.
    pub fn challenge(&self) -> Response {
        let (value, what) = match self {
            Self::Basic { .. } => ("Basic realm=\"telesonde\", charset=\"UTF-8\"", "a user name and a password"),
            Self::Bearer { .. } => ("Bearer realm=\"telesonde\"", "a bearer token"),
        };
        Response::text(StatusCode::UNAUTHORIZED, format!("this address needs {what}\n"))
            .with(header::WWW_AUTHENTICATE, value)
    }
}

fn same(given: &[u8], expected: &[u8]) -> bool {
    given.ct_eq(expected).into()
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic(redacted)",
            Self::Bearer { .. } => "Bearer(redacted)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(auth: &Auth, value: &str) -> bool {
        auth.admits(&HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]))
    }

    #[test]
    fn only_the_right_credentials_pass() {
        let basic = Auth::Basic { username: "scraper".into(), password: "pä:ss".into() };
        let encode = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(admits(&basic, &encode("scraper:pä:ss")));
        assert!(admits(&basic, &encode("scraper:pä:ss").replace("Basic", "basic ")));
        for wrong in ["scraper:pä:s", "scraper:pä:sss", "scraper", ":", "", "other:pä:ss"] {
            assert!(!admits(&basic, &encode(wrong)), "{wrong}");
        }
        assert!(!admits(&basic, "Basic ***"));
        assert!(!admits(&basic, "Bearer scraper"));

        let bearer = Auth::Bearer { token: "t0ken".into() };
        assert!(admits(&bearer, "Bearer t0ken"));
        for wrong in ["Bearer t0keN", "Bearer t0ken2", "Bearer ", "Bearer", "t0ken", "Basic t0ken"] {
            assert!(!admits(&bearer, wrong), "{wrong}");
        }
        assert!(!bearer.admits(&HeaderMap::new()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let auth = Auth::Bearer { token: "t0ken".into() };
        assert!(!format!("{auth:?}").contains("t0ken"));
    }
}
