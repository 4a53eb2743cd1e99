//! Boots a guest and reads its console to the end, once more where the emulated processor fails.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::Options;
use super::initramfs::Image;
use super::packages::Kernel;
use super::table::Column;
use crate::process;

/// The longest that a guest may run, in seconds; `timeout` ends it.
const LIMIT: &str = "3600";

/// How often a guest is started at most, for all of the tests together.
const BOOTS: usize = 4;

/// One thread for all of the guest's CPUs, in turns: with one each, QEMU 7.2 now and then runs a half-patched
/// instruction where the kernel patches its own code, which ended kernels from 6.12 on.
const EMULATION: &str = "tcg,thread=single";

/// What a kernel says when its processor has done what no kernel asks for: the emulator's fault, not that of a test.
const FAULTS: [&str; 3] = ["double fault", "invalid opcode", "iret exception"];

/// A nanosecond of the guest's time for each instruction, and none for waiting: whatever else this machine does, the
/// guest does not notice. With more than one CPU, QEMU 7.2 does not come through the start of the second one.
const CLOCK: [&str; 2] = ["-icount", "shift=0,sleep=off"];

/// Gives what the guest printed, which is shown as it comes, and whether it came to its end. Where it falls before, the
/// tests without a result run in another boot. The test that was under way has failed, unless it was the emulated
/// processor that did: it runs once more.
///
/// # Errors
/// Fails when QEMU cannot be started.
pub fn run(kernel: &Kernel, image: &Image, options: &Options) -> Result<(String, bool)> {
    let (mut output, mut faulted) = (String::new(), BTreeSet::new());
    for _ in 0..BOOTS {
        image.renew(Column::read("", &output).names())?;
        let console = boot(kernel, image, options)?;
        output += &console;
        if console.contains("guest: done") {
            return Ok((output, true));
        }
        let Some(line) = verdict(&console, &mut faulted) else { break };
        println!("{}: {line}", kernel.version);
        output += &(line + "\n");
    }
    Ok((output, false))
}

/// Says what became of the test in which a guest fell, where it was one.
fn verdict(console: &str, faulted: &mut BTreeSet<String>) -> Option<String> {
    let test = console.lines().filter_map(|line| line.strip_prefix("guest: begin ")).next_back()?;
    if console.contains(&format!("host: {test} ")) {
        return None;
    }
    let fault = console.lines().find(|line| FAULTS.iter().any(|fault| line.contains(fault)));
    Some(match fault {
        Some(fault) if faulted.insert(test.to_owned()) => format!("guest: {test} met the emulator's fault {fault}"),
        _ => format!("guest: {test} ended with the guest"),
    })
}

/// Gives the test of which a line is the result: what a kernel says as it falls may stand there instead.
fn ended(line: &str) -> Option<&str> {
    let (test, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    ["ok", "FAILED"].contains(&result).then_some(test)
}

fn boot(kernel: &Kernel, image: &Image, options: &Options) -> Result<String> {
    let arch = options.arch;
    let mut append = format!("console={} quiet panic=-1 loglevel=3", arch.console());
    if options.lockdown {
        append += " lockdown=confidentiality";
    }
    let qemu = process::find(arch.qemu()).with_context(|| format!("{} is missing", arch.qemu()))?;
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(qemu).args(["-accel", EMULATION, "-m", "3072", "-nographic"]).args(arch.machine());
    command.args(["-no-reboot", "-nic", "none", "-smp", &options.cpus.to_string()]);
    if options.cpus == 1 {
        command.args(CLOCK);
    }
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&image.archive).args(["-append", &append]);
    command.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", image.disk.display()));
    eprintln!("$ {}", process::line(&command));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let console = BufReader::new(child.stdout.take().context("QEMU has no output")?);
    let (mut output, mut begin) = (String::from("host: boot\n"), Instant::now());
    for line in console.split(b'\n') {
        let line = line.context("cannot read the guest's console")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{}: {line}", kernel.version);
        output.push_str(line);
        output.push('\n');
        if line.starts_with("guest: begin ") {
            begin = Instant::now();
        }
        if let Some(test) = ended(line) {
            let _ = writeln!(output, "host: {test} {:.1}", begin.elapsed().as_secs_f64());
        }
    }
    let status = child.wait()?;
    if !output.contains("guest: done") {
        eprintln!("the guest with {} ended early: QEMU {status}", kernel.version);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulators_fault_is_not_the_tests() {
        let fallen = "guest: begin a\ntest a ... ok\nhost: a 1.0\nguest: begin b\n\
                      test b ... [  258.7] traps: PANIC: double fault, error_code: 0x0\n";
        let mut faulted = BTreeSet::new();
        let met = verdict(fallen, &mut faulted).unwrap();
        assert!(met.starts_with("guest: b met the emulator's fault test b"), "{met}");
        assert_eq!(Column::read("", &format!("{fallen}{met}\n")).names().collect::<Vec<_>>(), ["a"]);
        assert_eq!(verdict(fallen, &mut faulted).unwrap(), "guest: b ended with the guest", "once is enough");
        let panicked = "guest: begin c\nKernel panic - not syncing: hung task\n";
        assert_eq!(verdict(panicked, &mut faulted).unwrap(), "guest: c ended with the guest");
        assert_eq!(verdict("guest: begin c\nhost: c 1.0\n", &mut faulted), None);
        assert_eq!((ended("test a ... ok"), ended("test a ... [ 1.0] Oops")), (Some("a"), None));
    }
}
