//! Bodies on their way out: sent at the pace that is allowed, never shorter
//! or longer than announced.

use std::io::{self, Read};

use crate::mirror::http::pace::{Limiter, Stop};

/// Objects up to this size are sent from memory.
pub(super) const SMALL: u64 = 1024 * 1024;

/// A body that can be sent as often as need be.
pub(super) enum Body<'b> {
    /// None.
    None,
    /// These bytes, one after the other.
    Parts(Vec<&'b [u8]>),
    /// So many bytes of what this opens.
    Stream(u64, &'b (dyn Fn() -> io::Result<Box<dyn Read + Send + 'b>> + Sync)),
}

impl Body<'_> {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Parts(parts) => parts.iter().map(|part| part.len() as u64).sum(),
            Self::Stream(length, _) => *length,
        }
    }

    /// Opens it from the first byte on.
    pub(super) fn open<'o>(&'o self, limit: Option<&'o Limiter>, stop: Stop<'o>) -> io::Result<Outgoing<'o>> {
        let source: Box<dyn Read + 'o> = match self {
            Self::None => Box::new(io::empty()),
            Self::Parts(parts) => Box::new(Parts { parts, at: 0 }),
            Self::Stream(_, open) => open()?,
        };
        Ok(Outgoing { source, left: self.len(), limit, stop })
    }
}

struct Parts<'p> {
    parts: &'p [&'p [u8]],
    at: usize,
}

impl Read for Parts<'_> {
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
pub(super) struct Outgoing<'o> {
    source: Box<dyn Read + 'o>,
    left: u64,
    limit: Option<&'o Limiter>,
    stop: Stop<'o>,
}

impl Read for Outgoing<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(io::Error::other("stopped"));
        }
        let most = self.limit.map_or(usize::MAX, Limiter::portion).min(out.len());
        let most = usize::try_from(self.left).map_or(most, |left| most.min(left));
        let count = self.source.read(&mut out[..most])?;
        // An agent that is given less than was announced asks for the rest, for ever.
        if count == 0 && self.left > 0 && !out.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        match self.limit {
            Some(limit) if !limit.wait(count, self.stop) => Err(io::Error::other("stopped")),
            _ => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO: Stop<'_> = &|| false;

    fn read(body: &Body<'_>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        body.open(None, GO)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn parts_come_one_after_the_other_each_time() {
        let body = Body::Parts(vec![b"ab", b"", b"cde"]);
        assert_eq!(body.len(), 5);
        for _ in 0..2 {
            assert_eq!(read(&body).unwrap(), b"abcde");
        }
    }

    #[test]
    fn a_stream_is_neither_shorter_nor_longer_than_announced() {
        let open = || -> io::Result<Box<dyn Read + Send>> { Ok(Box::new(&b"12345"[..])) };
        assert_eq!(read(&Body::Stream(3, &open)).unwrap(), b"123");
        assert_eq!(read(&Body::Stream(6, &open)).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_body_ends_when_told_to_stop() {
        let body = Body::Parts(vec![b"abc"]);
        assert!(body.open(None, &|| true).unwrap().read(&mut [0; 3]).is_err());
    }
}
