//! Waiting for states, rolling dice whose seed is printed, and the test run's own options.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a state may take to come before a test gives up on it: no machine that works at all is so slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    until_some(what, async || is_so().await.then_some(())).await;
}

/// Asks again and again until there is something.
pub(crate) async fn until_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let (begun, mut pauses) = (Instant::now(), Pauses::default());
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        pauses.next().await;
    }
}

/// Pauses between tries, from 5 ms to 160: who tries without a pause takes from others what they
/// would need to be done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pauses(u32);

impl Pauses {
    /// Waits, and somewhat longer the next time.
    pub(crate) async fn next(&mut self) {
        sleep(PAUSE_MIN * (1 << (self.0 / 2))).await;
        self.0 = LONGER_MAX.min(self.0 + 1);
    }
}

/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// How often it grows: every second time it doubles.
const LONGER_MAX: u32 = 10;

/// Chance that can be repeated: the same seed rolls the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits (SplitMix64).
    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `sides`.
    pub(crate) fn below(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides.max(1)).unwrap();
        usize::try_from(self.bits() % sides).unwrap()
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// The run's seed: `BUHO_TEST_SEED`, or a fresh one. It is printed, so that a bad run can be repeated.
pub(crate) fn seed(test: &str) -> u64 {
    let seed = option("BUHO_TEST_SEED")
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    say(&format!("{test}: BUHO_TEST_SEED={seed}"));
    seed
}

/// An option of the test run.
#[expect(
    clippy::disallowed_methods,
    reason = "options of the test run have no other way in"
)]
pub(crate) fn option(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Tells the person who reads the test's output.
#[expect(clippy::print_stderr, reason = "a test's output is its standard error")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
