//! Strict HTTP framing: rejects requests that two parsers could read differently.
//!
//! hyper accepts a lone line feed as the end of a line, ignores a second Content-Length with the
//! same value, drops a Content-Length next to a Transfer-Encoding, and skips chunk extensions. A
//! proxy in front may treat them differently; the two would then disagree about where a request
//! ends (request smuggling). The bytes therefore pass through this check first. It replaces a byte
//! that breaks a rule with NUL, which is valid neither in a head nor before a chunk. hyper then
//! responds with 400, or the body fails at that byte, and the connection ends.

/// Maximum number of hexadecimal digits in a chunk size. Eight are enough for chunks of 4 GiB.
const MAX_SIZE_DIGITS: usize = 8;

/// How many bytes of each line are kept: enough for a field name and a length.
const MAX_KEPT_BYTES: usize = 64;

/// Position of the next byte in a stream of requests.
#[derive(Debug, Default)]
enum ParsePosition {
    /// Before the first byte of a head.
    #[default]
    BetweenRequests,
    /// In the head.
    Head,
    /// In a body, with the number of bytes left.
    Body(u64),
    /// In the line with the size of a chunk.
    ChunkSize,
    /// In a chunk, with the number of bytes left.
    Chunk(u64),
    /// In the line ending after a chunk, or after the last one.
    ChunkEnd { is_last: bool },
    /// After a byte that was replaced: the connection ends with this request.
    Poisoned,
}

/// Parses the framing of the requests on a connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    position: ParsePosition,
    /// The first bytes of the current line.
    line: Vec<u8>,
    line_bytes: usize,
    is_first_line: bool,
    ends_in_return: bool,
    length: Option<u64>,
    is_chunked: bool,
}

struct FramingError;

impl Framing {
    /// Checks the next bytes and replaces any byte that breaks a rule. Returns whether a head
    /// begins in these bytes.
    pub(super) fn check(&mut self, bytes: &mut [u8]) -> bool {
        let mut has_begun = false;
        let mut at = 0;
        while at < bytes.len() {
            match self.position {
                ParsePosition::Poisoned => break,
                ParsePosition::Body(left) | ParsePosition::Chunk(left) => {
                    let here = left.min((bytes.len() - at) as u64);
                    self.position = match (&self.position, left - here) {
                        (ParsePosition::Chunk(_), 0) => ParsePosition::ChunkEnd { is_last: false },
                        (ParsePosition::Chunk(_), left) => ParsePosition::Chunk(left),
                        (_, 0) => ParsePosition::BetweenRequests,
                        (_, left) => ParsePosition::Body(left),
                    };
                    at += usize::try_from(here).unwrap_or(usize::MAX);
                }
                ParsePosition::BetweenRequests => {
                    has_begun = true;
                    *self = Self {
                        position: ParsePosition::Head,
                        is_first_line: true,
                        ..Self::default()
                    };
                }
                ParsePosition::Head | ParsePosition::ChunkSize | ParsePosition::ChunkEnd { .. } => {
                    let taken = match self.position {
                        ParsePosition::Head => self.take_head_byte(bytes[at]),
                        _ => self.take_chunk_byte(bytes[at]),
                    };
                    if taken.is_err() {
                        // The bytes after this one are passed on unchecked. They are never used,
                        // because the connection ends with the response to this request.
                        bytes[at] = 0;
                        self.position = ParsePosition::Poisoned;
                    }
                    at += 1;
                }
            }
        }
        has_begun
    }

    fn take_head_byte(&mut self, byte: u8) -> Result<(), FramingError> {
        match byte {
            b'\n' if self.ends_in_return => return self.end_line(),
            // A lone line feed. hyper would treat it as the end of a line.
            b'\n' => return Err(FramingError),
            // A lone carriage return.
            _ if self.ends_in_return => return Err(FramingError),
            b'\r' => {
                self.ends_in_return = true;
                return Ok(());
            }
            // A folded line: some parsers join it to the previous field, while others read it as a
            // separate field.
            b' ' | b'\t' if self.line_bytes == 0 => return Err(FramingError),
            _ => {}
        }
        if self.line_bytes < MAX_KEPT_BYTES {
            self.line.push(byte);
        }
        self.line_bytes += 1;
        Ok(())
    }

