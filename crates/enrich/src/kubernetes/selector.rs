//! Label selectors as `kubectl -l` takes them.

use kube::core::{Expression, Selector};

/// Reads `app=web,tier in (front,back),!canary`.
///
/// # Errors
/// Says what is wrong with the first requirement that cannot be read.
pub fn parse_selector(text: &str) -> Result<Selector, String> {
    let requirements = split(text)?;
    requirements.into_iter().map(requirement).collect()
}

/// Splits at the commas that are not within parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0_i32, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            break;
        }
    }
    if depth != 0 {
        return Err(format!("{text:?}: a parenthesis has no other"));
    }
    if !text.trim().is_empty() {
        parts.push(&text[begin..]);
    }
    Ok(parts)
}

fn requirement(text: &str) -> Result<Expression, String> {
    let text = text.trim();
    if let Some(name) = text.strip_prefix('!') {
        return Ok(Expression::DoesNotExist(key(name)?));
    }
    if let Some(list) = text.strip_suffix(')') {
        let (head, list) = list.split_once('(').ok_or_else(|| format!("{text:?}: a parenthesis has no other"))?;
        let values = list.split(',').map(value).collect::<Result<_, _>>()?;
        return match head.trim().rsplit_once(char::is_whitespace) {
            Some((name, "in")) => Ok(Expression::In(key(name)?, values)),
            Some((name, "notin")) => Ok(Expression::NotIn(key(name)?, values)),
            _ => Err(format!("{text:?}: write KEY in (A, B) or KEY notin (A, B)")),
        };
    }
    if let Some((name, other)) = text.split_once("!=") {
        return Ok(Expression::NotEqual(key(name)?, value(other)?));
    }
    if let Some((name, same)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Expression::Equal(key(name)?, value(same)?));
    }
    Ok(Expression::Exists(key(text)?))
}

fn key(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("a key is missing".to_owned()) } else { value(text) }
}

fn value(text: &str) -> Result<String, String> {
    let text = text.trim();
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    if text.bytes().all(sound) { Ok(text.to_owned()) } else { Err(format!("{text:?} is no key or value of a label")) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt;

    use super::*;

    #[test]
    fn selectors_choose_as_kubectl_does() {
        let labels = |text: &str| {
            text.split_whitespace()
                .map(|pair| pair.split_once('=').unwrap())
                .map(|(k, v)| (k.into(), v.into()))
                .collect()
        };
        let web: BTreeMap<String, String> = labels("app=web tier=front app.kubernetes.io/name=web");
        let cases = [
            ("", true),
            ("app=web", true),
            ("app == web , tier = front", true),
            ("app=db", false),
            ("app!=db,canary!=true", true),
            ("app!=web", false),
            ("app.kubernetes.io/name", true),
            ("!canary", true),
            ("!app", false),
            ("tier in (front, back),app=web", true),
            ("tier notin (front,back)", false),
            ("tier in (back)", false),
            ("x=", false),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_selector(text).unwrap().matches(&web), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for text in
            ["app=web,", "=web", "tier in front)", "tier in (front", "tier of (a)", "a b", "a>1", "!", "((a)", "in (a)"]
        {
            let error = parse_selector(text).unwrap_err();
            assert!(!error.is_empty(), "{text}");
        }
    }
}
