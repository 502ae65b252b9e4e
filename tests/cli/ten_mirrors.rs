//! A fleet of ten mirrors, from the first push to a bad release: a canary wave, a broken mirror,
//! web servers that serve stale content, and the output of status, page and metrics about all of
//! it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::harness::{Workspace, column};
use crate::web::Web;

const RECEIVERS: [&str; 4] = ["edge-1", "edge-2", "edge-3", "edge-4"];
const DIRECTORIES: [&str; 6] = ["canary-1", "canary-2", "hub", "spare", "archive", "broken"];

/// A receiver. Dropping it stops it.
struct Receiver(Child);

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a receiver of the directory `name`; returns it with its URL.
fn receiver(workspace: &Workspace, name: &str) -> (Receiver, String) {
    let mut child =
        workspace.start(&format!("serve ./{name} --site docs --listen 127.0.0.1:0 --no-auth"));
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
    std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
    (Receiver(child), format!("http://{}", first["address"].as_str().unwrap()))
}

/// Responses that a caching web server has stored, by path. It serves them without asking a mirror.
type StoredResponses = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A web server in front of all mirrors, at `/NAME/`.
fn caching_web_server(workspace: &Workspace) -> (Web, StoredResponses) {
    let (root, kept) = (workspace.path("."), StoredResponses::default());
    let responses = Arc::clone(&kept);
    let web = Web::start(move |_, asked| {
        if let Some(content) = responses.lock().unwrap().get(&asked.path) {
            return (200, String::new(), content.clone());
        }
        let (mirror, path) = asked.path.trim_start_matches('/').split_once('/').unwrap();
        match std::fs::read(root.join(mirror).join("current").join(path)) {
            Ok(content) => (200, String::new(), content),
            Err(_) => (404, String::new(), Vec::new()),
        }
    });
    (web, kept)
}

fn fleet(workspace: &Workspace, web: &Web) -> Vec<Receiver> {
    let (receivers, urls): (Vec<_>, Vec<_>) =
        RECEIVERS.iter().map(|name| receiver(workspace, name)).unzip();
    let remote = RECEIVERS
        .iter()
        .zip(urls)
        .map(|(name, url)| format!("[[mirror]]\nname='{name}'\nurl='{url}'\n"));
    let local = DIRECTORIES.iter().map(|name| {
        let group = if name.starts_with("canary") { "group='canary'\n" } else { "" };
        format!("[[mirror]]\nname='{name}'\nurl='./{name}'\n{group}")
    });
    let mirrors: String = remote.chain(local).collect();
    let config = format!(
        "site='docs'\ncontent='tree'\nrequire='80%'\n[metrics]\nfile='fleet.prom'\n\
         [mirror_defaults]\npublic_url='{}/{{name}}'\n{mirrors}\
         [[wave]]\ngroups=['canary']\nsoak='10ms'\nprobe=['index.html', 'app.js']\n",
        web.url
    );
    workspace.write("headwater.toml", config);
    receivers
}

fn all() -> impl Iterator<Item = &'static str> {
    RECEIVERS.into_iter().chain(DIRECTORIES)
}

fn outcomes(answer: &Value, wanted: &str) -> Vec<String> {
    let rows = answer["mirrors"].as_array().unwrap();
    let named = rows.iter().filter(|row| row["outcome"] == wanted);
    named.map(|row| row["mirror"].as_str().unwrap().to_owned()).collect()
}

fn assert_line(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "{line}: {text}");
}

#[test]
fn bad_release_reaches_only_the_canary() {
    let workspace = Workspace::with_tree();
    let (web, kept) = caching_web_server(&workspace);
    let _receivers = fleet(&workspace, &web);
    // A first release for all mirrors, and a second one that fails on one mirror.
    assert_eq!(outcomes(&workspace.json("push --note first", 0), "activated").len(), 10);
    workspace.rename("broken/.headwater/objects/00", "away");
    workspace.write("tree/docs/a.html", "<h1>a, second edition</h1>\n");
    let answer = workspace.json("push --note second", 3);
    assert_eq!(
        (outcomes(&answer, "activated").len(), outcomes(&answer, "failed")),
        (9, vec!["broken".to_owned()])
    );
    assert!(answer["spread_ms"].is_u64(), "{answer}");
    let good = workspace.served("hub");

    // The web server of one canary serves a stored page, so its visitors get content of no release.
    kept.lock().unwrap().insert("/canary-2/index.html".to_owned(), b"of before".to_vec());
    workspace.write("tree/index.html", "<h1>third</h1>\n");
    workspace.write("tree/app.js", "console.log(3)\n");
    workspace.ok("plan --skip broken").says("  1. canary-");
    let answer = workspace.json("push --note third", 4);
    assert_eq!(outcomes(&answer, "reverted"), ["canary-1", "canary-2"], "{answer}");
    assert_eq!(outcomes(&answer, "skipped").len(), 7, "{answer}");
    let stopped = answer["stopped"].as_str().unwrap();
    assert!(
        stopped.contains("/canary-2/index.html: visitors get content that differs"),
        "{stopped}"
    );
    assert_eq!(
        (answer["sequence"].as_u64(), answer["reverted"]["sequence"].as_u64()),
        (Some(3), Some(4))
    );
    for name in all() {
        let wanted = if name.starts_with("canary") { 4 } else { 2 - u64::from(name == "broken") };
        assert_eq!(workspace.current(name), wanted, "{name}");
        assert!(name == "broken" || workspace.served(name) == good, "{name}");
    }
    kept.lock().unwrap().clear();
    check_reports(&workspace, &web);

    // Content reverted by a probe is not refused: with the web server and the mirror fixed, all get
    // it.
    workspace.rename("away", "broken/.headwater/objects/00");
    assert_eq!(outcomes(&workspace.json("push --note third", 0), "activated").len(), 10);
    assert!(
        all().all(|name| workspace.current(name) == 5
            && workspace.served(name) == workspace.files("tree"))
    );
    workspace.ok("status --public").says("10 of 10 mirrors current");
}

/// Checks status, mirror lists, metrics and page after the bad release.
fn check_reports(workspace: &Workspace, web: &Web) {
    let rows = workspace.json("status --public", 1)["mirrors"].clone();
    assert_eq!(column(&rows, "mirror")[0], "broken");
    assert_eq!(
        column(&rows, "state").iter().filter(|state| *state == "current").count(),
        9,
        "{rows}"
    );
    // Neither the reverted release nor the reverting one was made for this mirror.
    assert_eq!(rows[0]["behind"], 1);
    let list = workspace.ok("mirrorlist --public").stdout;
    assert_eq!(list.lines().count(), 9);
    assert!(!list.contains("broken") && list.contains(&format!("{}/edge-1\n", web.url)), "{list}");
    let gauges = workspace.read("fleet.prom");
    assert_line(&gauges, "headwater_push_exit_code{site=\"docs\"} 4");
    assert_line(&gauges, "headwater_mirror_current{site=\"docs\",mirror=\"edge-1\"} 1");
    assert_line(&gauges, "headwater_mirror_current{site=\"docs\",mirror=\"broken\"} 0");
    workspace.run("status --check").code(0).says("9 of 10 mirrors current").says("behind=1;");
    workspace.run("status --public --html page.html").code(1);
    let page = workspace.read("page.html");
    for words in [
        "9 of 10 mirrors are current",
        "back from release 3",
        "Back to the content of release 2.",
        "rolled back",
        "same as 4",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // For a manual look at the page.
    if let Some(path) = std::env::var_os("HEADWATER_PAGE") {
        std::fs::write(path, page).unwrap();
    }
}
