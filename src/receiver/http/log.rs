//! What a receiver tells of its work: records, a line each.
//!
//! The room hands records to a [`Log`] and never prints. Text that came from a
//! peer is in them as it came, but short and without anything that looks like a
//! token: whoever writes it escapes it.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::error_kind::ErrorKind;
use crate::receiver::http::log_limit::LogLimiter;

/// Longest text of a peer in a record, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// Takes records. Called from many threads; must be quick.
pub trait Log: Send + Sync {
    /// Takes a record.
    fn record(&self, record: &LogRecord);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLog;

impl Log for NoLog {
    fn record(&self, _: &LogRecord) {}
}

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LogRecord {
    /// The receiver listens.
    Listening {
        /// Where.
        address: String,
        /// How many sites.
        sites: usize,
        /// How many tokens let somebody in; nothing where none is asked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<usize>,
    },
    /// A site could not be looked at when the receiver began, or not be made ready for the next push.
    SiteFailed {
        /// Its directory.
        directory: String,
        /// Why.
        message: String,
    },
    /// What time alone brings about was done in a site.
    Upkeep {
        /// Its directory.
        directory: String,
        /// Retired entries that are not served any more.
        expired: u64,
        /// Pushes that did not end, of which nothing is kept any more.
        quarantines: u64,
        /// Bytes of content that these had left.
        incoming_bytes: u64,
    },
    /// A request was answered.
    Answered {
        /// Who asked.
        peer: String,
        /// The public name of the token, if it is known; also where it was refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// The method.
        method: String,
        /// The path.
        path: String,
        /// The status; of an answer that began before it was known, that of its end.
        status: u16,
        /// The kind of the refusal.
        #[serde(skip_serializing_if = "Option::is_none")]
        kind: Option<ErrorKind>,
        /// The message of the refusal.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// The announced length of the body, else that of what came of it, in bytes.
        body_bytes: u64,
        /// How long it took.
        milliseconds: u64,
        /// Records about its address that were left out before this one.
        #[serde(skip_serializing_if = "is_zero")]
        suppressed: u64,
    },
    /// A connection was turned away: there are too many.
    Full {
        /// Who connected.
        peer: String,
        /// Records about its address that were left out before this one.
        #[serde(skip_serializing_if = "is_zero")]
        suppressed: u64,
    },
    /// A connection ended before there was a request: no TLS, or no HTTP that is understood.
    TurnedAway {
        /// Who connected.
        peer: String,
        /// Why.
        message: String,
        /// Records about its address that were left out before this one.
        #[serde(skip_serializing_if = "is_zero")]
        suppressed: u64,
    },
    /// Records about peers without a good token were left out, and nothing followed that would say so.
    Suppressed {
        /// The address, or the network of an IPv6 address; 0.0.0.0 for all that were not told apart.
        address: String,
        /// How many.
        records: u64,
    },
    /// What should run after an activation went wrong; the release is current all the same.
    HookFailed {
        /// The site.
        site: String,
        /// The release.
        release: String,
        /// What happened.
        message: String,
    },
    /// A bug: the work on a request, or other work, ended by a panic. Whoever waits for it is refused.
    Panicked {
        /// Where: file and line of the source.
        place: String,
        /// What it says.
        message: String,
    },
    /// The certificate was read again.
    CertificateRead {
        /// Why it was not taken; the old one stays.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The tokens were read again.
    TokensRead {
        /// How many hold now.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<usize>,
        /// Why they were not taken; the old ones stay.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The system could not hand out a connection.
    AcceptFailed {
        /// Why.
        message: String,
    },
    /// The receiver stopped.
    Stopped {
        /// Connections that did not end in time.
        cut: usize,
    },
}

/// From now on a panic anywhere in this process is a record of `log` and nothing else: stderr may be that log, and
/// text from a peer may be in the message.
pub fn log_panics(log: Arc<dyn Log>) {
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("a panic without a message");
        let place = panic.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        log.record(&LogRecord::Panicked { place, message: text(message) });
    }));
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The record of a request, while it is answered.
pub(crate) struct AccessEntry {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) peer: Arc<str>,
    pub(crate) token: Option<String>,
    pub(crate) limiter: Arc<LogLimiter>,
    /// Whether the peer may do what it asked for. Others cause a bounded number of records.
    pub(crate) is_authorized: bool,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body_bytes: u64,
    pub(crate) began: Instant,
}

impl AccessEntry {
    /// Tells how the request ended.
    pub(crate) fn end(self, status: u16, refusal: Option<&crate::protocol::ProtocolError>) {
        // What monitors ask needs no token and is nothing new.
        if !self.is_authorized && status < 400 {
            return;
        }
        let suppressed = if self.is_authorized { Some(0) } else { self.limiter.admit(&self.peer) };
        let Some(suppressed) = suppressed else { return };
        self.log.record(&LogRecord::Answered {
            peer: self.peer.to_string(),
            token: self.token,
            method: text(&self.method),
            path: text(&self.path),
            status,
            kind: refusal.map(|refusal| refusal.kind),
            message: refusal.map(|refusal| text(&refusal.message)),
            body_bytes: self.body_bytes,
            milliseconds: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            suppressed,
        });
    }
}

/// A text fit for a record.
pub(crate) fn text(text: &str) -> String {
    if text.contains("hw_") {
        return "(withheld: it may have a token)".to_owned();
    }
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mark = if end < text.len() { "…" } else { "" };
    format!("{}{mark}", &text[..end])
}
