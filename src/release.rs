//! Releases: small records that each name a manifest.
//!
//! `store/FORMAT.md` describes the canonical form of the record, from which the id is computed.
//! This module knows the record and the name, but not where the record is stored.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::{ContentId, HistoryId, ManifestId, ReleaseId};
use crate::text::is_zero;
use crate::tree_path::Site;
use crate::varint::MAX_NUMBER;

/// Maximum sequence of a release. Some JSON readers cannot represent larger numbers exactly.
pub const MAX_SEQUENCE: u64 = MAX_NUMBER;
/// Latest time of a release, in seconds since 1970: 16 March 2242. File systems truncate later
/// times, so `verify` would report a difference forever.
pub const MAX_TIME: u64 = (1 << 33) - 1;
/// Maximum length of a note in bytes.
pub const MAX_NOTE_BYTES: usize = 1024;
/// Maximum length, in bytes, of the name of a person or job that rejected content.
pub const MAX_NAME_BYTES: usize = 200;
/// Maximum size of a record that is read, in bytes.
pub const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// Maximum number of histories that a release can replace.
// Beyond this number, the oldest histories are dropped, so that the record does not grow forever.
pub const MAX_REPLACED: usize = 16;

/// Why a release record is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The record was written by a newer headwater.
    #[error(
        "the release record has format version {found}, but this headwater supports only version \
         1; upgrade headwater"
    )]
    Version {
        /// The version that the record declares.
        found: u64,
    },
    /// The bytes are not a release record, or the record is truncated.
    #[error("not a release record: {what}")]
    Malformed {
        /// The error of the parser.
        what: String,
    },
    /// The record is valid but not in canonical form.
    #[error("release record is not in its canonical form")]
    NotCanonical,
    /// A note is too long or contains control characters.
    #[error("a note has at most 1,024 bytes and no control characters")]
    Note,
    /// A number is too large for some JSON readers to represent exactly.
    #[error("a number in a release record is not below 2^53")]
    Number,
    /// A time is later than the latest time that files can store.
    #[error("a time in a release record is after 16 March 2242, later than files can have")]
    Time,
    /// The list of replaced histories is not valid.
    #[error("a release replaces at most {MAX_REPLACED} histories, each once, and not its own")]
    Replaces,
    /// The name of a person or job is too long or contains control characters.
    #[error("the name of a person or job has at most 200 bytes and no control characters")]
    Person,
    /// The string is not a name in the form `<sequence>-<id16>`.
    #[error("not a release name: {text:?}")]
    Name {
        /// The string.
        text: String,
    },
}

/// One release of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    headwater: Tag,
    version: u64,
    /// The site.
    pub site: Site,
    /// The history, which is that of the release it was built on.
    pub history: HistoryId,
    /// The histories that this history replaced, oldest first, at most [`MAX_REPLACED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replaces: Vec<HistoryId>,
    /// The sequence number, which rises with every release.
    pub sequence: u64,
    /// The id of the manifest.
    pub manifest: ManifestId,
    /// The content id, which identifies the content that visitors get.
    pub content: ContentId,
    /// Creation time in seconds since 1970. It rises from release to release (see
    /// `store/FORMAT.md`).
    pub created: u64,
    /// When the push began, in milliseconds since 1970.
    pub began: u64,
    /// The run number of the newest release in each order stream.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub orders: BTreeMap<String, u64>,
    /// Content that a person rolled back, in ascending order of content ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedContent>,
    /// When the first retired entry is due, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    /// Number of entries in the manifest.
    pub entries: u64,
    /// Number of these entries that are retired.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retired: u64,
    /// Total size of the live files in bytes.
    pub bytes: u64,
    /// The sequence of the release whose live entries a rollback restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_to: Option<u64>,
    /// The mirrors for which the release was made; `None` if it was made for the whole fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<PartialScope>,
    /// The operator's note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Marks a release that was made for part of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialScope {
    /// The names of the mirrors for which the release was made.
    pub mirrors: Vec<String>,
    /// The command that made the release, or why a push reverted.
    pub why: String,
}

impl PartialScope {
    /// Whether the release was made for this mirror.
    #[must_use]
    pub fn is_for(&self, mirror: &str) -> bool {
        self.mirrors.iter().any(|one| one == mirror)
    }
}

