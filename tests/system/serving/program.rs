//! `headwater serve` and `headwater receive` as processes: signals, pipes, certificates, kills,
//! full disks.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::Arc;

use headwater::receiver::{TlsFiles, Token};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{
    Complete, Connection, Receiver, activation, assert_serves, head, pack_path, stage_body,
    wait_until,
};
use crate::checker;
use crate::deltas::pages;
use crate::harness::Sandbox;
use crate::origin::{first_tree, second_tree};

/// A running `headwater serve`.
pub(super) struct Program {
    child: Child,
    pub(super) address: SocketAddr,
    /// Reads stderr, so that the program never blocks on it.
    log: Option<std::thread::JoinHandle<String>>,
}

impl Program {
    /// Serves `mirror` of this sandbox, with the given fault.
    pub(super) fn start(sandbox: &Sandbox, flags: &[&str], fault: &str) -> Self {
        Self::launch(sandbox, &[&[&*sandbox.path_text("mirror")], flags].concat(), fault)
    }

    /// Serves with these arguments.
    pub(super) fn launch(sandbox: &Sandbox, arguments: &[&str], fault: &str) -> Self {
        let mut command =
            sandbox.command(&[&["serve", "--listen", "127.0.0.1:0"], arguments].concat());
        let mut child =
            command.env("HEADWATER_FAULT", fault).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        let line: Value = serde_json::from_str(&first).unwrap_or_else(|_| panic!("{first}"));
        assert_eq!(line["event"], "listening");
        let address = line["address"].as_str().unwrap().parse().unwrap();
        let log = std::thread::spawn(move || {
            stderr.read_to_string(&mut first).unwrap();
            first
        });
        Self { child, address, log: Some(log) }
    }

