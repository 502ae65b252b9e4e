//! `headwater man`: manual pages, generated from the command tree.

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use headwater::fsx;

use crate::cli::output::failure::{Exit, Failure};
use crate::cli::output::print::print_raw;

/// The arguments of `man`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ManArgs {
    /// Write headwater.1 and a page for each subcommand to DIR, replacing old pages [default: print
    /// headwater.1]
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs) -> Result<Exit, Failure> {
    let pages = pages().map_err(|error| Failure::new(Exit::Failed, error))?;
    match &args.dir {
        None => pages.first().map_or(Ok(()), |(_, page)| print_raw(page))?,
        Some(dir) => {
            let failed = |error| {
                Failure::new(Exit::Failed, error)
                    .with_hint("name a directory where this user may create files")
            };
            fsx::create_dir_all(dir).map_err(failed)?;
            for (name, page) in &pages {
                // A rename replaces the old page, so `man` never reads half a page.
                fsx::replace_file(&dir.join(name), |out| out.write_all(page)).map_err(failed)?;
            }
        }
    }
    Ok(Exit::Success)
}

/// The file name and content of each page, main page first.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = crate::cli::command();
    // Sets the names of the subcommand pages, and propagates global arguments.
    root.build();
    let below = |command: &clap::Command| -> Vec<clap::Command> {
        // clap adds `help` to every command with subcommands; its pages would repeat the others.
        command.get_subcommands().filter(|sub| sub.get_name() != "help").cloned().collect()
    };
    let subcommands = below(&root).into_iter().flat_map(|sub| {
        let nested = below(&sub);
        std::iter::once(sub).chain(nested)
    });
    let mut pages = Vec::new();
    for command in std::iter::once(root.clone()).chain(subcommands) {
        let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
        let man = clap_mangen::Man::new(command.name(name)).manual("headwater");
        let mut page = Vec::new();
        man.render(&mut page)?;
        pages.push((man.get_filename(), page));
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_has_a_page_for_each_subcommand() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..3], ["headwater.1", "headwater-push.1", "headwater-promote.1"]);
        assert_eq!(names.len(), 24);
        for (name, page) in &pages {
            let page = String::from_utf8_lossy(page);
            assert!(page.contains(".TH") && page.contains("Examples"), "{name}");
        }
        assert!(String::from_utf8_lossy(&pages[0].1).contains("Exit codes"));
    }

    #[test]
    fn pages_are_written_to_the_given_directory() {
        let dir = tempfile::tempdir().unwrap();
        let args = ManArgs { dir: Some(dir.path().join("man1")) };
        assert_eq!(run(&args).unwrap(), Exit::Success);
        assert!(dir.path().join("man1/headwater-verify.1").exists());
        assert_eq!(run(&args).unwrap(), Exit::Success);
    }
}
