//! Requests to the API server: who asks, what may go wrong, and how much is read of an answer.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Config;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::params::{GetParams, ListParams, PostParams, VersionMatch, WatchParams};
use tokio::time::timeout;

use super::pod::{Status, value};

/// How long a connection, and then an answer's head, may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long an object or a list may take.
const LIST_PATIENCE: Duration = Duration::from_mins(1);
/// The largest list.
const LIST_LIMIT: usize = 256 << 20;
/// The largest answer that tells of an error.
const ERROR_LIMIT: usize = 64 << 10;

/// Why the API server did not give what was asked for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no way to ask.
    Configuration(String),
    /// No answer.
    Unreachable(String),
    /// The answer is that it will not.
    Refused(u16, String),
    /// The answer is none of the Kubernetes API.
    Foreign(String),
}

impl Trouble {
    /// Gives its type in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Configuration(_) => "configuration",
            Self::Unreachable(_) => "unreachable",
            Self::Foreign(_) => "not_kubernetes",
            Self::Refused(401, _) => "unauthorized",
            Self::Refused(403, _) => "forbidden",
            Self::Refused(404, _) => "not_found",
            Self::Refused(410, _) => "expired",
            Self::Refused(429, _) => "throttled",
            Self::Refused(..) => "server",
        }
    }

    /// Says what is wrong and what to do about it.
    pub fn explain(&self, what: &str, resource: &str) -> String {
        match self {
            Self::Configuration(why) => why.clone(),
            Self::Unreachable(why) => format!("cannot {what} {resource}: {why}"),
            Self::Foreign(why) => format!("what answers is no Kubernetes API: {why}; check the server's address"),
            Self::Refused(401, why) => {
                format!("the API server does not know the agent (401: {why}); check its service account or kubeconfig")
            }
            Self::Refused(403, why) => {
                format!("the right to {what} {resource} is missing (403: {why}); see docs/kubernetes.md for the role")
            }
            Self::Refused(code, why) => format!("the API server refuses to {what} {resource} ({code}: {why})"),
        }
    }
}

/// The way to the API server.
#[derive(Clone)]
pub(super) struct Client {
    client: kube::Client,
    /// The namespace that the credentials are for.
    namespace: String,
}

