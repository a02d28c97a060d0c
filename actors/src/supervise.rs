//! When to restart a child and when to wait: pure arithmetic.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::Timestamp;

/// At most `restarts_max` crashes within `window` are restarted at once; after that the child rests for `rest`.
#[derive(Clone, Debug)]
pub struct RestartBudget {
    restarts_max: usize,
    window: Duration,
    rest: Duration,
    recent: VecDeque<Timestamp>,
    total: u64,
}

/// What the supervisor shall do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start the child again.
    Restart,
    /// Leave it alone until then.
    Rest {
        /// When it may start again.
        until: Timestamp,
    },
}

impl Default for RestartBudget {
    /// Five crashes in ten seconds, then half a minute of rest.
    fn default() -> Self {
        Self::new(5, Duration::from_secs(10), Duration::from_secs(30))
    }
}

impl RestartBudget {
    /// Makes a full budget.
    #[must_use]
    pub const fn new(restarts_max: usize, window: Duration, rest: Duration) -> Self {
        Self {
            restarts_max,
            window,
            rest,
            recent: VecDeque::new(),
            total: 0,
        }
    }

    /// Spends one restart at `now`.
    pub fn spend(&mut self, now: Timestamp) -> Verdict {
        self.total += 1;
        let window_start = now.minus(self.window);
        self.recent.retain(|at| window_start <= *at);
        if self.restarts_max <= self.recent.len() {
            return Verdict::Rest {
                until: now.plus(self.rest),
            };
        }
        self.recent.push_back(now);
        Verdict::Restart
    }

    /// How many crashes there have been.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// What the operator sees of an actor: how often it was started again, why, and whether it rests.
#[derive(Debug, Default)]
pub struct Vitals(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    budget: RestartBudget,
    last_failure: Option<String>,
    resting_until: Option<Timestamp>,
    children_failed: u64,
}

/// The longest text of a failure that is kept.
const FAILURE_CHARS_MAX: usize = 300;

impl Vitals {
    /// The actor failed at `now`: what its supervisor shall do.
    pub fn failed(&self, reason: &str, now: Timestamp) -> Verdict {
        let mut inner = self.0.lock();
        let verdict = inner.budget.spend(now);
        inner.last_failure = Some(reason.chars().take(FAILURE_CHARS_MAX).collect());
        inner.resting_until = match verdict {
            Verdict::Restart => None,
            Verdict::Rest { until } => Some(until),
        };
        verdict
    }

    /// One of its children failed.
    pub fn child_failed(&self, reason: &str) {
        let mut inner = self.0.lock();
        inner.children_failed += 1;
        inner.last_failure = Some(reason.chars().take(FAILURE_CHARS_MAX).collect());
    }

    /// For the operator.
    #[must_use]
    pub fn to_json(&self, now: Timestamp) -> serde_json::Value {
        let inner = self.0.lock();
        serde_json::json!({
            "restarts": inner.budget.total(),
            "children_failed": inner.children_failed,
            "last_failure": inner.last_failure,
            "resting_until": inner.resting_until.filter(|it| now < *it).map(|it| it.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_crash_in_a_window_of_three_is_one_too_many() {
        let mut budget = RestartBudget::new(3, Duration::from_secs(10), Duration::from_secs(5));
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let verdicts = [100, 101, 102, 103].map(|it| budget.spend(at(it)));
        assert_eq!(verdicts[..3], [Verdict::Restart; 3]);
        assert_eq!(verdicts[3], Verdict::Rest { until: at(108) });
        assert_eq!(
            budget.spend(at(112)),
            Verdict::Restart,
            "old crashes are forgotten"
        );
        assert_eq!(budget.total(), 5);
    }
}
