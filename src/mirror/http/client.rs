//! The HTTP client of one mirror: sends requests, reads responses and classifies errors.
//!
//! Promises that the token is sent only to the mirror, that every request ends, and that no
//! response takes more memory than its limit. Uses the crate `ureq`.

use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, AsSendBody, Error as UreqError, SendBody};

use crate::error_kind::ErrorKind;
use crate::mirror::MirrorError;
use crate::mirror::attempt::{AttemptError, RetryAction};
use crate::mirror::http::body::Body;
use crate::mirror::http::credentials::IO_TIMEOUT;
use crate::mirror::http::limits::{Limiter, RequestTrace, RetryState, TraceFn};
use crate::mirror::http::response_json::{ResponseLimit, SanitizedJson};
use crate::mirror::http::tls_errors;
use crate::mirror::transport_error::TransportError;
use crate::protocol::{ProtocolError, Resource, ResponseMessage, VERSION, VERSION_HEADER};
use crate::text::Secrets;

/// Number of bytes kept from a response that does not follow the protocol: enough for a page title.
const PREFIX_BYTES: usize = 4096;
/// Number of bytes of such a response that an error shows.
const SHOWN_BYTES: usize = 200;
/// A body of at least this size, in bytes, is sent with `Expect: 100-continue` if the request asks
/// for it.
// Waiting for `100 Continue` costs a round trip. Below this size that is not worthwhile: little
// would be sent in vain.
const EXPECT_CONTINUE_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Put,
    Post,
}

impl Method {
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
        }
    }
}

/// A request that can be retried.
pub(super) struct Request<'r> {
    pub(super) method: Method,
    pub(super) resource: Resource,
    pub(super) body: Body<'r>,
    /// The first byte to read, for a `Range` header.
    pub(super) offset: u64,
    /// Whether a large body is sent with `Expect: 100-continue`.
    pub(super) expects_continue: bool,
    /// The time limit for the whole request. `None` if only the timeouts per read and write apply.
    pub(super) limit: Option<Duration>,
    /// The size limit of the response.
    pub(super) response_limit: ResponseLimit,
}

impl<'r> Request<'r> {
    /// A request without options.
    pub(super) const fn new(
        method: Method,
        resource: Resource,
        body: Body<'r>,
        response_limit: ResponseLimit,
    ) -> Self {
        Self {
            method,
            resource,
            body,
            offset: 0,
            expects_continue: false,
            limit: None,
            response_limit,
        }
    }
}

/// The agent for one mirror, and the state shared by all requests to it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) agent: Agent,
    pub(super) token: Option<super::BearerToken>,
    pub(super) limit: Option<std::sync::Arc<Limiter>>,
    pub(super) trace: Option<TraceFn>,
    /// Secrets to remove from text that came from a peer.
    pub(super) secrets: Secrets,
}

