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

/// The proxy disrupts one request at most this often in a row.
const MAX_CONSECUTIVE_DISRUPTIONS: u32 = 2;
/// The longest delay, in milliseconds: long enough for another request to overtake.
const MAX_DELAY: u64 = 40;

/// Reproducible random numbers from a seed: `SplitMix64`.
#[derive(Debug)]
pub(crate) struct SeededRandom(u64);

impl SeededRandom {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Returns and prints the seed in `HEADWATER_SEED`, or a random one.
pub(crate) fn seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let given = std::env::var("HEADWATER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given
        .unwrap_or_else(|| std::collections::hash_map::RandomState::new().build_hasher().finish());
    println!("HEADWATER_SEED={seed}");
    seed
}

/// What the proxy does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disruption {
    /// Forwards it unchanged.
    None,
    /// Does not forward it.
    Refuse,
    /// Forwards only a part of it.
    CutRequest,
    /// Forwards it and drops the response.
    Swallow,
    /// Forwards it and cuts the response.
    CutAnswer,
    /// Forwards it twice.
    Duplicate,
    /// Forwards request and response in small pieces.
    Trickle,
    /// Forwards it and resets the connection instead of sending the response.
    Reset,
    /// Forwards it late.
    Delay,
    /// Sends the response byte by byte, which takes minutes.
    Drip,
}

impl Disruption {
    /// The disruptions to choose from at random.
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

    /// Whether the receiver may do more than the client learns from the responses.
    const fn hides_work(self) -> bool {
        matches!(self, Self::Swallow | Self::CutAnswer | Self::Duplicate | Self::Reset)
    }
}

/// Called with the first line of each request. The proxy forwards the request when the call
/// returns.
type Watch = dyn Fn(&str) + Send + Sync;

/// A proxy. Dropping it stops it.
pub(crate) struct FlakyProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    /// The percentage of requests to disrupt.
    percent: u64,
    kinds: Vec<Disruption>,
    /// Responses to requests whose first line contains this are sent byte by byte.
    drips: Option<&'static str>,
    watch: Box<Watch>,
    dice: Mutex<SeededRandom>,
    harmed: Mutex<HashMap<String, u32>>,
    bytes: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn harmless(target: SocketAddr) -> Self {
        Self {
            target,
            percent: 0,
            kinds: Disruption::ALL.to_vec(),
            drips: None,
            watch: Box::new(|_| {}),
            dice: Mutex::new(SeededRandom::new(0)),
            harmed: Mutex::default(),
            bytes: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }
}

impl FlakyProxy {
    /// Starts a proxy to `target` that disrupts `percent` of the requests.
    pub(crate) fn start(target: SocketAddr, percent: u64, seed: u64) -> Self {
        let dice = Mutex::new(SeededRandom::new(seed));
        Self::run(Shared { percent, dice, ..Shared::harmless(target) })
    }

    /// Starts a proxy that does this to every request, as often as allowed in a row.
    #[allow(dead_code, reason = "not every test binary picks")]
    pub(crate) fn always(target: SocketAddr, harm: Disruption) -> Self {
        Self::run(Shared { percent: 100, kinds: vec![harm], ..Shared::harmless(target) })
    }

    /// Starts a proxy that disrupts nothing, and calls `watch` for every request.
    #[allow(dead_code, reason = "not every test binary watches")]
    pub(crate) fn watched(
        target: SocketAddr,
        watch: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self::run(Shared { watch: Box::new(watch), ..Shared::harmless(target) })
    }

    /// The same; responses to requests whose first line contains `part` are sent byte by byte.
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
                    // In any case both connections are closed then, so that neither end waits for
                    // unread data.
                    shared.serve(&client, &mut server).ok();
                });
            }
        });
        Self { address, shared }
    }

    /// The address on which it listens.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes that passed in both directions.
    #[allow(dead_code, reason = "not every test binary measures")]
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for FlakyProxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts connections.
        TcpStream::connect(self.address).ok();
    }
}

