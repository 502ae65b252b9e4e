//! Progress on stderr, and the events of `--events`.
//!
//! On a terminal, progress is one block (see [`super::progress_block`]); otherwise it is a line
//! from time to time. With `--quiet`, only warnings and errors are shown. The numbers come from
//! [`super::transfer_counts`].

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use headwater::cancel::CancelToken;
use headwater::hash::PackId;
use headwater::mirror::MirrorError;
use headwater::monitor::{Event, Monitor};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::cli::args::OutputArgs;
use crate::cli::output::event_log::EventLog;
use crate::cli::output::failure::{Exit, Failure, eprint_raw};
use crate::cli::output::format::{
    escape, format_bytes, format_count, format_duration, format_time, pluralize,
};
use crate::cli::output::transfer_counts::TransferCounts;
use crate::cli::output::{progress_block, terminal, verbosity};
use crate::cli::setup::signals;

/// Minimum time between progress lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Minimum time between lines about the remaining soak time of a wave.
const SOAK_LINE_INTERVAL: Duration = Duration::from_secs(60);
/// Time between redraws of the block.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// The message after the first Ctrl-C.
const STOPPING_MESSAGE: &str =
    "stopping: every mirror stays on a complete release; press Ctrl-C again to exit immediately";

/// How an event is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventVisibility {
    /// Always shown, even with `--quiet`.
    Alert(String),
    /// Shown immediately.
    Message(String),
    /// Shown from time to time, as a progress line.
    Step,
    /// Not shown.
    Hidden,
}

/// Returns how to show `event`, with escaped text.
pub(crate) fn visibility(event: &Event) -> EventVisibility {
    match event {
        Event::Warned { message } => {
            EventVisibility::Alert(format!("warning: {}", escape(message)))
        }
        Event::MirrorFailed { mirror, error } => {
            EventVisibility::Alert(format!("error: {} failed: {}", escape(mirror), escape(error)))
        }
        Event::HookFailed { mirror, sequence, reason } => {
            EventVisibility::Alert(hook_failure_text(mirror, *sequence, reason))
        }
        Event::HookRunning { mirror, sequence } => EventVisibility::Message(format!(
            "{}: its post_activate command is still running after release {sequence}; `headwater \
             status` shows if it fails",
            escape(mirror)
        )),
        Event::ScanFinished { entries, bytes: size, hashed_files, hashed_bytes } => {
            EventVisibility::Message(format!(
                "scan: {}, {}; {} of them new or touched, {} read",
                pluralize(*entries, "entry", "entries"),
                format_bytes(*size),
                format_count(*hashed_files),
                format_bytes(*hashed_bytes)
            ))
        }
        Event::AnswerOverdue { mirror } => {
            EventVisibility::Message(format!("waiting for {}", escape(mirror)))
        }
        Event::BundleStarted { objects, bytes: size, .. } => EventVisibility::Message(format!(
            "pack: {}, {}",
            pluralize(*objects, "new file content", "new file contents"),
            format_bytes(*size)
        )),
        Event::SoakStarted { wave, seconds, until } => EventVisibility::Message(format!(
            "wave {wave}: {} before the others follow, until {}",
            format_duration(Duration::from_secs(*seconds)),
            format_time(*until)
        )),
        Event::ObjectsResent { mirror, objects } => EventVisibility::Message(format!(
            "{}: {} missing on the mirror, sent in full",
            escape(mirror),
            pluralize(*objects, "object was", "objects were")
        )),
        Event::Staged { mirror, sequence } => {
            EventVisibility::Message(format!("{}: release {sequence} is ready", escape(mirror)))
        }
        Event::Activated { mirror, sequence } => {
            EventVisibility::Message(format!("{}: release {sequence} is current", escape(mirror)))
        }
        Event::AlreadyCurrent { mirror, sequence } => EventVisibility::Message(format!(
            "{}: release {sequence} was already current",
            escape(mirror)
        )),
        Event::Pruned { mirror, expired, .. } if *expired > 0 => EventVisibility::Message(format!(
            "{}: {} no longer served",
            escape(mirror),
            pluralize(*expired, "retired file is", "retired files are")
        )),
        Event::ScanStarted { .. }
        | Event::StateLearned { .. }
        | Event::PackSealed { .. }
        | Event::PackHeld { .. }
        | Event::SoakEnded { .. }
        | Event::Pruned { .. } => EventVisibility::Hidden,
        Event::ScanAdvanced { .. }
        | Event::BundleAdvanced { .. }
        | Event::PackAdvanced { .. }
        | Event::PackSent { .. } => EventVisibility::Step,
    }
}

