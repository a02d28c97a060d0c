//! Latencies in microseconds, with percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::report::float;

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

    /// Points of a plot: quantiles that come closer and closer to all, and the microseconds below which they lie.
    pub(crate) fn curve(&self) -> Vec<(f64, u64)> {
        const STEPS: [f64; 4] = [0.0, 0.25, 0.5, 0.75];
        let mut points = Vec::new();
        let mut rest = 1.0;
        // Each round halves what is left, until less than one latency is.
        while self.count() > 0 && rest * float(self.count()) >= 1.0 {
            for step in STEPS {
                let quantile = 1.0 - rest * (1.0 - step / 2.0);
                points.push((quantile, self.histogram.value_at_quantile(quantile)));
            }
            rest /= 2.0;
        }
        points
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: u64,
    pub(crate) p90_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p99_9_us: u64,
    pub(crate) max_us: u64,
}

impl Percentiles {
    /// A percentile by its name, in milliseconds.
    pub(crate) fn named(&self, name: &str) -> Option<f64> {
        let microseconds = match name {
            "p50" => self.p50_us,
            "p90" => self.p90_us,
            "p99" => self.p99_us,
            "p99.9" => self.p99_9_us,
            "max" => self.max_us,
            _ => return None,
        };
        Some(float(microseconds) / 1_000.0)
    }
}

/// Latencies by the time that they belong to: one collection an interval.
#[derive(Debug)]
pub(crate) struct Timeline {
    interval: Duration,
    /// At most `INTERVALS`.
    collections: Vec<Latencies>,
}

impl Timeline {
    /// Intervals of one timeline.
    const INTERVALS: u32 = 60;

    /// A timeline over so much time.
    pub(crate) fn over(total: Duration) -> Self {
        Self {
            interval: (total / Self::INTERVALS).max(Duration::from_secs(1)),
            collections: Vec::new(),
        }
    }

    /// Adds a latency that belongs to a time since the start; what lies beyond the end counts to the last interval.
    pub(crate) fn record(&mut self, at: Duration, latency: Duration) {
        let index = at.as_nanos() / self.interval.as_nanos().max(1);
        let last = usize::try_from(Self::INTERVALS).unwrap_or(1);
        let index = usize::try_from(index).unwrap_or(last).min(last);
        while self.collections.len() <= index {
            self.collections.push(Latencies::new());
        }
        if let Some(collection) = self.collections.get_mut(index) {
            collection.record(latency);
        }
    }

    /// Seconds since the start, and a quantile in milliseconds, of each interval in which there was something.
    pub(crate) fn quantile(&self, quantile: f64) -> Vec<(f64, f64)> {
        let starts = (0_u32..).map(|index| (self.interval * index).as_secs_f64());
        let filled = starts
            .zip(&self.collections)
            .filter(|(_, it)| it.count() > 0);
        filled
            .map(|(at, it)| (at, it.quantile(quantile).as_secs_f64() * 1_000.0))
            .collect()
    }
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
    fn a_curve_rises_to_the_longest() {
        let mut latencies = Latencies::new();
        (1..=1_000).for_each(|n| latencies.record(Duration::from_micros(n)));
        let curve = latencies.curve();
        assert!(
            curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
            "{curve:?}"
        );
        assert!(curve.last().unwrap().0 > 0.998);
        assert!(Latencies::new().curve().is_empty());
    }

    #[test]
    fn a_timeline_keeps_times_apart_and_is_bounded() {
        let mut timeline = Timeline::over(Duration::from_mins(2));
        timeline.record(Duration::from_secs(1), Duration::from_millis(1));
        timeline.record(Duration::from_secs(61), Duration::from_millis(5));
        timeline.record(Duration::from_hours(9), Duration::from_millis(9));
        let found = timeline.quantile(1.0);
        let times: Vec<_> = found.iter().map(|(at, _)| at.round()).collect();
        assert_eq!(times, [0.0, 60.0, 120.0]);
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
