//! Queries about objects: which objects a mirror has, and parts of their content.

use serde::{Deserialize, Serialize};

use crate::hash::ObjectId;

/// A requested part of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectPart {
    /// The object.
    pub object: ObjectId,
    /// The offset of the first byte.
    pub offset: u64,
    /// The number of bytes.
    pub length: u64,
}

impl ObjectPart {
    /// Length of an encoded part in a request, in bytes.
    pub const BYTES: usize = 32 + 8 + 8;

    /// Encodes the id, the offset and the length. The numbers are big-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..32].copy_from_slice(self.object.as_bytes());
        bytes[32..40].copy_from_slice(&self.offset.to_be_bytes());
        bytes[40..].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Decodes a part. Every sequence of 48 bytes is a valid part.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |at: usize| {
            bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let (id, _) = bytes.split_first_chunk::<32>().expect("it is longer");
        Self { object: ObjectId::from_bytes(*id), offset: number(32), length: number(40) }
    }
}

/// Which of the requested objects a mirror has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldObjects {
    /// One bit for each object, as hexadecimal digits. The bits are in the order of the request,
    /// and the lowest bit of a byte comes first.
    // A JSON list of `true` and `false` would be about twenty times as long.
    pub bits: String,
}

impl HeldObjects {
    /// Encodes one bit for each object.
    #[must_use]
    pub fn of(held: &[bool]) -> Self {
        let byte = |eight: &[bool]| {
            (0..).zip(eight).fold(0u8, |byte, (bit, held)| byte | u8::from(*held) << bit)
        };
        Self { bits: held.chunks(8).map(|eight| format!("{:02x}", byte(eight))).collect() }
    }

    /// Decodes the bits of `count` objects. Returns `None` if the string is malformed or has a
    /// different length.
    #[must_use]
    pub fn decode(&self, count: usize) -> Option<Vec<bool>> {
        let is_hex = self.bits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || self.bits.len() != 2 * count.div_ceil(8) {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(&self.bits[2 * at..2 * at + 2], 16).ok();
        let mut held = Vec::with_capacity(8 * count.div_ceil(8));
        for at in 0..count.div_ceil(8) {
            let byte = byte(at)?;
            held.extend((0..8).map(|bit| byte >> bit & 1 == 1));
        }
        // The unused bits of the last byte must be 0.
        held.split_off(count).iter().all(|held| !held).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_round_trips() {
        let part = ObjectPart { object: ObjectId::of(b"a"), offset: 1 << 40 | 7, length: 300 };
        assert_eq!(ObjectPart::from_bytes(&part.to_bytes()), part);
        assert_eq!(part.to_bytes()[32..], [0, 0, 1, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 44]);
    }

    #[test]
    fn held_objects_round_trip() {
        for count in [0, 1, 7, 8, 9, 1000] {
            let held: Vec<bool> = (0..count).map(|index| index % 3 == 0).collect();
            assert_eq!(HeldObjects::of(&held).decode(count), Some(held));
        }
        assert_eq!(HeldObjects::of(&[true, false, true]).bits, "05");
    }

    #[test]
    fn response_of_another_length_or_encoding_is_none() {
        let read = |bits: &str, count| HeldObjects { bits: bits.to_owned() }.decode(count);
        for (bits, count) in
            [("", 1), ("0", 1), ("0000", 8), ("00", 9), ("08", 3), ("0F", 8), ("+1", 8), ("é", 8)]
        {
            assert_eq!(read(bits, count), None, "{bits} of {count}");
        }
        assert_eq!(read("07", 3), Some(vec![true; 3]));
    }
}
