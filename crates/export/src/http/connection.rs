//! The pace that one connection has to keep: by when its head, its response and its next request are due.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Limits;

/// What a connection is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The rest of a head; at first also the handshake.
    Head,
    /// The response.
    Response,
    /// The response's last bytes, which hyper has and the socket has not.
    Flush,
    /// The next request.
    Idle,
}

/// The deadline of one connection, which moves as the connection gets on.
#[derive(Debug)]
pub(super) struct Pace {
    limits: Limits,
    state: Mutex<(Phase, Instant)>,
    moved: Notify,
}

impl Pace {
    pub(super) fn new(limits: Limits) -> Self {
        let due = Instant::now() + limits.header_time;
        Self { limits, state: Mutex::new((Phase::Head, due)), moved: Notify::new() }
    }

    fn enter(&self, phase: Phase, from: Option<Phase>) {
        let time = match phase {
            Phase::Head => self.limits.header_time,
            Phase::Response => self.limits.request_time,
            Phase::Idle => self.limits.idle_time,
            Phase::Flush => Duration::ZERO,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if from.is_some_and(|from| from != state.0) {
            return;
        }
        state.0 = phase;
        if phase != Phase::Flush {
            state.1 = Instant::now() + time;
            drop(state);
            self.moved.notify_one();
        }
    }

    /// Notes that a head is complete.
    pub(super) fn head_read(&self) {
        self.enter(Phase::Response, None);
    }

    /// Waits until the connection is late.
    pub(super) async fn late(&self) {
        loop {
            let due = self.state.lock().unwrap_or_else(PoisonError::into_inner).1;
            if due <= Instant::now() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                () = self.moved.notified() => {}
            }
        }
    }
}

/// A stream that reports its progress.
pub(super) struct Paced<S> {
    pub(super) stream: S,
    pub(super) pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.pace.enter(Phase::Head, Some(Phase::Idle));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // hyper flushes the stream only when it has written all that it buffered.
        self.pace.enter(Phase::Idle, Some(Phase::Flush));
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A response body that reports when hyper has taken all of it.
pub(super) struct Reply {
    body: Full<Bytes>,
    pace: Arc<Pace>,
}

impl Reply {
    pub(super) fn new(body: Bytes, pace: Arc<Pace>) -> Self {
        Self { body: Full::new(body), pace }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.pace.enter(Phase::Flush, Some(Phase::Response));
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
