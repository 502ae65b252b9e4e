//! What follows a push: hooks, CDN purges, metrics, and CI.

use serde_json::{Value, json};

use crate::harness::Workspace;
use crate::prometheus::check_gauges;
use crate::web::Web;

/// A workspace with a tree and a configuration that contains `more`.
fn workspace(more: &str) -> Workspace {
    let workspace = Workspace::with_tree();
    workspace.write(
        "headwater.toml",
        format!("content = 'tree'\nsite = 'docs'\n{more}\n[[mirror]]\nname='eu'\nurl='www'\n"),
    );
    workspace
}

fn hooked(script: &str, more: &str) -> Workspace {
    let workspace =
        workspace(&format!("[hooks]\non_activated = ['/bin/sh', '-c', '''{script}''']\n{more}"));
    workspace.ok("push");
    workspace
}

#[test]
fn hook_reads_the_changed_paths_from_stdin() {
    let workspace = hooked(
        "cat > seen; echo $HEADWATER_SITE $HEADWATER_SEQUENCE $HEADWATER_EXIT_CODE > how",
        "",
    );
    assert!(
        workspace.read("seen").contains("/index.html\n")
            && workspace.read("seen").starts_with("/\n"),
        "{}",
        workspace.read("seen")
    );
    workspace.write("tree/a b/é.html", "new");
    workspace.write("tree/index.html", "2");
    workspace.ok("push").says("on_activated: ran with 3 paths");
    assert_eq!(
        (workspace.read("seen").as_str(), workspace.read("how").as_str()),
        ("/\n/a%20b/%C3%A9.html\n/index.html\n", "docs 2 0\n")
    );
    // A push without changes and a push that only removes due entries do not run the hook.
    workspace.remove("seen");
    workspace.ok("push");
    assert!(!workspace.path("seen").exists());
    workspace.remove("tree/a b/é.html");
    let notifications = workspace.json("push --keep-removed 0s", 0)["notifications"].clone();
    assert_eq!(
        notifications,
        json!([{ "who": "on_activated", "ok": true, "message": "ran with 1 path" }])
    );
    assert_eq!(workspace.read("seen"), "/a%20b/%C3%A9.html\n");
}

#[test]
fn hook_gets_all_paths_that_a_healed_mirror_lacked() {
    let workspace = workspace("[hooks]\non_activated = ['/bin/sh', '-c', 'cat > seen']");
    workspace.ok("push");
    workspace.ok("push --from eu ./old");
    for number in ["2", "3"] {
        workspace.write(&format!("tree/only-{number}.html"), number);
        workspace.ok("push");
    }
    workspace.ok("push ./tree eu ./old").says("copied to 1 mirror");
    assert_eq!(workspace.read("seen"), "/only-2.html\n/only-3.html\n");
}

#[test]
fn failing_or_endless_hook_is_reported_and_keeps_the_exit_code() {
    let workspace = hooked("echo no luck >&2; exit 3", "");
    workspace.write("tree/x", "x");
    workspace
        .ok("push")
        .says("on_activated: exit status: 3: no luck")
        .warns("on_activated: exit status: 3");
    let workspace = hooked("sleep 1000 & sleep 1000", "timeout = '200ms'");
    workspace.write("tree/x", "x");
    workspace.ok("push").warns("on_activated: it did not end within 0.2 s and was killed");
    let workspace = workspace_with_failure("./no-such-program");
    workspace.run("push").code(4).warns("on_failed: it cannot be run");
}

fn workspace_with_failure(program: &str) -> Workspace {
    let workspace = workspace(&format!("[hooks]\non_failed = ['{program}']"));
    workspace.write("www/stranger", "not a mirror");
    workspace
}

#[test]
fn on_failed_hook_gets_the_error_and_exit_code() {
    let workspace = workspace(
        "[hooks]\non_failed = ['/bin/sh', '-c', 'echo $HEADWATER_EXIT_CODE: $HEADWATER_ERROR > \
         alarm']",
    );
    workspace.ok("push");
    assert!(!workspace.path("alarm").exists());
    workspace.remove("tree");
    workspace.run("push").code(8);
    assert!(
        workspace.read("alarm").starts_with("8: ") && workspace.read("alarm").contains("tree"),
        "{}",
        workspace.read("alarm")
    );
    workspace.write("tree/x", "x");
    workspace.write("busy/stranger", "not a mirror");
    workspace.run("push eu ./busy --require any").code(3);
    assert!(workspace.read("alarm").starts_with("3: ./busy: "), "{}", workspace.read("alarm"));
}

