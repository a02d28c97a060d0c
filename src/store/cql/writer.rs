//! The writer: commits for many tenants at a time, one commit of each.

use std::sync::Arc;
use std::time::Duration;

use actors::ports::SubmitError;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::commit::{Shared, refuse};
use super::queue::Next;
use super::tenants::Slot;

/// Tenants that are committed for at the same time.
const TENANTS_MAX: usize = 64;
/// How often is looked whether the servers have gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Serves until the queue ends and all that was taken is settled.
pub(super) async fn serve(shared: Arc<Shared>) {
    let mut commits: JoinSet<Arc<Slot>> = JoinSet::new();
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut ended = false;
        while commits.len() < TENANTS_MAX {
            match shared.queue.next() {
                Next::Jobs(slot, jobs) => {
                    let shared = Arc::clone(&shared);
                    commits.spawn(async move {
                        Box::pin(shared.commit(&slot, jobs)).await;
                        slot
                    });
                }
                Next::Nothing => break,
                Next::End => {
                    ended = true;
                    break;
                }
            }
        }
        if ended && commits.is_empty() {
            return;
        }
        tokio::select! {
            Some(through) = commits.join_next() => match through {
                Ok(slot) => shared.queue.through(&slot),
                Err(error) => {
                    tracing::error!(%error, "a commit has panicked: the store takes no more writes");
                    shared.queue.stop(SubmitError::Failed);
                    // Tickets that were lost must not hold anybody.
                    shared.tenants.all().iter().for_each(|it| it.settle(u64::MAX));
                }
            },
            () = shared.queue.work.notified() => {}
            _ = look.tick() => {}
        }
        let reason = match shared.queue.stopped() {
            Some(SubmitError::Failed) => Some(SubmitError::Failed),
            Some(_) | None => shared.db.presence.is_away().then_some(SubmitError::Away),
        };
        if let Some(reason) = reason {
            let waiting = shared.queue.throw_out();
            shared.db.measures.settled(waiting.len());
            refuse(waiting, reason);
        }
    }
}
