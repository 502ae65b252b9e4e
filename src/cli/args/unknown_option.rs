//! The tip for an unknown option or command.
//!
//! clap suggests any option that has some letters in common with the unknown one, even hidden
//! options. This module suggests only an option that the user probably meant, and otherwise
//! nothing.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use headwater::config::closest;

/// A part of an option is recognized as that option if it has at least this many letters.
const MIN_PARTIAL_LETTERS: usize = 4;

/// Options of other programs, each with its equivalent here.
const FOREIGN_OPTIONS: [(&str, &str); 2] = [
    (
        "max-delete",
        "set `max_removed` in headwater.toml, which limits the paths that a push removes",
    ),
    ("force", "use the option of the guard; the message of a refused push names the option"),
];

/// Commands of other programs that send content. Their users mean `push`.
const FOREIGN_PUSH_COMMANDS: [&str; 6] = ["sync", "deploy", "upload", "publish", "copy", "cp"];

/// Adds a tip to an error about a command of another program.
fn suggest_push(error: &mut clap::Error) {
    if let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand)
        && FOREIGN_PUSH_COMMANDS.contains(&given.as_str())
    {
        let tip = StyledStr::from("`headwater push` sends a content tree to mirrors");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
}

/// Replaces the tips in an error about an unknown option of the command that `arguments` name, or
/// about an unknown command.
pub(crate) fn replace_tips(
    error: &mut clap::Error,
    root: &mut clap::Command,
    arguments: impl Iterator<Item = String>,
) {
    suggest_push(error);
    let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidArg) else { return };
    let Some(word) = given.strip_prefix("--").map(|word| word.split('=').next().unwrap_or(word))
    else {
        return;
    };
    if error.kind() != ErrorKind::UnknownArgument {
        return;
    }
    // Before this, the subcommands lack the global options.
    root.build();
    let command = subcommand(root, arguments);
    let options: Vec<&str> = command
        .get_arguments()
        .filter(|option| !option.is_hide_set())
        .filter_map(clap::Arg::get_long)
        .collect();
    let meant = similar(word, &options).map(|option| format!("--{option}"));
    let foreign = FOREIGN_OPTIONS.iter().find(|(name, _)| *name == word).map(|(_, tip)| *tip);
    let usage = command.clone().render_usage();
    // clap stores one suggested option and a list of other tips; both are removed.
    error.remove(ContextKind::SuggestedArg);
    error.remove(ContextKind::Suggested);
    // The usage that clap generated contains clap's own suggestion.
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    if let Some(tip) = foreign {
        let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tips);
    } else if let Some(option) = meant {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(option));
    }
}

/// The command below `root` that the arguments name.
fn subcommand(root: &clap::Command, arguments: impl Iterator<Item = String>) -> &clap::Command {
    let mut command = root;
    for argument in arguments.filter(|argument| !argument.starts_with('-')) {
        let Some(next) = command.find_subcommand(&argument) else { break };
        command = next;
    }
    command
}

/// The option that the user probably meant: `word` is the option with a typing error or with a part
/// left out.
fn similar<'o>(word: &str, options: &[&'o str]) -> Option<&'o str> {
    let is_part_of = |option: &&&str| {
        word.len() >= MIN_PARTIAL_LETTERS
            && (option.starts_with(&format!("{word}-")) || option.ends_with(word))
    };
    closest(word, options.iter().copied()).or_else(|| options.iter().find(is_part_of).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program prints for `line`.
    fn printed(line: &str) -> String {
        let arguments = || line.split(' ').map(str::to_owned);
        let mut command = crate::cli::command();
        let mut error = command.try_get_matches_from_mut(arguments()).unwrap_err();
        replace_tips(&mut error, &mut command, arguments().skip(1));
        error.render().to_string()
    }

    #[test]
    fn only_close_matches_are_suggested() {
        for (option, tip) in [
            ("--exlude", Some("'--exclude'")),
            ("--allow-shrik", Some("'--allow-shrink'")),
            ("--token", Some("'--token-file'")),
            ("--limit", Some("'--bwlimit'")),
            ("--max-delete=5", Some("`max_removed`")),
            ("--force", Some("the option of the guard")),
            ("--forse", None),
            ("--backup", None),
            ("--link-dest", None),
        ] {
            let text = printed(&format!("headwater push public /srv/www {option}"));
            assert_eq!(text.contains("tip:"), tip.is_some(), "{text}");
            assert!(tip.is_none_or(|tip| text.contains(tip)), "{text}");
            assert!(text.contains("Usage: headwater push [OPTIONS]"), "{text}");
        }
        for command in FOREIGN_PUSH_COMMANDS {
            let text = printed(&format!("headwater {command} public /srv/www"));
            assert!(text.contains("tip: `headwater push` sends"), "{text}");
        }
        let text = printed("headwater token new --alow push");
        assert!(
            text.contains("'--allow'") && text.contains("Usage: headwater token new"),
            "{text}"
        );
    }
}