impl Client {
    /// Reads the kubeconfig or the service account.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, Trouble> {
        let wrong = |what: String, error: &dyn Error| Trouble::Configuration(format!("{what}: {}", chain(error)));
        let mut config = match kubeconfig {
            Some(path) => {
                let unusable = || format!("enrich.kubernetes.kubeconfig: cannot use {}", path.display());
                let read = Kubeconfig::read_from(path).map_err(|error| wrong(unusable(), &error))?;
                let made = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
                made.map_err(|error| wrong(unusable(), &error))?
            }
            None => Config::incluster().map_err(|error| {
                let what = "no service account: run in a pod that has one, or set enrich.kubernetes.kubeconfig";
                wrong(what.to_owned(), &error)
            })?,
        };
        config.connect_timeout = Some(PATIENCE);
        // Repeating is done here, at a pace that spares the server.
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = kube::Client::try_from(config);
        client
            .map(|client| Self { client, namespace })
            .map_err(|error| wrong("cannot use the Kubernetes credentials".to_owned(), &error))
    }

    /// Lists what is at a path from the server's cache, all of it or by a field selector.
    pub async fn list(&self, path: &str, selector: Option<&str>) -> Result<Vec<u8>, Trouble> {
        let mut parameters = ListParams::default().at("0");
        parameters.field_selector = selector.map(str::to_owned);
        parameters.version_match = Some(VersionMatch::NotOlderThan);
        let answer = self.send(built(kube::core::Request::new(path).list(&parameters))?).await?;
        read(answer).await
    }

    /// Begins to watch what is at a path from a version on, for as many seconds.
    pub async fn watch(
        &self,
        path: &str,
        selector: Option<&str>,
        version: &str,
        seconds: u32,
    ) -> Result<Body, Trouble> {
        let mut parameters = WatchParams::default().timeout(seconds);
        parameters.field_selector = selector.map(str::to_owned);
        let request = built(kube::core::Request::new(path).watch(&parameters, version))?;
        self.send(request).await.map(Response::into_body)
    }

    /// Gets the metadata of an object by the path of its resource.
    pub async fn metadata(&self, path: &str, name: &str) -> Result<Vec<u8>, Trouble> {
        let request = built(kube::core::Request::new(path).get_metadata(name, &GetParams::any()))?;
        read(self.send(request).await?).await
    }

    /// Gets a Lease.
    pub async fn lease(&self, name: &str) -> Result<Lease, Trouble> {
        let request = kube::core::Request::new(self.leases()).get(name, &GetParams::default());
        lease(self.send(built(request)?).await?).await
    }

    /// Makes a Lease that is not there.
    pub async fn make_lease(&self, new: &Lease) -> Result<Lease, Trouble> {
        let request = kube::core::Request::new(self.leases()).create(&PostParams::default(), encoded(new)?);
        lease(self.send(built(request)?).await?).await
    }

    /// Replaces a Lease, unless somebody else has done so.
    pub async fn put_lease(&self, name: &str, new: &Lease) -> Result<Lease, Trouble> {
        let request = kube::core::Request::new(self.leases()).replace(name, &PostParams::default(), encoded(new)?);
        lease(self.send(built(request)?).await?).await
    }

    fn leases(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace)
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Body>, Trouble> {
        let answer = timeout(PATIENCE, self.client.send(request.map(Body::from))).await;
        let answer = answer.map_err(|_| Trouble::Unreachable(format!("no answer within {} s", PATIENCE.as_secs())))?;
        let answer = answer.map_err(|error| Trouble::Unreachable(chain(&error)))?;
        let status = answer.status();
        let content = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("nothing said");
        let is_json = content.starts_with("application/json");
        if status.is_success() {
            let foreign = || Trouble::Foreign(format!("{} with content of type {}", status.as_u16(), value(content)));
            return if is_json { Ok(answer) } else { Err(foreign()) };
        }
        let reason = status.canonical_reason().unwrap_or("unknown").to_owned();
        let body = Limited::new(answer.into_body(), ERROR_LIMIT).collect();
        let body = timeout(PATIENCE, body).await.ok().and_then(Result::ok).filter(|_| is_json);
        let told = body.and_then(|body| serde_json::from_slice::<Status>(&body.to_bytes()).ok());
        let told = told.map(|status| value(&status.message)).filter(|message| !message.is_empty());
        Err(Trouble::Refused(status.as_u16(), told.unwrap_or(reason)))
    }
}

fn built(request: Result<Request<Vec<u8>>, kube::core::request::Error>) -> Result<Request<Vec<u8>>, Trouble> {
    request.map_err(|error| Trouble::Configuration(chain(&error)))
}

fn encoded(lease: &Lease) -> Result<Vec<u8>, Trouble> {
    serde_json::to_vec(lease).map_err(|error| Trouble::Configuration(chain(&error)))
}

async fn lease(answer: Response<Body>) -> Result<Lease, Trouble> {
    serde_json::from_slice(&read(answer).await?)
        .map_err(|error| Trouble::Foreign(format!("a Lease: {}", chain(&error))))
}

async fn read(answer: Response<Body>) -> Result<Vec<u8>, Trouble> {
    let body = timeout(LIST_PATIENCE, Limited::new(answer.into_body(), LIST_LIMIT).collect()).await;
    let body = body.map_err(|_| Trouble::Unreachable(format!("no end within {} s", LIST_PATIENCE.as_secs())))?;
    body.map(|body| body.to_bytes().into()).map_err(|error| Trouble::Unreachable(chain(&*error)))
}

/// Gives an error with what caused it, in the words that say something to whoever reads it.
pub(super) fn chain(error: &dyn Error) -> String {
    // The client names its own type first; rustls closes with the address of a manual for programmers.
    let plain = |error: &dyn Error| {
        let text = error.to_string();
        let text = text.strip_prefix("ServiceError: ").unwrap_or(&text);
        text.split_once(": https://").map_or(text, |(text, _)| text).to_owned()
    };
    let mut text = plain(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = plain(error);
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    value(&text)
}
