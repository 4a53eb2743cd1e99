//! The links of every page: files and anchors that they name are there, and addresses outside are well-formed. Nothing is fetched.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::markdown::Page;

/// Checks all pages of the tree.
///
/// # Errors
/// Fails with every link that leads nowhere.
pub fn check(root: &Path) -> Result<()> {
    let mut paths = Vec::new();
    pages(root, &mut paths)?;
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((path, Page::read(&text)))
    };
    let pages = paths.into_iter().map(read).collect::<Result<BTreeMap<PathBuf, Page>>>()?;
    let (mut count, mut wrong) = (0, Vec::new());
    for (path, page) in &pages {
        for (link, line) in &page.links {
            count += 1;
            if let Some(why) = fault(path, link, &pages) {
                wrong.push(format!("{}:{line}: {link}: {why}", path.strip_prefix(root).unwrap_or(path).display()));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("links that lead nowhere:\n  {}", wrong.join("\n  "));
    }
    eprintln!("links: {count} in {} pages lead somewhere", pages.len());
    Ok(())
}

/// Finds the pages below a directory; what is built, and what is hidden, is not looked at.
fn pages(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                pages(&path, found)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "md") {
            found.push(path);
        }
    }
    Ok(())
}

/// Says what is wrong with a link of a page, if anything is.
fn fault(page: &Path, link: &str, pages: &BTreeMap<PathBuf, Page>) -> Option<&'static str> {
    if link.contains(':') {
        return (!is_address(link)).then_some("is no well-formed address of the Web");
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
    let target = if file.is_empty() { page.to_owned() } else { normal(&page.with_file_name(file)) };
    if !target.exists() {
        return Some("there is no such file");
    }
    let anchor = anchor?;
    match pages.get(&target) {
        Some(page) if page.anchors.contains(anchor) => None,
        Some(_) => Some("that page has no such heading"),
        None => Some("only pages have anchors"),
    }
}

/// Resolves `..` without asking the file system.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

/// Says whether a link is an address with a host, of characters that RFC 3986 allows.
fn is_address(link: &str) -> bool {
    let Some(rest) = link.strip_prefix("https://").or_else(|| link.strip_prefix("http://")) else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let whole = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#[]@!$&'()*+,;=%".contains(c);
    host.contains('.') && host.split('.').all(label) && rest.chars().all(whole) && rest.matches('#').count() < 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_a_file_a_heading_or_the_web() {
        let root = std::env::temp_dir().join(format!("telesonde-links-{}", std::process::id()));
        fs::create_dir_all(root.join("docs")).unwrap();
        let good =
            "# Here\n[a](docs/a.md) [b](docs/a.md#there) [c](#here) [d](docs) [e](https://example.com/x_(y)?z#w)\n";
        fs::write(root.join("README.md"), good).unwrap();
        fs::write(root.join("docs/a.md"), "## There\n[up](../README.md#here)\n").unwrap();
        check(&root).unwrap();
        for bad in ["docs/b.md", "docs/a.md#where", "#where", "https://example", "https://exa mple.com", "ftp://a.b"] {
            fs::write(root.join("README.md"), format!("# Here\n\n[x](<{bad}>)\n")).unwrap();
            let error = check(&root).unwrap_err().to_string();
            assert!(error.contains(&format!("README.md:3: {bad}: ")), "{error}");
        }
        fs::remove_dir_all(root).unwrap();
    }
}
