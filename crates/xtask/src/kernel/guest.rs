//! Boots a guest and reads its console to the end.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use super::Options;
use super::initramfs::Image;
use super::packages::Kernel;
use crate::process;

/// The longest that a guest may run, in seconds; `timeout` ends it.
const LIMIT: &str = "3600";

/// One thread for all of the guest's CPUs, in turns: with one each, QEMU 7.2 now and then runs a half-patched
/// instruction where the kernel patches its own code, which ended kernels from 6.12 on.
const EMULATION: &str = "tcg,thread=single";

/// A nanosecond of the guest's time for each instruction, and none for waiting: whatever else this machine does, the
/// guest does not notice. With more than one CPU, QEMU 7.2 does not come through the start of the second one.
const CLOCK: [&str; 2] = ["-icount", "shift=0,sleep=off"];

/// Gives what the guest printed, which is shown as it comes, and whether it came to its end.
///
/// # Errors
/// Fails when QEMU cannot be started.
pub fn boot(kernel: &Kernel, image: &Image, options: &Options) -> Result<(String, bool)> {
    let mut append = "console=ttyS0 quiet panic=-1 loglevel=3".to_owned();
    if options.lockdown {
        append += " lockdown=confidentiality";
    }
    let qemu = process::find("qemu-system-x86_64").context("qemu-system-x86_64 is missing")?;
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(qemu).args(["-accel", EMULATION, "-cpu", "max", "-m", "3072", "-nographic"]);
    command.args(["-no-reboot", "-nic", "none", "-smp", &options.cpus.to_string()]);
    if options.cpus == 1 {
        command.args(CLOCK);
    }
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&image.archive).args(["-append", &append]);
    command.arg("-drive").arg(format!("file={},format=raw,if=virtio,cache=unsafe", image.disk.display()));
    eprintln!("$ {}", process::line(&command));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let console = BufReader::new(child.stdout.take().context("QEMU has no output")?);
    let (mut output, mut begin) = (String::new(), Instant::now());
    for line in console.split(b'\n') {
        let line = line.context("cannot read the guest's console")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{}: {line}", kernel.version);
        output.push_str(line);
        output.push('\n');
        if let Some((test, _)) = line.strip_prefix("test ").and_then(|line| line.split_once(" ... ")) {
            let _ = writeln!(output, "host: {test} {:.1}", begin.elapsed().as_secs_f64());
            begin = Instant::now();
        }
    }
    let status = child.wait()?;
    let is_whole = output.contains("guest: done");
    if !is_whole {
        eprintln!("the guest with {} ended early: QEMU {status}", kernel.version);
    }
    Ok((output, is_whole))
}
