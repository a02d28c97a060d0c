use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorCell};
use tokio::sync::oneshot;

use super::actor::{LogActor, LogArgs, raise_floor};
use super::listener::{Listener, Reset, Start, judge};
use super::message::LogMsg;
use super::{Entry, Log};
use crate::door::{Door, DoorLimits};
use crate::model::{Cursor, EntryHeader, EventId};
use crate::ports::{Clock, LogReader, Store, StoreError};
use crate::{CommandError, StartError};

/// How long the log is kept, and how much its actor holds.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Entries older than this may be erased.
    pub retention: Duration,
    /// Entries that a reader may resume over; `None` for all that are kept.
    pub max_resume: Option<u64>,
    /// Named consumers of a tenant.
    pub consumers_max: usize,
    /// Calls that wait at the actor, and how long a caller waits.
    pub door: DoorLimits,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 24 * 3600),
            max_resume: None,
            consumers_max: 1_000,
            door: DoorLimits {
                calls_max: 1_024,
                answer_max: Duration::from_secs(10),
            },
        }
    }
}

/// The name of a consumer: 1 to 64 of letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerName(Arc<str>);

/// Why a text is not the name of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 1 to 64 of A-Z a-z 0-9 . _ -")]
pub struct ConsumerNameError;

impl ConsumerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ConsumerName {
    type Err = ConsumerNameError;

    fn from_str(text: &str) -> Result<Self, ConsumerNameError> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(known);
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(ConsumerNameError)
        }
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named consumer, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its name.
    pub name: ConsumerName,
    /// Everything up to here was confirmed.
    pub cursor: Cursor,
    /// Whether a connection holds the name.
    pub is_connected: bool,
}

/// Why a connection no longer holds its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentEnd {
    /// A newer connection has taken it.
    Replaced,
    /// The consumer was moved: whoever holds it must come again.
    Moved,
    /// The consumer was deleted.
    Deleted,
    /// The actor that knew of it is gone: it must come again.
    Forgotten,
}

/// A name that a connection holds until it drops this.
#[derive(Debug)]
pub struct Attachment {
    name: ConsumerName,
    number: u64,
    acked: Arc<AtomicU64>,
    door: Door<LogMsg>,
}

impl Attachment {
    /// Everything up to and with `seq` is confirmed; one that goes back changes nothing.
    pub fn ack(&self, seq: u64) {
        self.acked.fetch_max(seq, Ordering::AcqRel);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Without a place in the queue the actor finds out at its next look.
        if let Ok(place) = self.door.place() {
            drop(self.door.push(LogMsg::Detach {
                name: self.name.clone(),
                attachment: self.number,
                _place: place,
            }));
        }
    }
}

/// Waits for the end of an attachment.
#[derive(Debug)]
pub struct AttachmentWatch(oneshot::Receiver<AttachmentEnd>);

impl AttachmentWatch {
    /// Why it ended.
    pub async fn ended(self) -> AttachmentEnd {
        self.0.await.unwrap_or(AttachmentEnd::Forgotten)
    }
}

/// A name that was taken.
#[derive(Debug)]
pub struct Attached {
    /// Where the consumer stands.
    pub place: Cursor,
    /// Whether the name is new.
    pub is_new: bool,
    /// Holds the name.
    pub attachment: Attachment,
    /// Tells its end.
    pub watch: AttachmentWatch,
}

impl Attached {
    pub(super) fn new(name: ConsumerName, taken: super::state::Taken, door: Door<LogMsg>) -> Self {
        Self {
            place: taken.place,
            is_new: taken.is_new,
            attachment: Attachment {
                name,
                number: taken.attachment,
                acked: taken.acked,
                door,
            },
            watch: AttachmentWatch(taken.ended),
        }
    }
}

/// A reader at its place.
#[derive(Debug)]
pub struct Opened {
    /// The reader.
    pub listener: Listener,
    /// Set where the wanted place is lost: the reader stands at the head.
    pub reset: Option<Reset>,
    /// Whether it goes on without a hole from a cursor that was given or kept.
    pub is_resumed: bool,
}

/// A tenant's log, as others see it. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    log: Arc<Log>,
    store: Arc<dyn Store>,
    max_resume: Option<u64>,
    door: Door<LogMsg>,
}

