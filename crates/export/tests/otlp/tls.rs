//! TLS: authorities, client certificates, their renewal, and what is said when they do not fit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use export::otlp::{Endpoint, Options, Protocol, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::collector::{Collector, Log, Running, meter, options};
use crate::data::Clock;
use crate::web::Web;

struct Authority(CertifiedIssuer<'static, KeyPair>);

const DAY: Duration = Duration::from_hours(24);

/// A certificate in PEM and DER, and its key in PEM.
struct Signed {
    pem: String,
    der: Vec<u8>,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, name: &str) -> Signed {
        self.sign_until(name, SystemTime::now() + DAY * 365)
    }

    /// Signs a certificate that is good until then.
    fn sign_until(&self, name: &str, end: SystemTime) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_after = end.into();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Signed { pem: certificate.pem(), der: certificate.der().to_vec(), key: key.serialize_pem() }
    }

    /// The settings of a server with a certificate for `name` that wants clients to have one.
    fn server(&self, name: &str) -> ServerTlsConfig {
        let signed = self.sign(name);
        let identity = Identity::from_pem(&signed.pem, &signed.key);
        ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(self.pem()))
    }
}

/// A directory of its own for one test's files.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("telesonde-otlp-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn client(&self, authority: &Authority, signed: &Signed) -> Tls {
        Tls {
            ca: Some(self.write("ca.pem", &authority.pem())),
            cert: Some(self.write("cert.pem", &signed.pem)),
            key: Some(self.write("key.pem", &signed.key)),
            ..Tls::default()
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn start(tls: ServerTlsConfig) -> Collector {
    Collector::start_at("127.0.0.1:0".parse().unwrap(), Log::default(), Some(tls)).await
}

fn secure(collector: &Collector, tls: Tls) -> Options {
    Options { tls, ..options(format!("https://{}", collector.address)) }
}

#[tokio::test]
async fn renewed_client_certificates_are_used_without_a_restart() {
    let authority = Authority::new();
    let files = Files::new("renewal");
    let (first, second) = (authority.sign("agent-1"), authority.sign("agent-2"));
    let collector = start(authority.server("127.0.0.1")).await;
    let clock = Clock::new(2);
    let settings = secure(&collector, files.client(&authority, &first));
    let mut running = Running::start(settings, &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    // For a moment the key does not fit the certificate: the endpoint goes on with what it has.
    files.write("cert.pem", &second.pem);
    running.exports(&clock, 2).await;
    files.write("key.pem", &second.key);
    running.exports(&clock, 2).await;
    running.stop().await;
    let peers: Vec<_> = collector.log.received().into_iter().map(|at| at.peer.unwrap()).collect();
    assert_eq!(peers[0], first.der);
    assert_eq!(peers.last().unwrap(), &second.der);
    let changes = peers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 1);
}

#[tokio::test]
async fn a_new_authority_is_trusted_without_a_restart() {
    let (old, new) = (Authority::new(), Authority::new());
    let files = Files::new("authority");
    let collector = start(old.server("127.0.0.1")).await;
    let clock = Clock::new(2);
    let settings = secure(&collector, files.client(&old, &old.sign("agent")));
    let mut running = Running::start(settings, &clock, Duration::from_secs(20));
    running.exports(&clock, 1).await;
    let (address, log) = collector.stop();
    let _collector = Collector::start_at(address, log, Some(new.server("127.0.0.1"))).await;
    running.until(|status| status.last_error.as_ref().is_some_and(|error| error.contains("tls.ca"))).await;
    files.client(&new, &new.sign("agent"));
    running.exports(&clock, 1).await;
    running.stop().await;
}

/// A server's time, which goes on as a test says.
#[derive(Debug, Default)]
struct Ahead(AtomicU64);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        let ahead = DAY * u32::try_from(self.0.load(Ordering::Relaxed)).ok()?;
        UnixTime::now().as_secs().checked_add(ahead.as_secs()).map(Duration::from_secs).map(UnixTime::since_unix_epoch)
    }
}

