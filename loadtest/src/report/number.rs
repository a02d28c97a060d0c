//! Counts, rates and how numbers are written.

use std::time::Duration;

/// A count as a float. Counts of a load test stay far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "there is no other way, and the counts stay below 2^53"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// A count over a time, per second; 0 where no time passed.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    float(count) / time.as_secs_f64()
}

/// Microseconds as milliseconds, for people.
pub(super) fn milliseconds(microseconds: u64) -> String {
    format!("{:.3}", float(microseconds) / 1_000.0)
}

/// A number for people.
pub(super) fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}