fn hook_failure_text(mirror: &str, sequence: u64, reason: &str) -> String {
    let (mirror, reason) = (escape(mirror), escape(reason));
    format!(
        "warning: {mirror}: its post_activate command failed after release {sequence}: {reason}"
    )
}

/// The line for an event that only `--verbose` shows.
fn verbose_text(event: &Event) -> Option<String> {
    match event {
        Event::ScanStarted { root } => Some(format!("scan: reading {}", escape(root))),
        Event::StateLearned { mirror, sequence } => Some(match sequence {
            Some(sequence) => format!("{}: serves release {sequence}", escape(mirror)),
            None => format!("{}: serves nothing yet", escape(mirror)),
        }),
        Event::PackSealed { pack, bytes: size } => {
            Some(format!("pack {}: {}", short_pack_id(pack), format_bytes(*size)))
        }
        Event::PackSent { mirror, pack, bytes: size } => Some(format!(
            "{}: pack {} sent, {}",
            escape(mirror),
            short_pack_id(pack),
            format_bytes(*size)
        )),
        Event::PackHeld { mirror, pack } => {
            Some(format!("{}: already has pack {}", escape(mirror), short_pack_id(pack)))
        }
        Event::Pruned { mirror, releases, objects, .. } => Some(format!(
            "{}: dropped {} and {}",
            escape(mirror),
            pluralize(*releases, "release", "releases"),
            pluralize(*objects, "object", "objects")
        )),
        _ => None,
    }
}

/// The first digits of a pack id.
fn short_pack_id(pack: &PackId) -> String {
    pack.to_string().chars().take(8).collect()
}

/// The form in which progress is shown.
enum View {
    /// Only warnings and errors.
    Quiet(Box<dyn Write + Send>),
    /// Lines, with a minimum time between progress lines.
    Lines { out: Box<dyn Write + Send>, last: Instant },
    /// One line for every event except steps.
    Details(Box<dyn Write + Send>),
    /// A block that is redrawn.
    Block,
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

struct ProgressState {
    counts: TransferCounts,
    view: View,
    log: Option<EventLog>,
    /// Whether the command's own result lists mirror failures.
    result_lists_failures: bool,
    /// The lines about failed mirrors that were already shown.
    shown_failures: HashSet<String>,
    /// Time of the last redraw.
    last_drawn: Option<Instant>,
    /// Whether the message after the first Ctrl-C was shown.
    is_stop_shown: bool,
}

/// Receives the events of the library for one command.
pub(crate) struct Progress {
    state: Arc<Mutex<ProgressState>>,
    cancelled: CancelToken,
    /// The thread that redraws between events; it ends when the sender is dropped.
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Sets up progress output as the flags request, and starts catching signals.
    pub(crate) fn start(args: &OutputArgs) -> Result<Self, Failure> {
        let log = args.events.as_deref().map(EventLog::create).transpose().map_err(|error| {
            Failure::new(Exit::Usage, error)
                .with_hint("name a file that you may write with --events")
        })?;
        signals::install_handlers().map_err(|error| Failure::new(Exit::Failed, error))?;
        let view = match (args.quiet, terminal::supports_block()) {
            // Lines even on a terminal, because a block would hide details between redraws.
            _ if verbosity::is_verbose() => View::Details(Box::new(Stderr)),
            (true, _) => View::Quiet(Box::new(Stderr)),
            (false, false) => View::Lines { out: Box::new(Stderr), last: Instant::now() },
            (false, true) => View::Block,
        };
        let mut progress = Self::with(view, log, signals::cancel_token());
        progress.ticker = progress.spawn_ticker();
        Ok(progress)
    }