fn cdn(web: &Web, more: &str) -> Workspace {
    let workspace = workspace(&format!(
        "[purge]\nurl='{}/purge'\nbase='https://www.example/docs'\ntoken_env='CDN'\nmax_urls=3\n\
         {more}",
        web.url
    ));
    workspace.run_with(&[("CDN", "canary-token")], "push").code(0);
    workspace
}

fn lists(web: &Web) -> Vec<usize> {
    let files = |body: &str| {
        serde_json::from_str::<Value>(body).unwrap()["files"].as_array().unwrap().len()
    };
    web.requests().iter().map(|asked| files(&asked.body)).collect()
}

const TOKEN: &[(&str, &str)] = &[("CDN", "canary-token")];

#[test]
fn changed_paths_are_purged_from_the_cdn() {
    let web = Web::start(|_, _| (200, String::new(), Vec::new()));
    let workspace = cdn(&web, "");
    let before = web.requests().len();
    assert!(before >= 2, "batches of three");
    for number in 0..4 {
        workspace.write(&format!("tree/n{number}"), "n");
    }
    workspace.write("tree/a/index.html", "a");
    let run = workspace.run_with(TOKEN, "push").code(0).says("purge: 6 URLs in 2 requests");
    assert!(!run.stdout.contains("canary") && !run.stderr.contains("canary"));
    let asked = web.requests()[before..].to_vec();
    assert_eq!(
        asked[0].body,
        concat!(
            r#"{"files":["https://www.example/docs/a/","https://www.example/docs/a/index.html","#,
            r#""https://www.example/docs/n0"]}"#
        )
    );
    assert!(asked.iter().all(|asked| asked.method == "POST"
        && asked.headers.contains("authorization: bearer canary-token")));
    workspace.run_with(TOKEN, "push").code(0);
    assert_eq!(web.requests().len(), before + 2, "nothing changed, so nothing is purged");
}

#[test]
fn purge_is_retried_and_split_until_the_cdn_acknowledges() {
    let web = Web::start(|before, asked| match before {
        0 => (429, "retry-after: 0\r\n".into(), Vec::new()),
        1 => (503, "retry-after: 0\r\n".into(), Vec::new()),
        _ if asked.body.matches("https:").count() > 1 => (413, String::new(), Vec::new()),
        _ => (202, String::new(), Vec::new()),
    });
    cdn(&web, "");
    let lists = lists(&web);
    assert_eq!(lists[..6], [3, 3, 3, 1, 2, 1], "{lists:?}");
}

#[test]
fn unacknowledged_purges_are_sent_with_the_next_push() {
    let web =
        Web::start(|before, _| (if before == 0 { 403 } else { 200 }, String::new(), Vec::new()));
    let workspace = cdn(&web, "retry_for='0s'");
    let count = web.requests().len();
    let run = workspace
        .run_with(TOKEN, "push")
        .code(0)
        .says("nothing new")
        .says("purge: 3 URLs in 1 request");
    assert!(run.stderr.is_empty() || !run.stderr.contains("purge"), "{}", run.stderr);
    assert_eq!(web.requests()[0].body, web.requests()[count].body);
    workspace.run_with(TOKEN, "push").code(0);
    assert_eq!(web.requests().len(), count + 1);
    // A missing token is reported, and the URLs are kept for the next push.
    workspace.write("tree/later", "x");
    workspace.ok("push").warns("purge: the variable CDN is not set");
    workspace.run_with(TOKEN, "push").code(0).says("purge: 1 URL in 1 request");
}

#[test]
fn metrics_file_is_valid_for_prometheus() {
    let workspace = workspace("[metrics]\nfile='headwater.prom'");
    let gauges = || {
        let text = workspace.read("headwater.prom");
        let families = check_gauges(&text).unwrap_or_else(|reason| panic!("{reason}\n{text}"));
        (text, families)
    };
    workspace.ok("push");
    let (text, families) = gauges();
    assert!(families >= 15, "{text}");
    let says =
        |text: &str, line: &str| assert!(text.lines().any(|found| found == line), "{line}: {text}");
    says(&text, "headwater_push_exit_code{site=\"docs\"} 0");
    says(&text, "headwater_mirror_current{site=\"docs\",mirror=\"eu\"} 1");
    let success = text
        .lines()
        .find(|line| line.starts_with("headwater_mirror_last_success"))
        .unwrap()
        .to_owned();
    // The mirror is removed and a push fails: the last known values of the mirror stay.
    workspace.write("gone/keep", "");
    std::fs::rename(workspace.path("www"), workspace.path("elsewhere")).unwrap();
    workspace.write("www", "a file");
    workspace.run("push").code(4);
    let (text, _) = gauges();
    says(&text, &success);
    says(&text, "headwater_push_exit_code{site=\"docs\"} 4");
    says(&text, "headwater_mirror_up{site=\"docs\",mirror=\"eu\"} 0");
    workspace.run("status --metrics headwater.prom").code(1);
    says(&gauges().0, &success);
    says(&gauges().0, "headwater_push_exit_code{site=\"docs\"} 4");
    workspace.run("push --metrics no/such/dir.prom").code(4).warns("metrics: cannot");
    workspace.run("status --metrics no/such/dir.prom").code(1).warns("--metrics");
}

