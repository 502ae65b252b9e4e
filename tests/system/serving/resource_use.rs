//! The resources that a receiver uses, and its service to other clients, under many abusive
//! clients.

use std::fs;
use std::io::BufReader;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use headwater::manifest::delta;
use headwater::pack::{BaseRange, Level, PackWriter, Piece, encode_block};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::program::Program;
use super::pushes::publish;
use super::{Complete, Connection, PATIENCE, head, pack_path, stage_body};
use crate::harness::Sandbox;
use crate::origin::{Delivery, EncodedPack, Tree, noise};

const SENDERS: usize = 64;
/// The largest content and prefix of a block.
const CONTENT: usize = 4 << 20;
const PREFIX: usize = 16 << 20;
/// The number of hardly compressible blocks that fill a pack.
const BLOCKS: usize = 7;
/// The maximum memory of a receiver, in KiB.
const MAX_KIB: usize = 200 << 10;

/// Returns one of the loopback addresses.
const fn address(last: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0)
}

/// Connects from another loopback address.
fn connect_from(addresses: impl Iterator<Item = u8>, to: SocketAddr) -> Vec<Connection> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let one = |last| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(address(last)).unwrap();
        let stream: TcpStream = socket.connect(to).await.unwrap().into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
        Connection { stream: BufReader::new(stream) }
    };
    addresses.map(|last| runtime.block_on(one(last))).collect()
}

/// Raises the limit of open files to the maximum.
fn open_many() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Returns the peak memory of a process, in KiB.
pub(super) fn peak_kib(process: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Returns the pack of one sender: blocks of the largest content, each against the largest prefix.
fn heavy_pack(sender: u32, base: &[u8]) -> EncodedPack {
    let mut writer = PackWriter::new();
    for block in 0..u32::try_from(BLOCKS).unwrap() {
        let ordinal = sender * u32::try_from(BLOCKS).unwrap() + block;
        let piece = Piece { ordinal, offset: 0, length: u32::try_from(CONTENT).unwrap() };
        let range = BaseRange { entry: 0, offset: 0, length: u32::try_from(PREFIX).unwrap() };
        writer
            .push(
                &encode_block(&[piece], &content(ordinal), &[range], base, Level::Zstd(1)).unwrap(),
            )
            .unwrap();
    }
    let pack = writer.finish();
    EncodedPack { id: pack.id, bytes: pack.bytes.into() }
}

fn content(ordinal: u32) -> Vec<u8> {
    noise(CONTENT, u64::from(ordinal) + 7)
}

/// Returns a release with a file of `PREFIX` bytes, and one with very large new files against it,
/// without their content.
fn releases(base: &[u8]) -> (Delivery, Delivery) {
    let first = Tree::default().file("0", base, 1).release(1);
    let second = (0..u32::try_from(SENDERS * BLOCKS).unwrap())
        .fold(Tree::default().file("0", base, 1), |tree, ordinal| {
            tree.sized(&format!("n{ordinal:05}"), CONTENT as u64, ordinal)
        })
        .release(2);
    let delivery = second.bundle_from(Some(&first));
    let limits = delta::ChangeLimits {
        encoded_bytes: delivery.change.len() as u64,
        base_entries: None,
        entries: u64::MAX,
        reserve: &|_| true,
        is_cancelled: &|| false,
    };
    assert_eq!(
        delta::summarize(&*delivery.change, &limits).unwrap().objects.len(),
        SENDERS * BLOCKS
    );
    (first.bundle_from(None), delivery)
}

#[test]
#[ignore = "writes two gigabytes"]
fn many_senders_of_the_largest_packs_stay_within_the_memory_limit() {
    let sandbox = Sandbox::new();
    let base = noise(PREFIX, 1);
    let (first, second) = releases(&base);
    let server = Program::start(&sandbox, &["--no-auth"], "");
    publish(&mut Connection::to(server.address), &first, None);
    Connection::to(server.address)
        .ask("POST", "/v1/stage", &[], &stage_body(&second, &[], Complete::No))
        .ok();
    let packs = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(sender) =
                    Some(next.fetch_add(1, Ordering::SeqCst)).filter(|sender| *sender < SENDERS)
                {
                    let pack = heavy_pack(u32::try_from(sender).unwrap(), &base);
                    packs.lock().unwrap().push(pack);
                }
            });
        }
    });
    let packs = packs.into_inner().unwrap();
    assert!(packs.iter().all(|pack| pack.bytes.len() > 27 << 20));
    let before = peak_kib(server.id());
    let connections = connect_from(
        (0..SENDERS).map(|sender| if sender < SENDERS / 2 { 2 } else { 3 }),
        server.address,
    );
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (mut connection, pack) in connections.into_iter().zip(&packs) {
            let (second, taken) = (&second, &taken);
            scope.spawn(move || {
                let answer = connection.ask("PUT", &pack_path(second, pack), &[], &pack.bytes);
                taken.fetch_add(usize::from(answer.status == 200), Ordering::SeqCst);
            });
        }
    });
    let peak = peak_kib(server.id());
    println!(
        "{} of {SENDERS} packs taken; {before} KiB before, {peak} KiB at most",
        taken.load(Ordering::SeqCst)
    );
    assert_eq!(taken.load(Ordering::SeqCst), SENDERS);
    assert!(peak < MAX_KIB, "{peak} KiB");
}

/// Makes a connection slow in one of several ways: silence, an incomplete head, an incomplete body.
fn be_slow(index: usize, connection: &mut Connection) {
    match index % 3 {
        0 => {}
        1 => connection.send(b"GET /v1/state HTTP/1.1\r\nx: "),
        _ => {
            connection.send(&head(
                "PUT",
                &format!("/v1/objects/{}", "0".repeat(64)),
                &[],
                30 << 20,
            ));
            connection.send(&[0; 1000]);
        }
    }
}

#[test]
#[ignore = "needs more than a thousand open files"]
fn thousand_slow_connections_do_not_delay_requests() {
    open_many();
    let sandbox = Sandbox::new();
    let server = Program::start(&sandbox, &["--no-auth"], "");
    publish(
        &mut Connection::to(server.address),
        &Tree::default().file("a", "b", 1).release(1).bundle_from(None),
        None,
    );
    let mut slow = connect_from(
        (0..1000u32).map(|index| u8::try_from(2 + index / 60).unwrap()),
        server.address,
    );
    slow.iter_mut().enumerate().for_each(|(index, connection)| be_slow(index, connection));
    let mut times: Vec<Duration> = (0..500)
        .map(|_| {
            let began = Instant::now();
            Connection::to(server.address).ask("GET", "/v1/state", &[], b"").ok();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!(
        "median {:?}, 99th percentile {:?}, {} KiB at most",
        times[250],
        times[494],
        peak_kib(server.id())
    );
    assert!(times[494] < Duration::from_millis(250), "{:?}", times[494]);
    drop(slow);
}