    /// Sets up progress output for a command whose result lists mirror failures, so that stderr
    /// does not repeat them.
    pub(crate) fn without_mirror_failures(args: &OutputArgs) -> Result<Self, Failure> {
        let progress = Self::start(args)?;
        progress.state.lock().result_lists_failures = true;
        Ok(progress)
    }

    fn with(view: View, log: Option<EventLog>, cancelled: CancelToken) -> Self {
        Self { state: Arc::new(Mutex::new(ProgressState::new(view, log))), cancelled, ticker: None }
    }

    /// Starts the thread that redraws. Without it, the block changes only when an event arrives,
    /// which is not an error.
    fn spawn_ticker(&self) -> Option<(Sender<()>, JoinHandle<()>)> {
        // Nothing is ever sent. When the sender is dropped, the thread's wait ends immediately.
        let (sender, ended) = bounded::<()>(0);
        let (state, cancelled) = (Arc::clone(&self.state), self.cancelled.clone());
        let tick = move || {
            while ended.recv_timeout(REDRAW_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                state.lock().tick(cancelled.is_cancelled(), Instant::now());
            }
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(tick).ok()?;
        Some((sender, thread))
    }

    /// Sets the order of the mirrors in the block.
    pub(crate) fn set_mirror_order<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        self.state.lock().counts.set_mirror_order(names);
    }

    /// Removes the block, so that the result can be printed. Later events are shown as lines.
    pub(crate) fn end_block(&self) {
        let mut state = self.state.lock();
        if matches!(state.view, View::Block) {
            state.view = View::Lines { out: Box::new(Stderr), last: Instant::now() };
            terminal::remove_block();
        }
    }

    /// Removes the block. Prints a warning if events could not be written.
    pub(crate) fn finish(self) {
        self.end_block();
        if let Some(error) = self.state.lock().log.as_mut().and_then(EventLog::take_failure) {
            // If stderr is closed too, the warning is lost.
            eprint_raw(&format!("warning: events are missing from the --events file: {error}\n"))
                .ok();
        }
    }
}

// If an error is returned, `finish` is not called, but the error must not be printed into the
// block.
impl Drop for Progress {
    fn drop(&mut self) {
        self.end_block();
        if let Some((sender, thread)) = self.ticker.take() {
            // Before `join`, because the thread ends only after its sender is dropped.
            drop(sender);
            // A panic has already been reported.
            thread.join().ok();
        }
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.counts.add_event(&event, now);
        if let Some(log) = &mut state.log {
            log.event(&event, Timestamp::now());
        }
        let visibility = visibility(&event);
        let visibility = if state.hides_failure(&event, &visibility) {
            EventVisibility::Hidden
        } else {
            visibility
        };
        state.show(&event, &visibility, now);
    }

    fn is_cancelled(&self) -> bool {
        let is_cancelled = self.cancelled.is_cancelled();
        if is_cancelled {
            self.state.lock().show_stopping_message();
        }
        is_cancelled
    }
}

impl ProgressState {
    fn new(view: View, log: Option<EventLog>) -> Self {
        Self {
            counts: TransferCounts::default(),
            view,
            log,
            result_lists_failures: false,
            shown_failures: HashSet::new(),
            last_drawn: None,
            is_stop_shown: false,
        }
    }

    /// Returns whether the event is a failure of a mirror that should not be shown.
    fn hides_failure(&mut self, event: &Event, visibility: &EventVisibility) -> bool {
        let (Event::MirrorFailed { error, .. }, EventVisibility::Alert(line)) = (event, visibility)
        else {
            return false;
        };
        // If the run was interrupted, the last line reports that once for all mirrors.
        let is_cancelled = *error == MirrorError::Cancelled.to_string();
        // A push that starts again polls the mirror again and gets the same error.
        is_cancelled || self.result_lists_failures || !self.shown_failures.insert(line.clone())
    }

