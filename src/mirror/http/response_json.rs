//! Reads a JSON response with limits on its size, and removes secrets from it.
//!
//! Promises that the memory for a response is proportional to the limit of its kind, that a process
//! reads only one large response at a time, and that no text in a response contains a token:
//! neither one that was sent nor one that looks like a token.

use std::io::{self, BufRead as _, BufReader, Read};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::mirror::transport_error::TransportError;
use crate::mirror::{MirrorError, MirrorState};
use crate::protocol::{self, ResponseMessage};
use crate::release::MAX_RECORD_BYTES;
use crate::text::Secrets;

// Without this, and without limits, an endless response took 0.5 to 0.9 GB of memory for each
// mirror.
/// A response of at least this size, in bytes, is read only while no other large response is.
const LARGE_RESPONSE_BYTES: u64 = 1024 * 1024;
/// The time limit for a large response: all other large responses wait for it.
const LARGE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest string in a response, in bytes: a release record with its quotes escaped.
const MAX_TEXT_BYTES: u64 = 2 * MAX_RECORD_BYTES;
/// The beginning of a release record. A record is identified by the digest of its bytes, so only
/// this client's secrets are removed from it, not every string that looks like a secret.
const RELEASE_RECORD_PREFIX: &str = "{\"headwater\":\"release\",";

/// Locked while a large response is read.
static LARGE_RESPONSE_LOCK: Mutex<()> = Mutex::new(());

/// The size limit of one kind of response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseLimit {
    /// The maximum size, in bytes.
    pub(super) bytes: u64,
    /// The maximum number of values, keys and lists. Each takes memory beyond its bytes.
    pub(super) values: u64,
}

impl ResponseLimit {
    /// A confirmation or a refusal.
    pub(super) const SMALL: Self = Self { bytes: 256 * 1024, values: 16 * 1024 };
    /// A state, with the records of all kept releases.
    pub(super) const STATE: Self = Self { bytes: 4 * 1024 * 1024, values: 64 * 1024 };
    /// A history. A store keeps at most a tenth of this limit.
    pub(super) const HISTORY: Self = Self { bytes: 2 * 1024 * 1024, values: 128 * 1024 };
    /// The ids of held packs or of missing objects: up to half a million.
    pub(super) const STAGING: Self = Self { bytes: 40 * 1024 * 1024, values: 512 * 1024 };
    /// Faults, or the content that would repair them: about a million entries.
    pub(super) const FAULTS: Self = Self { bytes: 128 * 1024 * 1024, values: 4 * 1024 * 1024 };
}

/// Parses the response to a state request as the client does. Meant for fuzz tests, which have the
/// bytes of a response but no connection.
///
/// # Errors
/// Fails if the response is too large, malformed or a refusal, or the state is invalid.
pub fn read_state(answer: impl Read) -> Result<MirrorState, MirrorError> {
    let secrets = Secrets::default();
    let reader = BufReader::new(SanitizedJson::new(answer, ResponseLimit::STATE, &secrets));
    let answer: ResponseMessage<protocol::State> = serde_json::from_reader(reader)
        .map_err(|error| TransportError::Foreign { status: 200, what: error.to_string() })?;
    match answer {
        ResponseMessage::Ok(state) => Ok(state.try_into()?),
        ResponseMessage::Error(refusal) => Err(MirrorError::Remote { refusal }),
    }
}

/// Reads JSON from a peer and removes secrets from its strings.
pub(super) struct SanitizedJson<'s, R> {
    reader: BufReader<R>,
    secrets: &'s Secrets,
    left: ResponseLimit,
    large: Option<(MutexGuard<'static, ()>, Instant)>,
    read_bytes: u64,
    /// The string that is being read, with its opening quote.
    text: Option<Vec<u8>>,
    is_escaped: bool,
    out: Vec<u8>,
    at: usize,
}

impl<'s, R: Read> SanitizedJson<'s, R> {
    pub(super) fn new(reader: R, limit: ResponseLimit, secrets: &'s Secrets) -> Self {
        let (reader, out) = (BufReader::new(reader), Vec::new());
        let (read_bytes, at) = (0, 0);
        Self {
            reader,
            secrets,
            left: limit,
            large: None,
            read_bytes,
            text: None,
            is_escaped: false,
            out,
            at,
        }
    }

