//! A receiver that repeats the token in any encoding, anywhere: no output contains it.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Mutex;

use super::hostile_receivers::{HostileReceiver, JSON, acknowledge, answer};
use crate::flaky_proxy;
use crate::harness::{Outcome, Sandbox};
use crate::trees::{Rng, Tree};

const TOKEN: &str = "hw_0123abcd_5ec2e7aa0011223344556677f00dfaced00dc0de8899aabbccddeeff";
const ROUNDS: u64 = 40;

fn one<'a>(random: &mut Rng, all: &[&'a str]) -> &'a str {
    all[random.below(all.len())]
}

/// The token in a form that a peer may write in a text; in JSON also with escapes.
fn spelling(random: &mut Rng, is_json: bool) -> String {
    let each = |form: &dyn Fn(char) -> String| TOKEN.chars().map(form).collect::<String>();
    let code = |c: char| u32::from(c);
    let text = match random.below(if is_json { 10 } else { 7 }) {
        0 => TOKEN.to_owned(),
        1 => TOKEN.to_uppercase(),
        2 => each(&|c| format!("%{:02x}", code(c))),
        3 => each(&|c| format!("{c}\u{200b}")),
        4 => each(&|c| format!("&#{};", code(c))),
        5 => TOKEN[12..].to_owned(),
        6 => format!("Bearer {TOKEN}"),
        7 => each(&|c| format!("\\u{:04x}", code(c))),
        8 => each(&|c| format!("{c}\\u0000\\u202e")),
        _ => each(&|c| format!("{c}\\n")),
    };
    format!(
        "{}{text}{}",
        one(random, &["", "x", "it was ", "?token="]),
        one(random, &["", "y", " again", "/"])
    )
}

/// Answers a request with a response that contains the token, or like an honest mirror.
fn answer_with_token(random: &mut Rng, stream: &mut TcpStream, head: &str) {
    let echo = spelling(random, true);
    let plain = spelling(random, false).replace(['\n', '\r'], "");
    let kinds = [
        "denied",
        "unauthorized",
        "forbidden",
        "locked",
        "no_space",
        "conflict",
        "busy",
        "version",
        &*echo,
    ];
    let refusal = format!(
        "{{\"error\":{{\"kind\":\"{}\",\"message\":\"{echo}\",\"objects\":[]}}}}",
        one(random, &kinds)
    );
    let release = "7-00112233445566aa";
    let record = echo.replace('\\', "\\\\");
    match random.below(14) {
        0..4 => acknowledge(stream, head),
        4 => answer(
            stream,
            one(random, &["403 Forbidden", "401 Unauthorized", "500 Oops", "426 Upgrade"]),
            JSON,
            &refusal,
        ),
        5 => {
            answer(stream, "302 Found", &format!("location: https://evil.example/{plain}\r\n"), "");
        }
        6 => answer(stream, "404 Not Found", "", &format!("<html><title>\n{plain}\n</title>")),
        7 => answer(stream, "502 Bad Gateway", "", &format!("\n\n{plain}\n")),
        8 => answer(
            stream,
            "426 Upgrade",
            &format!("{JSON}headwater-protocol: {plain}\r\n"),
            &refusal,
        ),
        9 => answer(stream, &format!("400 {plain}"), &format!("retry-after: {plain}\r\n"), &plain),
        10 => drop(stream.write_all(format!("{plain}\r\nx: {plain}\r\n\r\n").as_bytes())),
        11 => {
            let body = format!("{plain}\r\n{plain}");
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}{body}").as_bytes()).ok();
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
        12 => {
            let state = format!(
                "{{\"ok\":{{\"headwater\":\"{echo}\",\"unfinished\":[],\"releases\":[\"{record}\"],\
                 \"staged\":\"{{\\\"headwater\\\":\\\"release\\\",{record}\",\
                 \"time\":1,\"{echo}\":\"{echo}\"}}}}"
            );
            answer(stream, "200 OK", JSON, &state);
        }
        _ => {
            let body = format!(
                "{{\"ok\":{{\"events\":[{{\"time\":9,\"event\":\"hook_failed\",\
                 \"release\":\"{release}\",\"why\":\"{echo}\"}}],\
                 \"hook\":{{\"release\":\"{release}\",\"state\":\"failed\",\"reason\":\"{echo}\"}},\
                 \"staged\":{{\"resent\":0}},\
                 \"unfinished\":[]}}}}"
            );
            answer(stream, "200 OK", JSON, &body);
        }
    }
}

