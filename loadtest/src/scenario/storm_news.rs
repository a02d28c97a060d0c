//! The messages of a storm: published at a steady rate, whoever is there to hear them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::fanout::Stage;
use super::pace::Pace;
use super::publisher::{Publication, Publisher};
use crate::error::LoadError;
use crate::report::ErrorCounts;

/// Longer than any run.
const A_DAY: Duration = Duration::from_hours(24);
/// How long it may take until so many more messages are published.
const PATIENCE: Duration = Duration::from_mins(2);

/// How far the publisher is.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// The newest place.
    pub(super) head: AtomicU64,
    /// Messages so far.
    count: AtomicU64,
}

impl Published {
    /// Waits until so many more were published.
    pub(super) async fn more(&self, wanted: u64) -> Result<(), LoadError> {
        let goal = self.count.load(Ordering::Acquire) + wanted;
        let until = Instant::now() + PATIENCE;
        while self.count.load(Ordering::Acquire) < goal {
            if until < Instant::now() {
                let text = format!("{wanted} messages were not published within {PATIENCE:?}");
                return Err(LoadError::Protocol(text));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

/// What the publisher knows at the end.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The places of what was acknowledged.
    pub(super) seqs: Vec<u64>,
    /// Messages that may be stored without an acknowledgement.
    pub(super) unknown: u64,
    /// What was refused or failed.
    pub(super) errors: ErrorCounts,
}

/// Publishes at a rate until it is stopped.
pub(super) async fn publish(
    stage: Stage,
    (rate, payload): (u32, usize),
    origin: Instant,
    published: Arc<Published>,
    mut stopped: watch::Receiver<bool>,
) -> Said {
    let publication = Publication {
        device: stage.device,
        chats: 100,
        payload,
    };
    let mut publisher = Publisher::new(&stage.endpoint, stage.dialect, &publication, origin);
    let (start, pace) = (Instant::now(), Pace::constant(rate, A_DAY));
    let (mut unknown, mut errors) = (0, ErrorCounts::default());
    for message in 0..pace.count() {
        let due = start + pace.due(message).unwrap_or(A_DAY);
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            () = sleep_until(due) => {}
        }
        match publisher.one(due).await {
            Ok(()) => {
                let newest = publisher.seqs.last().copied().unwrap_or_default();
                published.head.store(newest, Ordering::Release);
                published.count.fetch_add(1, Ordering::Release);
            }
            Err(error) => {
                unknown += u64::from(error.leaves_open());
                errors.count(format!("publishing: {}", error.tally_name()));
            }
        }
    }
    Said {
        seqs: publisher.seqs,
        unknown,
        errors,
    }
}
