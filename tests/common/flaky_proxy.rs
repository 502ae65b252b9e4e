//! An unreliable link: a proxy for HTTP/1.1 that cuts, resets, delays and duplicates requests,
//! sends them a few bytes at a time, and drops responses after the receiver has processed the
//! request.
//!
//! A seed determines the faults. The number of faults per request is limited, so that retries
//! succeed. The proxy can report each request to the test.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpSocket;

/// One request is not harmed more often than this in a row.
const MAX_HARM: u32 = 2;
/// The longest delay, in milliseconds: enough for another request to come before.
const MAX_DELAY: u64 = 40;

/// Random numbers that a seed gives again: `SplitMix64`.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// The seed in `HEADWATER_SEED`, else one that differs each time; it is printed.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let given = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given
        .unwrap_or_else(|| std::collections::hash_map::RandomState::new().build_hasher().finish());
    println!("HEADWATER_SEED={seed}");
    seed
}

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Nothing.
    None,
    /// It never reaches the receiver.
    Refuse,
    /// The receiver gets a part of it.
    CutRequest,
    /// It is done, and the answer is lost.
    Swallow,
    /// It is done, and a part of the answer comes.
    CutAnswer,
    /// It comes twice.
    Duplicate,
    /// It and its answer come in small pieces.
    Trickle,
    /// It is done, and the connection is reset in place of an answer.
    Reset,
    /// It comes late.
    Delay,
    /// Its answer comes byte by byte, and takes minutes.
    Drip,
}

impl Harm {
    /// Those that chance picks from.
    const ALL: [Self; 8] = [
        Self::Refuse,
        Self::CutRequest,
        Self::Swallow,
        Self::CutAnswer,
        Self::Duplicate,
        Self::Trickle,
        Self::Reset,
        Self::Delay,
    ];

    /// Whether more may be done than the answers that arrive tell of.
    const fn hides_work(self) -> bool {
        matches!(self, Self::Swallow | Self::CutAnswer | Self::Duplicate | Self::Reset)
    }
}

/// Is told the first line of each request before anything of it goes on, which waits for that.
type Watch = dyn Fn(&str) + Send + Sync;

/// A proxy, which ends with this value.
pub(crate) struct FlakyProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    /// Of a hundred requests, so many are harmed.
    percent: u64,
    kinds: Vec<Harm>,
    /// Answers to requests whose first line has this come byte by byte.
    drips: Option<&'static str>,
    watch: Box<Watch>,
    dice: Mutex<Dice>,
    harmed: Mutex<HashMap<String, u32>>,
    bytes: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn harmless(target: SocketAddr) -> Self {
        Self {
            target,
            percent: 0,
            kinds: Harm::ALL.to_vec(),
            drips: None,
            watch: Box::new(|_| {}),
            dice: Mutex::new(Dice::new(0)),
            harmed: Mutex::default(),
            bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }
}

impl FlakyProxy {
    /// A proxy to `target` that harms `percent` of a hundred requests.
    pub(crate) fn start(target: SocketAddr, percent: u64, seed: u64) -> Self {
        let dice = Mutex::new(Dice::new(seed));
        Self::run(Shared { percent, dice, ..Shared::harmless(target) })
    }

    /// One that does this to every request, as often as it may.
    #[allow(dead_code, reason = "not every test binary picks")]
    pub(crate) fn always(target: SocketAddr, harm: Harm) -> Self {
        Self::run(Shared { percent: 100, kinds: vec![harm], ..Shared::harmless(target) })
    }

    /// One that harms nothing, and tells `watch` of every request.
    #[allow(dead_code, reason = "not every test binary watches")]
    pub(crate) fn watched(
        target: SocketAddr,
        watch: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self::run(Shared { watch: Box::new(watch), ..Shared::harmless(target) })
    }

    /// The same; answers to requests whose first line has `part` come byte by byte.
    #[allow(dead_code, reason = "not every test binary waits")]
    pub(crate) fn dripping(
        target: SocketAddr,
        part: &'static str,
        watch: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let watch = Box::new(watch);
        Self::run(Shared { drips: Some(part), watch, ..Shared::harmless(target) })
    }

    fn run(shared: Shared) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(shared);
        let acceptor = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if acceptor.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&acceptor);
                std::thread::spawn(move || {
                    let Ok(mut server) = shared.connect() else { return };
                    // However it ends, both ends are closed then, for good: nobody waits for what
                    // is not read.
                    shared.serve(&client, &mut server).ok();
                });
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that went through, both ways together.
    #[allow(dead_code, reason = "not every test binary measures")]
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for FlakyProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes whoever waits for the next connection.
        TcpStream::connect(self.address).ok();
    }
}

