//! What the table of connections costs: nanoseconds of its programs for a packet, beside an empty program on an
//! interface (TC) and the least that a table there would do; what that adds to work; gathers and memory by connections.
//! All of it happens in a network namespace of its own.

mod descriptors;
mod iperf3;
#[expect(dead_code, reason = "shared with the other benches")]
mod load;
mod measure;
mod packets;
mod slots;
mod work;
#[expect(dead_code, reason = "shared with the other benches")]
mod workshop;

use std::error::Error;
use std::process::Command;

use workshop::Workshop;

/// Tells this program that it runs in the namespace.
const INSIDE: &str = "BENCH_CONNECTION_INSIDE";

fn main() -> Result<(), Box<dyn Error>> {
    if load::is_child() {
        return Ok(load::obey()?);
    }
    // Another target's filter asks for a list or a test run: there is nothing to do then.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return Ok(());
    }
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let (measured, other) = measure::cpus();
    measure::pin(other)?;
    let workshop = Workshop::new()?;
    let arguments: Vec<String> = std::env::args().collect();
    // `--only PART`: packets, work or slots.
    let only = arguments.windows(2).find(|pair| pair[0] == "--only").map(|pair| pair[1].as_str());
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted("packets") {
        packets::each(&workshop, measured)?;
        println!();
    }
    if wanted("work") {
        packets::work(&workshop, measured)?;
        println!();
    }
    if wanted("slots") {
        slots::table(&workshop, measured)?;
    }
    Ok(())
}

/// Runs this program once more, in a network namespace that ends with it.
fn enter() -> Result<(), Box<dyn Error>> {
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", script]).arg(std::env::current_exe()?).args(std::env::args().skip(1));
    let status = command.env(INSIDE, "1").status()?;
    if status.success() { Ok(()) } else { Err(format!("in the namespace: {status}").into()) }
}
