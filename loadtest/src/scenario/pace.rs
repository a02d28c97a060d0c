//! When calls are due: at one rate, or along a day.

use std::time::Duration;

/// Traffic of each hour of a day, in hundredths of the busiest one: nights are quiet, there is a dip at noon.
const DAY: [u32; 24] = [
    12, 8, 6, 5, 6, 10, 22, 40, 62, 80, 92, 98, 90, 84, 86, 90, 94, 100, 98, 90, 74, 56, 36, 20,
];

/// A schedule: call number so-and-so is due so long after the start.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy)]
struct Step {
    begins: Duration,
    first: u64,
    count: u64,
    rate: u64,
}

impl Pace {
    /// The same rate all the time.
    pub(crate) fn constant(rate: u32, time: Duration) -> Self {
        let mut pace = Self { steps: Vec::new() };
        pace.push(rate, time);
        pace
    }

    /// A day that is pressed together: `hour` is how long each of its hours lasts.
    pub(crate) fn day(peak: u32, hour: Duration) -> Self {
        let mut pace = Self { steps: Vec::new() };
        for share in DAY {
            pace.push((peak * share / 100).max(1), hour);
        }
        pace
    }

    fn push(&mut self, rate: u32, time: Duration) {
        let rate = u64::from(rate.max(1));
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.steps.push(Step {
            begins: self.length(),
            first: self.count(),
            count: rate.saturating_mul(millis) / 1_000,
            rate,
        });
    }

    /// Calls in all.
    pub(crate) fn count(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.first + step.count)
    }

    /// When the last call is due, and a step more.
    pub(crate) fn length(&self) -> Duration {
        self.steps.last().map_or(Duration::ZERO, |step| {
            step.begins + offset(step.count, step.rate)
        })
    }

    /// When a call is due since the start; `None` beyond the last.
    pub(crate) fn due(&self, ticket: u64) -> Option<Duration> {
        let step = self
            .steps
            .iter()
            .find(|step| ticket < step.first + step.count)?;
        Some(step.begins + offset(ticket - step.first, step.rate))
    }
}

/// The time of so many calls at a rate, without drift.
fn offset(count: u64, rate: u64) -> Duration {
    let nanos = (count % rate) * 1_000_000_000 / rate;
    Duration::from_secs(count / rate) + Duration::from_nanos(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_evenly_and_do_not_drift() {
        let pace = Pace::constant(3, Duration::from_secs(1_000_001));
        assert_eq!(pace.due(0), Some(Duration::ZERO));
        assert_eq!(pace.due(1), Some(Duration::from_nanos(333_333_333)));
        assert_eq!(pace.due(2), Some(Duration::from_nanos(666_666_666)));
        assert_eq!(pace.due(3_000_000), Some(Duration::from_secs(1_000_000)));
        assert_eq!(pace.due(pace.count()), None);
    }

    #[test]
    fn a_day_never_goes_back_and_is_busiest_in_the_evening() {
        let pace = Pace::day(200, Duration::from_secs(2));
        let due: Vec<_> = (0..pace.count()).map(|n| pace.due(n).unwrap()).collect();
        assert!(due.is_sorted());
        let within = |from: u64, to: u64| {
            let span = Duration::from_secs(from)..Duration::from_secs(to);
            due.iter().filter(|due| span.contains(due)).count()
        };
        assert_eq!(within(34, 36), 400);
        assert_eq!(within(6, 8), 20);
        assert!(pace.length() <= Duration::from_secs(48));
    }
}
