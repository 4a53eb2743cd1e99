//! What a page of Markdown has in it: where it links to, and what may be linked to.

use std::collections::{BTreeMap, BTreeSet};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// A page.
#[derive(Default)]
pub struct Page {
    /// Where its links and pictures go, each with its line.
    pub links: Vec<(String, usize)>,
    /// The anchors of its headings, as forges make them.
    pub anchors: BTreeSet<String>,
}

impl Page {
    /// Reads a page.
    pub fn read(text: &str) -> Self {
        let mut page = Self::default();
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        let mut heading = None::<String>;
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((dest_url.into_string(), line(range.start)));
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let before = seen.entry(anchor.clone()).or_default();
                    page.anchors.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
                    *before += 1;
                }
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// Gives the anchor of a heading: its letters, digits, dashes and underscores in lower case, with a dash for each space.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_links_and_anchors_but_for_its_code() {
        let page = Page::read(
            "# What you get\n\n[a](b.md#c) and ![d](e.png)\n\n```sh\nls [x](y)\n```\n\n## `run`, twice\n\n## `run`, twice\n",
        );
        assert_eq!(page.links, [("b.md#c".to_owned(), 3), ("e.png".to_owned(), 3)]);
        let anchors: Vec<&str> = page.anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["run-twice", "run-twice-1", "what-you-get"]);
    }
}
