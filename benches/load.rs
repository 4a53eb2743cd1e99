//! The child process that does the work: as fast as it can, or so many system calls a millisecond.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{measure, work};

/// Tells the child that it is one, and which CPU is its own.
const CPU: &str = "BENCH_LOAD_CPU";

/// Says whether this process is the child.
pub fn is_child() -> bool {
    std::env::var_os(CPU).is_some()
}

/// What the child does: it answers each line, `work NAME N SLICES` or `pace N MILLISECONDS`, with one of its own.
pub fn obey() -> io::Result<()> {
    if let Some(cpu) = std::env::var(CPU).ok().and_then(|cpu| cpu.parse().ok()) {
        measure::pin(cpu)?;
    }
    let mut begun = HashMap::new();
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(1).max(1);
        match words.as_slice() {
            ["work", name, ..] => {
                if !begun.contains_key(*name) {
                    begun.insert((*name).to_owned(), work::begin(name)?);
                }
                let Some(work) = begun.get_mut(*name) else { continue };
                let slice = |_| work::slice(work.as_mut(), number(2));
                let mut slices = (0..number(3)).map(slice).collect::<io::Result<Vec<f64>>>()?;
                println!("{}", measure::median(&mut slices));
            }
            ["pace", ..] => {
                let mut calls = work::begin("syscall")?;
                let start = Instant::now();
                for millisecond in 1..=number(2) {
                    calls.run(number(1))?;
                    let due = start + Duration::from_millis(millisecond);
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

    /// Gives the child's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Does so many operations in each of some slices; gives the nanoseconds of an operation in the median slice.
    pub fn sample(&mut self, work: &str, operations: u64, slices: u64) -> io::Result<f64> {
        self.order(&format!("work {work} {operations} {slices}"))?;
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
