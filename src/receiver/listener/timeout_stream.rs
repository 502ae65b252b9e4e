//! A stream with fixed deadlines, which a trickle of bytes cannot extend, and with strict HTTP
//! framing.
//!
//! A connection is in one of four phases: before its first byte, between two requests, in a head,
//! or in the handler, which has its own deadlines for bodies. A read or write past its deadline is
//! an error, and hyper then drops the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::receiver::ReceiverLimits;
use crate::receiver::listener::strict_http::Framing;

/// The deadline for the next bytes of a request's head; `None` while the handler runs.
#[derive(Debug)]
pub(crate) struct ConnectionPhase {
    deadline: Mutex<Option<Instant>>,
    head: Duration,
    idle: Duration,
}

impl ConnectionPhase {
    /// The phase of a connection that has sent nothing yet.
    pub(crate) fn new(limits: &ReceiverLimits) -> Arc<Self> {
        let deadline = Mutex::new(Some(Instant::now() + limits.first_byte));
        Arc::new(Self { deadline, head: limits.head, idle: limits.idle })
    }

    fn set(&self, deadline: Option<Instant>) {
        *self.deadline.lock() = deadline;
    }

    fn deadline(&self) -> Option<Instant> {
        *self.deadline.lock()
    }

    /// The head is complete; from here on the handler has its own deadlines.
    pub(crate) fn head_received(&self) {
        self.set(None);
    }

    /// The response is written; the idle deadline starts.
    pub(crate) fn response_sent(&self) {
        self.set(Some(Instant::now() + self.idle));
    }
}

/// A stream whose reads and writes have deadlines.
#[derive(Debug)]
pub(crate) struct TimeoutStream<S> {
    inner: S,
    phases: Arc<ConnectionPhase>,
    framing: Framing,
    read_timer: Timer,
    write_timer: Timer,
    write: Duration,
    /// Deadline of the pending write, if there is one.
    write_deadline: Option<Instant>,
}

/// A timer that is created when it is first needed; most connections never wait that long.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    fn is_over(&mut self, deadline: Instant, context: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(context).is_ready()
    }
}

impl<S> TimeoutStream<S> {
    pub(crate) fn new(inner: S, phases: Arc<ConnectionPhase>, limits: &ReceiverLimits) -> Self {
        let (framing, write) = (Framing::default(), limits.write);
        let (read_timer, write_timer) = (Timer::default(), Timer::default());
        Self { inner, phases, framing, read_timer, write_timer, write, write_deadline: None }
    }

    fn written<T>(
        &mut self,
        poll: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write_deadline = None;
            return poll;
        }
        // Counts from the first attempt at this write. Each write that makes progress gets a new
        // deadline, so a large response to a slow peer is not cut off.
        let deadline = *self.write_deadline.get_or_insert_with(|| Instant::now() + self.write);
        if self.write_timer.is_over(deadline, context) {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        } else {
            poll
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimeoutStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, into);
        if let Poll::Ready(Ok(())) = &poll
            && self.framing.check(&mut into.filled_mut()[before..])
            // While the handler runs, no deadline applies here, even if the peer already sends the
            // next head.
            && self.phases.deadline().is_some()
        {
            self.phases.set(Some(Instant::now() + self.phases.head));
        }
        match self.phases.deadline() {
            // Even if bytes have arrived: otherwise one byte before each deadline would keep the
            // head open forever.
            Some(deadline) if Instant::now() >= deadline => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Some(deadline) if poll.is_pending() && self.read_timer.is_over(deadline, context) => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            _ => poll,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimeoutStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.written(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.written(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(context);
        self.written(poll, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(context);
        self.written(poll, context)
    }
}
