//! Progress on stderr: what the library reports, for people, and for
//! `--events`.
//!
//! On a terminal one live block (see [`super::live`]); else a line now and
//! then; with `--quiet` only warnings and errors. Sums are kept here, apart
//! from how they look.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headwater::hash::PackId;
use headwater::monitor::{Event, Monitor};
use jiff::Timestamp;

use super::args::OutputArgs;
use super::event_log::EventLog;
use super::failure::{Exit, Failure, eprint_raw};
use super::live::Live;
use super::output::{bytes, count, counted, escape};
use super::{signals, terminal, verbosity};

/// At least this long between two lines that only say how far it is.
const PAUSE: Duration = Duration::from_secs(5);

/// What has happened so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Entries that the running scan has seen.
    pub(crate) scanned_entries: u64,
    /// Bytes that it has read.
    pub(crate) hashed_bytes: u64,
    /// Whether a scan runs.
    pub(crate) is_scanning: bool,
    /// Bytes that go into all bundles.
    pub(crate) bundle_bytes: u64,
    /// Bytes that went into blocks so far, as last told.
    pub(crate) bundled_bytes: u64,
    /// What they take there.
    pub(crate) packed_bytes: u64,
    /// Bytes sent to each mirror.
    pub(crate) sent_bytes: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds `event`.
    pub(crate) fn add(&mut self, event: &Event) {
        match event {
            Event::ScanStarted { .. } => self.is_scanning = true,
            Event::ScanAdvanced { entries, hashed_bytes } => {
                (self.scanned_entries, self.hashed_bytes) = (*entries, *hashed_bytes);
            }
            Event::ScanFinished { entries, hashed_bytes, .. } => {
                (self.scanned_entries, self.hashed_bytes) = (*entries, *hashed_bytes);
                self.is_scanning = false;
            }
            Event::BundleStarted { bytes, .. } => self.bundle_bytes += bytes,
            Event::BundleAdvanced { bytes, packed_bytes } => {
                (self.bundled_bytes, self.packed_bytes) = (*bytes, *packed_bytes);
            }
            Event::PackSent { mirror, bytes, .. } => {
                *self.sent_bytes.entry(mirror.clone()).or_default() += bytes;
            }
            Event::Warned { .. }
            | Event::StateLearned { .. }
            | Event::PackSealed { .. }
            | Event::PackHeld { .. }
            | Event::ObjectsResent { .. }
            | Event::Staged { .. }
            | Event::Activated { .. }
            | Event::AlreadyCurrent { .. }
            | Event::Pruned { .. }
            | Event::MirrorFailed { .. } => {}
        }
    }

    /// How far it is, on one line.
    pub(crate) fn line(&self) -> String {
        if self.is_scanning {
            return self.scan_line();
        }
        let mut parts = Vec::new();
        if self.bundled_bytes < self.bundle_bytes {
            parts.push(self.bundle_line());
        }
        let sent = self.sent_bytes.values().sum::<u64>();
        match (self.sent_bytes.len(), self.sent_bytes.keys().next()) {
            (1, Some(mirror)) => parts.push(format!("{}: {} sent", escape(mirror), bytes(sent))),
            (0, _) | (_, None) => {}
            (mirrors, _) => parts.push(format!("{} sent to {mirrors} mirrors", bytes(sent))),
        }
        if parts.is_empty() { self.bundle_line() } else { parts.join("; ") }
    }

    /// How far the scan is.
    pub(crate) fn scan_line(&self) -> String {
        format!("scan: {}, {} read", counted(self.scanned_entries, "entry", "entries"), bytes(self.hashed_bytes))
    }

    /// How far the packs are; what is not compressed is not said to be.
    pub(crate) fn bundle_line(&self) -> String {
        let (done, all) = (bytes(self.bundled_bytes), bytes(self.bundle_bytes));
        if self.packed_bytes >= self.bundled_bytes {
            return format!("pack: {done} of {all}");
        }
        format!("pack: {done} of {all}, compressed to {}", bytes(self.packed_bytes))
    }
}

/// How much an event matters to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Note {
    /// Shown always, also with `--quiet`.
    Alarm(String),
    /// Shown at once.
    Fact(String),
    /// Shown now and then, as [`Sums::line`].
    Step,
    /// Not shown.
    Nothing,
}