    /// Shows an event, whose text is in `visibility`.
    fn show(&mut self, event: &Event, visibility: &EventVisibility, now: Instant) {
        // A closed stderr does not stop a push.
        match (&mut self.view, visibility) {
            (
                View::Quiet(out) | View::Lines { out, .. } | View::Details(out),
                EventVisibility::Alert(line),
            )
            | (View::Details(out), EventVisibility::Message(line)) => write_line(out, line),
            (View::Details(out), _) => {
                verbose_text(event).iter().for_each(|line| write_line(out, line));
            }
            (View::Block, EventVisibility::Alert(line)) => write_line(&mut Stderr, line),
            (View::Lines { out, last }, EventVisibility::Message(line)) => {
                *last = now;
                write_line(out, line);
            }
            (View::Lines { out, last }, EventVisibility::Step)
                if now.duration_since(*last) >= LINE_INTERVAL =>
            {
                *last = now;
                write_line(out, &self.counts.progress_line(now));
            }
            _ => {}
        }
        let is_due = |drawn: Instant| now.duration_since(drawn) >= REDRAW_INTERVAL;
        // There may be thousands of steps, so they redraw the block only now and then.
        if *visibility != EventVisibility::Step || self.last_drawn.is_none_or(is_due) {
            self.draw(now);
        }
    }

    /// Shows the message after the first Ctrl-C, once.
    fn show_stopping_message(&mut self) {
        if std::mem::replace(&mut self.is_stop_shown, true) {
            return;
        }
        match &mut self.view {
            View::Quiet(_) => {}
            View::Lines { out, .. } | View::Details(out) => write_line(out, STOPPING_MESSAGE),
            View::Block => write_line(&mut Stderr, STOPPING_MESSAGE),
        }
    }

    /// Redraws the parts that change without an event.
    fn tick(&mut self, is_cancelled: bool, now: Instant) {
        if is_cancelled {
            self.show_stopping_message();
        }
        // There are no events during a soak, so without this a log would show nothing for the whole
        // time.
        if let (View::Lines { out, last }, Some(soak)) = (&mut self.view, &self.counts.soak)
            && now.duration_since(*last) >= SOAK_LINE_INTERVAL
        {
            *last = now;
            write_line(out, &progress_block::soak_text(soak, now));
        }
        self.draw(now);
    }