    /// Returns the id of the process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end; returns its exit code and its log.
    fn end(&mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        (status.code(), self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends a request to a receiver that may die at any moment.
fn try_ask(address: SocketAddr, path: &str, body: &[u8]) -> Option<super::Answer> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
    stream.write_all(&head("POST", path, &[], body.len())).ok()?;
    stream.write_all(body).ok()?;
    Connection { stream: BufReader::new(stream) }.answer()
}

#[test]
fn requests_in_flight_are_answered_before_shutdown() {
    let sandbox = Sandbox::new();
    let mut program = Program::start(&sandbox, &["--no-auth"], "");
    let delivery = first_tree().release(1).bundle_from(None);
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let mut idle = Connection::to(program.address);
    idle.ask("GET", "/healthz", &[], b"").ok();
    let mut busy = Connection::to(program.address);
    busy.send(&head("POST", "/v1/stage", &[("expect", "100-continue")], body.len()));
    // Now the handler has it.
    assert_eq!(busy.answer().unwrap().status, 100);
    busy.send(&body[..100]);
    program.signal(Signal::TERM);
    assert!(idle.answer().is_none(), "an idle connection is closed");
    wait_until("no new connection is accepted", || {
        std::net::TcpStream::connect(program.address).is_err()
    });
    busy.send(&body[100..]);
    assert_eq!(busy.answer().unwrap().ok(), json!({"staged": {"resent": 0}}));
    let (code, log) = program.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.lines().last().unwrap().contains(r#""event":"stopped","cut":0"#), "{log}");
}

#[cfg(debug_assertions)]
#[test]
fn unreadable_objects_are_not_dropped_by_the_receiver() {
    let sandbox = Sandbox::new();
    let push = |version: &str, fault: &str| {
        let program = Program::start(&sandbox, &["--no-auth"], fault);
        let url = format!("http://{}", program.address);
        sandbox.write("tree", &pages(version));
        sandbox.run(&[
            "push",
            &sandbox.path_text("tree"),
            &url,
            "--allow-shrink",
            "--deadline",
            "20s",
        ])
    };
    push("1", "").expect(&[0]);
    push("2", "").expect(&[0]);
    let mirror = sandbox.path("mirror");
    let before = checker::object_names(&mirror);
    for errno in [5, 13, 24] {
        let outcome = push("3", &format!("errno={errno}@open:/.headwater/objects/"));
        assert_ne!(outcome.code(), Some(0), "{errno}: {outcome}");
        assert!(!outcome.stderr.contains("damaged"), "{errno}: {outcome}");
        assert!(checker::object_names(&mirror).is_superset(&before), "{errno}: {outcome}");
    }
    push("3", "").expect(&[0]);
    assert!(checker::check_store(&mirror).is_ok());
}

#[cfg(debug_assertions)]
#[test]
fn panic_is_logged_with_its_location_and_the_receiver_continues() {
    let sandbox = Sandbox::new();
    let mut program = Program::start(&sandbox, &["--no-auth"], "panic@create directory");
    let delivery = first_tree().release(1).bundle_from(None);
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    let refused = Connection::to(program.address).ask("POST", "/v1/stage", &[], &body);
    assert_eq!(refused.refusal(), (500, "other".to_owned()));
    assert!(!String::from_utf8_lossy(&refused.body).contains("as was asked for"), "{refused:?}");
    Connection::to(program.address).ask("GET", "/healthz", &[], b"").ok();
    program.signal(Signal::TERM);
    let (_, log) = program.end();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let panicked: Vec<&Value> = lines.iter().filter(|line| line["event"] == "panicked").collect();
    assert_eq!(panicked.len(), 1, "{log}");
    assert!(panicked[0]["place"].as_str().unwrap().starts_with("src/fsx/fault.rs:"), "{log}");
}

#[test]
fn token_appears_in_no_output() {
    let sandbox = Sandbox::new();
    let token = sandbox.run(&["token", "new", "--site", "docs", "--allow", "push"]).expect(&[0]);
    let (secret, table) = (token.stdout.trim().to_owned(), token.stderr.clone());
    assert!(Token::parse(&secret).is_some() && !table.contains(&secret[12..]), "{table}");
    fs::write(sandbox.path("tokens.toml"), &table).unwrap();
    let file = sandbox.path_text("tokens.toml");
    let mut program = Program::start(&sandbox, &["--site", "docs", "--token-file", &file], "");
    for bearer in [
        format!("Bearer {secret}"),
        format!("bearer {secret}x"),
        format!("Basic {secret}"),
        secret.clone(),
    ] {
        let state = Connection::to(program.address).ask(
            "GET",
            "/v1/state",
            &[("authorization", &bearer)],
            b"",
        );
        assert_eq!(state.status == 200, bearer == format!("Bearer {secret}"), "{bearer}");
        assert!(!String::from_utf8_lossy(&state.body).contains(&secret[12..]));
    }
    Connection::to(program.address).ask("GET", &format!("/{secret}"), &[], b"");
    program.signal(Signal::INT);
    let (code, log) = program.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains(&secret[12..]), "{log}");
    assert!(log.contains(&secret[3..11]), "the log names the token: {log}");
}

#[test]
fn peer_text_is_escaped_in_the_log() {
    let sandbox = Sandbox::new();
    let mut program = Program::start(&sandbox, &["--no-auth"], "");
    let mut connection = Connection::to(program.address);
    connection.send("GET /\u{9b}31m\u{202e}evil HTTP/1.1\r\nhost: a\r\n\r\n".as_bytes());
    connection.answer();
    let activation = br#"{"release":"\u001b[2J\n1-0000000000000000"}"#;
    Connection::to(program.address).ask("POST", "/v1/activate", &[], activation);
    program.signal(Signal::TERM);
    let (_, log) = program.end();
    let steers = |c: char| c != '\n' && c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!log.contains(steers), "{log:?}");
    assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
}

#[test]
fn receive_sends_a_banner_and_answers_on_pipes() {
    let sandbox = Sandbox::new();
    let mirror = sandbox.path_text("mirror");
    let mut command = sandbox.command(&["receive", &mirror, "--site", "docs"]);
    command
        .env("SSH_ORIGINAL_COMMAND", "rm -rf /")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, mut output) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut banner = String::new();
    output.read_line(&mut banner).unwrap();
    let banner: Value =
        serde_json::from_str(banner.strip_prefix("headwater receive 1 ").unwrap()).unwrap();
    assert_eq!(banner["protocols"], json!([1]));
    assert_eq!(banner["sites"], json!([{"directory": mirror, "site": "docs", "base": "/"}]));
    let delivery = first_tree().release(1).bundle_from(None);
    let stage = stage_body(&delivery, &delivery.packs, Complete::Yes);
    for (path, body) in [("/v1/stage", stage), ("/v1/activate", activation(&delivery, None))] {
        input.write_all(&head("POST", path, &[], body.len())).unwrap();
        input.write_all(&body).unwrap();
        let mut line = String::new();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            output.read_line(&mut line).unwrap();
            length = line
                .strip_prefix("content-length: ")
                .map_or(length, |text| text.trim().parse().unwrap());
        }
        let mut answer = vec![0; length];
        output.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(br#"{"ok":"#), "{}", String::from_utf8_lossy(&answer));
    }
    drop(input);
    let end = child.wait_with_output().unwrap();
    assert!(end.status.success());
    assert_eq!(String::from_utf8_lossy(&end.stderr), "");
    assert_serves(&sandbox.path("mirror"), 1);
}