impl fmt::Display for PartialScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text must fit on one line, but a fleet may have a hundred mirrors.
        const SHOWN: usize = 5;
        write!(
            f,
            "made for {}",
            self.mirrors.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ")
        )?;
        match self.mirrors.len().saturating_sub(SHOWN) {
            0 => write!(f, " only: {}", self.why),
            more => write!(f, " and {more} more only: {}", self.why),
        }
    }
}

/// Content that a person rolled back. Pushing it again is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectedContent {
    /// The id of the content.
    pub content: ContentId,
    /// The sequence of the release with this content.
    pub sequence: u64,
    /// The time of the release that rolled the content back, in seconds since 1970.
    pub at: u64,
    /// The person or job that rolled the content back; `None` if not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The note of the rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl RejectedContent {
    fn check(&self) -> Result<(), ReleaseError> {
        if self.why.as_deref().is_some_and(|why| !is_valid_note(why)) {
            return Err(ReleaseError::Note);
        }
        if self.by.as_deref().is_some_and(|by| !is_valid_name(by)) {
            Err(ReleaseError::Person)
        } else {
            Ok(())
        }
    }
}

impl fmt::Display for RejectedContent {
    /// Says which release had the content, and who rolled it back, when, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "release {} with this content was rolled back", self.sequence)?;
        self.by.as_ref().map_or(Ok(()), |by| write!(f, " by {by}"))?;
        f.write_str(" at ")?;
        match i64::try_from(self.at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok()) {
            Some(at) => write!(f, "{at}")?,
            None => write!(f, "{} s after 1970", self.at)?,
        }
        self.why.as_ref().map_or(Ok(()), |why| write!(f, ": {why}"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Tag {
    #[serde(rename = "release")]
    Release,
}

/// How a release relates to the one that a mirror serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// The release may replace the served one.
    Follows,
    /// The served release is the same or newer.
    NotNewer,
    /// The releases have different histories, neither of which replaced the other, so neither
    /// release is newer.
    OtherHistory,
}

impl Release {
    /// A release with this identity and all other fields empty.
    #[must_use]
    pub const fn new(
        site: Site,
        history: HistoryId,
        sequence: u64,
        manifest: ManifestId,
        content: ContentId,
    ) -> Self {
        Self {
            headwater: Tag::Release,
            version: 1,
            site,
            history,
            replaces: Vec::new(),
            sequence,
            manifest,
            content,
            created: 0,
            began: 0,
            orders: BTreeMap::new(),
            rejected: Vec::new(),
            until: None,
            entries: 0,
            retired: 0,
            bytes: 0,
            rolled_back_to: None,
            partial: None,
            note: None,
        }
    }

    /// Parses a record from its canonical bytes.
    ///
    /// # Errors
    /// Fails if the bytes are not the canonical bytes of a release record of version 1.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReleaseError> {
        #[derive(Deserialize)]
        struct Version {
            version: u64,
        }
        let garbled =
            |error: serde_json::Error| ReleaseError::Malformed { what: error.to_string() };
        // The version is read first and alone: a newer record may have keys that the strict parser
        // refuses, and the user must learn that headwater is too old, not that a key is unknown.
        let Version { version: found } = serde_json::from_slice(bytes).map_err(garbled)?;
        if found != 1 {
            return Err(ReleaseError::Version { found });
        }
        let release: Self = serde_json::from_slice(bytes).map_err(garbled)?;
        // Records come from peers. Without these limits, a sequence of 2^64 - 1 would leave no
        // number for the next release, and a late time would make every file differ from its
        // manifest.
        if !release.has_valid_numbers() {
            return Err(ReleaseError::Number);
        }
        if release.created > MAX_TIME || release.began / 1000 > MAX_TIME {
            return Err(ReleaseError::Time);
        }
        if release.note.as_deref().is_some_and(|note| !is_valid_note(note)) {
            return Err(ReleaseError::Note);
        }
        if !release.has_valid_replaces() {
            return Err(ReleaseError::Replaces);
        }
        release.rejected.iter().try_for_each(RejectedContent::check)?;
        let texts = |partial: &PartialScope| {
            is_valid_note(&partial.why) && partial.mirrors.iter().all(|name| is_valid_note(name))
        };
        if !release.partial.as_ref().is_none_or(texts) {
            return Err(ReleaseError::Note);
        }
        // The id is the hash of the bytes. A second spelling of one record would be a second
        // release with the same content.
        if release.to_bytes() == bytes { Ok(release) } else { Err(ReleaseError::NotCanonical) }
    }

    /// The canonical bytes of the record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a release has only text keys and plain values")
    }

