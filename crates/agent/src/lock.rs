//! One agent a host: a lock beside the admin socket that names its holder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::exit::{Exit, Failure};

/// The lock of a running agent. The kernel lets it go when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the admin socket at `socket`, making its directory when it is missing.
    ///
    /// # Errors
    /// Fails when another agent holds it, and names that agent.
    pub fn take(socket: &Path) -> Result<Self, Failure> {
        let path = path(socket);
        let at = path.display();
        let unable = |error: std::io::Error| {
            let exit =
                if error.kind() == std::io::ErrorKind::PermissionDenied { Exit::Privileges } else { Exit::Listen };
            Failure::new(exit, format!("cannot make the lock file {at}: {error}; see the key admin.socket"))
        };
        std::fs::create_dir_all(directory(socket)).map_err(unable)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(unable)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            drop(file.read_to_string(&mut holder));
            let holder = if holder.is_empty() { "another process".to_owned() } else { holder.trim().to_owned() };
            return Err(Failure::new(
                Exit::AlreadyRunning,
                format!(
                    "telesonde runs on this host already: {holder} holds {at}; stop it first, or give this one another admin.socket"
                ),
            ));
        }
        let holder = format!("pid {}, version {}\n", std::process::id(), env!("CARGO_PKG_VERSION"));
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(holder.as_bytes())
        };
        write(&mut file).map_err(unable)?;
        Ok(Self { _file: file })
    }
}

/// Gives the directory in which the lock lies, beside the socket.
pub fn directory(socket: &Path) -> &Path {
    socket.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn path(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_is_first() {
        let directory = std::env::temp_dir().join(format!("telesonde-lock-{}", std::process::id()));
        let socket = directory.join("admin.sock");
        let first = Lock::take(&socket).unwrap();
        let second = Lock::take(&socket).unwrap_err();
        assert_eq!(second.exit, Exit::AlreadyRunning);
        assert!(second.message.contains(&format!("pid {}", std::process::id())), "{second}");
        drop(first);
        assert!(Lock::take(&socket).is_ok());
        std::fs::remove_dir_all(directory).unwrap();
    }
}
