//! A workload that does some of everything that dashboards show, in a cgroup that is too small for it.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketType};

/// Where the name server of the workload listens: the agent looks at port 53 alone.
const RESOLVER: &str = "127.0.0.77:53";

/// How long it runs at most.
const LONGEST: Duration = Duration::from_mins(5);

/// What the workload is to do.
#[derive(clap::Args)]
pub struct Args {
    /// Directories of the cgroups to enter.
    #[arg(long)]
    cgroup: Vec<PathBuf>,
    /// Take memory until the kernel ends it, and do nothing else.
    #[arg(long)]
    hog: bool,
}

/// Enters the cgroups and goes on until it is ended.
///
/// # Errors
/// Fails when a cgroup cannot be entered or an address is taken.
pub fn run(args: &Args) -> Result<()> {
    for dir in &args.cgroup {
        let procs = dir.join("cgroup.procs");
        fs::write(&procs, std::process::id().to_string())
            .with_context(|| format!("cannot enter {}", procs.display()))?;
    }
    if args.hog {
        let held: Vec<Vec<u8>> = (0..1024).map(|_| black_box(vec![1; 1 << 20])).collect();
        bail!("it got {} MiB", held.len());
    }
    let server = TcpListener::bind("127.0.0.1:0")?;
    let address = server.local_addr()?;
    let resolver = UdpSocket::bind(RESOLVER).with_context(|| format!("cannot listen on {RESOLVER}"))?;
    spawn(move || serve(&server));
    spawn(move || resolve(&resolver));
    let jobs: [fn(SocketAddr) -> Result<()>; 6] = [files, talk, fail, crowd, ask, compute];
    let jobs = jobs.map(|job| {
        spawn(move || -> Result<()> {
            let started = Instant::now();
            while started.elapsed() < LONGEST {
                job(address)?;
            }
            Ok(())
        })
    });
    for job in jobs {
        job.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

/// Writes a file, has it written to its disk, and reads it from there.
fn files(_: SocketAddr) -> Result<()> {
    let path = std::env::temp_dir().join(format!("telesonde-load-{}", std::process::id()));
    let mut file = File::create(&path)?;
    file.write_all(&vec![7; 1 << 16])?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut read = Vec::new();
    File::open(&path)?.read_to_end(&mut read)?;
    fs::remove_file(&path)?;
    sleep(Duration::from_millis(50));
    Ok(())
}

/// Answers with what it is sent.
fn serve(server: &TcpListener) {
    for stream in server.incoming().flatten() {
        spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = (&stream).read(&mut bytes) {
                let _ = (&stream).write_all(&bytes[..count]);
            }
        });
    }
}

/// Connects, talks for a second, and hangs up by a reset.
fn talk(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    let mut bytes = [1; 4096];
    for _ in 0..20 {
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        sleep(Duration::from_millis(50));
    }
    drop(TcpStream::connect(server)?);
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

/// Connects to where nobody listens.
fn fail(_: SocketAddr) -> Result<()> {
    let gone = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let _ = TcpStream::connect(gone);
    sleep(Duration::from_millis(200));
    Ok(())
}

/// More connect than a server has room for that accepts nobody: the kernel drops their segments, and they send them again.
fn crowd(_: SocketAddr) -> Result<()> {
    let server = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(server.as_fd(), &SocketAddr::from(([127, 0, 0, 1], 0)))?;
    rustix::net::listen(server.as_fd(), 0)?;
    let address = SocketAddr::try_from(rustix::net::getsockname(server.as_fd())?)?;
    let clients =
        [(); 4].map(|()| spawn(move || TcpStream::connect_timeout(&address, Duration::from_millis(2_500)).ok()));
    drop(clients.map(std::thread::JoinHandle::join));
    Ok(())
}

/// Answers questions, one in three as a server in trouble, one in ten not at all.
fn resolve(socket: &UdpSocket) {
    let mut bytes = [0; 512];
    for number in 0_u64.. {
        let Ok((count, from)) = socket.recv_from(&mut bytes) else { return };
        if number % 10 == 9 || count < 12 {
            continue;
        }
        bytes[2] |= 0x80;
        bytes[3] = if number.is_multiple_of(3) { 2 } else { 0 };
        let _ = socket.send_to(&bytes[..count], from);
    }
}

/// Asks for an address.
fn ask(_: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(RESOLVER)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(b"\x04load\x04test\x00\x00\x01\x00\x01");
    socket.send(&query)?;
    let _ = socket.recv(&mut [0; 512]);
    sleep(Duration::from_millis(30));
    Ok(())
}

/// Computes, with memory that it takes and gives back.
#[expect(clippy::unnecessary_wraps, reason = "one of the jobs, of which others can fail")]
fn compute(_: SocketAddr) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(40) {
        black_box(vec![3_u8; 1 << 20]);
    }
    sleep(Duration::from_millis(5));
    Ok(())
}

