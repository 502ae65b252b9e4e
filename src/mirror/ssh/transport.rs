//! HTTP over a child process, as the crate `ureq` wants it.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport};

use crate::mirror::ssh::SshLink;
use crate::mirror::ssh::child::Child;

/// The size of a buffer, in bytes; less would cost a system call more often.
const BUFFER_BYTES: usize = 128 * 1024;

/// Makes connections that are child processes.
#[derive(Debug)]
pub(super) struct PipeConnector(Arc<SshLink>);

impl PipeConnector {
    pub(super) const fn new(link: Arc<SshLink>) -> Self {
        Self(link)
    }
}

impl Connector for PipeConnector {
    type Out = Pipe;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Pipe>, Error> {
        let left = details.timeout.not_zero().map(|left| *left);
        self.0.take(left).map(Some).map_err(|trouble| Error::Other(Box::new(trouble)))
    }
}

/// Resolves nothing: there is only one place to go to.
#[derive(Debug)]
pub(super) struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(([127, 0, 0, 1], 0).into());
        Ok(addresses)
    }
}

/// A connection that is a child process.
pub(super) struct Pipe {
    child: Child,
    buffers: LazyBuffers,
}

impl Pipe {
    pub(super) fn new(child: Child) -> Self {
        Self { child, buffers: LazyBuffers::new(BUFFER_BYTES, BUFFER_BYTES) }
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("child", &self.child).finish_non_exhaustive()
    }
}

fn time(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|time| *time)
}

fn worded(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for Pipe {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.child.stream.set_write_timeout(time(timeout))?;
        let output = &self.buffers.output()[..amount];
        self.child.stream.write_all(output).map_err(|error| worded(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.child.stream.set_read_timeout(time(timeout))?;
        let input = self.buffers.input_append_buf();
        let count = loop {
            match self.child.stream.read(input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(|error| worded(error, timeout))?,
            }
        };
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        let stream = &mut self.child.stream;
        let is_quiet = stream.set_nonblocking(true).is_ok()
            && matches!(stream.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        is_quiet && stream.set_nonblocking(false).is_ok()
    }
}
