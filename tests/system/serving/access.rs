//! G26, G27: authentication, and content that is never served.

use std::net::SocketAddr;

use headwater::receiver::{
    AuthPolicy, Exposure, NoLog, Permission, ReceiverLimits, ReceiverSettings, ServeError, Server,
    SiteSettings, Token, TokenRecord,
};
use headwater::tree_path::Site;

use super::{Answer, Complete, Receiver, stage_body};
use crate::origin::first_tree;

fn record(token: &Token, site: &str, allow: Permission, expires: Option<u64>) -> TokenRecord {
    let sites = vec![Site::new(site).unwrap()];
    TokenRecord { id: token.id().clone(), hash: token.hash(), sites, allow, expires }
}

#[test]
fn only_a_token_with_the_site_and_permission_is_accepted() {
    let [push, read, other, old] = [(); 4].map(|()| Token::random().unwrap());
    let records = vec![
        record(&push, "docs", Permission::Push, Some(u64::MAX)),
        record(&read, "docs", Permission::Read, None),
        record(&other, "other", Permission::Push, None),
        record(&old, "docs", Permission::Push, Some(1_700_000_000)),
    ];
    let receiver = Receiver::new(|settings| settings.auth = AuthPolicy::Tokens(records));
    let unknown = Token::random().unwrap();
    let delivery = first_tree().release(1).bundle_from(None);
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let ask = |method: &str, path: &str, token: Option<&str>, body: &[u8]| -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<(&str, &str)> =
            bearer.iter().map(|bearer| ("authorization", &**bearer)).collect();
        receiver.connect().ask(method, path, &fields, body)
    };
    let mut wrong = push.reveal();
    let last = if wrong.ends_with('0') { "1" } else { "0" };
    wrong.replace_range(wrong.len() - 1.., last);
    for (token, status, word) in [
        (None, 401, "the request has none"),
        (Some(wrong.clone()), 401, "this token is unknown"),
        (Some(unknown.reveal()), 401, "this token is unknown"),
        (Some("hw_x".to_owned()), 401, "does not have the form"),
        (Some(old.reveal()), 401, "expired"),
        (Some(other.reveal()), 403, "another site"),
        (Some(read.reveal()), 403, "only read, not push"),
    ] {
        for (method, path, body) in [
            ("POST", "/v1/stage", &body[..]),
            ("POST", "/v1/activate", b"{}"),
            ("POST", "/v1/holds", &[0; 32]),
            ("POST", "/v1/objects", &[0; 48]),
            ("POST", "/v1/signatures", &[0; 42]),
            ("POST", "/v1/verify", b"{\"quick\":true}"),
            ("PUT", "/v1/objects/x", b"x"),
        ] {
            let refused = ask(method, path, token.as_deref(), body);
            // Read permission suffices: requests with a body change nothing.
            if ["/v1/holds", "/v1/objects", "/v1/verify"].contains(&path)
                && word == "only read, not push"
            {
                assert!([200, 404].contains(&refused.status), "{path}");
                continue;
            }
            let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
            // A missing path is missing with read permission, too.
            let is_absent = refused.status == 404 && path.ends_with("/x") && status == 403;
            assert!(
                is_absent || refused.status == status && message.contains(word),
                "{path}: {message}"
            );
        }
    }
    assert!(!receiver.mirror().exists(), "the requests changed nothing");
    let (read_state, push_state) = (
        ask("GET", "/v1/state", Some(&read.reveal()), b"").ok(),
        ask("GET", "/v1/state", Some(&push.reveal()), b"").ok(),
    );
    assert_eq!((&read_state["may_push"], &push_state["may_push"]), (&false.into(), &true.into()));
    ask("POST", "/v1/stage", Some(&push.reveal()), &body).ok();
    for quick in ["true", "false"] {
        let body = format!("{{\"quick\":{quick}}}");
        let verified = ask("POST", "/v1/verify", Some(&read.reveal()), body.as_bytes()).ok();
        assert!(verified["faults"].is_array(), "{verified}");
    }
    // Public information.
    for path in ["/healthz", "/status.json"] {
        assert_eq!(ask("GET", path, None, b"").status, 200, "{path}");
    }
    let logged = receiver.logged();
    for token in [&push, &read, &other, &old, &unknown] {
        let secret = &token.reveal()[12..];
        assert!(!logged.contains(secret), "a token is in the log");
    }
    assert!(!logged.contains(&wrong[12..]), "a malformed token is in the log");
    for token in [&push, &read, &other, &old] {
        assert!(
            logged.contains(&format!(r#""token":"{}""#, token.id())),
            "the id of the token is not in the log"
        );
    }
    assert!(
        !logged.contains(&format!(r#""token":"{}""#, unknown.id()))
            && logged.contains("the token of the request does not have the form")
    );
}

#[test]
fn token_in_a_path_is_not_logged() {
    let receiver = Receiver::open();
    let token = Token::random().unwrap().reveal();
    receiver.ask("GET", &format!("/v1/state?token={token}"), b"");
    receiver.ask("GET", &format!("/{token}"), b"");
    receiver.ask("DELETE", &format!("/v1/{token}/x"), b"");
    assert!(!receiver.logged().contains(&token[12..]), "{}", receiver.logged());
}

#[test]
fn other_protocol_version_is_refused_with_the_supported_one() {
    let receiver = Receiver::open();
    for field in ["", "headwater-protocol: 2\r\n", "headwater-protocol: one\r\n"] {
        let mut connection = receiver.connect();
        connection.send(format!("GET /v1/state HTTP/1.1\r\nhost: a\r\n{field}\r\n").as_bytes());
        let answer = connection.answer().unwrap();
        assert_eq!(answer.refusal(), (426, "version".to_owned()));
        assert!(answer.head.contains("headwater-protocol: 1\r\n"), "{}", answer.head);
    }
}

#[test]
fn other_spellings_of_paths_and_methods_are_refused() {
    let receiver = Receiver::open();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/state/",
        "//v1/state",
        "/v1/./state",
        "/v1/%73tate",
        "/v1/objects/../state",
        "/v2/state",
        "/.headwater/format",
        "/current/",
        "/v1/objects/ABC",
        "*",
    ] {
        assert_eq!(receiver.ask("GET", path, b"").refusal(), (404, "unknown".to_owned()), "{path}");
    }
    for (method, path) in [
        ("POST", "/v1/state"),
        ("PUT", "/v1/state"),
        ("GET", "/v1/stage"),
        ("DELETE", "/v1/state"),
        ("POST", "/healthz"),
    ] {
        assert_eq!(
            receiver.ask(method, path, b"").refusal(),
            (405, "unknown".to_owned()),
            "{method} {path}"
        );
    }
}

#[test]
fn public_address_without_tls_or_tokens_is_refused() {
    let dir = crate::sandbox::directory();
    let site = || vec![SiteSettings::new(dir.path().join("www"), None)];
    let outside = SocketAddr::from(([0, 0, 0, 0], 0));
    let bind = |settings: &ReceiverSettings| Server::bind(settings, std::sync::Arc::new(NoLog));
    let settings = ReceiverSettings::new(outside, site(), AuthPolicy::Tokens(Vec::new()));
    assert!(matches!(bind(&settings), Err(ServeError::InTheClear { .. })));
    let proxied = ReceiverSettings { exposure: Exposure::Proxy, ..settings };
    assert!(bind(&proxied).is_ok());
    let open = ReceiverSettings { auth: AuthPolicy::Open, ..proxied };
    assert!(matches!(bind(&open), Err(ServeError::Open { .. })));
    let inside = ReceiverSettings { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..open };
    assert!(bind(&inside).is_ok());
    let mapped = ReceiverSettings {
        listen: "[::ffff:127.0.0.1]:0".parse().unwrap(),
        limits: ReceiverLimits::default(),
        ..inside
    };
    assert!(mapped.check().is_ok());
    assert!(matches!(
        bind(&ReceiverSettings { sites: Vec::new(), ..mapped }),
        Err(ServeError::NoSites)
    ));
}

#[test]
fn sites_have_separate_content_and_tokens() {
    let [docs, blog] = [(); 2].map(|()| Token::random().unwrap());
    let records = vec![
        record(&docs, "docs", Permission::Push, None),
        record(&blog, "blog", Permission::Push, None),
    ];
    let receiver = Receiver::new(|settings| {
        settings.auth = AuthPolicy::Tokens(records);
        let docs = &mut settings.sites[0];
        docs.base = "/docs/".to_owned();
        let mut blog = SiteSettings::new(
            docs.directory.with_file_name("blog"),
            Some(Site::new("blog").unwrap()),
        );
        blog.base = "/blog/".to_owned();
        settings.sites.push(blog);
    });
    let ask = |method: &str, path: &str, token: &Token, body: &[u8]| {
        let bearer = format!("Bearer {}", token.reveal());
        receiver.connect().ask(method, path, &[("authorization", &bearer)], body)
    };
    assert_eq!(ask("GET", "/docs/v1/state", &docs, b"").ok()["site"], "docs");
    assert_eq!(ask("GET", "/blog/v1/state", &blog, b"").ok()["site"], "blog");
    assert_eq!(ask("GET", "/blog/v1/state", &docs, b"").status, 403);
    assert_eq!(ask("GET", "/v1/state", &docs, b"").status, 404);
    let delivery = first_tree().release(1).bundle_from(None);
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    assert_eq!(
        ask("POST", "/blog/v1/stage", &blog, &body).refusal(),
        (403, "other_site".to_owned())
    );
    ask("POST", "/docs/v1/stage", &docs, &body).ok();
    let ready = || ask("GET", "/ready", &docs, b"").status;
    assert_eq!(ready(), 503);
    ask("POST", "/docs/v1/activate", &docs, &super::activation(&delivery, None)).ok();
    assert_eq!(ready(), 503, "one of two sites is not ready");
}