impl Authority {
    /// A server as above, of HTTP.
    fn acceptor(&self, time: Arc<Ahead>) -> TlsAcceptor {
        let server = self.sign("127.0.0.1");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let mut config = ServerConfig::builder_with_details(provider, time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(server.pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap(),
            )
            .unwrap();
        // Who comes again shows the certificate again.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn http_posts_over_mutual_tls() {
    let authority = Authority::new();
    let files = Files::new("http");
    let web = Web::start_with([], Some(authority.acceptor(Arc::default()))).await;
    let tls = files.client(&authority, &authority.sign("agent"));
    outcome(Options { tls, protocol: Protocol::Http, ..options(web.url.clone()) }).await.unwrap();
    assert!(!web.received().is_empty());
}

#[tokio::test]
async fn a_client_certificate_that_expires_is_told_and_its_successor_taken_up() {
    let authority = Authority::new();
    let files = Files::new("expiry");
    let time = Arc::<Ahead>::default();
    let web = Web::start_with([], Some(authority.acceptor(time.clone()))).await;
    let clock = Clock::new(2);
    let tls = files.client(&authority, &authority.sign_until("agent-1", SystemTime::now() + DAY));
    let protocol = Protocol::Http;
    let max_connection_age = Duration::from_millis(1);
    let settings = Options { tls, protocol, max_connection_age, ..options(web.url.clone()) };
    let mut running = Running::start(settings, &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    time.0.store(2, Ordering::Relaxed);
    let status = running.until(|status| status.consecutive_failures > 1).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("tls.cert"), "{error}");
    files.client(&authority, &authority.sign("agent-1"));
    running.exports(&clock, 2).await;
    running.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_of_the_receiver_is_told_until_it_is_renewed() {
    let authority = Authority::new();
    let files = Files::new("receiver");
    let collector = start(authority.server("127.0.0.1")).await;
    let clock = Clock::new(2);
    let settings = secure(&collector, files.client(&authority, &authority.sign("agent")));
    let mut running = Running::start(settings, &clock, Duration::from_secs(20));
    running.exports(&clock, 1).await;
    let (address, log) = collector.stop();
    let expired = authority.sign_until("127.0.0.1", SystemTime::now() - DAY);
    let expired = ServerTlsConfig::new().identity(Identity::from_pem(&expired.pem, &expired.key));
    let collector = Collector::start_at(address, log, Some(expired)).await;
    running.until(|status| status.last_error.as_ref().is_some_and(|error| error.contains("expired"))).await;
    let (address, log) = collector.stop();
    let _collector = Collector::start_at(address, log, Some(authority.server("127.0.0.1"))).await;
    running.exports(&clock, 1).await;
    running.stop().await;
}

async fn outcome(settings: Options) -> Result<(), String> {
    let clock = Clock::new(1);
    let mut running = Running::start(settings, &clock, Duration::from_secs(20));
    let status = running.until(|status| status.last_success.is_some() || status.consecutive_failures > 0).await;
    running.stop().await;
    if status.last_success.is_some() { Ok(()) } else { Err(status.last_error.unwrap()) }
}

#[tokio::test]
async fn names_and_authorities_are_checked_unless_told_otherwise() {
    let authority = Authority::new();
    let files = Files::new("names");
    let collector = start(authority.server("otel.example")).await;
    let good = files.client(&authority, &authority.sign("agent"));
    let error = outcome(secure(&collector, good.clone())).await.unwrap_err();
    assert!(error.contains("tls.server_name"), "{error}");
    let named = Tls { server_name: Some("otel.example".to_owned()), ..good.clone() };
    outcome(secure(&collector, named.clone())).await.unwrap();
    let error = outcome(secure(&collector, Tls { ca: None, ..named.clone() })).await.unwrap_err();
    assert!(error.contains("tls.ca"), "{error}");
    let blind = Tls { ca: None, server_name: None, insecure_skip_verify: true, ..good.clone() };
    outcome(secure(&collector, blind)).await.unwrap();
    let error = outcome(secure(&collector, Tls { cert: None, key: None, ..named })).await.unwrap_err();
    assert!(error.contains("tls.cert"), "{error}");
}

#[test]
fn unusable_files_are_named() {
    let files = Files::new("unusable");
    let authority = Authority::new();
    let (one, other) = (authority.sign("one"), authority.sign("other"));
    let good = files.client(&authority, &one);
    let path = |path: &Path| Some(path.to_owned());
    let cases = [
        (Tls { ca: path(Path::new("/nonexistent/ca.pem")), ..good.clone() }, "/nonexistent/ca.pem"),
        (Tls { ca: path(&files.write("empty.pem", "")), ..good.clone() }, "holds no PEM certificate"),
        (Tls { key: path(&files.write("other.pem", &other.key)), ..good.clone() }, "not usable with the certificate"),
        (Tls { key: None, ..good.clone() }, "set tls.key as well"),
        (Tls { cert: None, ..good.clone() }, "set tls.cert as well"),
        (Tls { server_name: Some("a b".to_owned()), ..good }, "`a b` is neither"),
    ];
    for (tls, wanted) in cases {
        let settings = Options { tls, ..options("https://localhost:4317".to_owned()) };
        let error = Endpoint::new(settings, Clock::new(1), &meter()).err().unwrap().to_string();
        assert!(error.contains("endpoint main") && error.contains(wanted), "{error}");
    }
}
