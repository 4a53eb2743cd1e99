//! Reads the Prometheus text exposition and OpenMetrics into plain samples.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

/// Label values by name.
pub type Labels = BTreeMap<String, String>;

/// One scrape: the value of every sample by name and labels, and the names of its families.
#[derive(Default)]
pub struct Exposition {
    /// Values by sample.
    pub samples: BTreeMap<(String, Labels), f64>,
    /// Names after `# TYPE`.
    pub families: BTreeSet<String>,
}

/// Parses either text format.
///
/// # Errors
/// Fails on the first line that is not in the format.
pub fn parse(text: &str) -> Result<Exposition> {
    let mut exposition = Exposition::default();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            exposition.families.extend(family.split(' ').next().map(str::to_owned));
        } else if !line.starts_with('#') && !line.is_empty() {
            let (key, value) = sample(line).with_context(|| format!("not a sample: `{line}`"))?;
            exposition.samples.insert(key, value);
        }
    }
    Ok(exposition)
}

fn sample(line: &str) -> Option<((String, Labels), f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, tail) = rest.split_once("=\"")?;
            let (value, tail) = quoted(tail)?;
            labels.insert(label.to_owned(), value);
            rest = tail.strip_prefix(',').unwrap_or(tail);
        }
        rest = &rest[1..];
    }
    let value = match rest.split_whitespace().next()? {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    Some(((name.to_owned(), labels), value))
}

/// Splits a quoted value from what follows its closing quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_keep_escaped_labels() {
        let parsed =
            parse("# TYPE a counter\na_total{x=\"1\\\"\\n\",y=\"}\"} 7 1.5 # {z=\"q\"} 1\nb +Inf\n# EOF\n").unwrap();
        let labels = Labels::from([("x".into(), "1\"\n".into()), ("y".into(), "}".into())]);
        assert_eq!(parsed.samples[&("a_total".into(), labels)].to_bits(), 7f64.to_bits());
        assert!(parsed.samples[&("b".into(), Labels::new())].is_infinite());
        assert!(parsed.families.contains("a"));
        assert!(parse("nonsense").is_err());
    }
}
