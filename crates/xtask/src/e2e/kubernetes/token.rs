//! Tokens of the agent's service account: one that the API server issues, and one signed here with the server's own key,
//! because the server issues none that ends before ten minutes.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use super::api::Client;

/// Who issues the tokens of service accounts, and for whom.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The agent's account and its namespace, as in the manifest.
pub const ACCOUNT: &str = "telesonde";

/// How long after its end a server still takes a token.
const LEEWAY: Duration = Duration::from_mins(1);

/// The key that signs tokens.
pub struct Signer(KeyPair);

impl Signer {
    /// Makes a key and writes it for the API server.
    ///
    /// # Errors
    /// Fails when it cannot be written.
    pub fn prepare(dir: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        fs::write(dir.join("service-account.key"), key.serialize_pem()).context("cannot write the key of tokens")?;
        fs::write(dir.join("service-account.pub"), key.public_key_pem()).context("cannot write its public half")?;
        Ok(Self(key))
    }

    /// Signs a token of the account with this uid that the server refuses after `life`.
    ///
    /// # Errors
    /// Fails when the key cannot sign.
    pub fn token(&self, uid: &str, life: Duration) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({
            "iss": ISSUER,
            "aud": [ISSUER],
            "sub": format!("system:serviceaccount:{ACCOUNT}:{ACCOUNT}"),
            "iat": now - LEEWAY.as_secs(),
            "nbf": now - LEEWAY.as_secs(),
            "exp": now + life.as_secs() - LEEWAY.as_secs(),
            "kubernetes.io": {"namespace": ACCOUNT, "serviceaccount": {"name": ACCOUNT, "uid": uid}},
        });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256","typ":"JWT"}"#),
            URL_SAFE_NO_PAD.encode(claims.to_string().as_bytes())
        );
        let signature = self.0.sign(signed.as_bytes())?;
        let numbers = numbers(&signature).context("the signature is no pair of numbers")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&numbers)))
    }
}

/// Asks the API server for a token of the account with the shortest life that it grants.
///
/// # Errors
/// Fails when the server says no.
pub fn issued(administrator: &Client) -> Result<String> {
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let path = format!("/api/v1/namespaces/{ACCOUNT}/serviceaccounts/{ACCOUNT}/token");
    let answer: Value = administrator.create(&path, &request)?;
    Ok(answer["status"]["token"].as_str().context("the answer has no token")?.to_owned())
}

/// Turns a signature in DER, a sequence of two integers, into the two 32-byte numbers that a token carries.
fn numbers(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der.strip_prefix(&[0x30]).and_then(|rest| rest.get(1..))?;
    let mut out = Vec::with_capacity(64);
    for _ in 0..2 {
        let length = usize::from(*rest.strip_prefix(&[0x02])?.first()?);
        let number = rest.get(2..2 + length)?;
        let significant = &number[number.iter().take_while(|&&byte| byte == 0).count()..];
        out.resize(out.len() + 32usize.checked_sub(significant.len())?, 0);
        out.extend_from_slice(significant);
        rest = &rest[2 + length..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_two_numbers_of_one_length() {
        let der = [&[0x30, 0x25, 0x02, 0x21, 0x00][..], &[0x80; 32], &[0x02, 0x01, 0x05]].concat();
        let numbers = numbers(&der).unwrap();
        assert_eq!((numbers.len(), numbers[0], numbers[31], numbers[32], numbers[63]), (64, 0x80, 0x80, 0, 5));
    }
}
