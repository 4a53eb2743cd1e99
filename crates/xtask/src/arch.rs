//! What differs between the processors that the agent is built for, and whose kernels are booted.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::process;

/// A processor that QEMU emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// 64-bit x86, for which the programs are built as on this machine.
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// 64-bit Arm, for which they are cross-compiled.
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    /// This machine's.
    pub const HERE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// Gives the emulator's name.
    pub fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
        }
    }

    /// Gives the name of the emulator of single programs.
    #[cfg(feature = "e2e")]
    pub fn emulator(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-x86_64",
            Self::Aarch64 => "qemu-aarch64",
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

    /// Gives the name that Debian and container images have for it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Gives Rust's name of the target where that is not this machine.
    pub fn target(self) -> Option<&'static str> {
        let target = match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        };
        (self != Self::HERE).then_some(target)
    }

    /// Gives the directory that cargo builds into.
    pub fn directory(self) -> PathBuf {
        self.target().map_or_else(process::target, |target| process::target().join(target))
    }

    /// Gives the compiler of C.
    pub fn cc(self) -> &'static str {
        match self {
            _ if self == Self::HERE => "cc",
            Self::X86_64 => "x86_64-linux-gnu-gcc",
            Self::Aarch64 => "aarch64-linux-gnu-gcc",
        }
    }

    /// Gives what takes symbols out of a program.
    pub fn strip(self) -> &'static str {
        match self {
            _ if self == Self::HERE => "strip",
            Self::X86_64 => "x86_64-linux-gnu-strip",
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
