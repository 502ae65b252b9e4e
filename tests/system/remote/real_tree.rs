//! A real tree to an HTTPS mirror, a mirror behind a real sshd, and a directory at the same time.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::report;
use crate::harness::{Outcome, Sandbox, shell};

/// A child process. Dropping it kills it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Returns a free port.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An sshd that lets `user` of a sandbox push to its directory `shell` and do nothing else.
pub(super) struct Sshd {
    _running: Running,
    /// The location of the mirror behind it.
    pub(super) url: String,
}

impl Sshd {
    /// Creates the keys `host` and `user` in `sandbox`, and listens.
    pub(super) fn start(sandbox: &Sandbox) -> Self {
        for name in ["host", "user"] {
            new_key(sandbox, name);
        }
        let program = env!("CARGO_BIN_EXE_headwater");
        let public = fs::read_to_string(sandbox.path("user.pub")).unwrap();
        let entry = format!(
            "command=\"{program} receive {}\",restrict {public}",
            sandbox.path_text("shell")
        );
        fs::write(sandbox.path("authorized"), entry).unwrap();
        let port = free_port();
        let options = [
            format!("HostKey={}", sandbox.path_text("host")),
            format!("AuthorizedKeysFile={}", sandbox.path_text("authorized")),
            format!("ListenAddress=127.0.0.1:{port}"),
            format!("PidFile={}", sandbox.path_text("pid")),
            "StrictModes=no".to_owned(),
            "PasswordAuthentication=no".to_owned(),
        ];
        fs::create_dir_all("/run/sshd").unwrap();
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f", "/dev/null"])
            .args(options.iter().flat_map(|option| ["-o", option]));
        let running = Running(sshd.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("sshd listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let user = shell("id", &["-un".as_ref()]);
        Self {
            _running: running,
            url: format!("ssh://{}@127.0.0.1:{port}{}", user.trim(), sandbox.path_text("shell")),
        }
    }
}

/// Creates a key in the file with this name.
pub(super) fn new_key(sandbox: &Sandbox, name: &str) {
    let mut made = Command::new("ssh-keygen");
    made.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(sandbox.path(name));
    assert!(made.status().unwrap().success());
}

/// Returns the public key in the file with this name.
pub(super) fn public_key(sandbox: &Sandbox, name: &str) -> String {
    fs::read_to_string(sandbox.path(format!("{name}.pub"))).unwrap().trim().to_owned()
}

/// Returns an ssh command that uses only the key of the user.
pub(super) fn ssh_command(sandbox: &Sandbox) -> String {
    format!("ssh -F /dev/null -o IdentitiesOnly=yes -i {}", sandbox.path_text("user"))
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: never");
        never.recv_timeout(Duration::from_millis(1)).unwrap_err();
    }
}

/// Returns the documentation of the standard library, or that of this crate.
fn real_tree() -> PathBuf {
    let sysroot = shell("rustc", &["--print".as_ref(), "sysroot".as_ref()]);
    let standard = Path::new(sysroot.trim()).join("share/doc/rust/html/std");
    let own = Path::new(env!("CARGO_BIN_EXE_headwater")).parent().unwrap().with_file_name("doc");
    let found = [standard, own].into_iter().find(|tree| tree.is_dir());
    found.expect("the component rust-docs is installed, or `cargo doc` has run")
}

/// `headwater serve` over TLS with a token, for the mirror `web`.
struct Receiver {
    port: u16,
}

impl Receiver {
    /// Writes the files that it and its clients need.
    fn prepare(sandbox: &Sandbox) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(sandbox.path("cert.pem"), made.cert.pem()).unwrap();
        fs::write(sandbox.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let port = free_port();
        let token =
            sandbox.run(&["token", "new", "--site", "docs", "--allow", "push"]).expect(&[0]);
        fs::write(sandbox.path("token"), token.stdout).unwrap();
        let text = format!(
            "listen = '127.0.0.1:{port}'\n[tls]\ncert = 'cert.pem'\nkey = 'key.pem'\n\
             [[site]]\nname = 'docs'\ndir = 'web'\n{}",
            token.stderr
        );
        fs::write(sandbox.path("serve.toml"), text).unwrap();
        Self { port }
    }

    fn start(sandbox: &Sandbox) -> Running {
        let mut command = sandbox.command(&["serve", "--config", &sandbox.path_text("serve.toml")]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        assert!(first.contains(r#""event":"listening""#), "{first}");
        // The receiver must not block on its log.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Running(child)
    }
}

/// Whether packs have started to arrive at a mirror.
fn has_packs(mirror: &Path) -> bool {
    let Ok(incoming) = fs::read_dir(mirror.join(".headwater/incoming")) else { return false };
    let holds = |entry: fs::DirEntry| {
        fs::read_dir(entry.path().join("held")).is_ok_and(|held| held.count() > 0)
    };
    incoming.flatten().any(holds)
}

#[test]
#[ignore = "needs openssh-server, and root to run it"]
fn real_tree_reaches_every_kind_of_mirror_and_heals_a_killed_one() {
    let sandbox = Sandbox::new();
    let (tree, sshd, receiver) = (real_tree(), Sshd::start(&sandbox), Receiver::prepare(&sandbox));
    let config = format!(
        "site = 'docs'\ncontent = '{}'\n[[mirror]]\nname = 'web'\n\
         url = 'https://localhost:{}/docs'\nca = 'cert.pem'\ntoken_file = 'token'\n[[mirror]]\n\
         name = 'shell'\nurl = '{}'\nhost_key = '{}'\n[[mirror]]\nname = 'here'\nurl = '{}'\n",
        tree.display(),
        receiver.port,
        sshd.url,
        public_key(&sandbox, "host"),
        sandbox.path_text("here"),
    );
    fs::write(sandbox.path("headwater.toml"), config).unwrap();
    let ssh = ssh_command(&sandbox);
    let push = ["push", "--ssh-command", &ssh, "--require", "2", "--json", "--allow-secrets"];

    let mut dying = Receiver::start(&sandbox);
    let pushing =
        sandbox.command(&push).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("packs arrive", || has_packs(&sandbox.path("web")));
    dying.0.kill().unwrap();
    let outcome =
        Outcome::from("push".to_owned(), pushing.wait_with_output().unwrap()).expect(&[3]);
    let mirrors = &report(&outcome)["mirrors"];
    let outcomes = [0, 1, 2].map(|index| mirrors[index]["outcome"].as_str().unwrap().to_owned());
    assert!(outcomes[0] == "failed" && mirrors[0]["mirror"] == "web", "{outcome}");
    assert!(outcomes[1..].iter().all(|outcome| outcome != "failed"), "{outcome}");
    assert!(!sandbox.path("web/current").exists(), "an incomplete release is not served");

    let _alive = Receiver::start(&sandbox);
    let healed = sandbox.run(&push).expect(&[0]);
    let healed = &report(&healed)["mirrors"];
    assert!(healed[0]["sent_bytes"].as_u64().unwrap() > 0, "{healed}");
    assert_eq!(
        (&healed[1]["sent_bytes"], &healed[2]["sent_bytes"]),
        (&0.into(), &0.into()),
        "{healed}"
    );
    let mut releases = Vec::new();
    for mirror in ["web", "shell", "here"] {
        let current = sandbox.path(mirror).join("current");
        shell("diff", &["-r".as_ref(), tree.as_os_str(), current.as_os_str()]);
        releases.push(sandbox.served(mirror).name);
    }
    assert!(releases.iter().all(|release| *release == releases[0]), "{releases:?}");
}
