//! Cuts a stream into lines, none longer than a limit.

/// What came of the line that is not complete yet.
pub(super) struct Lines {
    begun: Vec<u8>,
    limit: usize,
    /// The present line is too long: the rest of it is skipped.
    skipping: bool,
}

impl Lines {
    pub fn new(limit: usize) -> Self {
        Self { begun: Vec::new(), limit, skipping: false }
    }

    /// Takes the next piece of the stream; hands over each line that it completes, or nothing for one that was too long.
    pub fn push<E>(&mut self, piece: &[u8], mut each: impl FnMut(Option<&[u8]>) -> Result<(), E>) -> Result<(), E> {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            rest = tail;
            if self.skipping || self.begun.len() + line.len() > self.limit {
                (self.skipping, self.begun) = (false, Vec::new());
                each(None)?;
            } else if self.begun.is_empty() {
                each(Some(line))?;
            } else {
                self.begun.extend_from_slice(line);
                let line = std::mem::take(&mut self.begun);
                each(Some(&line))?;
            }
        }
        if self.begun.len() + rest.len() > self.limit {
            (self.skipping, self.begun) = (true, Vec::new());
        } else if !self.skipping {
            self.begun.extend_from_slice(rest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_or_skipped() {
        let text = b"one\n\ntwo three\nmuch too long a line\nfour\nunfinished";
        let expected = [Some("one"), Some(""), Some("two three"), None, Some("four")];
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::new(10), Vec::new());
            for piece in text.chunks(size) {
                let each = |line: Option<&[u8]>| {
                    found.push(line.map(|line| String::from_utf8(line.to_vec()).unwrap()));
                    Ok::<(), ()>(())
                };
                lines.push(piece, each).unwrap();
                assert!(lines.begun.len() <= 10);
            }
            assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "pieces of {size}");
        }
    }
}
