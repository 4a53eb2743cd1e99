//! What differs between the processors whose kernels are booted.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::process;

/// A processor that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// 64-bit x86, for which the programs are built as on this machine.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm, for which they are cross-compiled.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// Gives the emulator's name.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// Gives the emulated machine and processor.
    ///
    /// On x86 it is all that QEMU can emulate but for `cmpxchg16b`: up to 7.2 it takes the flags of that instruction from
    /// a register that may be out of date, and an interrupt right behind it, in the kernel's allocator, then returns with
    /// random flags.
    pub fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["-cpu", "max,-cx16"],
            // Signed pointers, which `max` has, take QEMU most of its time.
            Self::Aarch64 => &["-machine", "virt", "-cpu", "cortex-a72"],
        }
    }

    /// Gives the guest's serial line.
    pub fn console(self) -> &'static str {
        match self {
            Self::X86_64 => "ttyS0",
            Self::Aarch64 => "ttyAMA0",
        }
    }

    /// Gives Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Gives Rust's name of the target where that is not this machine.
    pub fn target(self) -> Option<&'static str> {
        match self {
            Self::X86_64 => None,
            Self::Aarch64 => Some("aarch64-unknown-linux-gnu"),
        }
    }

    /// Gives the directory that cargo builds into.
    pub fn directory(self) -> PathBuf {
        self.target().map_or_else(process::target, |target| process::target().join(target))
    }

    /// Gives the compiler of C.
    pub fn cc(self) -> &'static str {
        match self {
            Self::X86_64 => "cc",
            Self::Aarch64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Gives what takes symbols out of a program.
    pub fn strip(self) -> &'static str {
        match self {
            Self::X86_64 => "strip",
            Self::Aarch64 => "aarch64-linux-gnu-strip",
        }
    }

    /// Gives the directory and the option of the agent's build: the released one, or where nothing else needs that for the
    /// processor the one that cargo makes with the tests.
    pub fn profile(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::X86_64 => ("release", &["--release"]),
            Self::Aarch64 => ("debug", &[]),
        }
    }

    /// Lets cargo build for the processor.
    pub fn build(self, command: &mut Command) {
        if let Some(target) = self.target() {
            let linker = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
            command.args(["--target", target]).env(linker, self.cc());
        }
    }

    /// Installs Rust's library for the processor, where rustup can.
    ///
    /// # Errors
    /// Fails when it cannot be had.
    pub fn library(self) -> Result<()> {
        let Some(target) = self.target() else { return Ok(()) };
        let root = process::output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]));
        if root.is_some_and(|root| PathBuf::from(root).is_dir()) {
            return Ok(());
        }
        let rustup = process::find("rustup").with_context(|| {
            format!("Rust's library for {target} is missing; install it as Rust was installed here")
        })?;
        process::must(Command::new(rustup).args(["target", "add", target]))
    }
}
