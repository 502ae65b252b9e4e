//! The meaning of the positional arguments: a tree, a mirror, or a kept release.
//!
//! Pure: a closure inspects paths. `.`, `..` and any argument with a `/` are paths or locations. A
//! bare word is the name of a configured mirror or, as a tree, a directory. A word that names both
//! is an error.

use headwater::config::{Config, FILE_NAME, MirrorAccess, MirrorConfig, closest};
use headwater::mirror::has_token;

use crate::cli::output::failure::{Exit, Failure};

/// A mirror that a command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MirrorChoice {
    /// The name in all output: the configured name, or the location as given.
    pub(crate) name: String,
    /// The location.
    pub(crate) location: String,
    /// The connection settings, if the mirror is on another machine.
    pub(crate) access: MirrorAccess,
}

impl MirrorChoice {
    fn from_location(location: &str) -> Self {
        Self {
            name: location.to_owned(),
            location: location.to_owned(),
            access: MirrorAccess::default(),
        }
    }
}

impl From<&MirrorConfig> for MirrorChoice {
    fn from(mirror: &MirrorConfig) -> Self {
        Self {
            name: mirror.name.to_string(),
            location: mirror.url.clone(),
            access: mirror.access.clone(),
        }
    }
}

/// The meaning of the arguments of `push` and `plan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operands {
    /// The named tree; `None` for the configured content, or for `--from`.
    pub(crate) tree: Option<String>,
    /// The mirrors: at least one, and none twice.
    pub(crate) mirrors: Vec<MirrorChoice>,
}

/// One side of `diff`, or a source: a tree, a mirror, or a release on a mirror. For a directory,
/// only the disk shows whether it is a tree or a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operand {
    /// The name in all output, and the location.
    pub(crate) choice: MirrorChoice,
    /// Whether the operand can only be a mirror: a configured name, a URL, or an argument with a
    /// sequence.
    pub(crate) is_mirror: bool,
    /// The sequence of the kept release, if one was requested.
    pub(crate) sequence: Option<u64>,
}

/// What is at the path that an argument names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKind {
    /// There is no directory.
    Missing,
    /// A directory where a mirror can be created.
    Empty,
    /// A directory with files that do not belong to a mirror.
    Tree,
    /// The directory of a mirror.
    Store,
}

/// Why the meaning of the arguments is unclear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OperandError {
    /// A bare word names both a mirror and a directory.
    #[error("{word:?} is a configured mirror and also a directory here")]
    Ambiguous {
        /// The word.
        word: String,
    },
    /// A bare word was used as a tree, but names neither a mirror nor a directory.
    #[error("there is no directory {word:?} here, and no mirror with that name is configured")]
    NoSuchTree {
        /// The word.
        word: String,
        /// The configured names.
        known: Vec<String>,
    },
    /// A bare word was used as a mirror, but is not the name of a configured mirror.
    #[error("no mirror named {word:?} is configured")]
    UnknownMirror {
        /// The word.
        word: String,
        /// The configured names.
        known: Vec<String>,
    },
    /// The first argument is the location of a mirror.
    #[error("{location:?} is the location of a mirror, but the first argument is the tree")]
    MirrorAsTree {
        /// The location.
        location: String,
        /// The configured name.
        name: Option<String>,
    },
    /// The first argument is a mirror, and the second argument is a directory that is not a mirror.
    #[error("{mirror:?} is a mirror, but the first argument is the tree")]
    Swapped {
        /// The first argument.
        mirror: String,
        /// The second argument.
        tree: String,
    },
    /// A mirror is named twice.
    #[error("the mirror {name:?} is named twice")]
    Duplicate {
        /// The name of the mirror.
        name: String,
    },
    /// There is no tree to push.
    #[error("nothing to push: no tree is named, and no `content` is configured")]
    NoTree,
    /// There is no mirror to push to.
    #[error("no mirror is named or configured")]
    NoMirrors,
}

