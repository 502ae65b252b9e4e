//! The accept loop. Deadlines start when a connection is accepted, and the number of connections is
//! limited.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::receiver::address::limit_address;
use crate::receiver::http::handler::{Handler, RunMode};
use crate::receiver::listener::timeout_stream::{ConnectionPhase, TimeoutStream};
use crate::receiver::listener::tls::Tls;
use crate::receiver::sites::startup;
use crate::receiver::{
    Exposure, Log, LogRecord, ReceiverLimits, ReceiverSettings, ServeError, TokenRecord,
};

/// Maximum size of a request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Maximum number of header fields in a request.
const MAX_FIELDS: usize = 64;
/// Maximum size of a connection's read buffer, in bytes.
const MAX_BUFFER_BYTES: usize = 128 * 1024;
// Twice the number of workers: reading and writing files for connections needs no worker, but must
// find a free thread even if all workers are waiting for locks.
/// Maximum number of threads that may block on a disk or a lock.
const BLOCKING_THREADS: usize = 64;
/// Pause after a failed accept. The cause, such as too many open files, lasts for a while; without
/// a pause the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Response to a connection over the limit, sent only if it can be sent without waiting.
const FULL_RESPONSE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 68\r\n\r\n\
    {\"error\":{\"kind\":\"busy\",\"message\":\"too many connections are open\"}}\n";

/// A listening receiver.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    handler: Arc<Handler>,
    tls: Option<Tls>,
    per_address: usize,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Stops a server, or makes it use a new certificate or new tokens.
#[derive(Clone)]
pub struct Handle {
    stop: watch::Sender<bool>,
    tls: Option<Tls>,
    handler: Arc<Handler>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Stops accepting requests. The server ends when the requests in flight are done, or after
    /// [`ReceiverLimits::shutdown`].
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Reads the certificate again and logs the result.
    pub fn reload(&self) {
        let Some(tls) = &self.tls else { return };
        let error = tls.reload().err().map(|error| crate::text::error_chain(&error));
        self.handler.log.record(&LogRecord::CertificateRead { error });
    }

    /// Replaces the tokens and logs the result. The old tokens stay valid if `tokens` is an error
    /// or empty.
    pub fn use_tokens(&self, tokens: Result<Vec<TokenRecord>, String>) {
        let (tokens, error) = match tokens {
            Ok(tokens) if tokens.is_empty() => {
                (None, Some("the file has no token, so every push would be refused".to_owned()))
            }
            Ok(tokens) => {
                let count = tokens.len();
                self.handler.use_tokens(tokens);
                (Some(count), None)
            }
            Err(error) => (None, Some(error)),
        };
        self.handler.log.record(&LogRecord::TokensRead { tokens, error });
    }
}

impl Server {
    /// Checks `settings` and binds the address. Connections are accepted by [`Server::run`].
    ///
    /// # Errors
    /// Fails if the settings are not safe, or if the certificate, the address or a directory cannot
    /// be used.
    pub fn bind(settings: &ReceiverSettings, log: Arc<dyn Log>) -> Result<Self, ServeError> {
        settings.check()?;
        let tls = settings.tls.as_ref().map(Tls::open).transpose()?;
        let listen = settings.listen;
        let listen_error = |source| ServeError::Listen { listen, source };
        let listener = TcpListener::bind(listen).map_err(listen_error)?;
        listener.set_nonblocking(true).map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let limits = &settings.limits;
        // All connections through a proxy have the proxy's address.
        let per_address = match settings.exposure {
            Exposure::None => limits.connections_per_address,
            Exposure::Proxy => limits.connections,
        };
        let handler = Arc::new(Handler::new(settings, RunMode::Daemon, log)?);
        startup::check_sites(&handler.sites, &settings.auth, &*handler.log)?;
        Ok(Self { listener, address, handler, tls, per_address, stop: watch::Sender::new(false) })
    }

    /// The address that the server listens on.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that other threads can use to control the server.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            stop: self.stop.clone(),
            tls: self.tls.clone(),
            handler: Arc::clone(&self.handler),
        }
    }

    /// Serves requests until [`Handle::stop`] is called. Blocks.
    ///
    /// # Errors
    /// Fails if the system cannot create threads.
    pub fn run(self) -> Result<(), ServeError> {
        raise_open_file_limit(self.handler.limits.connections);
        let runtime = runtime()?;
        let result = runtime.block_on(self.serve());
        // A thread that is waiting for a disk cannot be interrupted, so the process ends without
        // waiting for it.
        runtime.shutdown_timeout(Duration::from_secs(1));
        result
    }

    async fn serve(self) -> Result<(), ServeError> {
        let listener =
            tokio::net::TcpListener::from_std(self.listener).map_err(ServeError::Runtime)?;
        let handler = self.handler;
        let (address, sites) = (self.address.to_string(), handler.sites.len());
        handler.log.record(&LogRecord::Listening { address, sites, tokens: handler.tokens() });
        handler.run_missed_hooks();
        let acceptor = Acceptor {
            handler: Arc::clone(&handler),
            tls: self.tls,
            limiter: ConnectionLimiter::new(handler.limits.connections, self.per_address),
            stop: self.stop.clone(),
        };
        let accepting = tokio::spawn(accept(listener, Arc::new(acceptor)));
        let sweeping = tokio::spawn(sweep(Arc::clone(&handler)));
        let tidying = tokio::spawn(Arc::clone(&handler).run_maintenance());
        let mut stop = self.stop.subscribe();
        // `self` owns the sender, so this wait ends only when a handle sends `true`.
        stop.wait_for(|stop| *stop).await.ok();
        accepting.abort();
        sweeping.abort();
        tidying.abort();
        accepting.await.ok();
        drop(stop);
        // Each connection holds a receiver of this channel and drops it after its current request.
        let deadline = tokio::time::Instant::now() + handler.limits.shutdown;
        tokio::time::timeout_at(deadline, self.stop.closed()).await.ok();
        handler.finish(deadline).await;
        handler.log.record(&LogRecord::Stopped { cut: self.stop.receiver_count() });
        Ok(())
    }
}

