//! What must hold of every parser, whatever it is given: a function a parser.
//!
//! `cargo fuzz` calls them with bytes that it makes up (`fuzz/README.md`), and
//! `cargo test` with the corpus of each and with mutants of it. A function
//! returns if all is well and panics if not; it sees bytes and nothing else.
//! The two parsers that the library keeps to itself are compiled in here.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;

use headwater::hash::{ManifestId, ObjectId};
use headwater::manifest::{Entry, ManifestError, ManifestReader, ManifestWriter, Totals, delta};
use headwater::pack::{
    BaseRange, Block, Level, MAX_CONTENT_BYTES, MAX_PREFIX_BYTES, MAX_RANGES, PackReader, PackWriter, Piece,
    encode_block,
};
use headwater::protocol;
use headwater::receiver::{Token, TokenId};
use headwater::release::{Release, ReleaseName};
use headwater::store::{Presence, Store};
use headwater::tree_path::{MAX_PATH_BYTES, Site};
use headwater::{config, mirror};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[path = "../../src/mirror/ssh/banner.rs"]
mod banner;
#[path = "../../src/receiver/listener/strict_http.rs"]
mod strict_http;

#[path = "bounded.rs"]
mod bounded;

use banner::{BannerScan, MAX_NOISE_BYTES, scan};
use strict_http::Framing;

pub(crate) use bounded::{quota, state};

/// One of the functions below.
pub(crate) type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub(crate) const ALL: [(&str, Target); 12] = [
    ("banner", banner),
    ("config", config),
    ("format", format),
    ("manifest", manifest),
    ("message", message),
    ("pack", pack),
    ("quota", quota),
    ("release", release),
    ("request", request),
    ("state", state),
    ("token", token),
    ("transit", transit),
];

/// Bytes of a digest at the end of a pack.
const DIGEST_BYTES: usize = 32;
/// So much is decoded of one input: enough for every rule, and quick.
const DECODED_BYTES: usize = 4 << 20;

/// A pack: its limits hold, it decodes to what it declares, and that can be packed again.
pub(crate) fn pack(data: &[u8]) {
    read_pack(data);
    // Nobody guesses a digest, so what is behind one gets a sound one.
    if let Some((body, _)) = data.split_last_chunk::<DIGEST_BYTES>() {
        read_pack(&[body, blake3::hash(body).as_bytes()].concat());
    }
}

fn read_pack(data: &[u8]) {
    let Ok(reader) = PackReader::open(data) else { return };
    assert_eq!(PackReader::open_known(data, reader.id()).unwrap().id(), reader.id());
    let mut budget = DECODED_BYTES;
    let mut blocks = reader.blocks();
    for block in blocks.by_ref().map_while(Result::ok) {
        check_ranges(&block);
        let cost = block.content_bytes() + block.prefix_bytes();
        if cost <= budget {
            budget -= cost;
            check_decoding(&block);
        }
    }
    assert!(blocks.next().is_none(), "something came after the end or an error");
}

fn check_ranges(block: &Block<'_>) {
    let sum = |lengths: &mut dyn Iterator<Item = u32>| lengths.map(|length| length as usize).sum::<usize>();
    assert_eq!(sum(&mut block.pieces().iter().map(|piece| piece.length)), block.content_bytes());
    assert_eq!(sum(&mut block.bases().iter().map(|base| base.length)), block.prefix_bytes());
    assert!((1..=MAX_RANGES).contains(&block.pieces().len()) && block.bases().len() <= MAX_RANGES);
    assert!(block.content_bytes() <= MAX_CONTENT_BYTES && block.prefix_bytes() <= MAX_PREFIX_BYTES);
}