impl Client {
    /// Makes a request below `base` and retries it as `retry` allows.
    pub(super) fn request<T: DeserializeOwned>(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<T, MirrorError> {
        loop {
            match self.request_once(base, request, retry) {
                Ok(answer) => {
                    retry.progress();
                    return Ok(answer);
                }
                Err(attempt_error) => retry.retry_or_fail(attempt_error)?,
            }
        }
    }

    pub(super) fn request_once<T: DeserializeOwned>(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<T, AttemptError> {
        let response = self.send(base, request, retry)?;
        let status = response.status();
        match self.read_response(response, request.response_limit)? {
            ResponseMessage::Ok(answer) => Ok(answer),
            ResponseMessage::Error(refusal) => Err(from_refusal(refusal, status, None)),
        }
    }

    /// Makes a request for content and retries it as `retry` allows. Returns as soon as the head of
    /// the response has been read.
    pub(super) fn open(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<Response<ureq::Body>, MirrorError> {
        loop {
            let opened = self.send(base, request, retry).and_then(|response| {
                let status = response.status();
                match status {
                    StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
                    _ => {
                        match self.read_response::<serde::de::IgnoredAny>(
                            response,
                            request.response_limit,
                        )? {
                            ResponseMessage::Error(refusal) => {
                                Err(from_refusal(refusal, status, None))
                            }
                            ResponseMessage::Ok(_) => {
                                Err(unexpected_response(status, "it has no content"))
                            }
                        }
                    }
                }
            });
            match opened {
                Ok(response) => return Ok(response),
                Err(attempt_error) => retry.retry_or_fail(attempt_error)?,
            }
        }
    }

    /// Sends a request and reads the head of the response. Redirects are errors.
    fn send(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<Response<ureq::Body>, AttemptError> {
        let left = retry.time_left().map_err(AttemptError::final_)?;
        let total = [left, request.limit].into_iter().flatten().min();
        let url = format!("{base}{}", request.resource);
        let body = request.body.open(self.limit.as_deref(), retry.stop());
        let mut body =
            body.map_err(|error| AttemptError::final_(MirrorError::Source(error.into())))?;
        let mut builder = ureq::http::Request::builder().uri(url).header(VERSION_HEADER, VERSION);
        if let Some(token) = &self.token {
            // In this header only: ureq would keep any other header across a redirect.
            builder = builder.header("authorization", token.header());
        }
        if request.offset > 0 {
            builder = builder.header("range", format!("bytes={}-", request.offset));
        }
        let (length, began) = (request.body.length(), Instant::now());
        if request.expects_continue && length.is_some_and(|length| length > EXPECT_CONTINUE_BYTES) {
            builder = builder.header("expect", "100-continue");
        }
        let sent = match request.method {
            Method::Get => self.run(builder.method(request.method.name()), (), total),
            Method::Put | Method::Post => {
                let builder = builder.method(request.method.name());
                // With a length, ureq passes the body on without a copy: 2.7 GB/s over loopback,
                // compared with 0.8 GB/s in chunks.
                let builder = match length {
                    Some(length) => builder.header("content-length", length),
                    None => builder,
                };
                self.run(builder, SendBody::from_reader(&mut body), total)
            }
        };
        // A timeout counts as the deadline only if the deadline is what limited this request.
        let attempt_error =
            |error| self.cleaned(map_error(error, retry, left.is_some() && left == total));
        let response = sent.map_err(|error| self.name_proxy(base, attempt_error(error)));
        self.trace_request(base, request, &response, began.elapsed());
        let response = response?;
        self.reject_non_protocol(response, length.unwrap_or(body.sent()))
    }

    fn trace_request(
        &self,
        base: &str,
        request: &Request<'_>,
        response: &Result<Response<ureq::Body>, AttemptError>,
        elapsed: Duration,
    ) {
        let Some(trace) = self.trace else { return };
        let error = response.as_ref().err().map(|attempt_error| attempt_error.error.to_string());
        let outcome = match (response, &error) {
            (Ok(response), _) => Ok(response.status().as_u16()),
            (Err(_), error) => Err(error.as_deref().unwrap_or_default()),
        };
        trace(&RequestTrace {
            base,
            method: request.method.name(),
            resource: &request.resource,
            outcome,
            elapsed,
        });
    }

    /// Adds the name of the proxy to a connection error.
    fn name_proxy(&self, base: &str, mut attempt_error: AttemptError) -> AttemptError {
        let proxy = self.agent.config().proxy();
        let proxy = proxy.filter(|proxy| base.parse().is_ok_and(|base| !proxy.is_no_proxy(&base)));
        if let (MirrorError::Transport(TransportError::Unreachable { what }), Some(proxy)) =
            (&mut attempt_error.error, proxy)
        {
            *what = format!("by the proxy {}:{}: {what}", proxy.host(), proxy.port());
        }
        attempt_error
    }

    fn run(
        &self,
        builder: ureq::http::request::Builder,
        body: impl AsSendBody,
        total: Option<Duration>,
    ) -> Result<Response<ureq::Body>, UreqError> {
        let request =
            self.agent.configure_request(builder.body(body)?).timeout_global(total).build();
        self.agent.run(request)
    }
}

impl Client {
    /// Turns responses that a receiver never sends, and refusals with a delay, into errors.
    fn reject_non_protocol(
        &self,
        response: Response<ureq::Body>,
        sent_bytes: u64,
    ) -> Result<Response<ureq::Body>, AttemptError> {
        let status = response.status();
        // A redirect could lead to another host, and the token would be sent there too.
        if status.is_redirection() {
            let to = response
                .headers()
                .get("location")
                .and_then(|to| to.to_str().ok())
                .unwrap_or("nowhere");
            return Err(AttemptError::final_(
                TransportError::Redirect { to: self.summary_line(to.as_bytes()) }.into(),
            ));
        }
        let is_json = response
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let asked = retry_after(&response);
        match status {
            StatusCode::UPGRADE_REQUIRED => Err(self.version_error(response)),
            // A receiver responds in JSON. This response is from a proxy, for example nginx with
            // its limit of 1 MB.
            StatusCode::PAYLOAD_TOO_LARGE if !is_json => {
                Err(AttemptError::final_(TransportError::BodyTooLarge { bytes: sent_bytes }.into()))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                match self.read_response(response, ResponseLimit::SMALL) {
                    Ok(ResponseMessage::Error(refusal)) => {
                        Err(from_refusal(refusal, status, asked))
                    }
                    Ok(ResponseMessage::<serde::de::IgnoredAny>::Ok(_)) => {
                        Err(unexpected_response(status, "no refusal"))
                    }
                    // The response is a page from a proxy. Its `Retry-After` header still applies.
                    Err(attempt_error) => Err(AttemptError {
                        retry: asked.map_or(attempt_error.retry, RetryAction::After),
                        ..attempt_error
                    }),
                }
            }
            _ => Ok(response),
        }
    }

    fn version_error(&self, response: Response<ureq::Body>) -> AttemptError {
        let needed = response.headers().get(VERSION_HEADER).and_then(|needed| needed.to_str().ok());
        let needed = needed
            .map_or_else(|| "another".to_owned(), |needed| self.summary_line(needed.as_bytes()));
        let message =
            match self.read_response::<serde::de::IgnoredAny>(response, ResponseLimit::SMALL) {
                Ok(ResponseMessage::Error(refusal)) => refusal.message,
                Ok(ResponseMessage::Ok(_)) | Err(_) => "no further message".to_owned(),
            };
        AttemptError::final_(TransportError::Version { needed, message }.into())
    }

    /// Reads a response. A receiver may send line feeds before the response to keep the connection
    /// alive.
    fn read_response<T: DeserializeOwned>(
        &self,
        response: Response<ureq::Body>,
        limit: ResponseLimit,
    ) -> Result<ResponseMessage<T>, AttemptError> {
        let status = response.status();
        let reader =
            // One byte above the limit of `SanitizedJson`, which reports the excess.
            response.into_body().into_with_config().limit(limit.bytes.saturating_add(1)).reader();
        let mut prefix = ResponsePrefix { reader, first: Vec::new() };
        let answer = serde_json::from_reader(BufReader::new(SanitizedJson::new(
            &mut prefix,
            limit,
            &self.secrets,
        )));
        answer.map_err(|error: serde_json::Error| {
            // The response was cut off in the middle: the connection was lost, and the request is
            // repeated.
            if error.is_io() || error.is_eof() && !prefix.first.is_empty() {
                return map_read_error(io::Error::from(error));
            }
            match prefix.first.trim_ascii() {
                b"" if is_gateway_error(status) => unexpected_response(status, "nothing"),
                // The response was truncated by a proxy: a receiver always announces the length of
                // its response.
                b"" => AttemptError {
                    error: TransportError::Lost { what: "the response is empty".into() }.into(),
                    retry: RetryAction::Later,
                },
                first => unexpected_response(status, &self.summary_line(first)),
            }
        })
    }

    /// Summarizes a response: the title if it is an HTML page, otherwise the first line.
    fn summary_line(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let text = self.secrets.redact(&text);
        let line =
            || text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing");
        let message = title(&text).unwrap_or_else(line);
        message[..message.floor_char_boundary(SHOWN_BYTES)].trim().to_owned()
    }

    /// Removes secrets from text that came from a peer, a proxy or a certificate.
    fn cleaned(&self, mut attempt_error: AttemptError) -> AttemptError {
        if let MirrorError::Transport(error) = &mut attempt_error.error {
            error.clean(&self.secrets);
        }
        attempt_error
    }
}

fn retry_after(response: &Response<ureq::Body>) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    // The other form of this header, a date, is ignored; the usual pause follows.
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Decides whether a refusal is retried.
fn from_refusal(
    refusal: ProtocolError,
    status: StatusCode,
    asked: Option<Duration>,
) -> AttemptError {
    let action = match (refusal.kind, asked) {
        // Ignores `Retry-After`: the user decides how long to wait for a lock.
        (ErrorKind::Locked, _) => RetryAction::WhileLocked,
        (ErrorKind::Busy, Some(asked)) => RetryAction::After(asked),
        (ErrorKind::Busy, None) => RetryAction::Later,
        (_, Some(asked))
            if matches!(
                status,
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
            ) =>
        {
            RetryAction::After(asked)
        }
        // The upload stalled and the receiver gave up: treated like a broken connection.
        _ if status == StatusCode::REQUEST_TIMEOUT => RetryAction::Later,
        _ => RetryAction::Never,
    };
    AttemptError { error: MirrorError::Remote { refusal }, retry: action }
}

fn unexpected_response(status: StatusCode, what: &str) -> AttemptError {
    let error = TransportError::Foreign { status: status.as_u16(), what: what.to_owned() };
    let action = if is_gateway_error(status) || matches!(status.as_u16(), 408 | 429) {
        RetryAction::Later
    } else {
        RetryAction::Never
    };
    AttemptError { error: error.into(), retry: action }
}

/// Whether a proxy uses this status to report that the receiver is not running.
fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// Passes data through from a reader and keeps its first bytes.
struct ResponsePrefix<R> {
    reader: R,
    first: Vec<u8>,
}

impl<R: Read> Read for ResponsePrefix<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        let room = PREFIX_BYTES.saturating_sub(self.first.trim_ascii_start().len());
        self.first.extend_from_slice(&out[..count.min(room)]);
        // Line feeds that kept the connection alive must not fill the prefix.
        if self.first.trim_ascii().is_empty() {
            self.first.clear();
        }
        Ok(count)
    }
}

/// The title of an HTML page; `None` if the text is not HTML or has no title.
fn title(text: &str) -> Option<&str> {
    // ASCII lowercasing keeps the length, so offsets in `small` are valid in `text`.
    let small = text.to_ascii_lowercase();
    if !text.trim_start().starts_with('<') {
        return None;
    }
    let open = small.find("<title")?;
    let from = open + small[open..].find('>')? + 1;
    let end = from + small[from..].find("</title")?;
    text[from..end].lines().map(str::trim).find(|line| !line.is_empty())
}

/// Classifies an error that occurred while reading a response.
pub(super) fn map_read_error(error: io::Error) -> AttemptError {
    match UreqError::from(error) {
        UreqError::Timeout(timeout) => {
            AttemptError { error: describe_timeout(timeout).into(), retry: RetryAction::Later }
        }
        UreqError::BodyExceedsLimit(_) => {
            let what = "the response is too large".to_owned();
            AttemptError::final_(TransportError::Foreign { status: 200, what }.into())
        }
        other => AttemptError {
            error: TransportError::Lost { what: other.to_string() }.into(),
            retry: RetryAction::Later,
        },
    }
}

/// Describes the timeout that fired.
fn describe_timeout(timeout: ureq::Timeout) -> TransportError {
    let what = match timeout {
        ureq::Timeout::PerRead => format!("no data received for {} s", IO_TIMEOUT.as_secs()),
        ureq::Timeout::PerWrite => format!("no data accepted for {} s", IO_TIMEOUT.as_secs()),
        _ => "no response in time".to_owned(),
    };
    TransportError::Timeout { what }
}

/// Classifies the error from a request that got no response.
fn map_error(error: UreqError, retry: &RetryState<'_>, is_deadline: bool) -> AttemptError {
    // The request to stop shut down the connection, which caused this error.
    if retry.is_stopped() {
        return AttemptError::final_(MirrorError::Cancelled);
    }
    let unreachable = |what: String| TransportError::Unreachable { what };
    let (error, action) = match error {
        UreqError::Timeout(ureq::Timeout::Global) if is_deadline => {
            (TransportError::Deadline, RetryAction::Never)
        }
        UreqError::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            (unreachable("the connection timed out".into()), RetryAction::Later)
        }
        UreqError::Timeout(timeout) => (describe_timeout(timeout), RetryAction::Later),
        UreqError::HostNotFound => {
            (unreachable("the host name was not found".into()), RetryAction::Later)
        }
        // A retry does not make a certificate valid.
        UreqError::Rustls(error) => (tls_errors::describe_tls(&error), RetryAction::Never),
        UreqError::Tls(what) => (TransportError::Tls { what: what.to_owned() }, RetryAction::Never),
        UreqError::ConnectProxyFailed(what) => (unreachable(what), RetryAction::Never),
        UreqError::Io(error) => match map_io_error(&error) {
            // Probably an idle pooled connection that the server closed. The retry opens a new one.
            (error @ TransportError::Lost { .. }, _) if !retry.has_failed() => {
                (error, RetryAction::AtOnce)
            }
            other => other,
        },
        UreqError::Other(error) => match error.downcast::<AttemptError>() {
            Ok(attempt_error) => return *attempt_error,
            Err(error) => (unreachable(error.to_string()), RetryAction::Never),
        },
        UreqError::Protocol(error) => {
            let what = format!(
                "the response is not HTTP ({error}); if the server uses TLS, write https:// in the \
                 URL"
            );
            (TransportError::Lost { what }, RetryAction::Later)
        }
        other => (TransportError::Lost { what: other.to_string() }, RetryAction::Later),
    };
    AttemptError { error: error.into(), retry: action }
}

fn map_io_error(error: &io::Error) -> (TransportError, RetryAction) {
    use io::ErrorKind as Kind;
    let what = error.to_string();
    // The standard library has no separate error kind for a name that does not resolve.
    if let Some(why) = what.strip_prefix("failed to lookup address information: ") {
        let what = format!("the host name was not found: {why}");
        return (TransportError::Unreachable { what }, RetryAction::Later);
    }
    match error.kind() {
        // rustls wraps certificate errors in an error of this kind.
        Kind::InvalidData => (tls_errors::describe_io(error), RetryAction::Never),
        Kind::ConnectionRefused
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown => (TransportError::Unreachable { what }, RetryAction::Later),
        Kind::TimedOut | Kind::WouldBlock => (TransportError::Timeout { what }, RetryAction::Later),
        _ => (TransportError::Lost { what }, RetryAction::Later),
    }
}

impl std::fmt::Display for AttemptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for AttemptError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(secret: &str) -> Client {
        let (agent, secrets) = (Agent::new_with_defaults(), Secrets::new([secret]));
        Client { agent, token: None, limit: None, trace: None, secrets }
    }

