//! The canonical JSON lines of a manifest, written and read as a stream.
//!
//! There is exactly one spelling of each entry, so the reader is a parser of
//! that spelling alone: what it accepts, the writer would write byte for byte
//! (a property test holds both to it, against `serde_json`).

use std::io::{Read, Write};
use std::mem;

use crate::hash::{ContentId, ManifestId, ObjectId};
use crate::manifest::ManifestError;
use crate::manifest::content::ContentHasher;
use crate::manifest::entry::{Entry, FileEntry, Kind};
use crate::tree_path::{LinkTarget, TreePath};

const HEADER: &[u8] = b"{\"headwater\":\"manifest\",\"version\":1}\n";
/// Entries of one manifest: room for the largest trees people serve, a bound for what arrives.
pub const MAX_ENTRIES: u64 = 16_000_000;
/// Two texts of 1,024 bytes in which every byte is escaped, and the fields around them.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Bytes read, hashed and written at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// Larger integers are not exact in every JSON reader.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// What the writer counted on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// The id of the manifest.
    pub manifest: ManifestId,
    /// The id of what its live entries show.
    pub content: ContentId,
    /// Live and retired entries.
    pub entries: u64,
    /// Retired entries.
    pub retired: u64,
    /// Sum of the sizes of the live files, in bytes.
    pub bytes: u64,
    /// The earliest time at which a retired entry is due to go.
    pub until: Option<u64>,
}

/// Refuses paths that are not ascending or lie below a file.
///
/// Byte order puts `a-x` between `a` and `a/b`, so the last path alone does
/// not tell; kept are the lengths of all earlier paths that begin the last one.
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
        if self.count > MAX_ENTRIES { Err(ManifestError::TooMany) } else { Ok(()) }
    }
}