    /// The id of the release.
    #[must_use]
    pub fn id(&self) -> ReleaseId {
        ReleaseId::of(&self.to_bytes())
    }

    /// The name of the release in a store.
    #[must_use]
    pub fn name(&self) -> ReleaseName {
        ReleaseName::new(self.sequence, &self.id())
    }

    fn has_valid_numbers(&self) -> bool {
        let Self { sequence, created, began, entries, retired, bytes, .. } = *self;
        let own = [sequence, created, began, entries, retired, bytes];
        let rejected = self.rejected.iter().flat_map(|rejected| [rejected.sequence, rejected.at]);
        let others =
            self.until.into_iter().chain(self.rolled_back_to).chain(self.orders.values().copied());
        own.into_iter().chain(rejected).chain(others).all(|number| number <= MAX_NUMBER)
    }

    fn has_valid_replaces(&self) -> bool {
        let replaced: HashSet<HistoryId> = self.replaces.iter().copied().collect();
        self.replaces.len() <= MAX_REPLACED
            && replaced.len() == self.replaces.len()
            && !replaced.contains(&self.history)
    }

    /// Compares this release with the `current` release of a mirror. This rule alone decides what
    /// may become current; `store/FORMAT.md` describes it.
    #[must_use]
    pub fn succession(&self, current: &Self) -> Succession {
        let follows = |is_newer| if is_newer { Succession::Follows } else { Succession::NotNewer };
        if self.history == current.history {
            follows(self.rank() > current.rank())
        } else if self.replaces.contains(&current.history) {
            // Only the sequence counts, not the rank: if the sequences are equal, times and ids
            // from two histories do not show which release is newer.
            follows(self.sequence > current.sequence)
        // A push that still uses the replaced history must not undo the replacement.
        } else if current.replaces.contains(&self.history) {
            Succession::NotNewer
        } else {
            Succession::OtherHistory
        }
    }

    /// The record of this content's rejection; `None` if the content was not rejected.
    #[must_use]
    pub fn rejection(&self, content: ContentId) -> Option<&RejectedContent> {
        self.rejected.iter().find(|rejected| rejected.content == content)
    }

    /// The rank. With it, all mirrors agree on which of two releases in a history is newer.
    #[must_use]
    pub fn rank(&self) -> (u64, u64, ReleaseId) {
        // The id matters only for releases that two pushes made with the same sequence in the same
        // second. It makes every mirror prefer the same one.
        (self.sequence, self.created, self.id())
    }
}

/// Whether `text` may be a note.
#[must_use]
pub fn is_valid_note(text: &str) -> bool {
    text.len() <= MAX_NOTE_BYTES && !text.chars().any(char::is_control)
}

/// Whether `text` may be the name of a person or job.
#[must_use]
pub fn is_valid_name(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && !text.chars().any(char::is_control)
}

/// The name of a release in a store: `<sequence>-<first 16 digits of its id>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseName {
    sequence: u64,
    id16: [u8; 8],
}

impl ReleaseName {
    /// The name of the release with this sequence and id.
    #[must_use]
    pub fn new(sequence: u64, id: &ReleaseId) -> Self {
        let mut id16 = [0; 8];
        id16.copy_from_slice(&id.as_bytes()[..8]);
        Self { sequence, id16 }
    }

    /// The sequence in the name.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether this can be the name of the release with the given id.
    #[must_use]
    pub fn matches_id(&self, id: &ReleaseId) -> bool {
        id.as_bytes().starts_with(&self.id16)
    }
}

impl fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.sequence, u64::from_be_bytes(self.id16))
    }
}

impl FromStr for ReleaseName {
    type Err = ReleaseError;

    fn from_str(text: &str) -> Result<Self, ReleaseError> {
        let parse = || {
            let (sequence, id16) = text.split_once('-')?;
            let digits =
                id16.len() == 16 && id16.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            let id16 = u64::from_str_radix(id16, 16).ok().filter(|_| digits)?.to_be_bytes();
            let sequence = sequence.parse().ok().filter(|sequence| *sequence <= MAX_SEQUENCE)?;
            let name = Self { sequence, id16 };
            // Each name has one spelling, but parsing a number also accepts a plus sign and leading
            // zeros.
            (name.to_string() == text).then_some(name)
        };
        // Truncated, because the text may come from a peer.
        parse().ok_or_else(|| ReleaseError::Name { text: text.chars().take(80).collect() })
    }
}

