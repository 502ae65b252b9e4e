//! Numbers, times, lists and tables as text.
//!
//! All output is readable without colour, and text from a peer or a disk passes through [`escape`]
//! before it is printed. Uses the crates `bytesize` and `unicode-width`.

use std::borrow::Cow;
use std::time::Duration;

use headwater::text::{self, Secrets};
use unicode_width::UnicodeWidthStr as _;

/// Maximum number of paths that are listed. Any others are only counted.
pub(crate) const MAX_LISTED: usize = 50;

/// Escapes control, reordering and invisible characters in `text` as `\u{..}`, and hides everything
/// that looks like a token.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    match without_tokens(text) {
        Cow::Borrowed(text) => text::escape(text),
        Cow::Owned(text) => Cow::Owned(text::escape(&text).into_owned()),
    }
}

/// Hides everything in `text` that looks like a token: a user may have written one in the wrong
/// place.
pub(crate) fn without_tokens(text: &str) -> Cow<'_, str> {
    Secrets::default().redact(text)
}

/// A number with thousands separators: `1,234,567`.
pub(crate) fn format_count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.char_indices() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number and its noun: `1 file`, `1,234 files`.
pub(crate) fn pluralize(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {many}", format_count(number)) }
}

/// A size in decimal units: `1.2 MB`.
pub(crate) fn format_bytes(size: u64) -> String {
    bytesize::ByteSize::b(size).display().si().to_string()
}

/// A length of time in at most two units: `0.3 s`, `42 s`, `3 min 5 s`, `2 d 4 h`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // Tenths are shown only where they are significant.
    if seconds < 10 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    let (large, small) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3_600 => ((seconds / 60, "min"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "min")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    };
    match small.0 {
        0 => format!("{} {}", large.0, large.1),
        _ => format!("{} {} {} {}", large.0, large.1, small.0, small.1),
    }
}

/// The time since `then`, both in seconds since 1970: `3 h ago`. The clocks of two machines may
/// differ a little, so a time slightly in the future is `just now`.
pub(crate) fn format_age(then: u64, now: u64) -> String {
    const SKEW_SECONDS: u64 = 60;
    let unit = |seconds: u64| match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        // Hours are used up to two days: `1 d` could mean any time from 24 to 47 hours.
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    };
    match (now.checked_sub(then), then.saturating_sub(now)) {
        (Some(0..5), _) | (None, 0..=SKEW_SECONDS) => "just now".to_owned(),
        (Some(passed), _) => format!("{} ago", unit(passed)),
        (None, ahead) => format!("{} ahead of this clock", unit(ahead)),
    }
}

/// A time in seconds since 1970, in RFC 3339 format: `2026-11-22T12:55:00Z`.
pub(crate) fn format_time(seconds: u64) -> String {
    let timestamp =
        i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| format!("{seconds} s after 1970"), |timestamp| timestamp.to_string())
}

/// The first [`MAX_LISTED`] of `items`, escaped, each preceded by `prefix`, followed by a line with
/// the number of remaining items.
pub(crate) fn list_lines<S: AsRef<str>>(
    prefix: &str,
    items: impl IntoIterator<Item = S>,
) -> Vec<String> {
    let mut items = items.into_iter();
    let mut lines: Vec<String> = items
        .by_ref()
        .take(MAX_LISTED)
        .map(|item| format!("{prefix}{}", escape(item.as_ref())))
        .collect();
    let rest = items.count();
    if rest > 0 {
        lines.push(format!("{prefix}… and {} more", format_count(rest as u64)));
    }
    lines
}

/// The alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// For text.
    Left,
    /// For numbers.
    Right,
}

