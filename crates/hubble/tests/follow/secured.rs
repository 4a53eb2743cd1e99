//! TLS 1.3 and mTLS, with certificates that change while the client runs.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use telesonde_hubble::server::{Setup, Step};
use telesonde_hubble::{Kind, Options, Tls};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

use crate::{Client, message, options, play};

/// An authority and a directory for what it signs, removed at the end.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("telesonde-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, directory };
        std::fs::write(authority.path("ca.crt"), authority.issuer.pem()).unwrap();
        authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Signs a certificate for a name; gives it and its key, PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Gives the server's side, with a client's certificate demanded by `clients`.
    fn server(&self, name: &str, clients: Option<&Self>) -> Setup {
        let (certificate, key) = self.sign(name);
        let mut tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        if let Some(clients) = clients {
            tls = tls.client_ca_root(Certificate::from_pem(clients.issuer.pem()));
        }
        Setup { tls: Some(tls), ..Setup::default() }
    }

    /// Gives the client's side, with a certificate that `by` signed.
    fn client(&self, by: Option<&Self>) -> Tls {
        let identity = by.map(|by| {
            let (certificate, key) = by.sign("telesonde");
            std::fs::write(self.path("tls.crt"), certificate).unwrap();
            std::fs::write(self.path("tls.key"), key).unwrap();
            (self.path("tls.crt"), self.path("tls.key"))
        });
        let server_name = Some("*.hubble-relay.cilium.io".to_owned());
        Tls { ca: Some(self.path("ca.crt")), identity, server_name }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

const NAME: &str = "*.hubble-relay.cilium.io";

fn script() -> telesonde_hubble::server::Script {
    Box::new(|_, _| vec![Step::Send(message(1)), Step::Stall])
}

#[tokio::test]
async fn a_server_proves_its_name() {
    let authority = Authority::new();
    let (_player, address) = play(authority.server(NAME, None), script());
    let client = Client::start(Options { tls: Some(authority.client(None)), ..options(address) });
    client.messages(1).await;
    // By its address alone it cannot.
    let tls = Some(Tls { server_name: None, ..authority.client(None) });
    let (kind, why) = Client::start(Options { tls, ..options(address) }).end().await;
    assert!(kind == Kind::Tls && why.contains("hubble_tls_server_name"), "{why}");
    let stranger = Authority::new();
    let (kind, why) = Client::start(Options { tls: Some(stranger.client(None)), ..options(address) }).end().await;
    assert!(kind == Kind::Tls && why.contains("hubble_tls_ca"), "{why}");
    let plain = Client::start(options(address));
    let (kind, why) = plain.end().await;
    assert!(matches!(kind, Kind::Connect | Kind::Unavailable | Kind::Dead), "{kind:?} {why}");
}

#[tokio::test]
async fn a_client_proves_itself_and_a_new_certificate_is_taken_up() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let (_player, address) = play(authority.server(NAME, Some(&authority)), script());
    let client = Client::start(Options { tls: Some(authority.client(Some(&stranger))), ..options(address) });
    let (_, why) = client.end().await;
    assert_eq!(client.notes.0.lock().unwrap().connected, 0, "{why}");
    // The files change; nobody tells the client.
    authority.client(Some(&authority));
    client.messages(1).await;
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named() {
    let authority = Authority::new();
    let (_player, address) = play(authority.server(NAME, None), script());
    for wrong in ["missing.crt", "empty.crt"] {
        std::fs::write(authority.path("empty.crt"), "").unwrap();
        let tls = Some(Tls { ca: Some(authority.path(wrong)), ..authority.client(None) });
        let (kind, why) = Client::start(Options { tls, ..options(address) }).end().await;
        assert!(kind == Kind::Tls && why.contains(wrong), "{why}");
    }
}
