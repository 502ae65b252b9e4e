//! Tests of the notification tables.

use super::*;

#[test]
fn hooks_purge_and_metrics_are_parsed() {
    let config = parse(
        "[hooks]\non_activated=['./after.sh','x/y']\non_failed=['alarm']\ntimeout='5s'\n[purge]\n\
         url='https://api.example/purge?zone=1'\n\
         base=['https://a.example/','https://b.example/docs']\ntoken_file='t'\nheader='X-Key'\n\
         key='urls'\nmax_urls=500\nmax_bytes='1MB'\nretry_for='1m'\n\
         [metrics]\nfile='m.prom'\n",
    )
    .unwrap();
    let NotifyConfig { hooks, purge, metrics } = config.notify;
    // A program with a `/` is beside the file; its arguments are its own.
    assert_eq!(hooks.on_activated.unwrap(), ["/etc/hw/./after.sh", "x/y"]);
    assert_eq!(
        (hooks.on_failed.unwrap(), hooks.timeout),
        (vec!["alarm".to_owned()], Duration::from_secs(5))
    );
    let purge = purge.unwrap();
    assert_eq!(
        (purge.header.as_str(), purge.key.as_str(), purge.max_urls.get()),
        ("X-Key", "urls", 500)
    );
    assert_eq!((purge.bases.len(), purge.max_bytes, purge.retry_for.as_secs()), (2, 1_000_000, 60));
    assert_eq!(purge.token, Some(TokenSource::File("/etc/hw/t".into())));
    assert_eq!(metrics, Some("/etc/hw/m.prom".into()));
    assert_eq!(parse("").unwrap().notify, NotifyConfig::default());
}

#[test]
fn plain_http_purge_is_allowed_without_a_secret_or_on_loopback() {
    for url in [
        "http://10.0.0.1:6081/purge'",
        "http://127.0.0.1:1/x?y'\ntoken_env='A'",
        "http://[::1]/'\ntoken_env='A'",
    ] {
        parse(&format!("[purge]\nbase='https://a.example'\nurl='{url}\n")).unwrap();
    }
}

#[test]
fn notification_errors_are_reported_without_secrets() {
    for (text, words) in [
        ("[hooks]\non_activated=[]", "a command is written as"),
        ("[hooks]\non_failed='x'", "must be a list in square brackets"),
        ("[hooks]\ntimeout='soon'", "no duration"),
        ("[hooks]\non_success=['x']", "unknown field `on_success`"),
        ("[purge]\nurl='https://a.example'", "missing field `base`"),
        ("[purge]\nurl='cdn'\nbase='https://a.example'", "not a url such as https://"),
        ("[purge]\nurl='https://a.example'\nbase=[]", "`base` is the public url"),
        (
            "[purge]\nurl='https://a.example'\nbase='https://u:canary@a.example'",
            "without a user name or a secret",
        ),
        (
            "[purge]\nurl='https://a.example'\nbase='https://a.example'\nheader='a b'",
            "the name of a header",
        ),
        (
            "[purge]\nurl='https://a.example'\nbase='https://a.example'\nmax_urls=0",
            "a whole number from 1",
        ),
        (
            "[purge]\nurl='https://a.example'\nbase='https://a.example'\nmax_bytes='0'",
            "a size is written as",
        ),
        (
            "[purge]\nurl='https://a.example'\nbase='https://a.example'\ntoken_env='A'\n\
             token_file='b'",
            "not both",
        ),
        (
            "[purge]\nurl='http://cdn.example/x'\nbase='https://a.example'\ntoken_env='A'",
            "only over https:",
        ),
        ("[purge]\nurl='http://10.0.0.1/x?key=1'\nbase='https://a.example'", "only over https:"),
        (
            "[purge]\nurl='https://a.example'\nbase='https://a.example'\n\
             token_env='https://hc.example/canary'",
            "name the variable or the file of a secret",
        ),
        ("[ping]", "unknown field `ping`"),
        ("[metrics]", "missing field `file`"),
    ] {
        let (_, _, message) = mistake(text);
        assert!(message.contains(words) && !message.contains("canary"), "{text}: {message}");
    }
}
