//! Many WebSocket subscribers that read, audit what they read, and count it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::audit::SequenceAudit;
use crate::client::Endpoint;
use crate::client::frame::Frame;
use crate::client::payload::Payload;
use crate::client::ws::{Dialect, Socket};
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::progress;
use crate::report::ErrorCounts;

/// Handshakes at a time.
const HANDSHAKES: usize = 32;
/// Tries of a handshake that is refused because of load.
const TRIES: u32 = 20;
/// One subscriber in so many measures latencies.
const SAMPLED: usize = 16;
/// How long nothing may arrive before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a subscriber may take to end.
const END: Duration = Duration::from_secs(10);

/// What one subscriber saw.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Its order and repeats.
    pub(crate) audit: SequenceAudit,
    /// Publication → arrival, of the sampled subscribers.
    pub(crate) latencies: Option<Latencies>,
    /// Lags, resets, refused handshakes, and what ended it early.
    pub(crate) errors: ErrorCounts,
    /// Whether it was still reading when told to stop.
    pub(crate) stayed: bool,
}

/// Open subscribers.
#[derive(Debug)]
pub(crate) struct Subscribers {
    tasks: JoinSet<Seen>,
    deliveries: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    /// Refused handshakes that were tried again.
    pub(crate) refused: ErrorCounts,
}

/// What all subscribers of a run share.
#[derive(Debug, Clone)]
struct Shared {
    endpoint: Endpoint,
    dialect: Dialect,
    origin: Instant,
    deliveries: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
    handshakes: Arc<Semaphore>,
    opened: mpsc::Sender<Result<ErrorCounts, LoadError>>,
}