/// What to show of `event`; what it carries is escaped.
pub(crate) fn note(event: &Event) -> Note {
    match event {
        Event::Warned { message } => Note::Alarm(format!("warning: {}", escape(message))),
        Event::MirrorFailed { mirror, error } => {
            Note::Alarm(format!("error: {} failed: {}", escape(mirror), escape(error)))
        }
        Event::ScanFinished { entries, bytes: size, hashed_files, hashed_bytes } => Note::Fact(format!(
            "scan: {}, {}; {} of them new or touched, {} read",
            counted(*entries, "entry", "entries"),
            bytes(*size),
            count(*hashed_files),
            bytes(*hashed_bytes)
        )),
        Event::BundleStarted { objects, bytes: size } => Note::Fact(format!(
            "pack: {}, {}",
            counted(*objects, "new file content", "new file contents"),
            bytes(*size)
        )),
        Event::ObjectsResent { mirror, objects } => Note::Fact(format!(
            "{}: {} missing there, sent whole",
            escape(mirror),
            counted(*objects, "object was", "objects were")
        )),
        Event::Staged { mirror, sequence } => Note::Fact(format!("{}: release {sequence} is ready", escape(mirror))),
        Event::Activated { mirror, sequence } => {
            Note::Fact(format!("{}: release {sequence} is current", escape(mirror)))
        }
        Event::AlreadyCurrent { mirror, sequence } => {
            Note::Fact(format!("{}: release {sequence} was current already", escape(mirror)))
        }
        Event::Pruned { mirror, expired, .. } if *expired > 0 => Note::Fact(format!(
            "{}: {} no longer served",
            escape(mirror),
            counted(*expired, "retired file is", "retired files are")
        )),
        Event::ScanStarted { .. }
        | Event::StateLearned { .. }
        | Event::PackSealed { .. }
        | Event::PackHeld { .. }
        | Event::Pruned { .. } => Note::Nothing,
        Event::ScanAdvanced { .. } | Event::BundleAdvanced { .. } | Event::PackSent { .. } => Note::Step,
    }
}

/// What `--verbose` shows of an event that is not shown otherwise.
fn details(event: &Event) -> Option<String> {
    match event {
        Event::ScanStarted { root } => Some(format!("scan: reading {}", escape(root))),
        Event::StateLearned { mirror, sequence } => Some(match sequence {
            Some(sequence) => format!("{}: serves release {sequence}", escape(mirror)),
            None => format!("{}: serves nothing yet", escape(mirror)),
        }),
        Event::PackSealed { pack, bytes: size } => Some(format!("pack {}: {}", short(pack), bytes(*size))),
        Event::PackSent { mirror, pack, bytes: size } => {
            Some(format!("{}: pack {} sent, {}", escape(mirror), short(pack), bytes(*size)))
        }
        Event::PackHeld { mirror, pack } => Some(format!("{}: has pack {} already", escape(mirror), short(pack))),
        Event::Pruned { mirror, releases, objects, .. } => Some(format!(
            "{}: dropped {} and {}",
            escape(mirror),
            counted(*releases, "release", "releases"),
            counted(*objects, "object", "objects")
        )),
        _ => None,
    }
}

/// The first digits of the id of a pack.
fn short(pack: &PackId) -> String {
    pack.to_string().chars().take(8).collect()
}

/// How it looks.
enum View {
    /// Alarms only.
    Quiet(Box<dyn Write + Send>),
    /// Lines, of which those that only say how far it is have a pause between them.
    Lines { out: Box<dyn Write + Send>, last: Instant },
    /// Every event that is not only a step, as a line.
    Details(Box<dyn Write + Send>),
    /// A block that is drawn again and again.
    Live(Live),
}

/// Standard error, as [`terminal`] writes it.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        terminal::write_stderr(&String::from_utf8_lossy(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct State {
    sums: Sums,
    view: View,
    log: Option<EventLog>,
    /// The failures of mirrors stand in the answer.
    has_answer: bool,
}

/// Listens to the library for one command.
pub(crate) struct Progress {
    state: Mutex<State>,
    cancelled: Arc<AtomicBool>,
}

impl Progress {
    /// Progress as the flags want it, and signals caught from now on.
    pub(crate) fn start(args: &OutputArgs) -> Result<Self, Failure> {
        let log = args.events.as_deref().map(EventLog::create).transpose().map_err(|error| {
            Failure::new(Exit::Usage, error).with_hint("name a file that you may write with --events")
        })?;
        let cancelled = signals::cancellation().map_err(|error| Failure::new(Exit::Failed, error))?;
        let view = match (args.quiet, terminal::is_stderr_terminal()) {
            _ if verbosity::is_verbose() => View::Details(Box::new(Stderr)),
            (true, _) => View::Quiet(Box::new(Stderr)),
            (false, false) => View::Lines { out: Box::new(Stderr), last: Instant::now() },
            (false, true) => View::Live(Live::new()),
        };
        Ok(Self::with(view, log, cancelled))
    }

