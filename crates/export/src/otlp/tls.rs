//! The client's side of TLS: trusted authorities, the client's own certificate, and their renewal.
//!
//! Files are read again before each export; what they say takes effect with the next connection.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::chain;
use super::{Error, Protocol, Tls};

/// What the files of an endpoint's TLS settings said at one moment.
#[derive(Clone)]
pub(super) struct Material {
    /// The settings for a new connection.
    pub config: Arc<ClientConfig>,
    /// The name that the server must prove and is asked for.
    pub name: ServerName<'static>,
    fingerprint: u64,
}

struct Files {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

/// Reads the files and makes what a connection needs.
///
/// # Errors
/// When a file cannot be read or holds no usable PEM, or when the key does not belong to the certificate.
pub(super) fn load(endpoint: &str, tls: &Tls, host: &str, protocol: Protocol) -> Result<Material, Error> {
    let context = Context { endpoint, tls };
    let files = context.files()?;
    let name = tls.server_name.as_deref().unwrap_or(host);
    let name = ServerName::try_from(name.to_owned())
        .map_err(|_| context.wrong("tls.server_name", name, "is neither a host name nor an IP address"))?;
    let mut config = context.config(&files)?;
    config.alpn_protocols = match protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::Http => vec![b"http/1.1".to_vec()],
    };
    Ok(Material { config: Arc::new(config), name, fingerprint: fingerprint(&files) })
}

/// Gives new material when the files say something else than `known`.
///
/// # Errors
/// As [`load`].
pub(super) fn reload(
    endpoint: &str,
    tls: &Tls,
    known: &Material,
    host: &str,
    protocol: Protocol,
) -> Result<Option<Material>, Error> {
    let files = Context { endpoint, tls }.files()?;
    if fingerprint(&files) == known.fingerprint {
        return Ok(None);
    }
    load(endpoint, tls, host, protocol).map(Some)
}

fn fingerprint(files: &Files) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&files.ca, &files.cert, &files.key).hash(&mut hasher);
    hasher.finish()
}

struct Context<'a> {
    endpoint: &'a str,
    tls: &'a Tls,
}

impl Context<'_> {
    fn files(&self) -> Result<Files, Error> {
        let read = |key, path: Option<&Path>| {
            path.map(std::fs::read).transpose().map_err(|source| Error::File {
                name: self.endpoint.to_owned(),
                key,
                path: path.map(Path::to_owned).unwrap_or_default(),
                source,
            })
        };
        Ok(Files {
            ca: read("tls.ca", self.tls.ca.as_deref())?,
            cert: read("tls.cert", self.tls.cert.as_deref())?,
            key: read("tls.key", self.tls.key.as_deref())?,
        })
    }

    fn config(&self, files: &Files) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.wrong("tls", self.endpoint, &error.to_string()))?;
        let verifier: Arc<dyn ServerCertVerifier> = if self.tls.insecure_skip_verify {
            Arc::new(AnyCertificate(provider))
        } else {
            let roots = Arc::new(self.roots(files.ca.as_deref())?);
            WebPkiServerVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| self.wrong_file("tls.ca", self.tls.ca.as_deref(), &error.to_string()))?
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        match (&files.cert, &files.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => {
                let chain = self.certificates("tls.cert", self.tls.cert.as_deref(), cert)?;
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
                    self.wrong_file("tls.key", self.tls.key.as_deref(), &format!("holds no private key: {error}"))
                })?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let reason = format!("is not usable with the certificate in tls.cert: {error}");
                    self.wrong_file("tls.key", self.tls.key.as_deref(), &reason)
                })
            }
            (Some(_), None) => {
                Err(self.wrong_file("tls.cert", self.tls.cert.as_deref(), "has no key; set tls.key as well"))
            }
            (None, Some(_)) => {
                Err(self.wrong_file("tls.key", self.tls.key.as_deref(), "has no certificate; set tls.cert as well"))
            }
        }
    }

    fn roots(&self, ca: Option<&[u8]>) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = ca {
            for certificate in self.certificates("tls.ca", self.tls.ca.as_deref(), ca)? {
                roots
                    .add(certificate)
                    .map_err(|error| self.wrong_file("tls.ca", self.tls.ca.as_deref(), &error.to_string()))?;
            }
            return Ok(roots);
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            // Minimal images have no authorities of their own.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Ok(roots)
    }

    fn certificates(
        &self,
        key: &'static str,
        path: Option<&Path>,
        pem: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match all {
            Ok(all) if !all.is_empty() => Ok(all),
            Ok(_) => Err(self.wrong_file(key, path, "holds no PEM certificate")),
            Err(error) => Err(self.wrong_file(key, path, &format!("is not PEM: {}", chain(&error)))),
        }
    }

    fn wrong_file(&self, key: &'static str, path: Option<&Path>, reason: &str) -> Error {
        let value = path.map_or_else(|| "(system)".to_owned(), |path| path.display().to_string());
        self.wrong(key, &value, reason)
    }

    fn wrong(&self, key: &'static str, value: &str, reason: &str) -> Error {
        Error::Tls { name: self.endpoint.to_owned(), key, value: value.to_owned(), reason: reason.to_owned() }
    }
}

/// Accepts any certificate, but only from a peer that holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
