//! Facts about `headwater.toml`: what each key becomes and how each mistake is named.

use std::num::NonZeroU64;

use super::*;

mod cache;
mod fleet;
mod notify;
mod run;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/hw/headwater.toml"))
}

/// Line, column and message of the mistake in `text`.
fn mistake(text: &str) -> (usize, usize, String) {
    match parse(text) {
        Err(ConfigError::Invalid { line, column, message, .. }) => (line, column, message),
        other => panic!("{text:?} gave {other:?}"),
    }
}

#[test]
fn every_key_is_parsed() {
    let config = parse(
        r#"
site = "docs"
exclude = ["*.map", "!keep.map", "/drafts/"]
keep = 5
mtime = "source"
symlinks = "follow"
names = "portable"
must_have = ["index.html", "a/b.js"]
max_removed = "25%"
[[content]]
path = "public"
[[content]]
path = "/srv/api"
at = "api/v1"
[[keep_removed]]
match = "*.js"
for = "14d"
[[mirror]]
name = "eu"
url = "ssh://www@eu.example/srv/www"
[[mirror]]
name = "here"
url = "www"
"#,
    )
    .unwrap();
    assert_eq!(config.site, Some(Site::new("docs").unwrap()));
    assert_eq!(config.content[0], Root { path: "/etc/hw/public".into(), tree_prefix: None });
    assert_eq!(config.content[1].path, Path::new("/srv/api"));
    assert_eq!(config.content[1].tree_prefix.as_ref().map(TreePath::as_str), Some("api/v1"));
    assert_eq!((config.keep.get(), config.exclude.len(), config.must_have.len()), (5, 3, 2));
    assert_eq!(
        (config.mtime, config.symlinks, config.names),
        (MtimeSource::Source, SymlinkMode::Follow, NameRule::Portable)
    );
    assert_eq!(config.max_removed, MaxRemoved::Percent(25));
    assert_eq!(
        config.keep_removed,
        [RetentionRule { pattern: "*.js".into(), keep: Duration::from_secs(14 * 24 * 3600) }]
    );
    assert_eq!(config.mirror("eu").unwrap().url, "ssh://www@eu.example/srv/www");
    assert_eq!(config.mirror("here").unwrap().url, "/etc/hw/www");
    assert_eq!(config.mirror("us"), None);
}

#[test]
fn empty_file_equals_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("# nothing\nexclude = []\n").unwrap(), Config::default());
}

#[test]
fn content_accepts_one_path_relative_to_the_file() {
    let config = Config::parse(
        "content = 'public'\n[[mirror]]\nname = 'a'\nurl = 'www'",
        Path::new(FILE_NAME),
    )
    .unwrap();
    assert_eq!(config.content, [Root { path: "./public".into(), tree_prefix: None }]);
    assert_eq!(config.mirrors[0].url, "./www");
}

#[test]
fn limit_is_a_percentage_or_a_count() {
    for (text, limit) in [
        ("\"0%\"", MaxRemoved::Percent(0)),
        ("\"40\"", MaxRemoved::Count(40)),
        ("40", MaxRemoved::Count(40)),
    ] {
        assert_eq!(parse(&format!("max_removed = {text}")).unwrap().max_removed, limit);
    }
    for bad in ["\"101%\"", "\"half\"", "\"-1%\"", "-1", "1.5", "true"] {
        assert_eq!(mistake(&format!("max_removed = {bad}")).0, 1, "{bad}");
    }
}

#[test]
fn unknown_keys_are_reported_with_line_and_column() {
    let (line, column, message) = mistake("site = 'a'\n  symlink = 'keep'\n");
    assert_eq!((line, column), (2, 3));
    assert!(
        message.contains("unknown field `symlink`") && message.contains("`symlinks`"),
        "{message}"
    );
    let (line, _, message) = mistake("[[mirror]]\nname = 'a'\nurl = '/b'\nurll = 'c'\n");
    assert_eq!(line, 4);
    assert!(message.contains("urll"), "{message}");
    let (line, _, message) = mistake("[[content]]\npath = 'a'\nto = 'b'\n");
    assert_eq!(line, 3);
    assert!(message.contains("`at`"), "{message}");
}