impl TryFrom<String> for ReleaseName {
    type Error = ReleaseError;

    fn try_from(text: String) -> Result<Self, ReleaseError> {
        text.parse()
    }
}

impl From<ReleaseName> for String {
    fn from(name: ReleaseName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        let site = Site::new("docs").unwrap();
        let history = HistoryId::from_bytes([0xab; 16]);
        let mut release =
            Release::new(site, history, 12, ManifestId::of(b"m"), ContentId::of(b"c"));
        release.created = 1_763_800_000;
        release.orders.insert("ci".into(), 7);
        release.note = Some("first \"one\"".into());
        release
    }

    #[test]
    fn canonical_bytes_round_trip() {
        let release = release();
        assert_eq!(Release::parse(&release.to_bytes()), Ok(release.clone()));
        let text = String::from_utf8(release.to_bytes()).unwrap();
        assert!(
            text.starts_with(r#"{"headwater":"release","version":1,"site":"docs","history":""#),
            "{text}"
        );
        assert!(text.contains(r#"abab","sequence":12,"manifest":""#), "{text}");
        assert!(
            text.ends_with(r#","orders":{"ci":7},"entries":0,"bytes":0,"note":"first \"one\""}"#),
            "{text}"
        );
    }

    #[test]
    fn every_flipped_bit_or_truncation_changes_the_id_or_is_refused() {
        let release = release();
        let bytes = release.to_bytes();
        for at in 0..bytes.len() {
            assert!(Release::parse(&bytes[..at]).is_err());
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(Release::parse(&damaged).map_or(true, |read| read.id() != release.id()));
            }
        }
    }

    #[test]
    fn other_spellings_versions_and_fields_are_refused() {
        let text = String::from_utf8(release().to_bytes()).unwrap();
        let parse = |from: &str, to: &str| Release::parse(text.replacen(from, to, 1).as_bytes());
        assert_eq!(parse("{", "{ "), Err(ReleaseError::NotCanonical));
        assert_eq!(
            parse("\"bytes\":0", "\"bytes\":0,\"retired\":0"),
            Err(ReleaseError::NotCanonical)
        );
        assert_eq!(
            parse("\"version\":1", "\"version\":2,\"later\":true"),
            Err(ReleaseError::Version { found: 2 })
        );
        assert!(matches!(
            parse("\"bytes\":0", "\"bytes\":0,\"later\":1"),
            Err(ReleaseError::Malformed { .. })
        ));
        assert_eq!(parse("first ", "first\\u001b"), Err(ReleaseError::Note));
        assert!(matches!(parse("docs", "../x"), Err(ReleaseError::Malformed { .. })));
    }

    #[test]
    fn numbers_from_two_to_the_53rd_are_refused() {
        let text = String::from_utf8(release().to_bytes()).unwrap();
        let parse = |field: &str, number: u64| {
            let old = text.split(field).nth(1).unwrap().split([',', '}']).next().unwrap();
            Release::parse(
                text.replacen(&format!("{field}{old}"), &format!("{field}{number}"), 1).as_bytes(),
            )
        };
        for field in ["sequence\":", "ci\":", "entries\":", "bytes\":"] {
            assert!(parse(field, MAX_NUMBER).is_ok(), "{field}");
            assert_eq!(parse(field, MAX_NUMBER + 1), Err(ReleaseError::Number), "{field}");
        }
        let late = Release { until: Some(1 << 63), ..release() };
        assert_eq!(Release::parse(&late.to_bytes()), Err(ReleaseError::Number));
    }

    #[test]
    fn times_beyond_file_times_are_refused() {
        let parse = |created: u64, began: u64| {
            Release::parse(&Release { created, began, ..release() }.to_bytes())
        };
        assert!(parse(MAX_TIME, MAX_TIME * 1000 + 999).is_ok());
        assert_eq!(parse(MAX_TIME + 1, 0), Err(ReleaseError::Time));
        assert_eq!(parse(0, (MAX_TIME + 1) * 1000), Err(ReleaseError::Time));
    }

    #[test]
    fn replaced_histories_are_few_distinct_and_different() {
        let id = |byte: u8| HistoryId::from_bytes([byte; 16]);
        let parse = |replaces: Vec<HistoryId>| {
            Release::parse(&Release { replaces, ..release() }.to_bytes())
        };
        assert_eq!(parse(vec![id(1), id(2)]).unwrap().replaces, [id(1), id(2)]);
        assert!(parse((0..16).map(id).collect()).is_ok());
        for wrong in [vec![id(1), id(1)], vec![id(0xab)], (0..17).map(id).collect()] {
            assert_eq!(parse(wrong), Err(ReleaseError::Replaces));
        }
    }

    #[test]
    fn release_follows_lower_ranks_and_replaced_histories() {
        let other = HistoryId::from_bytes([1; 16]);
        let current = release();
        let with = |sequence: u64, created: u64| Release { sequence, created, ..release() };
        assert_eq!(with(13, 0).succession(&current), Succession::Follows);
        assert_eq!(with(12, current.created + 1).succession(&current), Succession::Follows);
        assert_eq!(with(12, current.created - 1).succession(&current), Succession::NotNewer);
        assert_eq!(current.succession(&current), Succession::NotNewer);
        assert_eq!(with(11, u64::MAX).succession(&current), Succession::NotNewer);
        let foreign = |sequence: u64| Release { history: other, ..with(sequence, 0) };
        assert_eq!(foreign(99).succession(&current), Succession::OtherHistory);
        let replacing =
            |sequence: u64| Release { replaces: vec![current.history], ..foreign(sequence) };
        assert_eq!(replacing(13).succession(&current), Succession::Follows);
        assert_eq!(
            replacing(12).succession(&current),
            Succession::NotNewer,
            "names in a store rise"
        );
        assert_eq!(
            with(99, 0).succession(&replacing(13)),
            Succession::NotNewer,
            "what was replaced stays replaced"
        );
    }

    #[test]
    fn rejection_records_who_when_and_why() {
        let (content, by) = (ContentId::of(b"bad"), Some("ann@desk".to_owned()));
        let rejected = RejectedContent {
            content,
            sequence: 7,
            at: 1_763_800_000,
            by,
            why: Some("broken menu".into()),
        };
        let told = "release 7 with this content was rolled back by ann@desk at \
                    2025-11-22T08:26:40Z: broken menu";
        assert_eq!(rejected.to_string(), told);
        let with = |rejected: RejectedContent| Release { rejected: vec![rejected], ..release() };
        assert_eq!(Release::parse(&with(rejected.clone()).to_bytes()), Ok(with(rejected.clone())));
        assert_eq!(with(rejected.clone()).rejection(content), Some(&rejected));
        assert_eq!(with(rejected.clone()).rejection(ContentId::of(b"good")), None);
        let bad = with(RejectedContent { by: Some("a\u{1b}".into()), ..rejected.clone() });
        assert_eq!(Release::parse(&bad.to_bytes()), Err(ReleaseError::Person));
        let bad = with(RejectedContent { why: Some("n".repeat(1025)), ..rejected });
        assert_eq!(Release::parse(&bad.to_bytes()), Err(ReleaseError::Note));
    }

    #[test]
    fn partial_release_records_its_mirrors_and_reason() {
        let mirrors: Vec<String> = (1..=7).map(|number| format!("m{number}")).collect();
        let partial = PartialScope { mirrors, why: "push by ann@desk".into() };
        assert_eq!(
            partial.to_string(),
            "made for m1, m2, m3, m4, m5 and 2 more only: push by ann@desk"
        );
        assert!(partial.is_for("m7") && !partial.is_for("m"));
        let with = |partial: PartialScope| Release { partial: Some(partial), ..release() };
        assert_eq!(Release::parse(&with(partial.clone()).to_bytes()), Ok(with(partial.clone())));
        let bad = with(PartialScope { why: "a\nb".into(), ..partial });
        assert_eq!(Release::parse(&bad.to_bytes()), Err(ReleaseError::Note));
    }

    #[test]
    fn release_names_have_one_spelling() {
        let name = release().name();
        assert_eq!(name.to_string().parse(), Ok(name));
        assert!(name.matches_id(&release().id()));
        for wrong in [
            "",
            "1",
            "01-0000000000000000",
            "1-000000000000000",
            "1-000000000000000G",
            "1-00000000000000000",
            "../x",
        ] {
            assert!(wrong.parse::<ReleaseName>().is_err(), "{wrong}");
        }
    }
}
