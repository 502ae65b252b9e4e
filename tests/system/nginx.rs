//! G28: a visitor of nginx sees a switch only as new content, never as an error.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::harness::Sandbox;
use crate::trees::Tree;

const SWITCHES: u64 = 200;
const CLIENTS: usize = 4;

/// A web server in the foreground. Dropping it stops it.
struct Nginx {
    process: Child,
    port: u16,
}

impl Nginx {
    /// Serves `root` with its own configuration.
    fn start(sandbox: &Sandbox, root: &Path) -> Self {
        let root = root.display().to_string();
        Self::with_server(sandbox, |port| {
            format!("server {{ listen 127.0.0.1:{port}; root {root}; }}")
        })
    }

    /// Serves with the `server` block that `server` returns for a port.
    fn with_server(sandbox: &Sandbox, server: impl FnOnce(u16) -> String) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let directory = sandbox.path("nginx");
        fs::create_dir_all(&directory).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {directory}/pid; error_log \
             {directory}/error.log;\nevents {{ worker_connections 64; }}\n\
             http {{ access_log off; {temporary} keepalive_requests 100000000;\n{server} }}\n",
            directory = directory.display(),
            server = server(port),
        );
        fs::write(directory.join("conf"), text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(directory.join("conf"));
        let process =
            command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx is installed");
        let mut nginx = Self { process, port };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = nginx.process.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "nginx ended: {}",
                fs::read_to_string(directory.join("error.log")).unwrap()
            );
            std::thread::yield_now();
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A response.
struct Page {
    status: u16,
    etag: String,
    body: Vec<u8>,
}

/// A keep-alive connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Self {
        Self(BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap()))
    }

    fn read(&mut self, path: &str) -> std::io::Result<Page> {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut line, mut length, mut etag) = (String::new(), 0, String::new());
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match &*name.to_ascii_lowercase() {
                "content-length" => length = value.parse().unwrap(),
                "etag" => etag = value.to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Page { status, etag, body })
    }
}

/// Returns the content of `path` in a release: its name and the number, repeated, so that a mixture
/// of two releases is visible.
fn content(path: &str, release: u64) -> Vec<u8> {
    let count = if path.starts_with("same") {
        40
    } else {
        usize::try_from(20 + release * 37 % 400).unwrap()
    };
    format!("{path} of release {release:06}\n").repeat(count).into_bytes()
}

fn tree(release: u64) -> Tree {
    let fixed = ["index.html", "same.js", "css/site.css", "a/b/c/deep.js"];
    let tree =
        fixed.iter().fold(Tree::default(), |tree, path| tree.file(path, content(path, release)));
    let own = format!("assets/only-{release}.js");
    let other = format!("v{}/page.html", release % 2);
    let tree = tree.file(&own, content(&own, release)).file(&other, content(&other, release));
    tree.link("latest", &format!("v{}", release % 2))
}

/// Reads one path and checks that its content is that of some release.
fn check(
    client: &mut Client,
    path: &str,
    tags: &Mutex<HashMap<String, Vec<u8>>>,
    newest: u64,
) -> Result<u64, String> {
    let page = client.read(path).map_err(|error| format!("{path}: {error}"))?;
    let text = String::from_utf8_lossy(&page.body);
    let first = text.lines().next().unwrap_or_default();
    if page.status != 200 {
        return Err(format!("{path}: status {}", page.status));
    }
    let (shown, number) =
        first.split_once(" of release ").ok_or_else(|| format!("{path}: {first:?}"))?;
    let release: u64 = number.parse().map_err(|_| format!("{path}: {first:?}"))?;
    if content(shown, release) != page.body {
        return Err(format!("{path}: a mixture of releases, {} bytes: {first}", page.body.len()));
    }
    if release > newest + 1 {
        return Err(format!("{path}: release {release} before it was pushed"));
    }
    let mut tags = tags.lock().unwrap();
    let known = tags.entry(format!("{path} {}", page.etag)).or_insert_with(|| page.body.clone());
    if *known == page.body {
        Ok(release)
    } else {
        Err(format!("{path}: {} stands for two contents", page.etag))
    }
}

