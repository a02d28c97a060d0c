//! Failed attempts to authenticate, counted per address.

use std::net::IpAddr;
use std::time::Duration;

use actors::model::Timestamp;
use dashmap::DashMap;

use crate::problem::{ApiError, Code};

/// Failures that an address may have within [`WINDOW`].
const FAILURES_MAX: u32 = 60;
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses that are remembered. When there are more, those whose window has ended are dropped, and if that is not
/// enough, all.
const ADDRESSES_MAX: usize = 16_384;

#[derive(Clone, Copy)]
struct Window {
    since: Timestamp,
    failures: u32,
}

#[derive(Default)]
pub(super) struct Attempts {
    windows: DashMap<IpAddr, Window>,
}

impl Attempts {
    /// Refuses an address that has failed too often.
    pub(super) fn check(&self, address: IpAddr, now: Timestamp) -> Result<(), ApiError> {
        let Some(window) = self.windows.get(&network(address)).map(|it| *it) else {
            return Ok(());
        };
        let left = WINDOW.saturating_sub(now.since(window.since));
        if window.failures < FAILURES_MAX || left.is_zero() {
            return Ok(());
        }
        let detail = "Too many failed attempts to authenticate from this address.";
        Err(ApiError::new(Code::RateLimited)
            .detail(detail)
            .after_about(left.as_secs().saturating_add(1)))
    }

    /// Counts a failure. Loopback is not counted.
    pub(super) fn failed(&self, address: IpAddr, now: Timestamp) {
        if address.to_canonical().is_loopback() {
            return;
        }
        if ADDRESSES_MAX <= self.windows.len() {
            self.windows.retain(|_, it| now.since(it.since) < WINDOW);
            if ADDRESSES_MAX <= self.windows.len() {
                self.windows.clear();
            }
        }
        let mut window = self.windows.entry(network(address)).or_insert(Window {
            since: now,
            failures: 0,
        });
        if WINDOW <= now.since(window.since) {
            *window = Window {
                since: now,
                failures: 0,
            };
        }
        window.failures = window.failures.saturating_add(1);
    }
}

/// What one attacker holds: an IPv4 address, or the /64 of an IPv6 one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(it) => IpAddr::V4(it),
        IpAddr::V6(it) => IpAddr::V6((it.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn an_address_that_fails_too_often_waits_for_its_window() {
        let attempts = Attempts::default();
        let address: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        for _ in 0..FAILURES_MAX {
            assert!(attempts.check(address, at(0)).is_ok());
            attempts.failed(address, at(0));
        }
        let refused = attempts.check(neighbour, at(1_000)).unwrap_err();
        assert_eq!(refused.code(), Code::RateLimited);
        let wait = refused.retry_after().unwrap();
        assert!((60..70).contains(&wait), "{wait} s, spread by chance");
        assert!(
            attempts
                .check("192.0.2.1".parse().unwrap(), at(1_000))
                .is_ok()
        );
        assert!(attempts.check(address, at(60_000)).is_ok());
    }

    #[test]
    fn loopback_is_not_counted() {
        let attempts = Attempts::default();
        for text in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let address: IpAddr = text.parse().unwrap();
            for _ in 0..=FAILURES_MAX {
                attempts.failed(address, at(0));
            }
            assert!(attempts.check(address, at(0)).is_ok());
        }
    }
}
