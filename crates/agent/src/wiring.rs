//! The only place where the crates meet: it turns the configuration into the options of each.

mod peers;
mod platform;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::probe::Facts;
use config::{Config, Loaded, Sources, Switch};
use enrich::kubernetes::{KUBERNETES, Known, Kubernetes, parse_selector};
use enrich::{Hierarchy, Kind, Settings, State, Workloads, runtimes};
use export::http::auth::Auth;
use export::http::tls::TlsOptions;
use export::{otlp, prometheus};
use runtime::{Clock, Descriptor, Elections, Executables, Limits, Options};
use tokio::runtime::Handle;

use crate::cli::Cli;
use crate::elections::Leases;
use crate::exit::{Exit, Failure};
use crate::identity::{self, Given};
use crate::logging::LogFormat;
pub use peers::peers;
pub use platform::{even_scale, platform, selections, spare_scale, tune};

/// How long a gather waits for one collector.
const COLLECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Describes the collectors' sections to the configuration.
pub fn sections(registry: &[&'static Descriptor]) -> Vec<config::Section> {
    let describe = |descriptor: &&'static Descriptor| config::Section {
        name: descriptor.name,
        defaults: (descriptor.section.defaults)(),
        schema: (descriptor.section.schema)(),
        check: descriptor.section.check,
    };
    registry.iter().map(describe).collect()
}