/// Returns the text without escapes and invisible characters, in lower case.
fn read_back(text: &str) -> String {
    let mut text = text.to_lowercase();
    for (open, close, digits) in
        [("\\u{", "}", None), ("\\u", "", Some(4)), ("%", "", Some(2)), ("&#", ";", None)]
    {
        let mut parts = text.split(open);
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = digits.or_else(|| part.find(close)).filter(|end| part.is_char_boundary(*end));
            let radix = if open == "&#" { 10 } else { 16 };
            let code =
                end.and_then(|end| Some((u32::from_str_radix(part.get(..end)?, radix).ok()?, end)));
            match code.and_then(|(code, end)| Some((char::from_u32(code)?, end))) {
                Some((char, end)) => {
                    plain.push(char);
                    plain.push_str(&part[end + close.len()..]);
                }
                None => plain.extend([open, part]),
            }
        }
        text = plain;
    }
    text.chars().filter(|c| c.is_ascii_alphanumeric()).collect()
}

#[track_caller]
fn assert_silent(what: &str, text: &str) {
    let read = read_back(text);
    let secret = &TOKEN[12..];
    let parts = secret.as_bytes().windows(16).map(|part| std::str::from_utf8(part).unwrap());
    for part in parts {
        assert!(!read.contains(part), "{what} has {part}: {text}");
    }
}

#[test]
fn token_search_finds_every_spelling() {
    let mut random = Rng::new(7);
    for _ in 0..200 {
        let text = format!("a {} b", spelling(&mut random, true).replace("\\n", "\n"));
        assert!(read_back(&text).contains("5ec2e7aa00112233"), "{text}");
    }
}

#[test]
fn echoed_token_never_appears_in_output() {
    let seed = flaky_proxy::seed();
    let sandbox = Sandbox::new();
    sandbox.write("tree", &Tree::small());
    let random = Mutex::new(Rng::new(seed));
    let hostile = HostileReceiver::start(move |stream, head| {
        let mut random = random.lock().unwrap();
        answer_with_token(&mut random, stream, head);
    });
    let config =
        format!("content = 'tree'\n[[mirror]]\nname = 'liar'\nurl = '{}'\n", hostile.url());
    std::fs::write(sandbox.path("headwater.toml"), config).unwrap();
    let commands = [
        "push --json --events events --dotenv dotenv --metrics metrics",
        "push --verbose",
        "status --json --html page --internal",
        "status --metrics metrics",
        "plan --json",
        "releases --json",
        "doctor",
    ];
    for round in 0..ROUNDS {
        let command = commands[usize::try_from(round).unwrap() % commands.len()];
        let arguments: Vec<&str> = command.split(' ').chain(["--deadline", "1s"]).collect();
        let mut process = sandbox.command(&arguments);
        process.env("HEADWATER_TOKEN", TOKEN).env("GITHUB_ACTIONS", "true").env("CI", "true");
        process
            .env("GITHUB_STEP_SUMMARY", sandbox.path("summary"))
            .env("GITHUB_OUTPUT", sandbox.path("output"));
        let outcome = Outcome::of(&mut process);
        assert!(!matches!(outcome.code(), None | Some(101)), "{command}: {outcome}");
        assert_silent(command, &outcome.stdout);
        assert_silent(command, &outcome.stderr);
        for file in ["events", "dotenv", "metrics", "summary", "output", "page"] {
            let text = std::fs::read_to_string(sandbox.path(file)).unwrap_or_default();
            assert_silent(&format!("{command}: {file}"), &text);
        }
    }
    for file in ["events", "dotenv", "metrics", "summary", "output", "page"] {
        assert!(sandbox.path(file).exists(), "{file} was never written");
    }
    assert!(
        hostile.heads.lock().unwrap().iter().any(|head| head.contains(TOKEN)),
        "the token was never sent"
    );
}
