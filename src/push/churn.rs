//! Explains churn: if most changed files of a kind differ only in one small region, the cause is
//! probably a build stamp rather than an edit.

use std::collections::BTreeMap;
use std::io::Read as _;

use serde::Serialize;

use crate::hash::ObjectId;
use crate::manifest::{Change, ChangeKind, Diff};
use crate::mirror::ObjectSource as _;
use crate::monitor::Monitor;
use crate::packing::content_source::ContentSource;

/// A kind of file is examined only if at least this many files of that kind changed.
const MIN_FILES: usize = 10;
/// Maximum size of a region that counts as one spot, in bytes.
const MAX_DIFFERENCE_BYTES: usize = 128;
/// Files larger than this are not compared.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Maximum number of bytes to compare in total. Comparing so many takes about a second.
const MAX_TOTAL_BYTES: u64 = 512 << 20;
/// The number of bytes that an example shows from each side.
const SHOWN_BYTES: usize = 60;

/// The difference that most changed files of a kind share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Churn {
    /// The kind, which is an extension.
    pub extension: String,
    /// The number of changed files that were compared.
    pub changed: u64,
    /// The number of compared files that differ only near one spot.
    pub near_one_spot: u64,
    /// The path of a file that differs only near one spot.
    pub example: String,
    /// The old text at that spot.
    pub before: String,
    /// The new text at that spot.
    pub after: String,
}

/// Compares changed files. Returns the kinds in which more than half of the files differ only near
/// one spot.
pub(super) fn find_churn(
    diff: &Diff,
    content_source: &ContentSource,
    monitor: &dyn Monitor,
) -> Vec<Churn> {
    let mut kinds: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in diff.changes.iter().filter(|change| change.kind == ChangeKind::Changed) {
        if let Some(extension) = change.path.extension() {
            kinds.entry(extension).or_default().push(change);
        }
    }
    let mut budget = MAX_TOTAL_BYTES;
    // Grouped by extension, because a build stamp is usually in all files of a kind.
    let kinds = kinds.into_iter().filter(|(_, changes)| changes.len() >= MIN_FILES);
    kinds
        .filter_map(|(extension, changes)| {
            churn_of_extension(extension, &changes, content_source, &mut budget, monitor)
        })
        .collect()
}

fn churn_of_extension(
    extension: &str,
    changes: &[&Change],
    content_source: &ContentSource,
    budget: &mut u64,
    monitor: &dyn Monitor,
) -> Option<Churn> {
    let mut churn: Option<Churn> = None;
    let (mut compared, mut near) = (0, 0);
    for change in changes.iter().filter(|change| change.size <= MAX_FILE_BYTES) {
        if monitor.is_cancelled() || *budget < change.size {
            break;
        }
        *budget -= change.size;
        let read = |id: Option<ObjectId>| {
            let mut bytes = Vec::new();
            content_source
                .cancellable_by(monitor)
                .object(&id?)
                .ok()?
                .take(MAX_FILE_BYTES)
                .read_to_end(&mut bytes)
                .ok()?;
            Some(bytes)
        };
        // This only explains a plan, so unreadable content is skipped without an error.
        let (Some(before), Some(after)) = (read(change.old_object), read(change.object)) else {
            continue;
        };
        compared += 1;
        if let Some((before, after)) = small_difference(&before, &after) {
            near += 1;
            churn.get_or_insert_with(|| Churn {
                extension: extension.to_owned(),
                changed: 0,
                near_one_spot: 0,
                example: change.path.to_string(),
                before: excerpt(before),
                after: excerpt(after),
            });
        }
    }
    churn.filter(|_| near * 2 > compared).map(|churn| Churn {
        changed: compared,
        near_one_spot: near,
        ..churn
    })
}

/// The part where two texts differ, if it is small.
fn small_difference<'a>(before: &'a [u8], after: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (before, after) = (&before[head..], &after[head..]);
    let tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);
    (before.len() <= MAX_DIFFERENCE_BYTES && after.len() <= MAX_DIFFERENCE_BYTES)
        .then_some((before, after))
}

fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_is_one_spot_and_an_edit_at_both_ends_is_not() {
        let page = |stamp: &str| {
            format!("{}built {stamp}{}", "a".repeat(500), "b".repeat(500)).into_bytes()
        };
        assert_eq!(
            small_difference(&page("2026-01-01"), &page("2026-02-03")),
            Some((&b"1-01"[..], &b"2-03"[..]))
        );
        assert_eq!(small_difference(b"same", b"same"), Some((&b""[..], &b""[..])));
        let mut other = page("x");
        other[0] = b'z';
        let last = other.len() - 1;
        other[last] = b'z';
        assert_eq!(small_difference(&page("x"), &other), None);
        assert_eq!(small_difference(b"aXa", b"aa"), Some((&b"X"[..], &b""[..])));
    }
}
