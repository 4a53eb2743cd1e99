//! A scrape of the agent: plain HTTP over TCP or a Unix socket, and a reader of the text format.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One line of an exposition.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name of the sample, suffix included.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Compares a number with what was done, of which the kernel may have skipped so much.
pub fn assert_counted(found: Option<f64>, done: f64, skipped: f64) {
    let found = found.unwrap_or_default();
    assert!(done - skipped <= found && found <= done, "{found} of {done}, {skipped} skipped");
}

/// All samples of a scrape.
#[derive(Clone, Debug)]
pub struct Scrape(pub Vec<Sample>);

impl Scrape {
    /// Gives how many runs of these programs the kernel has skipped: they would have run within themselves on one CPU.
    /// The programs of system calls may be only from Linux 7.0 on, which preempts them: then counts may be short of
    /// what was done by as much, and by no more.
    pub fn skipped(&self, programs: &[&str]) -> f64 {
        let of = |program: &&str| self.sum("telesonde_bpf_misses_total", &[("program", program)]);
        let skipped = programs.iter().map(of).sum();
        let facts = bpf::probe::Facts::gather();
        assert!(skipped == 0.0 || facts.version >= (7, 0), "Linux {} skipped {programs:?}", facts.release);
        skipped
    }

    /// Reads the text format 0.0.4.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect())
    }

    /// Gives all samples with a name and at least these labels.
    pub fn all<'s>(&'s self, name: &'s str, labels: &'s [(&str, &str)]) -> impl Iterator<Item = &'s Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|&(key, value)| sample.labels.get(key).is_some_and(|found| found == value))
        })
    }

    /// Gives the value of the one sample with a name and at least these labels; nothing when there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found: Vec<_> = self.all(name, labels).collect();
        assert!(found.len() <= 1, "{name}{labels:?} is not one series: {found:?}");
        found.first().map(|sample| sample.value)
    }

    /// Gives the counters, and buckets of histograms, that are less than they were in an earlier scrape.
    pub fn fallen(&self, earlier: &Self) -> Vec<(Sample, f64)> {
        let grows = |sample: &Sample| sample.name.ends_with("_total") || sample.name.ends_with("_bucket");
        let counters = |scrape: &'_ Self| scrape.0.clone().into_iter().filter(grows);
        let before: BTreeMap<_, _> = counters(earlier).map(|s| ((s.name, s.labels), s.value)).collect();
        let fallen = counters(self).filter_map(|sample| {
            let before = *before.get(&(sample.name.clone(), sample.labels.clone()))?;
            (sample.value < before).then_some((sample, before))
        });
        fallen.collect()
    }

    /// Gives the samples that are there more than once.
    pub fn repeated(&self) -> Vec<Sample> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter(|sample| !seen.insert((&sample.name, &sample.labels))).cloned().collect()
    }

    /// Gives the sum over all samples with a name and at least these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.all(name, labels).map(|sample| sample.value).sum()
    }
}

/// Gets a page over TCP; gives the status code and the body.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    exchange(stream, path)
}

/// Gets a page over a Unix socket; gives the status code and the body.
pub fn get_unix(socket: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    exchange(stream, path)
}

fn exchange(mut stream: impl Read + Write, path: &str) -> std::io::Result<(u16, String)> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(|| bad("no end of the headers"))?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status"))?;
    let body = if head.contains("transfer-encoding: chunked") { join(body) } else { Some(body.to_vec()) };
    let body = body.ok_or_else(|| bad("a broken chunk"))?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn join(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?, 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend(rest.get(end + 2..end + 2 + length)?);
        rest = rest.get(end + 4 + length..)?;
    }
}

fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}")));
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(mut inside) = rest.strip_prefix('{') {
        while !inside.starts_with('}') {
            let (key, tail) = inside.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            let (value, tail) = quoted(tail).unwrap_or_else(|| panic!("no end of a label: {line}"));
            labels.insert(key.to_owned(), value);
            inside = tail.strip_prefix(',').unwrap_or(tail);
        }
        rest = &inside[1..];
    }
    let value = rest.split_whitespace().next().and_then(|value| value.parse().ok());
    Sample { name: name.to_owned(), labels, value: value.unwrap_or_else(|| panic!("no number: {line}")) }
}

/// Reads up to the closing quote; gives the text and what follows.
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

#[test]
fn lines_are_read() {
    let text = "# HELP a b\na{x=\"1,}\\\"\",y=\"\\\\\"} 3\nb 4.5 1700000000\nc_bucket{le=\"+Inf\"} 7\n";
    let scrape = Scrape::parse(text);
    assert_eq!(scrape.value("a", &[("x", "1,}\""), ("y", "\\")]), Some(3.0));
    assert_eq!(scrape.value("b", &[]), Some(4.5));
    assert_eq!(scrape.sum("c_bucket", &[("le", "+Inf")]), 7.0);
    assert_eq!(join(b"3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n").as_deref(), Some(&b"abcd"[..]));
}
