//! Boots a guest and reads its console to the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Options;
use super::packages::Kernel;
use crate::process;

/// The longest that a guest may run, in seconds; `timeout` ends it.
const LIMIT: &str = "1800";

/// One thread for all of the guest's CPUs, in turns: with one each, QEMU 7.2 now and then runs a half-patched
/// instruction where the kernel patches its own code, which ended kernels from 6.12 on.
const EMULATION: &str = "tcg,thread=single";

/// Gives what the guest printed; it is shown as it comes.
///
/// # Errors
/// Fails when QEMU cannot be started or the guest did not come to its end.
pub fn boot(kernel: &Kernel, image: &Path, options: &Options) -> Result<String> {
    let mut append = "console=ttyS0 quiet panic=-1 loglevel=3".to_owned();
    if options.lockdown {
        append += " lockdown=confidentiality";
    }
    let qemu = process::find("qemu-system-x86_64").context("qemu-system-x86_64 is missing")?;
    let mut command = Command::new("timeout");
    command.arg(LIMIT).arg(qemu).args(["-accel", EMULATION, "-cpu", "max", "-m", "3072", "-nographic"]);
    command.args(["-no-reboot", "-nic", "none", "-smp", &options.cpus.to_string()]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image).args(["-append", &append]);
    eprintln!("$ {}", process::line(&command));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start QEMU")?;
    let console = BufReader::new(child.stdout.take().context("QEMU has no output")?);
    let mut output = String::new();
    for line in console.split(b'\n') {
        let line = line.context("cannot read the guest's console")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{}: {line}", kernel.version);
        output.push_str(line);
        output.push('\n');
    }
    let status = child.wait()?;
    if !output.contains("guest: done") {
        bail!("the guest with {} ended early: QEMU {status}", kernel.version);
    }
    Ok(output)
}
