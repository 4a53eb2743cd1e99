//! Finds out what this machine lacks and installs it with the machine's own package manager.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process::{self, ByHand, Raise};

/// Something that must be on the machine, how to see that it is, and its package per package manager.
pub struct Need {
    name: &'static str,
    present: fn() -> bool,
    packages: [&'static [&'static str]; MANAGERS.len()],
}

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

const COMPILER: Need = Need {
    name: "a C compiler (cc)",
    present: || process::find("cc").is_some(),
    packages: [&["gcc", "libc6-dev"], &["gcc"], &["gcc"], &["gcc"], &["gcc", "musl-dev"]],
};
const CLANG: Need = Need {
    name: "clang, which compiles the BPF programs",
    present: || process::find("clang").is_some(),
    packages: [&["clang"], &["clang"], &["clang"], &["clang"], &["clang"]],
};
const HEADERS: Need = Need {
    name: "the headers of libbpf and of the kernel's user-space interface",
    present: headers,
    packages: [
        &["libbpf-dev", "linux-libc-dev"],
        &["libbpf-devel", "kernel-headers"],
        &["libbpf-devel", "linux-glibc-devel"],
        &["libbpf", "linux-api-headers"],
        &["libbpf-dev", "linux-headers"],
    ],
};
const IPROUTE: Need = Need {
    name: "ip, with which tests make network namespaces",
    present: || process::find("ip").is_some(),
    packages: [&["iproute2"], &["iproute"], &["iproute2"], &["iproute2"], &["iproute2"]],
};
const DISKS: Need = Need {
    name: "mkfs.ext4, mount and losetup, with which tests make file systems",
    present: || ["mkfs.ext4", "mount", "losetup"].iter().all(|program| process::find(program).is_some()),
    packages: [
        &["e2fsprogs", "mount"],
        &["e2fsprogs", "util-linux"],
        &["e2fsprogs", "util-linux"],
        &["e2fsprogs", "util-linux"],
        &["e2fsprogs", "util-linux"],
    ],
};
const EMULATOR: Need = Need {
    name: "QEMU and what packs a guest's file system (busybox, cpio, depmod, xz)",
    present: || {
        ["qemu-system-x86_64", "busybox", "cpio", "depmod", "xz"].iter().all(|name| process::find(name).is_some())
    },
    packages: [
        &["qemu-system-x86", "busybox-static", "cpio", "kmod", "xz-utils"],
        &["qemu-system-x86-core", "busybox", "cpio", "kmod", "xz"],
        &["qemu-x86", "busybox-static", "cpio", "kmod", "xz"],
        &["qemu-system-x86", "busybox", "cpio", "kmod", "xz"],
        &["qemu-system-x86_64", "busybox-static", "cpio", "kmod", "xz"],
    ],
};
const CROSS: Need = Need {
    name: "QEMU and a C compiler for aarch64",
    present: || ["qemu-system-aarch64", "aarch64-linux-gnu-gcc"].iter().all(|name| process::find(name).is_some()),
    packages: [
        &["qemu-system-arm", "gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        &["qemu-system-aarch64-core", "gcc-aarch64-linux-gnu"],
        &["qemu-arm", "cross-aarch64-gcc14"],
        &["qemu-system-aarch64", "aarch64-linux-gnu-gcc"],
        &["qemu-system-aarch64"],
    ],
};
const RESOLVERS: Need = Need {
    name: "dnsmasq and dig, a server and a client of DNS for tests",
    present: || ["dnsmasq", "dig"].iter().all(|program| process::find(program).is_some()),
    packages: [
        &["dnsmasq-base", "bind9-dnsutils"],
        &["dnsmasq", "bind-utils"],
        &["dnsmasq", "bind-utils"],
        &["dnsmasq", "bind"],
        &["dnsmasq", "bind-tools"],
    ],
};
#[cfg(feature = "e2e")]
const CONTAINERS: Need = Need {
    name: "container runtimes (docker, containerd, podman, runc, newuidmap)",
    present: || {
        ["docker", "dockerd", "containerd", "ctr", "podman", "runc", "newuidmap"]
            .iter()
            .all(|program| process::find(program).is_some())
    },
    packages: [
        &["docker.io", "containerd", "podman", "runc", "uidmap"],
        &["moby-engine", "containerd", "podman", "runc", "shadow-utils"],
        &["docker", "containerd-ctr", "podman", "runc", "shadow"],
        &["docker", "containerd", "podman", "runc", "shadow"],
        &["docker", "containerd-ctr", "podman", "runc", "shadow-uidmap"],
    ],
};
#[cfg(feature = "e2e")]
const PODS: Need = Need {
    name: "runc, a container runtime's default profile of system calls, and setcap",
    present: || {
        let profile = std::path::Path::new(crate::e2e::seccomp::PROFILE);
        ["runc", "setcap"].iter().all(|program| process::find(program).is_some()) && profile.exists()
    },
    packages: [
        &["runc", "golang-github-containers-common", "libcap2-bin"],
        &["runc", "containers-common", "libcap"],
        &["runc", "libcontainers-common", "libcap-progs"],
        &["runc", "containers-common", "libcap"],
        &["runc", "containers-common", "libcap-setcap"],
    ],
};
#[cfg(feature = "e2e")]
const COMPOSE: Need = Need {
    name: "docker-compose, which reads the example's file",
    present: || process::find("docker-compose").is_some(),
    packages: [&["docker-compose"], &["docker-compose"], &["docker-compose"], &["docker-compose"], &["docker-compose"]],
};
const TRANSLATORS: Need = Need {
    name: "iptables and ip6tables, with which tests translate addresses",
    present: || ["iptables", "ip6tables"].iter().all(|program| process::find(program).is_some()),
    packages: [&["iptables"], &["iptables-nft"], &["iptables"], &["iptables"], &["iptables"]],
};
const SERVERS: Need = Need {
    name: "nginx, wrk and iperf3, on which benches measure",
    present: || ["nginx", "wrk", "iperf3"].iter().all(|program| process::find(program).is_some()),
    packages: [
        &["nginx-light", "wrk", "iperf3"],
        &["nginx", "wrk", "iperf3"],
        &["nginx", "wrk", "iperf"],
        &["nginx", "wrk", "iperf3"],
        &["nginx", "wrk", "iperf3"],
    ],
};
const PACKAGER: Need = Need {
    name: "dpkg-shlibdeps, which tells what a package for Debian depends on",
    present: || process::find("dpkg-shlibdeps").is_some(),
    packages: [&["dpkg-dev"], &["dpkg-dev"], &["dpkg"], &["dpkg"], &["dpkg-dev"]],
};
#[cfg(feature = "e2e")]
const RPM: Need = Need {
    name: "rpm, which looks into packages for it",
    present: || process::find("rpm").is_some(),
    packages: [&["rpm"], &["rpm"], &["rpm"], &["rpm-tools"], &["rpm"]],
};
const CLANG_FORMAT: Need = Need {
    name: "clang-format",
    present: || process::find("clang-format").is_some(),
    packages: [&["clang-format"], &["clang-tools-extra"], &["clang-tools"], &["clang"], &["clang-extra-tools"]],
};
const RUSTFMT: Need = Need {
    name: "rustfmt",
    present: || works("cargo-fmt", "--version"),
    packages: [&["rustfmt-web"], &["rustfmt"], &["cargo"], &["rust"], &["rustfmt"]],
};
const CLIPPY: Need = Need {
    name: "clippy",
    present: || works("cargo-clippy", "--version"),
    packages: [&["rust-web-clippy"], &["clippy"], &["cargo"], &["rust"], &["rust-clippy"]],
};
const GO: Need = Need {
    name: "Go 1.26 or newer, which builds the Collector and Prometheus",
    present: go_is_recent,
    packages: [&["golang-go"], &["golang"], &["go"], &["go"], &["go"]],
};

/// Installs what building and running the agent needs.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn build() -> Result<()> {
    ensure(&[COMPILER, CLANG, HEADERS])
}

