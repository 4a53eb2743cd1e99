//! The child process that makes system calls: as fast as it can, or so many a millisecond.

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::measure;

/// Tells the child that it is one, and which CPU is its own.
const CPU: &str = "BENCH_LOAD_CPU";

/// Says whether this process is the child.
pub fn is_child() -> bool {
    std::env::var_os(CPU).is_some()
}

/// What the child does: it answers each line, `calls N SLICES` or `pace N MILLISECONDS`, with one of its own.
pub fn work() -> io::Result<()> {
    if let Some(cpu) = std::env::var(CPU).ok().and_then(|cpu| cpu.parse().ok()) {
        measure::pin(cpu)?;
    }
    for line in io::stdin().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let order = words.next();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let (first, second) = (number(), number());
        match order {
            Some("calls") => {
                let slice = |_| measure::timed(|| call(first)).0.as_nanos() as f64 / first as f64;
                let mut slices: Vec<f64> = (0..second.max(1)).map(slice).collect();
                println!("{}", measure::median(&mut slices));
            }
            Some("pace") => {
                let begun = Instant::now();
                for millisecond in 1..=second {
                    call(first);
                    let due = begun + Duration::from_millis(millisecond);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                println!("done");
            }
            _ => return Err(io::Error::other(format!("«{line}» is no order"))),
        }
        io::stdout().flush()?;
    }
    Ok(())
}

fn call(times: u64) {
    for _ in 0..times {
        std::hint::black_box(rustix::process::getppid());
    }
}

/// The running child; it ends with its input.
pub struct Load {
    child: Child,
    orders: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Load {
    /// Starts the child on a CPU.
    pub fn start(cpu: usize) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(CPU, cpu.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().ok_or_else(|| io::Error::other("the child has no output"))?;
        Ok(Self { child, orders, answers: BufReader::new(answers).lines() })
    }

    /// Makes so many calls in each of some slices; gives the nanoseconds of a call in the median slice.
    pub fn sample(&mut self, calls: u64, slices: u64) -> io::Result<f64> {
        self.order(&format!("calls {calls} {slices}"))?;
        let answer = self.answers.next().ok_or_else(|| io::Error::other("the child has ended"))??;
        answer.parse().map_err(io::Error::other)
    }

    /// Begins to make so many calls in every millisecond of a time.
    pub fn pace(&mut self, calls: u64, time: Duration) -> io::Result<()> {
        self.order(&format!("pace {calls} {}", time.as_millis()))
    }

    fn order(&mut self, order: &str) -> io::Result<()> {
        let orders = self.orders.as_mut().ok_or_else(|| io::Error::other("the child has no input"))?;
        writeln!(orders, "{order}")?;
        orders.flush()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.orders = None;
        // A paced child would go on for its time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
