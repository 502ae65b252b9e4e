//! One mirror's agent: requests, answers, and what to do when there is none.
//!
//! Promises that the token goes nowhere but to the mirror, that every request
//! ends, and that no answer takes more memory than its limit. Uses the crate
//! `ureq`.

use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, AsSendBody, Error as UreqError, SendBody};

use crate::error_kind::ErrorKind;
use crate::mirror::MirrorError;
use crate::mirror::http::answer::{AnswerLimit, CleanJson};
use crate::mirror::http::body::Body;
use crate::mirror::http::credentials::STALL;
use crate::mirror::http::limits::{AttemptError, Exchange, Limiter, RetryAction, RetryState, Trace};
use crate::mirror::http::tls_errors;
use crate::mirror::transport_error::TransportError;
use crate::protocol::{Answer, ProtocolError, Resource, VERSION, VERSION_HEADER};
use crate::text::Secrets;

/// As much of an answer that is not ours as is looked at, in bytes: the title of a page stands at its beginning.
const HEARD_BYTES: usize = 4096;
/// As much of it as is shown, in bytes.
const SHOWN_BYTES: usize = 200;
/// Bodies from here on are announced and await a go-ahead, if asked to.
const LARGE: u64 = 1024 * 1024;

/// How a request begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Put,
    Post,
}

impl Verb {
    const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
        }
    }
}

/// A request that can be made as often as need be.
pub(super) struct Request<'r> {
    pub(super) verb: Verb,
    pub(super) resource: Resource,
    pub(super) body: Body<'r>,
    /// The first byte that is wanted.
    pub(super) offset: u64,
    /// Whether a large body awaits a go-ahead.
    pub(super) is_announced: bool,
    /// The longest time for all of it; nothing: as long as something is moving.
    pub(super) limit: Option<Duration>,
    /// The largest answer.
    pub(super) answer: AnswerLimit,
}

impl<'r> Request<'r> {
    /// A request with nothing special about it.
    pub(super) const fn new(verb: Verb, resource: Resource, body: Body<'r>, answer: AnswerLimit) -> Self {
        Self { verb, resource, body, offset: 0, is_announced: false, limit: None, answer }
    }
}

/// The agent of one mirror, and what each of its requests has.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) agent: Agent,
    pub(super) token: Option<super::BearerToken>,
    pub(super) limit: Option<std::sync::Arc<Limiter>>,
    pub(super) trace: Option<Trace>,
    /// What must not be repeated of what a peer says.
    pub(super) secrets: Secrets,
}

impl Client {
    /// Makes a request below `base` until it is answered, or patience ends.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<T, MirrorError> {
        loop {
            match self.ask_once(base, request, retry) {
                Ok(answer) => {
                    retry.progress();
                    return Ok(answer);
                }
                Err(attempt_error) => retry.next(attempt_error)?,
            }
        }
    }

    /// Makes a request once.
    pub(super) fn ask_once<T: DeserializeOwned>(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<T, AttemptError> {
        let response = self.send(base, request, retry)?;
        let status = response.status();
        match self.read_answer(response, request.answer)? {
            Answer::Ok(answer) => Ok(answer),
            Answer::Error(refusal) => Err(refused(refusal, status, None)),
        }
    }

    /// Makes a request whose answer is content, until it begins or patience ends.
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
                    _ => match self.read_answer::<serde::de::IgnoredAny>(response, request.answer)? {
                        Answer::Error(refusal) => Err(refused(refusal, status, None)),
                        Answer::Ok(_) => Err(unexpected_response(status, "content was asked for")),
                    },
                }
            });
            match opened {
                Ok(response) => return Ok(response),
                Err(attempt_error) => retry.next(attempt_error)?,
            }
        }
    }

    /// Sends a request and reads the head of the answer; a redirect is none.
    fn send(
        &self,
        base: &str,
        request: &Request<'_>,
        retry: &mut RetryState<'_>,
    ) -> Result<Response<ureq::Body>, AttemptError> {
        let left = retry.left().map_err(AttemptError::final_)?;
        let total = [left, request.limit].into_iter().flatten().min();
        let url = format!("{base}{}", request.resource);
        let body = request.body.open(self.limit.as_deref(), retry.stop());
        let mut body = body.map_err(|error| AttemptError::final_(MirrorError::Source(error.into())))?;
        let mut builder = ureq::http::Request::builder().uri(url).header(VERSION_HEADER, VERSION);
        if let Some(token) = &self.token {
            builder = builder.header("authorization", token.header());
        }
        if request.offset > 0 {
            builder = builder.header("range", format!("bytes={}-", request.offset));
        }
        let (length, began) = (request.body.length(), Instant::now());
        if request.is_announced && length.is_some_and(|length| length > LARGE) {
            builder = builder.header("expect", "100-continue");
        }
        let sent = match request.verb {
            Verb::Get => self.run(builder.method(request.verb.name()), (), total),
            Verb::Put | Verb::Post => {
                let builder = builder.method(request.verb.name());
                let builder = match length {
                    Some(length) => builder.header("content-length", length),
                    None => builder,
                };
                self.run(builder, SendBody::from_reader(&mut body), total)
            }
        };
        let attempt_error = |error| self.cleaned(map_error(error, retry, left.is_some() && left == total));
        let response = sent.map_err(|error| self.by_proxy(base, attempt_error(error)));
        self.show(base, request, &response, began.elapsed());
        let response = response?;
        self.reject_non_protocol(response, length.unwrap_or(body.sent()))
    }

    fn show(
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
        trace(&Exchange { base, method: request.verb.name(), resource: &request.resource, outcome, elapsed });
    }

    /// Says which proxy it is that was not reached, or did not lead there.
    fn by_proxy(&self, base: &str, mut attempt_error: AttemptError) -> AttemptError {
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
        let request = self.agent.configure_request(builder.body(body)?).timeout_global(total).build();
        self.agent.run(request)
    }
}

