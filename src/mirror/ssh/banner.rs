//! Finds the banner of a receiver in output that may begin with the output of a login shell.

use crate::protocol::{BANNER, Banner};

/// The maximum number of bytes to skip before the banner.
pub(super) const MAX_NOISE_BYTES: usize = 64 * 1024;
/// The longest banner, in bytes.
const MAX_BANNER_BYTES: usize = 1024 * 1024;
/// The beginning of a banner of any protocol version.
const ANY_VERSION: &str = "headwater receive ";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum BannerLine {
    /// A banner of a known protocol version.
    Banner(Banner),
    /// A banner of an unknown protocol version.
    OtherVersion(String),
}

/// The result of a scan for the banner.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BannerScan {
    /// There is no complete banner yet: read on.
    Incomplete,
    /// The banner.
    Line(BannerLine),
    /// Too much output before the banner, a malformed banner, or output after it.
    Malformed,
}

/// Scans all output so far for the banner.
pub(super) fn scan(output: &[u8]) -> BannerScan {
    // Searches for any version, so that an unknown version is reported as such, not as a missing
    // banner.
    let Some(at) = memchr::memmem::find(output, ANY_VERSION.as_bytes()) else {
        return if output.len() > MAX_NOISE_BYTES {
            BannerScan::Malformed
        } else {
            BannerScan::Incomplete
        };
    };
    let line = &output[at..];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() > MAX_BANNER_BYTES || at > MAX_NOISE_BYTES {
            BannerScan::Malformed
        } else {
            BannerScan::Incomplete
        };
    };
    // A receiver sends nothing after the banner before the first request.
    if end + 1 < line.len() {
        return BannerScan::Malformed;
    }
    let text = String::from_utf8_lossy(&line[..end]);
    let found = match text.strip_prefix(BANNER) {
        Some(json) => serde_json::from_str(json.trim_end()).ok().map(BannerLine::Banner),
        None => text[ANY_VERSION.len()..]
            .split(' ')
            .next()
            .map(|version| BannerLine::OtherVersion(version.to_owned())),
    };
    found.map_or(BannerScan::Malformed, BannerScan::Line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"headwater":"0.1.0","protocols":[1],"sites":[]}"#;

    fn banner() -> BannerLine {
        BannerLine::Banner(Banner { headwater: "0.1.0".into(), protocols: vec![1], sites: vec![] })
    }

    #[test]
    fn noise_before_the_banner_is_skipped() {
        let line = format!("headwater receive 1 {JSON}\n");
        for noise in ["", "Welcome!\n", "no line end", "a\nb\r\n\n"] {
            assert_eq!(
                scan(format!("{noise}{line}").as_bytes()),
                BannerScan::Line(banner()),
                "{noise:?}"
            );
        }
        for cut in 0..line.len() {
            assert_eq!(scan(&line.as_bytes()[..cut]), BannerScan::Incomplete, "{cut}");
        }
    }

    #[test]
    fn invalid_banner_is_none() {
        assert_eq!(scan(&vec![b'x'; MAX_NOISE_BYTES]), BannerScan::Incomplete);
        assert_eq!(scan(&vec![b'x'; MAX_NOISE_BYTES + 1]), BannerScan::Malformed);
        assert_eq!(scan(b"headwater receive 1 nonsense\n"), BannerScan::Malformed);
        assert_eq!(
            scan(format!("headwater receive 1 {JSON}\nmore").as_bytes()),
            BannerScan::Malformed
        );
        assert_eq!(
            scan(b"headwater receive 2 {}\n"),
            BannerScan::Line(BannerLine::OtherVersion("2".into()))
        );
    }
}
