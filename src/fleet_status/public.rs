//! Checks what visitors get: fetches a few files of a mirror's release through its public URL and
//! compares their hashes.
//!
//! headwater adds no file of its own to the served files, so the files that changed last best show
//! which release visitors get.

use std::cmp::Reverse;

use serde::Serialize;

use crate::hash::ObjectId;
use crate::manifest::{Entry, FileEntry, ManifestError, ManifestReader};
use crate::mirror::Mirror;
use crate::release::Release;
use crate::web::{FetchedPage, HttpClient, WebError, encode_path};

/// Number of files to fetch.
const SAMPLES: usize = 5;
/// Maximum size of a file that is fetched, in bytes.
const MAX_BYTES: u64 = 8 * 1024 * 1024;
/// The page that a web server shows for a directory.
const INDEX_PAGE: &str = "index.html";

/// The result of checking what visitors of a mirror get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublicCheck {
    /// The public URL of the mirror.
    pub url: String,
    /// The number of files that were fetched.
    pub checked: u64,
    /// The fetched files that differ from the release.
    pub stale: Vec<StaleFile>,
}

/// A file whose public content differs from the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StaleFile {
    /// The path in the tree.
    pub path: String,
    /// What visitors get instead.
    pub why: String,
}

/// Fetches some files of `release` through `url`, below which visitors find the tree that `mirror`
/// serves.
#[must_use]
pub fn check_public(
    web: &HttpClient,
    url: &str,
    mirror: &dyn Mirror,
    release: &Release,
) -> PublicCheck {
    let mut public = PublicCheck { url: url.to_owned(), checked: 0, stale: Vec::new() };
    match samples(mirror, release) {
        Err(why) => public.stale.push(StaleFile { path: "its manifest".to_owned(), why }),
        Ok(samples) => {
            for (path, file) in samples {
                public.checked += 1;
                if let Err(why) = check_file(web, url, &path, &file) {
                    public.stale.push(StaleFile { path, why });
                }
            }
        }
    }
    public
}

/// Fetches `path` below `url`, at most `max_bytes`, and returns the object that visitors get.
///
/// # Errors
/// Fails if the file cannot be fetched.
pub fn fetch(
    web: &HttpClient,
    url: &str,
    path: &str,
    max_bytes: u64,
) -> Result<FetchedPage, WebError> {
    let at = |path: &str| format!("{}/{}", url.trim_end_matches('/'), encode_path(path));
    match web.fetch(&at(path), max_bytes) {
        // Some servers redirect the index page of a directory to the directory.
        Err(WebError::Status { status: 300..400 }) if is_index(path) => {
            web.fetch(&at(path.strip_suffix(INDEX_PAGE).unwrap_or(path)), max_bytes)
        }
        other => other,
    }
}

fn is_index(path: &str) -> bool {
    path.strip_suffix(INDEX_PAGE)
        .is_some_and(|directory| directory.is_empty() || directory.ends_with('/'))
}

fn check_file(web: &HttpClient, url: &str, path: &str, file: &FileEntry) -> Result<(), String> {
    // Reads no more than the size of the file: a longer response is different content.
    match fetch(web, url, path, file.size) {
        Ok(FetchedPage { object, .. }) if object == file.object => Ok(()),
        Ok(FetchedPage { object, .. }) => Err(format!("other content: {}", short(&object))),
        Err(WebError::TooLarge { .. }) => Err("other content, and more of it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The first digits of an id, for people to compare.
fn short(object: &ObjectId) -> String {
    object.to_string().chars().take(12).collect()
}

/// The files that changed last. Among files with equal times, takes those with the lowest ids, so
/// that the choice for a release is always the same.
fn samples(mirror: &dyn Mirror, release: &Release) -> Result<Vec<(String, FileEntry)>, String> {
    let bytes = mirror.manifest(&release.manifest).map_err(|error| error.to_string())?;
    let entries =
        ManifestReader::new(bytes, Some(release.manifest)).map_err(|error| error.to_string())?;
    newest(entries).map_err(|error| error.to_string())
}

fn newest(
    entries: impl Iterator<Item = Result<Entry, ManifestError>>,
) -> Result<Vec<(String, FileEntry)>, ManifestError> {
    let mut best: Vec<(String, FileEntry)> = Vec::with_capacity(SAMPLES + 1);
    for entry in entries {
        let entry = entry?;
        if let Some(file) = entry.file().filter(|file| entry.is_live() && file.size <= MAX_BYTES) {
            best.push((entry.path.as_str().to_owned(), *file));
            // There are at most six entries, so sorting them for each file costs little, and no
            // list of all files is needed.
            best.sort_by_key(|(_, file)| (Reverse(file.mtime), file.object));
            best.truncate(SAMPLES);
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::EntryKind;
    use crate::tree_path::TreePath;

    #[test]
    fn most_recently_changed_files_are_checked() {
        let entry = |number: u64| {
            let (size, until) =
                (if number == 19 { MAX_BYTES + 1 } else { 1 }, (number == 18).then_some(9));
            let file = FileEntry {
                object: ObjectId::of(&number.to_le_bytes()),
                size,
                mtime: number / 2,
                exec: false,
            };
            Ok(Entry {
                path: TreePath::new(&format!("f{number:02}")).unwrap(),
                kind: EntryKind::File(file),
                until,
            })
        };
        let mut paths: Vec<String> =
            newest((0..20).map(entry)).unwrap().into_iter().map(|(path, _)| path).collect();
        paths.sort();
        // Of two files of one time there is room for one only.
        assert_eq!(paths[1..], ["f14", "f15", "f16", "f17"]);
        assert!(["f12", "f13"].contains(&paths[0].as_str()));
        assert!(is_index("index.html") && is_index("a/index.html") && !is_index("a/myindex.html"));
    }
}
