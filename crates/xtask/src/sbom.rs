//! A bill of materials of the binary, in `CycloneDX`: what is linked into it, by `cargo metadata` and `Cargo.lock`. The same
//! sources give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::process::{cargo, root};

/// The package whose binary is described.
const BINARY: &str = "telesonde";
/// The target whose dependencies are counted.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Writes the bill of materials and says where.
///
/// # Errors
/// Fails when cargo does not know the dependencies, or when what comes out breaks a rule of the format.
pub fn run(out: Option<&Path>) -> Result<()> {
    let mut command = cargo()?;
    command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
    let output = command.current_dir(root()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata gave no JSON")?;
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let bill = bill(&metadata, &checksums(&lock))?;
    judge(&bill)?;
    let path = out.map_or_else(|| crate::process::target().join("telesonde.cdx.json"), PathBuf::from);
    fs::write(&path, format!("{bill:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {} components", path.display(), bill["components"].as_array().map_or(0, Vec::len));
    Ok(())
}

/// Gives the checksums of a lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""));
        line.map(|value| value.trim_end_matches('"').to_owned())
    };
    let blocks = lock.split("[[package]]").skip(1);
    let of = |block: &str| Some(((field(block, "name")?, field(block, "version")?), field(block, "checksum")?));
    blocks.filter_map(of).collect()
}

