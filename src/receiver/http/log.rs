//! A receiver's log records, one line each.
//!
//! The receiver hands records to a [`Log`] and never prints. Text from a peer is shortened, and
//! withheld if it may contain a token, but it is not escaped: the [`Log`] must do that.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::error_kind::ErrorKind;
use crate::receiver::http::log_limit::LogLimiter;
use crate::text::is_zero;

/// Longest text from a peer in a record, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// Writes log records. It is called from many threads and must not block.
pub trait Log: Send + Sync {
    /// Writes a record.
    fn record(&self, record: &LogRecord);
}

/// A log that discards every record.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLog;

impl Log for NoLog {
    fn record(&self, _: &LogRecord) {}
}

/// One event of a receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogRecord {
    /// The receiver is listening.
    Listening {
        /// The address it listens on.
        address: String,
        /// The number of sites.
        sites: usize,
        /// The number of tokens; `None` if no token is required.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<usize>,
    },
    /// A site could not be checked at the start, or could not be prepared for the next push.
    SiteFailed {
        /// The site's directory.
        directory: String,
        /// Why the check or the preparation failed.
        message: String,
    },
    /// Maintenance removed something from a site.
    #[serde(rename = "upkeep")]
    Maintenance {
        /// The site's directory.
        directory: String,
        /// The number of retired entries that are no longer served.
        expired: u64,
        /// The number of unfinished pushes whose content was removed.
        quarantines: u64,
        /// Bytes of content that these pushes had left behind.
        incoming_bytes: u64,
    },
    /// A request was handled.
    #[serde(rename = "answered")]
    RequestHandled {
        /// The address of the client.
        peer: String,
        /// The public name of the token, if known, even if the request was refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The status. For a response that began before the result was known, the status that the
        /// result would have had.
        status: u16,
        /// The kind of the error.
        #[serde(skip_serializing_if = "Option::is_none")]
        kind: Option<ErrorKind>,
        /// The error message.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// The announced length of the body in bytes, or the bytes received if none was announced.
        body_bytes: u64,
        /// The time from the request to its result, in milliseconds.
        milliseconds: u64,
        /// Records about this address that were suppressed before this one.
        #[serde(skip_serializing_if = "is_zero")]
        suppressed: u64,
    },
    /// A connection was rejected because too many are open.
    Full {
        /// The address of the client.
        peer: String,
        /// Records about this address that were suppressed before this one.
        #[serde(skip_serializing_if = "is_zero")]
        suppressed: u64,
    },
    /// A connection ended before a valid request: the TLS handshake failed, or the data was not
    /// HTTP.
    #[serde(rename = "turned_away")]
    Rejected {
        /// The address of the client.
        peer: String,
        /// Why the connection ended.
        message: String,
        /// Records about this address that were suppressed before this one.
        #[serde(skip_serializing_if = "is_zero")]
        suppressed: u64,
    },
    /// Records about unauthorized clients were suppressed, and no later record reported that.
    Suppressed {
        /// The address, or the network of an IPv6 address; 0.0.0.0 for all addresses beyond the
        /// table's limit.
        address: String,
        /// The number of suppressed records.
        records: u64,
    },
    /// The hook after an activation failed; the release is current nevertheless.
    HookFailed {
        /// The site.
        site: String,
        /// The release.
        release: String,
        /// How the hook failed.
        message: String,
    },
    /// A thread panicked, which is a bug. A request that waits for its result gets an error.
    Panicked {
        /// File and line of the source code.
        #[serde(rename = "place")]
        location: String,
        /// The panic message.
        message: String,
    },
    /// The certificate was read again.
    CertificateRead {
        /// Why the new certificate was not used; the old one stays.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The tokens were read again.
    TokensRead {
        /// The number of tokens that are valid now.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<usize>,
        /// Why the new tokens were not used; the old ones stay.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The system could not accept a connection.
    AcceptFailed {
        /// What went wrong.
        message: String,
    },
    /// The receiver stopped.
    Stopped {
        /// The number of connections that were cut off because they did not end in time.
        cut: usize,
    },
}

/// Installs a panic hook that writes every panic of this process to `log` and nowhere else: stderr
/// may be that log, and the message may contain text from a peer, which must be made safe first.
pub fn log_panics(log: Arc<dyn Log>) {
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        let location = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        log.record(&LogRecord::Panicked { location, message: peer_text(message) });
    }));
}

/// The log record for a request that is being handled.
pub(crate) struct AccessEntry {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) peer: Arc<str>,
    pub(crate) token: Option<String>,
    pub(crate) limiter: Arc<LogLimiter>,
    /// Whether the peer is authorized for the request. Other peers can cause only a limited number
    /// of records.
    pub(crate) is_authorized: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body_bytes: u64,
    pub(crate) began: Instant,
}

impl AccessEntry {
    /// Logs how the request ended.
    pub(crate) fn log_end(self, status: u16, refusal: Option<&crate::protocol::ProtocolError>) {
        // A successful request without a token is a poll by a monitoring system, which is not worth
        // a record.
        if !self.is_authorized && status < 400 {
            return;
        }
        // The holder of a valid token is known, and may cause any number of records.
        let suppressed = if self.is_authorized { Some(0) } else { self.limiter.admit(&self.peer) };
        let Some(suppressed) = suppressed else { return };
        self.log.record(&LogRecord::RequestHandled {
            peer: self.peer.to_string(),
            token: self.token,
            method: peer_text(&self.method),
            path: peer_text(&self.path),
            status,
            kind: refusal.map(|refusal| refusal.kind),
            message: refusal.map(|refusal| peer_text(&refusal.message)),
            body_bytes: self.body_bytes,
            milliseconds: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            suppressed,
        });
    }
}

/// Text from a peer, shortened for a record, and withheld if it may contain a token.
pub(crate) fn peer_text(text: &str) -> String {
    // Searches the whole text: after shortening, only the beginning of a token could be left.
    if text.contains("hw_") {
        return "(withheld: it may contain a token)".to_owned();
    }
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mark = if end < text.len() { "…" } else { "" };
    format!("{}{mark}", &text[..end])
}