impl OperandError {
    fn hint(&self) -> String {
        match self {
            Self::Ambiguous { word } => {
                format!(
                    "write `./{word}` for the directory; for the mirror, write its location or \
                     name the tree before it"
                )
            }
            // `host:path` is the form that scp and rsync use; it is not accepted here.
            Self::UnknownMirror { word, .. } if word.contains(':') => {
                "write a mirror on another machine as ssh://[user@]host/absolute/path or \
                 https://host/site"
                    .to_owned()
            }
            Self::NoSuchTree { word, known } | Self::UnknownMirror { word, known }
                if !known.is_empty() =>
            {
                let meant = closest(word, known.iter().map(String::as_str));
                let meant =
                    meant.map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
                format!(
                    "{meant}name a configured mirror ({}), or write a directory as `./name`",
                    known.join(", ")
                )
            }
            Self::NoSuchTree { word, .. } => format!(
                "build the tree first, or write another \
                                                      directory as `./{word}`"
            ),
            Self::UnknownMirror { word, .. } => {
                format!(
                    "write `./{word}` for a directory, or add the name to {FILE_NAME} (see \
                         `headwater init`)"
                )
            }
            Self::MirrorAsTree { name, location } => {
                let mirror = name.as_ref().unwrap_or(location);
                format!("name the tree first, as in `headwater push public {mirror}`")
            }
            Self::Swapped { mirror, tree } => {
                format!("name the tree first, as in `headwater push {tree} {mirror}`")
            }
            Self::Duplicate { .. } => "name each mirror once".to_owned(),
            Self::NoTree => {
                format!(
                    "name the tree, as in `headwater push public /srv/www`, or set `content` in \
                     {FILE_NAME} (see `headwater init`)"
                )
            }
            Self::NoMirrors => {
                format!(
                    "name a mirror by its location, such as /srv/www, or set a [[mirror]] in \
                     {FILE_NAME}, which `headwater init` writes"
                )
            }
        }
    }
}

impl From<OperandError> for Failure {
    fn from(error: OperandError) -> Self {
        let hint = error.hint();
        // If a failed build did not create the tree, its content is missing; this is not a usage
        // error.
        let exit = if matches!(error, OperandError::NoSuchTree { .. }) {
            Exit::Content
        } else {
            Exit::Usage
        };
        Self::new(exit, error).with_hint(hint)
    }
}

/// Parses the arguments of `push` and `plan`. If `has_from` is true, `--from` was given, so all
/// arguments are mirrors. `look` returns the kind of a path.
pub(crate) fn resolve_push(
    arguments: &[String],
    has_from: bool,
    config: &Config,
    kind_of_path: impl Fn(&str) -> PathKind,
) -> Result<Operands, OperandError> {
    if let [mirror, tree, ..] = arguments
        && !has_from
    {
        let is_mirror = match kind_of_path(mirror) {
            PathKind::Store => true,
            // With a configured tree, all arguments may be mirrors.
            PathKind::Missing => config.mirror(mirror).is_some() && config.content.is_empty(),
            PathKind::Empty | PathKind::Tree => false,
        };
        // A directory with files that do not belong to a mirror can never be a mirror.
        if is_mirror && config.mirror(tree).is_none() && kind_of_path(tree) == PathKind::Tree {
            return Err(OperandError::Swapped { mirror: mirror.clone(), tree: tree.clone() });
        }
    }
    let is_directory = |word: &str| kind_of_path(word) != PathKind::Missing;
    let tree = match arguments.first() {
        Some(first) if !has_from && is_tree(first, config, is_directory)? => Some(first.clone()),
        _ => None,
    };
    if tree.is_none() && !has_from && config.content.is_empty() {
        return Err(OperandError::NoTree);
    }
    let mirrors = resolve_mirrors(&arguments[usize::from(tree.is_some())..], config)?;
    Ok(Operands { tree, mirrors })
}

