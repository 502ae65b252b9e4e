//! The text of the progress block on a terminal: the scan, the packs, a line for each mirror, and
//! the soaking wave.
//!
//! Pure: turns counts, time and width into lines. Leaves out words that do not fit, and never cuts
//! a word in two.

use std::time::Instant;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::cli::output::format::{escape, format_count, format_duration, format_time};
use crate::cli::output::transfer_counts::{MirrorCounts, Soak, TransferCounts};

/// Maximum number of mirror lines in the block.
const MAX_MIRROR_LINES: usize = 16;
/// Number of terminal rows that are not used for mirror lines.
const OTHER_ROWS: usize = 6;

/// The lines of the block. Each line is shorter than `columns`, so that the terminal does not wrap
/// it.
pub(crate) fn block_lines(
    sums: &TransferCounts,
    now: Instant,
    (columns, rows): (usize, usize),
) -> Vec<String> {
    let max_width = columns.saturating_sub(1);
    let mut lines = Vec::new();
    if sums.is_scanning || sums.scanned_entries > 0 {
        lines.push(truncate_words(&sums.scan_line(now), max_width));
    }
    if sums.has_bundles() {
        lines.push(truncate_words(&sums.bundle_line(), max_width));
    }
    let shown: Vec<&MirrorCounts> =
        sums.mirrors.iter().filter(|mirror| mirror.has_begun()).collect();
    // If the block were taller than the terminal, it would scroll and could not be redrawn.
    let most = rows.saturating_sub(OTHER_ROWS).clamp(1, MAX_MIRROR_LINES);
    let names: Vec<String> = shown
        .iter()
        .take(most)
        // Two fifths of the line are for the name, and the rest is for the progress.
        .map(|mirror| shorten_middle(&escape(&mirror.name), max_width * 2 / 5))
        .collect();
    let widest = names.iter().map(|name| name.width()).max().unwrap_or_default();
    for (mirror, name) in shown.iter().zip(&names) {
        let begin = format!("  {name}{}  ", " ".repeat(widest - name.width()));
        let rest = mirror_progress(mirror, sums, now, max_width.saturating_sub(begin.width()));
        lines.push(format!("{begin}{rest}").trim_end().to_owned());
    }
    if shown.len() > most {
        lines.push(truncate_words(
            &format!("  … and {} more mirrors", format_count((shown.len() - most) as u64)),
            max_width,
        ));
    }
    lines.extend(sums.soak.as_ref().map(|soak| soak_line(soak, now, max_width)));
    lines
}

/// The remaining soak time of a wave, and the time at which it ends if there is room for it.
fn soak_line(soak: &Soak, now: Instant, max_width: usize) -> String {
    let line = soak_text(soak, now);
    let without_time = line.split_once(" at ").map_or(line.as_str(), |(left, _)| left);
    truncate_words(if line.width() <= max_width { &line } else { without_time }, max_width)
}

/// The remaining soak time of a wave and the time at which it ends.
pub(crate) fn soak_text(soak: &Soak, now: Instant) -> String {
    // Round up, so that 0 s is shown only at the end.
    let seconds = soak.end.saturating_duration_since(now).as_millis().div_ceil(1_000);
    let left = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX));
    let left =
        if left.as_secs() < 10 { format!("{} s", left.as_secs()) } else { format_duration(left) };
    format!(
        "wave {}: {left} left until the others follow at {}",
        soak.wave,
        format_time(soak.until)
    )
}

impl MirrorCounts {
    /// Whether there is anything to show for the mirror.
    fn has_begun(&self) -> bool {
        self.status_text.is_some() || self.is_sending()
    }
}

/// The line of a mirror without its name: its last report, or the progress of the transfer.
fn mirror_progress(
    mirror: &MirrorCounts,
    sums: &TransferCounts,
    now: Instant,
    max_width: usize,
) -> String {
    let sending = sums.transfer_progress(mirror, now).filter(|_| mirror.status_text.is_none());
    let Some(sending) = sending else {
        return truncate_words(mirror.status_text.as_deref().unwrap_or_default(), max_width);
    };
    let mut words = sending.text_parts();
    let has_room = |words: &[String]| words.join("  ").width() <= max_width;
    // Leave out the total first, and then the rate.
    while words.len() > 1 && !has_room(&words) {
        words.remove(1);
    }
    truncate_words(&words.join("  "), max_width)
}

/// The first words of `text` that fit.
fn truncate_words(text: &str, max_width: usize) -> String {
    if text.width() <= max_width {
        return text.to_owned();
    }
    let mut fitting = String::new();
    for word in text.split_inclusive(' ') {
        if fitting.width() + word.trim_end().width() + " …".width() > max_width {
            break;
        }
        fitting.push_str(word);
    }
    format!("{} …", fitting.trim_end())
}