fn push_number(key: &str, value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(key.as_bytes());
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

// Paths and targets have no control characters and no backslash: the quote is all there is to escape.
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

/// Appends the canonical line of `entry`, with its line feed.
pub fn push_entry_line(entry: &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"path\":\"");
    push_text(entry.path.as_str(), out);
    match &entry.kind {
        Kind::File(file) => {
            push_number("\",\"size\":", file.size, out);
            out.extend_from_slice(b",\"object\":\"");
            file.object.push_hex(out);
            push_number("\",\"mtime\":", file.mtime, out);
            if file.exec {
                out.extend_from_slice(b",\"exec\":true");
            }
        }
        Kind::Symlink(target) => {
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

struct Cursor<'a> {
    rest: &'a [u8],
    line: u64,
}

impl<'a> Cursor<'a> {
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

    /// The text up to the closing quote, which is taken too.
    fn text(&mut self) -> Result<std::borrow::Cow<'a, str>, ManifestError> {
        let mut unescaped: Option<Vec<u8>> = None;
        let mut from = 0;
        loop {
            let end = memchr::memchr2(b'"', b'\\', &self.rest[from..]);
            let at = end.ok_or_else(|| self.fail("a text has no end"))? + from;
            if self.rest[at] == b'"' {
                let raw = &self.rest[..at];
                self.rest = &self.rest[at + 1..];
                let not_utf8 = || ManifestError::Line { line: self.line, what: "a text is not UTF-8" };
                return match unescaped {
                    None => std::str::from_utf8(raw).map(Into::into).map_err(|_| not_utf8()),
                    Some(mut text) => {
                        text.extend_from_slice(&raw[from..]);
                        String::from_utf8(text).map(Into::into).map_err(|_| not_utf8())
                    }
                };
            }
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
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (text, rest) = self.rest.split_at(digits);
        let canonical = digits > 0 && digits <= 16 && (digits == 1 || text[0] != b'0');
        let value = text.iter().fold(0u64, |value, digit| value.wrapping_mul(10) + u64::from(digit - b'0'));
        if !canonical || value > MAX_NUMBER {
            return Err(self.fail("a number is not a plain integer below 2^53"));
        }
        self.rest = rest;
        Ok(value)
    }

    fn object(&mut self) -> Result<ObjectId, ManifestError> {
        let id = self.rest.get(..64).and_then(ObjectId::parse_hex).ok_or_else(|| self.fail("no object id"))?;
        self.rest = &self.rest[64..];
        Ok(id)
    }

    fn entry(&mut self) -> Result<Entry, ManifestError> {
        self.expect(b"{\"path\":\"", "an entry begins with its path")?;
        let path = self.text()?;
        let path = TreePath::new(&path).map_err(|fault| ManifestError::Path { line: self.line, fault })?;
        let kind = if self.accept(b",\"symlink\":\"") {
            let target = self.text()?;
            let target = LinkTarget::new(&target).and_then(|target| target.check_at(&path).map(|()| target));
            Kind::Symlink(target.map_err(|fault| ManifestError::Path { line: self.line, fault })?)
        } else {
            self.expect(b",\"size\":", "size follows path")?;
            let size = self.number()?;
            self.expect(b",\"object\":\"", "object follows size")?;
            let object = self.object()?;
            self.expect(b"\",\"mtime\":", "mtime follows object")?;
            let mtime = self.number()?;
            let exec = self.accept(b",\"exec\":true");
            Kind::File(FileEntry { object, size, mtime, exec })
        };
        let until = if self.accept(b",\"until\":") { Some(self.number()?) } else { None };
        self.expect(b"}", "the entry ends")?;
        if self.rest.is_empty() { Ok(Entry { path, kind, until }) } else { Err(self.fail("the line ends")) }
    }
}

/// Reads one entry from its canonical line, given without its line feed;
/// `line` is its number for errors.
///
/// # Errors
/// [`ManifestError::Line`] or [`ManifestError::Path`].
pub fn parse_entry_line(text: &[u8], line: u64) -> Result<Entry, ManifestError> {
    Cursor { rest: text, line }.entry()
}

/// Writes a manifest, entry by entry.
#[derive(Debug)]
pub struct ManifestWriter<W> {
    out: W,
    buffer: Vec<u8>,
    hasher: blake3::Hasher,
    content: ContentHasher,
    order: OrderGuard,
    retired: u64,
    bytes: u64,
    until: Option<u64>,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest on `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: HEADER.to_vec(),
            hasher: blake3::Hasher::new(),
            content: ContentHasher::default(),
            order: OrderGuard::default(),
            retired: 0,
            bytes: 0,
            until: None,
        }
    }

    /// Writes the next entry.
    ///
    /// # Errors
    /// An entry out of order or below a file, a number over 2^53, or an error of the writer below.
    pub fn push(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        self.order.check(&entry.path)?;
        match &entry.kind {
            Kind::File(file) => {
                if file.size.max(file.mtime).max(entry.until.unwrap_or(0)) > MAX_NUMBER {
                    let what = "a number is not a plain integer below 2^53";
                    return Err(ManifestError::Line { line: self.order.count + 1, what });
                }
                if entry.is_live() {
                    self.bytes = self.bytes.saturating_add(file.size);
                }
            }
            Kind::Symlink(target) => target
                .check_at(&entry.path)
                .map_err(|fault| ManifestError::Path { line: self.order.count + 1, fault })?,
        }
        if let Some(until) = entry.until {
            self.retired += 1;
            self.until = Some(self.until.map_or(until, |earliest| earliest.min(until)));
        }
        self.content.push(entry);
        push_entry_line(entry, &mut self.buffer);
        if self.buffer.len() >= CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ManifestError> {
        self.hasher.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the manifest; gives back the writer below, not flushed.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn finish(mut self) -> Result<(W, Totals), ManifestError> {
        self.flush()?;
        let totals = Totals {
            manifest: ManifestId::finish(&self.hasher),
            content: self.content.finish(),
            entries: self.order.count,
            retired: self.retired,
            bytes: self.bytes,
            until: self.until,
        };
        Ok((self.out, totals))
    }
}

/// Reads a manifest, entry by entry, and refuses what is not canonical.
///
/// Until the last entry was read nothing tells that the manifest is the one
/// that was asked for: a wrong id shows as an error in place of the end.
#[derive(Debug)]
pub struct ManifestReader<R> {
    input: R,
    buffer: Vec<u8>,
    /// The part of `buffer` not yet parsed.
    start: usize,
    hasher: blake3::Hasher,
    order: OrderGuard,
    expected: Option<ManifestId>,
    is_done: bool,
}

impl<R: Read> ManifestReader<R> {
    /// Begins to read; with `expected`, the id is checked at the end.
    ///
    /// # Errors
    /// A header that is none, or of a newer version, or an error of `input`.
    pub fn new(input: R, expected: Option<ManifestId>) -> Result<Self, ManifestError> {
        let mut reader = Self {
            input,
            buffer: Vec::new(),
            start: 0,
            hasher: blake3::Hasher::new(),
            order: OrderGuard::default(),
            expected,
            is_done: false,
        };
        let line = reader.line()?.ok_or(ManifestError::Header)?;
        let header = &reader.buffer[line];
        if header == &HEADER[..HEADER.len() - 1] {
            return Ok(reader);
        }
        let version = header.strip_prefix(b"{\"headwater\":\"manifest\",\"version\":").ok_or(ManifestError::Header)?;
        let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).take(9).count();
        match std::str::from_utf8(&version[..digits]).ok().and_then(|text| text.parse::<u32>().ok()) {
            Some(found) if found > 1 => Err(ManifestError::Version { found: found.to_string() }),
            // A reserved header field of a later minor writer is still version 1, but we cannot obey it.
            _ => Err(ManifestError::Header),
        }
    }

    /// The range of the next line in `buffer`, without its line feed; nothing at the end.
    fn line(&mut self) -> Result<Option<std::ops::Range<usize>>, ManifestError> {
        let mut searched = self.start;
        loop {
            if let Some(length) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let line = self.start..searched + length;
                self.start = line.end + 1;
                return Ok(Some(line));
            }
            let pending = self.buffer.len() - self.start;
            let too_long = ManifestError::Line { line: self.order.count + 2, what: "the line ends" };
            if pending > MAX_LINE_BYTES {
                return Err(too_long);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.resize(pending + CHUNK_BYTES, 0);
            let count = read_some(&mut self.input, &mut self.buffer[pending..])?;
            self.buffer.truncate(pending + count);
            self.hasher.update(&self.buffer[pending..]);
            searched = pending;
            if count == 0 {
                return if pending == 0 { Ok(None) } else { Err(too_long) };
            }
        }
    }

    fn entry(&mut self) -> Result<Option<Entry>, ManifestError> {
        let Some(line) = self.line()? else {
            return match self.expected {
                Some(expected) if expected != self.id() => Err(ManifestError::WrongId { expected, found: self.id() }),
                _ => Ok(None),
            };
        };
        let entry = parse_entry_line(&self.buffer[line], self.order.count + 2)?;
        self.order.check(&entry.path)?;
        Ok(Some(entry))
    }

    /// The id of what was read so far; of the manifest, once the iterator has ended.
    #[must_use]
    pub fn id(&self) -> ManifestId {
        ManifestId::finish(&self.hasher)
    }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> Result<usize, ManifestError> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return Ok(other?),
        }
    }
}

impl<R: Read> Iterator for ManifestReader<R> {
    type Item = Result<Entry, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        if mem::replace(&mut self.is_done, true) {
            return None;
        }
        let item = self.entry().transpose();
        self.is_done = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str) -> Entry {
        let file = FileEntry { object: ObjectId::of(path.as_bytes()), size: path.len() as u64, mtime: 7, exec: false };
        Entry { path: TreePath::new(path).unwrap(), kind: Kind::File(file), until: None }
    }

    fn write(entries: &[Entry]) -> Result<(Vec<u8>, Totals), ManifestError> {
        let mut writer = ManifestWriter::new(Vec::new());
        entries.iter().try_for_each(|entry| writer.push(entry))?;
        writer.finish()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Entry>, ManifestError> {
        ManifestReader::new(bytes, None)?.collect()
    }

    #[test]
    fn a_file_and_a_directory_of_one_name_never_both_pass() {
        for paths in [&["a", "a/b"][..], &["a", "a-x", "a.b", "a/b"], &["d/a", "d/a b", "d/a/x"]] {
            let entries: Vec<_> = paths.iter().map(|path| file(path)).collect();
            assert!(matches!(write(&entries), Err(ManifestError::BelowFile { .. })), "{paths:?}");
        }
        let entries: Vec<_> = ["a", "a-x/y", "a.b", "ab/c"].iter().map(|path| file(path)).collect();
        assert!(write(&entries).is_ok());
    }

    #[test]
    fn order_and_duplicates_are_refused_both_ways() {
        for paths in [["b", "a"], ["a", "a"]] {
            let entries: Vec<_> = paths.iter().map(|path| file(path)).collect();
            assert!(matches!(write(&entries), Err(ManifestError::Order { .. })));
            let mut bytes = HEADER.to_vec();
            entries.iter().for_each(|entry| push_entry_line(entry, &mut bytes));
            assert!(matches!(read(&bytes), Err(ManifestError::Order { .. })));
        }
    }

    #[test]
    fn another_spelling_of_the_same_entry_is_refused() {
        let (bytes, _) = write(&[file("a/b\"c")]).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(read(text.as_bytes()).is_ok());
        for (from, to) in [
            ("\"size\":5", "\"size\": 5"),
            ("\"size\":5", "\"size\":05"),
            ("\"size\":5", "\"size\":5.0"),
            ("\"size\":5", "\"size\":9007199254740992"),
            ("\"mtime\":7", "\"mtime\":7,\"exec\":false"),
            ("\"mtime\":7", "\"mtime\":7,\"x\":1"),
            ("a/b", "a\\/b"),
            ("a/b", "\\u0061/b"),
            ("a/b", "../b"),
            ("}\n", "}"),
            ("}\n", "}\r\n"),
            ("}\n", "}\n\n"),
            ("\"version\":1", "\"version\":01"),
            ("\"version\":1", "\"version\":1,\"rules\":\"x\""),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text, "{from}");
            assert!(read(other.as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn a_newer_version_is_named() {
        let error =
            ManifestReader::new(&b"{\"headwater\":\"manifest\",\"version\":12,\"new\":1}\n"[..], None).unwrap_err();
        assert!(matches!(error, ManifestError::Version { found } if found == "12"));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_never_passes_for_the_asked_one() {
        let entries: Vec<_> = ["a", "b/c", "b/d"].iter().map(|path| file(path)).collect();
        let (bytes, totals) = write(&entries).unwrap();
        let asked = |bytes: &[u8]| ManifestReader::new(bytes, Some(totals.manifest))?.collect::<Result<Vec<_>, _>>();
        assert_eq!(asked(&bytes).unwrap(), entries);
        for at in 0..bytes.len() {
            assert!(asked(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(asked(&damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let name = "[a-c .\"é-]{1,4}";
        let path = proptest::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
        let one = (
            path,
            any::<[u8; 32]>(),
            0u64..1 << 53,
            0u64..1 << 53,
            any::<bool>(),
            proptest::option::of(0u64..99),
            "[a-c]{1,3}(/[a-c\"]{1,3})?",
            0..4,
        );
        proptest::collection::vec(one, 0..40).prop_map(|raw| {
            let mut entries: Vec<Entry> = raw
                .into_iter()
                .filter_map(|(path, object, size, mtime, exec, until, target, pick)| {
                    let kind = if pick == 0 {
                        Kind::Symlink(LinkTarget::new(&target).ok()?)
                    } else {
                        Kind::File(FileEntry { object: ObjectId::from_bytes(object), size, mtime, exec })
                    };
                    Some(Entry { path: TreePath::new(&path).ok()?, kind, until })
                })
                .collect();
            entries.sort_by(|a, b| a.path.cmp(&b.path));
            let mut order = OrderGuard::default();
            entries.retain(|entry| {
                let before = (order.last.clone(), order.prefixes.clone(), order.count);
                let fits = order.check(&entry.path).is_ok();
                if !fits {
                    (order.last, order.prefixes, order.count) = before;
                }
                fits
            });
            entries
        })
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back_and_is_what_serde_json_would_write(entries in entries()) {
            let (bytes, totals) = write(&entries).unwrap();
            let back: Vec<_> = ManifestReader::new(&bytes[..], Some(totals.manifest)).unwrap().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&back, &entries);
            for line in std::str::from_utf8(&bytes).unwrap().lines() {
                #[derive(serde::Deserialize, serde::Serialize)]
                #[serde(deny_unknown_fields)]
                struct Line {
                    #[serde(skip_serializing_if = "Option::is_none")] headwater: Option<String>,
                    #[serde(skip_serializing_if = "Option::is_none")] version: Option<u32>,
                    #[serde(skip_serializing_if = "Option::is_none")] path: Option<String>,
                    #[serde(skip_serializing_if = "Option::is_none")] size: Option<u64>,
                    #[serde(skip_serializing_if = "Option::is_none")] object: Option<String>,
                    #[serde(skip_serializing_if = "Option::is_none")] mtime: Option<u64>,
                    #[serde(skip_serializing_if = "Option::is_none")] exec: Option<bool>,
                    #[serde(skip_serializing_if = "Option::is_none")] symlink: Option<String>,
                    #[serde(skip_serializing_if = "Option::is_none")] until: Option<u64>,
                }
                let parsed: Line = serde_json::from_str(line).unwrap();
                prop_assert_eq!(serde_json::to_string(&parsed).unwrap(), line);
            }
        }

        #[test]
        fn whatever_is_accepted_is_canonical(line in "\\{\"path\":\"[ab/.\"\\\\]{0,4}\",\"symlink\":\"[ab/.\"]{0,4}\"(,\"until\":[0-9]{1,3})?\\}") {
            if let Ok(entry) = parse_entry_line(line.as_bytes(), 1) {
                let mut again = Vec::new();
                push_entry_line(&entry, &mut again);
                prop_assert_eq!(again, format!("{line}\n").into_bytes());
            }
        }
    }
}