impl Client {
    /// Sorts out answers that a receiver never gives.
    fn reject_non_protocol(
        &self,
        response: Response<ureq::Body>,
        sent_bytes: u64,
    ) -> Result<Response<ureq::Body>, AttemptError> {
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            return Err(AttemptError::final_(TransportError::Redirect { to: self.summary_line(to.as_bytes()) }.into()));
        }
        let is_json =
            response.headers().get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let asked = retry_after(&response);
        match status {
            StatusCode::UPGRADE_REQUIRED => Err(self.version(response)),
            StatusCode::PAYLOAD_TOO_LARGE if !is_json => {
                Err(AttemptError::final_(TransportError::BodyTooLarge { bytes: sent_bytes }.into()))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                match self.read_answer(response, AnswerLimit::SMALL) {
                    Ok(Answer::Error(refusal)) => Err(refused(refusal, status, asked)),
                    Ok(Answer::<serde::de::IgnoredAny>::Ok(_)) => Err(unexpected_response(status, "no refusal")),
                    // A proxy's page; how long to wait is said beside it.
                    Err(attempt_error) => Err(AttemptError {
                        again: asked.map_or(attempt_error.again, RetryAction::After),
                        ..attempt_error
                    }),
                }
            }
            _ => Ok(response),
        }
    }

    fn version(&self, response: Response<ureq::Body>) -> AttemptError {
        let needed = response.headers().get(VERSION_HEADER).and_then(|needed| needed.to_str().ok());
        let needed = needed.map_or_else(|| "another".to_owned(), |needed| self.summary_line(needed.as_bytes()));
        let said = match self.read_answer::<serde::de::IgnoredAny>(response, AnswerLimit::SMALL) {
            Ok(Answer::Error(refusal)) => refusal.message,
            Ok(Answer::Ok(_)) | Err(_) => "it does not say more".to_owned(),
        };
        AttemptError::final_(TransportError::Version { needed, said }.into())
    }

    /// Reads an answer; line feeds before it say only that somebody is there.
    fn read_answer<T: DeserializeOwned>(
        &self,
        response: Response<ureq::Body>,
        limit: AnswerLimit,
    ) -> Result<Answer<T>, AttemptError> {
        let status = response.status();
        let reader = response.into_body().into_with_config().limit(limit.bytes.saturating_add(1)).reader();
        let mut heard = ResponsePrefix { reader, first: Vec::new() };
        let answer = serde_json::from_reader(BufReader::new(CleanJson::new(&mut heard, limit, &self.secrets)));
        answer.map_err(|error: serde_json::Error| {
            if error.is_io() || error.is_eof() && !heard.first.is_empty() {
                return map_read_error(io::Error::from(error));
            }
            match heard.first.trim_ascii() {
                b"" if is_of_proxy(status) => unexpected_response(status, "nothing"),
                // Cut off, by whoever stands between: the receiver itself announces how long its answer is.
                b"" => AttemptError {
                    error: TransportError::Lost { what: "an empty answer".into() }.into(),
                    again: RetryAction::Later,
                },
                first => unexpected_response(status, &self.summary_line(first)),
            }
        })
    }

    /// What a peer said, short: the title of a page, else the first line.
    fn summary_line(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let text = self.secrets.clean(&text);
        let line = || text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing");
        let said = title(&text).unwrap_or_else(line);
        said[..said.floor_char_boundary(SHOWN_BYTES)].trim().to_owned()
    }

    /// The same without secrets in what a peer, a proxy or a certificate said.
    fn cleaned(&self, mut attempt_error: AttemptError) -> AttemptError {
        if let MirrorError::Transport(error) = &mut attempt_error.error {
            error.clean(&self.secrets);
        }
        attempt_error
    }
}