/// Installs what the tests need beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn test() -> Result<()> {
    build()?;
    ensure(&[IPROUTE, DISKS, RESOLVERS, TRANSLATORS])
}

/// Installs what making packages needs beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn package() -> Result<()> {
    build()?;
    ensure(&[PACKAGER])
}

/// Installs what the proof of packages needs beyond making them.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn packages() -> Result<()> {
    package()?;
    ensure(&[RPM])
}

/// Installs what the proof with real container runtimes needs.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn runtimes() -> Result<()> {
    ensure(&[COMPILER, CONTAINERS])
}

/// Installs what starts containers such as the chart's pods.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn containers() -> Result<()> {
    ensure(&[PODS])
}

/// Installs what reads the example's compose file.
///
/// # Errors
/// Fails with the exact command where it cannot install.
#[cfg(feature = "e2e")]
pub fn compose() -> Result<()> {
    ensure(&[COMPOSE])
}

/// Installs what the bench of overheads needs beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn overhead() -> Result<()> {
    build()?;
    ensure(&[SERVERS])
}

/// Installs what the suite on other kernels needs beyond the tests, or on those of aarch64.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn kernel(is_aarch64: bool) -> Result<()> {
    test()?;
    ensure(if is_aarch64 { &[EMULATOR, CROSS] } else { &[EMULATOR] })
}

