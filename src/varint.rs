//! Unsigned LEB128 integers, the only number encoding in the binary formats (packs, manifest
//! deltas, the stat cache).
//!
//! Each number has one encoding: superfluous zero groups are refused, so a number is always written
//! back as the bytes that it was read from.

use std::io::{self, Read};

/// Largest time, size or count in any format. Some JSON readers cannot represent larger integers
/// exactly, and arithmetic with numbers up to this one does not overflow.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;
/// Maximum length of an encoded number in bytes.
pub const MAX_BYTES: usize = 10;

/// Appends `value` to `out`.
#[expect(clippy::cast_possible_truncation, reason = "the low seven bits are what is wanted")]
pub fn push(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn step(value: &mut u64, index: usize, byte: u8) -> io::Result<bool> {
    let last = index == MAX_BYTES - 1;
    if (last && byte > 1) || (index > 0 && byte == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "number is not canonical LEB128"));
    }
    *value |= u64::from(byte & 0x7f) << (7 * index);
    Ok(byte & 0x80 == 0)
}

/// Reads a number from the front of `input`, and moves `input` past it.
///
/// # Errors
/// `InvalidData` if the encoding is not the shortest or exceeds 64 bits, `UnexpectedEof` if it is
/// truncated.
pub fn take(input: &mut &[u8]) -> io::Result<u64> {
    let mut value = 0;
    for index in 0..MAX_BYTES {
        let (&byte, rest) = input.split_first().ok_or(io::ErrorKind::UnexpectedEof)?;
        *input = rest;
        if step(&mut value, index, byte)? {
            break;
        }
    }
    Ok(value)
}

/// Reads a number. Use a buffered reader, because this function reads one byte at a time.
///
/// # Errors
/// The errors of [`take`] and of `reader`.
pub fn read(reader: &mut impl Read) -> io::Result<u64> {
    let mut value = 0;
    for index in 0..MAX_BYTES {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        if step(&mut value, index, byte[0])? {
            break;
        }
    }
    Ok(value)
}

/// Reads a number that is a time, a size or a count.
///
/// # Errors
/// The errors of [`read`], and `InvalidData` for a number above [`MAX_NUMBER`].
pub fn read_bounded(reader: &mut impl Read) -> io::Result<u64> {
    match read(reader)? {
        value if value > MAX_NUMBER => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "number is not below 2^53"))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_power_of_two_round_trips() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = Vec::new();
                push(value, &mut bytes);
                assert!(bytes.len() <= MAX_BYTES);
                assert_eq!(read(&mut &bytes[..]).unwrap(), value);
                let mut input = &bytes[..];
                assert_eq!(take(&mut input).unwrap(), value);
                assert!(input.is_empty());
            }
        }
    }

    #[test]
    fn bounded_number_is_below_two_to_the_53rd() {
        let read_back = |value: u64| {
            let mut bytes = Vec::new();
            push(value, &mut bytes);
            read_bounded(&mut &bytes[..])
        };
        assert_eq!(read_back(MAX_NUMBER).unwrap(), MAX_NUMBER);
        for large in [MAX_NUMBER + 1, 1 << 63, u64::MAX] {
            assert_eq!(read_back(large).unwrap_err().kind(), io::ErrorKind::InvalidData, "{large}");
        }
    }

    #[test]
    fn other_encodings_overflow_and_truncation_are_refused() {
        for wrong in [&[0x80, 0x00][..], &[0xff; 10], &[0x80], &[], &[0x81, 0x80, 0x00]] {
            assert!(take(&mut &wrong[..]).is_err(), "{wrong:?}");
            assert!(read(&mut &wrong[..]).is_err(), "{wrong:?}");
        }
    }
}