fn check_decoding(block: &Block<'_>) {
    let prefix = vec![b'p'; block.prefix_bytes()];
    assert!(block.decode(&[&prefix[..], b"p"].concat()).is_err(), "a prefix that is too long was taken");
    let Ok(content) = block.decode(&prefix) else { return };
    assert_eq!(content.len(), block.content_bytes());
    let again = repack(block.pieces(), &content, block.bases(), &prefix);
    let reader = PackReader::open(&again).unwrap();
    let blocks: Vec<Block<'_>> = reader.blocks().map(Result::unwrap).collect();
    let [read] = &blocks[..] else { panic!("{} blocks instead of one", blocks.len()) };
    assert_eq!(read.pieces(), block.pieces());
    // A block that gets no smaller drops its bases.
    let prefix = if read.bases().is_empty() { &[][..] } else { &prefix };
    assert_eq!(read.decode(prefix).unwrap(), content);
}

fn repack(pieces: &[Piece], content: &[u8], bases: &[BaseRange], prefix: &[u8]) -> Vec<u8> {
    let block = encode_block(pieces, content, bases, prefix, Level::Zstd(1)).unwrap();
    let mut writer = PackWriter::new();
    writer.push(&block).unwrap();
    writer.finish().bytes
}

type Entries = Result<Vec<Entry>, ManifestError>;

/// A manifest: what is read whole is written back as the same bytes, and reads alike however it is cut.
pub(crate) fn manifest(data: &[u8]) {
    let whole = read_manifest(data);
    let small = ManifestReader::new(Trickle(data), None).and_then(Iterator::collect::<Entries>);
    assert_eq!(format!("{:?}", whole.as_ref().map(|(entries, _)| entries)), format!("{:?}", small.as_ref()));
    let Ok((entries, totals)) = whole else { return };
    assert_eq!(totals.entries, entries.len() as u64);
    assert_eq!(totals.retired, entries.iter().filter(|entry| !entry.is_live()).count() as u64);
    assert!(entries.windows(2).all(|pair| pair[0].path.as_str() < pair[1].path.as_str()));
    assert!(entries.iter().all(|entry| entry.path.as_str().len() <= MAX_PATH_BYTES));
    let other = ManifestId::of(b"another");
    assert!(ManifestReader::new(data, Some(totals.manifest)).unwrap().all(|entry| entry.is_ok()));
    assert!(ManifestReader::new(data, Some(other)).unwrap().any(|entry| entry.is_err()), "any id would do");
}

/// Gives one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl std::io::Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(1);
        std::io::Read::read(&mut self.0, &mut buffer[..count])
    }
}

/// Reads and checks a manifest: it is the bytes that its entries make.
fn read_manifest(data: &[u8]) -> Result<(Vec<Entry>, Totals), ManifestError> {
    let mut reader = ManifestReader::new(data, None)?;
    let entries = reader.by_ref().collect::<Entries>()?;
    let mut writer = ManifestWriter::new(Vec::new());
    for entry in &entries {
        writer.push(entry).unwrap();
    }
    let (bytes, totals) = writer.finish().unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(data), "two spellings of one manifest");
    assert_eq!(totals.manifest, reader.id());
    Ok((entries, totals))
}

/// The manifests that a change is tried on.
const BASES: [&[u8]; 3] = [
    include_bytes!("../../fixtures/manifests/v1-first.jsonl"),
    include_bytes!("../../fixtures/manifests/v1-second.jsonl"),
    include_bytes!("../../fixtures/manifests/v1-names.jsonl"),
];

/// A manifest change: whatever it makes of a base is a manifest, and the change to that makes the same.
pub(crate) fn transit(data: &[u8]) {
    apply_everywhere(data);
    // Nobody guesses a sound frame, so what is in one comes as it is, too.
    if data.starts_with(b"HWMC") {
        apply_everywhere(&zstd::encode_all(data, 1).unwrap());
    }
}

/// More than any change of the corpus counts.
const LIMITS: delta::ChangeLimits<'static> = delta::ChangeLimits {
    encoded_bytes: 1 << 20,
    base_entries: None,
    entries: 1 << 20,
    reserve: &|_| true,
    is_cancelled: &|| false,
};

