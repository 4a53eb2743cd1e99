//! The few lines of an HTTP/1.1 client that the proof needs, over a loopback connection.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// An answer with its body in full.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header values by lower-case name.
    pub headers: BTreeMap<String, String>,
    /// The body, with any chunking undone.
    pub body: String,
}

/// Gets a path from a loopback port.
///
/// # Errors
/// Fails when the server cannot be reached, stalls for 10 s, answers another status than 200, or not in HTTP.
pub fn get(port: u16, path: &str, accept: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("cannot reach port {port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {accept}\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    );
    let response = exchange(&mut stream, &request).with_context(|| format!("GET {path} on port {port}"))?;
    if response.status != 200 {
        let body = response.body.chars().take(300).collect::<String>();
        bail!("GET {path} on port {port}: answered {}: {body}", response.status);
    }
    Ok(response)
}

/// Sends a request that asks for the connection to be closed, and reads the answer until it is.
///
/// # Errors
/// Fails when the connection does, or the answer is not HTTP.
pub fn exchange(stream: &mut (impl Read + Write), request: &str) -> Result<Response> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Response> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("the answer has no end of its head")?;
    let head = std::str::from_utf8(&bytes[..end])?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok()).context("the answer has no status")?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let raw = &bytes[end + 4..];
    let chunked = headers.get("transfer-encoding").is_some_and(|value| value == "chunked");
    let body = String::from_utf8(if chunked { unchunk(raw)? } else { raw.to_vec() })?;
    Ok(Response { status, headers, body })
}

fn unchunk(mut raw: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = raw.windows(2).position(|window| window == b"\r\n").context("a chunk has no size")?;
        let size = std::str::from_utf8(&raw[..line])?.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size is not hexadecimal")?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(raw.get(line + 2..line + 2 + size).context("a chunk is cut short")?);
        raw = raw.get(line + 4 + size..).context("a chunk has no end")?;
    }
}

/// Encodes a query parameter.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_joined() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let response = parse(bytes).unwrap();
        assert_eq!((response.body.as_str(), response.headers["x-a"].as_str()), ("abcde", "b"));
        let busy = parse(b"HTTP/1.1 503 No\r\n\r\nbusy").unwrap();
        assert_eq!((busy.status, busy.body.as_str()), (503, "busy"));
        assert!(parse(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(encode("a{b=\"c\"}[1m]"), "a%7Bb%3D%22c%22%7D%5B1m%5D");
    }
}
