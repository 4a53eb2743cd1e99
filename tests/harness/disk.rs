//! File systems and block devices that a test makes, each gone when the test is done.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{directory, eventually};

/// Says why no file system can be made here, if that is so.
pub fn permitted() -> Result<(), String> {
    for (program, arguments) in [("mkfs.ext4", ["-V"]), ("losetup", ["--version"]), ("mount", ["--version"])] {
        if Command::new(program).args(arguments).output().is_err() {
            return Err(format!("there is no {program}"));
        }
    }
    fs::metadata("/dev/loop-control").map(drop).map_err(|error| format!("there are no loop devices: {error}"))
}

/// A loop device over a file.
pub struct Loop {
    file: PathBuf,
    device: PathBuf,
}

impl Loop {
    /// Makes a device of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let file = directory("loop").join("image");
        fs::File::create(&file).and_then(|image| image.set_len(bytes)).unwrap();
        let device = run("losetup", &["--find", "--show", &file.display().to_string()]);
        Self { file, device: PathBuf::from(device.trim()) }
    }

    /// Gives its path, such as `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.device
    }

    /// Gives its name, such as `loop0`.
    pub fn name(&self) -> &str {
        self.device.file_name().unwrap().to_str().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.device.display().to_string()]);
        let _ = fs::remove_dir_all(self.file.parent().unwrap());
    }
}

/// A file system that is mounted on a directory of its own.
pub struct Mount {
    directory: PathBuf,
    _device: Option<Loop>,
}

impl Mount {
    /// Makes an ext4 file system on a loop device.
    pub fn ext4() -> Self {
        let device = Loop::new(64 << 20);
        let path = device.path().display().to_string();
        run("mkfs.ext4", &["-q", &path]);
        Self::new("ext4", &path, Some(device))
    }

    /// Makes an empty tmpfs.
    pub fn tmpfs() -> Self {
        Self::new("tmpfs", "tmpfs", None)
    }

    fn new(kind: &str, source: &str, device: Option<Loop>) -> Self {
        let directory = directory(kind);
        run("mount", &["-t", kind, source, &directory.display().to_string()]);
        Self { directory, _device: device }
    }

    /// Gives the directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.directory.display().to_string();
        eventually("nobody uses the file system", || {
            Command::new("umount").arg(&path).output().is_ok_and(|output| output.status.success()).then_some(())
        });
        let _ = fs::remove_dir(&self.directory);
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {why}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}
