//! The request for block signatures, and the frames in the response.

use std::io::{self, Read};

use crate::hash::ManifestId;
use crate::pack::{Signature, SignatureKey, SignatureShape};
use crate::varint;

/// Maximum number of objects in one request.
pub const MAX_SIGNED_OBJECTS: usize = 16 * 1024;
/// Maximum total size of the objects in one request, in bytes. A single object may be larger.
// A receiver reads and hashes all of them, which takes about a second.
pub const MAX_SIGNED_BYTES: u64 = 1 << 30;

/// A request for the block signatures of files in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureRequest {
    /// The manifest.
    pub base: ManifestId,
    /// The key of the hashes.
    pub key: SignatureKey,
    /// For each file, its position among the manifest's entries, in ascending order, and the number
    /// of bits in the size of its new content.
    pub files: Vec<(u64, u8)>,
}

impl SignatureRequest {
    /// Maximum length of a request, in bytes.
    pub const MAX_BYTES: usize =
        Self::HEAD_BYTES + MAX_SIGNED_OBJECTS * (varint::MAX_BYTES + size_of::<u8>());
    const HEAD_BYTES: usize = 32 + SignatureKey::BYTES;

    /// Encodes the id, the key and, for each file, the number of entries since the previous file
    /// and the number of bits.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = [self.base.as_bytes().as_slice(), self.key.as_bytes()].concat();
        let mut next = 0;
        for (entry, new_bits) in &self.files {
            varint::push(entry - next, &mut bytes);
            bytes.push(*new_bits);
            next = entry + 1;
        }
        bytes
    }

    /// Decodes a request. `None` if it is malformed or has more than [`MAX_SIGNED_OBJECTS`] files.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (base, rest) = bytes.split_first_chunk::<32>()?;
        let (key, mut rest) = rest.split_first_chunk::<{ SignatureKey::BYTES }>()?;
        let (mut asked, mut next) = (Vec::new(), 0u64);
        while !rest.is_empty() {
            let entry = next.checked_add(varint::take(&mut rest).ok()?)?;
            let new_bits;
            (new_bits, rest) = rest.split_first()?;
            if entry > varint::MAX_NUMBER || *new_bits > 64 || asked.len() == MAX_SIGNED_OBJECTS {
                return None;
            }
            asked.push((entry, *new_bits));
            next = entry + 1;
        }
        let (base, key) = (ManifestId::from_bytes(*base), SignatureKey::from_bytes(*key));
        Some(Self { base, key, files: asked })
    }
}

/// Reads the next frame in a response: the signature of an object, or `None` if the mirror does not
/// have the object.
///
/// # Errors
/// `InvalidData` if the frame is malformed, or an error from `reader`.
pub fn read_signature(
    reader: &mut impl Read,
    shape: SignatureShape,
) -> io::Result<Option<Signature>> {
    let mut is_here = [0];
    reader.read_exact(&mut is_here)?;
    match is_here {
        [0] => Ok(None),
        [1] => {
            // Not allocated in advance: memory use grows with what arrives.
            let mut hashes = Vec::new();
            reader.take(shape.bytes()).read_to_end(&mut hashes)?;
            let signature = Signature::decode(shape, hashes);
            signature.map(Some).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(asked: Vec<(u64, u8)>) -> SignatureRequest {
        let key = SignatureKey::from_bytes(*b"some key");
        SignatureRequest { base: ManifestId::of(b"base"), key, files: asked }
    }

    #[test]
    fn request_round_trips() {
        for asked in [vec![], vec![(0, 0)], vec![(5, 20), (6, 64), (1 << 50, 1)]] {
            let question = question(asked);
            assert_eq!(SignatureRequest::decode(&question.encode()), Some(question));
        }
        assert_eq!(question(vec![(0, 9), (3, 10)]).encode()[40..], [0, 9, 2, 10]);
    }

    #[test]
    fn invalid_request_is_none() {
        let bytes = question(vec![(5, 20), (6, 64)]).encode();
        for length in [0, 31, 39, 41, 43] {
            assert_eq!(SignatureRequest::decode(&bytes[..length]), None, "{length} bytes");
        }
        let with = |tail: &[u8]| SignatureRequest::decode(&[&bytes[..40], tail].concat());
        assert_eq!(with(&[0, 65]), None);
        assert_eq!(with(&[0x80, 0, 1]), None);
        assert_eq!(with(&[&[0xff; 9][..], &[1, 1]].concat()), None);
        let most = (0..MAX_SIGNED_OBJECTS as u64).map(|entry| (entry, 20)).collect();
        let mut most = question(most).encode();
        assert!(SignatureRequest::decode(&most).is_some());
        most.extend([0, 20]);
        assert_eq!(SignatureRequest::decode(&most), None);
    }

    #[test]
    fn frame_has_a_signature_or_none() {
        let shape = SignatureShape::new(5000, 13);
        let key = question(Vec::new()).key;
        let signature = Signature::of(&[3; 5000], shape, key);
        let bytes = [&[1][..], signature.encode(), &[0, 2]].concat();
        let mut reader = &bytes[..];
        let mut next = || read_signature(&mut reader, shape).map_err(|error| error.kind());
        assert_eq!((next(), next()), (Ok(Some(signature)), Ok(None)));
        assert_eq!(
            (next(), next()),
            (Err(io::ErrorKind::InvalidData), Err(io::ErrorKind::UnexpectedEof))
        );
        let cut = read_signature(&mut &bytes[..8], shape);
        assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