    /// Reads the next chunk of the response and appends the cleaned bytes to `out`.
    fn advance(&mut self) -> io::Result<()> {
        let chunk = self.reader.fill_buf()?.to_vec();
        self.reader.consume(chunk.len());
        self.count(chunk.len() as u64)?;
        if chunk.is_empty() {
            // A string without a closing quote: the JSON parser reports the error.
            self.out.append(&mut self.text.take().unwrap_or_default());
        }
        for byte in chunk {
            match &mut self.text {
                None if byte == b'"' => self.text = Some(vec![byte]),
                None => self.pass(byte)?,
                Some(text) => {
                    text.push(byte);
                    if text.len() as u64 > MAX_TEXT_BYTES {
                        return Err(too_large());
                    }
                    let is_end = byte == b'"' && !self.is_escaped;
                    self.is_escaped = byte == b'\\' && !self.is_escaped;
                    if is_end {
                        let text = self.text.take().unwrap_or_default();
                        self.out.extend_from_slice(&self.clean(text));
                    }
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> io::Result<()> {
        self.read_bytes += bytes;
        if self.read_bytes > self.left.bytes {
            return Err(too_large());
        }
        // Locked only now, so that the many small responses from a fleet do not wait for one
        // another.
        if self.read_bytes > LARGE_RESPONSE_BYTES && self.large.is_none() {
            let guard = LARGE_RESPONSE_LOCK.lock();
            self.large = Some((guard, Instant::now() + LARGE_RESPONSE_TIMEOUT));
        }
        match &self.large {
            Some((_, end)) if Instant::now() > *end => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Appends to `out` a byte that is outside all strings.
    fn pass(&mut self, byte: u8) -> io::Result<()> {
        if matches!(byte, b',' | b':' | b'[' | b'{') {
            self.left.values = self.left.values.checked_sub(1).ok_or_else(too_large)?;
        }
        self.out.push(byte);
        Ok(())
    }

    /// Removes secrets from a quoted string. Returns a malformed string unchanged, for the JSON
    /// parser to report.
    fn clean(&self, quoted: Vec<u8>) -> Vec<u8> {
        // Decoded first: JSON can spell a letter of a token as `\u0068`, and a CI log that masks
        // the token would not recognise that form.
        let Ok(text) = serde_json::from_slice::<String>(&quoted) else { return quoted };
        let clean = if text.starts_with(RELEASE_RECORD_PREFIX) {
            self.secrets.redact_known(&text)
        } else {
            self.secrets.redact(&text)
        };
        match clean {
            std::borrow::Cow::Borrowed(_) => quoted,
            std::borrow::Cow::Owned(clean) => serde_json::to_vec(&clean).unwrap_or_default(),
        }
    }
}

fn too_large() -> io::Error {
    // The same error that ureq returns for its limit, so that `map_read_error` needs only one case.
    io::Error::other(ureq::Error::BodyExceedsLimit(0))
}

impl<R: Read> Read for SanitizedJson<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
            self.advance()?;
            // While a long string is incomplete, `out` may be empty before the end of the response.
            if self.out.is_empty() && self.text.is_none() {
                return Ok(0);
            }
        }
        let count = out.len().min(self.out.len() - self.at);
        out[..count].copy_from_slice(&self.out[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "hw_0123abcd_5ec2e7aa00112233";
    const LIMIT: ResponseLimit = ResponseLimit { bytes: 1000, values: 10 };

    /// Reads byte by byte, as the worst of networks has it.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = out.len().min(self.0.len()).min(1);
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read(json: &str, limit: ResponseLimit) -> io::Result<String> {
        let secrets = Secrets::new([TOKEN]);
        io::read_to_string(SanitizedJson::new(Trickle(json.as_bytes()), limit, &secrets))
    }

    #[test]
    fn texts_are_sanitized_and_other_values_are_unchanged() {
        for same in [
            "",
            "{}",
            "[1,\"a\\\"b\\\\\",null]",
            "{\"k\":\"é \\u00e9\"}",
            "<p a=\"",
            "\"\\",
            "{\"a\":\"\\ud800\"}",
        ] {
            assert_eq!(read(same, LIMIT).unwrap(), same);
        }
        let escaped: String = TOKEN.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        assert_eq!(
            read(&format!("{{\"{TOKEN}\":\"a {escaped}\"}}"), LIMIT).unwrap(),
            "{\"***\":\"a ***\"}"
        );
        // A record keeps its bytes, but for secrets of ours.
        let record = |note: &str| {
            serde_json::to_string(&format!("{RELEASE_RECORD_PREFIX}\"note\":\"{note}\"}}")).unwrap()
        };
        let plain = record("Bearer abcdefgh1");
        assert_eq!(read(&plain, LIMIT).unwrap(), plain);
        assert!(!read(&record(TOKEN), LIMIT).unwrap().contains("5ec2e7"));
    }

    #[test]
    fn bytes_values_and_texts_are_limited() {
        let is_too_large = |result: io::Result<String>| {
            let error = result.unwrap_err();
            matches!(ureq::Error::from(error), ureq::Error::BodyExceedsLimit(_))
        };
        assert!(read(&"1".repeat(1000), LIMIT).is_ok());
        assert!(is_too_large(read(&"1".repeat(1001), LIMIT)));
        assert!(is_too_large(read(&format!("[{}1]", "1,".repeat(10)), LIMIT)));
        assert!(is_too_large(read(&"[".repeat(11), LIMIT)));
        let many = ResponseLimit { bytes: u64::MAX, values: u64::MAX };
        let (long, secrets) = (
            "\"".to_owned() + &"a".repeat(usize::try_from(MAX_TEXT_BYTES).unwrap()),
            Secrets::default(),
        );
        let result = io::read_to_string(SanitizedJson::new(long.as_bytes(), many, &secrets));
        assert!(is_too_large(result));
    }

    #[test]
    fn large_responses_are_read_one_at_a_time() {
        let many = ResponseLimit { bytes: u64::MAX, values: u64::MAX };
        let large = vec![b' '; 3 * usize::try_from(LARGE_RESPONSE_BYTES).unwrap()];
        let secrets = Secrets::default();
        let mut first = SanitizedJson::new(&large[..], many, &secrets);
        let mut some = vec![0; large.len() / 2];
        first.read_exact(&mut some).unwrap();
        assert!(first.large.is_some());
        std::thread::scope(|scope| {
            let (sender, is_read) = std::sync::mpsc::channel();
            let (large, secrets) = (&large, &secrets);
            scope.spawn(move || {
                let small = SanitizedJson::new(&large[..1000], many, secrets);
                sender.send(io::read_to_string(small).unwrap().len()).unwrap();
                let second = SanitizedJson::new(&large[..], many, secrets);
                sender.send(io::read_to_string(second).unwrap().len()).unwrap();
            });
            assert_eq!(is_read.recv().unwrap(), 1000);
            assert!(LARGE_RESPONSE_LOCK.try_lock().is_none());
            drop(first);
            assert_eq!(is_read.recv().unwrap(), large.len());
        });
    }
}