impl LogHandle {
    /// Starts the actor of a log.
    ///
    /// # Errors
    ///
    /// When its consumers could not be read.
    pub async fn start(
        log: Arc<Log>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        supervisor: ActorCell,
    ) -> Result<Self, StartError> {
        let (max_resume, limits) = (options.max_resume, options.door);
        let args = LogArgs {
            log: Arc::clone(&log),
            store: Arc::clone(&store),
            clock,
            options,
        };
        let started = Actor::spawn_linked(None, LogActor, args, supervisor).await;
        let (actor, _join) = started.map_err(|error| StartError {
            actor: "log",
            source: Box::new(error),
        })?;
        Ok(Self {
            log,
            store,
            max_resume,
            door: Door::new(actor, limits),
        })
    }

    /// The live end.
    #[must_use]
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Where the rest is kept.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The actor, for supervision.
    #[must_use]
    pub fn cell(&self) -> ActorCell {
        self.door.actor().get_cell()
    }

    /// Calls that wait at the actor.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.door.depth()
    }

    /// Opens a reader.
    ///
    /// # Errors
    ///
    /// When a time could not be looked up in the store.
    pub async fn listen(&self, start: Start) -> Result<Opened, StoreError> {
        let (seq, reset) = match start {
            Start::Now => (self.log.head().seq, None),
            Start::Oldest => (self.log.oldest().seq, None),
            Start::Time(time) => (self.store.seq_before(self.log.tenant(), time).await?, None),
            Start::After(cursor) => match judge(&self.log, cursor, self.max_resume) {
                Ok(seq) => (seq, None),
                Err(reset) => (reset.head.seq, Some(reset)),
            },
        };
        let is_resumed = matches!(start, Start::After(_)) && reset.is_none();
        let reader: Arc<dyn LogReader> = Arc::<dyn Store>::clone(&self.store);
        Ok(Opened {
            listener: Listener::new(Arc::clone(&self.log), reader, seq),
            reset,
            is_resumed,
        })
    }

    /// Takes a name for a connection and opens its reader: where the consumer stands, or at `start` for a new name.
    ///
    /// # Errors
    ///
    /// `LimitReached` where there are too many names, else as any command.
    pub async fn attach(
        &self,
        name: ConsumerName,
        start: Start,
    ) -> Result<(Attached, Opened), CommandError> {
        let fresh = self.listen(start).await?;
        let at = fresh.listener.position();
        let attached = self
            .door
            .ask(|reply| LogMsg::Attach {
                name,
                fresh: at,
                reply,
            })
            .await?;
        let opened = if attached.is_new {
            fresh
        } else {
            self.listen(Start::After(attached.place)).await?
        };
        Ok((attached, opened))
    }

    /// One entry by its id; `None` where it is not in the log.
    ///
    /// # Errors
    ///
    /// When the store could not be read.
    pub async fn entry(&self, id: EventId) -> Result<Option<Arc<Entry>>, StoreError> {
        let seq = EntryHeader::seq_of(id);
        if seq <= self.log.oldest().seq || self.log.head().seq < seq {
            return Ok(None);
        }
        let found = self.store.entries(self.log.tenant(), seq - 1, 1, 1).await?;
        Ok(found.into_iter().next().filter(|it| it.header().id == id))
    }

    /// All named consumers, by name.
    ///
    /// # Errors
    ///
    /// As any command.
    pub async fn consumers(&self) -> Result<Vec<Consumer>, CommandError> {
        self.door.ask(|reply| LogMsg::List { reply }).await
    }

    /// One named consumer.
    ///
    /// # Errors
    ///
    /// `NotFound`, else as any command.
    pub async fn consumer(&self, name: &ConsumerName) -> Result<Consumer, CommandError> {
        let all = self.consumers().await?;
        all.into_iter()
            .find(|it| it.name == *name)
            .ok_or(CommandError::NotFound)
    }

    /// Moves a consumer to a place; a connection that holds its name must come again. Answers when it is durable.
    ///
    /// # Errors
    ///
    /// `NotFound`, else as any command.
    pub async fn seek(&self, name: ConsumerName, to: Cursor) -> Result<Consumer, CommandError> {
        self.door
            .ask(|reply| LogMsg::Seek { name, to, reply })
            .await
    }

    /// Forgets a consumer. Answers when it is durable.
    ///
    /// # Errors
    ///
    /// `NotFound`, else as any command.
    pub async fn delete(&self, name: ConsumerName) -> Result<(), CommandError> {
        self.door.ask(|reply| LogMsg::Delete { name, reply }).await
    }

    /// Removes all entries that there are. Answers when it is durable.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn clear(&self) -> Result<(), CommandError> {
        raise_floor(&self.log, &*self.store, self.log.head().seq).await
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}