    /// Checks a byte between chunks. Only sizes are allowed: no extensions, and no trailer fields.
    fn take_chunk_byte(&mut self, byte: u8) -> Result<(), FramingError> {
        match (byte, &self.position) {
            (b'\n', _) if self.ends_in_return => {}
            (b'\r', ParsePosition::ChunkEnd { .. }) if !self.ends_in_return => {
                self.ends_in_return = true;
                return Ok(());
            }
            (b'\r', _) if !self.ends_in_return && !self.line.is_empty() => {
                self.ends_in_return = true;
                return Ok(());
            }
            (digit, ParsePosition::ChunkSize)
                if !self.ends_in_return && digit.is_ascii_hexdigit() =>
            {
                self.line.push(digit);
                return if self.line.len() > MAX_SIZE_DIGITS { Err(FramingError) } else { Ok(()) };
            }
            _ => return Err(FramingError),
        }
        self.ends_in_return = false;
        self.position = match self.position {
            ParsePosition::ChunkEnd { is_last: true } => ParsePosition::BetweenRequests,
            ParsePosition::ChunkEnd { is_last: false } => ParsePosition::ChunkSize,
            _ => {
                let size = std::str::from_utf8(&self.line)
                    .ok()
                    .and_then(|size| u64::from_str_radix(size, 16).ok());
                self.line.clear();
                match size.ok_or(FramingError)? {
                    0 => ParsePosition::ChunkEnd { is_last: true },
                    size => ParsePosition::Chunk(size),
                }
            }
        };
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), FramingError> {
        if self.line_bytes == 0 {
            // An empty line before a request: some parsers skip it.
            if self.is_first_line {
                return Err(FramingError);
            }
            self.position = match (self.is_chunked, self.length) {
                (true, _) => ParsePosition::ChunkSize,
                (false, Some(length @ 1..)) => ParsePosition::Body(length),
                (false, _) => ParsePosition::BetweenRequests,
            };
        } else if !self.is_first_line {
            self.field()?;
        }
        self.line.clear();
        self.line_bytes = 0;
        self.is_first_line = false;
        self.ends_in_return = false;
        Ok(())
    }

    fn field(&mut self) -> Result<(), FramingError> {
        let colon = self.line.iter().position(|byte| *byte == b':');
        // A name longer than the kept bytes is neither of the two fields that are checked here.
        let Some(colon) = colon else { return Ok(()) };
        let (name, value) = self.line.split_at(colon);
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        let is_encoding = name.eq_ignore_ascii_case(b"transfer-encoding");
        if !is_length && !is_encoding {
            return Ok(());
        }
        // A second Content-Length, even with the same value: hyper would ignore it. hyper would
        // also drop a Content-Length next to a Transfer-Encoding.
        if self.length.is_some() || self.is_chunked {
            return Err(FramingError);
        }
        let value = value[1..].trim_ascii();
        if is_encoding {
            // With several codings, hyper uses the last one but other servers use the first.
            self.is_chunked =
                // A line that is too long was not kept in full, so its value is unknown.
                value.eq_ignore_ascii_case(b"chunked") && self.line_bytes < MAX_KEPT_BYTES;
            return if self.is_chunked { Ok(()) } else { Err(FramingError) };
        }
        // `parse` alone would accept a plus sign.
        let is_plain = !value.is_empty()
            && value.iter().all(u8::is_ascii_digit)
            && self.line_bytes < MAX_KEPT_BYTES;
        let length = std::str::from_utf8(value)
            .ok()
            .filter(|_| is_plain)
            .and_then(|value| value.parse().ok());
        self.length = Some(length.ok_or(FramingError)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the bytes pass unchanged, however they are split.
    fn passes(bytes: &[u8]) -> bool {
        let verdicts: Vec<bool> = (1..=bytes.len())
            .map(|size| {
                let mut framing = Framing::default();
                let mut copy = bytes.to_vec();
                copy.chunks_mut(size).for_each(|chunk| {
                    framing.check(chunk);
                });
                copy == bytes
            })
            .collect();
        assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]), "depends on where it is cut");
        verdicts[0]
    }

    #[test]
    fn unambiguous_requests_pass() {
        for text in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n",
            "PUT /x HTTP/1.1\r\nContent-Length:0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST /x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\n\n\r\0\r\n0A\r\n\
             0123456789\r\n000\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(passes(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn ambiguous_requests_are_spoiled() {
        for text in [
            "GET / HTTP/1.1\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\rb: c\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\n\tb\r\n\r\n",
            "\r\nGET / HTTP/1.1\r\n\r\n",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "PUT / HTTP/1.1\r\ncontent-length: 3, 3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\ncontent-length: +3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\ncontent-length:\r\n\r\nabc",
            "PUT / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\nabc",
            "PUT / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: other\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding:                                               \
             chunked\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\n\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n000000003\r\nabc\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n",
            "PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n\
             0\r\n\r\n",
        ] {
            assert!(!passes(text.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn every_head_is_counted_once() {
        let mut framing = Framing::default();
        let mut request = *b"PUT / HTTP/1.1\r\ncontent-length: 2\r\n\r\nab";
        assert!(framing.check(&mut request[..5]));
        assert!(!framing.check(&mut request[5..]));
        assert!(framing.check(&mut b"GET".to_owned()));
        let mut framing = Framing::default();
        let mut request =
            *b"PUT / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nG";
        let last = request.len() - 1;
        assert!(framing.check(&mut request[..9]) && !framing.check(&mut request[9..last]));
        assert!(framing.check(&mut request[last..]));
    }
}