/// Raises the limit on open files, as far as the hard limit allows, so that each connection can
/// have a socket and a file open. The usual soft limit of 1,024 is there for programs that use
/// `select`.
fn raise_open_file_limit(connections: usize) {
    /// How many files the stores, the log and the hooks may have open.
    const OTHERS: u64 = 512;
    let limit = getrlimit(Resource::Nofile);
    let wanted = (2 * connections as u64).saturating_add(OTHERS);
    let wanted = limit.maximum.map_or(wanted, |most| wanted.min(most));
    if limit.current.is_some_and(|current| current < wanted) {
        // If this fails, connections beyond the limit wait until others end.
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }).ok();
    }
}

/// Starts the tokio runtime of a receiver.
pub(crate) fn runtime() -> Result<Runtime, ServeError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build().map_err(ServeError::Runtime)
}

/// Periodically closes abandoned stages.
pub(crate) async fn sweep(handler: Arc<Handler>) {
    let period =
        (handler.limits.stage_idle / 4).clamp(Duration::from_millis(20), Duration::from_secs(15));
    loop {
        tokio::time::sleep(period).await;
        handler.sweep();
    }
}

struct Acceptor {
    handler: Arc<Handler>,
    tls: Option<Tls>,
    limiter: Arc<ConnectionLimiter>,
    stop: watch::Sender<bool>,
}

