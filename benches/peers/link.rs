//! A wide-area link between two TUN devices: rate, queue, delay and loss in both directions.
//!
//! `link DELAY_MS RATE_MBIT QUEUE_MS LOSS_PERCENT`, with one device as standard input and the
//! other as standard output. `link.py` opens the devices, builds this file with `rustc` and runs
//! it if the kernel has no `netem`. It ends when a device is gone or it is killed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The packets on their way, each with the time of its arrival.
#[derive(Default)]
struct Flight {
    packets: Mutex<VecDeque<(Instant, Vec<u8>)>>,
    arrived: Condvar,
}

/// What the link does to packets.
#[derive(Clone, Copy)]
struct Shape {
    delay: Duration,
    bits_per_second: f64,
    queue: Duration,
    loss: f64,
}

/// Ethernet adds this to each packet.
const HEADER_BYTES: usize = 14;

/// Takes packets from `device` and drops those that do not fit into the queue, or get lost.
fn accept(mut device: File, flight: &Flight, shape: Shape) -> io::Result<()> {
    let mut buffer = vec![0; 65536];
    // When the sender has sent everything that it accepted.
    let mut free = Instant::now();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    loop {
        let Ok(bytes) = device.read(&mut buffer) else {
            // The device is not up yet.
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        free = free.max(Instant::now());
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let is_lost = ((random >> 11) as f64) / ((1_u64 << 53) as f64) < shape.loss;
        if is_lost || free.duration_since(Instant::now()) > shape.queue {
            continue;
        }
        let bits = (bytes + HEADER_BYTES) as f64 * 8.0;
        free += Duration::from_secs_f64(bits / shape.bits_per_second);
        let packet = (free + shape.delay, buffer[..bytes].to_vec());
        flight.packets.lock().expect("no thread panics").push_back(packet);
        flight.arrived.notify_one();
    }
}

/// Gives each packet to `device` at the time of its arrival.
fn deliver(mut device: File, flight: &Flight) {
    loop {
        let (time, packet) = {
            let mut packets = flight.packets.lock().expect("no thread panics");
            loop {
                if let Some(next) = packets.pop_front() {
                    break next;
                }
                packets = flight.arrived.wait(packets).expect("no thread panics");
            }
        };
        thread::sleep(time.saturating_duration_since(Instant::now()));
        // A device that is down loses the packet, as a cable would.
        let _ = device.write(&packet);
    }
}

fn main() -> io::Result<()> {
    let numbers: Vec<f64> =
        std::env::args().skip(1).map(|word| word.parse().expect("a number")).collect();
    let [delay, rate, queue, loss] = numbers[..] else {
        panic!("usage: link DELAY_MS RATE_MBIT QUEUE_MS LOSS_PERCENT");
    };
    let shape = Shape {
        delay: Duration::from_secs_f64(delay / 1e3),
        bits_per_second: rate * 1e6,
        queue: Duration::from_secs_f64(queue / 1e3),
        loss: loss / 100.0,
    };
    let a = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let b = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut threads = Vec::new();
    for (from, to) in [(a.try_clone()?, b.try_clone()?), (b, a)] {
        let flight = Arc::new(Flight::default());
        let other = Arc::clone(&flight);
        threads.push(thread::spawn(move || accept(from, &flight, shape)));
        thread::spawn(move || deliver(to, &other));
    }
    for thread in threads {
        thread.join().expect("no thread panics")?;
    }
    Ok(())
}
