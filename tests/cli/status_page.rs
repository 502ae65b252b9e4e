//! `headwater status --html`: the content of the page, and its appearance in a browser.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::harness::Workspace;

const DAY: u64 = 86_400;

/// A fleet with every state: current, behind, faulty, unreachable, frozen; with notes and paths
/// that contain markup.
fn fleet() -> Workspace {
    let workspace = Workspace::with_tree();
    let mirror =
        |name: &str, more: &str| format!("[[mirror]]\nname='{name}'\nurl='./{name}'\n{more}\n");
    let names = ["eu-1", "eu-2", "a-mirror-with-a-rather-long-name-in-the-far-south.example.org"];
    let mirrors: String = names.iter().map(|name| mirror(name, "")).collect();
    let away = "[[mirror]]\nname='away'\nurl='http://127.0.0.1:1/docs'\n";
    let config =
        format!("content='tree'\nsite='docs'\n{mirrors}{}{away}", mirror("cold", "frozen=true"));
    workspace.write("headwater.toml", config);
    let first = ["push", "./tree", "./eu-1", "./eu-2", "./cold", &format!("./{}", names[2])];
    workspace.args(&first).code(0);
    workspace.write("tree/<script>alert(1)</script>.html", "x");
    workspace.write("tree/index.html", "2");
    // One release was bad and is reverted; all other mirrors serve the content before it.
    let note = "rewrite <b>the guide</b> \
                https://git.example/docs/-/merge_requests/4711/diffs?commit_id=0123456789abcdef";
    workspace
        .args(&["push", "./tree", "./eu-1", &format!("./{}", names[2]), "--note", note])
        .code(0);
    workspace.write("tree/index.html", "bad");
    workspace.args(&["push", "./tree", "./eu-1", "--note", "a bad one"]).code(0);
    workspace.ok("rollback ./eu-1");
    workspace.tamper("eu-1/current/index.html", "by hand");
    workspace.run("verify ./eu-1").code(1);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let forged: String = (1..13)
        .map(|ago| {
            let (time, late) = (now - ago * DAY, if ago == 5 { 40_000 } else { 5 });
            format!(
                "{{\"time\":{},\"event\":\"failed\",\"release\":\"1-{:016x}\",\
                 \"why\":\"<i>disk\"}}\n",
                time + late,
                ago
            )
        })
        .collect();
    let log = "eu-2/.headwater/events.jsonl";
    let old = workspace.read(log);
    workspace.write(log, format!("{forged}{old}"));
    workspace
}

#[test]
fn page_is_one_self_contained_file() {
    let workspace = fleet();
    workspace.run("status --html page.html --internal").code(1);
    let page = workspace.read("page.html");
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">") && page.ends_with("</html>\n"));
    for none in [
        "<script",
        "src=",
        "@import",
        "url(",
        "<link rel=\"stylesheet\"",
        "<b>the",
        "<i>disk",
        "\u{1b}",
    ] {
        assert!(!page.contains(none), "{none}");
    }
    for shown in [
        "2 of 4 mirrors are current",
        "rewrite &lt;b&gt;the guide&lt;/b&gt;",
        "&lt;script&gt;alert(1)&lt;/script&gt;.html",
        "<dd>2 faults</dd>",
        "unreachable",
        "frozen",
        "; 1 added, 1 changed",
        "&lt;i&gt;disk",
        "<span class=\"state late\">rolled back</span>",
        "Back to the content of release 2.",
        "<dd>2, same as 4</dd>",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let place = |text: &str| page.find(text).unwrap();
    assert!(place(">away<") < place(">eu-2<") && place(">eu-2<") < place(">eu-1<"), "worst first");
    assert_eq!(page.matches("class=\"strip\"").count(), 5);
    assert_eq!(page.matches("<span class=\"sr\">").count(), 5 * 14);
    // The page is replaced as a whole, and a page that cannot be written is reported.
    let inode = || {
        std::os::unix::fs::MetadataExt::ino(
            &std::fs::metadata(workspace.path("page.html")).unwrap(),
        )
    };
    let before = inode();
    workspace.run("status --html page.html --quiet").code(1);
    assert_ne!(before, inode());
    workspace
        .run("status --html no/such/page.html")
        .code(1)
        .warns("name a file in a writable directory with --html");
}