/// Makes the document of what the binary's package depends on, build scripts and tests aside.
fn bill(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let array = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        array(metadata, "packages").into_iter().map(|package| (text(&package, "id"), package)).collect();
    let edges: BTreeMap<String, BTreeSet<String>> = array(&metadata["resolve"], "nodes")
        .iter()
        .map(|node| {
            let is_linked = |dep: &&Value| array(dep, "dep_kinds").iter().any(|kind| kind["kind"].is_null());
            let deps = array(node, "deps");
            (text(node, "id"), deps.iter().filter(is_linked).map(|dep| text(dep, "pkg")).collect())
        })
        .collect();
    let Some(start) = packages.values().find(|package| package["name"] == BINARY) else {
        bail!("cargo metadata has no package {BINARY}");
    };
    let mut linked = BTreeSet::new();
    let mut open = vec![text(start, "id")];
    while let Some(id) = open.pop() {
        if linked.insert(id.clone()) {
            open.extend(edges.get(&id).into_iter().flatten().cloned());
        }
    }
    let reference = |id: &String| {
        let package = &packages[id];
        format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
    };
    let component = |id: &String, kind: &str| {
        let package = &packages[id];
        let (name, version) = (text(package, "name"), text(package, "version"));
        let mut component = json!({
            "type": kind, "bom-ref": reference(id), "name": name, "version": version, "purl": reference(id),
        });
        if let Some(licence) = package["license"].as_str() {
            // Some old packages write the choice with a slash, which is no expression.
            component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
        }
        if let Some(checksum) = checksums.get(&(name, version)) {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        if let Some(repository) = package["repository"].as_str() {
            component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
        }
        component
    };
    let own = text(start, "id");
    let components: Vec<Value> = linked.iter().filter(|id| **id != own).map(|id| component(id, "library")).collect();
    let dependencies: Vec<Value> = linked
        .iter()
        .map(|id| {
            let on: BTreeSet<String> = edges.get(id).into_iter().flatten().map(reference).collect();
            json!({"ref": reference(id), "dependsOn": on})
        })
        .collect();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": component(&own, "application")},
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Checks the rules of the format's schema that concern what is written here.
fn judge(bill: &Value) -> Result<()> {
    ensure!(bill["bomFormat"] == "CycloneDX" && bill["specVersion"] == "1.5", "neither format nor version");
    ensure!(bill["version"].as_u64().is_some_and(|version| version >= 1), "version must be 1 or more");
    let known = ["bomFormat", "specVersion", "version", "metadata", "components", "dependencies"];
    let keys = |value: &Value| value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    ensure!(keys(bill).iter().all(|key| known.contains(&key.as_str())), "unknown keys: {:?}", keys(bill));
    let mut references = BTreeSet::new();
    let components = bill["components"].as_array().context("components must be a list")?;
    for component in components.iter().chain([&bill["metadata"]["component"]]) {
        let text = |key: &str| component[key].as_str().filter(|text| !text.is_empty());
        let name = text("name").with_context(|| format!("a component without a name: {component}"))?;
        ensure!(matches!(text("type"), Some("library" | "application")), "{name}: type");
        ensure!(text("version").is_some(), "{name}: version");
        let reference = text("bom-ref").with_context(|| format!("{name}: bom-ref"))?;
        ensure!(references.insert(reference), "{name}: {reference} is there twice");
        ensure!(text("purl").is_some_and(|purl| purl.starts_with("pkg:cargo/") && purl.contains('@')), "{name}: purl");
        let licences = component["licenses"].as_array().with_context(|| format!("{name} has no licence"))?;
        ensure!(licences.len() == 1 && licences[0]["expression"].is_string(), "{name}: one expression");
        for hash in component["hashes"].as_array().into_iter().flatten() {
            let content = hash["content"].as_str().unwrap_or_default();
            let is_hex = content.len() == 64 && content.bytes().all(|byte| byte.is_ascii_hexdigit());
            ensure!(hash["alg"] == "SHA-256" && is_hex, "{name}: hash");
        }
    }
    let mut described = BTreeSet::new();
    for dependency in bill["dependencies"].as_array().context("dependencies must be a list")? {
        let reference = dependency["ref"].as_str().unwrap_or_default();
        ensure!(references.contains(reference) && described.insert(reference), "dependencies of {reference}");
        for on in dependency["dependsOn"].as_array().into_iter().flatten() {
            ensure!(on.as_str().is_some_and(|on| references.contains(on)), "{reference} depends on {on}, unknown");
        }
    }
    ensure!(described == references, "the dependencies of some components are not described");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Value {
        let package = |name: &str, licence: &str| json!({"id": name, "name": name, "version": "1.0.0", "license": licence, "repository": "https://x/y"});
        let dep = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [package("telesonde", "Apache-2.0"), package("a", "MIT/Apache-2.0"), package("b", "MIT"),
                package("only-tests", "MIT"), package("only-builds", "MIT")],
            "resolve": {"nodes": [
                {"id": "telesonde", "deps": [dep("a", Value::Null), dep("only-tests", json!("dev"))]},
                {"id": "a", "deps": [dep("b", Value::Null), dep("only-builds", json!("build"))]},
                {"id": "b", "deps": []},
            ]},
        })
    }

    #[test]
    fn what_is_linked_is_described_and_nothing_else() {
        let sum = "ab".repeat(32);
        let lock = format!("version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"{sum}\"\n");
        let bill = bill(&metadata(), &checksums(&lock)).unwrap();
        judge(&bill).unwrap();
        let names: Vec<&str> =
            bill["components"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][0]["hashes"][0]["content"], sum);
        assert_eq!(bill["metadata"]["component"]["type"], "application");
        assert_eq!(bill["dependencies"][0], json!({"ref": "pkg:cargo/a@1.0.0", "dependsOn": ["pkg:cargo/b@1.0.0"]}));
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let good = bill(&metadata(), &BTreeMap::new()).unwrap();
        let breaks: [fn(&mut Value); 6] = [
            |bill| bill["version"] = json!(0),
            |bill| bill["components"][0]["name"] = json!(""),
            |bill| bill["components"][1]["bom-ref"] = bill["components"][0]["bom-ref"].clone(),
            |bill| bill["components"][0]["hashes"] = json!([{"alg": "SHA-256", "content": "no"}]),
            |bill| bill["dependencies"][0]["dependsOn"] = json!(["pkg:cargo/none@1"]),
            |bill| drop(bill["dependencies"].as_array_mut().unwrap().pop()),
        ];
        for (number, change) in breaks.into_iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(judge(&bad).is_err(), "{number}");
        }
    }
}
