//! Closed loop: every connection sends its next request when the last one is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::client::Endpoint;
use crate::client::calls::no_cursor;
use crate::client::http::{Answer, Connection};
use crate::client::sends::{read_batch, read_sent};
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::progress;
use crate::report::{ErrorCounts, Report, float, per_second};
use crate::server::usage;

/// Pause after an error, so that a server that refuses is not asked in a tight loop.
const AFTER_ERROR: Duration = Duration::from_millis(20);
/// How long answers may still come after the end.
const GRACE: Duration = Duration::from_secs(10);
/// How much later a connection has ended by itself.
const ENDED: Duration = Duration::from_secs(5);

/// How to count what an answer acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judge {
    /// One message with each 202.
    Single,
    /// As many as the answer to a batch of so many says.
    Batch(u64),
}

impl Judge {
    /// Messages of one request.
    fn messages(self) -> u64 {
        match self {
            Self::Single => 1,
            Self::Batch(size) => size,
        }
    }
}

/// When a run measures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Load that is not measured.
    pub(crate) warm_up: Duration,
    /// Load that is.
    pub(crate) measured: Duration,
}

impl Window {
    /// The window from now on.
    pub(crate) fn open(self) -> Span {
        let from = Instant::now() + self.warm_up;
        Span {
            from,
            until: from + self.measured,
        }
    }
}

/// A window with its times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Start of measuring.
    pub(crate) from: Instant,
    /// End of measuring and of load.
    pub(crate) until: Instant,
}

impl Span {
    /// Whether what happened between two times counts.
    pub(crate) fn covers(self, began: Instant, ended: Instant) -> bool {
        began >= self.from && ended <= self.until
    }
}

/// What to load a server with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The server.
    pub(crate) endpoint: Endpoint,
    /// Its process, if known.
    pub(crate) pid: Option<u32>,
    /// The requests, sent in turn.
    pub(crate) requests: Arc<[Bytes]>,
    /// How to count answers.
    pub(crate) judge: Judge,
    /// Connections at a time.
    pub(crate) connections: usize,
    /// When to measure.
    pub(crate) window: Window,
}

/// What one connection, or all of them, did within the window.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Messages that were acknowledged within the window.
    pub(crate) accepted: u64,
    /// Places of all messages that were acknowledged. Bounded by what a run can send.
    pub(crate) seqs: Vec<u64>,
    /// Messages that may be stored without an acknowledgement.
    pub(crate) unknown: u64,
    /// Request → answer.
    pub(crate) latencies: Latencies,
    /// What was refused or failed, also outside of the window.
    pub(crate) errors: ErrorCounts,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            accepted: 0,
            seqs: Vec::new(),
            unknown: 0,
            latencies: Latencies::new(),
            errors: ErrorCounts::default(),
        }
    }

    fn merge(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.seqs.extend(other.seqs);
        self.unknown += other.unknown;
        self.latencies.merge(&other.latencies);
        self.errors.merge(other.errors);
    }
}

/// What a run did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// All connections together.
    pub(crate) tally: Tally,
    /// How long was measured.
    pub(crate) measured: Duration,
    /// What the server's process used meanwhile.
    pub(crate) cpu: Option<Duration>,
    /// Its memory at the end.
    pub(crate) rss: Option<u64>,
}

impl Outcome {
    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.tally.accepted, self.measured)
    }

    /// Puts the run into a report.
    pub(crate) fn tell(self, name: &str, report: &mut Report) {
        report.figure(format!("{name}: messages"), self.rate(), "/s");
        if let Some(cpu) = self.cpu {
            report.figure(format!("{name}: server CPU"), cpu.as_secs_f64(), "s");
            report.figure(
                format!("{name}: messages per server CPU-second"),
                per_second(self.tally.accepted, cpu),
                "/CPU-s",
            );
        }
        if let Some(rss) = self.rss {
            report.figure(
                format!("{name}: server memory"),
                super::mebibytes(rss),
                "MiB",
            );
        }
        report.latency(name, &self.tally.latencies);
        if self.tally.accepted == 0 {
            report.fault(format!("{name}: nothing was acknowledged"));
        }
        let refused = self.tally.errors.total();
        if refused != 0 {
            report.figure(
                format!("{name}: refused or failed"),
                float(refused),
                "calls",
            );
        }
        report.errors(self.tally.errors);
    }
}

