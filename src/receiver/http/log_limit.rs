//! A rate limit for the log records that clients without a token can cause.
//!
//! Every address may cause a burst of records, then one record every few seconds, which reports how
//! many were suppressed. Memory is bounded: addresses beyond the table's limit share one allowance.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::receiver::address::limit_address;

// Without a limit, one connection that kept requesting `/healthz` wrote 6.4 MB of log a second
// (measured when even those requests were logged).
/// Log records that one address may produce in a burst after a quiet period.
const BURST: u32 = 40;
/// After a burst, one more record is allowed in each period of this length.
const PERIOD: Duration = Duration::from_secs(5);
/// Maximum number of addresses with their own allowance, which bounds the memory use.
const MAX_ADDRESSES: usize = 4096;
/// Key of the allowance that all other addresses share.
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[derive(Debug, Clone, Copy)]
struct Allowance {
    records: u32,
    since: Instant,
    suppressed: u64,
}

impl Allowance {
    const fn full(now: Instant) -> Self {
        Self { records: BURST, since: now, suppressed: 0 }
    }

    fn refill(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.since).as_secs() / PERIOD.as_secs();
        let more = u32::try_from(periods).unwrap_or(BURST).min(BURST);
        self.records = self.records.saturating_add(more).min(BURST);
        // A partial period carries over, unless the allowance is full.
        self.since = if self.records == BURST { now } else { self.since + PERIOD * more };
    }

    /// Returns the number of records that were suppressed since the last one was written; `None` if
    /// this one must be suppressed too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        if self.records == 0 {
            self.suppressed += 1;
            return None;
        }
        self.records -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Decides which of the records that unauthorized clients cause are written.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter(Mutex<HashMap<IpAddr, Allowance>>);

impl LogLimiter {
    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, Allowance>> {
        self.0.lock()
    }

    /// Returns the number of records about `peer` that were suppressed since the last one was
    /// written; `None` if this one must be suppressed too.
    pub(crate) fn admit(&self, peer: &str) -> Option<u64> {
        // A peer without an address, as over SSH, shares the allowance for all others.
        let address = peer.parse::<SocketAddr>().map_or(OTHERS, |peer| limit_address(peer.ip()));
        self.admit_at(address, Instant::now())
    }

    fn admit_at(&self, address: IpAddr, now: Instant) -> Option<u64> {
        let mut table = self.table();
        // Quiet entries are not removed from a full table here, because the search would cost time
        // for each new address; `take_suppressed` removes them.
        let is_known = table.contains_key(&address) || table.len() < MAX_ADDRESSES;
        let address = if is_known { address } else { OTHERS };
        table.entry(address).or_insert_with(|| Allowance::full(now)).admit(now)
    }

    /// The addresses whose suppressed records may be reported now, with the number of records.
    /// Drops quiet addresses.
    pub(crate) fn take_suppressed(&self) -> Vec<(IpAddr, u64)> {
        self.take_suppressed_at(Instant::now())
    }

    fn take_suppressed_at(&self, now: Instant) -> Vec<(IpAddr, u64)> {
        let mut table = self.table();
        let mut taken = Vec::new();
        for (address, allowance) in
            table.iter_mut().filter(|(_, allowance)| allowance.suppressed > 0)
        {
            taken.extend(allowance.admit(now).map(|suppressed| (*address, suppressed)));
        }
        drop_quiet(&mut table, now);
        taken
    }
}

/// Drops addresses with a full allowance and no suppressed records: a new entry would be identical.
fn drop_quiet(table: &mut HashMap<IpAddr, Allowance>, now: Instant) {
    table.retain(|_, allowance| {
        allowance.refill(now);
        allowance.records < BURST || allowance.suppressed > 0
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    #[test]
    fn burst_passes_then_one_record_per_period_with_a_count() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        let passed = |number: u32, count: usize, now: Instant| {
            (0..count).filter_map(|_| limiter.admit_at(address(number), now)).collect::<Vec<_>>()
        };
        assert_eq!(passed(1, 1000, start), vec![0; BURST as usize]);
        assert_eq!(passed(2, 3, start), [0; 3], "another address has its own");
        assert_eq!(passed(1, 10, start + PERIOD), [960]);
        assert_eq!(passed(1, 1, start + PERIOD * 3 / 2), [0; 0]);
        assert_eq!(passed(1, 2, start + PERIOD * 2), [10]);
        assert_eq!(passed(1, 1000, start + PERIOD * 1000).len(), BURST as usize);
    }

    #[test]
    fn suppressed_count_is_logged_without_a_further_record() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        for _ in 0..100 {
            limiter.admit_at(address(1), start);
        }
        assert_eq!(limiter.take_suppressed_at(start), [], "not before there is a record for it");
        assert_eq!(limiter.take_suppressed_at(start + PERIOD), [(address(1), 61)]);
        assert_eq!(limiter.take_suppressed_at(start + PERIOD * 2), []);
        limiter.take_suppressed_at(start + PERIOD * (BURST + 2));
        assert!(limiter.table().is_empty());
    }

    #[test]
    fn memory_and_records_are_limited_for_any_number_of_addresses() {
        let (limiter, start) = (LogLimiter::default(), Instant::now());
        let passed = (0..100_000)
            .filter(|number| limiter.admit_at(address(*number), start).is_some())
            .count();
        assert!(limiter.table().len() <= MAX_ADDRESSES + 1);
        assert_eq!(passed, MAX_ADDRESSES + BURST as usize);
    }
}
