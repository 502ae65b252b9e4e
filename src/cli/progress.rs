//! Progress on stderr: what the library reports, for people, and for
//! `--events`.
//!
//! On a terminal one block (see [`super::live`]); else a line now and
//! then; with `--quiet` only warnings and errors. What it shows are the sums
//! of [`super::sums`].

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use headwater::cancel::CancelToken;
use headwater::hash::PackId;
use headwater::mirror::MirrorError;
use headwater::monitor::{Event, Monitor};
use jiff::Timestamp;

use super::args::OutputArgs;
use super::event_log::EventLog;
use super::failure::{Exit, Failure, eprint_raw};
use super::output::{bytes, count, counted, duration, escape, moment};
use super::transfer_counts::TransferCounts;
use super::{live, signals, terminal, verbosity};

/// At least this long between two lines that only say how far it is.
const PAUSE: Duration = Duration::from_secs(5);
/// At least this long between two lines that say how long a wave is still watched.
const SOAK_PAUSE: Duration = Duration::from_secs(60);
/// How often the block is drawn.
const TICK: Duration = Duration::from_millis(100);
/// The answer to the first Ctrl-C.
const STOPPING: &str = "stopping: every mirror stays on a whole release; a second Ctrl-C ends at once";

/// How much an event matters to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notability {
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
pub(crate) fn note(event: &Event) -> Notability {
    match event {
        Event::Warned { message } => Notability::Alarm(format!("warning: {}", escape(message))),
        Event::MirrorFailed { mirror, error } => {
            Notability::Alarm(format!("error: {} failed: {}", escape(mirror), escape(error)))
        }
        Event::HookFailed { mirror, sequence, reason } => Notability::Alarm(hook_failed(mirror, *sequence, reason)),
        Event::HookRunning { mirror, sequence } => Notability::Fact(format!(
            "{}: its post_activate command still runs after release {sequence}; `headwater status` shows if it fails",
            escape(mirror)
        )),
        Event::ScanFinished { entries, bytes: size, hashed_files, hashed_bytes } => Notability::Fact(format!(
            "scan: {}, {}; {} of them new or touched, {} read",
            counted(*entries, "entry", "entries"),
            bytes(*size),
            count(*hashed_files),
            bytes(*hashed_bytes)
        )),
        Event::AnswerOverdue { mirror } => Notability::Fact(format!("waiting for {}", escape(mirror))),
        Event::BundleStarted { objects, bytes: size, .. } => Notability::Fact(format!(
            "pack: {}, {}",
            counted(*objects, "new file content", "new file contents"),
            bytes(*size)
        )),
        Event::SoakStarted { wave, seconds, until } => Notability::Fact(format!(
            "wave {wave}: {} before the others follow, until {}",
            duration(Duration::from_secs(*seconds)),
            moment(*until)
        )),
        Event::ObjectsResent { mirror, objects } => Notability::Fact(format!(
            "{}: {} missing there, sent whole",
            escape(mirror),
            counted(*objects, "object was", "objects were")
        )),
        Event::Staged { mirror, sequence } => {
            Notability::Fact(format!("{}: release {sequence} is ready", escape(mirror)))
        }
        Event::Activated { mirror, sequence } => {
            Notability::Fact(format!("{}: release {sequence} is current", escape(mirror)))
        }
        Event::AlreadyCurrent { mirror, sequence } => {
            Notability::Fact(format!("{}: release {sequence} was current already", escape(mirror)))
        }
        Event::Pruned { mirror, expired, .. } if *expired > 0 => Notability::Fact(format!(
            "{}: {} no longer served",
            escape(mirror),
            counted(*expired, "retired file is", "retired files are")
        )),
        Event::ScanStarted { .. }
        | Event::StateLearned { .. }
        | Event::PackSealed { .. }
        | Event::PackHeld { .. }
        | Event::SoakEnded { .. }
        | Event::Pruned { .. } => Notability::Nothing,
        Event::ScanAdvanced { .. }
        | Event::BundleAdvanced { .. }
        | Event::PackAdvanced { .. }
        | Event::PackSent { .. } => Notability::Step,
    }
}

