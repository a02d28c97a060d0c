use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Log;
use super::handle::{Attached, Consumer, ConsumerName, LogOptions};
use super::message::LogMsg;
use super::state::{Consumers, NoName};
use crate::CommandError;
use crate::door::{Door, Reply};
use crate::model::{Cursor, Timestamp};
use crate::ports::{Clock, Job, Outcome, Store, Urgency, Write, commit};

/// Places of consumers are written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How often retention looks.
const TRIM_EVERY: Duration = Duration::from_secs(60);

pub(super) struct LogActor;

pub(super) struct LogArgs {
    pub(super) log: Arc<Log>,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: LogOptions,
}

pub(super) struct Keeping {
    log: Arc<Log>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    retention: Duration,
    door: Door<LogMsg>,
    consumers: Consumers,
    /// Set by the writer when a place could not be written.
    failed: Arc<AtomicBool>,
    trimmed_at: Instant,
    alarm: JoinSet<()>,
    trim: JoinSet<()>,
}

impl Actor for LogActor {
    type Msg = LogMsg;
    type State = Keeping;
    type Arguments = LogArgs;

    async fn pre_start(
        &self,
        myself: ActorRef<LogMsg>,
        args: LogArgs,
    ) -> Result<Keeping, ActorProcessingErr> {
        let LogArgs {
            log,
            store,
            clock,
            options,
        } = args;
        #[cfg(feature = "testing")]
        crate::testing::at_start("log", &log.tenant());
        let stored = store.consumers(log.tenant()).await?;
        let consumers = Consumers::new(log.head().epoch, options.consumers_max, stored);
        let mut keeping = Keeping {
            door: Door::new(myself, options.door),
            retention: options.retention,
            consumers,
            failed: Arc::default(),
            trimmed_at: Instant::now(),
            alarm: JoinSet::new(),
            trim: JoinSet::new(),
            log,
            store,
            clock,
        };
        keeping.trim();
        keeping.set_alarm();
        Ok(keeping)
    }

    async fn handle(
        &self,
        _myself: ActorRef<LogMsg>,
        message: LogMsg,
        keeping: &mut Keeping,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(feature = "testing")]
        crate::testing::at_message("log", &keeping.log.tenant());
        match message {
            LogMsg::Attach { name, fresh, reply } => keeping.attach(name, fresh, reply),
            LogMsg::Detach {
                name,
                attachment,
                _place,
            } => keeping.detach(&name, attachment),
            LogMsg::List { reply } => reply.send(Ok(keeping.consumers.list())),
            LogMsg::Seek { name, to, reply } => keeping.seek(&name, to, reply),
            LogMsg::Moved { name, to } => keeping.moved(&name, to),
            LogMsg::Delete { name, reply } => keeping.delete(name, reply),
            LogMsg::Deleted { name } => keeping.consumers.delete(&name),
            LogMsg::Kept { name } => keeping.kept(&name),
            LogMsg::Tick => keeping.tick(),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<LogMsg>,
        keeping: &mut Keeping,
    ) -> Result<(), ActorProcessingErr> {
        keeping.consumers.observe();
        keeping.write();
        Ok(())
    }
}

impl Keeping {
    fn attach(&mut self, name: ConsumerName, fresh: Cursor, reply: Reply<Attached>) {
        match self.consumers.attach(&name, fresh) {
            Ok(taken) => {
                if taken.is_new {
                    self.write();
                }
                self.set_alarm();
                reply.send(Ok(Attached::new(name, taken, self.door.clone())));
            }
            Err(NoName) => reply.send(Err(CommandError::LimitReached("consumers"))),
        }
    }

    fn detach(&mut self, name: &ConsumerName, attachment: u64) {
        self.consumers.detach(name, attachment);
        self.write();
    }

    /// Whoever holds the name goes first, so that no later ack is written over the new place.
    fn seek(&mut self, name: &ConsumerName, to: Cursor, reply: Reply<Consumer>) {
        if !self.consumers.release(name) {
            return reply.send(Err(CommandError::NotFound));
        }
        let write = Write::Consumer {
            name: name.to_string(),
            cursor: to,
        };
        let (door, name) = (self.door.clone(), name.clone());
        let done = move |outcome| {
            reply.send(match outcome {
                Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch => {
                    let moved = Consumer {
                        name: name.clone(),
                        cursor: to,
                        is_connected: false,
                    };
                    // Where the actor is gone, its successor reads the place from the store.
                    drop(door.push(LogMsg::Moved { name, to }));
                    Ok(moved)
                }
                Outcome::Failed(error) => Err(CommandError::of_commit(&error)),
            });
        };
        self.submit(vec![write], done);
    }