fn retry_after(response: &Response<ureq::Body>) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// What follows from a refusal.
fn refused(refusal: ProtocolError, status: StatusCode, asked: Option<Duration>) -> AttemptError {
    let again = match (refusal.kind, asked) {
        (ErrorKind::Locked, _) => RetryAction::WhileLocked,
        (ErrorKind::Busy, Some(asked)) => RetryAction::After(asked),
        (ErrorKind::Busy, None) => RetryAction::Later,
        (_, Some(asked)) if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => {
            RetryAction::After(asked)
        }
        // A body that was stalled on its way, and is cut as if the connection had broken.
        _ if status == StatusCode::REQUEST_TIMEOUT => RetryAction::Later,
        _ => RetryAction::Never,
    };
    AttemptError { error: MirrorError::Remote { refusal }, again }
}

fn unexpected_response(status: StatusCode, what: &str) -> AttemptError {
    let error = TransportError::Foreign { status: status.as_u16(), what: what.to_owned() };
    let again = if is_of_proxy(status) || matches!(status.as_u16(), 408 | 429) {
        RetryAction::Later
    } else {
        RetryAction::Never
    };
    AttemptError { error: error.into(), again }
}

/// Whether it is how a proxy says that the receiver does not run, or is being restarted.
fn is_of_proxy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// Remembers how what is read began.
struct ResponsePrefix<R> {
    reader: R,
    first: Vec<u8>,
}

impl<R: Read> Read for ResponsePrefix<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        let room = HEARD_BYTES.saturating_sub(self.first.trim_ascii_start().len());
        self.first.extend_from_slice(&out[..count.min(room)]);
        if self.first.trim_ascii().is_empty() {
            self.first.clear();
        }
        Ok(count)
    }
}

/// The title of a page, if it is one and has one.
fn title(text: &str) -> Option<&str> {
    // As long as the text itself, so that places in one are places in the other.
    let small = text.to_ascii_lowercase();
    if !text.trim_start().starts_with('<') {
        return None;
    }
    let open = small.find("<title")?;
    let from = open + small[open..].find('>')? + 1;
    let end = from + small[from..].find("</title")?;
    text[from..end].lines().map(str::trim).find(|line| !line.is_empty())
}

/// What follows from an error while an answer is read.
pub(super) fn map_read_error(error: io::Error) -> AttemptError {
    match UreqError::from(error) {
        UreqError::Timeout(timeout) => AttemptError { error: silence(timeout).into(), again: RetryAction::Later },
        UreqError::BodyExceedsLimit(_) => {
            let what = "an answer without end".to_owned();
            AttemptError::final_(TransportError::Foreign { status: 200, what }.into())
        }
        other => {
            AttemptError { error: TransportError::Lost { what: other.to_string() }.into(), again: RetryAction::Later }
        }
    }
}

/// Words what was waited for; `ureq` has names of its own.
fn silence(timeout: ureq::Timeout) -> TransportError {
    let what = match timeout {
        ureq::Timeout::PerRead => format!("nothing came for {} s", STALL.as_secs()),
        ureq::Timeout::PerWrite => format!("it took nothing for {} s", STALL.as_secs()),
        _ => "it did not answer in time".to_owned(),
    };
    TransportError::Timeout { what }
}