fn hook_failed(mirror: &str, sequence: u64, reason: &str) -> String {
    let (mirror, reason) = (escape(mirror), escape(reason));
    format!("warning: {mirror}: its post_activate command failed after release {sequence}: {reason}")
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
    /// Warnings and errors only.
    Quiet(Box<dyn Write + Send>),
    /// Lines, of which those that only say how far it is have a pause between them.
    Lines { out: Box<dyn Write + Send>, last: Instant },
    /// Every event that is not only a step, as a line.
    Details(Box<dyn Write + Send>),
    /// A block that is drawn again and again.
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
    sums: TransferCounts,
    view: View,
    log: Option<EventLog>,
    /// The failures of mirrors stand in the answer.
    has_answer: bool,
    /// The failures of mirrors that were shown, each as its line.
    failures: HashSet<String>,
    /// When the block was drawn last.
    drawn: Option<Instant>,
    /// Whether a wish to stop was answered.
    is_stop_shown: bool,
}

/// Listens to the library for one command.
pub(crate) struct Progress {
    state: Arc<Mutex<ProgressState>>,
    cancelled: CancelToken,
    /// The thread that shows what changes without an event; it ends when the sender goes.
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Progress as the flags want it, and signals caught from now on.
    pub(crate) fn start(args: &OutputArgs) -> Result<Self, Failure> {
        let log = args.events.as_deref().map(EventLog::create).transpose().map_err(|error| {
            Failure::new(Exit::Usage, error).with_hint("name a file that you may write with --events")
        })?;
        signals::catch().map_err(|error| Failure::new(Exit::Failed, error))?;
        let view = match (args.quiet, terminal::has_block()) {
            _ if verbosity::is_verbose() => View::Details(Box::new(Stderr)),
            (true, _) => View::Quiet(Box::new(Stderr)),
            (false, false) => View::Lines { out: Box::new(Stderr), last: Instant::now() },
            (false, true) => View::Block,
        };
        let mut progress = Self::with(view, log, signals::token());
        progress.ticker = progress.tick_regularly();
        Ok(progress)
    }

    /// Progress of a command whose answer says of each mirror what failed: that is not shown on stderr as well.
    pub(crate) fn of_answer(args: &OutputArgs) -> Result<Self, Failure> {
        let progress = Self::start(args)?;
        lock(&progress.state).has_answer = true;
        Ok(progress)
    }

    fn with(view: View, log: Option<EventLog>, cancelled: CancelToken) -> Self {
        Self { state: Arc::new(Mutex::new(ProgressState::new(view, log))), cancelled, ticker: None }
    }

    /// Without a thread only events move the block: that is no reason to stop.
    fn tick_regularly(&self) -> Option<(Sender<()>, JoinHandle<()>)> {
        let (sender, ended) = bounded::<()>(0);
        let (state, cancelled) = (Arc::clone(&self.state), self.cancelled.clone());
        let tick = move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                lock(&state).tick(cancelled.is_cancelled(), Instant::now());
            }
        };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(tick).ok()?;
        Some((sender, thread))
    }

    /// Has the mirrors stand in the block in this order.
    pub(crate) fn expect_mirrors<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        lock(&self.state).sums.expect(names);
    }

    /// Takes the block away for good, so that the result can be printed. What comes later is shown in lines.
    pub(crate) fn end_block(&self) {
        let mut state = lock(&self.state);
        if matches!(state.view, View::Block) {
            state.view = View::Lines { out: Box::new(Stderr), last: Instant::now() };
            terminal::remove_block();
        }
    }

    /// Takes the block away and says what was left to say.
    pub(crate) fn finish(self) {
        self.end_block();
        if let Some(error) = lock(&self.state).log.as_mut().and_then(EventLog::take_failure) {
            // Stderr may be gone as well; then the warning is lost.
            eprint_raw(&format!("warning: events are missing in the file of --events: {error}\n")).ok();
        }
    }
}

