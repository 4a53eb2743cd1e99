//! The agent's way to the API server, which can be cut while the server goes on.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;

/// A port of its own that leads to another one.
pub struct Link {
    /// Where to connect to.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    cut: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Link {
    /// Listens and passes everything on to a port.
    ///
    /// # Errors
    /// Fails when no port can be had.
    pub fn to(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target,
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let server = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if server.ended.load(SeqCst) {
                    return;
                }
                // A refused or failed connection is simply closed: the agent sees the same as from a dead server.
                let _ = server.pass(stream);
            }
        });
        Ok(Self { port, shared })
    }

    /// Ends all connections and accepts no further one.
    pub fn cut(&self) {
        self.shared.cut.store(true, SeqCst);
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub fn join(&self) {
        self.shared.cut.store(false, SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        self.cut();
        // The listener wakes up to see that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn pass(&self, near: TcpStream) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if self.cut.load(SeqCst) {
            return Ok(());
        }
        let far = TcpStream::connect(("127.0.0.1", self.target))?;
        open.extend([near.try_clone()?, far.try_clone()?]);
        drop(open);
        for (mut from, mut to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}
