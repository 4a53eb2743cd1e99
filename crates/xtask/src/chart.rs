//! `cargo xtask chart`: the Helm chart with every value set of `tests/chart`, as Helm itself renders it.

mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::generate::difference;
use crate::tools::{self, Tool};
use crate::{process, run};

/// The release that is rendered: its name, its namespace, and the version of Kubernetes that it is for.
const RELEASE: [&str; 5] = ["telesonde", "--namespace", "telesonde", "--kube-version", "1.36.0"];

/// Examples of others who render the chart: the file, the key of the values in it, and how far these are indented.
const OPERATED: [(&str, &str, usize); 2] = [("flux.yaml", "  values:", 4), ("argocd.yaml", "      valuesObject:", 8)];

/// What a rendered manifest is: its objects, or Helm's reasons why there are none.
type Rendered = std::result::Result<String, String>;

struct Chart {
    helm: PathBuf,
    agent: PathBuf,
    root: PathBuf,
    work: PathBuf,
    write: bool,
}

/// Checks every value set; with `write` keeps what is rendered as what has to be.
///
/// # Errors
/// Fails when Helm or the agent cannot be had.
pub fn run(write: bool, no_build: bool) -> Result<ExitCode> {
    let agent = run::agent(no_build)?;
    let (helm, work, root) = (tools::install(Tool::Helm)?, process::target().join("chart"), process::root());
    let chart = Chart { helm, agent, root, work, write };
    fs::create_dir_all(&chart.work).with_context(|| format!("cannot make {}", chart.work.display()))?;
    let (mut passed, mut failed) = (0, 0);
    let mut check = |what: &str, name: &str, result: Result<String>| match result {
        Ok(said) => {
            passed += 1;
            println!("ok      {what} {name}: {said}");
        }
        Err(error) => {
            failed += 1;
            println!("FAILED  {what} {name}: {error:#}");
        }
    };
    for (name, values) in chart.sets("values")? {
        check("values", &name, chart.accepts(&name, &values));
    }
    check("rules", "examples/prometheus/rules", rules::check(&chart.root));
    check("example", "examples/kubernetes", chart.manifests());
    check("example", "kustomize", chart.kustomizes());
    for (file, key, indent) in OPERATED {
        check("example", file, chart.operated(file, key, indent));
    }
    for (name, values) in chart.sets("refused")? {
        check("refused", &name, chart.refuses(&values));
    }
    println!("\n{passed} passed, {failed} failed, 0 skipped");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

impl Chart {
    /// Gives the value sets of a folder of `tests/chart`, by name.
    fn sets(&self, folder: &str) -> Result<Vec<(String, PathBuf)>> {
        let named = |path: PathBuf| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path);
        Ok(files(&self.root.join("tests/chart").join(folder), "yaml")?.into_iter().map(named).collect())
    }

    fn helm(&self, arguments: &[&str], values: &Path) -> Result<Rendered> {
        let mut command = Command::new(&self.helm);
        command.args(arguments).arg(self.root.join("charts/telesonde")).arg("--values").arg(values);
        let output = command.output().context("cannot start helm")?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(if output.status.success() {
            Ok(said(&output.stdout))
        } else {
            Err(said(&output.stdout) + &said(&output.stderr))
        })
    }

    fn template(&self, values: &Path) -> Result<Rendered> {
        self.helm(&[&["template"], &RELEASE[..]].concat(), values)
    }

    /// Compares a rendered text with the committed one, or takes it over.
    fn same(&self, file: &Path, rendered: &str) -> Result<()> {
        let old = fs::read_to_string(file).unwrap_or_default();
        if self.write {
            fs::write(file, rendered).with_context(|| format!("cannot write {}", file.display()))?;
        } else if old != rendered {
            let difference = difference(&old, rendered);
            bail!("{}: {difference}; `cargo xtask chart --write` takes it over", file.display());
        }
        Ok(())
    }

    /// The plain manifests are what the chart renders with its defaults; nothing in them says that Helm manages them.
    fn manifests(&self) -> Result<String> {
        let values = self.root.join("tests/chart/values/default.yaml");
        let arguments = [&["template", "--skip-tests"], &RELEASE[..]].concat();
        let rendered = self.helm(&arguments, &values)?.map_err(anyhow::Error::msg)?;
        let helms = ["helm.sh/chart:", "app.kubernetes.io/managed-by:", "# Source:"];
        let own = rendered.lines().filter(|line| !helms.iter().any(|helm| line.trim_start().starts_with(helm)));
        let text: String = own.flat_map(|line| [line, "\n"]).collect();
        self.same(&self.root.join("examples/kubernetes/telesonde.yaml"), &text)?;
        Ok("as the chart renders its defaults".to_owned())
    }

    /// kubectl, where there is one, puts the folder together.
    fn kustomizes(&self) -> Result<String> {
        let Some(kubectl) = process::find("kubectl") else {
            return Ok("not tried, as kubectl is not installed".to_owned());
        };
        let mut command = Command::new(kubectl);
        let built = process::output(command.arg("kustomize").arg(self.root.join("examples/kubernetes")));
        let built = built.context("`kubectl kustomize examples/kubernetes` fails")?;
        let kinds = built.lines().filter(|line| line.starts_with("kind: ")).count();
        if !built.contains("kind: Namespace") || !built.contains("kind: DaemonSet") {
            bail!("the namespace or the DaemonSet is missing");
        }
        Ok(format!("{kinds} objects"))
    }

    /// The values in an example for an operator that renders charts are values of this one.
    fn operated(&self, file: &str, key: &str, indent: usize) -> Result<String> {
        let text = fs::read_to_string(self.root.join("examples/kubernetes").join(file))?;
        let values = self.work.join(file);
        fs::write(&values, block(&text, key, indent).with_context(|| format!("it has no {key}"))?)?;
        let rendered = self.template(&values)?.map_err(anyhow::Error::msg)?;
        Ok(format!("{} objects", rendered.lines().filter(|line| line.starts_with("kind: ")).count()))
    }

    /// A value set passes the lint, renders as the golden file has it, and its configuration is one of the agent without a warning.
    fn accepts(&self, name: &str, values: &Path) -> Result<String> {
        if let Err(why) = self.helm(&["lint", "--strict", "--quiet", "--kube-version", RELEASE[4]], values)? {
            bail!("helm lint says\n{why}");
        }
        let rendered = self.template(values)?.map_err(anyhow::Error::msg)?;
        self.same(&self.root.join("tests/chart/golden").join(format!("{name}.yaml")), &rendered)?;
        let file = self.work.join(format!("{name}.yaml"));
        fs::write(
            &file,
            block(&rendered, "  telesonde.yaml: |", 4).context("no ConfigMap with telesonde.yaml is rendered")?,
        )?;
        let output = Command::new(&self.agent).args(["config", "validate", "--config"]).arg(&file).output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        if !output.status.success() || said.contains("warning:") {
            bail!("the agent says of its configuration\n{said}");
        }
        let objects = rendered.lines().filter(|line| line.starts_with("kind: ")).count();
        Ok(format!("{objects} objects; {}", said.trim()))
    }

    /// A value set that makes no sense is refused with the words of its first line.
    fn refuses(&self, values: &Path) -> Result<String> {
        let text = fs::read_to_string(values)?;
        let words = text.lines().next().and_then(|line| line.strip_prefix("# ")).context("no first line says why")?;
        match self.template(values)? {
            Ok(_) => bail!("it is rendered"),
            Err(why) if why.contains(words) => Ok(words.to_owned()),
            Err(why) => bail!("helm says\n{why}"),
        }
    }
}

/// Gives the files of a folder with an ending, sorted.
pub fn files(dir: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == ending));
    files.sort();
    Ok(files)
}

/// Gives the lines below a key of a manifest, without what they are indented by.
pub fn block(manifest: &str, key: &str, indent: usize) -> Option<String> {
    let (_, below) = manifest.split_once(&format!("\n{key}\n"))?;
    let spaces = " ".repeat(indent);
    let lines = below.lines().map_while(|line| line.strip_prefix(&spaces).or(line.is_empty().then_some("")));
    Some(lines.flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_taken_out_of_its_manifest() {
        let rendered = "kind: ConfigMap\ndata:\n  telesonde.yaml: |\n    log:\n      level: info\n---\nkind: Other\n";
        assert_eq!(block(rendered, "  telesonde.yaml: |", 4).unwrap(), "log:\n  level: info\n");
        assert_eq!(block("kind: Other\n", "  telesonde.yaml: |", 4), None);
    }
}
