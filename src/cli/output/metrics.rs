//! `--metrics FILE`: the state of the mirrors and the result of the last push, for the textfile
//! collector of Prometheus's node_exporter.
//!
//! Gauges in base units, without timestamps; unknown values are left out. The file
//! is replaced atomically. Two facts are copied from the old file: when a mirror was
//! last seen current, and the result of the last push.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use headwater::fleet_status::{MirrorStatus, StatusKind};
use headwater::fsx::{self, IoError};

/// Maximum size of an old file that is read, in bytes: enough for ten thousand mirrors.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
const LAST_SUCCESS: &str = "headwater_mirror_last_success_timestamp_seconds";
pub(crate) const PUSH_PREFIX: &str = "headwater_push_";

/// How a push ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PushExit {
    /// The exit code.
    pub(crate) code: u8,
    /// The duration in milliseconds.
    pub(crate) milliseconds: u64,
}

/// The data for the gauges: the fleet, and the push if there was one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetricsInputs<'a> {
    /// The site. It also applies to mirrors that did not respond.
    pub(crate) site: &'a str,
    /// The states of the mirrors.
    pub(crate) mirror_statuses: &'a [MirrorStatus],
    /// How the push ended, if there was one.
    pub(crate) push: Option<PushExit>,
    /// The current time, in seconds since 1970.
    pub(crate) now: u64,
}

/// Replaces the file at `path`.
pub(crate) fn write(path: &Path, inputs: &MetricsInputs<'_>) -> Result<(), IoError> {
    // If the old file cannot be read, nothing is copied.
    let before = fsx::read_text(path, MAX_BYTES).unwrap_or_default();
    let text = render(inputs, &before);
    fsx::replace_file(path, |out| out.write_all(text.as_bytes()))
}

/// The text that replaces `before`.
fn render(inputs: &MetricsInputs<'_>, before: &str) -> String {
    let mut page = MetricsPage { text: String::new(), site: inputs.site };
    write_mirror_gauges(&mut page, inputs, before);
    write_fleet_gauges(&mut page, inputs);
    match inputs.push {
        Some(ended) => write_push_gauges(&mut page, ended, inputs, before),
        // `status --metrics` replaces the file too, and must keep the gauges of the last push.
        None => page.text.extend(kept_push_lines(before).iter().map(|line| format!("{line}\n"))),
    }
    page.text
}

/// The name of a gauge for mirrors, its help text, and its value.
type MirrorGauge = (&'static str, &'static str, fn(&MirrorStatus) -> Option<u64>);

/// The gauges that are a single number for each mirror.
const MIRROR_GAUGES: [MirrorGauge; 15] = [
    ("headwater_mirror_release_sequence", "Sequence of the release that the mirror serves.", |s| {
        s.sequence
    }),
    (
        "headwater_mirror_release_timestamp_seconds",
        "When the release that the mirror serves was published.",
        |s| s.created,
    ),
    // No value if nothing is known about the mirror: 0 would mean that it lacks nothing.
    ("headwater_mirror_behind_releases", "Releases that the mirror lacks.", |s| {
        s.lag.map(|_| s.behind)
    }),
    (
        "headwater_mirror_lag_seconds",
        "Time since the oldest release that the mirror lacks was published.",
        |s| s.lag,
    ),
    (
        "headwater_mirror_switch_timestamp_seconds",
        "When the mirror last switched, by its clock.",
        |s| s.switched,
    ),
    (
        "headwater_mirror_verify_timestamp_seconds",
        "When the mirror was last verified, by its clock.",
        |s| s.verified.map(|verified| verified.time),
    ),
    ("headwater_mirror_verify_faults", "Faults that the last verification found.", |s| {
        s.verified.map(|verified| verified.faults)
    }),
    (
        "headwater_mirror_hook_failed",
        "Whether post_activate failed after the mirror's last switch.",
        |s| s.is_known().then(|| u64::from(s.hook_failure.is_some())),
    ),
    (
        "headwater_mirror_token_expiry_timestamp_seconds",
        "When the token for the mirror expires.",
        |s| s.expiries.token,
    ),
    (
        "headwater_mirror_certificate_expiry_timestamp_seconds",
        "When the certificate of the mirror expires.",
        |s| s.expiries.certificate,
    ),
    ("headwater_mirror_free_bytes", "Free bytes on the file system of the mirror.", |s| {
        s.free_bytes
    }),
    ("headwater_mirror_incoming_bytes", "Content of unfinished pushes, in bytes.", |s| {
        s.incoming_bytes
    }),
    (
        "headwater_mirror_overdue_seconds",
        "How long a retired file has been served past its expiry.",
        |s| s.incoming_bytes.map(|_| s.overdue.unwrap_or(0)),
    ),
    (
        "headwater_mirror_size_bytes",
        "Size of the files of the release that the mirror serves.",
        |s| s.bytes,
    ),
    ("headwater_mirror_entries", "Entries of the release that the mirror serves.", |s| s.entries),
];

