//! The canonical JSON lines of a manifest, written and read as a stream.
//!
//! Each entry has exactly one spelling, and the reader accepts only that: exactly the bytes that
//! the writer would write. A property test checks both against `serde_json`.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::ManifestReader;
pub use writer::ManifestWriter;

use crate::hash::{ContentId, ManifestId, ObjectId};
use crate::manifest::ManifestError;
use crate::manifest::entry::{Entry, EntryKind, FileEntry};
use crate::tree_path::{LinkTarget, TreePath};
use crate::varint::MAX_NUMBER;

const HEADER: &[u8] = b"{\"headwater\":\"manifest\",\"version\":1}\n";
/// Maximum number of entries in a manifest: enough for the largest trees in use, and a bound on
/// input from peers.
pub const MAX_ENTRIES: u64 = 16_000_000;
/// Maximum length of a line in bytes: two strings of 1,024 bytes in which every character is
/// escaped, and the other fields.
// A line that is too long is refused before it is complete, so a peer that sends no line feed
// cannot exhaust the memory.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// How many bytes are read, hashed or written at a time.
const CHUNK_BYTES: usize = 128 * 1024;

/// Totals that the writer counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The id of the manifest.
    pub manifest: ManifestId,
    /// The content id of the live entries.
    pub content: ContentId,
    /// Number of entries, live and retired.
    pub entries: u64,
    /// Number of retired entries.
    pub retired: u64,
    /// Total size of all live files in bytes.
    pub bytes: u64,
    /// The earliest `until` of a retired entry.
    pub until: Option<u64>,
}

/// Refuses paths that are out of order or lie below a file.
///
/// In byte order, `a-x` is between `a` and `a/b`, so comparing with the last path is not enough.
/// The guard therefore keeps the lengths of all earlier paths that are prefixes of the last one.
#[derive(Debug, Default)]
struct OrderGuard {
    last: String,
    prefixes: Vec<usize>,
    count: u64,
}

impl OrderGuard {
    fn check(&mut self, path: &TreePath) -> Result<(), ManifestError> {
        let text = path.as_str();
        if self.count > 0 && *text <= *self.last {
            return Err(ManifestError::Order { path: text.to_owned() });
        }
        // Only prefixes of the last path matter: paths are in order, so nothing below another
        // earlier path can follow.
        let common = self.last.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        self.prefixes.retain(|&length| length <= common);
        if self.count > 0 && self.last.len() == common {
            self.prefixes.push(common);
        }
        if self.prefixes.iter().any(|&length| text.as_bytes()[length] == b'/') {
            return Err(ManifestError::BelowFile { path: text.to_owned() });
        }
        self.last.clear();
        self.last.push_str(text);
        self.count += 1;
        if self.count > MAX_ENTRIES { Err(ManifestError::TooManyEntries) } else { Ok(()) }
    }
}

fn push_number(key: &str, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
    // Does not use `format!`, which allocates: a manifest with a million entries contains two
    // million numbers.
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

// Paths and targets contain no control characters or backslashes, so only quotes need escaping.
fn push_text(text: &str, out: &mut Vec<u8>) {
    if memchr::memchr(b'"', text.as_bytes()).is_none() {
        return out.extend_from_slice(text.as_bytes());
    }
    for (index, part) in text.split('"').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\\\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
}

/// Appends the canonical line of `entry`, including its line feed.
pub fn push_entry_line(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"path\":\"");
    push_text(entry.path.as_str(), out);
    match &entry.kind {
        EntryKind::File(file) => {
            push_number("\",\"size\":", file.size, out);
            out.extend_from_slice(b",\"object\":\"");
            file.object.push_hex(out);
            push_number("\",\"mtime\":", file.mtime, out);
            if file.exec {
                out.extend_from_slice(b",\"exec\":true");
            }
        }
        EntryKind::Symlink(target) => {
            out.extend_from_slice(b"\",\"symlink\":\"");
            push_text(target.as_str(), out);
            out.push(b'"');
        }
    }
    if let Some(until) = entry.until {
        push_number(",\"until\":", until, out);
    }
    out.extend_from_slice(b"}\n");
}

struct LineParser<'a> {
    rest: &'a [u8],
    line: u64,
}

impl<'a> LineParser<'a> {
    fn fail(&self, what: &'static str) -> ManifestError {
        ManifestError::Line { line: self.line, what }
    }

