//! A web server under load: the CPU time of nginx's one worker per request of wrk.

use std::error::Error;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Connections of wrk.
const CONNECTIONS: &str = "16";
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server; it ends with this value.
pub struct Nginx {
    child: Child,
    directory: PathBuf,
    url: String,
    worker: u32,
}

impl Nginx {
    /// Starts the server with its worker on a CPU.
    pub fn start(cpu: usize) -> Result<Self, Box<dyn Error>> {
        let missing = |program| format!("{program} is not installed (Debian: apt install nginx-light wrk)");
        let _ = Command::new("wrk").arg("-v").stdout(Stdio::null()).status().map_err(|_| missing("wrk"))?;
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("nginx-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        fs::write(directory.join("index.html"), vec![b'.'; 1024])?;
        let at = directory.display();
        let mask = format!("{:b}", 1_u64 << cpu);
        let config = format!(
            "daemon off; user root; worker_processes 1; worker_cpu_affinity {mask}; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log {at}/access.log; server {{ listen 127.0.0.1:{port}; root {at}; }} }}\n"
        );
        fs::write(directory.join("nginx.conf"), config)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(directory.join("nginx.conf"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|_| missing("nginx"))?;
        let mut server = Self { child, directory, url: format!("http://127.0.0.1:{port}/index.html"), worker: 0 };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() || server.worker == 0 {
            if begun.elapsed() > PATIENCE {
                return Err("nginx does not serve".into());
            }
            std::thread::sleep(Duration::from_millis(20));
            let children = format!("/proc/{0}/task/{0}/children", server.child.id());
            let children = fs::read_to_string(children).unwrap_or_default();
            server.worker = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        }
        server.sample()?;
        Ok(server)
    }

    /// Gives the nanoseconds that the worker takes for a request, over a second.
    pub fn sample(&mut self) -> Result<f64, Box<dyn Error>> {
        let before = self.cpu_time()?;
        let output = Command::new("wrk").args(["-t1", "-c", CONNECTIONS, "-d", "1s", &self.url]).output()?;
        let taken = self.cpu_time()? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.contains(" requests in ")).ok_or("wrk made no requests")?;
        let requests: f64 = line.split_whitespace().next().ok_or("wrk made no requests")?.parse()?;
        Ok(taken as f64 / requests)
    }

    fn cpu_time(&self) -> Result<u64, Box<dyn Error>> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.worker))?;
        Ok(text.split(' ').next().ok_or("no schedstat")?.parse()?)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Without its master a worker would go on: the master is asked to end both.
        let _ = Command::new("sh").args(["-c", &format!("kill {}", self.child.id())]).status();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