fn lock(state: &Mutex<ProgressState>) -> MutexGuard<'_, ProgressState> {
    // What a panicking thread left is good enough to draw.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end_block();
        if let Some((sender, thread)) = self.ticker.take() {
            drop(sender);
            // One that panicked has said so.
            thread.join().ok();
        }
    }
}

impl Monitor for Progress {
    fn event(&self, event: Event) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.sums.add(&event, now);
        if let Some(log) = &mut state.log {
            log.event(&event, Timestamp::now());
        }
        let note = note(&event);
        let note = if state.hides_failure(&event, &note) { Notability::Nothing } else { note };
        state.show(&event, &note, now);
    }

    fn is_cancelled(&self) -> bool {
        let is_cancelled = self.cancelled.is_cancelled();
        if is_cancelled {
            lock(&self.state).answer_interrupt();
        }
        is_cancelled
    }
}

impl ProgressState {
    fn new(view: View, log: Option<EventLog>) -> Self {
        Self {
            sums: TransferCounts::default(),
            view,
            log,
            has_answer: false,
            failures: HashSet::new(),
            drawn: None,
            is_stop_shown: false,
        }
    }

    /// Whether the event is the failure of a mirror that is not to be shown.
    fn hides_failure(&mut self, event: &Event, note: &Notability) -> bool {
        let (Event::MirrorFailed { error, .. }, Notability::Alarm(line)) = (event, note) else { return false };
        // The last line says once for all mirrors that the user stopped the run.
        let is_cancelled = *error == MirrorError::Cancelled.to_string();
        // A push that starts again asks a mirror again, and gets the same error.
        is_cancelled || self.has_answer || !self.failures.insert(line.clone())
    }

    /// Shows what an event says, of which `note` is what matters.
    fn show(&mut self, event: &Event, note: &Notability, now: Instant) {
        // A stderr that went away is no reason to stop a push.
        match (&mut self.view, note) {
            (View::Quiet(out) | View::Lines { out, .. } | View::Details(out), Notability::Alarm(line))
            | (View::Details(out), Notability::Fact(line)) => line_to(out, line),
            (View::Details(out), _) => details(event).iter().for_each(|line| line_to(out, line)),
            (View::Block, Notability::Alarm(line)) => line_to(&mut Stderr, line),
            (View::Lines { out, last }, Notability::Fact(line)) => {
                *last = now;
                line_to(out, line);
            }
            (View::Lines { out, last }, Notability::Step) if now.duration_since(*last) >= PAUSE => {
                *last = now;
                line_to(out, &self.sums.line(now));
            }
            _ => {}
        }
        let is_due = |drawn: Instant| now.duration_since(drawn) >= TICK;
        if *note != Notability::Step || self.drawn.is_none_or(is_due) {
            self.draw(now);
        }
    }

    /// Answers the first Ctrl-C, once.
    fn answer_interrupt(&mut self) {
        if std::mem::replace(&mut self.is_stop_shown, true) {
            return;
        }
        match &mut self.view {
            View::Quiet(_) => {}
            View::Lines { out, .. } | View::Details(out) => line_to(out, STOPPING),
            View::Block => line_to(&mut Stderr, STOPPING),
        }
    }

    /// Shows what changes without an event.
    fn tick(&mut self, is_cancelled: bool, now: Instant) {
        if is_cancelled {
            self.answer_interrupt();
        }
        if let (View::Lines { out, last }, Some(soak)) = (&mut self.view, &self.sums.soak)
            && now.duration_since(*last) >= SOAK_PAUSE
        {
            *last = now;
            line_to(out, &live::soaking(soak, now));
        }
        self.draw(now);
    }

    fn draw(&mut self, now: Instant) {
        if matches!(self.view, View::Block) {
            self.drawn = Some(now);
            terminal::draw_block(&live::lines(&self.sums, now, terminal::size()));
        }
    }
}