/// Writes a certificate for localhost to these files; returns it as a trust anchor for a client.
fn certificate(files: &TlsFiles) -> ureq::tls::Certificate<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&files.cert, made.cert.pem()).unwrap();
    fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    ureq::tls::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap().to_owned()
}

fn is_trusted(address: SocketAddr, root: &ureq::tls::Certificate<'static>) -> bool {
    let roots = ureq::tls::RootCerts::Specific(Arc::new(vec![root.clone()]));
    let tls = ureq::tls::TlsConfig::builder().root_certs(roots).build();
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder().tls_config(tls).proxy(None).build(),
    );
    agent.get(format!("https://localhost:{}/healthz", address.port())).call().is_ok()
}

#[test]
fn certificate_is_reloaded_and_a_bad_one_is_ignored() {
    let dir = crate::sandbox::directory();
    let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    let old = certificate(&files);
    let receiver = Receiver::new(|settings| settings.tls = Some(files.clone()));
    assert!(is_trusted(receiver.address, &old));
    let new = certificate(&files);
    assert!(!is_trusted(receiver.address, &new), "the new certificate is not used before a reload");
    receiver.handle().reload();
    assert!(is_trusted(receiver.address, &new) && !is_trusted(receiver.address, &old));
    fs::write(&files.key, "not a key").unwrap();
    receiver.handle().reload();
    assert!(is_trusted(receiver.address, &new));
    let logged = receiver.logged();
    assert!(
        logged.contains(r#"{"event":"certificate_read"}"#) && logged.contains("key.pem"),
        "{logged}"
    );
    // A client without TLS gets no information and affects no one.
    let mut plain = receiver.connect();
    plain.send(b"GET /healthz HTTP/1.1\r\n\r\n");
    assert!(plain.answer().is_none());
    wait_until("the connection error is logged", || {
        receiver.logged().contains(r#""event":"turned_away""#)
    });
    assert!(is_trusted(receiver.address, &new));
}

#[test]
fn sighup_reloads_the_certificate() {
    let sandbox = Sandbox::new();
    let files = TlsFiles { cert: sandbox.path("cert.pem"), key: sandbox.path("key.pem") };
    let old = certificate(&files);
    let config =
        "tls = { cert = 'cert.pem', key = 'key.pem' }\n[[site]]\nname = 'docs'\ndir = 'mirror'\n";
    let token =
        sandbox.run(&["token", "new", "--site", "docs", "--allow", "push"]).expect(&[0]).stderr;
    fs::write(sandbox.path("serve.toml"), format!("{config}{token}")).unwrap();
    let mut program =
        Program::launch(&sandbox, &["--config", &sandbox.path_text("serve.toml")], "");
    assert!(is_trusted(program.address, &old));
    let new = certificate(&files);
    program.signal(Signal::HUP);
    wait_until("the new certificate is used", || is_trusted(program.address, &new));
    assert!(!is_trusted(program.address, &old));
    program.signal(Signal::TERM);
    let (code, log) = program.end();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains(r#""event":"certificate_read""#), "{log}");
}

#[cfg(debug_assertions)]
#[test]
fn receiver_killed_at_any_step_serves_a_complete_release() {
    let sandbox = Sandbox::new();
    let (first, second) = (first_tree().release(1), second_tree().release(2));
    let publish =
        |address: SocketAddr, delivery: &crate::origin::Delivery, expected: Option<String>| {
            let body = stage_body(delivery, &delivery.packs, Complete::Yes);
            // Packs of an earlier attempt are not accepted twice.
            let staged = try_ask(address, "/v1/stage", &body)?;
            let activated =
                try_ask(address, "/v1/activate", &activation(delivery, expected.as_deref()))?;
            let settled = try_ask(address, "/v1/settle", br#"{"keep":3}"#)?;
            [staged, activated, settled].iter().all(|answer| answer.status == 200).then_some(())
        };
    {
        let program = Program::start(&sandbox, &["--no-auth"], "");
        publish(program.address, &first.bundle_from(None), None).unwrap();
    }
    sandbox.save("mirror");
    let delivery = second.bundle_from(Some(&first));
    let expected = Some(first.name().to_string());
    let (mut step, mut sequences) = (1, Vec::new());
    loop {
        sandbox.restore("mirror");
        let mut program = Program::start(&sandbox, &["--no-auth"], &format!("kill@{step}"));
        let is_done = publish(program.address, &delivery, expected.clone()).is_some();
        if is_done {
            break;
        }
        assert_eq!(program.end().0, None, "the receiver was killed at step {step}");
        let served = sandbox.served("mirror");
        sequences.push(served.record.sequence);
        let again = Program::start(&sandbox, &["--no-auth"], "");
        publish(again.address, &delivery, expected.clone())
            .unwrap_or_else(|| panic!("killed at step {step}"));
        assert_serves(&sandbox.path("mirror"), 2);
        step += 1;
    }
    assert!(
        sequences.contains(&1) && sequences.contains(&2) && sequences.is_sorted(),
        "{sequences:?}"
    );
    assert!(checker::check_store(&sandbox.path("mirror")).is_ok());
}

#[cfg(debug_assertions)]
#[test]
fn full_disk_is_reported_and_freed() {
    let sandbox = Sandbox::new();
    let delivery = first_tree().release(1).bundle_from(None);
    let body = stage_body(&delivery, &delivery.packs, Complete::Yes);
    const ENOSPC: i32 = 28;
    for op in ["write", "create", "sync file system", "rename"] {
        {
            let program = Program::start(&sandbox, &["--no-auth"], &format!("errno={ENOSPC}@{op}"));
            let full = Connection::to(program.address).ask("POST", "/v1/stage", &[], &body);
            assert_eq!(full.refusal(), (507, "no_space".to_owned()), "{op}");
        }
        assert!(checker::state(&sandbox.path("mirror")).unwrap().is_none());
    }
    let program = Program::start(&sandbox, &["--no-auth"], "");
    let mut connection = Connection::to(program.address);
    connection.ask("POST", "/v1/stage", &[], &body).ok();
    connection.ask("POST", "/v1/activate", &[], &activation(&delivery, None)).ok();
    assert_serves(&sandbox.path("mirror"), 1);
}

#[test]
fn restarted_receiver_resumes_unfinished_pushes() {
    let sandbox = Sandbox::new();
    let delivery = first_tree().release(1).bundle_from(None);
    let pack = &delivery.packs[0];
    {
        let program = Program::start(&sandbox, &["--no-auth"], "");
        let mut connection = Connection::to(program.address);
        connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
        connection.ask("PUT", &pack_path(&delivery, pack), &[], &pack.bytes).ok();
        program.signal(Signal::KILL);
    }
    let program = Program::start(&sandbox, &["--no-auth"], "");
    let mut connection = Connection::to(program.address);
    let state = connection.ask("GET", "/v1/state", &[], b"").ok();
    assert_eq!(state["unfinished"], json!([delivery.key.to_string()]));
    let held =
        connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
    assert_eq!(held, json!({"held": [pack.id.to_string()]}));
}