impl Subscribers {
    /// Opens `count` subscribers; their latencies count from `origin`.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        dialect: Dialect,
        count: usize,
        origin: Instant,
    ) -> Result<Self, LoadError> {
        let (deliveries, bytes) = (Arc::default(), Arc::default());
        let (stop, stopped) = watch::channel(false);
        let (opened, mut answers) = mpsc::channel(count.max(1));
        let shared = Shared {
            endpoint: endpoint.clone(),
            dialect,
            origin,
            deliveries: Arc::clone(&deliveries),
            bytes: Arc::clone(&bytes),
            stopped,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            opened,
        };
        let mut tasks = JoinSet::new();
        for index in 0..count {
            tasks.spawn(subscriber(shared.clone(), index % SAMPLED == 0));
        }
        drop(shared);
        let bar = progress::bar(u64::try_from(count).unwrap_or(u64::MAX), "opening sockets");
        let mut refused = ErrorCounts::default();
        while let Some(answer) = answers.recv().await {
            refused.merge(answer?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self {
            tasks,
            deliveries,
            bytes,
            stop,
            refused,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.tasks.len()).unwrap_or(u64::MAX)
    }

    /// Deliveries so far, of all subscribers.
    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    /// Bytes of all messages so far, of all subscribers.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Waits until so many deliveries have come, or none has for some time; answers when the last one came.
    pub(crate) async fn wait_for(&self, wanted: u64) -> Instant {
        let (mut last, mut since) = (self.deliveries(), Instant::now());
        while last < wanted && since.elapsed() < SILENCE {
            sleep(Duration::from_millis(2)).await;
            let now = self.deliveries();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        since
    }

    /// Ends all subscribers and gathers what they saw. One that does not end has seen nothing and has not stayed.
    pub(crate) async fn close(self) -> Result<Vec<Seen>, LoadError> {
        self.close_within(END).await
    }

    async fn close_within(mut self, patience: Duration) -> Result<Vec<Seen>, LoadError> {
        // Without a subscriber left there is nobody to tell.
        self.stop.send(true).ok();
        let mut all = Vec::with_capacity(self.tasks.len());
        while let Ok(Some(joined)) = timeout(patience, self.tasks.join_next()).await {
            all.push(
                joined.map_err(|error| LoadError::Protocol(format!("a subscriber: {error}")))?,
            );
        }
        for _ in 0..self.tasks.len() {
            let mut silent = Seen::new(false);
            silent.errors.count("a subscriber did not end".to_owned());
            all.push(silent);
        }
        Ok(all)
    }
}

async fn subscriber(shared: Shared, sampled: bool) -> Seen {
    let mut seen = Seen::new(sampled);
    let handshake = handshake(&shared).await;
    let (answer, socket) = match handshake {
        Ok((socket, refused)) => (Ok(refused), Some(socket)),
        Err(error) => (Err(error), None),
    };
    // Nobody listens any more where another subscriber has failed: then this one ends too.
    let told = shared.opened.send(answer).await;
    let Shared {
        origin,
        deliveries,
        bytes,
        mut stopped,
        opened,
        ..
    } = shared;
    // The opener waits until nobody can answer any more.
    drop(opened);
    let (Some(mut socket), Ok(())) = (socket, told) else {
        return seen;
    };
    loop {
        let message = tokio::select! {
            biased;
            message = socket.message() => message,
            _ = stopped.changed() => {
                seen.stayed = true;
                return seen;
            }
        };
        let taken = message.and_then(|message| {
            bytes.fetch_add(message.length(), Ordering::Relaxed);
            seen.take(&message, origin.elapsed())
        });
        match taken {
            Ok(events) => {
                deliveries.fetch_add(events, Ordering::Relaxed);
            }
            Err(error) => {
                seen.errors.count(error.tally_name());
                return seen;
            }
        }
    }
}

async fn handshake(shared: &Shared) -> Result<(Socket, ErrorCounts), LoadError> {
    let _turn = shared
        .handshakes
        .acquire()
        .await
        .map_err(|_| LoadError::Protocol("the handshakes ended".to_owned()))?;
    let mut refused = ErrorCounts::default();
    for attempt in 1..=TRIES {
        match Socket::open(&shared.endpoint, shared.dialect).await {
            Ok(mut socket) => {
                // Nothing is published yet, so that the answer holds no event.
                let filter = json!({"types": ["message.created"]});
                socket.subscribe(&filter, "now").await?;
                return Ok((socket, refused));
            }
            Err(LoadError::Refused { problem, .. }) if matches!(problem.status, 429 | 503) => {
                refused.count(format!("handshake {}", problem.tally_name()));
                sleep(Duration::from_millis(100) * attempt).await;
            }
            Err(error) => return Err(error),
        }
    }
    Err(LoadError::Protocol(format!(
        "the handshake was refused {TRIES} times"
    )))
}

impl Seen {
    /// Nothing yet; latencies are measured where it is sampled.
    pub(crate) fn new(sampled: bool) -> Self {
        Self {
            audit: SequenceAudit::default(),
            latencies: sampled.then(Latencies::new),
            errors: ErrorCounts::default(),
            stayed: false,
        }
    }

    /// Takes in a message that came at a time since the origin; answers how many events it held.
    pub(crate) fn take(&mut self, message: &Payload, at: Duration) -> Result<u64, LoadError> {
        let mut events = 0;
        for frame in message.frames()? {
            events += u64::from(self.take_frame(&frame, at));
        }
        Ok(events)
    }

    fn take_frame(&mut self, frame: &Frame<'_>, at: Duration) -> bool {
        let Some(entry) = &frame.event else {
            if matches!(&*frame.op, "reset" | "lag" | "notice") {
                let word = frame.reason.as_deref().or(frame.mode.as_deref());
                let name = format!("{} {}", frame.op, word.unwrap_or_default());
                self.errors.count(name);
            }
            return false;
        };
        self.audit.note(entry.seq);
        if let Some(latencies) = &mut self.latencies {
            let content = entry.data.as_ref().and_then(|data| data.content.as_ref());
            let published = content.and_then(|content| stamp_of(&content.text));
            if let Some(published) = published {
                latencies.record(at.saturating_sub(published));
            }
        }
        true
    }
}

/// Digits at the start of a text that say when it was published.
const STAMP: usize = 20;

/// A text of a given length that starts with the time since the origin.
pub(crate) fn stamped(at: Duration, bytes: usize) -> String {
    let mut text = format!("{:0width$} ", at.as_nanos(), width = STAMP);
    let filler = bytes.saturating_sub(text.len());
    text.push_str(&crate::client::sends::text(filler));
    text
}

fn stamp_of(text: &str) -> Option<Duration> {
    text.get(..STAMP)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_subscriber_that_does_not_end_has_lost_all() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { Seen::new(false) });
        tasks.spawn(std::future::pending());
        let subscribers = Subscribers {
            tasks,
            deliveries: Arc::default(),
            bytes: Arc::default(),
            stop: watch::channel(false).0,
            refused: ErrorCounts::default(),
        };
        let patience = Duration::from_millis(100);
        let seen = subscribers.close_within(patience).await.unwrap();
        let silent = seen.iter().filter(|it| it.errors.total() == 1);
        assert_eq!((seen.len(), silent.count()), (2, 1));
        assert!(seen.iter().all(|it| !it.stayed && it.audit.lost(&[7]) == 1));
    }

    #[test]
    fn a_stamp_survives_its_text() {
        let at = Duration::from_nanos(1_234_567_890_123);
        let text = stamped(at, 128);
        assert_eq!(text.len(), 128);
        assert_eq!(stamp_of(&text), Some(at));
        assert_eq!(stamp_of("hola"), None);
    }

    #[test]
    fn events_are_counted_audited_and_timed_and_other_frames_are_not() {
        let text = stamped(Duration::from_millis(10), 64);
        let event = |seq: u64| {
            format!(
                r#"{{"op":"event","event":{{"seq":{seq},"data":{{"content":{{"text":"{text}"}}}}}}}}"#
            )
        };
        let mut seen = Seen::new(true);
        let message = format!(
            r#"[{},{},{{"op":"position","cursor":"1-9"}},{{"op":"lag","behind":5,"mode":"on"}}]"#,
            event(8),
            event(9)
        );
        let message = Payload::Text(message.into());
        assert_eq!(seen.take(&message, Duration::from_millis(30)).unwrap(), 2);
        assert_eq!(seen.audit.lost(&[8, 9, 10]), 1);
        assert_eq!(seen.errors.total(), 1);
        let latencies = seen.latencies.unwrap();
        assert_eq!(latencies.count(), 2);
        let median = latencies.quantile(0.5);
        assert!(median.abs_diff(Duration::from_millis(20)) < Duration::from_micros(50));
    }
}
