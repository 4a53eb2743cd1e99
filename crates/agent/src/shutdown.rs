//! Signals: the first one ends the agent in good order, the second one at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The signals that end the agent.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT.
    ///
    /// # Errors
    /// Fails when the system refuses a handler.
    pub fn take() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next signal; gives its number.
    pub async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }

    /// Lets a second signal end the process at once, with the shell's code for that signal.
    pub fn exit_on_next(mut self) {
        tokio::spawn(async move {
            let number = self.next().await;
            tracing::warn!("a second signal: exiting at once");
            std::process::exit(128 + number);
        });
    }
}

/// Gives a future that completes once `stop` says so or its sender is gone.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}