/// Installs what `lint` needs beyond a build.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn lint() -> Result<()> {
    build()?;
    // A toolchain of rustup gets its components from rustup, never from the distribution.
    if process::find("rustup").is_some() && !((RUSTFMT.present)() && (CLIPPY.present)()) {
        process::must(Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]))?;
    }
    ensure(&[CLANG_FORMAT, RUSTFMT, CLIPPY])
}

/// Installs Go.
///
/// # Errors
/// Fails with the exact command where it cannot install.
pub fn go() -> Result<()> {
    ensure(&[GO])
}

fn works(program: &str, argument: &str) -> bool {
    process::output(Command::new(program).arg(argument)).is_some()
}

/// Tells whether Go is new enough, or may fetch a toolchain that is.
fn go_is_recent() -> bool {
    let Some(go) = process::find("go") else { return false };
    let minor = process::output(Command::new(&go).args(["env", "GOVERSION"])).and_then(|version| minor(&version));
    let local = process::output(Command::new(&go).args(["env", "GOTOOLCHAIN"])).is_some_and(|chain| chain == "local");
    minor.is_some_and(|minor| minor >= 26 || (minor >= 21 && !local))
}

/// Returns 26 of `go1.26.8`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Compiles the includes that every BPF program has, as the build script does.
fn headers() -> bool {
    let Some(clang) = process::find("clang") else { return false };
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-fsyntax-only", "-x", "c", "-"]);
    if let Some(triple) = process::output(Command::new("cc").arg("-dumpmachine")) {
        command.arg(format!("-I/usr/include/{triple}"));
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.is_ok_and(|mut child| {
        let source = b"#include <linux/types.h>\n#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n";
        let written = child.stdin.take().is_some_and(|mut stdin| stdin.write_all(source).is_ok());
        child.wait().is_ok_and(|status| written && status.success())
    })
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
    fn a_version_of_go_has_a_minor() {
        assert_eq!((minor("go1.26.8"), minor("go1.25rc1"), minor("devel")), (Some(26), Some(25), None));
    }

    #[test]
    fn every_need_names_a_package_for_every_manager() {
        let build = [COMPILER, CLANG, HEADERS];
        let test = [IPROUTE, DISKS, RESOLVERS, TRANSLATORS];
        for need in
            build.into_iter().chain(test).chain([SERVERS, EMULATOR, CROSS, PACKAGER, CLANG_FORMAT, RUSTFMT, CLIPPY, GO])
        {
            for (packages, manager) in need.packages.iter().zip(&MANAGERS) {
                assert!(!packages.is_empty(), "{} has no package for {}", need.name, manager.program);
            }
        }
    }
}
