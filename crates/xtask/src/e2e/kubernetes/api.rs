//! A client of the API server, as its administrator or with a token: one connection a request, over TLS.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::e2e::http::{self, Response};

/// What a body is.
pub const JSON: &str = "application/json";
/// The metadata of an object alone.
pub const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// A part of an object that replaces the same part of the one that is there.
pub const MERGE: &str = "application/merge-patch+json";
/// A manifest, applied as `kubectl apply --server-side` does.
pub const APPLY: &str = "application/apply-patch+yaml";

/// Somebody who asks the API server.
pub struct Client {
    port: u16,
    tls: Arc<ClientConfig>,
    token: Option<String>,
    accept: &'static str,
}

impl Client {
    /// Makes the administrator's client from the certificates of `dir`.
    ///
    /// # Errors
    /// Fails when they cannot be read.
    pub fn administrator(dir: &Path, port: u16) -> Result<Self> {
        let certificate = CertificateDer::from_pem_file(dir.join("admin.pem")).context("admin.pem")?;
        let key = PrivateKeyDer::from_pem_file(dir.join("admin.key")).context("admin.key")?;
        let tls = trusting(dir)?.with_client_auth_cert(vec![certificate], key)?;
        Ok(Self { port, tls: Arc::new(tls), token: None, accept: JSON })
    }

    /// Makes a client that shows a token.
    ///
    /// # Errors
    /// Fails when the certificate of the authority cannot be read.
    pub fn bearer(dir: &Path, port: u16, token: String) -> Result<Self> {
        let tls = trusting(dir)?.with_no_client_auth();
        Ok(Self { port, tls: Arc::new(tls), token: Some(token), accept: JSON })
    }

    /// Makes a client that asks for another form of the same objects.
    pub fn accepting(self, accept: &'static str) -> Self {
        Self { accept, ..self }
    }

    /// Asks, and gives the answer whatever its status.
    ///
    /// # Errors
    /// Fails when the server cannot be reached or stalls for 90 s, more than it gives etcd.
    pub fn ask(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Response> {
        let port = self.port;
        let stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("cannot reach port {port}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(90)))?;
        let connection = ClientConnection::new(Arc::clone(&self.tls), ServerName::try_from("localhost")?)?;
        let token = self.token.as_ref().map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n{token}Connection: close\r\n\r\n{body}",
            self.accept,
            body.len()
        );
        http::exchange(&mut StreamOwned::new(connection, stream), &request)
            .with_context(|| format!("{method} {path} of the API server"))
    }

    /// Asks for something that must be granted, and gives the object in the answer.
    ///
    /// # Errors
    /// Fails when the server says no.
    pub fn must(&self, method: &str, path: &str, kind: &str, body: &str) -> Result<Value> {
        let response = self.ask(method, path, kind, body)?;
        if !(200..300).contains(&response.status) {
            bail!("{method} {path} was answered {}: {}", response.status, response.body.trim());
        }
        serde_json::from_str(&response.body).with_context(|| format!("{method} {path} was not answered in JSON"))
    }

    /// Makes an object.
    ///
    /// # Errors
    /// Fails when the server says no.
    pub fn create(&self, collection: &str, object: &Value) -> Result<Value> {
        self.must("POST", collection, JSON, &object.to_string())
    }

    /// Reads a path.
    ///
    /// # Errors
    /// Fails when the server cannot be reached.
    pub fn get(&self, path: &str) -> Result<Response> {
        self.ask("GET", path, JSON, "")
    }

    /// Applies every document of a manifest as it is written.
    ///
    /// # Errors
    /// Fails when a document has no kind or name, or the server says no.
    pub fn apply(&self, manifest: &str) -> Result<usize> {
        self.apply_with(manifest, "")
    }

    /// Has the server judge every document of a manifest, unknown and doubled fields included, and keep none.
    ///
    /// # Errors
    /// Fails when a document has no kind or name, or the server would say no.
    pub fn judge(&self, manifest: &str) -> Result<usize> {
        self.apply_with(manifest, "&dryRun=All&fieldValidation=Strict")
    }

    fn apply_with(&self, manifest: &str, options: &str) -> Result<usize> {
        let documents = manifest.split("\n---\n").filter(|document| document.contains("kind:"));
        let mut applied = 0;
        for document in documents {
            let path = place(document).with_context(|| format!("no kind or no name is known in:\n{document}"))?;
            self.must("PATCH", &format!("{path}?fieldManager=e2e&force=true{options}"), APPLY, document)?;
            applied += 1;
        }
        Ok(applied)
    }
}

/// Tells where an object of a manifest lives; its lines are those of a manifest as people write it.
fn place(document: &str) -> Option<String> {
    let value = |key: &str| {
        let line = document.lines().find(|line| line.trim_end().starts_with(key))?;
        Some(line[key.len()..].trim())
    };
    let (group, kind, name) = (value("apiVersion:")?, value("kind:")?, value("  name:")?);
    let group = if group.contains('/') { format!("/apis/{group}") } else { format!("/api/{group}") };
    let lower = kind.to_lowercase();
    let plural = match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if lower.ends_with("ss") => format!("{lower}es"),
        None if lower.ends_with('s') => lower,
        None => format!("{lower}s"),
    };
    Some(match value("  namespace:").filter(|_| !kind.starts_with("Cluster")) {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{group}/{plural}/{name}"),
    })
}

fn trusting(dir: &Path) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).context("ca.pem")?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_a_place() {
        let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: telesonde\n";
        assert_eq!(place(role).unwrap(), "/apis/rbac.authorization.k8s.io/v1/clusterroles/telesonde");
        let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: a\n  namespace: b\n";
        assert_eq!(place(account).unwrap(), "/api/v1/namespaces/b/serviceaccounts/a");
        assert_eq!(place("kind: Namespace\n"), None);
        let place = |kind| place(&format!("apiVersion: v1\nkind: {kind}\n  name: x\n")).unwrap();
        assert_eq!(place("NetworkPolicy"), "/api/v1/networkpolicies/x");
        assert_eq!(place("PriorityClass"), "/api/v1/priorityclasses/x");
        assert_eq!(place("SecurityContextConstraints"), "/api/v1/securitycontextconstraints/x");
    }
}
