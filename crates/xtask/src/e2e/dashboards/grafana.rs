//! What Grafana would make of a dashboard, by its documented model: it shows no error for what it does not understand, but an
//! empty panel, one over another, or a bare number.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The newest version of the model that the Grafana of compose.yaml knows, and the oldest that it takes as it is.
const SCHEMA: std::ops::RangeInclusive<u64> = 39..=42;

/// Kinds of panels.
const KINDS: [&str; 4] = ["row", "timeseries", "stat", "heatmap"];

/// Names of units.
const UNITS: [&str; 12] =
    ["Bps", "bytes", "none", "ns", "ops", "percent", "percentunit", "pps", "reqps", "s", "short", "µs"];

/// The width of a dashboard.
const COLUMNS: u64 = 24;

/// Says that there is nothing wrong with dashboards that are shown beside each other.
///
/// # Errors
/// Fails with the first fault.
pub fn understood(boards: &[(String, Value)]) -> Result<String> {
    let (mut known, mut panels) = (BTreeSet::new(), 0);
    for (name, board) in boards {
        panels += judge(board).with_context(|| name.clone())?;
        for key in ["uid", "title"] {
            let own = text(board, key).with_context(|| name.clone())?;
            ensure!(own.len() <= 40 && known.insert(own), "{name}: {key} {own} is too long, or another's");
        }
    }
    Ok(format!("{panels} panels of {} dashboards", boards.len()))
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str> {
    value[key].as_str().filter(|text| !text.is_empty()).with_context(|| format!("there is no {key}"))
}

fn list<'v>(value: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    value[key].as_array().into_iter().flatten()
}

fn judge(board: &Value) -> Result<usize> {
    let schema = board["schemaVersion"].as_u64().context("there is no schemaVersion")?;
    ensure!(SCHEMA.contains(&schema), "schemaVersion {schema} is none of {SCHEMA:?}");
    let variables = list(&board["templating"], "list").map(|variable| text(variable, "name"));
    let variables: BTreeSet<&str> = variables.collect::<Result<_>>()?;
    let from = |of: &Value| of["datasource"] == json!({"type": "prometheus", "uid": "${datasource}"});
    ensure!(variables.contains("datasource"), "no variable chooses a datasource");
    let mut used = BTreeSet::from(["datasource".to_owned()]);
    for variable in list(&board["templating"], "list").filter(|variable| variable["type"] == "query") {
        ensure!(from(variable), "a variable has no datasource: {variable}");
        used.extend(referred(text(&variable["query"], "query")?));
    }
    let (mut ids, mut cells, mut panels) = (BTreeSet::new(), BTreeSet::new(), 0);
    for panel in list(board, "panels") {
        let title = text(panel, "title")?;
        panels += 1;
        used.extend(shown(panel, &mut cells).and_then(|()| queried(panel, &from)).context(title.to_owned())?);
        ensure!(panel["id"].as_u64().is_some_and(|id| id > 0 && ids.insert(id)), "{title}: its id is another's");
    }
    for name in &used {
        ensure!(variables.contains(name.as_str()), "${name} is no variable");
    }
    let unused: Vec<&&str> = variables.iter().filter(|name| !used.contains(**name)).collect();
    ensure!(unused.is_empty(), "nothing asks for {unused:?}");
    Ok(panels)
}

/// The panel is of a kind that there is, in a unit that there is, and in a place of its own.
fn shown(panel: &Value, cells: &mut BTreeSet<(u64, u64)>) -> Result<()> {
    let kind = text(panel, "type")?;
    ensure!(KINDS.contains(&kind), "{kind} is no kind of panel");
    let place = |key: &str| panel["gridPos"][key].as_u64().with_context(|| format!("gridPos has no {key}"));
    let (x, y, width, height) = (place("x")?, place("y")?, place("w")?, place("h")?);
    ensure!(width > 0 && height > 0 && x + width <= COLUMNS, "{} is outside", panel["gridPos"]);
    ensure!(kind != "row" || (x, width, height) == (0, COLUMNS, 1), "a row is not one line");
    for cell in (y..y + height).flat_map(|line| (x..x + width).map(move |column| (line, column))) {
        ensure!(cells.insert(cell), "{} is over another", panel["gridPos"]);
    }
    let units = [&panel["fieldConfig"]["defaults"]["unit"], &panel["options"]["yAxis"]["unit"]];
    let mut units = units.into_iter().filter_map(Value::as_str);
    match (kind, units.next()) {
        ("row", None) => Ok(()),
        (_, Some(unit)) if UNITS.contains(&unit) => Ok(()),
        (_, unit) => bail!("{unit:?} is no unit"),
    }
}