#[test]
fn each_rule_reports_the_invalid_value() {
    for (text, line, part) in [
        ("site = 'A B'", 1, "\"A B\" must consist of a-z"),
        ("content = ''", 1, "the path is empty"),
        ("content = []", 1, "the list is empty"),
        ("content = ['a', 'b']", 1, "a table with `path` and `at`"),
        ("content = 3", 1, "a path, or [[content]]"),
        ("[[content]]\npath = 'a'\n[[content]]\npath = 'b'\n", 4, "the same place"),
        ("[[content]]\npath = 'a'\nat = '/docs'", 3, "\"/docs\" is absolute"),
        ("exclude = ['a', '[z-a]']", 1, "[z-a]"),
        ("exclude = [' ']", 1, "the pattern is empty"),
        ("keep = 0", 1, "a whole number from 1"),
        ("mtime = 'now'", 1, "`push` or `source`"),
        ("symlinks = 'copy'", 1, "`keep`, `follow`, `refuse`"),
        ("names = 'any'", 1, "`warn` or `portable`"),
        ("must_have = ['../x']", 1, "\"../x\" has a component"),
        ("[[keep_removed]]\nmatch = '*'\nfor = '5'", 3, "a number without a unit"),
        ("[[keep_removed]]\nmatch = '*'", 1, "missing field `for`"),
        ("mirror = []", 1, "the list is empty"),
        ("[[mirror]]\nname = 'a/b'\nurl = '/x'", 2, "no '/'"),
        ("[[mirror]]\nname = 'a'\nurl = ''", 3, "the url is empty"),
        (
            "[[mirror]]\nname = 'a'\nurl = '/x'\n[[mirror]]\nname = 'a'\nurl = '/y'",
            5,
            "already a mirror",
        ),
        ("[[mirror]]\nname = 'a'\nurl = '/x'\n[[mirror]]\nname = 'b'\nurl = '/x/'", 6, "same url"),
        ("site = 'a\n", 1, ""),
        ("site = 'a'\nsite = 'b'\n", 2, "duplicate"),
    ] {
        let (at, _, message) = mistake(text);
        assert_eq!(at, line, "{text}: {message}");
        assert!(message.contains(part), "{text}: {message}");
        assert!(!message.contains('\n'), "{message:?}");
    }
}

#[test]
fn snippet_marks_the_invalid_value() {
    let Err(error @ ConfigError::Invalid { .. }) =
        parse("\n\nkeep = 3\nmust_have = [ \"é\", \"/x\" ]\n")
    else {
        panic!("passed")
    };
    assert_eq!(error.to_string(), "/etc/hw/headwater.toml line 4, column 20: \"/x\" is absolute");
    let ConfigError::Invalid { snippet, .. } = error else { unreachable!() };
    assert_eq!(snippet, ["4 | must_have = [ \"é\", \"/x\" ]", "  |                    ^^^^"]);
}

#[test]
fn duration_requires_a_unit() {
    for (text, seconds) in [
        ("30s", 30),
        ("5m", 300),
        ("24h", 86_400),
        ("14d", 14 * 86_400),
        ("2w", 14 * 86_400),
        ("1h 30m", 5_400),
        ("1h30m", 5_400),
        ("0s", 0),
        (" 90 minutes ", 5_400),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for bad in ["", "5", "-5s", "5 s ago", "1y", "2mo", "h", "1e9d", "99999999999999999w"] {
        assert!(parse_duration(bad).is_err(), "{bad}");
    }
}

#[test]
fn missing_and_oversized_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    assert!(matches!(Config::load(&path), Err(ConfigError::Read(_))));
    std::fs::write(&path, "#".repeat(2 * 1024 * 1024)).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::TooLarge { .. })));
    std::fs::write(&path, "keep = 1").unwrap();
    assert_eq!(Config::load(&path).unwrap().keep.get(), 1);
}

