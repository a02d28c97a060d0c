//! One thread that commits what waits, and callers that wait for it: the shape of a durable write path.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::alarm::until;
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::progress;
use crate::report::{float, per_second};
use crate::scenario::closed_loop::{Span, Window};

/// Messages that may wait. A caller waits for its message, so no more than callers ever do.
const QUEUE: usize = 8_192;

/// Where a group of messages becomes durable.
pub(crate) trait Sink: Send + 'static {
    /// Writes the records of these messages, with one sync at the end.
    fn commit(&mut self, messages: &[u64]) -> Result<(), LoadError>;
}

/// How a yardstick of durable writes is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callers {
    /// Callers that each wait for their message.
    pub(crate) count: u64,
    /// Messages of one commit, and so of one sync, at most.
    pub(crate) group: usize,
    /// Messages a second of all callers together, latency counted from when each was due; `None` for the next call when
    /// the last one is answered.
    pub(crate) rate: Option<u32>,
    /// When to measure.
    pub(crate) window: Window,
}

/// What callers got.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Messages that became durable.
    pub(crate) messages: u64,
    /// How long was measured.
    pub(crate) measured: Duration,
    /// Call → durable.
    pub(crate) latencies: Latencies,
}

impl Outcome {
    /// Messages a second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.messages, self.measured)
    }
}

struct Job {
    message: u64,
    durable: oneshot::Sender<()>,
}

/// Runs callers against a sink.
pub(crate) async fn run(
    sink: impl Sink,
    callers: Callers,
    label: &str,
) -> Result<Outcome, LoadError> {
    let (jobs, waiting) = sync_channel(QUEUE);
    let committer = start(sink, waiting, callers.group.max(1))?;
    let span = callers.window.open();
    let mut tasks = JoinSet::new();
    let (count, begun) = (callers.count.min(4_096), Instant::now());
    for index in 0..count {
        let pace = callers.rate.map(|rate| {
            let rate = f64::from(rate.max(1));
            Turns {
                first: begun + Duration::from_secs_f64(float(index) / rate),
                every: Duration::from_secs_f64(float(count) / rate),
            }
        });
        tasks.spawn(caller(jobs.clone(), index << 40, span, pace));
    }
    drop(jobs);
    progress::wait(span.until, label).await;
    let (mut messages, mut latencies) = (0, Latencies::new());
    while let Some(joined) = tasks.join_next().await {
        let part = joined.map_err(|error| LoadError::Protocol(format!("a caller: {error}")))?;
        messages += part.count();
        latencies.merge(&part);
    }
    // The thread ends with its last caller, so this does not wait.
    committer
        .join()
        .map_err(|_| LoadError::Protocol("the committer panicked".to_owned()))??;
    Ok(Outcome {
        messages,
        measured: callers.window.measured,
        latencies,
    })
}

fn start(
    mut sink: impl Sink,
    waiting: Receiver<Job>,
    group: usize,
) -> Result<JoinHandle<Result<(), LoadError>>, LoadError> {
    thread::Builder::new()
        .name("committer".to_owned())
        .spawn(move || {
            let (mut messages, mut answers) = (Vec::new(), Vec::new());
            while let Ok(first) = waiting.recv() {
                let jobs = std::iter::once(first).chain(waiting.try_iter());
                for job in jobs.take(group) {
                    messages.push(job.message);
                    answers.push(job.durable);
                }
                sink.commit(&messages)?;
                messages.clear();
                for durable in answers.drain(..) {
                    // A caller that is gone needs no answer.
                    durable.send(()).ok();
                }
            }
            Ok(())
        })
        .map_err(LoadError::io("starting the committer"))
}

/// When a caller's calls are due.
#[derive(Debug, Clone, Copy)]
struct Turns {
    first: Instant,
    every: Duration,
}

async fn caller(
    jobs: SyncSender<Job>,
    first: u64,
    span: Span,
    mut turns: Option<Turns>,
) -> Latencies {
    let mut latencies = Latencies::new();
    for message in first.. {
        let began = match &mut turns {
            None => Instant::now(),
            Some(turns) => {
                let due = turns.first;
                turns.first += turns.every;
                until(due).await;
                due
            }
        };
        if began >= span.until {
            break;
        }
        let (durable, answer) = oneshot::channel();
        match jobs.try_send(Job { message, durable }) {
            Ok(()) => {}
            // Never full: fewer callers than places. Gone: the sink failed, and `run` tells why.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => break,
        }
        if answer.await.is_err() {
            break;
        }
        let ended = Instant::now();
        if span.covers(began, ended) {
            latencies.record(ended.duration_since(began));
        }
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::{Arc, Mutex};

    #[derive(Default, Clone)]
    struct Memory(Arc<Mutex<(HashSet<u64>, usize)>>);

    impl Sink for Memory {
        fn commit(&mut self, messages: &[u64]) -> Result<(), LoadError> {
            let mut memory = self.0.lock().unwrap();
            memory.0.extend(messages);
            memory.1 = memory.1.max(messages.len());
            Ok(())
        }
    }

    struct Broken;

    impl Sink for Broken {
        fn commit(&mut self, _: &[u64]) -> Result<(), LoadError> {
            Err(LoadError::Target("broken".to_owned()))
        }
    }

    fn callers() -> Callers {
        Callers {
            count: 64,
            group: 16,
            rate: None,
            window: Window {
                warm_up: Duration::ZERO,
                measured: Duration::from_millis(100),
            },
        }
    }

    #[tokio::test]
    async fn every_message_is_committed_once_before_its_caller_goes_on() {
        let memory = Memory::default();
        let outcome = run(memory.clone(), callers(), "test").await.unwrap();
        let (messages, largest) = &*memory.0.lock().unwrap();
        let committed = u64::try_from(messages.len()).unwrap();
        assert!(outcome.messages > 0);
        assert!(committed >= outcome.messages);
        assert!(committed <= outcome.messages + 64);
        assert!(*largest <= 16);
    }

    #[tokio::test]
    async fn a_sink_that_fails_is_told() {
        let failed = run(Broken, callers(), "test").await;
        assert!(matches!(failed, Err(LoadError::Target(_))));
    }
}