/// Writes a line. A reader that is gone is no reason to stop a push.
fn line_to(out: &mut (impl Write + ?Sized), line: &str) {
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

    /// The state of a view that writes lines, from `start` on.
    fn lines_to(screen: &Screen, start: Instant) -> ProgressState {
        let view = View::Lines { out: Box::new(screen.clone()), last: start };
        ProgressState::new(view, None)
    }

    #[test]
    fn lines_pause_between_steps_but_not_between_facts() {
        let (screen, start) = (Screen::default(), Instant::now());
        let mut state = lines_to(&screen, start);
        for (second, event) in
            [(1, sent("eu", 1_000)), (4, sent("eu", 1_000)), (6, sent("eu", 1_000)), (7, sent("eu", 1_000))]
        {
            let now = start + Duration::from_secs(second);
            state.sums.add(&event, now);
            state.show(&event, &note(&event), now);
        }
        state.show(&activated(), &note(&activated()), start + Duration::from_secs(8));
        assert_eq!(screen.text(), "eu: 3.0 kB sent, 400 B/s\neu: release 3 is current\n");
    }

    #[test]
    fn a_soak_is_a_line_a_minute() {
        let (screen, start) = (Screen::default(), Instant::now());
        let mut state = lines_to(&screen, start);
        let event = Event::SoakStarted { wave: 1, seconds: 150, until: 1_798_135_200 };
        state.sums.add(&event, start);
        state.show(&event, &note(&event), start);
        (1..150).for_each(|second| state.tick(false, start + Duration::from_secs(second)));
        state.sums.add(&Event::SoakEnded { wave: 1 }, start);
        (150..300).for_each(|second| state.tick(false, start + Duration::from_secs(second)));
        assert_eq!(
            screen.text(),
            "wave 1: 2 min 30 s before the others follow, until 2026-12-24T18:00:00Z\n\
             wave 1: 1 min 30 s left until the others follow at 2026-12-24T18:00:00Z\n\
             wave 1: 30 s left until the others follow at 2026-12-24T18:00:00Z\n"
        );
    }

    #[test]
    fn a_wish_to_stop_is_answered_once() {
        let (screen, start) = (Screen::default(), Instant::now());
        let mut state = lines_to(&screen, start);
        (0..3).for_each(|_| state.tick(true, start));
        assert_eq!(screen.text(), format!("{STOPPING}\n"));
    }

    #[test]
    fn quiet_lets_warnings_and_errors_through_escaped() {
        let screen = Screen::default();
        let progress = Progress::with(View::Quiet(Box::new(screen.clone())), None, CancelToken::default());
        progress.event(activated());
        progress.event(Event::Warned { message: "odd\u{1b}[2J".into() });
        progress.event(Event::MirrorFailed { mirror: "us".into(), error: "refused\nhint: no".into() });
        assert_eq!(screen.text(), "warning: odd\\u{1b}[2J\nerror: us failed: refused\\u{a}hint: no\n");
    }

    #[test]
    fn a_failure_that_is_met_again_is_shown_once() {
        let screen = Screen::default();
        let progress = Progress::with(View::Quiet(Box::new(screen.clone())), None, CancelToken::default());
        for error in ["refused", "refused", "too late", "refused"] {
            progress.event(Event::MirrorFailed { mirror: "us".into(), error: error.into() });
        }
        assert_eq!(screen.text(), "error: us failed: refused\nerror: us failed: too late\n");
    }

    #[test]
    fn mirrors_of_a_push_that_was_stopped_are_not_failures() {
        let screen = Screen::default();
        let progress = Progress::with(View::Quiet(Box::new(screen.clone())), None, CancelToken::default());
        progress.event(Event::MirrorFailed { mirror: "us".into(), error: MirrorError::Cancelled.to_string() });
        assert_eq!(screen.text(), "");
    }

    #[test]
    fn details_have_a_line_for_what_is_not_shown_otherwise() {
        let screen = Screen::default();
        let progress = Progress::with(View::Details(Box::new(screen.clone())), None, CancelToken::default());
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
        let progress = Progress::with(View::Quiet(Box::new(io::sink())), Some(log), CancelToken::default());
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
        let cancelled = CancelToken::default();
        let progress = Progress::with(View::Quiet(Box::new(io::sink())), None, cancelled.clone());
        assert!(!progress.is_cancelled());
        cancelled.cancel();
        assert!(progress.is_cancelled());
        progress.finish();
    }
}