#[test]
fn remote_mirror_keys_are_parsed() {
    let text = "[[mirror]]\nname='eu'\nurl='https://eu.example/docs'\ntoken_env='EU'\nca='ca.pem'\n\
                client_cert='c.pem'\nclient_key='/k.pem'\nproxy='http://p:1'\nbwlimit='2MB'\n\
                deadline='5m'\n[[mirror]]\nname='us'\nurl='https://us.example/'\n\
                token_file='us.token'\n[[mirror]]\nname='ssh'\nurl='ssh://h/srv'\n\
                host_key='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAA comment'\n";
    let config = parse(text).unwrap();
    let access = |name: &str| config.mirror(name).unwrap().access.clone();
    let eu = access("eu");
    assert_eq!(eu.token, Some(TokenSource::Variable("EU".into())));
    assert_eq!(eu.ca.as_deref(), Some(Path::new("/etc/hw/ca.pem")));
    assert_eq!(eu.client, Some(("/etc/hw/c.pem".into(), "/k.pem".into())));
    assert_eq!((eu.bwlimit.map(NonZeroU64::get), access("us").bwlimit), (Some(2_000_000), None));
    assert_eq!((eu.deadline, access("us").deadline), (Some(Duration::from_secs(300)), None));
    assert_eq!(access("us").token, Some(TokenSource::File("/etc/hw/us.token".into())));
    assert_eq!(
        access("ssh").host_key.unwrap(),
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAA"
    );
}

#[test]
fn misplaced_remote_mirror_keys_are_refused() {
    let https = "[[mirror]]\nname='a'\nurl='https://h/x'\n";
    for (text, part) in [
        (
            "[[mirror]]\nname='a'\nurl='/x'\ntoken_env='T'".to_owned(),
            "is for a mirror with an https: url",
        ),
        (
            "[[mirror]]\nname='a'\nurl='ssh://h/x'\nca='c'".to_owned(),
            "is for a mirror with an https: url",
        ),
        (format!("{https}host_key='ssh-ed25519 AAAA'"), "is for a mirror with an ssh: url"),
        (format!("{https}token_env='T'\ntoken_file='f'"), "not both"),
        (format!("{https}client_cert='c'"), "go together"),
        (format!("{https}ca=''"), "`ca` is empty"),
        (format!("{https}bwlimit='fast'"), "is not a rate"),
        (format!("{https}bwlimit='0'"), "is not a rate"),
        (format!("{https}deadline='soon'"), "no duration"),
        (
            "[[mirror]]\nname='a'\nurl='/x'\ndeadline='5m'".to_owned(),
            "is for a mirror with an https: or ssh: url",
        ),
        (
            "[[mirror]]\nname='a'\nurl='/x'\nbwlimit='2MB'".to_owned(),
            "is for a mirror with an https: or ssh: url",
        ),
        (
            "[[mirror]]\nname='a'\nurl='ssh://h/x'\nhost_key='ssh-ed25519\\nAAAA'".to_owned(),
            "a host key is written",
        ),
        (format!("{https}token='secret'"), "unknown field `token`"),
    ] {
        let (_, _, message) = mistake(&text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn misplaced_token_is_not_repeated() {
    for line in ["token='T'", "token_env='T'", "token_file='T'", "proxy=['T']"] {
        let line = line.replace('T', "hw_0123abcd_5ec2e7");
        let error = parse(&format!("[[mirror]]\nname='a'\nurl='https://h/x'\n{line}")).unwrap_err();
        let all = format!("{error} {error:?}");
        assert!(all.contains("withheld") && !all.contains("5ec2e7"), "{all}");
    }
}
