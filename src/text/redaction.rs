//! Removes secrets from text that came from elsewhere.
//!
//! A peer that received a token may send it back in an error, a page or a header. CI systems mask a
//! secret only in the exact form that they know, so they would show an escaped form. This protects
//! against echoes only, not against a peer that encodes the secret deliberately.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use super::is_invisible;

/// The text that replaces a secret.
const REDACTED: &str = "***";
/// Any part of a secret that has at least this many characters is replaced too, because the text
/// may have been truncated.
const MATCHED_PART_CHARS: usize = 12;
/// Minimum length of a secret in characters. A shorter one would match by accident.
const MIN_CHARS: usize = 6;
/// Minimum length, in characters, of a word after `Bearer` that counts as a token; twice that for a
/// word without a digit.
const MIN_BEARER_CHARS: usize = 8;
/// Maximum depth of nested escapes that are decoded.
const MAX_ESCAPE_DEPTH: usize = 4;

/// A filter that replaces known secrets, and other secrets that it recognizes by form: `hw_…`,
/// `Bearer …`, and a password in a URL.
#[derive(Clone, Default)]
pub struct Secrets {
    secrets: Vec<SecretParts>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(…)")
    }
}

/// A secret, as the set of all its substrings of one length.
#[derive(Clone)]
struct SecretParts {
    length: usize,
    parts: HashSet<Box<[char]>>,
}

/// A decoded character, and the range of bytes in the text that it comes from.
#[derive(Debug, Clone, Copy)]
struct DecodedChar {
    char: char,
    start: usize,
    end: usize,
}

impl Secrets {
    /// Creates a filter for these secrets. Only the secret part of a token counts, because its
    /// public name appears in messages.
    #[must_use]
    pub fn new<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Self {
        Self { secrets: secrets.into_iter().filter_map(SecretParts::new).collect() }
    }

    /// Replaces all secrets in the text.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.replace_found(text, |units| {
            [
                self.find_known(units),
                find_tokens(units),
                find_bearer_tokens(units),
                find_url_passwords(units),
            ]
            .concat()
        })
    }

    /// Replaces only the known secrets, not text that merely looks like a secret.
    #[must_use]
    pub fn redact_known<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.secrets.is_empty() {
            Cow::Borrowed(text)
        } else {
            self.replace_found(text, |units| self.find_known(units))
        }
    }

    fn replace_found<'t>(
        &self,
        text: &'t str,
        find: impl Fn(&[DecodedChar]) -> Vec<(usize, usize)>,
    ) -> Cow<'t, str> {
        let mut units = visible_chars(text);
        let mut found = find(&units);
        for _ in 0..MAX_ESCAPE_DEPTH {
            let Some(decoded) = decode_escapes(&units) else { break };
            units = decoded;
            found.extend(find(&units));
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_unstable();
        let (mut clean, mut at) = (String::with_capacity(text.len()), 0);
        for (start, end) in found {
            if start >= at {
                clean.push_str(&text[at..start]);
                // Adjacent secrets are replaced as one.
                if start > at || !clean.ends_with(REDACTED) {
                    clean.push_str(REDACTED);
                }
            }
            at = at.max(end);
        }
        clean.push_str(&text[at..]);
        Cow::Owned(clean)
    }

    fn find_known(&self, units: &[DecodedChar]) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        for secret in &self.secrets {
            let mut window = vec!['\0'; secret.length];
            for some in units.windows(secret.length) {
                window.iter_mut().zip(some).for_each(|(char, unit)| *char = unit.char);
                if secret.parts.contains(&window[..]) {
                    found.extend(span(some));
                }
            }
        }
        found
    }
}

impl SecretParts {
    fn new(secret: &str) -> Option<Self> {
        let secret: Vec<char> = secret.chars().map(|c| c.to_ascii_lowercase()).collect();
        let name = ['h', 'w', '_'].len() + 8;
        let is_token = secret.starts_with(&['h', 'w', '_']) && secret.get(name) == Some(&'_');
        let kept = if is_token { &secret[name + 1..] } else { &secret[..] };
        let kept = if kept.len() < MIN_CHARS { &secret[..] } else { kept };
        let length = kept.len().min(MATCHED_PART_CHARS);
        (length >= MIN_CHARS)
            .then(|| Self { length, parts: kept.windows(length).map(Into::into).collect() })
    }
}

