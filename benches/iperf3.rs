//! iperf3 over loopback, client and server on one CPU: the CPU time of both for 64 KiB that they carry.

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What the CPU time is given for, in bytes.
const UNIT: f64 = 65_536.0;
const PATIENCE: Duration = Duration::from_secs(10);

/// A running server; it ends with this value.
pub struct Iperf3 {
    server: Child,
    port: String,
    cpu: String,
}

impl Iperf3 {
    /// Starts the server on a CPU.
    pub fn start(cpu: usize) -> Result<Self, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (text, cpu) = (port.to_string(), cpu.to_string());
        let mut command = Command::new("iperf3");
        command.args(["--server", "--bind", "127.0.0.1", "--port", &text, "--affinity", &cpu]);
        let spawned = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = spawned.map_err(|_| "iperf3 is not installed (Debian: apt install iperf3)")?;
        let mut this = Self { server, port: text, cpu };
        let begun = Instant::now();
        // A connection that says nothing is a client to it, which it soon gives up.
        while TcpStream::connect(("127.0.0.1", port)).is_err() || this.sample().is_err() {
            if begun.elapsed() > PATIENCE {
                return Err("iperf3 does not serve".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(this)
    }

    /// Gives the nanoseconds that both ends take for 64 KiB, over a second.
    pub fn sample(&mut self) -> Result<f64, Box<dyn Error>> {
        let mut command = Command::new("iperf3");
        command.args(["--client", "127.0.0.1", "--port", &self.port, "--affinity", &self.cpu, "--time", "1", "--json"]);
        let output = command.stdin(Stdio::null()).output()?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let number =
            |at: &str| report.pointer(at).and_then(Value::as_f64).ok_or_else(|| format!("iperf3 says no {at}"));
        let percent =
            number("/end/cpu_utilization_percent/host_total")? + number("/end/cpu_utilization_percent/remote_total")?;
        let taken = percent / 100.0 * number("/end/sum_sent/seconds")? * 1e9;
        Ok(taken / (number("/end/sum_received/bytes")? / UNIT))
    }
}

impl Drop for Iperf3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
