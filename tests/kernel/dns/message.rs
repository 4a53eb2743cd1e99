//! DNS messages, and a server that answers them as a test wants.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, UdpSocket};

use crate::harness::netns::Netns;

/// Writes a query with a name, one label after the other.
pub fn query(id: u16, labels: &[&str], kind: u16) -> Vec<u8> {
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in labels {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Makes an answer of a query.
pub fn answer(query: &[u8], code: u8) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] |= 0x80;
    message[3] = 0x80 | code;
    message
}

/// Puts a message's length before it, as streams want it.
pub fn prefixed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// Writes an action of `tests/stimulus/dns.c`.
pub fn action(name: &str, bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(format!("{name}="), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Answers queries as they come over both transports of an address, until the process ends.
pub fn serve(
    netns: &Netns,
    address: IpAddr,
    answers: impl Fn(Vec<Vec<u8>>) -> Vec<Vec<u8>> + Send + Copy + 'static,
    group: usize,
) {
    let (datagrams, listener) =
        netns.run(|| (UdpSocket::bind((address, 53)).unwrap(), TcpListener::bind((address, 53)).unwrap()));
    std::thread::spawn(move || {
        loop {
            let mut queries = Vec::new();
            let mut from = None;
            while queries.len() < group {
                let mut buffer = [0; 2048];
                let Ok((size, peer)) = datagrams.recv_from(&mut buffer) else { return };
                queries.push(buffer[..size].to_vec());
                from = Some(peer);
            }
            for answer in answers(queries) {
                datagrams.send_to(&answer, from.unwrap()).unwrap();
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                loop {
                    let mut queries = Vec::new();
                    while queries.len() < group {
                        let mut length = [0; 2];
                        if stream.read_exact(&mut length).is_err() {
                            return;
                        }
                        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
                        if stream.read_exact(&mut message).is_err() {
                            return;
                        }
                        queries.push(message);
                    }
                    // The first answer byte by byte, each in a segment of its own; the others in one.
                    let answers: Vec<_> = answers(queries).iter().map(|answer| prefixed(answer)).collect();
                    for byte in &answers[0] {
                        stream.write_all(&[*byte]).unwrap();
                    }
                    stream.write_all(&answers[1..].concat()).unwrap();
                }
            });
        }
    });
}
