//! `headwater diff`.

use headwater::manifest::{Change, ChangeKind, Diff};
use headwater::push::{self, ChangeCounts, DiffSide};
use serde::Serialize;

use crate::cli::args::{DiffArgs, ListArgs, operands};
use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::format::{MAX_LISTED, escape, list_lines};
use crate::cli::output::print::{print, print_json};
use crate::cli::output::progress::Progress;
use crate::cli::output::{hints, push_report};
use crate::cli::setup::configuration::load_config;
use crate::cli::setup::mirror_factory::{MirrorFactory, check_directories_exist};
use crate::cli::setup::tree_or_mirror;
use crate::cli::setup::tree_or_mirror::TreeOrMirror;

/// Lists the paths that differ, one per line.
pub(crate) fn describe_paths(diff: &Diff, list: ListArgs) -> String {
    let line = |change: &Change| {
        let from = change.from.as_ref().map(|from| format!(" (from {from})")).unwrap_or_default();
        format!("{:8} {}{from}", change_word(change.kind), change.path)
    };
    let mut text = String::new();
    let lines = diff.changes.iter().map(line);
    let lines = if list.all {
        lines.map(|line| escape(&line).into_owned()).collect()
    } else {
        list_lines("", lines)
    };
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    if !list.all && diff.changes.len() > MAX_LISTED {
        text.push_str("(--all lists every path)\n");
    }
    text
}

const fn change_word(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Changed => "changed",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Retired => "retired",
        ChangeKind::Removed => "removed",
    }
}

#[derive(Serialize)]
struct DiffOutput<'a> {
    headwater: &'static str,
    version: u32,
    changes: &'a [Change],
    same: u64,
}

pub(crate) fn run(args: &DiffArgs) -> Result<Exit, Failure> {
    let config = load_config(&args.config)?;
    let is_directory = |word: &str| std::path::Path::new(word).is_dir();
    let factory = MirrorFactory::new(&args.remote, None, &config);
    let side = |text: &str| -> Result<DiffSide, Failure> {
        let operand = operands::resolve_operand(text, &config, is_directory)?;
        // Anything else may be a tree; the scan reports one that does not exist.
        if operand.is_mirror {
            check_directories_exist(std::slice::from_ref(&operand.choice), &config)?;
        }
        Ok(match tree_or_mirror::resolve(&operand, &factory, args.remote.site.as_ref(), &config)? {
            TreeOrMirror::Mirror(mirror) => {
                DiffSide::Release { mirror, sequence: operand.sequence }
            }
            TreeOrMirror::Tree { roots, scan } => DiffSide::Trees { roots, scan },
        })
    };
    let (old, new) = (side(&args.old)?, side(&args.new)?);
    let progress = Progress::start(&args.output)?;
    let diff = push::diff_sides(&old, &new, &progress);
    progress.finish();
    let diff = diff.map_err(hints::push_failure)?;
    if args.output.json {
        print_json(&DiffOutput {
            headwater: "diff",
            version: 1,
            changes: &diff.changes,
            same: diff.same,
        })?;
    } else {
        let summary = push_report::change_summary(&ChangeCounts::from(&diff));
        print(&format!("{}{summary}\n", describe_paths(&diff, args.list)))?;
    }
    // Unlike in diff(1), differences are a result, not a failure.
    Ok(Exit::Success)
}
