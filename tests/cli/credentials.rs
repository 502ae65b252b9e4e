//! Warnings of the origin about tokens and certificates that expire soon.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use crate::harness::Workspace;
use crate::prometheus::check_gauges;
use crate::receiver::Receiver;

const SITE: &str = "[[site]]\nname = 'docs'\ndir = 'www'\n";
const HOUR: u64 = 60 * 60;

/// Pushes once to `edge1`, which the other lines configure.
fn pushed(workspace: &Workspace, mirror: &str) -> String {
    workspace.write("headwater.toml", format!("content = 'tree'\nsite = 'docs'\n{mirror}"));
    workspace.ok("push").stderr
}

/// Starts a receiver with a new token with these flags, over plain HTTP. Returns it with the stderr
/// of the first push.
fn with_token(flags: &str) -> (Workspace, Receiver, String) {
    let workspace = Workspace::with_tree();
    let receiver = Receiver::with_token(&workspace, SITE, flags);
    let stderr = pushed(&workspace, &receiver.mirror("http"));
    (workspace, receiver, stderr)
}

/// Starts a receiver with a certificate that expires after `left`. Returns it with the stderr of
/// the first push.
fn with_certificate(left: Duration) -> (Workspace, Receiver, u64, String) {
    let workspace = Workspace::with_tree();
    let end = UNIX_EPOCH.elapsed().unwrap() + left;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end.as_secs());
    workspace.write("cert.pem", params.self_signed(&key).unwrap().pem());
    workspace.write("key.pem", key.serialize_pem());
    let receiver = Receiver::start(
        &workspace,
        &format!("tls = {{ cert = 'cert.pem', key = 'key.pem' }}\n{SITE}"),
    );
    let stderr = pushed(&workspace, &format!("{}ca = 'cert.pem'\n", receiver.mirror("https")));
    (workspace, receiver, end.as_secs(), stderr)
}

/// Asserts that every command reports `what`, which expires in 6 days, and nothing else. Returns
/// the expiry time, which is the same in JSON and metrics.
fn is_named(workspace: &Workspace, push: &str, what: &str) -> u64 {
    let words = format!("the {what} expires on ");
    let warning =
        push.lines().find(|line| line.starts_with("warning: ")).unwrap_or_else(|| panic!("{push}"));
    assert!(
        warning.starts_with(&format!("warning: edge1: {words}"))
            && warning.ends_with(" (in 6 days)"),
        "{push}"
    );
    assert_eq!(
        (push.matches("warning: ").count(), push.matches("hint: ").count()),
        (1, 1),
        "{push}"
    );
    workspace.ok("status --metrics status.prom").says(&words);
    let check = workspace.run("status --check").code(1);
    assert!(
        check.stdout.contains(&format!("current, edge1 has a {what} that expires on ")),
        "{}",
        check.stdout
    );
    workspace
        .ok("doctor")
        .says("edge1: ok: ")
        .says(&format!("edge1: warning: {words}"))
        .says("hint: ");
    let row = workspace.json("status", 0)["mirrors"][0].clone();
    let end = row[format!("{what}_expires")].as_u64().unwrap();
    assert_eq!(workspace.json("push", 0)["mirrors"][0][format!("{what}_expires")], json!(end));
    let gauges = workspace.read("status.prom");
    check_gauges(&gauges).unwrap();
    let gauge = format!(
        "headwater_mirror_{what}_expiry_timestamp_seconds{{site=\"docs\",mirror=\"edge1\"}} {end}\n"
    );
    assert!(gauges.contains(&gauge), "{gauges}");
    end
}

/// Asserts that only `doctor` mentions `what`, which expires in 20 days.
fn is_fine(workspace: &Workspace, push: &str, what: &str) {
    assert!(!push.contains("warning: ") && !push.contains("hint: "), "{push}");
    assert!(!workspace.ok("status").stdout.contains(what));
    workspace.run("status --check").code(0);
    workspace.ok("doctor").says(&format!("the {what} expires on ")).says("(in 20 days)");
}

#[test]
fn token_that_expires_soon_is_reported_by_every_command() {
    let (workspace, _receiver, push) = with_token(&format!("--expires {}h", 6 * 24 + 1));
    assert!(push.contains("hint: create a new token with `headwater token new "), "{push}");
    let end = is_named(&workspace, &push, "token");
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!((now + 6 * 24 * HOUR..=now + (6 * 24 + 1) * HOUR).contains(&end), "{end}");
}

#[test]
fn token_that_expires_later_or_never_causes_no_warning() {
    let (workspace, _receiver, push) = with_token(&format!("--expires {}h", 20 * 24 + 1));
    is_fine(&workspace, &push, "token");
    let (workspace, _receiver, push) = with_token("");
    assert!(!push.contains("warning: "), "{push}");
    let row = workspace.json("status", 0)["mirrors"][0].clone();
    assert_eq!((row.get("token_expires"), row.get("certificate_expires")), (None, None), "{row}");
    assert!(!workspace.ok("doctor").stdout.contains("expires"));
}

#[test]
fn receiver_certificate_that_expires_soon_is_reported() {
    let (workspace, _receiver, end, push) =
        with_certificate(Duration::from_secs((6 * 24 + 1) * HOUR));
    assert!(push.contains("hint: renew the certificate"), "{push}");
    assert_eq!(is_named(&workspace, &push, "certificate"), end);
    let (workspace, _receiver, _, push) =
        with_certificate(Duration::from_secs((20 * 24 + 1) * HOUR));
    is_fine(&workspace, &push, "certificate");
}