/// A small table: aligned columns with headings, separated by two spaces.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new<'h>(headings: impl IntoIterator<Item = (&'h str, Align)>) -> Self {
        let (names, columns) =
            headings.into_iter().map(|(heading, align)| (heading.to_owned(), align)).unzip();
        Self { columns, rows: vec![names] }
    }

    /// Adds a row, whose cells are escaped here. Missing cells are empty.
    pub(crate) fn add_row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(|cell| escape(cell.as_ref()).into_owned()).collect());
    }

    /// Removes columns in which every row is empty.
    #[must_use]
    pub(crate) fn without_empty_columns(mut self) -> Self {
        if self.rows.len() == 1 {
            return self;
        }
        let is_used = |column: usize| {
            self.rows.iter().skip(1).any(|row| row.get(column).is_some_and(|c| !c.is_empty()))
        };
        let used: Vec<bool> = (0..self.columns.len()).map(is_used).collect();
        let mut keep = used.iter().copied();
        self.columns.retain(|_| keep.next().unwrap_or(true));
        for row in &mut self.rows {
            let mut keep = used.iter().copied();
            row.retain(|_| keep.next().unwrap_or(true));
        }
        self
    }

    /// The table as text, one line per row, without trailing spaces.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max()
        };
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            // Skip a column of zero width.
            for ((cell, width), align) in
                row.iter().zip(&widths).zip(&self.columns).filter(|((_, width), _)| **width > 0)
            {
                let blank = " ".repeat(width - cell.width());
                line.extend(match align {
                    Align::Left => [cell, &blank, "  "],
                    Align::Right => [&blank, cell, "  "],
                });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(escape("plain é ü 漢"), "plain é ü 漢");
        assert_eq!(escape("a\u{1b}[2Jb\nc\r\t"), "a\\u{1b}[2Jb\\u{a}c\\u{d}\\u{9}");
        assert_eq!(escape("\u{9b}31m\u{7f}\u{202e}gpj"), "\\u{9b}31m\\u{7f}\\u{202e}gpj");
        assert_eq!(
            escape("a\u{200b}b\u{feff}c\u{ad}d\u{2060}"),
            "a\\u{200b}b\\u{feff}c\\u{ad}d\\u{2060}"
        );
    }

    #[test]
    fn numbers_have_thousands_separators() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(format_count(number), text);
        }
        assert_eq!(pluralize(1, "file", "files"), "1 file");
        assert_eq!(pluralize(2_014, "file", "files"), "2,014 files");
    }

    #[test]
    fn sizes_are_decimal() {
        for (size, text) in
            [(0, "0 B"), (999, "999 B"), (1_234_567, "1.2 MB"), (5_000_000_000, "5.0 GB")]
        {
            assert_eq!(format_bytes(size), text);
        }
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (milliseconds, text) in [
            (320, "0.3 s"),
            (42_000, "42 s"),
            (60_000, "1 min"),
            (185_000, "3 min 5 s"),
            (7_260_000, "2 h 1 min"),
            (187_200_000, "2 d 4 h"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn ages_are_rounded_and_tolerate_clock_differences() {
        let now = 1_000_000_000;
        for (then, text) in [
            (now, "just now"),
            (now + 30, "just now"),
            (now - 42, "42 s ago"),
            (now - 3 * 3_600 - 59, "3 h ago"),
            (now - 5 * 86_400, "5 d ago"),
            (now + 7_200, "2 h ahead of this clock"),
        ] {
            assert_eq!(format_age(then, now), text);
        }
    }

    #[test]
    fn timestamps_are_utc() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00Z");
        assert!(format_time(u64::MAX).ends_with("after 1970"));
    }

    #[test]
    fn long_lists_end_with_a_count() {
        let paths: Vec<String> = (0..1_284).map(|number| format!("p{number}\n")).collect();
        let lines = list_lines("  ", &paths);
        assert_eq!(lines.len(), MAX_LISTED + 1);
        assert_eq!(lines[0], "  p0\\u{a}");
        assert_eq!(lines[MAX_LISTED], "  … and 1,234 more");
        assert_eq!(list_lines("", ["a"]), ["a"]);
    }

    #[test]
    fn table_columns_are_aligned() {
        let mut table = Table::new([
            ("mirror", Align::Left),
            ("release", Align::Right),
            ("state", Align::Left),
        ]);
        table.add_row(["eu", "12", "current"]);
        table.add_row(["/srv/é", "1,234", "2 behind\u{1b}"]);
        assert_eq!(
            table.render(),
            "mirror  release  state\neu           12  current\n/srv/é    1,234  2 behind\\u{1b}\n"
        );
        table.add_row(["/srv/漢字", "", "e\u{301}"]);
        let text = table.render();
        assert_eq!(text.lines().last(), Some("/srv/漢字           e\u{301}"), "{text}");
    }
}
