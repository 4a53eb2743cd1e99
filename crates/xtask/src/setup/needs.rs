//! What commands need of a machine: how to see that it is there, and what its packages are called.

use std::io::Write;
use std::process::{Command, Stdio};

use super::MANAGERS;
use crate::arch::Arch;
use crate::process;

/// Something that must be on the machine.
pub struct Need {
    /// What it is, for whoever lacks it.
    pub name: &'static str,
    /// Sees whether it is there.
    pub present: fn() -> bool,
    /// Its packages for each package manager.
    pub packages: [&'static [&'static str]; MANAGERS.len()],
}

pub const COMPILER: Need = Need {
    name: "a C compiler (cc)",
    present: || process::find("cc").is_some(),
    packages: [&["gcc", "libc6-dev"], &["gcc"], &["gcc"], &["gcc"], &["gcc", "musl-dev"]],
};
pub const CLANG: Need = Need {
    name: "clang, which compiles the BPF programs",
    present: || process::find("clang").is_some(),
    packages: [&["clang"], &["clang"], &["clang"], &["clang"], &["clang"]],
};
pub const HEADERS: Need = Need {
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
pub const IPROUTE: Need = Need {
    name: "ip, with which tests make network namespaces",
    present: || process::find("ip").is_some(),
    packages: [&["iproute2"], &["iproute"], &["iproute2"], &["iproute2"], &["iproute2"]],
};
pub const DISKS: Need = Need {
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
pub const EMULATOR: Need = Need {
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
pub const ARM_EMULATOR: Need = Need {
    name: "QEMU for aarch64",
    present: || process::find("qemu-system-aarch64").is_some(),
    packages: [
        &["qemu-system-arm"],
        &["qemu-system-aarch64-core"],
        &["qemu-arm"],
        &["qemu-system-aarch64"],
        &["qemu-system-aarch64"],
    ],
};
pub const FOR_X86_64: Need = Need {
    name: "a C compiler for x86_64",
    present: || process::find(Arch::X86_64.cc()).is_some(),
    packages: [
        &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
        &["gcc-x86_64-linux-gnu"],
        &["cross-x86_64-gcc14"],
        &["x86_64-linux-gnu-gcc"],
        &[],
    ],
};
pub const FOR_AARCH64: Need = Need {
    name: "a C compiler for aarch64",
    present: || process::find(Arch::Aarch64.cc()).is_some(),
    packages: [
        &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
        &["gcc-aarch64-linux-gnu"],
        &["cross-aarch64-gcc14"],
        &["aarch64-linux-gnu-gcc"],
        &[],
    ],
};
pub const RESOLVERS: Need = Need {
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
pub const CONTAINERS: Need = Need {
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
pub const PODS: Need = Need {
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
pub const COMPOSE: Need = Need {
    name: "docker-compose, which reads the example's file",
    present: || process::find("docker-compose").is_some(),
    packages: [&["docker-compose"], &["docker-compose"], &["docker-compose"], &["docker-compose"], &["docker-compose"]],
};
#[cfg(feature = "e2e")]
pub const BUILDERS: Need = Need {
    name: "podman, runc, debootstrap, and QEMU's emulators of single programs",
    present: || {
        ["podman", "runc", "debootstrap", "setcap", "qemu-x86_64", "qemu-aarch64"]
            .iter()
            .all(|program| process::find(program).is_some())
    },
    packages: [
        &["podman", "runc", "debootstrap", "libcap2-bin", "qemu-user"],
        &["podman", "runc", "debootstrap", "libcap", "qemu-user"],
        &["podman", "runc", "debootstrap", "libcap-progs", "qemu-linux-user"],
        &["podman", "runc", "debootstrap", "libcap", "qemu-user"],
        &["podman", "runc", "debootstrap", "libcap-setcap", "qemu-x86_64", "qemu-aarch64"],
    ],
};
pub const TRANSLATORS: Need = Need {
    name: "iptables and ip6tables, with which tests translate addresses",
    present: || ["iptables", "ip6tables"].iter().all(|program| process::find(program).is_some()),
    packages: [&["iptables"], &["iptables-nft"], &["iptables"], &["iptables"], &["iptables"]],
};
pub const SERVERS: Need = Need {
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
pub const PACKAGER: Need = Need {
    name: "dpkg-shlibdeps, which tells what a package for Debian depends on",
    present: || process::find("dpkg-shlibdeps").is_some(),
    packages: [&["dpkg-dev"], &["dpkg-dev"], &["dpkg"], &["dpkg"], &["dpkg-dev"]],
};
#[cfg(feature = "e2e")]
pub const RPM: Need = Need {
    name: "rpm, which looks into packages for it",
    present: || process::find("rpm").is_some(),
    packages: [&["rpm"], &["rpm"], &["rpm"], &["rpm-tools"], &["rpm"]],
};
pub const CLANG_FORMAT: Need = Need {
    name: "clang-format",
    present: || process::find("clang-format").is_some(),
    packages: [&["clang-format"], &["clang-tools-extra"], &["clang-tools"], &["clang"], &["clang-extra-tools"]],
};
pub const RUSTFMT: Need = Need {
    name: "rustfmt",
    present: || works("cargo-fmt", "--version"),
    packages: [&["rustfmt-web"], &["rustfmt"], &["cargo"], &["rust"], &["rustfmt"]],
};
pub const CLIPPY: Need = Need {
    name: "clippy",
    present: || works("cargo-clippy", "--version"),
    packages: [&["rust-web-clippy"], &["clippy"], &["cargo"], &["rust"], &["rust-clippy"]],
};
pub const GO: Need = Need {
    name: "Go 1.26 or newer, which builds the Collector and Prometheus",
    present: go_is_recent,
    packages: [&["golang-go"], &["golang"], &["go"], &["go"], &["go"]],
};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_go_has_a_minor() {
        assert_eq!((minor("go1.26.8"), minor("go1.25rc1"), minor("devel")), (Some(26), Some(25), None));
    }
}