/// Loads a server over HTTP.
pub(crate) async fn run(plan: &Plan, label: &str) -> Result<Outcome, LoadError> {
    let span = plan.window.open();
    let mut workers = JoinSet::new();
    for index in 0..plan.connections {
        // Each connection starts at another chat, so that they do not walk in step.
        let first = index * plan.requests.len() / plan.connections.max(1);
        workers.spawn(connection(plan.clone(), first, span));
    }
    measure(plan.pid, span, workers, label).await
}

/// Waits for the window to pass, samples the server's process at its ends, gathers what the workers did.
pub(crate) async fn measure(
    pid: Option<u32>,
    span: Span,
    mut workers: JoinSet<Tally>,
    label: &str,
) -> Result<Outcome, LoadError> {
    progress::wait(span.from, &format!("{label}: warm-up")).await;
    let (before, began) = (pid.map(usage).transpose()?, Instant::now());
    progress::wait(span.until, label).await;
    let (after, measured) = (pid.map(usage).transpose()?, began.elapsed());
    let mut tally = Tally::new();
    let gather = async {
        while let Some(joined) = workers.join_next().await {
            match joined {
                Ok(part) => tally.merge(part),
                Err(error) => tally.errors.count(format!("worker: {error}")),
            }
        }
    };
    if timeout(GRACE + ENDED, gather).await.is_err() {
        let left = workers.len();
        workers.shutdown().await;
        return Err(LoadError::Protocol(format!(
            "{left} connections did not end, and what they were told is not known"
        )));
    }
    Ok(Outcome {
        tally,
        measured,
        cpu: before
            .zip(after)
            .map(|(before, after)| after.cpu.saturating_sub(before.cpu)),
        rss: after.map(|usage| usage.rss),
    })
}

async fn connection(plan: Plan, first: usize, span: Span) -> Tally {
    let mut connection = Connection::new(plan.endpoint.address);
    let mut tally = Tally::new();
    let mut began = Instant::now();
    for request in plan.requests.iter().cycle().skip(first) {
        if began >= span.until {
            break;
        }
        let answer = timeout_at(span.until + GRACE, connection.exchange(request)).await;
        let late = |_| LoadError::Protocol(format!("no answer within {GRACE:?} after the end"));
        let answer = answer.map_err(late).flatten();
        let ended = Instant::now();
        match answer.and_then(|answer| judge(plan.judge, &answer, &mut tally)) {
            Ok(accepted) if span.covers(began, ended) => {
                tally.accepted += accepted;
                tally.latencies.record(ended.duration_since(began));
            }
            Ok(_) => {}
            Err(error) => {
                if error.leaves_open() {
                    tally.unknown += plan.judge.messages();
                }
                tally.errors.count(error.tally_name());
                sleep(AFTER_ERROR).await;
            }
        }
        began = ended;
    }
    tally
}

/// How many messages an answer acknowledges; their places are kept.
fn judge(judge: Judge, answer: &Answer, tally: &mut Tally) -> Result<u64, LoadError> {
    match judge {
        Judge::Single => {
            let sent = read_sent(answer)?;
            tally.seqs.push(sent.seq().ok_or_else(no_cursor)?);
            Ok(1)
        }
        Judge::Batch(_) => {
            let outcome = read_batch(answer)?;
            tally.unknown += outcome.unknown;
            tally.errors.merge(outcome.errors);
            tally.seqs.extend(outcome.seqs);
            Ok(outcome.accepted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer {
            status,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn a_refused_send_is_not_counted_as_a_message() {
        let mut tally = Tally::new();
        let sent = answer(202, r#"{"id":"msg_1","event_cursor":"1-4"}"#);
        assert_eq!(judge(Judge::Single, &sent, &mut tally).unwrap(), 1);
        let refused = answer(429, r#"{"code":"rate_limited"}"#);
        assert!(judge(Judge::Single, &refused, &mut tally).is_err());
        let part = answer(
            202,
            r#"{"items":[{"ok":{"event_cursor":"1-5"}},{"error":{"code":"busy"}}]}"#,
        );
        assert_eq!(judge(Judge::Batch(2), &part, &mut tally).unwrap(), 1);
        assert_eq!((tally.errors.total(), tally.seqs), (1, vec![4, 5]));
    }

    #[tokio::test]
    async fn only_what_lies_in_the_window_counts() {
        let second = Duration::from_secs(1);
        let window = Window {
            warm_up: second,
            measured: second,
        };
        let span = window.open();
        assert!(!span.covers(span.from - second, span.from));
        assert!(span.covers(span.from, span.until));
        assert!(!span.covers(span.from, span.until + second));
    }
}
