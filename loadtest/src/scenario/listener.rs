//! One subscriber that keeps everything it hears, for the books.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::audit::{Arrival, OrderAudit};
use crate::client::Endpoint;
use crate::client::frame::Frame;
use crate::client::payload::{Codec, Payload};
use crate::client::ws::{Dialect, Socket};
use crate::error::LoadError;
use crate::report::ErrorCounts;

/// How long nothing may arrive before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(5);
/// The most arrivals that are kept; a server that repeats itself can't fill the memory.
const ARRIVALS: usize = 20_000_000;
/// Types of entries that are counted apart.
const TYPES: usize = 100;

/// What was heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The messages that were created.
    pub(crate) arrivals: Vec<Arrival>,
    /// Order of all entries.
    pub(crate) order: OrderAudit,
    /// Entries by their type.
    pub(crate) types: BTreeMap<String, u64>,
    /// Lags, resets, notices.
    pub(crate) errors: ErrorCounts,
    /// What ended the subscription early.
    pub(crate) ended: Option<LoadError>,
}

/// The subscriber, listening.
#[derive(Debug)]
pub(crate) struct Listener {
    task: JoinSet<Heard>,
    created: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
}

/// What it subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Everything, so that a hole in `seq` shows.
    All,
    /// Created messages alone.
    Created,
}

impl Wanted {
    fn filter(self) -> Value {
        match self {
            Self::All => json!({}),
            Self::Created => json!({"types": ["message.created"]}),
        }
    }
}

impl Listener {
    /// Subscribes to what happens from now on; times count from `start`.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        codec: Codec,
        wanted: Wanted,
        start: Instant,
    ) -> Result<Self, LoadError> {
        let mut socket = Socket::open(endpoint, Dialect::Gateway(codec)).await?;
        let ready = socket.subscribe(&wanted.filter(), "now").await?;
        let (created, received) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        let ear = Ear {
            socket,
            start,
            created: Arc::clone(&created),
            received: Arc::clone(&received),
            heard: Heard::default(),
        };
        task.spawn(ear.listen(ready, stopped));
        Ok(Self {
            task,
            created,
            received,
            stop,
        })
    }

    /// Waits until so many messages were created and received, or none came for some time; then hears no more.
    pub(crate) async fn finish(
        mut self,
        created: usize,
        received: u64,
    ) -> Result<Heard, LoadError> {
        let created = u64::try_from(created).unwrap_or(u64::MAX);
        let (mut last, mut since) = ((0, 0), Instant::now());
        loop {
            let now = (
                self.created.load(Ordering::Relaxed),
                self.received.load(Ordering::Relaxed),
            );
            if now != last {
                (last, since) = (now, Instant::now());
            }
            // A moment longer than needed, so that a doubled last one is heard too.
            let all = now.0 >= created && now.1 >= received;
            let patience = if all {
                Duration::from_millis(300)
            } else {
                SILENCE
            };
            if since.elapsed() >= patience {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        // It may have ended by itself, with its reason in what it heard.
        self.stop.send(true).ok();
        match self.task.join_next().await {
            Some(joined) => {
                joined.map_err(|error| LoadError::Protocol(format!("the subscriber: {error}")))
            }
            None => Err(LoadError::Protocol("no subscriber".to_owned())),
        }
    }
}

struct Ear {
    socket: Socket,
    start: Instant,
    created: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    heard: Heard,
}

impl Ear {
    async fn listen(mut self, ready: Option<Payload>, mut stopped: watch::Receiver<bool>) -> Heard {
        let mut next = Ok(ready);
        loop {
            let taken = next.and_then(|message| message.map_or(Ok(()), |it| self.take(&it)));
            if let Err(error) = taken {
                self.heard.ended = Some(error);
                return self.heard;
            }
            next = tokio::select! {
                biased;
                message = self.socket.message() => message.map(Some),
                _ = stopped.changed() => return self.heard,
            };
        }
    }

    fn take(&mut self, message: &Payload) -> Result<(), LoadError> {
        let at = self.start.elapsed();
        for frame in message.frames()? {
            self.heard.take(frame, at);
        }
        let received = self.heard.types.get("message.received").copied();
        self.received
            .store(received.unwrap_or_default(), Ordering::Relaxed);
        let created = u64::try_from(self.heard.arrivals.len()).unwrap_or(u64::MAX);
        self.created.store(created, Ordering::Relaxed);
        Ok(())
    }
}

impl Heard {
    fn take(&mut self, frame: Frame<'_>, at: Duration) {
        match &*frame.op {
            "event" => {}
            "reset" | "lag" | "notice" => {
                let word = frame.reason.or(frame.mode).unwrap_or_default();
                self.errors.count(format!("{} {word}", frame.op));
                return;
            }
            _ => return,
        }
        let Some(entry) = frame.event else {
            self.errors.count("event without an entry".to_owned());
            return;
        };
        self.order.note(entry.seq);
        if let Some(count) = self.types.get_mut(&*entry.kind) {
            *count += 1;
        } else if self.types.len() < TYPES {
            self.types.insert(entry.kind.to_string(), 1);
        }
        let Some(data) = entry.data.filter(|_| entry.kind == "message.created") else {
            return;
        };
        if self.arrivals.len() < ARRIVALS {
            self.arrivals.push(Arrival {
                id: data.id.into_owned(),
                seq: entry.seq,
                at,
            });
        }
    }
}