/// A running workload; its cgroups are removed with it.
pub struct Load {
    dirs: Vec<PathBuf>,
    children: Vec<Child>,
}

impl Load {
    /// Starts the workload in a cgroup that has less CPU than it wants.
    ///
    /// # Errors
    /// Fails when a cgroup cannot be made or the process not started.
    pub fn start() -> Result<Self> {
        let mut load = Self { dirs: Vec::new(), children: Vec::new() };
        load.spawn("load", 512 << 20, &[])?;
        Ok(load)
    }

    /// Starts one that the kernel kills for want of memory, and waits for that.
    ///
    /// # Errors
    /// Fails when it is not killed.
    pub fn kill_one(&mut self) -> Result<()> {
        self.spawn("hog", 24 << 20, &["--hog"])?;
        let status = self.children.pop().context("no child")?.wait()?;
        if status.code().is_some() {
            bail!("what took more memory than it may ended with {status}");
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, memory: u64, arguments: &[&str]) -> Result<()> {
        let name = format!("telesonde-e2e-{}-{name}", std::process::id());
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("load").args(arguments).stdin(Stdio::null());
        for dir in limited(&name, memory)? {
            command.arg("--cgroup").arg(&dir);
            self.dirs.push(dir);
        }
        self.children.push(command.spawn().context("cannot start the workload")?);
        Ok(())
    }
}

/// A cgroup with a memory limit, for a program that is to know of it; removed in the end.
pub struct Bounded(PathBuf);

impl Bounded {
    /// Makes one with a limit of so many bytes.
    ///
    /// # Errors
    /// Fails when it cannot be made.
    pub fn new(name: &str, memory: u64) -> Result<Self> {
        let root = super::stimulus::hierarchy()?;
        let mut file = "memory.limit_in_bytes";
        if root.join("cgroup.controllers").exists() {
            fs::write(root.join("cgroup.subtree_control"), "+memory").context("the controller cannot be had")?;
            file = "memory.max";
        }
        let dir = root.join(format!("telesonde-e2e-{}-{name}", std::process::id()));
        made(dir, &[(file, memory.to_string())]).map(Self)
    }

    /// Gives the command that runs a program in it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        let script = format!("echo $$ > {}/cgroup.procs && exec {} \"$@\"", self.0.display(), program.display());
        command.args(["-c", &script, "sh"]);
        command
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn made(dir: PathBuf, limits: &[(&str, String)]) -> Result<PathBuf> {
    fs::create_dir_all(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
    for (file, limit) in limits {
        fs::write(dir.join(file), limit).with_context(|| format!("cannot limit {} by {file}", dir.display()))?;
    }
    Ok(dir)
}

/// Makes a cgroup with limits of memory and CPU, in each hierarchy that has one of them; the agent's primary one is the first.
fn limited(name: &str, memory: u64) -> Result<Vec<PathBuf>> {
    let make = |root: &Path, limits: &[(&str, String)]| made(root.join(name), limits);
    let root = super::stimulus::hierarchy()?;
    if root.join("cgroup.controllers").exists() {
        fs::write(root.join("cgroup.subtree_control"), "+memory +cpu").context("the controllers cannot be had")?;
        let limits = [("memory.max", memory.to_string()), ("cpu.max", "30000 100000".to_owned())];
        return Ok(vec![make(root, &limits)?]);
    }
    let mut dirs = vec![make(root, &[("memory.limit_in_bytes", memory.to_string())])?];
    let cpu = Path::new("/sys/fs/cgroup/cpu");
    if cpu.is_dir() {
        dirs.push(make(cpu, &[("cpu.cfs_quota_us", "30000".to_owned())])?);
    }
    Ok(dirs)
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}