fn write_mirror_gauges(page: &mut MetricsPage<'_>, inputs: &MetricsInputs<'_>, before: &str) {
    let one = |is: bool| Some(u64::from(is));
    let rows = inputs.mirror_statuses;
    page.gauge_per_mirror(
        "headwater_mirror_up",
        "Whether the mirror reported what it serves.",
        rows,
        |s| one(s.is_known()),
    );
    page.gauge_per_mirror(
        "headwater_mirror_current",
        "Whether the mirror serves the newest release.",
        rows,
        |s| one(s.state == StatusKind::Current),
    );
    page.gauge_per_mirror("headwater_mirror_frozen", "Whether the mirror is frozen.", rows, |s| {
        one(s.state == StatusKind::Frozen)
    });
    page.gauge_per_mirror(
        "headwater_mirror_apart",
        "Whether the mirror serves a release that was made for only some mirrors.",
        rows,
        |s| one(s.state == StatusKind::Apart),
    );
    for (name, help, fact) in MIRROR_GAUGES {
        page.gauge_per_mirror(name, help, rows, fact);
    }
    page.head("headwater_mirror_answer_seconds", "How long the mirror took to respond.");
    for row in rows {
        if let Some(ms) = row.round_trip_ms {
            page.sample(
                "headwater_mirror_answer_seconds",
                &[("mirror", &row.mirror)],
                &seconds(ms),
            );
        }
    }
    // Only the old file contains this time: no mirror knows when it was last compared with the
    // others.
    let last = last_success(before);
    page.gauge_per_mirror(
        LAST_SUCCESS,
        "When the mirror was last seen to serve the newest release.",
        rows,
        |s| {
            if s.state == StatusKind::Current {
                Some(inputs.now)
            } else {
                last.get(&s.mirror).copied()
            }
        },
    );
}

fn write_fleet_gauges(page: &mut MetricsPage<'_>, inputs: &MetricsInputs<'_>) {
    page.head("headwater_mirrors", "Mirrors by state.");
    for state in StatusKind::ALL {
        let number = inputs
            .mirror_statuses
            .iter()
            .filter(|mirror_status| mirror_status.state == state)
            .count();
        page.sample("headwater_mirrors", &[("state", state.name())], &number.to_string());
    }
    page.head("headwater_status_timestamp_seconds", "When the mirrors were polled.");
    page.sample("headwater_status_timestamp_seconds", &[], &inputs.now.to_string());
}

fn write_push_gauges(
    page: &mut MetricsPage<'_>,
    ended: PushExit,
    inputs: &MetricsInputs<'_>,
    before: &str,
) {
    let now = inputs.now.to_string();
    let succeeded = match ended.code {
        0 => Some(now.clone()),
        _ => kept_push_lines(before).iter().find_map(|line| {
            line.strip_prefix("headwater_push_last_success_timestamp_seconds")?
                .rsplit(' ')
                .next()
                .map(str::to_owned)
        }),
    };
    for (name, help, value) in [
        ("headwater_push_timestamp_seconds", "When the last push ended.", Some(now)),
        (
            "headwater_push_exit_code",
            "Exit code of the last push: 0 is success.",
            Some(ended.code.to_string()),
        ),
        (
            "headwater_push_duration_seconds",
            "Duration of the last push.",
            Some(seconds(ended.milliseconds)),
        ),
        (
            "headwater_push_last_success_timestamp_seconds",
            "When a push last ended with 0.",
            succeeded,
        ),
    ] {
        if let Some(value) = value {
            page.head(name, help);
            page.sample(name, &[], &value);
        }
    }
}