/// The mirrors for a command that takes no other arguments; all configured mirrors if none are
/// named.
pub(crate) fn resolve_mirrors(
    arguments: &[String],
    config: &Config,
) -> Result<Vec<MirrorChoice>, OperandError> {
    if arguments.is_empty() {
        let all: Vec<MirrorChoice> = config.mirrors.iter().map(MirrorChoice::from).collect();
        return if all.is_empty() { Err(OperandError::NoMirrors) } else { Ok(all) };
    }
    let mut mirrors: Vec<MirrorChoice> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let mirror = resolve_mirror(argument, config)?;
        // `/srv/www` and `/srv/www/` are the same directory. The push detects every other case of
        // one mirror with two names, because it knows the stores.
        let trimmed_location =
            |mirror: &MirrorChoice| mirror.location.trim_end_matches('/').to_owned();
        if mirrors.iter().any(|earlier| trimmed_location(earlier) == trimmed_location(&mirror)) {
            return Err(OperandError::Duplicate { name: mirror.name });
        }
        mirrors.push(mirror);
    }
    Ok(mirrors)
}

/// One side of `diff`, or the source in `--from`.
pub(crate) fn resolve_operand(
    argument: &str,
    config: &Config,
    is_directory: impl Fn(&str) -> bool,
) -> Result<Operand, OperandError> {
    let (text, sequence) = split_sequence(argument);
    if is_location(text) {
        // Only a mirror has releases, and a tree has no URL.
        let is_mirror = sequence.is_some() || is_url(text);
        return Ok(Operand { choice: MirrorChoice::from_location(text), is_mirror, sequence });
    }
    match (config.mirror(text), sequence.is_none() && is_directory(text)) {
        // If one of the two took precedence, a push could use the wrong one as soon as a directory
        // with that name appeared.
        (Some(_), true) => Err(OperandError::Ambiguous { word: text.to_owned() }),
        (Some(mirror), false) => Ok(Operand { choice: mirror.into(), is_mirror: true, sequence }),
        (None, true) => {
            Ok(Operand { choice: MirrorChoice::from_location(text), is_mirror: false, sequence })
        }
        (None, false) if sequence.is_some() => Err(unknown_mirror(text, config)),
        (None, false) => {
            Err(OperandError::NoSuchTree { word: text.to_owned(), known: configured_names(config) })
        }
    }
}

fn resolve_mirror(argument: &str, config: &Config) -> Result<MirrorChoice, OperandError> {
    match config.mirror(argument) {
        _ if is_location(argument) => Ok(MirrorChoice::from_location(argument)),
        Some(mirror) => Ok(mirror.into()),
        None => Err(unknown_mirror(argument, config)),
    }
}

/// Whether the first argument is the tree rather than a mirror.
fn is_tree(
    first: &str,
    config: &Config,
    is_directory: impl Fn(&str) -> bool,
) -> Result<bool, OperandError> {
    if is_location(first) {
        // The user probably forgot the tree; --from would push a mirror.
        let same = |mirror: &&MirrorConfig| {
            mirror.url.trim_end_matches('/') == first.trim_end_matches('/')
        };
        let configured = config.mirrors.iter().find(same).map(|mirror| mirror.name.to_string());
        return match configured {
            None if !is_url(first) => Ok(true),
            name => {
                let location =
                    if has_token(first) { "(withheld: it contains a token)" } else { first };
                Err(OperandError::MirrorAsTree { location: location.to_owned(), name })
            }
        };
    }
    match (config.mirror(first), is_directory(first)) {
        (Some(_), true) => Err(OperandError::Ambiguous { word: first.to_owned() }),
        (Some(_), false) => Ok(false),
        (None, true) => Ok(true),
        (None, false) => Err(OperandError::NoSuchTree {
            word: first.to_owned(),
            known: configured_names(config),
        }),
    }
}

fn is_location(argument: &str) -> bool {
    argument.contains('/') || argument == "." || argument == ".."
}

fn is_url(argument: &str) -> bool {
    argument.contains("://")
}

/// Splits `LOCATION:SEQ`. In a URL, a number right after the host is the port, so a sequence must
/// follow a path; `./a:7/` is a directory named `a:7`.
fn split_sequence(argument: &str) -> (&str, Option<u64>) {
    let Some((location, number)) = argument.rsplit_once(':') else { return (argument, None) };
    let is_port = location.split_once("://").is_some_and(|(_, rest)| !rest.contains('/'));
    match number.parse() {
        Ok(sequence)
            // `parse` would also accept a plus sign.
            if !is_port && !location.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) =>
        {
            (location, Some(sequence))
        }
        _ => (argument, None),
    }
}