    fn draw(&mut self, now: Instant) {
        if matches!(self.view, View::Block) {
            self.last_drawn = Some(now);
            terminal::draw_block(&progress_block::block_lines(
                &self.counts,
                now,
                terminal::stderr_size(),
            ));
        }
    }
}

/// Writes a line. A closed stream does not stop a push.
fn write_line(out: &mut (impl Write + ?Sized), line: &str) {
    out.write_all(format!("{line}\n").as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text that a view wrote.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Screen {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().clone()).unwrap()
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
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

    /// The state of a view that writes lines, from `start` on.
    fn lines_to(screen: &Screen, start: Instant) -> ProgressState {
        let view = View::Lines { out: Box::new(screen.clone()), last: start };
        ProgressState::new(view, None)
    }

    #[test]
    fn progress_lines_are_limited_and_results_are_not() {
        let (screen, start) = (Screen::default(), Instant::now());
        let mut state = lines_to(&screen, start);
        for (second, event) in [
            (1, sent("eu", 1_000)),
            (4, sent("eu", 1_000)),
            (6, sent("eu", 1_000)),
            (7, sent("eu", 1_000)),
        ] {
            let now = start + Duration::from_secs(second);
            state.counts.add_event(&event, now);
            state.show(&event, &visibility(&event), now);
        }
        state.show(&activated(), &visibility(&activated()), start + Duration::from_secs(8));
        assert_eq!(screen.text(), "eu: 3.0 kB sent, 400 B/s\neu: release 3 is current\n");
    }

    #[test]
    fn soak_prints_one_line_per_minute() {
        let (screen, start) = (Screen::default(), Instant::now());
        let mut state = lines_to(&screen, start);
        let event = Event::SoakStarted { wave: 1, seconds: 150, until: 1_798_135_200 };
        state.counts.add_event(&event, start);
        state.show(&event, &visibility(&event), start);
        (1..150).for_each(|second| state.tick(false, start + Duration::from_secs(second)));
        state.counts.add_event(&Event::SoakEnded { wave: 1 }, start);
        (150..300).for_each(|second| state.tick(false, start + Duration::from_secs(second)));
        assert_eq!(
            screen.text(),
            "wave 1: 2 min 30 s before the others follow, until 2026-12-24T18:00:00Z\n\
             wave 1: 1 min 30 s left until the others follow at 2026-12-24T18:00:00Z\n\
             wave 1: 30 s left until the others follow at 2026-12-24T18:00:00Z\n"
        );
    }

    #[test]
    fn interrupt_is_confirmed_once() {
        let (screen, start) = (Screen::default(), Instant::now());
        let mut state = lines_to(&screen, start);
        (0..3).for_each(|_| state.tick(true, start));
        assert_eq!(screen.text(), format!("{STOPPING_MESSAGE}\n"));
    }

    #[test]
    fn quiet_prints_escaped_warnings_and_errors() {
        let screen = Screen::default();
        let progress =
            Progress::with(View::Quiet(Box::new(screen.clone())), None, CancelToken::default());
        progress.event(activated());
        progress.event(Event::Warned { message: "odd\u{1b}[2J".into() });
        progress
            .event(Event::MirrorFailed { mirror: "us".into(), error: "refused\nhint: no".into() });
        assert_eq!(
            screen.text(),
            "warning: odd\\u{1b}[2J\nerror: us failed: refused\\u{a}hint: no\n"
        );
    }

    #[test]
    fn repeated_failure_is_shown_once() {
        let screen = Screen::default();
        let progress =
            Progress::with(View::Quiet(Box::new(screen.clone())), None, CancelToken::default());
        for error in ["refused", "refused", "too late", "refused"] {
            progress.event(Event::MirrorFailed { mirror: "us".into(), error: error.into() });
        }
        assert_eq!(screen.text(), "error: us failed: refused\nerror: us failed: too late\n");
    }

    #[test]
    fn mirrors_of_an_interrupted_push_are_not_failures() {
        let screen = Screen::default();
        let progress =
            Progress::with(View::Quiet(Box::new(screen.clone())), None, CancelToken::default());
        progress.event(Event::MirrorFailed {
            mirror: "us".into(),
            error: MirrorError::Cancelled.to_string(),
        });
        assert_eq!(screen.text(), "");
    }

    #[test]
    fn verbose_output_has_a_line_for_every_detail() {
        let screen = Screen::default();
        let progress =
            Progress::with(View::Details(Box::new(screen.clone())), None, CancelToken::default());
        progress.event(Event::StateLearned { mirror: "eu".into(), sequence: Some(2) });
        progress.event(Event::ScanAdvanced { entries: 1, hashed_bytes: 1 });
        progress.event(sent("eu", 5));
        progress.event(activated());
        let pack = short_pack_id(&PackId::of(b""));
        let lines =
            format!("eu: serves release 2\neu: pack {pack} sent, 5 B\neu: release 3 is current\n");
        assert_eq!(screen.text(), lines);
    }

    #[test]
    fn quiet_push_logs_every_event() {
        let file = Screen::default();
        let log = EventLog::new(file.clone());
        let progress =
            Progress::with(View::Quiet(Box::new(io::sink())), Some(log), CancelToken::default());
        progress.event(sent("eu", 5));
        progress.event(activated());
        let text = file.text();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[1]["event"], &lines[1]["bytes"]), (&"pack_sent".into(), &5.into()));
        assert!(
            lines[2]["time"].as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z'))
        );
    }

    #[test]
    fn signal_is_detected() {
        let cancelled = CancelToken::default();
        let progress = Progress::with(View::Quiet(Box::new(io::sink())), None, cancelled.clone());
        assert!(!progress.is_cancelled());
        cancelled.cancel();
        assert!(progress.is_cancelled());
        progress.finish();
    }
}
