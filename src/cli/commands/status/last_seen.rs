//! The release that each mirror served when it last responded, in a small file in the origin's
//! cache.
//!
//! A mirror's history is stored on the mirror. This file is for when the mirror cannot be reached.
//! It is only a cache, so a failure to read or write it is not an error.

use std::collections::BTreeMap;
use std::io::Write as _;

use headwater::config::Config;
use headwater::fleet_status::{LastSeen, MirrorStatus};
use headwater::fsx;

use crate::cli::setup::settings;

/// The name of the file in the cache directory.
const FILE_NAME: &str = "last-seen.json";
/// Maximum size of a file that is read, in bytes.
const MAX_BYTES: u64 = 4 * 1024 * 1024;
/// Maximum number of mirrors in the file.
const MAX_MIRRORS: usize = 5_000;

/// The last record for each mirror, by location.
type LastSeenTable = BTreeMap<String, LastSeen>;

/// For mirrors that did not respond, sets the release that they last served. If `noted` is a time,
/// records that the other mirrors served their releases at that time; if it is `None`, leaves the
/// file unchanged.
pub(super) fn fill_last_seen(
    mirror_statuses: &mut [MirrorStatus],
    config: &Config,
    record_time: Option<u64>,
) {
    let Ok(path) = settings::cache_dir(None, config).map(|dir| dir.join(FILE_NAME)) else { return };
    let text = fsx::read_text(&path, MAX_BYTES).unwrap_or_default();
    let mut known: LastSeenTable = serde_json::from_str(&text).unwrap_or_default();
    let before = known.clone();
    for mirror_status in mirror_statuses {
        match (record_time, mirror_status.sequence, mirror_status.created) {
            (Some(time), Some(sequence), Some(created)) if mirror_status.is_known() => {
                known.insert(mirror_status.location.clone(), LastSeen { time, sequence, created });
            }
            _ if !mirror_status.is_known() => {
                mirror_status.last_seen = known.get(&mirror_status.location).copied();
            }
            _ => {}
        }
    }
    if known != before && known.len() <= MAX_MIRRORS {
        write(&path, &known);
    }
}

fn write(path: &std::path::Path, known: &LastSeenTable) {
    let Ok(text) = serde_json::to_vec(known) else { return };
    // If the write fails, the next run finds no file.
    path.parent().and_then(|parent| fsx::create_dir_all(parent).ok());
    fsx::replace_file(path, |out| out.write_all(&text)).ok();
}
