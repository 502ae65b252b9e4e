//! Facts about mirrors as a fleet: what they have in common, groups, waves, requirements, lists.

use super::*;
use crate::mirror::PublicUrl;

const COMMON: &str = "[mirror_defaults]\nurl = 'https://{name}.example:7447/docs'\n\
                      public_url = 'https://{name}.example/docs/'\ntoken_env = 'T'\ngroup = 'all'\n\
                      bwlimit = '2MB'\n";

fn names(config: &Config) -> Vec<&str> {
    config.mirrors.iter().map(|mirror| mirror.name.as_str()).collect()
}

#[test]
fn mirrors_inherit_common_settings() {
    let text = format!(
        "{COMMON}[[mirror]]\nname='e1'\nregion='eu'\nweight=3\n[[mirror]]\nname='e2'\n\
         token_file='t'\ngroup='canary'\n[[mirror]]\nname='here'\nurl='www'\n[[mirror]]\nname='s'\n\
         url='ssh://h/srv/{{name}}'\n"
    );
    let config = parse(&text).unwrap();
    let of = |name: &str| config.mirror(name).unwrap();
    assert_eq!(of("e1").url, "https://e1.example:7447/docs");
    assert_eq!(
        of("e1").public_url.as_ref().map(PublicUrl::as_str),
        Some("https://e1.example/docs")
    );
    assert_eq!((of("e1").weight.get(), of("e2").weight.get()), (3, 1));
    assert_eq!(
        (of("e1").region.as_ref().map(Label::as_str), &of("e2").region),
        (Some("eu"), &None)
    );
    assert_eq!(of("e1").access.token, Some(TokenSource::Variable("T".into())));
    assert_eq!(of("e2").access.token, Some(TokenSource::File("/etc/hw/t".into())));
    assert_eq!(
        (of("e1").group.as_ref().map(Label::as_str), of("e2").group.as_ref().map(Label::as_str)),
        (Some("all"), Some("canary"))
    );
    assert_eq!(
        (of("here").url.as_str(), &of("here").access),
        ("/etc/hw/www", &MirrorAccess::default())
    );
    assert_eq!((of("s").url.as_str(), &of("s").access.token), ("ssh://h/srv/s", &None));
    assert_eq!(of("s").access.bwlimit.map(NonZeroU64::get), Some(2_000_000));
}

#[test]
fn mirror_is_frozen_until_its_time() {
    let frozen = |keys: &str| {
        parse(&format!("[[mirror]]\nname='a'\nurl='/x'\n{keys}")).unwrap().mirrors.remove(0)
    };
    assert!(!frozen("frozen=false").is_frozen(0) && !frozen("").is_frozen(0));
    assert!(frozen("frozen=true").is_frozen(u64::MAX));
    for until in [
        "'2026-12-24'",
        "2026-12-24",
        "'2026-12-24T00:00:00Z'",
        "2026-12-24T01:00:00+01:00",
        "2026-12-24T00:00:00",
    ] {
        let mirror = frozen(&format!("frozen=true\nuntil={until}"));
        assert_eq!(mirror.frozen, Some(Frozen::Until(1_798_070_400)), "{until}");
        assert!(mirror.is_frozen(1_798_070_399) && !mirror.is_frozen(1_798_070_400));
    }
}

