//! How many connections an address may open: a token bucket for each of the addresses seen last.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses remembered at most; then full buckets are forgotten, and if there are none, all.
const MOST: usize = 4096;

/// Seconds' worth of connections that may come at once: hosts log in to all their targets when they start.
const BURST: u32 = 4;

/// Buckets by address. The bits of an IPv6 address that a host chooses for itself count for nothing.
#[derive(Debug, Default)]
pub(super) struct Rates {
    buckets: BTreeMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    dry: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is served.
    Pass,
    /// It is too much, the first since all was well.
    First,
    /// It is too much, again.
    Refuse,
}

impl Rates {
    /// Takes a connection from an address that may open so many per second.
    pub(super) fn take(&mut self, from: IpAddr, rate: u32, now: Instant) -> Verdict {
        let rate = f64::from(rate);
        let full = rate * f64::from(BURST);
        if self.buckets.len() >= MOST {
            let time = Duration::from_secs(BURST.into());
            self.buckets.retain(|_, bucket| now.duration_since(bucket.at) < time);
            if self.buckets.len() >= MOST {
                self.buckets.clear();
            }
        }
        let bucket =
            self.buckets.entry(source(from)).or_insert_with(|| Bucket { tokens: full, at: now, dry: false });
        let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + gained).min(full);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            bucket.dry &= bucket.tokens < full / 2.0;
            return Verdict::Pass;
        }
        if std::mem::replace(&mut bucket.dry, true) { Verdict::Refuse } else { Verdict::First }
    }
}

/// What counts as one source.
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_gets_its_rate_and_no_more() {
        let start = super::super::clock::now();
        let mut rates = Rates::default();
        let mut take = |from: &str, ms| rates.take(at(from), 10, start + Duration::from_millis(ms));
        for _ in 0..40 {
            assert_eq!(take("10.0.0.1", 0), Verdict::Pass);
        }
        assert_eq!(take("10.0.0.1", 0), Verdict::First);
        assert_eq!(take("::ffff:10.0.0.1", 0), Verdict::Refuse, "the same address");
        assert_eq!(take("10.0.0.2", 0), Verdict::Pass, "another's rate is another's");
        assert_eq!(take("10.0.0.1", 150), Verdict::Pass);
        assert_eq!(take("10.0.0.1", 150), Verdict::Refuse, "said once");
        for _ in 0..40 {
            assert_eq!(take("10.0.0.1", 60_000), Verdict::Pass, "no more than a burst is saved up");
        }
        assert_eq!(take("10.0.0.1", 60_000), Verdict::First, "and again after it was well");
    }

    #[test]
    fn the_table_is_bounded() {
        let start = super::super::clock::now();
        let mut rates = Rates::default();
        for n in 0..3 * u32::try_from(MOST).unwrap() {
            rates.take(IpAddr::V4(n.into()), 1, start);
            assert!(rates.buckets.len() <= MOST);
        }
        for n in 0..10_000_u128 {
            rates.take(IpAddr::V6((0xfd00 << 112 | n).into()), 1, start + Duration::from_secs(60));
        }
        assert!(rates.buckets.len() < MOST, "one network is one source");
    }
}
