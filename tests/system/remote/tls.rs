//! Certificates for another name, expired certificates, and certificates of an unknown authority.

use headwater::receiver::TlsFiles;

use super::{Receiver, push, serves_tree};
use crate::harness::Sandbox;
use crate::trees::Tree;

/// Pushes to a receiver whose certificate `change` made; the client trusts `ca`.
fn push_to(
    change: impl FnOnce(&mut rcgen::CertificateParams),
    is_trusted: bool,
    codes: &[i32],
    words: &str,
) {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    change(&mut params);
    let cert = params.self_signed(&key).unwrap();
    let files = TlsFiles { cert: sandbox.path("cert.pem"), key: sandbox.path("key.pem") };
    std::fs::write(&files.cert, cert.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    let receiver = Receiver::with(&sandbox.path("web"), |settings| settings.tls = Some(files));
    let ca = if is_trusted { "ca = 'cert.pem'" } else { "" };
    let url = format!("https://localhost:{}/", receiver.address().port());
    let config = format!("content = 'tree'\n[[mirror]]\nname = 'web'\nurl = '{url}'\n{ca}\n");
    std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
    let outcome = sandbox.run(&["push"]).expect(codes);
    assert!(outcome.stderr.contains(words), "{outcome}");
    assert_eq!(serves_tree(&sandbox, "web"), codes == [0]);
}

#[test]
fn only_the_trusted_certificate_is_accepted() {
    push_to(|_| {}, true, &[0], "release 1 is current");
    push_to(|_| {}, false, &[4], "not signed by an authority that is trusted here");
    let other = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names =
            vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
    };
    push_to(other, true, &[4], "it is for other.example, not for localhost");
    let expired =
        |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    push_to(expired, true, &[4], "it expired ");
    let early = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(3000, 1, 1);
    };
    push_to(early, true, &[4], "it becomes valid in ");
    let of_authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    push_to(of_authority, true, &[4], "basicConstraints=CA:FALSE");
}

#[test]
fn regenerated_certificate_is_explained() {
    let new_kind = "the trusted certificate of that name has a different kind of key";
    for (kind, words) in
        [(&rcgen::PKCS_ECDSA_P256_SHA256, "was regenerated"), (&rcgen::PKCS_ED25519, new_kind)]
    {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let [(old, _), (new, key)] = [kind, &rcgen::PKCS_ECDSA_P256_SHA256].map(|kind| {
            let key = rcgen::KeyPair::generate_for(kind).unwrap();
            let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            (params.self_signed(&key).unwrap(), key)
        });
        let files = TlsFiles { cert: sandbox.path("cert.pem"), key: sandbox.path("key.pem") };
        std::fs::write(&files.cert, new.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::write(sandbox.path("ca.pem"), old.pem()).unwrap();
        let receiver = Receiver::with(&sandbox.path("web"), |settings| settings.tls = Some(files));
        let url = format!("https://localhost:{}/", receiver.address().port());
        let config =
            format!("content = 'tree'\n[[mirror]]\nname = 'web'\nurl = '{url}'\nca = 'ca.pem'\n");
        std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
        let outcome = sandbox.run(&["push"]).expect(&[4]);
        assert!(
            outcome.stderr.contains(words) && outcome.stderr.contains("`ca` of the [[mirror]]"),
            "{outcome}"
        );
    }
}

#[test]
#[ignore = "needs openssl"]
fn documented_certificate_is_accepted_and_a_ca_certificate_is_not() {
    let page = include_str!("../../../docs/receivers.md");
    let (_, command) = page.split_once("$ openssl req").expect("it is there");
    let command = format!("openssl req{}", command.split("```").next().unwrap())
        .replace("edge1.example", "localhost");
    let constraint = "-addext basicConstraints=critical,CA:FALSE";
    assert!(command.contains(constraint));
    for (command, code, words) in [
        (command.clone(), 0, "release 1 is current"),
        (
            command.replace(constraint, ""),
            4,
            "create a server certificate with basicConstraints=CA:FALSE",
        ),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("tree", &Tree::small());
        let mut shell = std::process::Command::new("sh");
        let made = shell.args(["-c", &command]).current_dir(sandbox.path("")).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let files =
            TlsFiles { cert: sandbox.path("fullchain.pem"), key: sandbox.path("privkey.pem") };
        let receiver = Receiver::with(&sandbox.path("web"), |settings| settings.tls = Some(files));
        let url = format!("https://localhost:{}/", receiver.address().port());
        let config = format!(
            "content = 'tree'\n[[mirror]]\nname = 'web'\nurl = '{url}'\nca = 'fullchain.pem'\n"
        );
        std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
        let outcome = sandbox.run(&["push"]).expect(&[code]);
        assert!(outcome.stderr.contains(words), "{outcome}");
    }
}

#[test]
fn https_url_of_a_plain_receiver_is_explained() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let receiver = Receiver::start(&sandbox.path("web"));
    let url = receiver.url().replace("http:", "https:");
    let outcome = push(&sandbox, &[&url], &[]).expect(&[4]);
    assert!(
        outcome.stderr.contains("the server does not use TLS")
            && outcome.stderr.contains("http://"),
        "{outcome}"
    );
}

#[test]
fn http_url_of_a_tls_receiver_is_explained() {
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { cert: sandbox.path("cert.pem"), key: sandbox.path("key.pem") };
    std::fs::write(&files.cert, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let receiver = Receiver::with(&sandbox.path("web"), |settings| settings.tls = Some(files));
    let outcome = push(&sandbox, &[&receiver.url()], &[]).expect(&[4]);
    assert!(outcome.stderr.contains("https://"), "{outcome}");
    // No mirror was found there, so there is nothing to repair.
    let outcome = sandbox.run(&["verify", "http://127.0.0.1:1/"]).expect(&[1]);
    assert!(
        outcome.stderr.contains("receiver") && !outcome.stderr.contains("headwater repair"),
        "{outcome}"
    );
}