#[test]
#[ignore = "needs nginx, a minute"]
fn nginx_serves_no_failed_or_mixed_read_during_activations() {
    let sandbox = Sandbox::new();
    sandbox.publish(&tree(0), &["mirror"], &[]);
    let nginx = Nginx::start(&sandbox, &sandbox.path("mirror/current"));
    let (newest, is_over, tags) =
        (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(HashMap::new()));
    let reads = AtomicU64::new(0);
    let visit = |index: usize| -> Result<(), String> {
        let mut client = Client::connect(nginx.port);
        let mut turn = index;
        while !is_over.load(Ordering::Relaxed) {
            let known = newest.load(Ordering::SeqCst);
            let retired = format!("assets/only-{}.js", u64::try_from(turn).unwrap() % (known + 1));
            let paths = [
                "index.html",
                "same.js",
                "css/site.css",
                "a/b/c/deep.js",
                "latest/page.html",
                &retired,
            ];
            let path = paths[turn % paths.len()];
            let release = check(&mut client, path, &tags, SWITCHES)?;
            if !path.starts_with("assets") && release < known {
                return Err(format!(
                    "{path}: release {release} although {known} was reported as current"
                ));
            }
            reads.fetch_add(1, Ordering::Relaxed);
            turn += 1;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|index| scope.spawn(move || visit(index))).collect();
        for release in 1..=SWITCHES {
            sandbox.write("tree", &tree(release));
            let outcome = sandbox.push("tree", &["mirror"], &["--allow-shrink"]);
            if outcome.code() != Some(0) {
                is_over.store(true, Ordering::Relaxed);
            }
            outcome.expect(&[0]);
            newest.store(release, Ordering::SeqCst);
        }
        is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap().unwrap();
        }
    });
    println!("{} reads over {SWITCHES} switches", reads.load(Ordering::Relaxed));
    assert!(reads.load(Ordering::Relaxed) > SWITCHES * 10, "too few reads to be significant");
    sandbox.served("mirror");
    let mut client = Client::connect(nginx.port);
    for release in 0..=SWITCHES {
        let path = format!("assets/only-{release}.js");
        assert_eq!(
            check(&mut client, &path, &tags, SWITCHES),
            Ok(release),
            "retired paths are still served"
        );
    }
}

#[test]
#[ignore = "needs nginx"]
fn documented_nginx_server_serves_a_mirror() {
    let sandbox = Sandbox::new();
    let site = tree(7)
        .file("404.html", "not found")
        .file("docs/index.html", "docs")
        .file("empty/x.js", "x");
    sandbox.publish(&site, &["mirror"], &[]);
    let page = include_str!("../../docs/web-servers.md");
    let (_, block) = page.split_once("```nginx\n").expect("it is there");
    let block = block.split("```").next().unwrap();
    assert!(block.contains("listen 80;") && block.contains("root /srv/www/current;"));
    let root = sandbox.path("mirror/current").display().to_string();
    let nginx = Nginx::with_server(&sandbox, |port| {
        block
            .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
            .replace("/srv/www/current", &root)
    });
    let mut client = Client::connect(nginx.port);
    for (path, status, body) in [
        ("", 200, content("index.html", 7)),
        ("docs/", 200, b"docs".to_vec()),
        ("latest/page.html", 200, content("v1/page.html", 7)),
        ("assets/only-7.js", 200, content("assets/only-7.js", 7)),
        ("nothing", 404, b"not found".to_vec()),
        ("empty/", 404, b"not found".to_vec()),
    ] {
        let answer = client.read(path).unwrap();
        assert_eq!((answer.status, answer.body), (status, body), "{path}");
    }
}