fn span(units: &[DecodedChar]) -> Option<(usize, usize)> {
    Some((units.first()?.start, units.last()?.end))
}

/// The visible characters in a text, in lower case.
fn visible_chars(text: &str) -> Vec<DecodedChar> {
    let all = text.char_indices().filter(|(_, c)| !is_invisible(*c));
    all.map(|(start, c)| DecodedChar {
        char: c.to_ascii_lowercase(),
        start,
        end: start + c.len_utf8(),
    })
    .collect()
}

/// Decodes the escapes `%41`, `\u0041`, `\u{41}`, `\x41`, `\/`, `&#65;` and `&#x41;`. `None` if
/// there are none.
fn decode_escapes(units: &[DecodedChar]) -> Option<Vec<DecodedChar>> {
    let mut all = Vec::with_capacity(units.len());
    let mut rest = units;
    while let Some(first) = rest.first() {
        match parse_escape(rest) {
            Some((char, length)) => {
                let unit = DecodedChar {
                    char: char.to_ascii_lowercase(),
                    start: first.start,
                    end: rest[length - 1].end,
                };
                all.extend(Some(unit).filter(|unit| !is_invisible(unit.char)));
                rest = &rest[length..];
            }
            None => {
                all.push(*first);
                rest = &rest[1..];
            }
        }
    }
    (all.len() < units.len()).then_some(all)
}

/// The character of the escape at the start of `units`, and the length of the escape.
fn parse_escape(units: &[DecodedChar]) -> Option<(char, usize)> {
    let at = |place: usize| units.get(place).map(|unit| unit.char);
    let number = |from: usize, to: usize, radix: u32| {
        let digits: String = units.get(from..to)?.iter().map(|unit| unit.char).collect();
        char::from_u32(u32::from_str_radix(&digits, radix).ok()?)
    };
    let until = |from: usize, end: char| {
        units.iter().take(from + 8).skip(from).position(|unit| unit.char == end)
    };
    match (at(0)?, at(1)?) {
        ('%', _) => number(1, 3, 16).filter(char::is_ascii).map(|char| (char, 3)),
        ('\\', 'u') if at(2) == Some('{') => {
            let end = 3 + until(3, '}')?;
            number(3, end, 16).map(|char| (char, end + 1))
        }
        ('\\', 'u') => number(2, 6, 16).map(|char| (char, 6)),
        ('\\', 'x') => number(2, 4, 16).map(|char| (char, 4)),
        ('\\', char @ ('/' | '"' | '\\')) => Some((char, 2)),
        ('&', '#') if at(2) == Some('x') => {
            let end = 3 + until(3, ';')?;
            number(3, end, 16).map(|char| (char, end + 1))
        }
        ('&', '#') => {
            let end = 2 + until(2, ';')?;
            number(2, end, 10).map(|char| (char, end + 1))
        }
        _ => None,
    }
}

/// The positions of `mark`.
fn positions_of<'u>(
    units: &'u [DecodedChar],
    mark: &'static str,
) -> impl Iterator<Item = usize> + 'u {
    let length = mark.len();
    let is_there = move |some: &[DecodedChar]| some.iter().map(|unit| unit.char).eq(mark.chars());
    units.windows(length).enumerate().filter(move |(_, some)| is_there(some)).map(|(at, _)| at)
}

