//! Identifiers. Every id is a newtype over a BLAKE3-256 digest (for a store or a history, over
//! random bytes) and is written in lower-case hexadecimal.
//!
//! This module computes and parses ids. It does not know what the ids identify.

mod pieces;

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use pieces::{PieceHash, PieceHashes};

/// The string is not an id in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of {expected} lower-case hexadecimal digits: {text:?}")]
pub struct ParseIdError {
    /// The number of digits of the id.
    pub expected: usize,
    /// The string, truncated to 80 characters.
    pub text: String,
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// The value of each hexadecimal digit; 0xff for every other byte.
const NIBBLES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[DIGITS[value as usize] as usize] = value;
        value += 1;
    }
    table
};

fn parse_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    // Manifests consist mostly of ids, so wrong digits are collected and checked once at the end.
    let (mut bytes, mut wrong) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]);
        wrong |= (high | low) & 0xf0;
        *byte = high << 4 | (low & 15);
    }
    (wrong == 0).then_some(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// The id with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Appends the lower-case hexadecimal form.
            pub fn push_hex(&self, out: &mut Vec<u8>) {
                push_hex(&self.0, out);
            }

            /// Parses lower-case hexadecimal digits. Accepts no other form.
            #[must_use]
            pub fn parse_hex(text: &[u8]) -> Option<Self> {
                parse_hex(text).map(Self)
            }

            /// The first 12 digits, which are enough for people to tell ids apart.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string()[..12].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut hex = Vec::with_capacity(2 * self.0.len());
                push_hex(&self.0, &mut hex);
                f.write_str(std::str::from_utf8(&hex).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Self::parse_hex(text.as_bytes()).ok_or_else(|| ParseIdError {
                    expected: 2 * $len,
                    text: text.chars().take(80).collect(),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// BLAKE3-256 of the uncompressed bytes of an object.
    ObjectId,
    32
);
id!(
    /// BLAKE3-256 of the canonical bytes of a manifest.
    ManifestId,
    32
);
id!(
    /// BLAKE3-256 of the canonical bytes of a release record.
    ReleaseId,
    32
);
id!(
    /// Identifies what visitors can fetch, without times: see `manifest/FORMAT.md`.
    ContentId,
    32
);
id!(
    /// BLAKE3-256 of a pack, without the digest in its end record.
    PackId,
    32
);
id!(
    /// Identifies an unfinished push: see `store/FORMAT.md`.
    BundleKey,
    32
);
id!(
    /// Random id of a store, generated when the store is created.
    StoreId,
    16
);

id!(
    /// Random id of a history, generated with its first release and copied to every later one.
    HistoryId,
    16
);

macro_rules! random_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// Generates an id from the operating system's random source.
            ///
            /// # Errors
            /// Fails if the random source is unavailable.
            pub fn random() -> io::Result<Self> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(io::Error::other)?;
                Ok(Self(bytes))
            }
        }
    )*};
}

random_id!(StoreId, HistoryId);

macro_rules! digest_of_bytes {
    ($($name:ident),*) => {$(
        impl $name {
            /// The id of these bytes.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// The id of all bytes that were passed to `hasher`.
            #[must_use]
            pub fn finish(hasher: &blake3::Hasher) -> Self {
                Self(*hasher.finalize().as_bytes())
            }
        }
    )*};
}

digest_of_bytes!(ObjectId, ManifestId, ReleaseId, ContentId, PackId, BundleKey);

/// Bytes per read while hashing: large enough to make the cost of system calls negligible, small
/// enough for a core's cache.
const READ_BYTES: usize = 256 * 1024;

/// Reads `reader` to its end. Returns the id and the number of bytes.
///
/// # Errors
/// The errors of `reader`.
pub fn hash_reader(mut reader: impl Read) -> io::Result<(ObjectId, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut total = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((ObjectId::finish(&hasher), total)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_form_round_trips_and_other_text_is_refused() {
        let id = ObjectId::of(b"");
        let text = id.to_string();
        assert_eq!(text, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(text.parse::<ObjectId>(), Ok(id));
        for wrong in ["", "af", &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")]
        {
            assert!(wrong.parse::<ObjectId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn reader_and_bytes_have_the_same_id() {
        let bytes = vec![7; READ_BYTES * 2 + 3];
        let (id, length) = hash_reader(&bytes[..]).unwrap();
        assert_eq!((id, length), (ObjectId::of(&bytes), bytes.len() as u64));
    }
}
