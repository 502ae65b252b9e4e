//! File names without a bundler's content hash, which stay the same from build to build.

use crate::tree_path::TreePath;

/// The file name of `path` without its hash token, as the parts before and after the token. These
/// parts stay the same from build to build (`app..js` for `app.3fa9c1.js`).
#[must_use]
pub fn stable_name(path: &TreePath) -> (&str, &str) {
    let name = path.name();
    match hash_token(name) {
        Some((start, end)) => (&name[..start], &name[end..]),
        None => (name, ""),
    }
}

/// The start and end of the hash token in a file name, in bytes; `None` if there is none.
#[must_use]
pub fn hash_token(name: &str) -> Option<(usize, usize)> {
    let mut start = 0;
    for part in name.split(['.', '-', '_']) {
        if is_hash(part) {
            return Some((start, start + part.len()));
        }
        start += part.len() + 1;
    }
    None
}

/// Whether this part of a name looks like a bundler's hash: hexadecimal with a digit (webpack), or
/// letters in both cases with a digit (vite).
fn is_hash(part: &str) -> bool {
    let bytes = part.as_bytes();
    let has = |test: fn(&u8) -> bool| bytes.iter().any(test);
    let all = |test: fn(&u8) -> bool| bytes.iter().all(test);
    let hexadecimal = bytes.len() >= 6 && all(u8::is_ascii_hexdigit);
    let mixed = bytes.len() >= 8
        && all(u8::is_ascii_alphanumeric)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_uppercase);
    // Words such as `facade` are hexadecimal too, but a hash almost always contains a digit.
    (hexadecimal || mixed) && has(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_tokens_are_detected_and_words_are_not() {
        for (name, token) in [
            ("app.3fa9c1.js", Some("3fa9c1")),
            ("app-3FA9C1D2.chunk.js", Some("3FA9C1D2")),
            ("0123456789abcdef.css", Some("0123456789abcdef")),
            ("index-BfX2a9Qd.js", Some("BfX2a9Qd")),
            ("page_000123.html", Some("000123")),
            ("facade.js", None),
            ("v1.22.3.js", None),
            ("JavaScript.js", None),
            ("readme", None),
        ] {
            assert_eq!(hash_token(name).map(|(start, end)| &name[start..end]), token, "{name}");
        }
    }

    #[test]
    fn stable_name_has_no_hash_token() {
        let of = |text| stable_name(&TreePath::new(text).unwrap()).0.to_owned();
        let path = TreePath::new("a/app.3fa9c1.js").unwrap();
        assert_eq!(stable_name(&path), ("app.", ".js"));
        assert_eq!((of("a/README"), of("b/x.css")), ("README".into(), "x.css".into()));
    }
}
