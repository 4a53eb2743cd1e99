//! Everything that reads what others have written, by name: `fuzz/fuzz_targets` and `tests/fuzz.rs` go through the same.

use std::path::PathBuf;

use config::{Section, Sources};

/// A surface takes any bytes without a panic.
pub type Surface = fn(&[u8]);

/// All surfaces.
pub const SURFACES: &[(&str, Surface)] = &[
    ("configuration", configuration),
    ("environment", environment),
    ("otlp_response", export::fuzz::otlp_response),
    ("prometheus_request", export::fuzz::request),
    ("dns_question", collectors::fuzz::dns_question),
    ("ring_record", collectors::fuzz::ring_record),
    ("cgroup_path", cgroup_path),
    ("kubernetes_objects", enrich::kubernetes::fuzz::kubernetes_objects),
    ("pod_selector", pod_selector),
    ("hubble_flow", hubble_flow),
];

fn sections() -> Vec<Section> {
    let section = |descriptor: &&runtime::Descriptor| Section {
        name: descriptor.name,
        defaults: (descriptor.section.defaults)(),
        schema: (descriptor.section.schema)(),
        check: descriptor.section.check,
    };
    collectors::ALL.iter().map(section).collect()
}

fn load(sources: &Sources) {
    match config::load(sources, &sections()) {
        Ok(loaded) => drop(loaded.print()),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}

/// A file of the configuration.
pub fn configuration(data: &[u8]) {
    let file: PathBuf = std::env::temp_dir().join(format!("telesonde-fuzz-{}.yaml", std::process::id()));
    std::fs::write(&file, data).expect("a temporary file");
    load(&Sources { files: vec![file.clone()], ..Sources::default() });
    std::fs::remove_file(file).expect("the temporary file");
}

/// Variables of the environment, a line each, and after an empty line arguments of `--set`.
pub fn environment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (env, set) = text.split_once("\n\n").unwrap_or((&text, ""));
    let pairs = env.lines().filter_map(|line| line.split_once('='));
    let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    load(&Sources { env, set: set.lines().map(str::to_owned).collect(), ..Sources::default() });
}

/// The path of a cgroup: whoever may make cgroups chooses it.
pub fn cgroup_path(data: &[u8]) {
    let path = String::from_utf8_lossy(data);
    let _ = (enrich::container::locate(&path), enrich::unit::unit(&path));
    let _ = (enrich::unit::user(&path), enrich::unit::slice(&path));
}

/// A selector of pods.
pub fn pod_selector(data: &[u8]) {
    let _ = enrich::kubernetes::parse_selector(&String::from_utf8_lossy(data));
}

/// A message of Hubble.
pub fn hubble_flow(data: &[u8]) {
    let _ = hubble::flow::is_flow(data);
    let _ = hubble::flow::Response::read(data);
    let _ = hubble::flow::Endpoint::read(data);
}

/// Gives a surface by its name.
///
/// # Panics
/// When there is none of that name.
pub fn surface(name: &str) -> Surface {
    SURFACES.iter().find(|(other, _)| *other == name).expect("a surface of that name").1
}