async fn accept(listener: tokio::net::TcpListener, acceptor: Arc<Acceptor>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                acceptor
                    .handler
                    .log
                    .record(&LogRecord::AcceptFailed { message: error.to_string() });
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Before the TLS handshake, which costs more than anything an attacker can have caused so
        // far.
        let Some(admitted) = acceptor.limiter.admit(peer.ip()) else {
            acceptor.handler.log_full(&peer.to_string());
            // A client that expects a handshake cannot read plain text.
            if acceptor.tls.is_none() {
                // A client that cannot receive this response sees only the end of the connection.
                stream.try_write(FULL_RESPONSE).ok();
            }
            continue;
        };
        let (acceptor, stop) = (Arc::clone(&acceptor), acceptor.stop.subscribe());
        tokio::spawn(async move {
            acceptor.serve_connection(stream, peer, stop).await;
            drop(admitted);
        });
    }
}

impl Acceptor {
    async fn serve_connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        stop: watch::Receiver<bool>,
    ) {
        // Responses are written as a whole, so waiting to fill a packet would only add latency.
        stream.set_nodelay(true).ok();
        let phases = ConnectionPhase::new(&self.handler.limits);
        let peer: Arc<str> = peer.to_string().into();
        let Some(tls) = &self.tls else {
            return serve(&self.handler, stream, peer, phases, stop).await;
        };
        // The acceptor is created for each connection, so that new connections use a reloaded
        // certificate.
        let handshake = tls.acceptor().accept(stream);
        let stream = match tokio::time::timeout(self.handler.limits.first_byte, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return self.handler.log_rejected(&peer, &format!("no TLS: {error}")),
            Err(_) => return self.handler.log_rejected(&peer, "no TLS in time"),
        };
        serve(&self.handler, stream, peer, phases, stop).await;
    }
}

/// Handles the requests of one connection, one after the other.
pub(crate) async fn serve<S>(
    handler: &Arc<Handler>,
    stream: S,
    peer: Arc<str>,
    phases: Arc<ConnectionPhase>,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = TokioIo::new(TimeoutStream::new(stream, Arc::clone(&phases), &handler.limits));
    let service = service_fn(|request| {
        let answer = Arc::clone(handler).handle(request, Arc::clone(&peer), Arc::clone(&phases));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        // `TimeoutStream` enforces the deadlines: it distinguishes a slow head from an idle
        // connection.
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD_BYTES)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(stream, service);
    let mut connection = pin!(connection);
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let mut is_stopping = false;
    // The connection is still polled after the stop, and ends when the current response has been
    // written.
    let end = poll_fn(|context| {
        if !is_stopping && stopped.as_mut().poll(context).is_ready() {
            is_stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    });
    // hyper has already responded to a malformed request, but nothing else logs the error.
    if let Err(error) = end.await
        && error.is_parse()
    {
        handler.log_rejected(&peer, &error.to_string());
    }
}

/// Limits the number of connections, in total and per address.
struct ConnectionLimiter {
    most: usize,
    most_per_address: usize,
    counts: Mutex<ConnectionCounts>,
}

#[derive(Default)]
struct ConnectionCounts {
    taken: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Permission for one connection; dropping it makes room for another.
struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    address: IpAddr,
}

impl ConnectionLimiter {
    fn new(most: usize, most_per_address: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_address, counts: Mutex::default() })
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionPermit> {
        let address = limit_address(address);
        let mut counts = self.counts.lock();
        let here = counts.by_address.get(&address).copied().unwrap_or(0);
        if counts.taken >= self.most || here >= self.most_per_address {
            return None;
        }
        counts.taken += 1;
        counts.by_address.insert(address, here + 1);
        Some(ConnectionPermit { limiter: Arc::clone(self), address })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut counts = self.limiter.counts.lock();
        counts.taken -= 1;
        if let Some(here) = counts.by_address.get_mut(&self.address) {
            *here -= 1;
            // Otherwise every address that ever connected would keep an entry.
            if *here == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// The limits for a connection over standard input and output. SSH has authenticated the peer, so
/// the short deadlines that protect against strangers do not apply.
pub(crate) fn stdio_limits(limits: &ReceiverLimits, silence: Duration) -> ReceiverLimits {
    ReceiverLimits { first_byte: silence, idle: silence, head: silence, ..limits.clone() }
}
