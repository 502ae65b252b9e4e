//! Commands of the user do not inherit secrets in environment variables.

use crate::harness::Workspace;
use crate::receiver::Receiver;

const VARIABLES: [(&str, &str); 4] = [
    ("HEADWATER_TOKEN", "canary"),
    ("EDGE_TOKEN", "canary"),
    ("CDN_TOKEN", "canary"),
    ("KEPT", "kept"),
];

fn assert_clean(workspace: &Workspace, file: &str) {
    let text = workspace.read(file);
    assert!(text.contains("PATH=") && !text.contains("canary"), "{file}: {text}");
}

#[test]
fn hooks_and_ssh_do_not_inherit_tokens() {
    let workspace = Workspace::with_tree();
    workspace.write(
        "headwater.toml",
        "content = 'tree'\n[hooks]\non_activated = ['sh', '-c', 'env > activated']\n\
         on_failed = ['sh', '-c', 'env > failed']\n[purge]\nurl = 'http://127.0.0.1:1/'\n\
         base = 'https://a.example'\ntoken_env = 'CDN_TOKEN'\nretry_for = '0s'\n[[mirror]]\n\
         name = 'here'\nurl = 'www'\n[[mirror]]\nname = 'far'\nurl = 'ssh://far/srv'\n\
         ssh_command = 'sh ssh.sh'\n[[mirror]]\nname = 'edge'\nurl = 'http://127.0.0.1:1/'\n\
         token_env = 'EDGE_TOKEN'\n",
    );
    workspace.write("ssh.sh", "env > ssh\nexit 255\n");
    workspace.run_with(&VARIABLES, "push --require any --deadline 5s");
    for file in ["activated", "failed", "ssh"] {
        assert_clean(&workspace, file);
        assert!(workspace.read(file).contains("KEPT=kept"), "{file}");
    }
}

#[test]
fn post_activate_hook_does_not_inherit_tokens() {
    let workspace = Workspace::with_tree();
    let file = workspace.path("environment");
    let script = format!("env > {}", file.display());
    let site =
        format!("[[site]]\nname = 'docs'\ndir = 'www'\npost_activate = ['sh', '-c', '{script}']\n");
    let receiver = Receiver::start(&workspace, &site);
    workspace.write(
        "headwater.toml",
        format!("content = 'tree'\nsite = 'docs'\n{}", receiver.mirror("http")),
    );
    workspace.ok("push");
    assert_clean(&workspace, "environment");
}
