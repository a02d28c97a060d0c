//! Open loop: sends are due at fixed times, and a late one counts its wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::audit::Acknowledged;
use crate::client::Endpoint;
use crate::client::http::Connection;
use crate::client::sends::read_sent;
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::report::ErrorCounts;

/// Sends at a rate.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    /// The gateway.
    pub(crate) endpoint: Endpoint,
    /// The requests, sent in turn.
    pub(crate) requests: Arc<[Bytes]>,
    /// Connections that share the work.
    pub(crate) senders: usize,
    /// Sends a second, all connections together.
    pub(crate) rate: u32,
    /// When the first one is due.
    pub(crate) start: Instant,
    /// Sends that are due before this are not part of the latencies.
    pub(crate) warm_up: Duration,
    /// Sends in all.
    pub(crate) count: u64,
}

/// What was sent.
#[derive(Debug)]
pub(crate) struct Sends {
    /// What was acknowledged. Bounded by the schedule's count.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Due → answer, without the warm-up.
    pub(crate) latencies: Latencies,
    /// What was refused or failed.
    pub(crate) errors: ErrorCounts,
}

impl Sends {
    fn new() -> Self {
        Self {
            acknowledged: Vec::new(),
            latencies: Latencies::new(),
            errors: ErrorCounts::default(),
        }
    }
}

impl Schedule {
    /// When a send is due, since the start.
    fn due(&self, ticket: u64) -> Duration {
        let rate = u64::from(self.rate.max(1));
        let nanos = (ticket % rate) * 1_000_000_000 / rate;
        Duration::from_secs(ticket / rate) + Duration::from_nanos(nanos)
    }

    /// Sends all, and returns when all are answered.
    pub(crate) async fn run(self) -> Sends {
        let tickets = Arc::new(AtomicU64::new(0));
        let mut senders = JoinSet::new();
        for _ in 0..self.senders.max(1) {
            senders.spawn(sender(self.clone(), Arc::clone(&tickets)));
        }
        let mut all = Sends::new();
        while let Some(joined) = senders.join_next().await {
            match joined {
                Ok(part) => {
                    all.acknowledged.extend(part.acknowledged);
                    all.latencies.merge(&part.latencies);
                    all.errors.merge(part.errors);
                }
                Err(error) => all.errors.count(format!("sender: {error}")),
            }
        }
        all
    }
}

async fn sender(schedule: Schedule, tickets: Arc<AtomicU64>) -> Sends {
    let mut connection = Connection::new(schedule.endpoint.address);
    let mut sends = Sends::new();
    loop {
        let ticket = tickets.fetch_add(1, Ordering::Relaxed);
        if ticket >= schedule.count {
            return sends;
        }
        let due = schedule.due(ticket);
        sleep_until(schedule.start + due).await;
        match send(&schedule, &mut connection, ticket).await {
            Ok(acknowledged) => {
                if due >= schedule.warm_up {
                    let took = schedule.start.elapsed().saturating_sub(due);
                    sends.latencies.record(took);
                }
                sends.acknowledged.push(acknowledged);
            }
            Err(error) => sends.errors.count(error.tally_name()),
        }
    }
}

async fn send(
    schedule: &Schedule,
    connection: &mut Connection,
    ticket: u64,
) -> Result<Acknowledged, LoadError> {
    let requests = u64::try_from(schedule.requests.len()).unwrap_or(1).max(1);
    let index = usize::try_from(ticket % requests).unwrap_or(0);
    let request = schedule
        .requests
        .get(index)
        .ok_or_else(|| LoadError::Target("no requests to send".to_owned()))?;
    let answer = connection.exchange(request).await?;
    let sent = read_sent(&answer)?;
    Ok(Acknowledged {
        seq: sent.seq(),
        id: sent.id.into_owned(),
        due: schedule.due(ticket),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_are_due_evenly_and_do_not_drift() {
        let schedule = Schedule {
            endpoint: Endpoint {
                address: "127.0.0.1:1".parse().unwrap(),
                credential: None,
            },
            requests: Arc::from([]),
            senders: 1,
            rate: 3,
            start: Instant::now(),
            warm_up: Duration::ZERO,
            count: 0,
        };
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(1), Duration::from_nanos(333_333_333));
        assert_eq!(schedule.due(2), Duration::from_nanos(666_666_666));
        assert_eq!(schedule.due(3_000_000), Duration::from_secs(1_000_000));
    }
}
