//! Runs `headwater serve` as a process, for tests of commands that talk to a receiver.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::harness::Workspace;

/// A receiver that runs until it is dropped.
pub(crate) struct Receiver {
    child: Child,
    port: String,
}

impl Receiver {
    /// Serves the sites of a `serve.toml` that begins with `text`, on a free port of 127.0.0.1.
    /// A new token for its site `docs` is in the file `token`.
    pub(crate) fn start(workspace: &Workspace, text: &str) -> Self {
        Self::with_token(workspace, text, "")
    }

    /// The same, with flags for `headwater token new`.
    pub(crate) fn with_token(workspace: &Workspace, text: &str, flags: &str) -> Self {
        let token = workspace.ok(&format!("token new --site docs --allow push {flags}"));
        workspace.write("token", &token.stdout);
        workspace.chmod("token", 0o600);
        workspace.write("serve.toml", format!("{text}\n{}", token.stderr));
        let mut command =
            workspace.command(&["serve", "--listen", "127.0.0.1:0", "--config", "serve.toml"]);
        // No child of the receiver may inherit this variable.
        command.env("HEADWATER_TOKEN", "canary");
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        let line: Value = serde_json::from_str(&first).unwrap_or_else(|_| panic!("{first}"));
        let (_, port) = line["address"].as_str().unwrap().rsplit_once(':').unwrap();
        let port = port.to_owned();
        // A thread reads the log, so that the receiver never blocks on it.
        std::thread::spawn(move || stderr.read_to_string(&mut first));
        Self { child, port }
    }

    /// Returns configuration lines for the mirror `edge1`, which is this receiver; `scheme` is that
    /// of its URL.
    pub(crate) fn mirror(&self, scheme: &str) -> String {
        let port = &self.port;
        format!(
            "[[mirror]]\nname = 'edge1'\nurl = '{scheme}://localhost:{port}/docs'\n\
             token_file = 'token'\n"
        )
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
