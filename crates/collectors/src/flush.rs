//! How a round waits until whoever reads a ring has passed on all that came before.
//!
//! However slow the reader is, the wait has no end of its own: the manager gathers without a collector that is late.

use runtime::CollectError;
use tokio::sync::{mpsc, oneshot};

/// Where rounds ask.
pub struct Flush<T> {
    wishes: mpsc::Sender<oneshot::Sender<T>>,
    /// What is said when nobody answers any more.
    gone: &'static str,
}

/// What the reader answers, each wish once; none any more when nobody can ask.
pub type Wishes<T> = mpsc::Receiver<oneshot::Sender<T>>;

impl<T> Flush<T> {
    /// Makes both ends; `gone` is the error once there is no reader any more.
    pub fn new(gone: &'static str) -> (Self, Wishes<T>) {
        let (wishes, inbox) = mpsc::channel(1);
        (Self { wishes, gone }, inbox)
    }

    /// Waits until everything that came before is passed on; gives the reader's answer.
    ///
    /// # Errors
    /// Fails when the reader is gone.
    pub async fn wait(&self) -> Result<T, CollectError> {
        let (done, wait) = oneshot::channel();
        let answer = if self.wishes.send(done).await.is_ok() { wait.await.ok() } else { None };
        answer.ok_or_else(|| CollectError(self.gone.to_owned()))
    }
}