    #[test]
    fn unresolved_host_name_is_not_a_lost_connection() {
        let text = "failed to lookup address information: Name or service not known";
        let error = io::Error::other(text);
        let (error, action) = map_io_error(&error);
        let words = "it cannot be reached: the host name was not found: ";
        assert!(error.to_string().starts_with(words), "{error}");
        assert!(matches!(action, RetryAction::Later));
    }

    #[test]
    fn secret_is_hidden_before_text_is_truncated() {
        let client = client("hw_0123abcd_5ec2e7aa00112233");
        for before in [0, SHOWN_BYTES - 20, SHOWN_BYTES - 1] {
            let page = format!("{}hw_0123abcd_5ec2e7aa\u{200b}00112233", "x".repeat(before));
            assert!(!client.summary_line(page.as_bytes()).contains("5ec"), "{before}");
        }
        let what = "proxy said hw_0123abcd_5ec2e7aa00112233".to_owned();
        let attempt_error =
            client.cleaned(AttemptError::final_(TransportError::Unreachable { what }.into()));
        assert!(!attempt_error.to_string().contains("5ec2e7"), "{attempt_error}");
    }

    #[test]
    fn summary_is_the_page_title_or_the_first_line() {
        let nginx = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n";
        let upper = "<!DOCTYPE html>\n<HTML><HEAD>\n<TITLE lang='en'>\n Not é here \n</TITLE>";
        let long = format!("{}é", "x".repeat(SHOWN_BYTES - 1));
        for (body_text, shows) in [
            (nginx, "502 Bad Gateway"),
            (upper, "Not é here"),
            ("<html>Welcome to nginx!</html>", "<html>Welcome to nginx!</html>"),
            ("<title>cut", "<title>cut"),
            ("<title></title>\nx", "<title></title>"),
            ("\n\n bad gateway \nmore", "bad gateway"),
            (&long, &long[..SHOWN_BYTES - 1]),
            (" ", "nothing"),
        ] {
            assert_eq!(client("").summary_line(body_text.as_bytes()), shows);
        }
    }
}