#[test]
fn requirements_and_waves_are_parsed() {
    for (text, require) in [
        ("'all'", Require::All),
        ("'any'", Require::ANY),
        ("3", Require::AtLeast(3)),
        ("'80%'", Require::Percent(80)),
    ] {
        assert_eq!(parse(&format!("require={text}")).unwrap().require, require);
    }
    let text = format!(
        "on_failure='revert'\n{COMMON}[[mirror]]\nname='a'\ngroup='canary'\n[[mirror]]\nname='b'\n\
         [[wave]]\ngroups=['canary']\nsoak='10m'\nprobe='https://a.example/docs/index.html'\n\
         [[wave]]\ngroups=['all']\nprobe=['index.html', 'a.js']\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.on_failure, OnFailure::Revert);
    assert_eq!(config.waves[0].groups, [Label::new("canary").unwrap()]);
    assert_eq!(
        (config.waves[0].soak, config.waves[1].soak),
        (Duration::from_secs(600), Duration::ZERO)
    );
    assert_eq!(config.waves[0].probes, ["https://a.example/docs/index.html"]);
    assert_eq!(config.waves[1].probes, ["index.html", "a.js"]);
}

#[test]
fn each_fleet_rule_reports_the_invalid_value() {
    let two =
        "[[mirror]]\nname='a'\nurl='/x'\ngroup='g'\n[[mirror]]\nname='b'\nurl='/y'\ngroup='h'\n";
    for (text, line, part) in [
        ("require='most'", 1, "write `all`, `any`"),
        ("require='0%'", 1, "from 1%"),
        ("require=0", 1, "a number of at least 1"),
        ("on_failure='panic'", 1, "`leave` or `revert`"),
        ("[mirror_defaults]\nname='a'", 2, "a name of its own"),
        ("[mirror_defaults]\nurls='a'", 2, "unknown field `urls`"),
        ("[mirror_defaults]\nuntil=2026-01-01", 2, "goes with `frozen = true`"),
        ("[mirror_defaults]\nca=''", 2, "`ca` is empty"),
        ("[[mirror]]\nname='a'", 1, "missing field `url`"),
        ("[[mirror]]\nurl='/a'", 1, "missing field `name`"),
        ("[[mirror]]\nname='a'\nurl='/x'\ngroup='a b'", 4, "group's name"),
        ("[[mirror]]\nname='a'\nurl='/x'\ngroup='a'", 1, "of a mirror and of a group"),
        ("[[mirror]]\nname='a'\nurl='/x'\nweight=0", 4, "a whole number from 1"),
        ("[[mirror]]\nname='a'\nurl='/x'\nfrozen=true\nuntil='soon'", 5, "a time is written"),
        ("[[mirror]]\nname='a'\nurl='/x'\nuntil=2026-01-01", 4, "goes with `frozen = true`"),
        ("[[mirror]]\nname='a'\nurl='/x'\npublic_url='https://u@h/'", 4, "without user"),
        (
            "[[mirror]]\nname='a'\nurl='/x'\npublic_url='https://127.0.0.1:1;hash'",
            4,
            "without user",
        ),
        (
            "[mirror_defaults]\nurl='https://h/x'\n[[mirror]]\nname='a'\n[[mirror]]\nname='b'",
            6,
            "same url",
        ),
        (
            "[[mirror]]\nname='a'\nurl='https://H:443/x/'\n[[mirror]]\nname='b'\nurl='https://h/x'",
            6,
            "same url",
        ),
        ("mirrors_from=3", 1, "write a file"),
        ("mirrors_from=[]", 1, "beginning with the program"),
        ("mirrors_from=['a', 3]", 1, "beginning with the program"),
        ("mirrors_from=''", 1, "write a file"),
        ("[[wave]]\nsoak='1m'", 1, "missing field `groups`"),
        ("[[wave]]\ngroups=[]", 2, "at least one group"),
        ("[[wave]]\ngroups=['x']", 2, "no mirror is in the group \"x\""),
    ] {
        let (at, _, message) = mistake(text);
        assert_eq!(at, line, "{text}: {message}");
        assert!(message.contains(part), "{text}: {message}");
    }
    for (wave, line, part) in [
        ("[[wave]]\ngroups=['g','g']", 10, "already in a wave"),
        ("[[wave]]\ngroups=['g']\n[[wave]]\ngroups=['h','g']", 12, "already in a wave"),
        ("[[wave]]\ngroups=['g']\nsoak='soon'", 11, "no duration"),
        ("[[wave]]\ngroups=['g']\nprobe='index.html'", 11, "\"a\" has no `public_url`"),
        ("[[wave]]\ngroups=['g']\nprobe='ftp://h/x'", 11, "a probe is"),
        ("[[wave]]\ngroups=['g']\nprobe=[]", 11, "or a list of them"),
    ] {
        let (at, _, message) = mistake(&format!("{two}{wave}"));
        assert_eq!(at, line, "{wave}: {message}");
        assert!(message.contains(part), "{wave}: {message}");
    }
}

#[test]
fn mirror_list_comes_from_a_file_or_a_command() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(FILE_NAME);
    let list = "{\"name\":\"b\",\"group\":\"canary\"}\n\n\
                {\"name\":\"c\",\"url\":\"www/c\",\"weight\":2}\n";
    std::fs::write(dir.path().join("list.jsonl"), list).unwrap();
    for from in ["'list.jsonl'", "['cat', 'list.jsonl']"] {
        let text = format!(
            "mirrors_from={from}\n{COMMON}[[mirror]]\nname='a'\n[[wave]]\ngroups=['canary']\n"
        );
        std::fs::write(&config, text).unwrap();
        let loaded = Config::load(&config).unwrap();
        assert_eq!(names(&loaded), ["a", "b", "c"]);
        assert_eq!(loaded.mirror("b").unwrap().url, "https://b.example:7447/docs");
        assert_eq!(Path::new(&loaded.mirror("c").unwrap().url), dir.path().join("www/c"));
    }
}

