//! `headwater which` and `headwater mirrorlist`, and the content that visitors get.

use serde_json::json;

use crate::harness::{Workspace, column};
use crate::web::Web;

/// Two mirrors in two regions, each with a web server.
fn fleet() -> (Workspace, [Web; 2]) {
    let workspace = Workspace::with_tree();
    let webs = ["eu", "us"].map(|mirror| Web::of_files(workspace.path(mirror).join("current")));
    let mirror = |name: &str, web: &Web, more: &str| {
        format!("[[mirror]]\nname='{name}'\nurl='{name}'\npublic_url='{}'\n{more}\n", web.url)
    };
    let mirrors = mirror("eu", &webs[0], "region='de'\nweight=10")
        + &mirror("us", &webs[1], "region='us'\nweight=300");
    workspace.write("headwater.toml", format!("content='tree'\nsite='docs'\n{mirrors}"));
    workspace.ok("push");
    (workspace, webs)
}

#[test]
fn which_shows_object_release_and_public_content() {
    let (workspace, _webs) = fleet();
    workspace.write("tree/index.html", "second");
    workspace.ok("push ./tree eu");
    let answer = workspace.json("which /index.html", 1);
    let rows = &answer["mirrors"];
    assert_eq!(
        (&answer["path"], column(rows, "since")),
        (&json!("index.html"), vec!["2".to_owned(), "1".to_owned()])
    );
    let object = blake3::hash(b"second").to_hex().to_string();
    assert_eq!(
        (&rows[0]["object"], &rows[0]["public"]["object"]),
        (&json!(object), &json!(object))
    );
    assert_ne!(rows[1]["object"], rows[0]["object"]);
    workspace.ok("push");
    workspace.ok("which /").says("the same").says("just now");
    workspace.tamper("us/current/index.html", "by hand");
    workspace.run("which index.html").code(1).says(&blake3::hash(b"by hand").to_hex()[..12]);
    workspace.run("which no/such").code(1).says("nothing").says("404");
    workspace.run("which ../x").code(2).warns("is not a path in a tree");
    workspace.write("file", "");
    workspace.run("which index.html eu ./file").code(1).says("not a directory");
}

#[test]
fn status_public_checks_what_visitors_get() {
    let (workspace, _webs) = fleet();
    workspace.ok("status --public").says("visitors get this release: 5 files fetched");
    workspace.tamper("us/current/index.html", "by hand");
    workspace.ok("status");
    workspace
        .run("status --public")
        .code(1)
        .says("visitors get different content for 1 of 5 files: index.html: other content");
    let row = workspace.json("status --public", 1)["mirrors"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["mirror"] == "us")
        .cloned();
    assert_eq!(row.unwrap()["public"]["stale"][0]["path"], "index.html");
    workspace.run("status --public --check").code(1).says("us is stale for visitors");
    workspace.remove("us/current/index.html");
    workspace.run("status --public").code(1).says("index.html: it responded with status 404");
}

#[test]
fn mirrorlist_names_only_mirrors_confirmed_current() {
    let (workspace, webs) = fleet();
    let [eu, us] = webs.map(|web| web.url);
    assert_eq!(workspace.ok("mirrorlist").stdout, format!("{eu}\n{us}\n"));
    let host = |url: &str| url.strip_prefix("http://").unwrap().to_owned();
    let nginx = format!("server {} weight=10;\nserver {} weight=300;\n", host(&eu), host(&us));
    assert_eq!(workspace.ok("mirrorlist --format nginx").stdout, nginx);
    let haproxy = format!(
        "server eu {} weight 10 check\nserver us {} weight 256 check\n",
        host(&eu),
        host(&us)
    );
    assert_eq!(workspace.ok("mirrorlist --format haproxy").stdout, haproxy);
    let listed: serde_json::Value =
        serde_json::from_str(&workspace.ok("mirrorlist --format json").stdout).unwrap();
    assert_eq!(
        listed["mirrors"][0],
        json!({ "name": "eu", "url": eu, "region": "de", "weight": 10 })
    );
    workspace.tamper("us/current/index.html", "by hand");
    assert_eq!(workspace.ok("mirrorlist --public").stdout, format!("{eu}\n"));
}

#[test]
fn empty_list_does_not_replace_a_good_one() {
    let (workspace, webs) = fleet();
    workspace.ok("mirrorlist --output list").warns("wrote list");
    let good = workspace.read("list");
    assert!(good.contains(&webs[0].url));
    let quiet = workspace.ok("mirrorlist --output list");
    assert_eq!(
        (quiet.stdout.as_str(), quiet.stderr.as_str()),
        ("", ""),
        "nothing changed, so nothing is written"
    );
    for mirror in ["eu", "us"] {
        std::fs::remove_dir_all(workspace.path(mirror)).unwrap();
        workspace.write(mirror, "a file");
    }
    workspace
        .run("mirrorlist --output list")
        .code(1)
        .warns("none of 2 mirrors is proven current; list is unchanged");
    assert_eq!(workspace.read("list"), good);
    workspace.run("mirrorlist --output other").code(1);
    assert!(!workspace.path("other").exists());
    workspace.run("mirrorlist ./eu").code(1);
    workspace.write("headwater.toml", "[[mirror]]\nname='eu'\nurl='eu'\n");
    workspace.run("mirrorlist").code(2).warns("public_url");
}
