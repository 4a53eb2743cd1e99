//! TLS and mTLS, with certificates that change while the server runs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use telesonde_export::http::tls::TlsOptions;
use telesonde_export::prometheus::{Options, bind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fixture::{Gathers, everything};
use crate::server::{options, start_with};

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("telesonde-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Issues a certificate for `localhost`: certificate and key in PEM.
fn issue(issuer: &Issuer) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

/// Asks for the index and gives the first line of the answer, or what went wrong.
async fn ask(address: SocketAddr, trusted: &Issuer, identity: Option<&(String, String)>) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let answer = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.lines().next().unwrap_or_default().to_owned())
    };
    answer.await.map_err(|error| error.to_string())
}

fn with_tls(tls: TlsOptions) -> Options {
    Options { tls: Some(tls), ..options() }
}

fn server_identity(directory: &Directory, issuer: &Issuer) -> TlsOptions {
    let (certificate, key) = issue(issuer);
    TlsOptions {
        certificate: directory.write("server.pem", &certificate),
        key: directory.write("server.key", &key),
        client_authority: None,
    }
}

#[tokio::test]
async fn changed_certificates_are_used_without_a_restart() {
    let directory = Directory::new("reload");
    let (before, after) = (authority(), authority());
    let tls = server_identity(&directory, &before);
    let server = start_with(with_tls(tls), Gathers::new(everything(), u64::MAX));
    assert_eq!(ask(server.address, &before, None).await.unwrap(), "HTTP/1.1 200 OK");
    assert!(ask(server.address, &after, None).await.is_err());
    // Half of a new pair leaves the old one in use.
    let (certificate, key) = issue(&after);
    directory.write("server.pem", &certificate);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(ask(server.address, &before, None).await.unwrap(), "HTTP/1.1 200 OK");
    directory.write("server.key", &key);
    for _ in 0..100 {
        if ask(server.address, &after, None).await.is_ok() {
            assert!(ask(server.address, &before, None).await.is_err());
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the new certificate was never used");
}

#[tokio::test]
async fn clients_need_a_certificate_where_an_authority_is_set() {
    let directory = Directory::new("mutual");
    let (servers, clients) = (authority(), authority());
    let mut tls = server_identity(&directory, &servers);
    tls.client_authority = Some(directory.write("clients.pem", &clients.pem()));
    let server = start_with(with_tls(tls), Gathers::new(everything(), u64::MAX));
    assert_eq!(ask(server.address, &servers, Some(&issue(&clients))).await.unwrap(), "HTTP/1.1 200 OK");
    assert!(ask(server.address, &servers, None).await.is_err());
    assert!(ask(server.address, &servers, Some(&issue(&servers))).await.is_err());
}

#[tokio::test]
async fn a_plain_request_gets_no_answer() {
    let directory = Directory::new("plain");
    let tls = server_identity(&directory, &authority());
    let server = start_with(with_tls(tls), Gathers::new(everything(), u64::MAX));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
}

#[tokio::test]
async fn errors_name_the_file() {
    use opentelemetry::metrics::MeterProvider as _;

    let directory = Directory::new("errors");
    let good = server_identity(&directory, &authority());
    let empty = directory.write("empty.pem", "nothing\n");
    let stranger = directory.write("stranger.key", &KeyPair::generate().unwrap().serialize_pem());
    let missing = Path::new("/nonexistent/ca.pem").to_owned();
    let cases = [
        (TlsOptions { certificate: empty.clone(), ..good.clone() }, "the certificate in", "empty.pem: the file has no"),
        (TlsOptions { key: empty.clone(), ..good.clone() }, "the private key in", "empty.pem"),
        (TlsOptions { key: stranger, ..good.clone() }, "the certificate in", "server.pem"),
        (TlsOptions { client_authority: Some(missing), ..good }, "the client authority in", "/nonexistent/ca.pem"),
    ];
    for (tls, what, place) in cases {
        let meter = opentelemetry_sdk::metrics::SdkMeterProvider::builder().build().meter("test");
        let error = bind(with_tls(tls), Gathers::new(everything(), 0), &meter).err().unwrap().to_string();
        assert!(error.contains(what) && error.contains(place), "{error}");
    }
}
