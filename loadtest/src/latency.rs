//! Latencies in microseconds, with percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that is told apart; longer ones count as this.
const LONGEST: Duration = Duration::from_secs(120);
/// Three digits: an error of at most one in a thousand.
const DIGITS: u8 = 3;

/// A collection of latencies of bounded size.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

impl Latencies {
    /// An empty collection.
    #[expect(
        clippy::expect_used,
        reason = "constant bounds that hdrhistogram documents as valid"
    )]
    pub(crate) fn new() -> Self {
        Self {
            histogram: Histogram::new_with_bounds(1, microseconds(LONGEST), DIGITS)
                .expect("constant bounds are valid"),
        }
    }

    /// Adds one latency.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(microseconds(latency));
    }

    /// Adds all latencies of another collection.
    pub(crate) fn merge(&mut self, other: &Self) {
        // Both have the same bounds, for which `add` has no error; a difference would show in `count`.
        if self.histogram.add(&other.histogram).is_err() {
            self.histogram.saturating_record(microseconds(LONGEST));
        }
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The latency below which `quantile` (0–1) of all lie.
    pub(crate) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_quantile(quantile))
    }

    /// The customary percentiles.
    pub(crate) fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.count(),
            p50_us: self.histogram.value_at_quantile(0.50),
            p90_us: self.histogram.value_at_quantile(0.90),
            p99_us: self.histogram.value_at_quantile(0.99),
            p99_9_us: self.histogram.value_at_quantile(0.999),
            max_us: self.histogram.max(),
        }
    }
}

/// Percentiles of one collection, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p99_9_us: u64,
    pub(crate) max_us: u64,
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_stand_at_their_ranks() {
        let mut latencies = Latencies::new();
        for milliseconds in 1..=1_000 {
            latencies.record(Duration::from_millis(milliseconds));
        }
        let found = latencies.percentiles();
        let near = |value: u64, wanted: u64| value.abs_diff(wanted) <= wanted / 500;
        assert!(near(found.p50_us, 500_000), "{found:?}");
        assert!(near(found.p90_us, 900_000), "{found:?}");
        assert!(near(found.p99_us, 990_000), "{found:?}");
        assert!(near(found.p99_9_us, 999_000), "{found:?}");
        assert!(near(found.max_us, 1_000_000), "{found:?}");
    }

    #[test]
    fn merged_collections_count_as_one() {
        let (mut short, mut long) = (Latencies::new(), Latencies::new());
        for _ in 0..99 {
            short.record(Duration::from_micros(10));
        }
        long.record(Duration::from_secs(1));
        short.merge(&long);
        assert_eq!(short.count(), 100);
        assert_eq!(short.quantile(0.5), Duration::from_micros(10));
        assert!(short.quantile(1.0) >= Duration::from_secs(1));
    }

    #[test]
    fn a_latency_beyond_the_bound_is_kept_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_hours(1));
        assert_eq!(latencies.count(), 1);
        assert!(latencies.quantile(1.0) >= LONGEST);
    }
}
