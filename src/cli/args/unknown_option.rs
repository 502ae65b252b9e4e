//! The tip for an unknown option or command.
//!
//! clap suggests any option that shares some letters with the unknown one, even a hidden option.
//! This module suggests an option only if the user probably meant it.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use headwater::config::closest;

/// Minimum number of letters for part of an option to be recognized as that option.
const MIN_PARTIAL_LETTERS: usize = 4;

/// Options from other programs, each with its equivalent here.
const FOREIGN_OPTIONS: [(&str, &str); 2] = [
    (
        "max-delete",
        "set `max_removed` in headwater.toml, which limits how many paths a push removes",
    ),
    (
        "force",
        "use the option that turns the guard rail off; the message of a refused push names it",
    ),
];

/// Commands that send content in other programs. Their users mean `push`.
const FOREIGN_PUSH_COMMANDS: [&str; 6] = ["sync", "deploy", "upload", "publish", "copy", "cp"];

/// Adds a tip to an error about a command from another program.
fn suggest_push(error: &mut clap::Error) {
    if let Some(ContextValue::String(given)) = error.get(ContextKind::InvalidSubcommand)
        && FOREIGN_PUSH_COMMANDS.contains(&given.as_str())
    {
        let tip = StyledStr::from("`headwater push` sends a content tree to mirrors");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
}

/// Replaces the tips in an error about an unknown command, or about an unknown option to the
/// command that `arguments` name.
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
    // Without this, the subcommands would lack the global options.
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

/// The option that the user probably meant: `word` is that option with a typo or with part of it
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
            ("--force", Some("turns the guard rail off")),
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