/// Loads a configuration.
///
/// # Errors
/// Fails with everything that is wrong, a line each.
pub fn load(sources: &Sources, registry: &[&'static Descriptor]) -> Result<Loaded, Failure> {
    let loaded = config::load(sources, &sections(registry))
        .map_err(|errors| Failure::new(Exit::Configuration, errors.to_string()))?;
    // What only those can judge who use it.
    kubernetes(&loaded.config)?.ok();
    peers::networks(&loaded.config)?;
    Ok(loaded)
}

/// Gives the admin socket, even where the configuration is wrong elsewhere.
pub fn socket(cli: &Cli, registry: &[&'static Descriptor]) -> PathBuf {
    let given = config::glance(&sources(cli), &sections(registry), "admin.socket");
    given.map_or_else(|| Config::default().admin.socket, PathBuf::from)
}

/// Gives what the configuration of a command line is made of.
pub fn sources(cli: &Cli) -> Sources {
    let default_file = cli.config.is_empty().then(|| PathBuf::from(config::DEFAULT_FILE));
    let env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    Sources { files: cli.config.clone(), default_file, env: env.collect(), set: cli.set.clone() }
}

/// Gives the log's level (nothing: no log) and format.
pub fn log(config: &Config) -> (Option<tracing::Level>, LogFormat) {
    use config::sections::agent::{LogFormat as Format, LogLevel};
    let level = match config.log.level {
        LogLevel::Off => None,
        LogLevel::Error => Some(tracing::Level::ERROR),
        LogLevel::Warn => Some(tracing::Level::WARN),
        LogLevel::Info => Some(tracing::Level::INFO),
        LogLevel::Debug => Some(tracing::Level::DEBUG),
        LogLevel::Trace => Some(tracing::Level::TRACE),
    };
    let format = match config.log.format {
        Format::Auto => LogFormat::Auto,
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    (level, format)
}

/// Looks at the host, where the configuration says that it is to be seen.
pub fn facts(config: &Config) -> Facts {
    Facts::gather_with(config.host.cgroups().as_deref())
}

/// Makes the kernel's table of executables where they are to be told apart.
///
/// # Errors
/// Fails when the kernel refuses to make it.
pub fn executables(loaded: &Loaded) -> Result<Option<Arc<Executables>>, Failure> {
    if loaded.config.integrations.ebpf.granularity != config::sections::integrations::Granularity::Process {
        return Ok(None);
    }
    let entries = own_number(loaded, "max_executables").unwrap_or(1);
    let made = Executables::new(entries).map_err(|error| Failure::new(Exit::Unable, error.to_string()))?;
    Ok(Some(Arc::new(made)))
}

/// Takes the directory where maps and programs are pinned that outlive the agent, where there is to be one.
///
/// # Errors
/// Fails when nothing can be pinned there.
pub fn pins(config: &Config) -> Result<Option<bpf::Pins>, Failure> {
    pinnable(config, bpf::Pins::open)
}

/// Makes that directory for an agent of another user.
///
/// # Errors
/// Fails when it cannot be made or given away.
pub fn prepare(config: &Config, user: u32) -> Result<(), Failure> {
    pinnable(config, |path| bpf::Pins::prepare(path, user)).map(drop)
}

fn pinnable<T>(config: &Config, open: impl FnOnce(&Path) -> Result<T, bpf::Error>) -> Result<Option<T>, Failure> {
    let path = given(&config.integrations.ebpf.pin_path);
    path.map(|path| open(&path)).transpose().map_err(|error| {
        Failure::new(Exit::Configuration, format!("integrations.ebpf.pin_path: {error}; or leave it empty"))
    })
}

/// Gives a number of the section of the collector that looks after cgroups, whether it runs or not.
fn own_number(loaded: &Loaded, key: &str) -> Option<u32> {
    let cgroup = loaded.collectors.iter().find(|selection| selection.name == "cgroup")?;
    u32::try_from(cgroup.section[key].as_u64()?).ok()
}

/// Starts enrichment on the primary cgroup hierarchy, and what tells it of pods.
///
/// # Errors
/// Fails when the hierarchy is not mounted or cannot be read, or when the selector of pods is none.
pub fn workloads(
    config: &Config,
    facts: &Facts,
    executables: Option<&Arc<Executables>>,
) -> Result<Arc<Workloads>, Failure> {
    use config::sections::integrations::Granularity;
    let Some(mount) = facts.cgroups.mount.clone() else {
        let fix = match config.host.cgroups() {
            Some(path) => format!("nothing is mounted at or below {} (host.cgroup, host.root)", path.display()),
            None => "mount cgroup2 at /sys/fs/cgroup".to_owned(),
        };
        return Err(Failure::new(Exit::Unable, format!("no cgroup hierarchy is to be seen: {fix}")));
    };
    let kubernetes = kubernetes(config)?;
    let host = config.host.clone();
    let places = runtimes::Places::usual(move |path| host.file(path));
    let settings = Settings {
        granularity: match config.integrations.ebpf.granularity {
            Granularity::Node => enrich::Granularity::Node,
            Granularity::Container | Granularity::Process => enrich::Granularity::Container,
        },
        executables: executables.map(|executables| Arc::clone(executables) as Arc<dyn model::Executables>),
        drop: config.enrich.attributes.drop.clone(),
        add: config.enrich.attributes.add.clone(),
        container_filter: config.integrations.ebpf.container_filter.clone(),
        filters_pods: filters_pods(config),
        expects: [(kubernetes.is_ok(), Kind::Pods), (places.readable(), Kind::Containers)]
            .into_iter()
            .filter_map(|(named, kind)| named.then_some(kind))
            .collect(),
        ..Settings::default()
    };
    let started = Workloads::start(Hierarchy { mount, whole: facts.cgroups.whole }, &settings);
    let workloads = started.map(Arc::new).map_err(|error| Failure::new(Exit::Unable, error.to_string()))?;
    match kubernetes {
        Ok(kubernetes) => {
            // Whoever looks before the task has begun has to know that it is to be waited for.
            workloads.report(KUBERNETES, State::Starting);
            drop(tokio::spawn(kubernetes.follow(Arc::clone(&workloads))));
        }
        Err(why) => {
            if filters_pods(config) {
                tracing::warn!(
                    "namespace_filter and pod_selector let nothing be observed without names of pods: {why}"
                );
            }
            workloads.report(KUBERNETES, State::Off(why));
        }
    }
    runtimes::start(places, &workloads).map_err(|error| {
        Failure::new(Exit::Unable, format!("cannot start the thread that names containers: {error}"))
    })?;
    Ok(workloads)
}

/// Gives what follows the node's pods, or else why nothing does.
///
/// # Errors
/// Fails when the selector of pods is none.
fn kubernetes(config: &Config) -> Result<Result<Kubernetes, String>, Failure> {
    use config::sections::agent::DeploymentMode::{Kubernetes as Cluster, Vm};
    let (section, ebpf) = (&config.enrich.kubernetes, &config.integrations.ebpf);
    let selector = parse_selector(&ebpf.pod_selector).map_err(|why| {
        Failure::new(Exit::Configuration, format!("integrations.ebpf.pod_selector: {why}; write it as for kubectl -l"))
    })?;
    let found = given(&section.kubeconfig).is_some() || identity::has_service_account();
    let why = match (section.enabled, config.agent.deployment_mode) {
        (Switch::False, _) => Some("enrich.kubernetes.enabled is false"),
        (Switch::Auto, Vm) => Some("agent.deployment_mode is vm"),
        (Switch::Auto, mode) if mode != Cluster && !found => {
            Some("there is no service account of a pod, and enrich.kubernetes.kubeconfig is empty")
        }
        _ => None,
    };
    if let Some(why) = why {
        return Ok(Err(why.to_owned()));
    }
    Ok(Ok(Kubernetes {
        // The kubelet registers its node in lower case.
        node: node_name(config).to_lowercase(),
        kubeconfig: given(&section.kubeconfig),
        labels: section.labels.clone(),
        annotations: section.annotations.clone(),
        namespaces: ebpf.namespace_filter.clone(),
        selector,
    }))
}

fn filters_pods(config: &Config) -> bool {
    let ebpf = &config.integrations.ebpf;
    !ebpf.namespace_filter.is_empty() || !ebpf.pod_selector.trim().is_empty()
}

/// Gives who holds elections: the Kubernetes API where it is asked at all. Without a runtime nobody stands in them.
///
/// # Errors
/// Fails when the selector of pods is none.
pub fn elections(config: &Config, runtime: Option<Handle>) -> Result<Option<Arc<dyn Elections>>, Failure> {
    let leases = |from: Kubernetes| Leases::new(from.kubeconfig, from.node, runtime);
    Ok(kubernetes(config)?.ok().map(|from| Arc::new(leases(from)) as Arc<dyn Elections>))
}

/// Gives the node's name.
pub fn node_name(config: &Config) -> String {
    if config.agent.node_name.is_empty() { identity::host_name(&config.host) } else { config.agent.node_name.clone() }
}

/// Asks the API server, where there is one, what it knows of the node and of its cluster.
///
/// # Errors
/// Fails when the selector of pods is none.
pub async fn identify(config: &Config) -> Result<Vec<Known>, Failure> {
    Ok(match kubernetes(config)? {
        Ok(kubernetes) => kubernetes.identify().await.into(),
        Err(_) => Vec::new(),
    })
}

/// Gives the manager's options, with what the API server knows of the node.
pub fn options(config: &Config, known: &[Known]) -> Options {
    use config::sections::agent::DeploymentMode;
    let kubernetes = match config.agent.deployment_mode {
        DeploymentMode::Auto => identity::in_kubernetes(&config.host) || !known.is_empty(),
        DeploymentMode::Kubernetes => true,
        DeploymentMode::Vm => false,
    };
    let given = Given {
        node_name: node_name(config),
        kubernetes,
        known: known.iter().filter_map(|(key, uid)| Some((*key, uid.clone().ok()?))).collect(),
        resource: config.agent.resource.clone(),
        host: config.host.clone(),
        pod_name: config.agent.pod_name.clone(),
    };
    Options {
        collect_timeout: COLLECT_TIMEOUT,
        housekeeping: config.integrations.ebpf.scrape_interval,
        limits: limits(config),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema_url: model::name::SCHEMA_URL.to_owned(),
        resource: Arc::new(identity::resource(&given)),
        clock: Clock::default(),
        together: collectors::TOGETHER,
    }
}

/// Gives the budgets of series.
pub fn limits(config: &Config) -> Limits {
    Limits {
        series_per_metric: config.limits.series_per_metric,
        series_total: config.limits.series_total,
        samples_per_workload: config.limits.samples_per_workload,
        bucket_doublings: config.exporters.prometheus.bucket_doublings(),
        series_ttl: config.series_ttl.as_nanos() as u64,
    }
}

/// Gives the options of the OTLP endpoints that take metrics.
pub fn endpoints(config: &Config) -> Vec<otlp::Options> {
    let taking = config.exporters.otlp.iter().filter(|(_, endpoint)| endpoint.metrics);
    taking.map(|(name, endpoint)| endpoint_options(config, name, endpoint)).collect()
}

/// Gives the options of the OTLP endpoint that takes events, where there is one.
pub fn logs(config: &Config) -> Option<otlp::Options> {
    let (name, endpoint) = config.exporters.otlp.get_key_value(&config.exporters.events.otlp)?;
    let options = endpoint_options(config, name, endpoint);
    Some(otlp::Options { endpoint: endpoint.logs_url(), signal: otlp::Signal::Logs, ..options })
}

fn endpoint_options(config: &Config, name: &str, endpoint: &config::sections::otlp::Endpoint) -> otlp::Options {
    use config::sections::otlp::{Compression, Histogram, Protocol, Temporality, Workload};
    let mut options = otlp::Options::new(name, endpoint.metrics_url());
    options.protocol = match endpoint.protocol {
        Protocol::Grpc => otlp::Protocol::Grpc,
        Protocol::HttpProtobuf => otlp::Protocol::Http,
    };
    options.interval = config.interval_of(endpoint);
    options.timeout = endpoint.timeout;
    options.compression = match endpoint.compression {
        Compression::None => otlp::Compression::None,
        Compression::Gzip => otlp::Compression::Gzip,
        Compression::Zstd => otlp::Compression::Zstd,
    };
    options.headers = endpoint.headers.iter().map(|(key, value)| (key.clone(), value.expose().to_owned())).collect();
    options.histogram = match endpoint.histogram {
        Histogram::Exponential => otlp::Histogram::Exponential,
        Histogram::Explicit => otlp::Histogram::Explicit,
    };
    options.temporality = match endpoint.temporality {
        Temporality::Cumulative => otlp::Temporality::Cumulative,
        Temporality::Delta => otlp::Temporality::Delta,
    };
    options.workload = match endpoint.workload {
        Workload::Datapoint => otlp::Workload::DataPoint,
        Workload::Resource => otlp::Workload::Resource,
    };
    options.max_connection_age = endpoint.max_connection_age;
    options.tls = otlp::Tls {
        ca: given(&endpoint.tls.ca),
        cert: given(&endpoint.tls.cert),
        key: given(&endpoint.tls.key),
        server_name: Some(endpoint.tls.server_name.clone()).filter(|name| !name.is_empty()),
        insecure_skip_verify: endpoint.tls.insecure_skip_verify,
    };
    options.phase_seed = node_name(config);
    options
}

/// Gives the options of the Prometheus listener, unless it is off.
///
/// # Errors
/// Fails when a password or token file cannot be read.
pub fn prometheus(config: &Config) -> Result<Option<prometheus::Options>, Failure> {
    let section = &config.exporters.prometheus;
    if !section.enabled {
        return Ok(None);
    }
    let mut options = prometheus::Options::new(section.listen);
    options.path.clone_from(&section.path);
    options.max_age = section.max_age;
    options.style.doublings = section.bucket_doublings();
    options.tls = given(&section.tls.cert).map(|certificate| TlsOptions {
        certificate,
        key: section.tls.key.clone(),
        client_authority: given(&section.tls.client_ca),
    });
    let secret = |inline: &config::Secret, file: &PathBuf, key: &str| match given(file) {
        None => Ok(inline.expose().to_owned()),
        Some(path) => std::fs::read_to_string(&path).map(|text| text.trim_end().to_owned()).map_err(|error| {
            let message = format!("exporters.prometheus.auth.{key}: cannot read {}: {error}", path.display());
            Failure::new(Exit::Configuration, message)
        }),
    };
    let (basic, bearer) = (&section.auth.basic, &section.auth.bearer);
    options.auth = if basic.username.is_empty() {
        let token = secret(&bearer.token, &bearer.token_file, "bearer.token_file")?;
        (!token.is_empty()).then_some(Auth::Bearer { token })
    } else {
        let password = secret(&basic.password, &basic.password_file, "basic.password_file")?;
        Some(Auth::Basic { username: basic.username.clone(), password })
    };
    options.limits.header_bytes = section.limits.header_size as usize;
    options.limits.connections = section.limits.connections;
    options.limits.request_time = section.limits.request_timeout;
    Ok(Some(options))
}

/// Gives a path unless it is empty.
pub fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}
