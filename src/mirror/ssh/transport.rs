//! The `ureq` transport over a child process.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, ShutdownHandle, Transport,
};

use crate::mirror::ssh::SshConnection;
use crate::mirror::ssh::child::Child;

/// The size of the buffers, in bytes. A smaller size needs more system calls.
const BUFFER_BYTES: usize = 128 * 1024;

/// The maximum number of bytes in one write. The kernel applies the write timeout to each part of a
/// longer write separately.
const WRITE_BYTES: usize = 32 * 1024;

/// Opens connections over child processes.
#[derive(Debug)]
pub(super) struct SshConnector(Arc<SshConnection>);

impl SshConnector {
    pub(super) const fn new(link: Arc<SshConnection>) -> Self {
        Self(link)
    }
}

impl Connector for SshConnector {
    type Out = SshTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<SshTransport>, Error> {
        let left = details.timeout.not_zero().map(|left| *left);
        let pipe = self
            .0
            .take_or_connect(left)
            .map_err(|attempt_error| Error::Other(Box::new(attempt_error)))?;
        let socket: Arc<dyn ShutdownHandle> = Arc::clone(&pipe.socket) as _;
        // This lets `Agent::shutdown` end a read or write that blocks.
        (details.register_shutdown)(Arc::downgrade(&socket))?;
        Ok(Some(pipe))
    }
}

/// A resolver that returns a dummy address: the connector does not use it.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(([127, 0, 0, 1], 0).into());
        Ok(addresses)
    }
}

/// A connection over a child process.
pub(super) struct SshTransport {
    child: Child,
    buffers: LazyBuffers,
    socket: Arc<Socket>,
}

/// A duplicate of the socket to the child, so that another thread can shut it down.
struct Socket(UnixStream);

impl ShutdownHandle for Socket {
    fn shutdown(&self) {
        // This fails only if the socket is already closed.
        self.0.shutdown(Shutdown::Both).ok();
    }
}

impl SshTransport {
    pub(super) fn new(child: Child) -> io::Result<Self> {
        let socket = Arc::new(Socket(child.stream.try_clone()?));
        Ok(Self { child, buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES), socket })
    }
}

impl fmt::Debug for SshTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("child", &self.child).finish_non_exhaustive()
    }
}

fn to_duration(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|time| *time)
}

/// Writes all of `output` within the time `left`. The socket timeout applies to a single write, so
/// a slow peer could otherwise extend the time with each write.
fn write_within(
    stream: &mut UnixStream,
    mut output: &[u8],
    left: Option<Duration>,
) -> io::Result<()> {
    let deadline = left.map(|left| Instant::now() + left);
    while !output.is_empty() {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(left)?;
        match stream.write(&output[..output.len().min(WRITE_BYTES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => output = &output[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn map_timeout(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for SshTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let output = &self.buffers.output()[..amount];
        write_within(&mut self.child.stream, output, to_duration(timeout))
            .map_err(|error| map_timeout(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.child.stream.set_read_timeout(to_duration(timeout))?;
        let input = self.buffers.input_append_buf();
        let count = loop {
            match self.child.stream.read(input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|error| map_timeout(error, timeout))?,
            }
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        let stream = &mut self.child.stream;
        // An open connection without a request has nothing to read. If there are bytes or an end of
        // file, the connection cannot be reused.
        let is_quiet = stream.set_nonblocking(true).is_ok()
            && stream.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        is_quiet && stream.set_nonblocking(false).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_reader_does_not_extend_the_deadline() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let trickle = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while stopped.recv_timeout(Duration::from_millis(5)).is_err() {
                // A read of 0 bytes: the other end was closed.
                if theirs.read(&mut buffer).unwrap() == 0 {
                    return;
                }
            }
        });
        let began = Instant::now();
        let error = write_within(&mut ours, &vec![0; 64 << 20], Some(Duration::from_millis(100)))
            .unwrap_err();
        assert!(
            matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_secs(5));
        drop(ours);
        stop.send(()).ok();
        trickle.join().unwrap();
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        write_within(&mut ours, b"all of it", None).unwrap();
        drop(ours);
        assert_eq!(io::read_to_string(&mut theirs).unwrap(), "all of it");
    }
}