#[test]
fn invalid_list_line_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(FILE_NAME);
    let good = "{\"name\":\"b\",\"url\":\"/b\"}";
    for (line, part) in [
        ("rubbish", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("{\"name\":\"c\",\"url\":null}", "not a JSON object"),
        ("{\"name\":\"c\"}", "missing field `url`"),
        ("{\"name\":\"c\",\"url\":\"/c\",\"urll\":1}", "unknown field `urll`"),
        ("{\"name\":\"c d\",\"url\":\"/c\"}", "mirror's name"),
        (
            "{\"name\":\"c\",\"url\":\"ssh://c/c\",\"ssh_command\":\"sh\"}",
            "not in a list of mirrors",
        ),
        ("{\"name\":\"b\",\"url\":\"/c\"}", "already a mirror named \"b\""),
        ("{\"name\":\"a\",\"url\":\"/c\"}", "already a mirror named \"a\""),
        ("{\"name\":\"c\",\"url\":\"/b/\"}", "the mirror \"b\" has the same url"),
    ] {
        std::fs::write(&config, "mirrors_from='l'\n[[mirror]]\nname='a'\nurl='/a'\n").unwrap();
        std::fs::write(dir.path().join("l"), format!("{good}\n{line}\n")).unwrap();
        let Err(ConfigError::Invalid { path, line: at, message, .. }) = Config::load(&config)
        else {
            panic!("{line} passed")
        };
        assert_eq!((path, at), (dir.path().join("l"), 2), "{message}");
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn mirror_list_cannot_choose_secrets_or_their_destination() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(FILE_NAME);
    let load = |line: &str| {
        let text = "mirrors_from='l'\ntoken_envs=['MINE']\nallowed_hosts=['*.example','10.0.0.1']\n\
                    [mirror_defaults]\ntoken_env='COMMON'\n";
        std::fs::write(&config, text).unwrap();
        std::fs::write(dir.path().join("l"), line).unwrap();
        Config::load(&config)
    };
    for (line, part) in [
        (
            r#"{"name":"a","url":"https://a.example/","token_env":"AWS_SECRET_ACCESS_KEY"}"#,
            "`token_envs`",
        ),
        (
            "{\"name\":\"a\",\"url\":\"https://a.example/\",\"token_env\":\"hw_0123abcd_canary\"}",
            "`token_envs`",
        ),
        (
            "{\"name\":\"a\",\"url\":\"https://a.example/\",\"token_file\":\"/etc/key\"}",
            "`token_file` is allowed in the configuration",
        ),
        (
            r#"{"name":"a","url":"https://a.example/","client_cert":"c","client_key":"k"}"#,
            "`client_cert` is allowed in the configuration",
        ),
        (
            "{\"name\":\"a\",\"url\":\"https://a.example/\",\"ca\":\"/tmp/ca\"}",
            "`ca` is allowed in the configuration",
        ),
        (
            "{\"name\":\"a\",\"url\":\"ssh://a.example/srv\",\"receive_command\":\"rm -rf ~;\"}",
            "`receive_command` is allowed in the configuration",
        ),
        (
            "{\"name\":\"a\",\"url\":\"https://evil.test/\"}",
            "\"evil.test\" is not one of `allowed_hosts`",
        ),
        ("{\"name\":\"a\",\"url\":\"https://example/\"}", "`allowed_hosts`"),
        ("{\"name\":\"a\",\"url\":\"ssh://evil.test/srv\"}", "`allowed_hosts`"),
        ("{\"name\":\"a\",\"url\":\"http://127.0.0.1:1/\"}", "`allowed_hosts`"),
    ] {
        let Err(error @ ConfigError::Invalid { .. }) = load(line) else { panic!("{line} passed") };
        let ConfigError::Invalid { message, .. } = &error else { unreachable!() };
        assert!(message.contains(part) && !message.contains("canary"), "{line}: {message}");
    }
    for (line, variable) in [
        ("{\"name\":\"a\",\"url\":\"https://A.Example:1/\",\"token_env\":\"MINE\"}", "MINE"),
        ("{\"name\":\"a\",\"url\":\"https://10.0.0.1/\",\"token_env\":\"COMMON\"}", "COMMON"),
        ("{\"name\":\"a\",\"url\":\"https://a.b.example/\"}", "COMMON"),
    ] {
        let loaded = load(line).unwrap();
        assert_eq!(loaded.mirrors[0].token_variable(), Some(variable));
        assert!(loaded.secret_variables().contains(&"MINE".to_owned()));
    }
    load("{\"name\":\"a\",\"url\":\"/srv/a\"}").unwrap();
    // What stands in the configuration itself is not held against the rules.
    let own = "allowed_hosts=[]\n[[mirror]]\nname='a'\nurl='https://x.test/'\ntoken_file='t'\n";
    std::fs::write(&config, own).unwrap();
    Config::load(&config).unwrap();
    for (bad, part) in [
        ("token_envs=['hw_0123abcd_canary']", "names of variables"),
        ("allowed_hosts=['https://h']", "a host is"),
    ] {
        std::fs::write(&config, bad).unwrap();
        let text = Config::load(&config).unwrap_err().to_string();
        assert!(text.contains(part) && !text.contains("canary"), "{text}");
    }
}

#[test]
fn mirror_list_command_inherits_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(FILE_NAME);
    // Variables that every process of a test has stand for secrets.
    let list = "mirrors_from=['sh', '-c', 'echo ${CARGO_MANIFEST_DIR-} ${CARGO_PKG_NAME-} \
                ${CARGO_PKG_VERSION-} >&2; exit 1']\n";
    let text = format!(
        "{list}token_envs=['CARGO_MANIFEST_DIR']\n[mirror_defaults]\ntoken_env='CARGO_PKG_NAME'\n\
         [purge]\nurl='https://a.example'\nbase='https://a.example'\n\
         token_env='CARGO_PKG_VERSION'\n"
    );
    std::fs::write(&config, text).unwrap();
    let Err(ConfigError::Command { source, .. }) = Config::load(&config) else { panic!("passed") };
    assert!(source.to_string().ends_with("exit status: 1"), "{source}");
}

