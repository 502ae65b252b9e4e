//! Sites: how the site is chosen, the default, and the errors if sites differ.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use headwater::receiver::{
    AuthPolicy, Handle, Log, LogRecord, ReceiverSettings, Server, SiteSettings,
};
use headwater::tree_path::Site;

use crate::harness::Workspace;

/// Records the requests.
#[derive(Debug, Default)]
struct Requests(Mutex<Vec<String>>);

impl Log for Requests {
    fn record(&self, record: &LogRecord) {
        self.0.lock().unwrap().push(format!("{record:?}"));
    }
}

/// A receiver in this process. Dropping it stops it.
struct Receiver {
    handle: Handle,
    address: SocketAddr,
    requests: Arc<Requests>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts a receiver with the sites that a `serve.toml` with these names and directories has.
    fn start(sites: &[(&str, &Path)]) -> Self {
        let site = |(name, directory): &(&str, &Path)| SiteSettings {
            base: format!("/{name}/"),
            ..SiteSettings::new((*directory).to_owned(), Some(Site::new(name).unwrap()))
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings =
            ReceiverSettings::new(listen, sites.iter().map(site).collect(), AuthPolicy::Open);
        let requests = Arc::new(Requests::default());
        let server = Server::bind(&settings, Arc::<Requests>::clone(&requests)).unwrap();
        let (handle, address) = (server.handle(), server.address());
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Self { handle, address, requests, thread }
    }

    fn url(&self, site: &str) -> String {
        format!("http://{}/{site}", self.address)
    }

    /// Returns the requests since the last call.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.0.lock().unwrap())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().expect("the receiver is stopped once").join().unwrap();
    }
}

fn site_of(workspace: &Workspace, mirror: &str) -> String {
    workspace.releases(mirror).last().unwrap()["site"].as_str().unwrap().to_owned()
}

#[test]
fn push_without_a_site_uses_the_site_of_the_mirrors() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./www");
    assert_eq!(site_of(&workspace, "./www"), "default");
    workspace.ok("push tree ./docs --site docs");
    workspace.write("tree/index.html", "2");
    workspace.ok("push tree ./docs ./new");
    assert_eq!(
        (site_of(&workspace, "./docs"), site_of(&workspace, "./new")),
        ("docs".into(), "docs".into())
    );
    workspace.ok("rollback ./docs ./new");
    workspace.ok("push --from ./docs ./third");
    assert_eq!(site_of(&workspace, "./third"), "docs");
    workspace
        .run("push tree ./docs --site news")
        .code(7)
        .warns("holds site \"docs\", not \"news\"")
        .warns("--site");
}

#[test]
fn mirrors_of_different_sites_are_refused_with_a_working_command() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./docs --site docs");
    workspace.ok("push tree ./news --site news");
    workspace.write("tree/index.html", "2");
    let before = (workspace.fingerprint("docs"), workspace.fingerprint("news"));
    let run = workspace
        .run("push tree ./docs ./news")
        .code(2)
        .warns(r#""docs" on ./docs; "news" on ./news"#);
    let command =
        run.stderr.lines().find_map(|line| line.split_once("hint: ")?.1.split_once(": headwater "));
    assert_eq!(command.unwrap().1, "push tree ./docs --site docs");
    assert_eq!((workspace.fingerprint("docs"), workspace.fingerprint("news")), before);
    workspace
        .run("plan tree ./docs ./news")
        .code(2)
        .warns("headwater plan tree ./docs --site docs");
    workspace.ok(command.unwrap().1).says("release 2");
    workspace
        .run("push --from ./docs ./news")
        .code(2)
        .warns("headwater push --from ./docs ./news --site news");

    let names = "content = 'tree'\n[[mirror]]\nname = 'a'\nurl = 'docs'\n[[mirror]]\nname = 'b'\n\
                 url = 'news'\n";
    workspace.write("headwater.toml", names);
    workspace.run("push").code(2).warns("headwater push --skip b --site docs");
    workspace.ok("push --skip b --site docs");
}

#[test]
fn receiver_reports_its_site_before_the_first_push() {
    let workspace = Workspace::with_tree();
    let receiver =
        Receiver::start(&[("docs", &workspace.path("remote")), ("blog", &workspace.path("blog"))]);
    let url = receiver.url("docs");
    workspace.ok(&format!("push tree {url} ./www"));
    assert_eq!(
        (site_of(&workspace, &url), site_of(&workspace, "./www")),
        ("docs".into(), "docs".into())
    );

    let wrong = format!("push tree {} --site docs", receiver.url("blog"));
    workspace.run(&wrong).code(7).warns("holds site \"blog\", not \"docs\"");
    workspace
        .run(&format!("push tree http://{}", receiver.address))
        .code(4)
        .warns("https://host:7447/SITE");
}

#[test]
fn push_without_changes_makes_one_request_per_mirror() {
    let workspace = Workspace::with_tree();
    let (first, second) = (workspace.path("first"), workspace.path("second"));
    let receivers = [Receiver::start(&[("docs", &first)]), Receiver::start(&[("docs", &second)])];
    let line = format!("push tree {} {}", receivers[0].url("docs"), receivers[1].url("docs"));
    workspace.ok(&line);
    receivers.iter().for_each(|receiver| drop(receiver.requests()));
    workspace.ok(&line).says("nothing new");
    for receiver in &receivers {
        let requests = receiver.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
    }
}

#[test]
fn every_command_with_mirrors_accepts_a_site() {
    let workspace = Workspace::with_tree();
    workspace.ok("push tree ./docs --site docs");
    for (line, code) in [
        ("push tree ./docs", 7),
        ("plan tree ./docs", 7),
        ("rollback ./docs", 7),
        ("heal ./docs", 7),
        ("status ./docs", 1),
        ("releases ./docs", 1),
        ("verify ./docs", 7),
        ("repair ./docs --from tree", 7),
        ("prune ./docs", 7),
        ("diff tree ./docs", 8),
        ("which index.html ./docs", 1),
    ] {
        let run = workspace.run(&format!("{line} --site news")).code(code);
        let text = run.stdout + &run.stderr;
        assert!(text.contains("holds site \"docs\", not \"news\""), "{line}: {text}");
    }
    workspace.ok("status ./docs --site docs");
    workspace.ok("mirrorlist --site docs --help");
}
