//! Finds out what this machine lacks and installs it with the machine's own package manager.

mod needs;

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::process::{self, ByHand, Raise};
use needs::Need;

/// A package manager: its program, what refreshes its lists, what installs.
struct Manager {
    program: &'static str,
    refresh: &'static [&'static str],
    install: &'static [&'static str],
}

const MANAGERS: [Manager; 5] = [
    Manager {
        program: "apt-get",
        refresh: &["update", "-q"],
        install: &["install", "-y", "-q", "--no-install-recommends"],
    },
    Manager { program: "dnf", refresh: &[], install: &["install", "-y"] },
    Manager { program: "zypper", refresh: &[], install: &["--non-interactive", "install"] },
    Manager { program: "pacman", refresh: &[], install: &["-Sy", "--needed", "--noconfirm"] },
    Manager { program: "apk", refresh: &[], install: &["add", "--no-cache"] },
];

/// Installs what building and running the agent needs.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn build() -> Result<()> {
    ensure(&[needs::COMPILER, needs::CLANG, needs::HEADERS])
}

/// Installs what the tests need beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn test() -> Result<()> {
    build()?;
    ensure(&[needs::IPROUTE, needs::DISKS, needs::RESOLVERS, needs::TRANSLATORS])
}

/// Installs what making packages needs beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn package() -> Result<()> {
    build()?;
    ensure(&[needs::PACKAGER])
}

/// Installs what the proof of packages needs beyond making them.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn packages() -> Result<()> {
    package()?;
    ensure(&[needs::RPM])
}

/// Installs what the proof with real container runtimes needs.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn runtimes() -> Result<()> {
    ensure(&[needs::COMPILER, needs::CONTAINERS])
}

/// Installs what starts containers such as the chart's pods.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn containers() -> Result<()> {
    ensure(&[needs::PODS])
}

/// Installs what builds the image by the Dockerfile, for any processor.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn dockerfile() -> Result<()> {
    ensure(&[needs::BUILDERS])
}

/// Installs what reads the example's compose file.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn compose() -> Result<()> {
    ensure(&[needs::COMPOSE])
}

/// Installs what the bench of overheads needs beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn overhead() -> Result<()> {
    build()?;
    ensure(&[needs::SERVERS])
}

/// Installs what building the agent for a processor needs, this machine's or another.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn build_for(arch: Arch) -> Result<()> {
    build()?;
    match arch {
        _ if arch == Arch::HERE => Ok(()),
        Arch::X86_64 => ensure(&[needs::FOR_X86_64]),
        Arch::Aarch64 => ensure(&[needs::FOR_AARCH64]),
    }?;
    arch.library()
}

/// Installs what the suite on other kernels needs beyond the tests.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn kernel(arch: Arch) -> Result<()> {
    test()?;
    build_for(arch)?;
    ensure(if arch == Arch::Aarch64 { &[needs::EMULATOR, needs::ARM_EMULATOR] } else { &[needs::EMULATOR] })
}

/// Installs what `lint` needs beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn lint() -> Result<()> {
    build()?;
    // A toolchain of rustup gets its components from rustup, never from the distribution.
    if process::find("rustup").is_some() && !((needs::RUSTFMT.present)() && (needs::CLIPPY.present)()) {
        process::must(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))?;
    }
    ensure(&[needs::CLANG_FORMAT, needs::RUSTFMT, needs::CLIPPY])
}

/// Installs Go.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn go() -> Result<()> {
    ensure(&[needs::GO])
}

fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|need| need.name).collect::<Vec<_>>().join(", ");
    let Some((index, manager)) = MANAGERS.iter().enumerate().find(|(_, m)| process::find(m.program).is_some()) else {
        return Err(ByHand::new(
            format!("this machine lacks {names}, and its package manager is none of apt, dnf, zypper, pacman, apk"),
            "# install the above with this machine's package manager",
        )
        .into());
    };
    if let Some(need) = missing.iter().find(|need| need.packages[index].is_empty()) {
        return Err(ByHand::new(
            format!("this machine lacks {}, and {} has no package of it", need.name, manager.program),
            "# install it from its own site and put it first on the PATH",
        )
        .into());
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages[index]).copied().collect();
    let install: Vec<&str> = manager.install.iter().copied().chain(packages).collect();
    let by_hand = || format!("sudo {} {}", manager.program, install.join(" "));
    let Some(raise) = process::raise() else {
        return Err(ByHand::new(format!("this machine lacks {names}, and installing needs root"), by_hand()).into());
    };
    eprintln!("This machine lacks {names}.");
    if !manager.refresh.is_empty() {
        process::must(raised(&raise, manager).args(manager.refresh))?;
    }
    process::must(raised(&raise, manager).args(&install))
        .with_context(|| format!("cannot install {names}; try `{}`", by_hand()))?;
    match needs.iter().find(|need| !(need.present)()) {
        None => Ok(()),
        Some(need) => Err(ByHand::new(
            format!("{} is missing or too old even after the installation", need.name),
            "# install it from its own site and put it first on the PATH",
        )
        .into()),
    }
}

fn raised(raise: &Raise, manager: &Manager) -> Command {
    let mut command = match raise {
        Raise::Root => Command::new(manager.program),
        Raise::Sudo(sudo) => {
            let mut command = Command::new(sudo);
            command.arg(manager.program);
            command
        }
    };
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::inherit());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_names_a_package_for_every_manager() {
        let build = [needs::COMPILER, needs::CLANG, needs::HEADERS];
        let test = [needs::IPROUTE, needs::DISKS, needs::RESOLVERS, needs::TRANSLATORS];
        for need in build.into_iter().chain(test).chain([
            needs::SERVERS,
            needs::EMULATOR,
            needs::ARM_EMULATOR,
            needs::PACKAGER,
            needs::CLANG_FORMAT,
            needs::RUSTFMT,
            needs::CLIPPY,
            needs::GO,
        ]) {
            for (packages, manager) in need.packages.iter().zip(&MANAGERS) {
                assert!(!packages.is_empty(), "{} has no package for {}", need.name, manager.program);
            }
        }
        for need in [needs::FOR_X86_64, needs::FOR_AARCH64] {
            let without = need.packages.iter().zip(&MANAGERS).filter(|(packages, _)| packages.is_empty());
            assert_eq!(without.map(|(_, manager)| manager.program).collect::<Vec<_>>(), ["apk"], "{}", need.name);
        }
    }
}
