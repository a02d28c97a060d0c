//! The progress bar on stderr; it hides itself where stderr is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep_until};

/// How often a bar over time moves.
const TICK: Duration = Duration::from_millis(100);

/// A bar over a known count.
pub(crate) fn bar(length: u64, label: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:36} [{bar:40}] {pos}/{len}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    ProgressBar::new(length)
        .with_style(style)
        .with_message(label.to_owned())
}

/// Waits until `deadline` under a bar.
pub(crate) async fn wait(deadline: Instant, label: &str) {
    let began = Instant::now();
    let total = milliseconds(deadline.saturating_duration_since(began));
    let bar = bar(total, label);
    while Instant::now() < deadline {
        sleep_until(deadline.min(Instant::now() + TICK)).await;
        bar.set_position(milliseconds(began.elapsed()).min(total));
    }
    bar.finish_and_clear();
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