/// A request or a response, as received.
pub(crate) struct Message {
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Message {
    /// Reads a complete message; returns `None` if the connection ends instead.
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

    /// Returns its first line.
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
    /// Forwards the requests of one connection, each completely before the next.
    fn serve(&self, client: &TcpStream, server: &mut BufReader<TcpStream>) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut from_client = BufReader::new(client.try_clone()?);
        while let Some(mut request) = Message::read(&mut from_client)? {
            let line = request.line();
            (self.watch)(&line);
            let is_dripping = self.drips.is_some_and(|part| line.contains(part));
            let harm = if is_dripping { Disruption::Drip } else { self.choose(line) };
            if request.field("expect").is_some() {
                (&*client).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
                let text = String::from_utf8_lossy(&request.head).into_owned();
                let kept: Vec<&str> = text
                    .split_inclusive("\r\n")
                    .filter(|line| !line.to_ascii_lowercase().starts_with("expect:"))
                    .collect();
                request.head = kept.concat().into_bytes();
            }
            if harm == Disruption::Refuse {
                return Ok(());
            }
            request.read_body(&mut from_client)?;
            if harm == Disruption::Delay {
                let delay = self.dice.lock().unwrap().below(MAX_DELAY);
                std::thread::park_timeout(Duration::from_millis(delay));
            }
            let bytes = request.bytes();
            self.bytes.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            if harm == Disruption::CutRequest {
                let end = self.dice.lock().unwrap().below(bytes.len() as u64);
                server.get_mut().write_all(&bytes[..usize::try_from(end).unwrap()])?;
                return Ok(());
            }
            if harm == Disruption::Duplicate {
                let mut second = self.connect()?;
                second.get_mut().write_all(&bytes)?;
                answer(&mut second)?;
            }
            write(server.get_mut(), &bytes, if is_dripping { Disruption::None } else { harm })?;
            let answer = answer(server)?;
            self.bytes.fetch_add(answer.len() as u64, Ordering::SeqCst);
            let sent = match harm {
                Disruption::Swallow => 0,
                Disruption::Reset => {
                    reset(client)?;
                    0
                }
                Disruption::CutAnswer => {
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

    fn choose(&self, line: String) -> Disruption {
        let mut dice = self.dice.lock().unwrap();
        let mut harmed = self.harmed.lock().unwrap();
        // Their responses describe what this request did, so a test could not distinguish a second
        // request from a first one.
        let is_counting =
            ["/prune ", "/settle ", "/repair "].iter().any(|path| line.contains(path));
        let count = harmed.entry(line).or_default();
        let kinds: Vec<Disruption> =
            self.kinds.iter().copied().filter(|harm| !(is_counting && harm.hides_work())).collect();
        if dice.below(100) >= self.percent
            || *count >= MAX_CONSECUTIVE_DISRUPTIONS
            || kinds.is_empty()
        {
            *count = 0;
            return Disruption::None;
        }
        *count += 1;
        kinds[usize::try_from(dice.below(kinds.len() as u64)).unwrap()]
    }
}

/// Makes closing this connection a reset, which drops unsent data.
fn reset(stream: &TcpStream) -> io::Result<()> {
    TcpSocket::from_std_stream(stream.try_clone()?).set_zero_linger()
}

/// Reads one response, as received.
fn answer(server: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut answer = Message::read(server)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    answer.read_body(server)?;
    Ok(answer.bytes())
}

fn write(to: &mut impl Write, bytes: &[u8], harm: Disruption) -> io::Result<()> {
    if harm == Disruption::Drip {
        return bytes.iter().try_for_each(|byte| {
            std::thread::park_timeout(Duration::from_millis(MAX_DELAY));
            to.write_all(&[*byte])
        });
    }
    if harm != Disruption::Trickle {
        return to.write_all(bytes);
    }
    // A few pieces are enough: each is one read on the other side.
    let size = (bytes.len() / 50).max(1);
    bytes.chunks(size).try_for_each(|piece| {
        to.write_all(piece)?;
        std::thread::yield_now();
        to.flush()
    })
}
