//! What a real API server of Kubernetes was seen to say: `cargo xtask e2e kubernetes --record` writes it down.

use std::path::Path;

/// An answer.
pub struct Recorded {
    /// The status code.
    pub code: u16,
    /// The type of the content.
    pub content: String,
    /// The body.
    pub body: String,
}

/// Reads an answer by its name.
pub fn recorded(name: &str) -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/kubernetes/recorded/{name}.http"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (head, body) = text.split_once("\n\n").unwrap();
    let mut lines = head.lines().filter_map(|line| line.strip_prefix("< "));
    let code = lines.next().unwrap().parse().unwrap();
    let content = lines.find_map(|line| line.strip_prefix("content-type: ")).unwrap();
    Recorded { code, content: content.to_owned(), body: body.trim_end().to_owned() }
}
