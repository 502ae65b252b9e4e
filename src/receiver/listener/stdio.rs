//! The receiver on standard input and output, for SSH.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::protocol::{BANNER, Banner, VERSION};
use crate::receiver::http::handler::{Handler, RunMode};
use crate::receiver::listener::server::{runtime, serve, stdio_limits, sweep};
use crate::receiver::listener::timeout_stream::ConnectionPhase;
use crate::receiver::sites::startup;
use crate::receiver::{Log, ReceiverSettings, ServeError};

/// A peer that is silent for this long is treated as gone, even if SSH keeps the session open.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long running work may take to finish after the peer disconnects: a switch, and the start of
/// its hook. Any longer would hold the store's locks for too long.
const FINAL_WORK_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes the banner and handles requests on standard input and output until the peer closes the
/// stream or is silent for five minutes. Blocks. The caller has authenticated the peer; beyond
/// that, only `settings.access` is checked.
///
/// # Errors
/// Fails if a site's directory cannot be used as a mirror. The peer then sees the end of the
/// connection.
pub fn receive(settings: &ReceiverSettings, log: Arc<dyn Log>) -> Result<(), ServeError> {
    let mut settings = settings.clone();
    settings.limits = stdio_limits(&settings.limits, SILENCE_TIMEOUT);
    let handler = Arc::new(Handler::new(&settings, RunMode::OnePeer, log)?);
    let (headwater, sites) =
        (env!("CARGO_PKG_VERSION").to_owned(), startup::banners(&handler.sites)?);
    let banner = Banner { headwater, protocols: vec![VERSION], sites };
    let banner =
        serde_json::to_string(&banner).map_err(|error| ServeError::Runtime(error.into()))?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let mut out = tokio::io::stdout();
        out.write_all(format!("{BANNER}{banner}\n").as_bytes())
            .await
            .map_err(ServeError::Runtime)?;
        // The client waits for the banner before it sends its first request.
        out.flush().await.map_err(ServeError::Runtime)?;
        handler.run_missed_hooks();
        let sweeping = tokio::spawn(sweep(Arc::clone(&handler)));
        let stream = tokio::io::join(tokio::io::stdin(), out);
        // Never signalled: the connection ends when its peer ends it.
        let stop = watch::Sender::new(false);
        serve(
            &handler,
            stream,
            "ssh".into(),
            ConnectionPhase::new(&handler.limits),
            stop.subscribe(),
        )
        .await;
        sweeping.abort();
        handler.finish(Instant::now() + FINAL_WORK_TIMEOUT).await;
        Ok(())
    });
    // A thread may still be waiting for input that never comes.
    runtime.shutdown_background();
    result
}