/// What follows from a request that was not answered.
fn map_error(error: UreqError, retry: &RetryState<'_>, is_deadline: bool) -> AttemptError {
    if retry.is_stopped() {
        return AttemptError::final_(MirrorError::Cancelled);
    }
    let unreachable = |what: String| TransportError::Unreachable { what };
    let (error, again) = match error {
        UreqError::Timeout(ureq::Timeout::Global) if is_deadline => (TransportError::Deadline, RetryAction::Never),
        UreqError::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            (unreachable("no connection in time".into()), RetryAction::Later)
        }
        UreqError::Timeout(timeout) => (silence(timeout), RetryAction::Later),
        UreqError::HostNotFound => (unreachable("there is no such host".into()), RetryAction::Later),
        UreqError::Rustls(error) => (tls_errors::describe_tls(&error), RetryAction::Never),
        UreqError::Tls(what) => (TransportError::Tls { what: what.to_owned() }, RetryAction::Never),
        UreqError::ConnectProxyFailed(what) => (unreachable(what), RetryAction::Never),
        UreqError::Io(error) => match of_io(&error) {
            // Most likely it lay idle and was closed just then.
            (error @ TransportError::Lost { .. }, _) if !retry.has_failed() => (error, RetryAction::AtOnce),
            other => other,
        },
        UreqError::Other(error) => match error.downcast::<AttemptError>() {
            Ok(attempt_error) => return *attempt_error,
            Err(error) => (unreachable(error.to_string()), RetryAction::Never),
        },
        UreqError::Protocol(error) => {
            let what =
                format!("what it says is no HTTP ({error}); if it speaks TLS, its location begins with https://");
            (TransportError::Lost { what }, RetryAction::Later)
        }
        other => (TransportError::Lost { what: other.to_string() }, RetryAction::Later),
    };
    AttemptError { error: error.into(), again }
}

fn of_io(error: &io::Error) -> (TransportError, RetryAction) {
    use io::ErrorKind as Kind;
    let what = error.to_string();
    match error.kind() {
        // Certificates: rustls hides its errors in these.
        Kind::InvalidData => (tls_errors::describe_io(error), RetryAction::Never),
        Kind::ConnectionRefused | Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            (TransportError::Unreachable { what }, RetryAction::Later)
        }
        Kind::BrokenPipe | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::UnexpectedEof => {
            (TransportError::Lost { what }, RetryAction::Later)
        }
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
    fn a_secret_is_hidden_before_a_text_is_cut() {
        let client = client("hw_0123abcd_5ec2e7aa00112233");
        for before in [0, SHOWN_BYTES - 20, SHOWN_BYTES - 1] {
            let page = format!("{}hw_0123abcd_5ec2e7aa\u{200b}00112233", "x".repeat(before));
            assert!(!client.summary_line(page.as_bytes()).contains("5ec"), "{before}");
        }
        let what = "proxy said hw_0123abcd_5ec2e7aa00112233".to_owned();
        let attempt_error = client.cleaned(AttemptError::final_(TransportError::Unreachable { what }.into()));
        assert!(!attempt_error.to_string().contains("5ec2e7"), "{attempt_error}");
    }

    #[test]
    fn of_a_page_the_title_is_shown_and_of_other_answers_the_first_line() {
        let nginx = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n";
        let upper = "<!DOCTYPE html>\n<HTML><HEAD>\n<TITLE lang='en'>\n Not é here \n</TITLE>";
        let long = format!("{}é", "x".repeat(SHOWN_BYTES - 1));
        for (said, shows) in [
            (nginx, "502 Bad Gateway"),
            (upper, "Not é here"),
            ("<html>Welcome to nginx!</html>", "<html>Welcome to nginx!</html>"),
            ("<title>cut", "<title>cut"),
            ("<title></title>\nx", "<title></title>"),
            ("\n\n bad gateway \nmore", "bad gateway"),
            (&long, &long[..SHOWN_BYTES - 1]),
            (" ", "nothing"),
        ] {
            assert_eq!(client("").summary_line(said.as_bytes()), shows);
        }
    }
}
