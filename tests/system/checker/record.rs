//! Parses the records of a store.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A release record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    headwater: String,
    version: u64,
    pub(crate) site: String,
    pub(crate) history: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<Vec<String>>,
    pub(crate) sequence: u64,
    pub(crate) manifest: String,
    pub(crate) content: String,
    pub(crate) created: u64,
    pub(crate) began: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) orders: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rejected: Option<Vec<Rejected>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<u64>,
    pub(crate) entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retired: Option<u64>,
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rolled_back_to: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<Partial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

/// The mirrors that a release was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Partial {
    mirrors: Vec<String>,
    why: String,
}

/// Content that a person rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rejected {
    pub(crate) content: String,
    sequence: u64,
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtime: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exec: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) symlink: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<u64>,
}

/// Parses the file `format` and returns its site.
pub(crate) fn parse_format(bytes: &[u8]) -> Result<String, String> {
    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Format {
        headwater: String,
        version: u64,
        id: String,
        site: String,
    }
    let format: Format =
        serde_json::from_slice(bytes).map_err(|error| format!("format: {error}"))?;
    let spelled = serde_json::to_string(&format).unwrap() + "\n";
    let sound = format.headwater == "store" && format.version == 1 && is_hex(&format.id, 32);
    if sound && spelled.as_bytes() == bytes {
        Ok(format.site)
    } else {
        Err("format: not as described".into())
    }
}

/// The file `expired`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    pub(super) through: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) release: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<u64>,
}

/// The file `expired` from its bytes.
pub(super) fn parse_mark(bytes: &[u8]) -> Result<Mark, String> {
    let mark: Mark = serde_json::from_slice(bytes).map_err(|error| format!("expired: {error}"))?;
    let spelled = serde_json::to_string(&mark).unwrap() + "\n";
    if spelled.as_bytes() == bytes { Ok(mark) } else { Err("expired: not as described".into()) }
}

/// Parses a release record, which must be the one with this `name`.
pub(crate) fn parse_record(name: &str, bytes: &[u8]) -> Result<Record, String> {
    let fault = |what: &str| format!("release {name}: {what}");
    let record: Record =
        serde_json::from_slice(bytes).map_err(|error| fault(&error.to_string()))?;
    let spelled = serde_json::to_vec(&record).unwrap();
    if record.headwater != "release" || record.version != 1 {
        return Err(fault("not a release of version 1"));
    }
    let nothing_to_say = record.orders.as_ref().is_some_and(BTreeMap::is_empty)
        || record.rejected.as_ref().is_some_and(Vec::is_empty)
        || record.replaces.as_ref().is_some_and(Vec::is_empty)
        || record.retired == Some(0);
    if spelled != bytes || nothing_to_say {
        return Err(fault("not canonical"));
    }
    let id = blake3::hash(bytes).to_hex();
    if *name != format!("{}-{}", record.sequence, &id[..16]) {
        return Err(fault("its name is not its sequence and id"));
    }
    let histories: BTreeSet<&String> =
        record.replaces.iter().flatten().chain([&record.history]).collect();
    let replaced = record.replaces.as_ref().map_or(0, Vec::len);
    if histories.len() != replaced + 1
        || replaced > 16
        || !histories.iter().all(|id| is_hex(id, 32))
    {
        return Err(fault("its histories are not as described"));
    }
    if !is_hex(&record.manifest, 64) || !is_hex(&record.content, 64) {
        return Err(fault("an id is none"));
    }
    Ok(record)
}