fn apply_everywhere(change: &[u8]) {
    let Ok(needs) = delta::summarize(change, &LIMITS) else { return };
    assert_eq!(needs.objects.len() as u64, needs.head.objects);
    assert!(needs.base_entries.windows(2).all(|pair| pair[0] < pair[1]));
    apply_to(change, &needs, &[]);
    for base in BASES {
        apply_to(change, &needs, &read_manifest(base).unwrap().0);
    }
}

/// Entries, as a reader would give them.
pub(crate) fn stream(entries: &[Entry]) -> impl Iterator<Item = Result<Entry, ManifestError>> + use<'_> {
    entries.iter().cloned().map(Ok)
}

fn apply_to(change: &[u8], needs: &delta::DeltaSummary, base: &[Entry]) {
    let Ok(copies) = delta::objects_at(&needs.base_entries, stream(base)) else { return };
    assert_eq!(copies.len(), needs.base_entries.len());
    let id = |(index, object): (usize, &delta::NewObject)| (ObjectId::of(&index.to_le_bytes()), object.size);
    let ids: Vec<(ObjectId, u64)> = needs.objects.iter().enumerate().map(id).collect();
    let Ok((bytes, totals)) = delta::apply(change, stream(base), &ids, &copies, Vec::new()) else { return };
    let (new, read) = read_manifest(&bytes).expect("what a change makes is a manifest");
    assert_eq!(read, totals);
    check_change(base, &new, &bytes);
}

/// The change from one to the other does what its name says.
fn check_change(base: &[Entry], new: &[Entry], bytes: &[u8]) {
    let change = delta::encode(|| Ok(stream(base)), || Ok(stream(new)), None, 7).unwrap();
    let needs = delta::summarize(&*change.bytes, &LIMITS).unwrap();
    let ids: Vec<(ObjectId, u64)> = change.wanted.iter().map(|wanted| (wanted.object, wanted.size)).collect();
    let copies: HashMap<_, _> = delta::objects_at(&needs.base_entries, stream(base)).unwrap();
    let (again, _) = delta::apply(&*change.bytes, stream(base), &ids, &copies, Vec::new()).unwrap();
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(bytes));
    // With all that is new on the mirror already, nothing is.
    let held = change.wanted.iter().map(|wanted| wanted.object).collect();
    let change = delta::encode_beside(|| Ok(stream(base)), || Ok(stream(new)), None, 7, &held).unwrap();
    assert_eq!(change.wanted, []);
    let (again, _) = delta::apply(&*change.bytes, stream(base), &[], &copies, Vec::new()).unwrap();
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(bytes));
}

/// A record of a release, and the name of one: one spelling each.
pub(crate) fn release(data: &[u8]) {
    if let Ok(release) = Release::parse(data) {
        assert_eq!(release.to_bytes(), data);
        assert!(release.name().fits(&release.id()));
        assert_eq!((release.rank().0, release.name().sequence()), (release.sequence, release.sequence));
        assert_eq!(release.name().to_string().parse::<ReleaseName>().unwrap(), release.name());
    }
    let name = std::str::from_utf8(data).ok().and_then(|text| Some((text, text.parse::<ReleaseName>().ok()?)));
    if let Some((text, name)) = name {
        assert_eq!(name.to_string(), text);
    }
}

/// A path of a request, and the bytes of a connection before hyper gets them.
pub(crate) fn request(data: &[u8]) {
    let parsed = std::str::from_utf8(data).ok().and_then(|text| Some((text, protocol::Resource::parse(text)?)));
    if let Some((text, resource)) = parsed {
        assert_eq!(resource.to_string(), text, "two spellings of one path");
    }
    let (passed, begun) = follow(data, data.len().max(1));
    let spoiled: Vec<usize> = (0..data.len()).filter(|at| passed[*at] != data[*at]).collect();
    assert!(spoiled.len() <= 1 && spoiled.iter().all(|at| passed[*at] == 0), "{spoiled:?}");
    for size in [1, 2, 7, 64] {
        let (other, count) = follow(data, size);
        assert!(other == passed && count >= begun, "depends on where it is cut");
    }
    check_heads(&passed, spoiled.first().copied());
}

