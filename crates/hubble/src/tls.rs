//! The client's side of TLS 1.3. The files are read for each connection, so that what rotates takes effect.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use crate::failure::{Failure, Kind, chain};

/// Where the certificates lie, and whose name the server must prove.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The authority that signed the server's certificate; without one those of the system.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server must prove instead of the address' host.
    pub server_name: Option<String>,
}

fn failed(detail: String) -> Failure {
    Failure::new(Kind::Tls, detail)
}

impl Tls {
    /// Gives the name that a server at `host` must prove.
    pub(crate) fn name(&self, host: &str) -> Result<ServerName<'static>, Failure> {
        let name = self.server_name.as_deref().unwrap_or(host);
        // Hubble's certificates are for *.NAME; the name asked for has to be one of those it covers.
        let name = name.strip_prefix("*.").map_or_else(|| name.to_owned(), |rest| format!("telesonde.{rest}"));
        ServerName::try_from(name.clone()).map_err(|_| failed(format!("{name:?} is no name of a server")))
    }

    /// Reads the files.
    pub(crate) fn load(&self) -> Result<Arc<ClientConfig>, Failure> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| failed(format!("{}: {error}", path.display())))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            return Err(failed("this host trusts no authority: name the server's".to_owned()));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let pem = read(key)?;
                let wrong = |error: &dyn std::error::Error| {
                    failed(format!("{}: {}", key.display(), crate::failure::chain(error)))
                };
                let secret = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| wrong(&error))?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| wrong(&error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| failed(format!("cannot read {}: {error}", path.display())))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(failed(format!("{} holds no PEM certificate", path.display()))),
        Err(error) => Err(failed(format!("{} is not PEM: {}", path.display(), chain(&error)))),
    }
}

/// Describes why a handshake failed and what to look at.
pub(crate) fn refused(error: &std::io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let fix = match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            "hubble_tls_ca must be the authority that signed the server's certificate"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "set hubble_tls_server_name to a name in the server's certificate",
        Some(rustls::Error::InvalidCertificate(_)) => "check the server's certificate and the clocks of both sides",
        Some(rustls::Error::AlertReceived(_)) => "the server may want another client certificate",
        Some(rustls::Error::InvalidMessage(_)) => "the port does not speak TLS: set hubble_tls_enabled: false",
        _ => "check that the port speaks TLS",
    };
    failed(format!("TLS failed: {}; {fix}", chain(error)))
}
