//! TLS for listeners, with certificates that are read again when their files change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::Error;

/// How long the state of the files is believed.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The files of a listener's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The certificate chain (PEM), the server's own first.
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// The authorities (PEM) of which every client needs a certificate; without them clients need none.
    pub client_authority: Option<PathBuf>,
}

/// What tells one version of the files from another: inode, size and time of change of each.
type Version = Vec<(u64, u64, i64, i64)>;

/// A TLS configuration that follows its files.
#[derive(Debug)]
pub(super) struct Identity {
    options: TlsOptions,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    version: Version,
    /// The version that was refused last: it is reported once.
    refused: Version,
    checked: Instant,
}

impl Identity {
    pub(super) fn load(options: TlsOptions) -> Result<Self, Error> {
        let version = version(&options);
        let config = config(&options)?;
        let current = Current { config, version, refused: Vec::new(), checked: Instant::now() };
        Ok(Self { options, current: Mutex::new(current) })
    }

    /// Gives the configuration for a new connection. Files that cannot be used leave the one before in place.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.checked.elapsed() >= CHECK_EVERY {
            current.checked = Instant::now();
            let version = version(&self.options);
            if version != current.version {
                match config(&self.options) {
                    Ok(config) => {
                        tracing::info!(certificate = %self.options.certificate.display(), "certificates read again");
                        current.config = config;
                        current.version = version;
                    }
                    // A pair that is being replaced does not fit together for a moment: the next check will tell.
                    Err(error) if version != current.refused => {
                        tracing::warn!(%error, "the changed certificates are not used");
                        current.refused = version;
                    }
                    Err(_) => {}
                }
            }
        }
        current.config.clone()
    }
}

fn version(options: &TlsOptions) -> Version {
    let files = [Some(&options.certificate), Some(&options.key), options.client_authority.as_ref()];
    let describe = |path: &PathBuf| {
        fs::metadata(path).map_or((0, 0, 0, 0), |found| (found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.into_iter().flatten().map(describe).collect()
}

fn config(options: &TlsOptions) -> Result<Arc<ServerConfig>, Error> {
    let certificates = certificates(&options.certificate, "certificate")?;
    let key = PrivateKeyDer::from_pem_file(&options.key)
        .map_err(|error| unusable("private key", &options.key, &error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("certificate", &options.certificate, &error.to_string()))?;
    let builder = match &options.client_authority {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let what = "client authority";
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path, what)? {
                roots.add(certificate).map_err(|error| unusable(what, path, &error.to_string()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()))
                    .build()
                    .map_err(|error| unusable(what, path, &error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| unusable("certificate", &options.certificate, &error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unusable(what, path, "the file has no PEM certificate")),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(what, path, &error.to_string())),
    }
}

fn unusable(what: &'static str, path: &Path, reason: &str) -> Error {
    Error::Tls { what, path: path.display().to_string(), reason: reason.to_owned() }
}