/// Parses a manifest from its canonical bytes, which must have this id.
pub(crate) fn parse_manifest(id: &str, bytes: &[u8]) -> Result<Vec<Line>, String> {
    let fault = |what: &str| format!("manifest {id}: {what}");
    if blake3::hash(bytes).to_hex().as_str() != id {
        return Err(fault("other bytes than its name says"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| fault("not UTF-8"))?;
    let text = text
        .strip_prefix("{\"headwater\":\"manifest\",\"version\":1}\n")
        .ok_or_else(|| fault("another header"))?;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(fault("no line feed at its end"));
    }
    let mut lines: Vec<Line> = Vec::new();
    for (text, number) in text.lines().zip(2..) {
        let line: Line = serde_json::from_str(text)
            .map_err(|error| fault(&format!("line {number}: {error}")))?;
        if serde_json::to_string(&line).unwrap() != text {
            return Err(fault(&format!("line {number} is not canonical")));
        }
        check_line(&line).map_err(|what| fault(&format!("line {number}: {what}")))?;
        if lines.last().is_some_and(|last| last.path.as_bytes() >= line.path.as_bytes()) {
            return Err(fault(&format!("line {number} is out of order")));
        }
        lines.push(line);
    }
    let paths: BTreeSet<&str> = lines.iter().map(|line| &*line.path).collect();
    for path in &paths {
        if let Some(parent) = ancestors(path).find(|parent| paths.contains(parent)) {
            return Err(fault(&format!("{path} is below the file {parent}")));
        }
    }
    Ok(lines)
}

/// Computes the content id of a manifest: a hash of what visitors see, without the times.
pub(crate) fn content_id(lines: &[Line]) -> String {
    fn text(text: &str, out: &mut Vec<u8>) {
        let mut rest = text.len();
        while rest >= 0x80 {
            out.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
            rest >>= 7;
        }
        out.push(u8::try_from(rest).unwrap());
        out.extend_from_slice(text.as_bytes());
    }
    let mut bytes = b"headwater content 1\n".to_vec();
    for line in lines.iter().filter(|line| line.until.is_none()) {
        match (&line.symlink, &line.object) {
            (Some(target), _) => {
                bytes.push(b'L');
                text(&line.path, &mut bytes);
                text(target, &mut bytes);
            }
            (None, object) => {
                bytes.push(if line.exec == Some(true) { b'X' } else { b'F' });
                text(&line.path, &mut bytes);
                let id = blake3::Hash::from_hex(object.as_deref().unwrap_or_default()).unwrap();
                bytes.extend_from_slice(id.as_bytes());
            }
        }
    }
    blake3::hash(&bytes).to_hex().to_string()
}

fn check_line(line: &Line) -> Result<(), String> {
    let is_file = line.size.is_some()
        && line.object.is_some()
        && line.mtime.is_some()
        && line.symlink.is_none();
    let is_link = line.symlink.is_some()
        && line.size.is_none()
        && line.object.is_none()
        && line.mtime.is_none()
        && line.exec.is_none();
    if is_file == is_link {
        return Err("neither a file nor a link".into());
    }
    if line.exec == Some(false) {
        return Err("exec is only ever true".into());
    }
    if line.object.as_ref().is_some_and(|object| !is_hex(object, 64)) {
        return Err("no object id".into());
    }
    let sound =
        |text: &str| !text.chars().any(|c| c.is_control() || c == '\\') && text.len() <= 1024;
    let component =
        |part: &str| !part.is_empty() && part.len() <= 255 && part != "." && part != "..";
    if !sound(&line.path) || !line.path.split('/').all(component) {
        return Err(format!("bad path {:?}", line.path));
    }
    match &line.symlink {
        Some(target) if !sound(target) || destination(&line.path, target).is_none() => {
            Err(format!("bad target {target:?}"))
        }
        _ => Ok(()),
    }
}

/// Returns the destination of a link at `path`, from the root of the tree; `None` if it is outside.
pub(crate) fn destination(path: &str, target: &str) -> Option<String> {
    let mut place: Vec<&str> = path.split('/').collect();
    place.pop();
    let mut is_behind_name = false;
    for part in target.split('/') {
        match part {
            "" => return None,
            ".." if is_behind_name => return None,
            ".." => drop(place.pop()?),
            "." => {}
            name => {
                is_behind_name = true;
                place.push(name);
            }
        }
    }
    Some(place.join("/"))
}

/// Returns the directories above `path`, nearest first, without the root.
pub(crate) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.rmatch_indices('/').map(|(at, _)| &path[..at])
}

/// Whether `text` consists of `digits` lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the sequence in a release name; `None` if it is not a release name.
pub(crate) fn sequence_of(name: &str) -> Option<u64> {
    let (sequence, id16) = name.split_once('-')?;
    let number: u64 = sequence.parse().ok()?;
    (is_hex(id16, 16) && number.to_string() == sequence).then_some(number)
}