    /// Progress of a command whose answer says of each mirror what failed: that is not shown on stderr as well.
    pub(crate) fn of_answer(args: &OutputArgs) -> Result<Self, Failure> {
        let progress = Self::start(args)?;
        progress.lock().has_answer = true;
        Ok(progress)
    }

    fn with(view: View, log: Option<EventLog>, cancelled: Arc<AtomicBool>) -> Self {
        Self { state: Mutex::new(State { sums: Sums::default(), view, log, has_answer: false }), cancelled }
    }

    /// Takes the live block away for good, so that the result can be printed. What comes later is told in lines.
    pub(crate) fn end_block(&self) {
        let mut state = self.lock();
        if let View::Live(live) = &state.view {
            live.clear();
            state.view = View::Lines { out: Box::new(Stderr), last: Instant::now() };
        }
    }

    /// Takes the live block away and says what was left to say.
    pub(crate) fn finish(self) {
        self.end_block();
        let mut state = self.lock();
        if let Some(error) = state.log.as_mut().and_then(EventLog::take_failure) {
            // Stderr may be gone as well; there is nobody else to tell.
            eprint_raw(&format!("warning: events are missing in the file of --events: {error}\n")).ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What a panicking thread left is good enough to draw.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end_block();
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        let now = Instant::now();
        let mut state = self.lock();
        let State { sums, view, log, has_answer } = &mut *state;
        sums.add(&event);
        if let Some(log) = log {
            log.event(&event, Timestamp::now());
        }
        let is_in_answer = *has_answer && matches!(event, Event::MirrorFailed { .. });
        match view {
            View::Live(live) if is_in_answer => live.show(&event, &Note::Nothing, sums),
            _ if is_in_answer => {}
            view => view.show(&event, sums, now),
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl View {
    fn show(&mut self, event: &Event, sums: &Sums, now: Instant) {
        // A stderr that went away is no reason to stop a push.
        match (self, note(event)) {
            (Self::Live(live), note) => live.show(event, &note, sums),
            (Self::Quiet(out), Note::Alarm(line)) | (Self::Details(out), Note::Alarm(line) | Note::Fact(line)) => {
                out.write_all(format!("{line}\n").as_bytes()).ok();
            }
            (Self::Details(out), _) => {
                details(event).map(|line| out.write_all(format!("{line}\n").as_bytes()).ok());
            }
            (Self::Lines { out, last }, Note::Alarm(line) | Note::Fact(line)) => {
                *last = now;
                out.write_all(format!("{line}\n").as_bytes()).ok();
            }
            (Self::Lines { out, last }, Note::Step) if now.duration_since(*last) >= PAUSE => {
                *last = now;
                out.write_all(format!("{}\n", sums.line()).as_bytes()).ok();
            }
            (Self::Quiet(_) | Self::Lines { .. }, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that a view wrote.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sent(mirror: &str, bytes: u64) -> Event {
        Event::PackSent { mirror: mirror.into(), pack: PackId::of(b""), bytes }
    }

    fn activated() -> Event {
        Event::Activated { mirror: "eu".into(), sequence: 3 }
    }

    #[test]
    fn sums_follow_the_events() {
        let mut sums = Sums::default();
        sums.add(&Event::ScanStarted { root: "r".into() });
        sums.add(&Event::ScanAdvanced { entries: 1_200, hashed_bytes: 5_000_000 });
        assert_eq!(sums.line(), "scan: 1,200 entries, 5.0 MB read");
        sums.add(&Event::ScanFinished { entries: 1_300, bytes: 9, hashed_files: 1, hashed_bytes: 9 });
        sums.add(&Event::BundleStarted { objects: 2, bytes: 4_000_000 });
        sums.add(&Event::BundleAdvanced { bytes: 2_000_000, packed_bytes: 500_000 });
        assert_eq!(sums.line(), "pack: 2.0 MB of 4.0 MB, compressed to 500.0 kB");
        sums.add(&sent("eu", 400_000));
        sums.add(&sent("eu", 100_000));
        sums.add(&Event::BundleAdvanced { bytes: 4_000_000, packed_bytes: 900_000 });
        assert_eq!(sums.line(), "eu: 500.0 kB sent");
        sums.add(&sent("us", 500_000));
        assert_eq!(sums.line(), "1.0 MB sent to 2 mirrors");
    }

    #[test]
    fn lines_pause_between_steps_but_not_between_facts() {
        let screen = Screen::default();
        let start = Instant::now();
        let mut view = View::Lines { out: Box::new(screen.clone()), last: start };
        let mut sums = Sums::default();
        for (second, event) in
            [(1, sent("eu", 1_000)), (4, sent("eu", 1_000)), (6, sent("eu", 1_000)), (7, sent("eu", 1_000))]
        {
            sums.add(&event);
            view.show(&event, &sums, start + Duration::from_secs(second));
        }
        view.show(&activated(), &sums, start + Duration::from_secs(8));
        assert_eq!(screen.text(), "eu: 3.0 kB sent\neu: release 3 is current\n");
    }

    #[test]
    fn quiet_lets_warnings_and_errors_through_escaped() {
        let screen = Screen::default();
        let progress = Progress::with(View::Quiet(Box::new(screen.clone())), None, Arc::default());
        progress.event(activated());
        progress.event(Event::Warned { message: "odd\u{1b}[2J".into() });
        progress.event(Event::MirrorFailed { mirror: "us".into(), error: "refused\nhint: no".into() });
        assert_eq!(screen.text(), "warning: odd\\u{1b}[2J\nerror: us failed: refused\\u{a}hint: no\n");
    }

    #[test]
    fn details_have_a_line_for_what_is_not_shown_otherwise() {
        let screen = Screen::default();
        let progress = Progress::with(View::Details(Box::new(screen.clone())), None, Arc::default());
        progress.event(Event::StateLearned { mirror: "eu".into(), sequence: Some(2) });
        progress.event(Event::ScanAdvanced { entries: 1, hashed_bytes: 1 });
        progress.event(sent("eu", 5));
        progress.event(activated());
        let pack = short(&PackId::of(b""));
        let lines = format!("eu: serves release 2\neu: pack {pack} sent, 5 B\neu: release 3 is current\n");
        assert_eq!(screen.text(), lines);
    }

    #[test]
    fn the_log_has_every_event_also_with_quiet() {
        let file = Screen::default();
        let log = EventLog::new(file.clone());
        let progress = Progress::with(View::Quiet(Box::new(io::sink())), Some(log), Arc::default());
        progress.event(sent("eu", 5));
        progress.event(activated());
        let text = file.text();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[1]["event"], &lines[1]["bytes"]), (&"pack_sent".into(), &5.into()));
        assert!(lines[2]["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')));
    }

    #[test]
    fn a_signal_is_seen() {
        let cancelled = Arc::new(AtomicBool::new(false));
        let progress = Progress::with(View::Quiet(Box::new(io::sink())), None, Arc::clone(&cancelled));
        assert!(!progress.is_cancelled());
        cancelled.store(true, Ordering::Relaxed);
        assert!(progress.is_cancelled());
        progress.finish();
    }

    #[test]
    fn the_live_block_takes_every_event() {
        let mut view = View::Live(Live::hidden());
        let mut sums = Sums::default();
        for event in [
            Event::ScanStarted { root: "r".into() },
            Event::ScanAdvanced { entries: 1, hashed_bytes: 1 },
            Event::ScanFinished { entries: 1, bytes: 1, hashed_files: 1, hashed_bytes: 1 },
            Event::StateLearned { mirror: "eu".into(), sequence: Some(2) },
            Event::BundleStarted { objects: 1, bytes: 1 },
            Event::BundleAdvanced { bytes: 1, packed_bytes: 1 },
            Event::PackSealed { pack: PackId::of(b""), bytes: 1 },
            sent("eu", 1),
            Event::PackHeld { mirror: "us".into(), pack: PackId::of(b"") },
            Event::ObjectsResent { mirror: "eu".into(), objects: 1 },
            Event::Staged { mirror: "eu".into(), sequence: 3 },
            activated(),
            Event::AlreadyCurrent { mirror: "us".into(), sequence: 3 },
            Event::Pruned { mirror: "eu".into(), releases: 1, objects: 1, expired: 1 },
            Event::MirrorFailed { mirror: "x".into(), error: "e".into() },
            Event::Warned { message: "w".into() },
        ] {
            sums.add(&event);
            view.show(&event, &sums, Instant::now());
        }
    }
}
