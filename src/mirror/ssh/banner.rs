//! Finds the banner of a receiver in what a login shell says before it.

use crate::wire::{BANNER, Banner};

/// So much noise is skipped, in bytes.
pub(super) const MAX_NOISE_BYTES: usize = 64 * 1024;
/// The longest banner, in bytes.
const MAX_BANNER_BYTES: usize = 1024 * 1024;
/// What the banner of any version begins with.
const ANY_VERSION: &str = "headwater receive ";

/// The line that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The banner.
    Banner(Banner),
    /// That of another version of the protocol.
    OtherVersion(String),
}

/// What has been heard so far, and what it means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing yet: read on.
    More,
    /// The banner.
    Line(Line),
    /// Too much noise, or something after the banner.
    Nonsense,
}

/// Looks at all that was read so far.
pub(super) fn look(heard: &[u8]) -> Heard {
    let Some(at) = memchr::memmem::find(heard, ANY_VERSION.as_bytes()) else {
        return if heard.len() > MAX_NOISE_BYTES { Heard::Nonsense } else { Heard::More };
    };
    let line = &heard[at..];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() > MAX_BANNER_BYTES || at > MAX_NOISE_BYTES { Heard::Nonsense } else { Heard::More };
    };
    // A receiver waits for the first request.
    if end + 1 < line.len() {
        return Heard::Nonsense;
    }
    let text = String::from_utf8_lossy(&line[..end]);
    let found = match text.strip_prefix(BANNER) {
        Some(json) => serde_json::from_str(json.trim_end()).ok().map(Line::Banner),
        None => text[ANY_VERSION.len()..].split(' ').next().map(|version| Line::OtherVersion(version.to_owned())),
    };
    found.map_or(Heard::Nonsense, Heard::Line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"headwater":"0.1.0","protocols":[1],"sites":[]}"#;

    fn banner() -> Line {
        Line::Banner(Banner { headwater: "0.1.0".into(), protocols: vec![1], sites: vec![] })
    }

    #[test]
    fn noise_before_the_banner_is_skipped() {
        let line = format!("headwater receive 1 {JSON}\n");
        for noise in ["", "Welcome!\n", "no line end", "a\nb\r\n\n"] {
            assert_eq!(look(format!("{noise}{line}").as_bytes()), Heard::Line(banner()), "{noise:?}");
        }
        for cut in 0..line.len() {
            assert_eq!(look(&line.as_bytes()[..cut]), Heard::More, "{cut}");
        }
    }

    #[test]
    fn what_is_no_banner_is_none() {
        assert_eq!(look(&vec![b'x'; MAX_NOISE_BYTES]), Heard::More);
        assert_eq!(look(&vec![b'x'; MAX_NOISE_BYTES + 1]), Heard::Nonsense);
        assert_eq!(look(b"headwater receive 1 nonsense\n"), Heard::Nonsense);
        assert_eq!(look(format!("headwater receive 1 {JSON}\nmore").as_bytes()), Heard::Nonsense);
        assert_eq!(look(b"headwater receive 2 {}\n"), Heard::Line(Line::OtherVersion("2".into())));
    }
}
