//! The live block on a terminal: scan, compression, and a line a mirror.
//!
//! Uses the crate `indicatif`, which draws a limited number of times a second
//! however many events come.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater::monitor::Event;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::output::escape;
use super::progress::{Note, Sums};
use super::terminal;

/// Lines of mirrors in the block; more would not fit on a small terminal,
/// where the block would scroll instead of staying in place.
const MAX_MIRROR_LINES: usize = 16;

/// Characters of a mirror's name in its line.
const NAME_CHARS: usize = 24;

/// The block.
#[derive(Debug)]
pub(crate) struct Live {
    block: MultiProgress,
    work: BTreeMap<Work, ProgressBar>,
    mirrors: BTreeMap<String, ProgressBar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Work {
    Scan,
    Bundle,
}

impl Live {
    /// An empty block on stderr.
    pub(crate) fn new() -> Self {
        Self::on(terminal::begin_block())
    }

    #[cfg(test)]
    pub(crate) fn hidden() -> Self {
        Self::on(MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden()))
    }

    fn on(block: MultiProgress) -> Self {
        Self { block, work: BTreeMap::new(), mirrors: BTreeMap::new() }
    }

    /// Takes the block off the terminal.
    pub(crate) fn clear(&self) {
        for bar in self.work.values().chain(self.mirrors.values()) {
            // One that is dropped before it is finished draws itself once more.
            bar.finish_and_clear();
        }
        terminal::remove_block();
    }

    /// Draws `event`, which is in `sums` already.
    pub(crate) fn show(&mut self, event: &Event, note: &Note, sums: &Sums) {
        if let Note::Alarm(line) = note {
            // A terminal that is gone is no reason to stop a push.
            terminal::write_stderr(&format!("{line}\n")).ok();
        }
        match event {
            Event::ScanStarted { .. } | Event::ScanAdvanced { .. } => {
                self.work(Work::Scan).set_message(sums.scan_line());
            }
            Event::ScanFinished { .. } => Self::finish(self.work(Work::Scan), note),
            Event::BundleStarted { .. } | Event::BundleAdvanced { .. } => {
                let bar = self.work(Work::Bundle);
                bar.set_message(sums.bundle_line());
                if sums.bundled_bytes >= sums.bundle_bytes {
                    bar.disable_steady_tick();
                }
            }
            Event::StateLearned { mirror, sequence } => {
                let words =
                    sequence.map_or_else(|| "is empty".to_owned(), |sequence| format!("has release {sequence}"));
                self.mirror(mirror, |bar| bar.set_message(words));
            }
            Event::PackSent { mirror, bytes, .. } => self.mirror(mirror, |bar| {
                bar.set_message("");
                bar.inc(*bytes);
            }),
            Event::PackHeld { mirror, .. } => self.mirror(mirror, |bar| bar.set_message("goes on where it was")),
            Event::ObjectsResent { mirror, .. } => self.mirror(mirror, |bar| bar.set_message("mended")),
            Event::Staged { mirror, sequence } => {
                self.mirror(mirror, |bar| bar.set_message(format!("release {sequence} is ready")));
            }
            Event::Activated { mirror, sequence } => {
                self.mirror(mirror, |bar| bar.finish_with_message(format!("release {sequence} is current")));
            }
            Event::AlreadyCurrent { mirror, sequence } => {
                self.mirror(mirror, |bar| bar.finish_with_message(format!("release {sequence} was current already")));
            }
            Event::MirrorFailed { mirror, .. } => self.mirror(mirror, |bar| bar.abandon_with_message("failed")),
            Event::PackSealed { .. } | Event::Pruned { .. } | Event::Warned { .. } => {}
        }
    }

    fn finish(bar: &ProgressBar, note: &Note) {
        bar.disable_steady_tick();
        if let Note::Fact(line) = note {
            bar.finish_with_message(line.clone());
        }
    }

    fn work(&mut self, work: Work) -> &ProgressBar {
        let block = &self.block;
        self.work.entry(work).or_insert_with(|| {
            let at = match work {
                Work::Scan => 0,
                Work::Bundle => 1,
            };
            let bar = block.insert(at, ProgressBar::no_length().with_style(style("{spinner} {wide_msg}")));
            bar.enable_steady_tick(Duration::from_millis(125));
            bar
        })
    }

    /// Draws the line of a mirror; nothing where the block is full. What
    /// matters of those others is in the result.
    fn mirror(&mut self, mirror: &str, draw: impl FnOnce(&ProgressBar)) {
        if !self.mirrors.contains_key(mirror) {
            if self.mirrors.len() == MAX_MIRROR_LINES {
                return;
            }
            let name: String = escape(mirror).chars().take(NAME_CHARS).collect();
            let template = "  {prefix:24} {decimal_bytes:>10} {decimal_bytes_per_sec:>12}  {wide_msg}";
            let bar = ProgressBar::no_length().with_style(style(template)).with_prefix(name);
            self.mirrors.insert(mirror.to_owned(), self.block.add(bar));
        }
        if let Some(bar) = self.mirrors.get(mirror) {
            draw(bar);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // A wrong template only costs looks.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
