//! Rewrites the current release of a store so that it is consistent but false, as a malicious or
//! defective headwater could have written it.

use std::fs;
use std::path::Path;

use crate::checker::{self, Line, Record};

/// The record and the manifest of a release.
#[derive(Debug)]
pub(crate) struct Forgery {
    /// The record; ids and totals are filled in afterwards.
    pub(crate) record: Record,
    /// The manifest; it is sorted afterwards.
    pub(crate) lines: Vec<Line>,
}

/// Returns a retired line for `path` with the content of `like`.
pub(crate) fn retired(path: &str, like: &Line) -> Line {
    Line { path: path.to_owned(), until: Some(4_000_000_000), ..like.clone() }
}

/// Replaces the current release of `mirror` by the result of `edit`. The slot stays as it is.
pub(crate) fn forge(mirror: &Path, edit: impl FnOnce(&mut Forgery)) {
    let inner = mirror.join(".headwater");
    let slot = fs::read_link(mirror.join("current")).unwrap();
    let old = slot.file_name().unwrap().to_str().unwrap().to_owned();
    let record = checker::records(mirror).remove(&old).unwrap();
    let lines = checker::manifest(mirror, &record.manifest).unwrap();
    let mut forgery = Forgery { record, lines };
    edit(&mut forgery);
    let Forgery { mut record, mut lines } = forgery;

    lines.sort_by(|a, b| a.path.cmp(&b.path));
    let lines_text: String =
        lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    let bytes = format!("{{\"headwater\":\"manifest\",\"version\":1}}\n{lines_text}").into_bytes();
    record.manifest = blake3::hash(&bytes).to_hex().to_string();
    record.content = checker::content_id(&lines);
    let count = |lines: usize| u64::try_from(lines).unwrap();
    record.entries = count(lines.len());
    record.retired = Some(count(lines.iter().filter(|line| line.until.is_some()).count()))
        .filter(|&retired| retired > 0);
    record.until = lines.iter().filter_map(|line| line.until).min();
    record.bytes =
        lines.iter().filter(|line| line.until.is_none()).filter_map(|line| line.size).sum();
    let text = serde_json::to_string(&record).unwrap();
    let new = format!("{}-{}", record.sequence, &blake3::hash(text.as_bytes()).to_hex()[..16]);

    let manifest = zstd::bulk::compress(&bytes, 3).unwrap();
    fs::write(inner.join(format!("manifests/{}.zst", record.manifest)), manifest).unwrap();
    fs::remove_file(inner.join(format!("releases/{old}.json"))).unwrap();
    fs::write(inner.join(format!("releases/{new}.json")), text).unwrap();
    fs::rename(inner.join("slots").join(&old), inner.join("slots").join(&new)).unwrap();
    fs::remove_file(mirror.join("current")).unwrap();
    std::os::unix::fs::symlink(format!(".headwater/slots/{new}"), mirror.join("current")).unwrap();
    // The spare tree has the old name, too, and would belong to no release.
    fs::remove_dir_all(inner.join(format!("slots/{old}.spare"))).ok();
}
