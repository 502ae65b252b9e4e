//! Facts about what is said of how commands run.

use std::num::{NonZeroU64, NonZeroUsize};

use super::*;
use crate::pack;
use crate::push::LevelChoice;

fn run(text: &str) -> RunDefaults {
    parse(text).unwrap().run
}

#[test]
fn command_settings_are_parsed() {
    let said = run(
        "level = 9\njobs = 3\nwait = '5m'\nmax_parallel = 4\nbwlimit = '2MB'\ndeadline = '1h'\n\
                    ssh_command = 'ssh -i \"my key\"'\nreceive_command = 'sudo headwater'\n",
    );
    let expected = RunDefaults {
        level: Some(LevelChoice::Fixed(pack::Level::Zstd(9))),
        jobs: NonZeroUsize::new(3),
        wait: Some(Duration::from_secs(300)),
        max_parallel: NonZeroUsize::new(4),
        bwlimit: NonZeroU64::new(2_000_000),
        deadline: Some(Duration::from_secs(3600)),
        ssh_command: Some("ssh -i 'my key'".parse().unwrap()),
        receive_command: Some("sudo headwater".parse().unwrap()),
    };
    assert_eq!(said, expected);
    assert_eq!(run(""), RunDefaults::default());
    for (text, level) in [
        ("'auto'", LevelChoice::Auto),
        ("'raw'", LevelChoice::Fixed(pack::Level::Raw)),
        ("'19'", LevelChoice::Fixed(pack::Level::Zstd(19))),
    ] {
        assert_eq!(run(&format!("level = {text}")).level, Some(level), "{text}");
    }
}

#[test]
fn errors_in_command_settings_are_reported() {
    for (text, column, words) in [
        ("level = 0", 9, "write `auto`, `raw`, or a number from 1 to 19"),
        ("level = 20", 9, "write `auto`, `raw`, or a number from 1 to 19"),
        ("level = 'fast'", 9, "write `auto`, `raw`, or a number from 1 to 19"),
        ("level = true", 9, "`auto`, `raw`, or a number from 1 to 19"),
        ("jobs = 0", 8, "a whole number from 1"),
        ("jobs = -1", 8, "a whole number from 1"),
        ("max_parallel = 0", 16, "a whole number from 1"),
        ("max_parallel = '4'", 16, "must be a whole number"),
        ("wait = 60", 8, "must be a string in quotes"),
        ("wait = '60'", 8, "a number without a unit"),
        ("deadline = 'soon'", 12, "no duration"),
        ("bwlimit = '2000'", 11, "has no unit"),
        ("bwlimit = '0kB'", 11, "is not a rate"),
        ("ssh_command = 'ssh \"x'", 15, "a quote in the command is not closed"),
        ("ssh_command = ' '", 15, "the command names no program"),
        ("ssh_command = ['ssh']", 15, "must be a string in quotes"),
        ("receive_command = ''", 19, "write a command on one line"),
        ("receive_command = \"a\\nb\"", 19, "write a command on one line"),
        ("job = 1", 1, "did you mean `jobs`?"),
        ("max_paralel = 1", 1, "did you mean `max_parallel`?"),
        ("ssh_comand = 'ssh'", 1, "did you mean `ssh_command`?"),
        ("levell = 1", 1, "did you mean `level`?"),
    ] {
        let (line, at, message) = mistake(&format!("keep = 3\n{text}\n"));
        assert!(
            (line, at) == (2, column) && message.contains(words),
            "{text}: line {line}, column {at}: {message}"
        );
    }
}

#[test]
fn ssh_mirror_uses_its_own_or_the_common_commands() {
    let config = parse(
        "[mirror_defaults]\nurl = 'ssh://{name}/srv'\nssh_command = 'ssh -i keys/{name}'\n\
         receive_command = 'r-{name}'\n[[mirror]]\nname = 'a'\n[[mirror]]\nname = 'b'\n\
         ssh_command = 'ssh -v'\n[[mirror]]\nname = 'c'\nreceive_command = 'sudo r'\n[[mirror]]\n\
         name = 'web'\nurl = 'https://web/'\n[[mirror]]\nname = 'here'\nurl = '/srv'\n",
    )
    .unwrap();
    let of = |name: &str| {
        let access = &config.mirror(name).unwrap().access;
        let ssh = access
            .ssh_command
            .as_ref()
            .map(|ssh| [&[ssh.program().to_owned()], ssh.arguments()].concat());
        (
            ssh.map(|words| words.join(" ")),
            access.receive_command.as_ref().map(|one| one.as_str().to_owned()),
        )
    };
    let said = |ssh: &str, receive: &str| (Some(ssh.to_owned()), Some(receive.to_owned()));
    assert_eq!(of("a"), said("ssh -i keys/a", "r-a"));
    assert_eq!(of("b"), said("ssh -v", "r-b"));
    assert_eq!(of("c"), said("ssh -i keys/c", "sudo r"));
    assert_eq!((of("web"), of("here")), ((None, None), (None, None)));
}

#[test]
fn errors_in_mirror_commands_are_reported() {
    let ssh = "[[mirror]]\nname = 'a'\nurl = 'ssh://a/srv'\n";
    for (text, line, words) in [
        (format!("{ssh}ssh_command = \"ssh 'x\""), 4, "a quote in the command is not closed"),
        (format!("{ssh}receive_command = ' '"), 4, "write a command on one line"),
        (format!("{ssh}ssh_comand = 'ssh'"), 4, "did you mean `ssh_command`?"),
        ("[mirror_defaults]\nssh_command = ''".to_owned(), 2, "the command names no program"),
        (
            "[[mirror]]\nname = 'a'\nurl = 'https://a/'\nssh_command = 'ssh'".to_owned(),
            4,
            "`ssh_command` is for a mirror with an ssh: url",
        ),
        (
            "[[mirror]]\nname = 'a'\nurl = '/a'\nreceive_command = 'r'".to_owned(),
            4,
            "`receive_command` is for a mirror with an ssh: url",
        ),
    ] {
        let (at, _, message) = mistake(&text);
        assert!(at == line && message.contains(words), "{text}: line {at}: {message}");
    }
}

#[test]
fn mirror_name_with_shell_characters_is_refused_in_a_command() {
    for key in ["ssh_command", "receive_command"] {
        let with = |name: &str, command: &str| {
            format!(
                "[mirror_defaults]\nurl = 'ssh://h/{{name}}'\n{key} = '{command}'\n[[mirror]]\n\
                 name = '{name}'\n"
            )
        };
        assert!(parse(&with("edge-1.eu_x", "run {name}")).is_ok(), "{key}");
        assert!(parse(&with("a;id", "run")).is_ok(), "{key}");
        let (line, _, message) = mistake(&with("a;id", "run {name}"));
        assert!(line == 5 && message.contains(&format!("`{key}`")), "{line}: {message}");
    }
}
