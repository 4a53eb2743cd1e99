//! The guest's file system: the suite, the agent and what they start, at the same paths as here, with their libraries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::packages::{self, Kernel};
use super::programs::{self, Programs};
use super::{Cgroups, Options};
use crate::arch::Arch;
use crate::{process, tools};

/// What tests start, as far as it is there; a test without its program reports itself skipped.
const PROGRAMS: [&str; 14] = [
    "ip",
    "mkfs.ext4",
    "mount",
    "umount",
    "losetup",
    "unshare",
    "dnsmasq",
    "dig",
    "tc",
    "bpftool",
    "ps",
    "true",
    "iptables",
    "ip6tables",
];
/// Where `iptables` looks for its extensions, below the directory of an architecture.
const EXTENSIONS: &str = "xtables";
/// Modules, with what they depend on.
const MODULES: [&str; 17] = [
    "virtio_pci",
    "virtio_blk",
    "ext4",
    "loop",
    "veth",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "dummy",
    "vxlan",
    "bridge",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "xt_tcpudp",
    "xt_nat",
    "xt_MASQUERADE",
];
/// The size of the disk on which tests make their files: a tmpfs takes no `O_DIRECT` before Linux 6.6.
const DISK: &str = "1G";
/// The file with the names of tests that need not run.
const DONE: &str = "done";
/// The longest that a test may run, in the guest's seconds.
const LONGEST: u32 = 600;