/// The bytes behind the framing, if they come in pieces of this size, and in how many of these a head began.
fn follow(data: &[u8], size: usize) -> (Vec<u8>, usize) {
    let mut framing = Framing::default();
    let mut bytes = data.to_vec();
    let begun = bytes.chunks_mut(size).map(|piece| usize::from(framing.check(piece))).sum();
    (bytes, begun)
}

/// Reads the heads again in the simplest way: whatever passed says one thing only.
fn check_heads(bytes: &[u8], spoiled: Option<usize>) {
    let mut rest = &bytes[..spoiled.unwrap_or(bytes.len())];
    while let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        // It was there before: hyper refuses it as it does the one that is put there.
        if head.contains('\0') {
            return;
        }
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "a lone line end passed: {head:?}");
        assert!(lines.iter().all(|line| !line.is_empty() && !line.starts_with([' ', '\t'])), "{head:?}");
        let values = |name: &str| lines[1..].iter().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
        let (lengths, codings) = (values("content-length:"), values("transfer-encoding:"));
        assert!(lengths.len() + codings.len() <= 1, "two ends: {head:?}");
        let body = match lengths[..] {
            [length] => length.trim_matches([' ', '\t', '\u{c}']).parse::<u64>().expect("a plain number"),
            _ => 0,
        };
        let body = usize::try_from(body).unwrap_or(usize::MAX);
        let after = &rest[end + 4..];
        let behind = match codings[..] {
            [] => after.get(body..),
            [coding] if coding.trim_matches([' ', '\t', '\u{c}']) == "chunked" => behind_chunks(after),
            _ => None,
        };
        let Some(behind) = behind else { return };
        rest = behind;
    }
}

/// What stands behind the last chunk, if that is here.
fn behind_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = std::str::from_utf8(&rest[..end]).expect("a line before a chunk is text");
        // It was there before, as in a head.
        if line.contains('\0') {
            return None;
        }
        let digits = line.strip_suffix('\r').expect("a lone line feed passed");
        assert!((1..=8).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_hexdigit()), "{line:?}");
        let size = usize::from_str_radix(digits, 16).unwrap();
        let (chunk_end, after) = rest[end + 1..].split_at_checked(size)?.1.split_at_checked(2)?;
        if chunk_end.contains(&0) {
            return None;
        }
        assert_eq!(chunk_end, b"\r\n", "a chunk that does not end where it says passed");
        rest = after;
        if size == 0 {
            return Some(rest);
        }
    }
}

/// A token: it has one spelling, and nothing but `reveal` shows it.
pub(crate) fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(token) = Token::parse(text) {
        assert_eq!(token.reveal(), text);
        let secret = text.rsplit('_').next().unwrap();
        assert!(!format!("{token:?}").contains(secret) && !token.id().to_string().contains(secret));
        assert_eq!(TokenId::new(&token.id().to_string()).as_ref(), Some(token.id()));
        assert!(mirror::BearerToken::new(text).is_ok(), "an origin refuses what a receiver gave out");
    }
    match mirror::BearerToken::new(text) {
        Ok(token) => {
            assert_eq!(format!("{token:?}"), "Token(…)");
            assert_eq!(mirror::BearerToken::new(&format!(" {text}\n")), Ok(token));
            assert!(text.trim().bytes().all(|byte| byte.is_ascii_graphic()), "it would end a header");
        }
        Err(error) => assert!(text.trim().is_empty() || !error.to_string().contains(text.trim())),
    }
}