fn seconds(milliseconds: u64) -> String {
    // Prometheus measures time in seconds.
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

/// The lines about the last push in an old file.
fn kept_push_lines(before: &str) -> Vec<&str> {
    let is_push_line = |line: &&str| {
        let name =
            line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        name.starts_with(PUSH_PREFIX)
    };
    before.lines().filter(is_push_line).collect()
}

/// When each mirror was last seen current, according to an old file.
fn last_success(before: &str) -> BTreeMap<String, u64> {
    let read = |line: &str| {
        let (labels, value) = line.strip_prefix(LAST_SUCCESS)?.rsplit_once("\"} ")?;
        let (_, mirror) = labels.split_once("mirror=\"")?;
        Some((unescape_label(mirror), value.trim().parse().ok()?))
    };
    before.lines().filter_map(read).collect()
}

fn escape_label(text: &str) -> String {
    // Prometheus's text format requires these three characters to be escaped in a label. The
    // backslash comes first.
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn unescape_label(text: &str) -> String {
    let (mut plain, mut rest) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = rest.next() {
        match (c, c == '\\') {
            (_, true) => {
                plain.extend(rest.next().map(|next| if next == 'n' { '\n' } else { next }));
            }
            (c, false) => plain.push(c),
        }
    }
    plain
}

struct MetricsPage<'a> {
    text: String,
    site: &'a str,
}

impl MetricsPage<'_> {
    fn head(&mut self, name: &str, help: &str) {
        // Writing to a string cannot fail.
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge\n").ok();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        write!(self.text, "{name}{{site=\"{}\"", escape_label(self.site)).ok();
        for (label, text) in labels {
            write!(self.text, ",{label}=\"{}\"", escape_label(text)).ok();
        }
        writeln!(self.text, "}} {value}").ok();
    }

    /// Writes one gauge for each mirror that has a value.
    fn gauge_per_mirror(
        &mut self,
        name: &str,
        help: &str,
        rows: &[MirrorStatus],
        fact: impl Fn(&MirrorStatus) -> Option<u64>,
    ) {
        self.head(name, help);
        for row in rows {
            if let Some(value) = fact(row) {
                self.sample(name, &[("mirror", &row.mirror)], &value.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mirror: &str, state: StatusKind) -> MirrorStatus {
        MirrorStatus { lag: Some(3), ..MirrorStatus::unresponsive(mirror, mirror, state) }
    }

    fn inputs<'a>(mirror_statuses: &'a [MirrorStatus], now: u64) -> MetricsInputs<'a> {
        MetricsInputs { site: "docs", mirror_statuses, push: None, now }
    }

    #[test]
    fn label_values_are_escaped_and_parsed_back() {
        for name in ["eu", "a\"b\\c", "line\nfeed", "\\n", "\"} 7"] {
            let first = render(&inputs(&[row(name, StatusKind::Current)], 50), "");
            let second = render(&inputs(&[row(name, StatusKind::Unreachable)], 60), &first);
            assert_eq!(last_success(&second), BTreeMap::from([(name.to_owned(), 50)]), "{second}");
        }
    }

    #[test]
    fn last_success_survives_failures_and_invalid_files() {
        let one = render(
            &inputs(&[row("eu", StatusKind::Current), row("us", StatusKind::Behind)], 50),
            "not a metric\n{{{\n",
        );
        assert!(one.contains("{site=\"docs\",mirror=\"eu\"} 50\n"), "{one}");
        assert!(!one.contains("headwater_push_"));
        let ended = |code| Some(PushExit { code, milliseconds: 1_500 });
        let rows = [row("eu", StatusKind::Denied)];
        let good = render(&MetricsInputs { push: ended(0), ..inputs(&rows, 60) }, &one);
        let bad = render(&MetricsInputs { push: ended(4), ..inputs(&rows, 70) }, &good);
        for line in [
            "headwater_mirror_last_success_timestamp_seconds{site=\"docs\",mirror=\"eu\"} 50",
            "headwater_push_exit_code{site=\"docs\"} 4",
            "headwater_push_duration_seconds{site=\"docs\"} 1.500",
            "headwater_push_timestamp_seconds{site=\"docs\"} 70",
            "headwater_push_last_success_timestamp_seconds{site=\"docs\"} 60",
        ] {
            assert!(bad.lines().any(|found| found == line), "{line}: {bad}");
        }
        // `status` keeps the gauges that it has no values for.
        let status = render(&inputs(&rows, 80), &bad);
        assert!(status.contains("headwater_push_timestamp_seconds{site=\"docs\"} 70\n"));
        assert!(status.contains("headwater_status_timestamp_seconds{site=\"docs\"} 80\n"));
    }
}
