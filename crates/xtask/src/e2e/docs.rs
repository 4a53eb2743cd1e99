//! `cargo xtask e2e docs`: every command of README.md, of docs/quickstart.md and of the chart's notes, as a reader would type it,
//! and what the compose file starts.
//!
//! All happens in a network and a mount namespace of its own, where the default ports and /run are free.

pub mod compose;
mod reader;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Parser, Tag};

use super::Report;
use crate::{process, run};
use reader::Reader;

/// The pages, and the groups of their checks.
const PAGES: [(&str, &str); 2] = [("readme", "README.md"), ("quickstart", "docs/quickstart.md")];

/// What says that the namespaces are there.
const APART: &str = "TELESONDE_DOCS_APART";

/// Runs the proof.
///
/// # Errors
/// Fails without root, and when something cannot be built or started.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    if std::env::var_os(APART).is_none() {
        return apart(options);
    }
    process::must(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    process::must(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    Report::of(options, prove)
}

/// Builds, and runs the same in namespaces of its own.
fn apart(options: &crate::Proof) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("namespaces need root: run it with sudo");
    }
    run::binary(options.no_build)?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    let status = command.env(APART, "1").status().context("cannot start unshare")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

fn prove(dir: &Path, report: &mut Report) -> Result<()> {
    let mut reader = Reader::sit_down(dir)?;
    for (group, page) in PAGES {
        let text = fs::read_to_string(process::root().join(page)).with_context(|| format!("cannot read {page}"))?;
        let sections = sections(&text);
        if sections.iter().all(Vec::is_empty) {
            bail!("{page} shows no command");
        }
        for section in sections {
            for command in section {
                report.check(group, &command, || reader.obey(&command));
            }
            reader.tidy_up()?;
        }
    }
    match reader.notes() {
        Ok(Some(notes)) => {
            for command in notes {
                report.check("notes", &command, || reader.obey(&command));
            }
            reader.tidy_up()?;
        }
        Err(error) => report.check("notes", "what Helm prints", || Err(error)),
        Ok(None) => report.skip("notes", "Helm prints them to whom has a cluster: `cargo xtask tools kube-apiserver`"),
    }
    report.check("compose", "the file is one of Docker Compose", || compose::valid(dir));
    report.check("compose", "what Grafana is given", compose::provisioned);
    report.check("compose", "the agent, and Prometheus with the example's files", || compose::started(&reader));
    reader.leave()
}

/// Gives the commands of a page's blocks of `sh`, by section: one for each that may go on over lines.
fn sections(text: &str) -> Vec<Vec<String>> {
    let (mut sections, mut within) = (vec![Vec::new()], false);
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => sections.push(Vec::new()),
            Event::Start(Tag::CodeBlock(kind)) => {
                within = matches!(&kind, CodeBlockKind::Fenced(language) if &**language == "sh");
            }
            Event::Text(block) if within => {
                let whole = block.replace("\\\n", " ");
                let lines = whole.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                if let Some(section) = sections.last_mut() {
                    section.extend(lines.map(|line| line.split("   #").next().unwrap_or(line).trim_end().to_owned()));
                }
            }
            Event::End(_) => within = false,
            _ => {}
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_by_section() {
        let page = "```sh\na\n```\n## One\n```sh\n# no command\nb \\\n  c\nd   # a remark\n```\n```text\ne\n```\n";
        assert_eq!(sections(page), [vec!["a"], vec!["b    c", "d"]]);
    }
}
