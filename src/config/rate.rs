//! Rates: how many bytes are sent per second. Uses the crate `bytesize`.

use std::num::NonZeroU64;

use bytesize::ByteSize;

/// The string is not a valid rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseRateError {
    /// A number without a unit. Programs differ in the unit that they assume.
    #[error(
        "{number} has no unit: write {number}KiB for the rate that rsync would use, or {number}B \
         for bytes per second"
    )]
    NoUnit {
        /// The number.
        number: String,
    },
    /// Any other invalid string.
    #[error("{text:?} is not a rate: write bytes per second, such as 500kB or 2MB")]
    Other {
        /// The string.
        text: String,
    },
}

/// Parses a rate in bytes per second, such as `500kB`, `2MB` or `1 MiB`. A number needs a unit.
///
/// # Errors
/// Fails if the string has no unit or is not a rate.
pub fn parse_rate(text: &str) -> Result<NonZeroU64, ParseRateError> {
    let number = text.trim();
    if !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        // Zero is not a rate in any unit, so it gets the other message.
        && number != "0"
    {
        // rsync reads such a number as KiB, other programs as bytes: a factor of a thousand.
        return Err(ParseRateError::NoUnit { number: number.to_owned() });
    }
    let rate = text.parse::<ByteSize>().ok().and_then(|size| NonZeroU64::new(size.as_u64()));
    rate.ok_or_else(|| ParseRateError::Other { text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_requires_a_unit() {
        for (text, rate) in
            [("500B", 500), ("500kB", 500_000), ("2MB", 2_000_000), ("1 MiB", 1 << 20)]
        {
            assert_eq!(parse_rate(text).unwrap().get(), rate, "{text}");
        }
        for bad in ["", "0", "fast", "-1", "2MB/s", "0kB"] {
            assert!(matches!(parse_rate(bad), Err(ParseRateError::Other { .. })), "{bad}");
        }
    }

    #[test]
    fn number_without_a_unit_is_refused_with_both_readings() {
        let error = parse_rate("2000").unwrap_err().to_string();
        assert!(
            error.contains("2000KiB") && error.contains("2000B") && error.contains("rsync"),
            "{error}"
        );
        assert!(matches!(parse_rate("1.5"), Err(ParseRateError::NoUnit { .. })));
    }
}