#[test]
fn unavailable_mirror_list_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join(FILE_NAME);
    let load = |from: &str| {
        std::fs::write(&config, format!("mirrors_from={from}\n")).unwrap();
        Config::load(&config)
    };
    assert!(matches!(load("'missing.jsonl'"), Err(ConfigError::List(_))));
    let Err(error @ ConfigError::Command { .. }) = load("['sh', '-c', 'echo gone >&2; exit 7']")
    else {
        panic!("passed")
    };
    assert!(error.to_string().contains("`mirrors_from`"));
    assert!(matches!(load("['/no/such/program']"), Err(ConfigError::Command { .. })));
    assert!(matches!(load("['yes', '{}']"), Err(ConfigError::ListTooLarge { .. })));
    let Err(error) = load("['echo', 'hello']") else { panic!("passed") };
    assert!(
        error
            .to_string()
            .starts_with("the output of `echo hello` line 1, column 1: not a JSON object"),
        "{error}"
    );
}

#[test]
fn mirror_name_is_expanded_in_every_common_string() {
    let text = "[mirror_defaults]\nurl='https://{name}.example/'\ngroup='g-{name}'\n\
                region='r-{name}'\npublic_url='https://www.{name}.example'\n\
                token_file='{name}.token'\nca='{name}/ca.pem'\nclient_cert='{name}.pem'\n\
                client_key='{name}.key'\nproxy='http://{name}.proxy:1'\n[[mirror]]\nname='eu'\n\
                [[mirror]]\nname='us'\nca='own.pem'\n";
    let config = parse(text).unwrap();
    let eu = config.mirror("eu").unwrap();
    assert_eq!(
        (eu.url.as_str(), eu.public_url.as_ref().map(PublicUrl::as_str)),
        ("https://eu.example/", Some("https://www.eu.example"))
    );
    assert_eq!(eu.group.as_ref().map(Label::as_str), Some("g-eu"));
    assert_eq!(eu.region.as_ref().map(Label::as_str), Some("r-eu"));
    assert_eq!(eu.access.token, Some(TokenSource::File("/etc/hw/eu.token".into())));
    assert_eq!(eu.access.ca.as_deref(), Some(Path::new("/etc/hw/eu/ca.pem")));
    assert_eq!(eu.access.client, Some(("/etc/hw/eu.pem".into(), "/etc/hw/eu.key".into())));
    assert_eq!(eu.access.proxy.as_deref(), Some("http://eu.proxy:1"));
    let us = config.mirror("us").unwrap();
    assert_eq!(us.access.ca.as_deref(), Some(Path::new("/etc/hw/own.pem")));
    assert_eq!(us.access.token, Some(TokenSource::File("/etc/hw/us.token".into())));
    let text =
        "[mirror_defaults]\ntoken_env='T_{name}'\n[[mirror]]\nname='a'\nurl='https://a.example/'\n";
    let token = parse(text).unwrap().mirror("a").unwrap().access.token.clone();
    assert_eq!(token, Some(TokenSource::Variable("T_a".into())));
}
