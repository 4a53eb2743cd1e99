//! What the chart renders, judged by the API server itself.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Stage;
use super::api::Client;
use super::checks::SOON;
use super::seen::within;
use crate::chart::files;
use crate::process;
use crate::tools::{self, Tool};

/// The server would take every object of every value set as it is.
///
/// # Errors
/// Fails with the first that it would refuse.
pub fn rendered(stage: &Stage) -> Result<String> {
    define(&stage.api)?;
    for namespace in ["argocd", "monitoring"] {
        stage.api.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {namespace}\n"))?;
    }
    // The one that is there has the selector of one name, which no change may alter.
    let agent = "/apis/apps/v1/namespaces/telesonde/daemonsets/telesonde?propagationPolicy=Background";
    stage.api.must("DELETE", agent, super::api::JSON, "")?;
    let (mut sets, mut objects) = (0, 0);
    for file in files(&process::root().join("tests/chart/golden"), "yaml")? {
        let text = fs::read_to_string(&file)?;
        // A definition takes a moment until the server knows the objects.
        objects += within(SOON, || stage.api.judge(&text)).with_context(|| file.display().to_string())?;
        sets += 1;
    }
    let argo = fs::read_to_string(process::root().join("examples/kubernetes/argocd.yaml"))?;
    objects += within(SOON, || stage.api.judge(&argo)).context("argocd.yaml")?;
    if sets < 12 {
        bail!("there are only {sets} value sets");
    }
    Ok(format!("{objects} objects of {sets} value sets and of an example for Argo CD"))
}

/// Lets the server know the resources of others that the chart may make.
///
/// # Errors
/// Fails when it does not take their definitions.
pub fn define(api: &Client) -> Result<()> {
    let definitions = tools::install(Tool::CustomResources)?;
    let definitions = fs::read_to_string(&definitions).context("cannot read the definitions of custom resources")?;
    api.apply(&definitions).map(drop)
}