/// Its queries have what their legends name; gives the variables that they ask for.
fn queried(panel: &Value, from: &impl Fn(&Value) -> bool) -> Result<Vec<String>> {
    let (mut names, mut used) = (BTreeSet::new(), Vec::new());
    for target in list(panel, "targets") {
        ensure!(names.insert(text(target, "refId")?), "two queries have the same refId");
        ensure!(from(target) && from(panel), "there is another datasource");
        let (query, legend) = (text(target, "expr")?, target["legendFormat"].as_str().unwrap_or_default());
        used.extend(referred(query));
        let labels = legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim()));
        for label in labels {
            let mut groups = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
            let kept = groups.any(|(labels, _)| labels.split(',').any(|kept| kept.trim() == label));
            ensure!(kept, "the legend {legend} names what the query does not keep: {query}");
        }
        ensure!((panel["type"] == "heatmap") == (target["format"] == "heatmap"), "a heatmap is of buckets: {query}");
    }
    ensure!((panel["type"] == "row") == names.is_empty(), "it has {} queries", names.len());
    Ok(used)
}

/// Gives the variables that a query asks for, but for Grafana's own.
fn referred(query: &str) -> Vec<String> {
    let names = query.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    let names = names.map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default());
    names.filter(|name| !name.starts_with("__")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::chart::files;
    use crate::process;

    fn boards() -> Vec<(String, Value)> {
        let files = files(&process::root().join("examples/grafana"), "json").unwrap();
        let read = |file| serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        files.iter().map(|file| (file.display().to_string(), read(file))).collect()
    }

    #[test]
    fn the_dashboards_are_what_grafana_understands() {
        let said = understood(&boards()).unwrap();
        assert!(said.ends_with(" dashboards"), "{said}");
    }

    #[test]
    fn what_grafana_would_not_show_is_found() {
        type Fault = fn(&mut Value);
        let faults: [(&str, Fault); 10] = [
            ("schemaVersion", |board| board["schemaVersion"] = json!(99)),
            ("its id is another's", |board| board["panels"][1]["id"] = board["panels"][0]["id"].clone()),
            ("no kind of panel", |board| board["panels"][1]["type"] = json!("graph")),
            ("is no unit", |board| board["panels"][1]["fieldConfig"]["defaults"]["unit"] = json!("seconds")),
            ("is over another", |board| board["panels"][2]["gridPos"] = board["panels"][1]["gridPos"].clone()),
            ("is outside", |board| board["panels"][1]["gridPos"]["w"] = json!(25)),
            ("another datasource", |board| board["panels"][1]["targets"][0]["datasource"]["uid"] = json!("mine")),
            ("$nobody is no variable", |board| {
                board["panels"][1]["targets"][0]["expr"] = json!("up{job=\"$nobody\"}");
                board["panels"][1]["targets"][0]["legendFormat"] = json!("");
            }),
            ("does not keep", |board| board["panels"][1]["targets"][0]["legendFormat"] = json!("{{nothing}}")),
            ("nothing asks for", |board| {
                let more = json!({"name": "more", "type": "custom"});
                board["templating"]["list"].as_array_mut().unwrap().push(more);
            }),
        ];
        let whole = boards().remove(0).1;
        for (what, fault) in faults {
            let mut board = whole.clone();
            fault(&mut board);
            let said = format!("{:#}", understood(&[("it".to_owned(), board)]).unwrap_err());
            assert!(said.contains(what), "{what}: {said}");
        }
        let twice = [("a".to_owned(), whole.clone()), ("b".to_owned(), whole.clone())];
        assert!(format!("{:#}", understood(&twice).unwrap_err()).contains("another's"));
        let mut empty = whole;
        empty["panels"][1]["targets"] = json!([]);
        understood(&[("it".to_owned(), empty)]).unwrap_err();
    }
}
