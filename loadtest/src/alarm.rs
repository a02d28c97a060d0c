//! When something is due, to some microseconds: the runtime's own timer counts in milliseconds and rounds up, which would be
//! a part of every latency that is counted from then.

use async_io::Timer;
use tokio::time::Instant;

/// Waits until then.
pub(crate) async fn until(due: Instant) {
    if Instant::now() < due {
        Timer::at(due.into_std()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_is_never_early() {
        for micros in 0..100 {
            let due = Instant::now() + Duration::from_micros(micros * 20);
            until(due).await;
            assert!(due <= Instant::now());
        }
    }
}