/// A request or an answer, as it came.
pub(crate) struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// Reads one to its end; nothing where the connection ends instead.
    #[allow(dead_code, reason = "not every test binary stands in for a receiver")]
    pub(crate) fn whole(from: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut message = Self::read(from).ok()??;
        message.read_body(from).ok()?;
        Some(message)
    }

    #[allow(dead_code, reason = "not every test binary stands in for a receiver")]
    pub(crate) fn head(&self) -> String {
        String::from_utf8_lossy(&self.head).into_owned()
    }

    fn read(from: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if from.read_until(b'\n', &mut head)? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Self { head, body: Vec::new() }))
    }

    /// Its first line.
    fn line(&self) -> String {
        String::from_utf8_lossy(&self.head).lines().next().unwrap_or_default().to_owned()
    }

    fn field(&self, name: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.head).to_ascii_lowercase();
        text.lines()
            .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
    }

    fn read_body(&mut self, from: &mut BufReader<TcpStream>) -> io::Result<()> {
        if let Some(length) = self.field("content-length") {
            let length: u64 = length.parse().map_err(io::Error::other)?;
            if from.by_ref().take(length).read_to_end(&mut self.body)? as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        } else if self.field("transfer-encoding").is_some() {
            loop {
                let start = self.body.len();
                from.read_until(b'\n', &mut self.body)?;
                let size = String::from_utf8_lossy(&self.body[start..]).trim().to_owned();
                let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
                from.by_ref().take(size + 2).read_to_end(&mut self.body)?;
                if size == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [&self.head[..], &self.body].concat()
    }
}

impl Shared {
    /// Forwards requests of one connection, each whole before the next.
    fn serve(&self, client: &TcpStream, server: &mut BufReader<TcpStream>) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut from_client = BufReader::new(client.try_clone()?);
        while let Some(mut request) = Message::read(&mut from_client)? {
            let line = request.line();
            (self.watch)(&line);
            let is_dripping = self.drips.is_some_and(|part| line.contains(part));
            let harm = if is_dripping { Harm::Drip } else { self.choose(line) };
            if request.field("expect").is_some() {
                (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                let text = String::from_utf8_lossy(&request.head).into_owned();
                let kept: Vec<&str> = text
                    .split_inclusive("\r\n")
                    .filter(|line| !line.to_ascii_lowercase().starts_with("expect:"))
                    .collect();
                request.head = kept.concat().into_bytes();
            }
            if harm == Harm::Refuse {
                return Ok(());
            }
            request.read_body(&mut from_client)?;
            if harm == Harm::Delay {
                let delay = self.dice.lock().unwrap().below(MAX_DELAY);
                std::thread::park_timeout(Duration::from_millis(delay));
            }
            let bytes = request.bytes();
            self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            if harm == Harm::CutRequest {
                let end = self.dice.lock().unwrap().below(bytes.len() as u64);
                server.get_mut().write_all(&bytes[..usize::try_from(end).unwrap()])?;
                return Ok(());
            }
            if harm == Harm::Duplicate {
                let mut second = self.connect()?;
                second.get_mut().write_all(&bytes)?;
                answer(&mut second)?;
            }
            write(server.get_mut(), &bytes, if is_dripping { Harm::None } else { harm })?;
            let answer = answer(server)?;
            self.bytes.fetch_add(answer.len() as u64, Ordering::SeqCst);
            let sent = match harm {
                Harm::Swallow => 0,
                Harm::Reset => {
                    reset(client)?;
                    0
                }
                Harm::CutAnswer => {
                    usize::try_from(self.dice.lock().unwrap().below(answer.len() as u64)).unwrap()
                }
                _ => answer.len(),
            };
            write(&mut &*client, &answer[..sent], harm)?;
            if sent < answer.len() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let server = TcpStream::connect(self.target)?;
        server.set_nodelay(true)?;
        Ok(BufReader::new(server))
    }

    fn choose(&self, line: String) -> Harm {
        let mut dice = self.dice.lock().unwrap();
        let mut harmed = self.harmed.lock().unwrap();
        // What these answer is what this very request did, so that a test could not tell a second
        // one from a first.
        let is_counting =
            ["/prune ", "/settle ", "/repair "].iter().any(|path| line.contains(path));
        let count = harmed.entry(line).or_default();
        let kinds: Vec<Harm> =
            self.kinds.iter().copied().filter(|harm| !(is_counting && harm.hides_work())).collect();
        if dice.below(100) >= self.percent || *count >= MAX_HARM || kinds.is_empty() {
            *count = 0;
            return Harm::None;
        }
        *count += 1;
        kinds[usize::try_from(dice.below(kinds.len() as u64)).unwrap()]
    }
}

/// Has this connection end by a reset when it is closed, which drops what is on its way.
fn reset(stream: &TcpStream) -> io::Result<()> {
    TcpSocket::from_std_stream(stream.try_clone()?).set_zero_linger()
}

/// Reads one answer, as it came.
fn answer(server: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut answer = Message::read(server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    answer.read_body(server)?;
    Ok(answer.bytes())
}

fn write(to: &mut impl Write, bytes: &[u8], harm: Harm) -> io::Result<()> {
    if harm == Harm::Drip {
        return bytes.iter().try_for_each(|byte| {
            std::thread::park_timeout(Duration::from_millis(MAX_DELAY));
            to.write_all(&[*byte])
        });
    }
    if harm != Harm::Trickle {
        return to.write_all(bytes);
    }
    // Few pieces are enough: each is a read of its own on the other side.
    let size = (bytes.len() / 50).max(1);
    bytes.chunks(size).try_for_each(|piece| {
        to.write_all(piece)?;
        std::thread::yield_now();
        to.flush()
    })
}
