//! Hidden flags that users know from rsync and other programs. Each prints the headwater
//! equivalent.

use std::io;

use clap::Args;

use crate::cli::output::failure::{Exit, Failure, eprint_raw};

/// The rsync flags that a push accepts. They are independent, so each is a bool.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct RsyncFlagArgs {
    /// The same as `headwater plan`: shows what the push would do
    #[arg(short = 'n', long, hide = true)]
    pub(crate) dry_run: bool,
    /// Not needed: a push always removes files that are not in the tree
    #[arg(long, alias = "del", hide = true)]
    delete: bool,
    /// Not needed: a push shows progress unless --quiet is given
    // rsync's `-P` is `--partial --progress`; a push always resumes.
    #[arg(long, short = 'P', hide = true)]
    progress: bool,
    /// Not needed: a push always distributes directories, links and the executable bit
    #[arg(short = 'a', long, hide = true)]
    archive: bool,
    /// Not needed: a push always includes all subdirectories
    #[arg(short = 'r', long, hide = true)]
    recursive: bool,
    /// Not needed: a push always compresses content for other machines; see --level
    #[arg(short = 'z', long, hide = true)]
    compress: bool,
    /// Not needed: a push always compares content by hash
    #[arg(short = 'c', long, hide = true)]
    checksum: bool,
}

impl RsyncFlagArgs {
    /// Prints a note for each of these flags that was given.
    pub(crate) fn explain(self) -> io::Result<()> {
        // The flag is accepted with a note instead of refused, because a push already does what it
        // asks for.
        let notes = [
            (
                self.delete,
                "--delete",
                "a push always removes files that are not in the tree, after the --keep-removed \
                 time",
            ),
            (self.progress, "--progress", "a push shows progress unless --quiet is given"),
            (
                self.archive,
                "--archive",
                "a push always distributes directories, links and the executable bit",
            ),
            (self.recursive, "--recursive", "a push always includes all subdirectories"),
            (
                self.compress,
                "--compress",
                "a push always compresses content for other machines; see --level",
            ),
            (self.checksum, "--checksum", "a push always compares content by hash"),
        ];
        let given = notes.iter().filter(|(is_given, ..)| *is_given);
        given
            .map(|(_, flag, what)| format!("note: {flag} is not needed: {what}\n"))
            // Written to stderr, so that a script that reads the result does not see the notes.
            .try_for_each(|note| eprint_raw(&note))
    }
}

/// `--dry-run` for a command that has no plan.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct DryRunArgs {
    /// Not supported by this command: the message names a command that shows what would be done
    #[arg(short = 'n', long, hide = true)]
    dry_run: bool,
}

impl DryRunArgs {
    /// Refuses the flag; `instead` is a hint that names a command that shows what would be done.
    pub(crate) fn refuse(self, command: &str, instead: &str) -> Result<(), Failure> {
        if self.dry_run {
            Err(Failure::new(Exit::Usage, format!("{command} has no --dry-run; nothing was done"))
                .with_hint(instead))
        } else {
            Ok(())
        }
    }
}
