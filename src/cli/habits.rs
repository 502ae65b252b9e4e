//! Flags that people know from rsync and other programs, hidden in the help:
//! each says what does the same here.

use std::io;

use clap::Args;

use super::failure::{Exit, Failure, eprint_raw};

/// What a push accepts from those who know rsync. Not a set of states, so bools.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct HabitArgs {
    /// The same as `headwater plan`: shows what the push would do
    #[arg(short = 'n', long, hide = true)]
    pub(crate) dry_run: bool,
    /// Not needed: what the tree lacks is always removed
    #[arg(long, alias = "del", hide = true)]
    delete: bool,
    /// Not needed: progress is shown unless --quiet is given
    #[arg(long, short = 'P', hide = true)]
    progress: bool,
    /// Not needed: directories, links and the executable bit are always distributed
    #[arg(short = 'a', long, hide = true)]
    archive: bool,
    /// Not needed: directories are always distributed whole
    #[arg(short = 'r', long, hide = true)]
    recursive: bool,
    /// Not needed: content is compressed on its way, see --level
    #[arg(short = 'z', long, hide = true)]
    compress: bool,
    /// Not needed: content is always compared by its hash
    #[arg(short = 'c', long, hide = true)]
    checksum: bool,
}

impl HabitArgs {
    /// Says of each flag that was given what is done here instead.
    pub(crate) fn explain(self) -> io::Result<()> {
        let notes = [
            (self.delete, "--delete", "what the tree lacks is always removed, after the time of --keep-removed"),
            (self.progress, "--progress", "progress is always shown, unless --quiet is given"),
            (self.archive, "--archive", "directories, links and the executable bit are always distributed"),
            (self.recursive, "--recursive", "directories are always distributed whole"),
            (self.compress, "--compress", "content is always compressed to other machines, see --level"),
            (self.checksum, "--checksum", "content is always compared by its hash"),
        ];
        let given = notes.iter().filter(|(is_given, ..)| *is_given);
        given
            .map(|(_, flag, what)| format!("note: {flag} is not needed: {what}\n"))
            .try_for_each(|note| eprint_raw(&note))
    }
}

/// `--dry-run` of a command that has no plan.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct DryRunArgs {
    /// Not supported here: the message names a command that shows what would be done
    #[arg(short = 'n', long, hide = true)]
    dry_run: bool,
}

impl DryRunArgs {
    /// Refuses the flag; `instead` begins with a command that shows what is asked for.
    pub(crate) fn refuse(self, command: &str, instead: &str) -> Result<(), Failure> {
        match self.dry_run {
            true => {
                Err(Failure::new(Exit::Usage, format!("{command} has no --dry-run; nothing was done"))
                    .with_hint(instead))
            }
            false => Ok(()),
        }
    }
}