#[test]
fn page_shows_only_public_information() {
    let workspace = Workspace::with_tree();
    let mirror = "[[mirror]]\nname='edge'\nurl='./secret-place'\nregion='eu'\n\
                  public_url='https://edge.example/docs'\n";
    let away = "[[mirror]]\nname='away'\nurl='http://127.0.0.1:1/burrow'\n";
    workspace
        .write("headwater.toml", format!("content='tree'\nsite='docs'\nrequire=1\n{mirror}{away}"));
    workspace.run("push").code(3);
    workspace.run("status --html page.html").code(1);
    let page = workspace.read("page.html");
    for shown in [
        "As of <time datetime=\"",
        "eu, <a href=\"https://edge.example/docs\"",
        "The mirror does not respond.",
        "<li class=\"bad\" title=\"",
        ": no response\"",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    for hidden in ["secret-place", "127.0.0.1", "burrow", "responds in", " ago"] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    // Without names, mirrors are shown by number.
    workspace.ok("status ./secret-place --html page.html");
    assert!(workspace.read("page.html").contains(">Mirror 1<"));
    workspace.run("status --html page.html --internal").code(1);
    let page = workspace.read("page.html");
    assert!(
        page.contains("./secret-place") && page.contains("http://127.0.0.1:1/burrow"),
        "{page}"
    );
    workspace.run("status --internal").code(2);
}

#[test]
fn unreachable_mirror_shows_its_last_known_release() {
    let workspace = Workspace::with_tree();
    workspace.write(
        "headwater.toml",
        "content='tree'\nsite='docs'\n[[mirror]]\nname='edge'\nurl='./www'\n",
    );
    workspace.ok("push");
    workspace.ok("status --html page.html");
    workspace.rename("www", "moved");
    workspace.write("www", "no directory");
    workspace.run("status --html page.html").code(1).says("served release 1 at ");
    let page = workspace.read("page.html");
    assert!(
        page.contains("the mirror served release 1, published on") && page.contains("no response"),
        "{page}"
    );
    assert_eq!(workspace.json("status", 1)["mirrors"][0]["last_seen"]["sequence"], 1);
}

/// Reports the parts of a frame that are too wide, and the contrast of each text with its
/// background.
const MEASURE: &str = r##"
addEventListener("load", () => {
  const frame = document.querySelector("iframe");
  const inner = frame.contentDocument, view = frame.contentWindow;
  const parse = (c) => {
    const n = c.match(/[\d.]+/g).map(Number);
    return n.length < 4 ? [...n, 1] : n;
  };
  // The relative luminance of WCAG 2.1.
  const light = (c) => {
    const linear = (v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = c.map((v) => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(view.getComputedStyle(e).backgroundColor);
      if (c[3] === 1) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const name = (e) => e.className || e.tagName;
  const found = { wide: [], faint: [], texts: 0, width: inner.documentElement.scrollWidth };
  for (const e of inner.body.querySelectorAll("*")) {
    const box = e.getBoundingClientRect();
    const isWide = box.right > frame.clientWidth + .5;
    if (isWide && !e.closest(".sr")) found.wide.push(name(e));
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || e.closest(".sr")) continue;
    found.texts++;
    const a = light(parse(view.getComputedStyle(e).color).slice(0, 3));
    const b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.faint.push([ratio.toFixed(2), name(e), e.textContent.slice(0, 40)]);
  }
  const out = document.createElement("pre");
  out.textContent = "MEASURED" + JSON.stringify(found) + "END";
  document.body.append(out);
});
"##;

fn browser() -> PathBuf {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let places = std::env::split_paths(&std::env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let all = names.iter().flat_map(|name| places.iter().map(move |place| place.join(name)));
    all.into_iter().find(|path| path.exists()).expect("this test needs Chromium")
}

fn measure(workspace: &Workspace, html: &str, width: u32, scheme: u32) -> Value {
    let quoted = html.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<!doctype html><script>{MEASURE}</script><body><iframe \
         style=\"border:0;width:{width}px;height:900px\" srcdoc=\"{quoted}\"></iframe>"
    );
    workspace.write("frame.html", frame);
    let profile = tempfile::TempDir::with_prefix("headwater-browser-").unwrap();
    let mut command = Command::new(browser());
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--dump-dom",
        "--virtual-time-budget=2000",
    ]);
    // Only the page: no network, and no first-run dialogs.
    command.args(["--disable-quic", "--no-first-run", "--disable-background-networking"]);
    command.args(["--disable-component-update", "--disable-sync"]);
    command.arg(format!("--blink-settings=preferredColorScheme={scheme}"));
    command
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", workspace.path("frame.html").display()));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let measured = text.split("MEASURED{").nth(1).and_then(|rest| rest.split("}END").next());
    let measured =
        measured.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let plain = measured.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&format!("{{{plain}}}")).unwrap()
}

#[test]
#[ignore = "needs Chromium, which not every machine has"]
fn page_fits_a_phone_with_enough_contrast() {
    let workspace = fleet();
    workspace.run("status --html page.html").code(1);
    let page = workspace.read("page.html").replace("<details>", "<details open>");
    for scheme in [0, 1] {
        for width in [360, 800, 1400] {
            let found = measure(&workspace, &page, width, scheme);
            assert_eq!(found["wide"], serde_json::json!([]), "{width} px, scheme {scheme}");
            assert_eq!(found["faint"], serde_json::json!([]), "{width} px, scheme {scheme}");
            assert!(
                found["texts"].as_u64().unwrap() > 60
                    && found["width"].as_u64().unwrap() <= width.into(),
                "{found}"
            );
        }
    }
    // A counterexample: a line that does not break, and grey text on grey.
    let bad = page.replace(
        "</style>",
        "h2 { white-space: nowrap; width: 500px; } .soft { color: #999; }</style>",
    );
    let found = measure(&workspace, &bad, 360, 1);
    assert!(
        !found["wide"].as_array().unwrap().is_empty()
            && !found["faint"].as_array().unwrap().is_empty()
    );
}