/// The configurations: an error says where, and its message can always be made.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let place = Path::new("/etc/headwater/some.toml");
    let serve = config::serve::parse(text, place).map(|settings| format!("{settings:?}"));
    let push = config::Config::parse(text, place).map(|config| format!("{config:?}"));
    for error in [serve.err(), push.err()].into_iter().flatten() {
        assert!(error.to_string().contains("some.toml"), "{error}");
    }
}

/// What origin and receiver say to each other: it reads as it is written.
pub(crate) fn message(data: &[u8]) {
    let head = data.first_chunk().and_then(|head| Some((head, protocol::PackHead::parse(head)?)));
    assert!(head.is_none_or(|(bytes, head)| head.to_bytes() == *bytes), "two spellings of one head");
    reads_alike::<protocol::StageHead>(data);
    reads_alike::<protocol::Answer<protocol::Staging>>(data);
    reads_alike::<protocol::Answer<protocol::State>>(data);
    reads_alike::<protocol::Answer<protocol::Repairing>>(data);
    reads_alike::<protocol::Answer<protocol::Verified>>(data);
    reads_alike::<protocol::Answer<protocol::Holds>>(data);
    for count in [1, 8, 9] {
        let held =
            serde_json::from_slice::<protocol::Holds>(data).ok().and_then(|holds| Some((holds.read(count)?, holds)));
        assert!(held.is_none_or(|(held, holds)| held.len() == count && protocol::Holds::of(&held) == holds));
    }
    reads_alike::<protocol::Answer<protocol::Pruned>>(data);
    reads_alike::<protocol::Answer<protocol::Settled>>(data);
    reads_alike::<protocol::Status>(data);
    reads_alike::<protocol::Activate>(data);
    reads_alike::<protocol::Abandon>(data);
    reads_alike::<protocol::Keep>(data);
    reads_alike::<protocol::Verify>(data);
    reads_alike::<protocol::Repair>(data);
    reads_alike::<protocol::Banner>(data);
}

fn reads_alike<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&read).unwrap();
    assert_eq!(serde_json::from_slice::<T>(&written).unwrap(), read);
}

/// The banner among what a login shell says: found once it is whole, and not before.
pub(crate) fn banner(data: &[u8]) {
    let heard = scan(data);
    assert!(heard != BannerScan::More || data.len() <= MAX_NOISE_BYTES + (1 << 20) + 1, "it would read for ever");
    if matches!(heard, BannerScan::Line(_)) {
        assert_eq!(scan(&data[..data.len() - 1]), BannerScan::More);
        assert_eq!(scan(&[data, b"x"].concat()), BannerScan::Nonsense, "something follows it");
    }
    let framed = [b"motd\nheadwater receive 1 ".as_slice(), data, b"\n"].concat();
    let is_banner = serde_json::from_slice::<protocol::Banner>(data).is_ok();
    if is_banner && !data.contains(&b'\n') && data.len() < 1 << 20 {
        assert!(matches!(scan(&framed), BannerScan::Line(_)), "a banner was not found");
    }
}

thread_local! {
    /// A store whose format file is written anew each time.
    static STORE: tempfile::TempDir = {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("headwater-test-").tempdir_in(parent).unwrap();
        Store::open_or_create(dir.path(), &Site::new("default").unwrap()).unwrap();
        dir
    };
}

/// The format file of a store: what is accepted is what its fields say.
pub(crate) fn format(data: &[u8]) {
    STORE.with(|dir| {
        let file = dir.path().join(".headwater/format");
        std::fs::write(&file, data).unwrap();
        let Ok(found) = Store::look(dir.path()) else { return };
        let Presence::Store(store) = found else { panic!("a store is no place for another") };
        let (id, site) = (store.id(), store.site().clone());
        let plain = format!("{{\"headwater\":\"store\",\"version\":1,\"id\":\"{id}\",\"site\":\"{site}\"}}\n");
        std::fs::write(&file, &plain).unwrap();
        let again = Store::open(dir.path()).unwrap();
        assert_eq!((again.id(), again.site()), (id, &site));
    });
}