    fn moved(&mut self, name: &ConsumerName, to: Cursor) {
        self.consumers.seek(name, to);
        self.set_alarm();
    }

    /// The name, and whoever holds it, stay until the store has let it go.
    fn delete(&mut self, name: ConsumerName, reply: Reply<()>) {
        if let Err(refused) = self.consumers.leave(&name) {
            return reply.send(Err(refused));
        }
        let removed = Write::ConsumerRemoved(name.to_string());
        let door = self.door.clone();
        let done = move |outcome| {
            // Where the actor is gone, its successor reads from the store what is left.
            let (message, answer) = match outcome {
                Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch => {
                    (LogMsg::Deleted { name }, Ok(()))
                }
                Outcome::Failed(error) => {
                    (LogMsg::Kept { name }, Err(CommandError::of_commit(&error)))
                }
            };
            drop(door.push(message));
            reply.send(answer);
        };
        self.submit(vec![removed], done);
    }

    fn kept(&mut self, name: &ConsumerName) {
        self.consumers.keep(name);
        self.set_alarm();
    }

    fn tick(&mut self) {
        if self.failed.swap(false, Ordering::AcqRel) {
            self.consumers.doubt();
        }
        self.consumers.observe();
        self.write();
        if TRIM_EVERY <= self.trimmed_at.elapsed() {
            self.trim();
        }
        self.set_alarm();
    }

    /// Writes the places that have moved; what fails is written again at the next tick.
    fn write(&mut self) {
        let unwritten = self.consumers.take_unwritten();
        if unwritten.is_empty() {
            return;
        }
        let write = |(name, cursor): (ConsumerName, Cursor)| Write::Consumer {
            name: name.to_string(),
            cursor,
        };
        let failed = Arc::clone(&self.failed);
        let done = move |outcome| match outcome {
            Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch => {}
            Outcome::Failed(_) => failed.store(true, Ordering::Release),
        };
        self.submit(unwritten.into_iter().map(write).collect(), done);
    }

    /// Hands a job to the writer, which tells `done` also where it refuses the job.
    fn submit(&self, writes: Vec<Write>, done: impl FnOnce(Outcome) + Send + 'static) {
        let job = Job {
            writes,
            entries: Vec::new(),
            claim: None,
            urgency: Urgency::Soon,
            is_baseless: None,
            done: Box::new(done),
        };
        let _told = self.store.submit(self.log.tenant(), job);
    }

    /// Looks for entries that are too old, beside the actor: the store may be slow.
    fn trim(&mut self) {
        while self.trim.try_join_next().is_some() {}
        self.trimmed_at = Instant::now();
        if self.trim.is_empty() {
            let (log, store, limit) = (
                Arc::clone(&self.log),
                Arc::clone(&self.store),
                self.clock.now().minus(self.retention),
            );
            self.trim.spawn(async move {
                if let Err(error) = trim(&log, &*store, limit).await {
                    tracing::warn!(tenant = %log.tenant(), error = %error, "old events could not be let go; tried again in a minute");
                }
            });
        }
    }

    /// One alarm at a time: soon where places may have moved, else for the next look at retention.
    fn set_alarm(&mut self) {
        self.alarm.abort_all();
        while self.alarm.try_join_next().is_some() {}
        let failed = self.failed.load(Ordering::Acquire);
        let wait = if failed || self.consumers.is_busy() {
            WRITE_EVERY
        } else {
            TRIM_EVERY
        };
        let door = self.door.clone();
        self.alarm.spawn(async move {
            tokio::time::sleep(wait).await;
            drop(door.push(LogMsg::Tick));
        });
    }
}

/// Raises the floor to the last entry before `limit`.
async fn trim(log: &Log, store: &dyn Store, limit: Timestamp) -> Result<(), CommandError> {
    let floor = log.oldest().seq;
    if log.head().seq <= floor {
        return Ok(());
    }
    let seq = store.seq_before(log.tenant(), limit).await?;
    if seq <= floor {
        return Ok(());
    }
    raise_floor(log, store, seq).await
}

/// Removes the entries up to one, durably.
pub(super) async fn raise_floor(
    log: &Log,
    store: &dyn Store,
    seq: u64,
) -> Result<(), CommandError> {
    match commit(
        store,
        log.tenant(),
        vec![Write::LogFloor(seq)],
        Vec::new(),
        None,
    )
    .await?
    {
        Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch => {
            log.raise_floor(seq);
        }
        Outcome::Failed(error) => return Err(CommandError::of_commit(&error)),
    }
    Ok(())
}
