//! Request bodies: rate-limited, and exactly as long as announced.

use std::io::{self, Read};

use crate::mirror::http::limits::{CancelCheck, Limiter};

// In bytes. To retry a larger object, the client opens its source again.
/// Objects up to this size are sent from memory.
pub(super) const SMALL_OBJECT_BYTES: u64 = 1024 * 1024;

/// A body that can be sent again if the request is retried.
pub(super) enum Body<'b> {
    /// No body.
    None,
    /// The concatenation of these parts.
    Parts(Vec<&'b [u8]>),
    /// The given number of bytes from a reader.
    Stream(u64, OpenBody<'b>),
    /// All bytes of a reader whose length is not known in advance. Sent with chunked encoding.
    Chunks(OpenBody<'b>),
}

/// Opens the reader of a body, once per attempt.
pub(super) type OpenBody<'b> = &'b (dyn Fn() -> io::Result<Box<dyn Read + Send + 'b>> + Sync);

impl Body<'_> {
    /// The length of the body in bytes, if it is known in advance.
    pub(super) fn length(&self) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Parts(parts) => Some(parts.iter().map(|part| part.len() as u64).sum()),
            Self::Stream(length, _) => Some(*length),
            Self::Chunks(_) => None,
        }
    }

    pub(super) fn open<'o>(
        &'o self,
        limit: Option<&'o Limiter>,
        stop: CancelCheck<'o>,
    ) -> io::Result<OutgoingBody<'o>> {
        let source: Box<dyn Read + 'o> = match self {
            Self::None => Box::new(io::empty()),
            Self::Parts(parts) => Box::new(BodyParts { parts, at: 0 }),
            Self::Stream(_, open) | Self::Chunks(open) => open()?,
        };
        Ok(OutgoingBody { source, left: self.length(), limit, stop, sent: 0 })
    }
}

struct BodyParts<'p> {
    parts: &'p [&'p [u8]],
    at: usize,
}

impl Read for BodyParts<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.parts.first() {
            let rest = &part[self.at..];
            if rest.is_empty() {
                self.parts = &self.parts[1..];
                self.at = 0;
                continue;
            }
            let count = rest.len().min(out.len());
            out[..count].copy_from_slice(&rest[..count]);
            self.at += count;
            return Ok(count);
        }
        Ok(0)
    }
}

/// A body that is being sent.
pub(super) struct OutgoingBody<'o> {
    source: Box<dyn Read + 'o>,
    /// How many bytes of the announced length remain.
    left: Option<u64>,
    limit: Option<&'o Limiter>,
    stop: CancelCheck<'o>,
    sent: u64,
}

impl OutgoingBody<'_> {
    /// The number of bytes that were read from the body.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }
}

impl Read for OutgoingBody<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // No ureq timeout interrupts this reader, so the reader itself checks for a request to
        // stop.
        if (self.stop)() {
            return Err(io::Error::other("stopped"));
        }
        // Never more than announced: ureq fails on a longer body in the middle of the request.
        let most = self.limit.map_or(usize::MAX, Limiter::portion).min(out.len());
        let most = self
            .left
            .and_then(|left| usize::try_from(left).ok())
            .map_or(most, |left| most.min(left));
        let count = self.source.read(&mut out[..most])?;
        // If a body is shorter than its announced length, ureq keeps reading it forever.
        if count == 0 && self.left.is_some_and(|left| left > 0) && !out.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.map(|left| left - count as u64);
        self.sent += count as u64;
        match self.limit {
            Some(limit) if !limit.wait(count, self.stop) => Err(io::Error::other("stopped")),
            _ => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: CancelCheck<'_> = &|| false;

    fn read(body: &Body<'_>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        body.open(None, GO)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn body_parts_are_sent_in_order_each_time() {
        let body = Body::Parts(vec![b"ab", b"", b"cde"]);
        assert_eq!(body.length(), Some(5));
        for _ in 0..2 {
            assert_eq!(read(&body).unwrap(), b"abcde");
        }
    }

    #[test]
    fn stream_of_another_length_than_announced_fails() {
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(&b"12345"[..])) };
        assert_eq!(read(&Body::Stream(3, &open)).unwrap(), b"123");
        assert_eq!(read(&Body::Stream(6, &open)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn chunked_body_ends_with_its_source() {
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(&b"12345"[..])) };
        let body = Body::Chunks(&open);
        assert_eq!((body.length(), read(&body).unwrap()), (None, b"12345".to_vec()));
        let mut outgoing = body.open(None, GO).unwrap();
        outgoing.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(outgoing.sent(), 2);
    }

    #[test]
    fn cancelled_body_stops() {
        let body = Body::Parts(vec![b"abc"]);
        assert!(body.open(None, &|| true).unwrap().read(&mut [0; 3]).is_err());
    }
}