/// The longest prefix of `units` whose characters satisfy `is_part`.
fn prefix_while(units: &[DecodedChar], is_part: impl Fn(char) -> bool) -> &[DecodedChar] {
    &units[..units.iter().position(|unit| !is_part(unit.char)).unwrap_or(units.len())]
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// headwater's tokens: the prefix, a public name of 8 digits, and a secret part; or one long word.
fn find_tokens(units: &[DecodedChar]) -> Vec<(usize, usize)> {
    let token = |at: usize| {
        let word = prefix_while(&units[at..], is_word);
        let name = word
            .get(3..11)
            .is_some_and(|name| name.iter().all(|unit| unit.char.is_ascii_hexdigit()));
        let is_token = name && word.len() > 12 && word[11].char == '_' || word.len() > 24;
        span(word).filter(|_| is_token)
    };
    positions_of(units, "hw_").filter_map(token).collect()
}

fn find_bearer_tokens(units: &[DecodedChar]) -> Vec<(usize, usize)> {
    let bearer = |at: usize| {
        let rest = &units[at + "bearer".len()..];
        let rest = &rest[prefix_while(rest, |c| c == ' ' || c == '+').len()..];
        let word = prefix_while(rest, |c| is_word(c) || matches!(c, '.' | '~' | '+' | '/' | '='));
        let has_digit = word.iter().any(|unit| unit.char.is_ascii_digit());
        let needed = if has_digit { MIN_BEARER_CHARS } else { 2 * MIN_BEARER_CHARS };
        span(word).filter(|_| word.len() >= needed)
    };
    positions_of(units, "bearer").filter_map(bearer).collect()
}

/// The password in `scheme://user:password@host`.
fn find_url_passwords(units: &[DecodedChar]) -> Vec<(usize, usize)> {
    let password = |at: usize| {
        let rest = &units[at + "://".len()..];
        let place = prefix_while(rest, |c| !matches!(c, '/' | '?' | '#' | ' ' | '"'));
        let end = place.iter().rposition(|unit| unit.char == '@')?;
        let begin = place[..end].iter().position(|unit| unit.char == ':')?;
        span(&place[begin + 1..end])
    };
    positions_of(units, "://").filter_map(password).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "hw_0123abcd_5ec2e7aa00112233445566778899";

    fn spellings() -> Vec<String> {
        let each = |form: fn(char) -> String| TOKEN.chars().map(form).collect::<String>();
        vec![
            TOKEN.to_owned(),
            TOKEN.to_uppercase(),
            TOKEN[12..].to_owned(),
            TOKEN[20..].to_owned(),
            each(|c| format!("{c}\u{200b}")),
            each(|c| format!("{c}\n")),
            each(|c| format!("{c}\u{1b}")),
            each(|c| format!("%{:02x}", u32::from(c))),
            each(|c| format!("%25{:02X}", u32::from(c))),
            each(|c| format!("\\u{:04x}", u32::from(c))),
            each(|c| format!("\\u{{{:x}}}", u32::from(c))),
            each(|c| format!("\\x{:02x}", u32::from(c))),
            each(|c| format!("&#{};", u32::from(c))),
            each(|c| format!("&#x{:X};", u32::from(c))),
            each(|c| format!("{c}%e2%00\\u200b").replace("%e2", "")),
        ]
    }

    #[test]
    fn secret_is_hidden_in_every_encoding() {
        let secrets = Secrets::new([TOKEN]);
        for spelling in spellings() {
            let text = format!("é before {spelling} after");
            for clean in [secrets.redact(&text), secrets.redact_known(&text)] {
                assert!(
                    clean.contains("é before ") && clean.contains(" after"),
                    "{text} -> {clean}"
                );
                assert!(clean.contains(REDACTED), "{text} -> {clean}");
                assert!(!clean.to_lowercase().contains("5ec2e7aa"), "{text} -> {clean}");
            }
        }
    }

    #[test]
    fn likely_secrets_are_hidden_and_other_text_is_kept() {
        let clean = |text: &str| Secrets::default().redact(text).into_owned();
        for (text, cleaned) in [
            ("token hw_0123abcd_77 is bad", "token *** is bad"),
            ("hw_0123ABCD_x", "***"),
            ("Authorization: Bearer abc.DEF-123==, x", "Authorization: Bearer ***, x"),
            ("bearer+abcdefg1", "bearer+***"),
            (
                "at https://me:hush@h/x and ssh://me:a@b@h:22/",
                "at https://me:***@h/x and ssh://me:***@h:22/",
            ),
            ("https://me%3Ahush%40h", "https://me%3A***%40h"),
        ] {
            assert_eq!(clean(text), cleaned);
        }
        for text in [
            "hw_docs and hw_0123abcd are names",
            "WWW-Authenticate: Bearer realm=docs",
            "no Bearer token, bearer authentication",
            "https://h:8443/x@y and ssh://me@h/srv",
            "100% of 5\\6 &# é \u{200b}",
        ] {
            assert!(
                matches!(Secrets::default().redact(text), Cow::Borrowed(same) if same == text),
                "{}",
                clean(text)
            );
        }
        assert_eq!(Secrets::new(["x", ""]).redact("x is short"), "x is short");
        assert_eq!(format!("{:?}", Secrets::new([TOKEN])), "Secrets(…)");
    }
}