fn unknown_mirror(word: &str, config: &Config) -> OperandError {
    OperandError::UnknownMirror { word: word.to_owned(), known: configured_names(config) }
}

fn configured_names(config: &Config) -> Vec<String> {
    config.mirrors.iter().map(|mirror| mirror.name.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const FLEET: &str =
        "[[mirror]]\nname='eu'\nurl='/srv/eu'\n[[mirror]]\nname='us'\nurl='ssh://us/srv'\n";

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new(FILE_NAME)).unwrap()
    }

    fn fleet() -> Config {
        config(&format!("content='public'\n{FLEET}"))
    }

    /// In these tests `public` and `eu` are directories.
    fn push(
        arguments: &[&str],
        has_from: bool,
        config: &Config,
    ) -> Result<(Option<String>, Vec<String>), OperandError> {
        let arguments: Vec<String> =
            arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let look = |path: &str| match path {
            "public" | "eu" | "./site" => PathKind::Tree,
            "/srv/old" => PathKind::Store,
            "/srv/new" => PathKind::Empty,
            _ => PathKind::Missing,
        };
        let places = resolve_push(&arguments, has_from, config, look)?;
        Ok((places.tree, places.mirrors.into_iter().map(|mirror| mirror.location).collect()))
    }

    fn expected(
        tree: Option<&str>,
        mirrors: &[&str],
    ) -> Result<(Option<String>, Vec<String>), OperandError> {
        Ok((tree.map(str::to_owned), mirrors.iter().map(|mirror| (*mirror).to_owned()).collect()))
    }

    #[test]
    fn first_operand_without_a_file_is_the_tree() {
        let none = Config::default();
        assert_eq!(
            push(&["public", "/a", "./b"], false, &none),
            expected(Some("public"), &["/a", "./b"])
        );
        assert_eq!(
            push(&["/x", "https://h/d"], false, &none),
            expected(Some("/x"), &["https://h/d"])
        );
        assert_eq!(push(&[".", "/a"], false, &none), expected(Some("."), &["/a"]));
        assert_eq!(push(&[], false, &none), Err(OperandError::NoTree));
        assert_eq!(push(&["public"], false, &none), Err(OperandError::NoMirrors));
    }

    #[test]
    fn mirror_before_a_tree_is_refused() {
        for (mirror, tree, config) in
            [("/srv/old", "public", Config::default()), ("us", "./site", config(FLEET))]
        {
            let error = push(&[mirror, tree], false, &config).unwrap_err();
            assert_eq!(error, OperandError::Swapped { mirror: mirror.into(), tree: tree.into() });
            assert!(error.hint().ends_with(&format!("headwater push {tree} {mirror}`")));
        }
        assert!(push(&["us", "/srv/new"], false, &fleet()).is_ok());
        assert!(push(&["us", "./site"], false, &fleet()).is_ok());
        assert!(push(&["/srv/old", "/srv/new"], true, &Config::default()).is_ok());
    }

    #[test]
    fn no_operands_are_needed_with_a_file() {
        assert_eq!(push(&[], false, &fleet()), expected(None, &["/srv/eu", "ssh://us/srv"]));
        assert_eq!(push(&["us"], false, &fleet()), expected(None, &["ssh://us/srv"]));
        assert_eq!(push(&["us", "/x"], false, &fleet()), expected(None, &["ssh://us/srv", "/x"]));
        assert_eq!(
            push(&["./other"], false, &fleet()),
            expected(Some("./other"), &["/srv/eu", "ssh://us/srv"])
        );
        assert_eq!(
            push(&["public", "eu"], false, &fleet()),
            expected(Some("public"), &["/srv/eu"])
        );
    }

    #[test]
    fn mirror_names_without_configured_content_require_a_tree() {
        assert_eq!(push(&["us"], false, &config(FLEET)), Err(OperandError::NoTree));
        assert_eq!(
            push(&["public", "us"], false, &config(FLEET)),
            expected(Some("public"), &["ssh://us/srv"])
        );
    }

    #[test]
    fn all_operands_with_from_are_mirrors() {
        assert_eq!(push(&["eu", "/a"], true, &fleet()), expected(None, &["/srv/eu", "/a"]));
        assert_eq!(push(&["/a"], true, &Config::default()), expected(None, &["/a"]));
        assert_eq!(push(&[], true, &Config::default()), Err(OperandError::NoMirrors));
        assert!(matches!(
            push(&["public"], true, &fleet()),
            Err(OperandError::UnknownMirror { .. })
        ));
    }

    #[test]
    fn ambiguous_operand_is_refused() {
        let error = push(&["eu"], false, &fleet()).unwrap_err();
        assert_eq!(error, OperandError::Ambiguous { word: "eu".into() });
        assert!(error.hint().contains("./eu"));
    }

    #[test]
    fn unknown_operand_is_missing_content_or_an_unknown_mirror() {
        let error = push(&["dist", "us"], false, &fleet()).unwrap_err();
        assert!(error.hint().contains("eu, us"), "{}", error.hint());
        assert_eq!(Failure::from(error).exit(), Exit::Content);
        let error = push(&["public", "uss"], false, &fleet()).unwrap_err();
        assert_eq!(Failure::from(error).exit(), Exit::Usage);
        let error = push(&["public", "www"], false, &Config::default()).unwrap_err();
        assert!(
            error.hint().contains("./www") && error.hint().contains("headwater init"),
            "{}",
            error.hint()
        );
    }

    #[test]
    fn mirror_given_as_tree_is_refused() {
        for first in ["/srv/eu", "/srv/eu/", "https://h/d", "ssh://us/srv"] {
            let error = push(&[first], false, &fleet()).unwrap_err();
            assert!(matches!(error, OperandError::MirrorAsTree { .. }), "{error}");
        }
        let error = push(&["https://h/d?token=hw_0123abcd_5ec2e7"], false, &fleet()).unwrap_err();
        assert!(!format!("{error} {}", error.hint()).contains("5ec2e7"), "{error}");
    }

    #[test]
    fn duplicate_mirror_is_refused() {
        for pair in [["eu", "/srv/eu/"], ["/a", "/a"], ["us", "us"]] {
            let error = push(&["public", pair[0], pair[1]], false, &fleet()).unwrap_err();
            assert!(matches!(error, OperandError::Duplicate { .. }), "{error}");
        }
    }

    #[test]
    fn mirrors_keep_their_names() {
        let mirrors = resolve_mirrors(&["us".to_owned(), "/a".to_owned()], &fleet()).unwrap();
        assert_eq!(
            mirrors[0],
            MirrorChoice { name: "us".into(), ..MirrorChoice::from_location("ssh://us/srv") }
        );
        assert_eq!(mirrors[1], MirrorChoice::from_location("/a"));
        assert_eq!(resolve_mirrors(&[], &fleet()).unwrap().len(), 2);
    }

    #[test]
    fn operands_can_name_a_release() {
        let operand = |text| resolve_operand(text, &fleet(), |word| word == "public");
        for (text, location, is_mirror, sequence) in [
            ("public", "public", false, None),
            ("./public", "./public", false, None),
            ("/srv/www:41", "/srv/www", true, Some(41)),
            ("us", "ssh://us/srv", true, None),
            ("us:7", "ssh://us/srv", true, Some(7)),
            ("http://host:7447", "http://host:7447", true, None),
            ("http://host:7447/docs:41", "http://host:7447/docs", true, Some(41)),
            ("./a:7/", "./a:7/", false, None),
            ("./a:+7", "./a:+7", false, None),
        ] {
            let operand = operand(text).unwrap();
            let got = (operand.choice.location.as_str(), operand.is_mirror, operand.sequence);
            assert_eq!(got, (location, is_mirror, sequence), "{text}");
        }
        assert!(matches!(operand("dist"), Err(OperandError::NoSuchTree { .. })));
        assert!(matches!(operand("dist:4"), Err(OperandError::UnknownMirror { .. })));
    }
}