    fn accept(&mut self, token: &[u8]) -> bool {
        let found = self.rest.strip_prefix(token);
        if let Some(rest) = found {
            self.rest = rest;
        }
        found.is_some()
    }

    fn expect(&mut self, token: &'static [u8], what: &'static str) -> Result<(), ManifestError> {
        if self.accept(token) { Ok(()) } else { Err(self.fail(what)) }
    }

    /// Reads a string up to and including its closing quote.
    fn text(&mut self) -> Result<std::borrow::Cow<'a, str>, ManifestError> {
        let mut unescaped: Option<Vec<u8>> = None;
        let mut from = 0;
        loop {
            let end = memchr::memchr2(b'"', b'\\', &self.rest[from..]);
            let at = end.ok_or_else(|| self.fail("a text has no end"))? + from;
            if self.rest[at] == b'"' {
                let raw = &self.rest[..at];
                self.rest = &self.rest[at + 1..];
                let not_utf8 =
                    || ManifestError::Line { line: self.line, what: "a string is not UTF-8" };
                // A string without escapes, as nearly all are, is borrowed.
                return match unescaped {
                    None => std::str::from_utf8(raw).map(Into::into).map_err(|_| not_utf8()),
                    Some(mut text) => {
                        text.extend_from_slice(&raw[from..]);
                        String::from_utf8(text).map(Into::into).map_err(|_| not_utf8())
                    }
                };
            }
            // The writer escapes nothing else, so any other escape would be a second spelling.
            if self.rest.get(at + 1) != Some(&b'"') {
                return Err(self.fail("only the quote is escaped"));
            }
            let text = unescaped.get_or_insert_default();
            text.extend_from_slice(&self.rest[from..at]);
            text.push(b'"');
            from = at + 2;
        }
    }

    fn number(&mut self) -> Result<u64, ManifestError> {
        // Reads one digit more than a valid number has: enough to refuse the number, too few to
        // overflow.
        let digits = self.rest.iter().take(17).take_while(|byte| byte.is_ascii_digit()).count();
        let (text, rest) = self.rest.split_at(digits);
        let canonical = digits > 0 && digits <= 16 && (digits == 1 || text[0] != b'0');
        let value = text.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        if !canonical || value > MAX_NUMBER {
            return Err(self.fail("a number is not a plain integer below 2^53"));
        }
        self.rest = rest;
        Ok(value)
    }

    fn object(&mut self) -> Result<ObjectId, ManifestError> {
        let id = self
            .rest
            .get(..64)
            // Lower case only: upper case would be a second spelling.
            .and_then(ObjectId::parse_hex)
            .ok_or_else(|| self.fail("not an object id"))?;
        self.rest = &self.rest[64..];
        Ok(id)
    }

    fn entry(&mut self) -> Result<Entry, ManifestError> {
        self.expect(b"{\"path\":\"", "an entry begins with its path")?;
        let path = self.text()?;
        let path =
            TreePath::new(&path).map_err(|fault| ManifestError::Path { line: self.line, fault })?;
        // The keys have a fixed order, so the next key shows the kind of entry.
        let kind = if self.accept(b",\"symlink\":\"") {
            let target = self.text()?;
            let target =
                LinkTarget::new(&target).and_then(|target| target.check_at(&path).map(|()| target));
            EntryKind::Symlink(
                target.map_err(|fault| ManifestError::Path { line: self.line, fault })?,
            )
        } else {
            self.expect(b",\"size\":", "size follows path")?;
            let size = self.number()?;
            self.expect(b",\"object\":\"", "object follows size")?;
            let object = self.object()?;
            self.expect(b"\",\"mtime\":", "mtime follows object")?;
            let mtime = self.number()?;
            let exec = self.accept(b",\"exec\":true");
            EntryKind::File(FileEntry { object, size, mtime, exec })
        };
        let until = if self.accept(b",\"until\":") { Some(self.number()?) } else { None };
        self.expect(b"}", "the entry ends")?;
        // Anything after the closing brace, such as a space, would be a second spelling.
        if self.rest.is_empty() {
            Ok(Entry { path, kind, until })
        } else {
            Err(self.fail("the line ends"))
        }
    }
}

/// Parses an entry from its canonical line, without the line feed. `line` is the line number for
/// errors.
///
/// # Errors
/// [`ManifestError::Line`] or [`ManifestError::Path`].
pub fn parse_entry_line(text: &[u8], line: u64) -> Result<Entry, ManifestError> {
    LineParser { rest: text, line }.entry()
}
