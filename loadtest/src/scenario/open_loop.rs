//! Open loop: calls are due at fixed times, and a late one counts its wait.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pace::Pace;
use crate::alarm::until;
use crate::audit::Acknowledged;
use crate::client::http::{ANSWER, Connection};
use crate::client::sends::read_sent;
use crate::error::LoadError;
use crate::latency::{Latencies, Timeline};
use crate::report::ErrorCounts;

/// One prepared call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// What kind of call it is; latencies are kept apart by it.
    pub(crate) kind: &'static str,
    /// The bytes to send.
    pub(crate) request: Bytes,
    /// What a good answer is.
    pub(crate) expects: Expects,
}

/// What a good answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expects {
    /// The acknowledgement of a message, which goes into the books.
    Sent,
    /// Any success.
    Success,
}

/// Calls at a pace.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    /// The gateway.
    pub(crate) address: SocketAddr,
    /// The calls, made in turn.
    pub(crate) calls: Arc<[Call]>,
    /// Connections that share the work.
    pub(crate) connections: usize,
    /// When each call is due.
    pub(crate) pace: Arc<Pace>,
    /// When the first one is due.
    pub(crate) start: Instant,
    /// Calls that are due before this are not part of the latencies.
    pub(crate) warm_up: Duration,
}

/// What calls of one kind came to.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The kind.
    pub(crate) name: &'static str,
    /// Answered as expected.
    pub(crate) succeeded: u64,
    /// Refused, failed, or without an answer.
    pub(crate) failed: u64,
    /// Due → answer, without the warm-up.
    pub(crate) latencies: Latencies,
}

/// What was called.
#[derive(Debug)]
pub(crate) struct Calls {
    /// What was acknowledged. Bounded by the pace's count.
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// Sends that may be stored without an acknowledgement.
    pub(crate) unknown: u64,
    /// By kind; there are a handful.
    pub(crate) kinds: Vec<Kind>,
    /// What was refused or failed.
    pub(crate) errors: ErrorCounts,
}

impl Calls {
    fn new() -> Self {
        Self {
            acknowledged: Vec::new(),
            unknown: 0,
            kinds: Vec::new(),
            errors: ErrorCounts::default(),
        }
    }

    /// What calls of a kind came to, if there were any.
    pub(crate) fn kind(&self, name: &str) -> Option<&Kind> {
        self.kinds.iter().find(|kind| kind.name == name)
    }

    fn kind_mut(&mut self, name: &'static str) -> Option<&mut Kind> {
        if self.kind(name).is_none() {
            self.kinds.push(Kind {
                name,
                succeeded: 0,
                failed: 0,
                latencies: Latencies::new(),
            });
        }
        self.kinds.iter_mut().find(|kind| kind.name == name)
    }

    fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.unknown += other.unknown;
        self.errors.merge(other.errors);
        for theirs in other.kinds {
            if let Some(ours) = self.kind_mut(theirs.name) {
                ours.succeeded += theirs.succeeded;
                ours.failed += theirs.failed;
                ours.latencies.merge(&theirs.latencies);
            }
        }
    }
}

impl Schedule {
    /// Makes all calls, and returns when all are answered; and due → answer of all kinds over time.
    pub(crate) async fn run(self) -> (Calls, Timeline) {
        let tickets = Arc::new(AtomicU64::new(0));
        // One for all: with its many intervals a timeline is large.
        let timeline = Arc::new(Mutex::new(Timeline::over(self.pace.length())));
        let mut callers = JoinSet::new();
        for _ in 0..self.connections.max(1) {
            let caller = Caller {
                schedule: self.clone(),
                tickets: Arc::clone(&tickets),
                timeline: Arc::clone(&timeline),
                connection: Connection::new(self.address),
                calls: Calls::new(),
            };
            callers.spawn(caller.run());
        }
        let mut all = Calls::new();
        while let Some(joined) = callers.join_next().await {
            match joined {
                Ok(part) => all.merge(part),
                Err(error) => all.errors.count(format!("caller: {error}")),
            }
        }
        let timeline = std::mem::replace(
            &mut *timeline.lock().unwrap_or_else(PoisonError::into_inner),
            Timeline::over(Duration::ZERO),
        );
        (all, timeline)
    }
}

struct Caller {
    schedule: Schedule,
    tickets: Arc<AtomicU64>,
    timeline: Arc<Mutex<Timeline>>,
    connection: Connection,
    calls: Calls,
}

impl Caller {
    async fn run(mut self) -> Calls {
        loop {
            let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
            let calls = Arc::clone(&self.schedule.calls);
            let due = self.schedule.pace.due(ticket);
            let (Some(due), Some(call)) = (due, pick(&calls, ticket)) else {
                return self.calls;
            };
            until(self.schedule.start + due).await;
            let answered = answer(&mut self.connection, call, due).await;
            if let (Expects::Sent, Err(error)) = (call.expects, &answered) {
                self.calls.unknown += u64::from(error.leaves_open());
            }
            self.note(call.kind, due, answered);
        }
    }

    fn note(
        &mut self,
        kind: &'static str,
        due: Duration,
        answered: Result<Option<Acknowledged>, LoadError>,
    ) {
        let took = self.schedule.start.elapsed().saturating_sub(due);
        let failed = answered.is_err();
        match answered {
            Ok(acknowledged) => self.calls.acknowledged.extend(acknowledged),
            Err(error) => {
                let name = format!("{kind}: {}", error.tally_name());
                self.calls.errors.count(name);
            }
        }
        let is_warm = due >= self.schedule.warm_up;
        if let Some(kind) = self.calls.kind_mut(kind) {
            kind.failed += u64::from(failed);
            kind.succeeded += u64::from(!failed);
            // What was refused at once says nothing of the time; what was never answered took at least that long.
            if is_warm && (!failed || ANSWER <= took) {
                kind.latencies.record(took);
            }
        }
        self.timeline
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(due, took);
    }
}

fn pick(calls: &[Call], ticket: u64) -> Option<&Call> {
    let count = u64::try_from(calls.len()).ok().filter(|count| *count > 0)?;
    calls.get(usize::try_from(ticket % count).ok()?)
}

async fn answer(
    connection: &mut Connection,
    call: &Call,
    due: Duration,
) -> Result<Option<Acknowledged>, LoadError> {
    let answer = connection.exchange(&call.request).await?;
    match call.expects {
        Expects::Sent => {
            let sent = read_sent(&answer)?;
            Ok(Some(Acknowledged {
                seq: sent.seq(),
                id: sent.id.into_owned(),
                due,
            }))
        }
        Expects::Success if answer.succeeded() => Ok(None),
        Expects::Success => Err(LoadError::Refused {
            call: call.kind.to_owned(),
            problem: answer.problem(),
        }),
    }
}