#[test]
fn metrics_keep_mirrors_outside_the_push() {
    let workspace = workspace(
        "[metrics]\nfile='headwater.prom'\n[[mirror]]\nname='cold'\nurl='cold'\n[[mirror]]\n\
         name='us'\nurl='us'",
    );
    let says = |line: &str| {
        let text = workspace.read("headwater.prom");
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    };
    workspace.ok("push");
    let success = |mirror: &str| {
        let start = format!(
            "headwater_mirror_last_success_timestamp_seconds{{site=\"docs\",mirror=\"{mirror}\"}} "
        );
        let text = workspace.read("headwater.prom");
        text.lines()
            .find_map(|line| line.strip_prefix(&start).map(str::to_owned))
            .unwrap_or_else(|| panic!("{text}"))
    };
    let before = success("cold");
    workspace.write(
        "headwater.toml",
        workspace.read("headwater.toml").replace("url='cold'", "url='cold'\nfrozen=true"),
    );
    workspace.write("tree/index.html", "2");
    workspace.ok("push --skip us");
    says("headwater_mirror_release_sequence{site=\"docs\",mirror=\"cold\"} 1");
    says("headwater_mirror_current{site=\"docs\",mirror=\"cold\"} 0");
    says("headwater_mirror_frozen{site=\"docs\",mirror=\"cold\"} 1");
    says("headwater_mirror_frozen{site=\"docs\",mirror=\"eu\"} 0");
    says("headwater_mirrors{site=\"docs\",state=\"frozen\"} 1");
    assert_eq!(success("cold"), before);
    // The push skips the mirror, so its metrics stay.
    says("headwater_mirror_current{site=\"docs\",mirror=\"us\"} 1");
    says("headwater_mirror_apart{site=\"docs\",mirror=\"eu\"} 1");
    workspace.ok("push");
    says("headwater_mirror_apart{site=\"docs\",mirror=\"eu\"} 0");
    says("headwater_mirror_behind_releases{site=\"docs\",mirror=\"us\"} 0");
    says("headwater_mirror_current{site=\"docs\",mirror=\"eu\"} 1");
    workspace.ok("heal --only eu --metrics other.prom");
    assert!(workspace.read("other.prom").contains("mirror=\"us\""));
}

#[test]
fn ci_run_gets_summary_outputs_and_annotations() {
    let workspace = workspace("");
    let variables: Vec<(&str, String)> = vec![
        ("GITHUB_ACTIONS", "true".into()),
        ("GITHUB_STEP_SUMMARY", workspace.path("summary").display().to_string()),
        ("GITHUB_OUTPUT", workspace.path("output").display().to_string()),
    ];
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let run = workspace.run_with(&variables, "push --dotenv end.env").code(0);
    assert!(!run.stderr.contains("::error"));
    assert!(
        workspace
            .read("summary")
            .starts_with("### headwater: release 1 of docs is on every mirror"),
        "{}",
        workspace.read("summary")
    );
    assert!(
        workspace.read("output").contains("outcome=published\n")
            && workspace.read("output").contains("sequence=1\n")
    );
    assert!(workspace.read("end.env").contains("HEADWATER_EXIT_CODE=0\n"));
    workspace.remove("tree");
    let run = workspace.run_with(&variables, "push --dotenv end.env").code(8);
    assert_eq!(run.stderr.matches("::error title=headwater::").count(), 1, "{}", run.stderr);
    // Other CI steps append to these files; the report describes only one push.
    assert!(
        workspace.read("summary").contains("release 1 of docs")
            && workspace.read("summary").contains("ended with 8")
    );
    assert!(workspace.read("end.env").contains("HEADWATER_OUTCOME=failed\n"));
    assert_eq!(workspace.read("end.env").matches("EXIT_CODE").count(), 1);
}

#[test]
fn push_with_jitter_publishes_after_the_delay() {
    let workspace = workspace("");
    workspace.ok("push --jitter 1ms");
    assert_eq!(workspace.current("www"), 1);
}
