//! Listening sockets: TCP over IPv4 and IPv6, and Unix sockets.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Error;

/// How many connections may wait to be accepted: a crowd makes a scraper wait, but not for as long as it takes to try again.
const WAITING: i32 = 4096;

/// A bound socket that is not served yet.
#[derive(Debug)]
pub enum Listener {
    /// A TCP socket.
    Tcp(TcpListener),
    /// A Unix socket and its path.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds a TCP address; `key` is the configuration key to name in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] when the address is taken, not local, or not permitted.
    pub fn tcp(address: SocketAddr, key: &str) -> Result<Self, Error> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            rustix::net::listen(&listener, WAITING)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        bound.map(Self::Tcp).map_err(|source| {
            let fix = match source.kind() {
                ErrorKind::AddrInUse => {
                    format!("another process has port {}: stop it or set {key} to a free port", address.port())
                }
                ErrorKind::AddrNotAvailable => {
                    format!("no interface of this host has {}: set {key} to a local address", address.ip())
                }
                ErrorKind::PermissionDenied => {
                    format!("port {} needs CAP_NET_BIND_SERVICE: set {key} to a port above 1023", address.port())
                }
                _ => format!("check the address in {key}"),
            };
            Error::Bind { address: address.to_string(), key: key.to_owned(), fix, source }
        })
    }

    /// Binds a Unix socket that only its owner may use, replacing one that nobody serves any more.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] when another process serves the path, [`Error::Bind`] when it cannot be made.
    pub fn unix(path: &Path, key: &str) -> Result<Self, Error> {
        let shown = path.display().to_string();
        if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            if UnixStream::connect(path).is_ok() {
                return Err(Error::InUse { path: shown, key: key.to_owned() });
            }
            // A failure to remove shows as the failure to bind, which says more.
            let _ = fs::remove_file(path);
        }
        let bound = UnixListener::bind(path).and_then(|listener| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        bound.map(|listener| Self::Unix(listener, path.to_owned())).map_err(|source| {
            let fix = match source.kind() {
                ErrorKind::NotFound => "make the directory above it".to_owned(),
                ErrorKind::AddrInUse => "the path exists and is no socket: remove it or set another one".to_owned(),
                ErrorKind::PermissionDenied => format!("set {key} to a path that this user may write"),
                _ => format!("check the path in {key}"),
            };
            Error::Bind { address: shown, key: key.to_owned(), fix, source }
        })
    }

    /// Gives the same socket once more, for a server that takes over from another.
    ///
    /// # Errors
    ///
    /// When there is no descriptor to spare.
    pub fn again(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener, path) => Self::Unix(listener.try_clone()?, path.clone()),
        })
    }

    /// Gives the bound TCP address, with the port that the kernel chose for port 0.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    pub(super) fn start(self) -> io::Result<Accepting> {
        Ok(match self {
            Self::Tcp(listener) => Accepting::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Self::Unix(listener, path) => {
                Accepting::Unix(tokio::net::UnixListener::from_std(listener)?, SocketFile(path))
            }
        })
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("a closed socket"),
            },
            Self::Unix(_, path) => path.display().fmt(f),
        }
    }
}

/// Removes the socket's file with the socket.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, #[expect(dead_code, reason = "held for its drop")] SocketFile),
}

impl Accepting {
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Responses are written whole; waiting for more would only delay their last packet.
                let _ = stream.set_nodelay(true);
                Box::new(stream)
            }
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_errors_name_address_key_and_fix() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Listener::tcp(address, "exporters.prometheus.listen").unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains("exporters.prometheus.listen"), "{error}");
        assert!(error.contains("stop it or set"), "{error}");
        let error = Listener::tcp("192.0.2.1:0".parse().unwrap(), "health.listen").unwrap_err().to_string();
        assert!(error.contains("no interface of this host has 192.0.2.1"), "{error}");
    }

    #[test]
    fn ipv6_is_bound() {
        let listener = Listener::tcp("[::1]:0".parse().unwrap(), "k").unwrap();
        assert!(listener.local_addr().unwrap().is_ipv6());
    }

    #[test]
    fn a_socket_path_is_taken_over_only_when_nobody_serves_it() {
        let directory = std::env::temp_dir().join(format!("telesonde-listen-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("s.sock");
        let first = Listener::unix(&path, "admin.socket").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Listener::unix(&path, "admin.socket").unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error}");
        drop(first);
        assert!(path.exists());
        drop(Listener::unix(&path, "admin.socket").unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "kept").unwrap();
        let error = Listener::unix(&path, "admin.socket").unwrap_err().to_string();
        assert!(error.contains("is no socket"), "{error}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
