//! nginx and haproxy accept the generated lists, whatever the mirrors are called.

use std::fs;
use std::process::Command;

use crate::harness::Sandbox;
use crate::trees::Tree;

const FLEET: &str = "[[mirror]]\nname='plain'\nurl='plain'\n\
                     public_url='http://127.0.0.1:8080/docs'\nweight=3\n[[mirror]]\nname='named'\n\
                     url='named'\npublic_url='https://localhost/docs/'\n[[mirror]]\nname='v6;\"x'\n\
                     url='v6'\npublic_url='https://[::1]:8443'\nweight=4000000000\n[[mirror]]\n\
                     name='v4'\nurl='v4'\npublic_url='https://127.0.0.2/'\n";

/// Returns a sandbox with the mirror list in `format`, which contains all of [`FLEET`], and that
/// list.
fn listed(format: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("headwater.toml"), FLEET).unwrap();
    sandbox.publish(&Tree::small(), &["plain", "named", "v6", "v4"], &[]);
    let outcome = sandbox.run(&["mirrorlist", "--format", format]).expect(&[0]);
    assert_eq!(outcome.stdout.lines().count(), 4, "{outcome}");
    let list = outcome.stdout.clone();
    (sandbox, list)
}

fn is_taken(command: &mut Command) -> bool {
    let output = command.output().expect("the program is installed");
    println!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
#[ignore = "needs nginx"]
fn nginx_accepts_the_mirror_list() {
    let (sandbox, list) = listed("nginx");
    let is_taken = |list: &str| {
        let directory = sandbox.path("");
        let text = format!(
            "pid {0}/pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path {0}/body;\nupstream mirrors {{\n\
             {list}}}\nserver {{ listen 127.0.0.1:1; location / {{ proxy_pass https://mirrors; }} \
             }} }}\n",
            directory.display(),
        );
        fs::write(sandbox.path("nginx.conf"), text).unwrap();
        is_taken(
            Command::new("nginx")
                .arg("-t")
                .arg("-p")
                .arg(&directory)
                .arg("-c")
                .arg(sandbox.path("nginx.conf")),
        )
    };
    assert!(is_taken(&list), "{list}");
    assert!(!is_taken("server 127.0.0.1:1 nonsense;\n"));
}

#[test]
#[ignore = "needs haproxy"]
fn haproxy_accepts_the_mirror_list() {
    let (sandbox, list) = listed("haproxy");
    let is_taken = |list: &str| {
        let text = format!(
            "global\n  ca-base /etc/ssl/certs\n\
             defaults\n  mode http\n  timeout connect 1s\n  timeout client 1s\n  timeout server \
             1s\n  default-server ca-file ca-certificates.crt\n\
             frontend front\n  bind 127.0.0.1:1\n  default_backend mirrors\nbackend mirrors\n\
             {list}"
        );
        fs::write(sandbox.path("haproxy.conf"), text).unwrap();
        is_taken(Command::new("haproxy").arg("-c").arg("-f").arg(sandbox.path("haproxy.conf")))
    };
    assert!(is_taken(&list), "{list}");
    assert!(!is_taken("server a 127.0.0.1:1 nonsense\n"));
}