/// Cuts out the middle of a long name, because names in a fleet often differ at the end.
fn shorten_middle(name: &str, max_width: usize) -> String {
    if name.width() <= max_width {
        return name.to_owned();
    }
    let take = |chars: &mut dyn Iterator<Item = char>, max_width: usize| {
        let mut width = 0;
        let fits = |c: &char| {
            width += c.width().unwrap_or_default();
            width <= max_width
        };
        chars.take_while(fits).collect::<Vec<char>>()
    };
    let half = max_width.saturating_sub(1) / 2;
    let begin = take(&mut name.chars(), half);
    let end = take(&mut name.chars().rev(), half);
    begin.into_iter().chain(['…']).chain(end.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headwater::hash::{BundleKey, PackId};
    use headwater::monitor::Event;

    use super::*;

    fn busy() -> (TransferCounts, Instant) {
        let (mut sums, start) = (TransferCounts::default(), Instant::now());
        let long = "https://mirror-eu-1.example.com:7447/docs";
        sums.set_mirror_order(["frankfurt", long, "sydney"]);
        let mirrors = ["frankfurt", long, "sydney"].map(str::to_owned).to_vec();
        let (bundle, later) = (BundleKey::from_bytes([1; 32]), start + Duration::from_secs(1));
        let sent = |mirror: &str, bytes| Event::PackSent {
            mirror: mirror.into(),
            pack: PackId::of(b""),
            bytes,
        };
        for (now, event) in [
            (
                start,
                Event::ScanFinished {
                    entries: 1_200,
                    bytes: 9,
                    hashed_files: 1,
                    hashed_bytes: 40_000_000,
                },
            ),
            (start, Event::BundleStarted { bundle, mirrors, objects: 1, bytes: 40_000_000 }),
            (later, Event::BundleAdvanced { bundle, bytes: 20_000_000, packed_bytes: 10_000_000 }),
            (later, sent(long, 5_000_000)),
            (later, sent("frankfurt", 10_000_000)),
            (later, Event::AlreadyCurrent { mirror: "sydney".into(), sequence: 7 }),
            (later, Event::SoakStarted { wave: 1, seconds: 300, until: 1_798_135_200 }),
        ] {
            sums.add_event(&event, now);
        }
        (sums, later)
    }

    #[test]
    fn wide_terminal_shows_all_progress() {
        let (sums, now) = busy();
        assert_eq!(
            block_lines(&sums, now, (120, 24)),
            [
                "scan: 1,200 entries, 40.0 MB read",
                "pack: 50 % of 40.0 MB, compressed to 50 %",
                "  frankfurt                                  50 %  10.0 MB of 20.0 MB  10.0 MB/s  \
                 1.0 s left",
                "  https://mirror-eu-1.example.com:7447/docs  25 %  5.0 MB of 20.0 MB  5.0 MB/s  \
                 3.0 s left",
                "  sydney                                     release 7 was already current",
                "wave 1: 5 min left until the others follow at 2026-12-24T18:00:00Z",
            ]
        );
    }

    #[test]
    fn narrow_terminal_cuts_between_words() {
        let (sums, now) = busy();
        assert_eq!(
            block_lines(&sums, now, (60, 24)),
            [
                "scan: 1,200 entries, 40.0 MB read",
                "pack: 50 % of 40.0 MB, compressed to 50 %",
                "  frankfurt                50 %  10.0 MB/s  1.0 s left",
                "  https://mir…m:7447/docs  25 %  5.0 MB/s  3.0 s left",
                "  sydney                   release 7 was already current",
                "wave 1: 5 min left until the others follow",
            ]
        );
        for columns in 30..160 {
            for line in block_lines(&sums, now, (columns, 24)) {
                assert!(line.width() < columns, "{columns}: {line}");
            }
        }
    }

    #[test]
    fn unresponsive_mirror_is_named() {
        let (mut sums, now) = (TransferCounts::default(), Instant::now());
        sums.set_mirror_order(["edge4", "edge5"]);
        sums.add_event(&Event::AnswerOverdue { mirror: "edge5".into() }, now);
        assert_eq!(block_lines(&sums, now, (80, 24)), ["  edge5  waiting for a response"]);
        sums.add_event(&Event::StateLearned { mirror: "edge5".into(), sequence: Some(7) }, now);
        assert_eq!(block_lines(&sums, now, (80, 24)), ["  edge5  has release 7"]);
    }

    #[test]
    fn large_fleet_does_not_fill_the_terminal() {
        let mut sums = TransferCounts::default();
        for number in 0..100 {
            sums.add_event(
                &Event::StateLearned { mirror: format!("m{number}"), sequence: None },
                Instant::now(),
            );
        }
        let lines = block_lines(&sums, Instant::now(), (80, 12));
        assert_eq!((lines.len(), lines[6].as_str()), (7, "  … and 94 more mirrors"));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(shorten_middle("漢字漢字漢字", 7), "漢…字");
        assert_eq!(truncate_words("漢字 漢字", 7), "漢字 …");
    }
}