const INIT: &str = r#"#!/bin/sh
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
# What is tested may have been built below /tmp.
mkdir /held; mount -o bind / /held
for dir in /tmp /run /dev/shm; do mount -t tmpfs tmpfs $dir; done
for tree in /held/tmp/*; do [ -d $tree ] && mkdir ${tree#/held} && mount -o bind $tree ${tree#/held}; done
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
for module in $(cat /modules); do insmod /modules.d/$module; done
mkdir -p $(cat /disk)
mount /dev/vda $(cat /disk)
cgroup() { mkdir -p /sys/fs/cgroup/$1; mount -t cgroup -o $1 $1 /sys/fs/cgroup/$1; }
case $(cat /cgroups) in
v2) mount -t cgroup2 cgroup2 /sys/fs/cgroup
    for controller in memory cpu io pids; do echo +$controller > /sys/fs/cgroup/cgroup.subtree_control; done
    cat /sys/fs/cgroup/cgroup.controllers ;;
v1) mount -t tmpfs tmpfs /sys/fs/cgroup; cgroup memory; cgroup blkio; cgroup cpu,cpuacct ;;
hybrid) mount -t tmpfs tmpfs /sys/fs/cgroup; cgroup memory; cgroup blkio; cgroup cpu,cpuacct
    mkdir /sys/fs/cgroup/unified; mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified ;;
esac
echo "guest: $(uname -r), cgroups $(cat /cgroups), lockdown $(cat /sys/kernel/security/lockdown 2>/dev/null || echo none), up $(cut -d' ' -f1 /proc/uptime) s"
sh /suite
echo "guest: done, up $(cut -d' ' -f1 /proc/uptime) s"
poweroff -f
"#;

/// What QEMU is given.
pub struct Image {
    /// The first file system, in memory.
    pub archive: PathBuf,
    /// The disk, mounted where tests make their files.
    pub disk: PathBuf,
    /// What is on a new disk: what tests compiled, and which tests need not run.
    files: PathBuf,
}

impl Image {
    /// Makes the disk anew, for a boot that leaves out tests that have a result.
    ///
    /// # Errors
    /// Fails when it cannot be written.
    pub fn renew<'n>(&self, done: impl Iterator<Item = &'n str>) -> Result<()> {
        fs::write(self.files.join(DONE), done.map(|name| name.to_owned() + "\n").collect::<String>())?;
        let _ = fs::remove_file(&self.disk);
        let mut command = Command::new(process::find("mkfs.ext4").context("mkfs.ext4 is missing")?);
        process::must(command.args(["-q", "-d"]).arg(&self.files).arg(&self.disk).arg(DISK))
    }
}

/// Packs the guest's file systems.
///
/// # Errors
/// Fails when something cannot be copied or packed.
pub fn pack(kernel: &Kernel, programs: &Programs, options: &Options) -> Result<Image> {
    let dir = process::target().join("kernel");
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    // Programs are under both names, as Debian has them.
    for directory in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        std::os::unix::fs::symlink(Path::new("usr").join(directory), root.join(directory))?;
    }
    for directory in ["proc", "sys", "dev", "tmp", "run", "root", "etc", "var/tmp", "modules.d"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let compiled = compiled(options.arch)?;
    match options.arch {
        Arch::X86_64 => of_this_machine(programs, &compiled, &root)?,
        Arch::Aarch64 => of_packages(&packages::programs(options.arch, &tools::home())?, &root)?,
    }
    let tests = programs.tests.iter().map(|path| (path, path));
    for (from, to) in programs.agent.iter().map(|(from, to)| (from, to)).chain(tests) {
        copy(from, to, &root)?;
        // A test's symbols are most of its size.
        process::must(Command::new(options.arch.strip()).arg(within(&root, to)))?;
    }
    let modules = modules(kernel, &root)?;
    fs::write(root.join("modules"), modules.join("\n"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    let cgroups = match options.cgroups {
        Cgroups::V2 => "v2",
        Cgroups::Hybrid => "hybrid",
        Cgroups::V1 => "v1",
    };
    fs::write(root.join("cgroups"), cgroups)?;
    fs::write(root.join("disk"), options.arch.directory().join("tmp").display().to_string())?;
    fs::write(root.join("suite"), suite(programs, options))?;
    executable(&root.join("init"), INIT)?;
    let disk = dir.join(format!("{}.disk", kernel.version));
    let image = Image { archive: disk.with_extension("cpio"), files: disk.with_extension("files"), disk };
    archive(&root, &image.archive)?;
    let _ = fs::remove_dir_all(&image.files);
    fs::create_dir_all(&image.files)?;
    for file in &compiled {
        let name = file.file_name().context("a file without a name")?;
        fs::copy(file, image.files.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(image)
}

/// Gives the script that runs the tests, each as a process of its own: where the kernel falls, all before it is known.
fn suite(programs: &Programs, options: &Options) -> String {
    let quoted: Vec<String> = options.selection().iter().map(|arg| format!("'{}'", arg.replace('\'', ""))).collect();
    let disk = options.arch.directory().join("tmp");
    let lines = programs.tests.iter().map(|program| {
        let directory = program.parent().unwrap_or(Path::new("/")).display();
        let is_suite = programs::is_named(program, "tests");
        // Its other tests read the sources, which the guest does not have.
        let args = if quoted.is_empty() && is_suite { "kernel::".to_owned() } else { quoted.join(" ") };
        let (program, done) = (program.display(), disk.join(DONE).display().to_string());
        format!(
            "cd {directory}\nfor test in $({program} --list --format terse {args} | sed -n 's/: test$//p'); do\n\
             grep -qxF $test {done} && continue\n\
             echo \"guest: begin $test\"\n\
             TELESONDE_REQUIRE_BPF=1 TELESONDE_TEST_ALONE=1 timeout {LONGEST} {program} --exact $test --show-output || \
             echo \"guest: $test ended with $?\"\ndone\n"
        )
    });
    lines.collect()
}

/// Copies what tests start as it is on this machine, busybox for the rest, and the libraries of all.
fn of_this_machine(programs: &Programs, compiled: &[PathBuf], root: &Path) -> Result<()> {
    let busybox = process::find("busybox").context("busybox is missing")?;
    fs::copy(&busybox, root.join("bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", root.join("bin/sh"))?;
    let mut files: BTreeSet<PathBuf> = BTreeSet::new();
    for program in PROGRAMS.iter().filter_map(|name| process::find(name)).chain(extensions()) {
        files.extend(libraries(&program));
        files.insert(program);
    }
    for program in compiled.iter().chain(&programs.tests).chain(programs.agent.iter().map(|(from, _)| from)) {
        files.extend(libraries(program));
    }
    files.iter().try_for_each(|file| copy(file, file, root))
}

/// Copies programs and libraries of another processor.
fn of_packages(from: &Path, root: &Path) -> Result<()> {
    for directory in ["usr/bin", "usr/sbin", "usr/lib", "etc"] {
        process::must(Command::new("cp").arg("-a").arg(from.join(directory).join(".")).arg(root.join(directory)))?;
    }
    std::os::unix::fs::symlink("busybox", root.join("bin/sh"))?;
    // What the package's script would link.
    for name in ["iptables", "ip6tables"] {
        std::os::unix::fs::symlink("xtables-nft-multi", root.join("sbin").join(name))?;
    }
    Ok(())
}

/// Gives what the tests compiled.
fn compiled(arch: Arch) -> Result<Vec<PathBuf>> {
    let directory = arch.directory().join("tmp");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let is_whole = |path: &PathBuf| path.is_file() && !path.to_string_lossy().contains("/stimulus-");
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_whole).collect())
}

/// Gives the libraries that a program is linked with, and its loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = process::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

/// Gives the extensions of `iptables`.
fn extensions() -> Vec<PathBuf> {
    let entries =
        |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries("/usr/lib".into()).flat_map(|architecture| entries(architecture.join(EXTENSIONS))).collect()
}

/// Gives a path of the guest on this machine.
fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Copies a file to a path of the guest, following links.
fn copy(file: &Path, to: &Path, root: &Path) -> Result<()> {
    let to = within(root, to);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(&to);
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

/// Copies the modules, unpacked, and gives their names in the order of loading.
fn modules(kernel: &Kernel, root: &Path) -> Result<Vec<String>> {
    let path = kernel.modules.join("modules.dep");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let stem = |path: &str| path.rsplit('/').next().unwrap_or(path).split('.').next().unwrap_or(path).to_owned();
    let mut order: Vec<String> = Vec::new();
    for name in MODULES {
        // Built into this kernel where it is no module.
        let Some(line) = text.lines().find(|line| stem(line.split(':').next().unwrap_or(line)) == name) else {
            continue;
        };
        let (module, needs) = line.split_once(':').unwrap_or((line, ""));
        // The last one named must be loaded first.
        for file in needs.split_whitespace().rev().chain([module]) {
            let plain = format!("{}.ko", stem(file));
            if order.contains(&plain) {
                continue;
            }
            let (from, to) = (kernel.modules.join(file), root.join("modules.d").join(&plain));
            if file.strip_suffix(".xz").is_some() {
                let out = File::create(&to)?;
                let mut xz = Command::new(process::find("xz").context("xz is missing")?);
                let status = xz.arg("-dc").arg(&from).stdout(out).status().context("cannot start xz")?;
                if !status.success() {
                    bail!("{} cannot be unpacked", from.display());
                }
            } else {
                fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
            }
            order.push(plain);
        }
    }
    Ok(order)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn archive(root: &Path, image: &Path) -> Result<()> {
    let mut find = Command::new("find").arg(".").current_dir(root).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("find has no output")?;
    let mut cpio = Command::new(process::find("cpio").context("cpio is missing")?);
    let status = cpio
        .args(["-o", "-H", "newc", "--quiet"])
        .current_dir(root)
        .stdin(names)
        .stdout(File::create(image)?)
        .status()
        .context("cannot start cpio")?;
    if !status.success() || !find.wait()?.success() {
        bail!("the guest's file system cannot be packed");
    }
    Ok(())
}
