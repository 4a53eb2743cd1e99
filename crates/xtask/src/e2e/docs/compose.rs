//! What examples/grafana/compose.yaml starts: started here without containers, from the very files that it mounts.
//! Grafana itself is not among it: what it is given is only held against the rest.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::reader::Reader;
use crate::chart::files;
use crate::e2e::child::Program;
use crate::e2e::{END, dashboards, http, prometheus};
use crate::{process, setup};

/// Where the compose file is.
pub const FOLDER: &str = "examples/grafana";

fn read(file: &str) -> Result<String> {
    let path = process::root().join(FOLDER).join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Docker Compose reads the file.
///
/// # Errors
/// Fails when it does not like it, and when there is none.
pub fn valid(dir: &Path) -> Result<String> {
    setup::compose()?;
    let file = process::root().join(FOLDER).join("compose.yaml");
    let output = Command::new("docker-compose").arg("--file").arg(file).arg("config").current_dir(dir).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let services =
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("    image:")).count();
    Ok(format!("{services} services"))
}

/// The lines below a service of the compose file.
fn service(name: &str) -> Result<Vec<String>> {
    let file = read("compose.yaml")?;
    let below = file.lines().skip_while(|line| *line != format!("  {name}:")).skip(1);
    let lines: Vec<String> = below.take_while(|line| line.starts_with("    ")).map(|l| l.trim().to_owned()).collect();
    ensure!(!lines.is_empty(), "compose.yaml has no service {name}");
    Ok(lines)
}

/// The places of files here and in the container.
fn mounts(lines: &[String]) -> Vec<(String, String)> {
    let mounts = lines.iter().filter_map(|line| line.strip_prefix("- ")?.strip_suffix(":ro")?.split_once(':'));
    mounts.map(|(here, there)| (here.to_owned(), there.to_owned())).collect()
}

/// Folders and names in the files for Grafana are those of the dashboards, the compose file and Prometheus.
///
/// # Errors
/// Fails when one is not.
pub fn provisioned() -> Result<String> {
    let mounts = mounts(&service("grafana")?);
    let mounted = |there: &str| mounts.iter().find(|(_, at)| at == there).map(|(here, _)| here.as_str());
    ensure!(mounted("/etc/grafana/provisioning") == Some("./provisioning"), "the provisioning is not mounted");
    let provider = read("provisioning/dashboards/telesonde.yaml")?;
    let at = provider.split("path: ").nth(1).and_then(|rest| rest.split('}').next()).context("it has no path")?;
    ensure!(mounted(at) == Some("."), "{at} is not mounted");
    let source = read("provisioning/datasources/prometheus.yaml")?;
    let listen =
        service("prometheus")?.into_iter().find_map(|l| Some(l.strip_prefix("- --web.listen-address=")?.to_owned()));
    let url = format!("url: http://{}\n", listen.context("Prometheus listens nowhere")?);
    ensure!(source.contains(&url) && source.contains("uid: prometheus\n"), "the datasource is another");
    let boards = files(&process::root().join(FOLDER), "json")?;
    for board in &boards {
        let text = fs::read_to_string(board)?;
        let parsed: Value = serde_json::from_str(&text).with_context(|| board.display().to_string())?;
        let variable = parsed["templating"]["list"].as_array().into_iter().flatten().any(|v| v["type"] == "datasource");
        ensure!(variable || text.contains("\"uid\": \"prometheus\""), "{} has no datasource", board.display());
    }
    Ok(format!("{} dashboards in a folder that is mounted, a datasource that is Prometheus", boards.len()))
}

/// The agent runs with its arguments, Prometheus with its own and the files that are mounted: it scrapes the agent, has the
/// alerts, and queries of the dashboards have data.
///
/// # Errors
/// Fails when one of them does not start, or nothing comes.
pub fn started(reader: &Reader) -> Result<String> {
    let lines = service("telesonde")?;
    let arguments = lines.iter().find_map(|line| line.strip_prefix("command: [")?.strip_suffix(']'));
    let arguments =
        arguments.context("the agent has no command")?.replace(", ", " ").replace("host.root=/host", "host.root=/");
    let agent =
        Program::start("compose-agent", reader.dir(), &mut reader.bash(&format!("exec telesonde {arguments}")))?;
    let lines = service("prometheus")?;
    let mut command = "exec prometheus".to_owned();
    for argument in lines.iter().filter_map(|line| line.strip_prefix("- --")) {
        let here = mounts(&lines).into_iter().fold(argument.to_owned(), |argument, (here, there)| {
            argument.replace(&there, &process::root().join(FOLDER).join(here).display().to_string())
        });
        command = format!("{command} --{here}");
    }
    command = format!("{command} --storage.tsdb.path={}", reader.dir().join("tsdb").display());
    let server = Program::start("compose-prometheus", reader.dir(), &mut reader.bash(&command))?;
    let said = seen();
    server.stop(END)?;
    agent.stop(END)?;
    said
}

/// Prometheus has scraped the agent, has the alerts, and most queries of a dashboard have data.
///
/// # Errors
/// Fails when that is not so within four of the example's scrapes.
pub fn seen() -> Result<String> {
    let look = || prometheus::eventually(|| look(super::reader::PROMETHEUS));
    look().or_else(|_| look())
}

fn look(port: u16) -> Result<String> {
    ensure!(!prometheus::ask(port, "up{job=\"telesonde\"} == 1", None)?.is_empty(), "the agent is not scraped");
    let rules: Value = serde_json::from_str(&http::get(port, "/api/v1/rules", "*/*")?.body)?;
    let groups = rules["data"]["groups"].as_array().map_or(0, Vec::len);
    ensure!(groups > 0, "there are no alerts");
    let board: Value = serde_json::from_str(&read("node.json")?)?;
    let (mut with, mut all) = (0, 0);
    for query in dashboards::queries(&board) {
        all += 1;
        // Two of the example's scrapes are in it, whenever they were.
        let query = dashboards::with(&query.replace("$__rate_interval", "1m"), "telesonde");
        with += usize::from(!prometheus::ask(port, &query, None)?.is_empty());
    }
    ensure!(2 * with > all, "only {with} of {all} queries of node.json have data");
    Ok(format!(
        "the agent is scraped, {groups} groups of rules are loaded, {with} of {all} queries of node.json have data"
    ))
}
