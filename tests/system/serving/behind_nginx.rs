//! The nginx configuration of docs/receivers.md in front of a receiver.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::{
    Complete, Connection, Receiver, activation, assert_serves, pack_path, stage_body, wait_until,
};
use crate::origin::{EncodedPack, Tree, noise};
use crate::sandbox;

/// Returns the `server` block of docs/receivers.md, with plain HTTP on `port`, for the receiver at
/// `to`.
fn snippet(port: u16, to: SocketAddr) -> String {
    let page = include_str!("../../../docs/receivers.md");
    let block =
        page.split("```nginx\n").find(|block| block.contains("proxy_pass")).expect("it is there");
    let block = block.split("```").next().unwrap();
    let lines = block.lines().filter(|line| !line.contains("ssl_certificate"));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    assert!(text.contains("listen 443 ssl;") && text.contains("http://127.0.0.1:7447;"));
    text.replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"))
        .replace("127.0.0.1:7447", &to.to_string())
}

#[test]
#[ignore = "needs nginx"]
fn documented_proxy_passes_large_packs() {
    let receiver = Receiver::open();
    let dir = sandbox::directory();
    let at = dir.path().display();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
        .concat();
    let text = format!(
        "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;\n\
         events {{ worker_connections 64; }}\nhttp {{ access_log off;\n{temporary}{}}}\n",
        snippet(port, receiver.address)
    );
    fs::write(dir.path().join("conf"), text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("conf")).stdin(Stdio::null());
    let mut nginx = command.stderr(Stdio::null()).spawn().expect("nginx is installed");
    wait_until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let content = noise(20 << 20, 1);
    let release = Tree::default().file("a", &content[..], 1_700_000_001).release(1);
    let mut delivery = release.bundle_from(None);
    let chunks = content.chunks(4 << 20).enumerate();
    delivery.packs = chunks
        .map(|(index, bytes)| EncodedPack::raw(0, (index * (4 << 20)) as u64, bytes))
        .collect();
    let mut connection = Connection::to(SocketAddr::from(([127, 0, 0, 1], port)));
    connection.ask("POST", "/v1/stage", &[], &stage_body(&delivery, &[], Complete::No)).ok();
    let pack = &delivery.packs[0];
    connection.ask("PUT", &pack_path(&delivery, pack), &[], &pack.bytes).ok();
    let rest = stage_body(&delivery, &delivery.packs[1..], Complete::Yes);
    connection.ask("POST", "/v1/stage", &[], &rest).ok();
    connection.ask("POST", "/v1/activate", &[], &activation(&delivery, None)).ok();
    assert_serves(&receiver.mirror(), 1);
    nginx.kill().unwrap();
    nginx.wait().unwrap();
}
