//! What the kernel is asked to do while it is measured, each in nanoseconds of CPU time per operation.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::FileExt;

use rustix::time::ClockId;

use crate::measure;

/// A kind of work: its name, the operations of one slice (some 5 ms), and how it is begun.
pub struct Kind {
    pub name: &'static str,
    pub operation: &'static str,
    pub slice: u64,
    begin: fn() -> io::Result<Box<dyn Work>>,
}

/// Every kind of work.
pub const KINDS: &[Kind] = &[
    Kind { name: "syscall", operation: "getppid", slice: 20_000, begin: || Ok(Box::new(Syscall)) },
    Kind { name: "pipe", operation: "round trip through two pipes", slice: 1_000, begin: Pipe::begin },
    Kind { name: "tcp-rr", operation: "request and response of 64 B over loopback", slice: 200, begin: Talk::begin },
    Kind { name: "tcp-stream", operation: "64 KiB over loopback", slice: 150, begin: Stream::begin },
    Kind { name: "file-read", operation: "pread of 4 KiB from the page cache", slice: 10_000, begin: Reading::begin },
    Kind { name: "page-touch", operation: "first write to a page", slice: 16_384, begin: || Ok(Box::new(Pages)) },
];

/// Work that is packets and little else, beyond those of [`KINDS`].
pub const PACKETS: &[Kind] = &[
    Kind { name: "udp", operation: "datagram of 64 B over loopback", slice: 2_000, begin: Datagrams::begin },
    Kind { name: "scatter", operation: "datagram of 1 B to another address", slice: 2_000, begin: Scatter::begin },
];

/// Work that can be repeated.
pub trait Work {
    /// Does so many operations.
    fn run(&mut self, operations: u64) -> io::Result<()>;
}

/// Begins a kind of work by its name.
pub fn begin(name: &str) -> io::Result<Box<dyn Work>> {
    let kind = KINDS.iter().chain(PACKETS).find(|kind| kind.name == name);
    (kind.ok_or_else(|| io::Error::other(format!("«{name}» is no work")))?.begin)()
}

/// Gives the CPU time of all threads of this process for one operation, in nanoseconds.
pub fn slice(work: &mut dyn Work, operations: u64) -> io::Result<f64> {
    let (taken, done) = measure::timed(ClockId::ProcessCPUTime, || work.run(operations));
    done.map(|()| taken.as_nanos() as f64 / operations as f64)
}

struct Syscall;

impl Work for Syscall {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        for _ in 0..operations {
            std::hint::black_box(rustix::process::getppid());
        }
        Ok(())
    }
}

/// Two threads on one CPU that wake each other; the second one ends when its pipe does.
struct Pipe {
    to: io::PipeWriter,
    from: io::PipeReader,
}

impl Pipe {
    fn begin() -> io::Result<Box<dyn Work>> {
        let (mut there, to) = io::pipe()?;
        let (from, mut back) = io::pipe()?;
        std::thread::spawn(move || echo(&mut there, &mut back, &mut [0; 1]));
        Ok(Box::new(Self { to, from }))
    }
}

impl Work for Pipe {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        let mut byte = [0];
        for _ in 0..operations {
            self.to.write_all(&byte)?;
            self.from.read_exact(&mut byte)?;
        }
        Ok(())
    }
}

fn echo(from: &mut impl Read, to: &mut impl Write, buffer: &mut [u8]) {
    while from.read_exact(buffer).is_ok() && to.write_all(buffer).is_ok() {}
}

/// Gives the two ends of a connection over loopback.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    Ok((client, server))
}

struct Talk(TcpStream);

impl Talk {
    fn begin() -> io::Result<Box<dyn Work>> {
        let (client, server) = connection()?;
        std::thread::spawn(move || echo(&mut &server, &mut &server, &mut [0; 64]));
        Ok(Box::new(Self(client)))
    }
}

impl Work for Talk {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        let mut message = [0; 64];
        for _ in 0..operations {
            self.0.write_all(&message)?;
            self.0.read_exact(&mut message)?;
        }
        Ok(())
    }
}

struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
}

impl Datagrams {
    fn begin() -> io::Result<Box<dyn Work>> {
        let (from, to) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        from.connect(to.local_addr()?)?;
        to.connect(from.local_addr()?)?;
        Ok(Box::new(Self { from, to }))
    }
}

impl Work for Datagrams {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        let mut message = [0; 64];
        for _ in 0..operations {
            self.from.send(&message)?;
            self.to.recv(&mut message)?;
        }
        Ok(())
    }
}

/// Who receives has a socket for all of them, which is never read: a datagram is two connections, one of each socket.
struct Scatter {
    from: UdpSocket,
    to: UdpSocket,
}

impl Scatter {
    fn begin() -> io::Result<Box<dyn Work>> {
        Ok(Box::new(Self { from: UdpSocket::bind("127.0.0.1:0")?, to: UdpSocket::bind("0.0.0.0:0")? }))
    }
}

impl Work for Scatter {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        let port = self.to.local_addr()?.port();
        for address in 1..=operations as u32 {
            self.from.send_to(&[0], (Ipv4Addr::from_bits(0x7f01_0000 + address), port))?;
        }
        Ok(())
    }
}

const CHUNK: usize = 64 * 1024;

/// The second thread answers each slice with a byte, so that all of it is measured.
struct Stream {
    client: TcpStream,
    chunk: Vec<u8>,
}

impl Stream {
    fn begin() -> io::Result<Box<dyn Work>> {
        let (client, server) = connection()?;
        std::thread::spawn(move || drain(server));
        Ok(Box::new(Self { client, chunk: vec![0; CHUNK] }))
    }
}

fn drain(mut from: TcpStream) {
    let mut chunk = vec![0; CHUNK];
    while from.read_exact(&mut chunk).is_ok() {
        if chunk[0] == 1 && from.write_all(&[0]).is_err() {
            return;
        }
    }
}

impl Work for Stream {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        for operation in 1..=operations {
            // The last chunk asks for the answer.
            self.chunk[0] = u8::from(operation == operations);
            self.client.write_all(&self.chunk)?;
        }
        self.client.read_exact(&mut [0])
    }
}

struct Reading(File);

impl Reading {
    fn begin() -> io::Result<Box<dyn Work>> {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
        std::fs::write(&path, vec![1; CHUNK])?;
        let file = File::open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(Box::new(Self(file)))
    }
}

impl Work for Reading {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        let mut page = [0; 4096];
        for operation in 0..operations {
            self.0.read_exact_at(&mut page, operation * 4096 % CHUNK as u64)?;
        }
        Ok(())
    }
}

struct Pages;

impl Work for Pages {
    fn run(&mut self, operations: u64) -> io::Result<()> {
        const PAGE: usize = 4096;
        rustix::thread::disable_transparent_huge_pages(true)?;
        // From 32 MiB on, glibc maps memory that it is asked for and returns it at once when it is freed.
        let mut memory = vec![0_u8; operations as usize * PAGE];
        for page in memory.chunks_exact_mut(PAGE) {
            page[0] = 1;
        }
        std::hint::black_box(&memory);
        Ok(())
    }
}
