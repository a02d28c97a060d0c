//! Where everything durable is kept: one writer that orders and commits, and reads of the past.
//!
//! A backend implements the four traits below; `Store` is all of them in one hand. What a backend must do beyond the
//! signatures is written as the store contract, which every backend runs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::History;
use crate::CommandError;
use crate::log::{Entry, Log};
use crate::model::{
    Chat, Cursor, DeviceId, DeviceRecord, EntryDraft, EventId, Jid, KeyId, KeyRecord, MessageBody,
    MessageId, MessageState, SessionChange, Status, Tenant, TenantId, Timestamp,
};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A write failed: nothing is acknowledged until the store is opened again.
    #[error("store has failed")]
    Failed,
    /// No room is left; nothing was written.
    #[error("storage is full")]
    Full,
    /// The store is closing or away; nothing was written.
    #[error("store is away")]
    Away,
    /// The job was not taken; nothing was written.
    #[error("job was refused")]
    Refused(#[from] SubmitError),
    /// The device that a row belongs to is no more; nothing was written.
    #[error("device is no more")]
    Gone,
    /// What was read is not what was written.
    #[error("stored data is damaged: {what}")]
    Damaged {
        /// Which record.
        what: &'static str,
    },
    /// The engine failed in its own way.
    #[error("store operation `{operation}` failed")]
    Engine {
        /// What it was asked for.
        operation: &'static str,
        /// What it says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a job was not taken. Nothing of it is stored, now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The tenant's queue is full.
    #[error("too much waits to be written")]
    Busy,
    /// No room is left on the disk.
    #[error("storage is full")]
    Full,
    /// An earlier write failed; the store must be opened again.
    #[error("store has failed")]
    Failed,
    /// The store is closing.
    #[error("store is closing")]
    Closing,
    /// The database is away. It takes writes again by itself.
    #[error("store is away")]
    Away,
}

/// One change of a row.
#[derive(Clone, Debug)]
pub enum Write {
    /// A new message with its first state; also its entry in the device's index.
    Message {
        /// The part that never changes.
        body: Arc<MessageBody>,
        /// Where it starts.
        state: MessageState,
    },
    /// A new state of a message.
    MessageState {
        /// Its device.
        device: DeviceId,
        /// Its chat.
        chat: Jid,
        /// Its name.
        id: MessageId,
        /// The state.
        state: MessageState,
    },
    /// The row of a chat; of several in one commit only the last is written.
    Chat(Box<Chat>),
    /// A message now waits for the network.
    OutboxAdd {
        /// Its device.
        device: DeviceId,
        /// Its chat.
        chat: Jid,
        /// Its name.
        id: MessageId,
    },
    /// A message no longer waits for the network.
    OutboxRemove {
        /// Its device.
        device: DeviceId,
        /// Its chat.
        chat: Jid,
        /// Its name.
        id: MessageId,
    },
    /// What the network calls a message, so that a repeat is seen.
    Upstream {
        /// Its device.
        device: DeviceId,
        /// Its chat.
        chat: Jid,
        /// Whether the device's own account wrote it.
        from_me: bool,
        /// The network's name.
        upstream_id: String,
        /// Ours.
        id: MessageId,
    },
    /// A device, made or changed.
    Device(Box<DeviceRecord>),
    /// A device and all that belongs to it goes: messages, chats, outbox, history.
    DeviceRemoved(DeviceId),
    /// One change of a session's state.
    SessionChange {
        /// The device.
        device: DeviceId,
        /// Names the change; ids of one device rise.
        id: EventId,
        /// The change.
        change: SessionChange,
    },
    /// A tenant, made or changed. Making one also starts its log.
    Tenant(Box<Tenant>),
    /// A key, made or changed; written under the tenant that owns it.
    Key(Box<KeyRecord>),
    /// A key goes.
    KeyRemoved(KeyId),
    /// Where a named consumer stands.
    Consumer {
        /// Its name.
        name: String,
        /// Everything up to here is behind it.
        cursor: Cursor,
    },
    /// A named consumer goes.
    ConsumerRemoved(String),
    /// Entries up to and with this one may be erased; readers no longer see them.
    LogFloor(u64),
    /// A value in a connector's own space; `None` erases it.
    Value {
        /// The space, such as `simulator`.
        space: &'static str,
        /// The key, at most 256 bytes.
        key: Vec<u8>,
        /// The value.
        value: Option<Bytes>,
    },
}

/// What a retry gets again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A message was taken; the place of its entry is added by the writer.
    Sent {
        /// Its name.
        id: MessageId,
        /// Its chat.
        chat: Jid,
        /// How it stands: queued or scheduled.
        status: Status,
        /// When it was taken.
        created_at: Timestamp,
    },
    /// Any other answer, as it was given.
    Given {
        /// The HTTP status.
        status: u16,
        /// The `Location` header.
        location: Option<String>,
        /// The body, JSON.
        body: Bytes,
    },
}

/// An answer that is kept for the retries of its call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// The answer.
    pub answer: Answer,
    /// The place of the job's last entry, or the head where it had none.
    pub cursor: Cursor,
    /// What was asked: the hash of operation, path and body.
    pub fingerprint: [u8; 32],
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

/// A client's claim to an idempotency key.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The operation id; keys of different operations do not meet.
    pub operation: &'static str,
    /// The client's key, 1 to 255 printable ASCII characters.
    pub key: Arc<str>,
    /// The hash of operation, path and body.
    pub fingerprint: [u8; 32],
    /// When the answer is forgotten.
    pub expires_at: Timestamp,
}

/// What became of a job that was taken.
#[derive(Debug)]
pub enum Outcome {
    /// It is durable and shown.
    Committed {
        /// The place of its last entry, or the head where it has none.
        cursor: Cursor,
    },
    /// Its key was used before for the same call: nothing was written, this is the first answer.
    Replayed(KeptAnswer),
    /// Its key was used before for another call: nothing was written.
    Mismatch,
    /// Whether it is stored is unknown, or it surely is not: see the error.
    Failed(StoreError),
}

/// Runs once, on the writer's thread after the commit, or on the caller's where the job is refused: it must be quick and
/// must not block.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// What is to be written at once or not at all.
pub struct Job {
    /// The rows. Where one belongs to a device that is no more, the whole job is turned down as [`StoreError::Gone`].
    pub writes: Vec<Write>,
    /// The entries, in order; they get consecutive places.
    pub entries: Vec<EntryDraft>,
    /// The key under which the answer is kept.
    pub claim: Option<(Claim, Answer)>,
    /// Whether it may wait for company.
    pub urgency: Urgency,
    /// Set by whoever submits, from the `done` of an earlier job that was not taken and that this one builds on: then this
    /// one is refused as [`SubmitError::Busy`], also where the two cross.
    pub is_baseless: Option<Arc<AtomicBool>>,
    /// Told what became of it, also where it is not taken.
    pub done: Done,
}

/// How soon a job wants to be durable. Either way it keeps its place in its tenant's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Now,
    /// Nobody does: where a store saves a sync by it, it may wait some milliseconds for others.
    Soon,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("writes", &self.writes.len())
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

/// The place of a job in its tenant's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Whether the store takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreHealth {
    /// Yes.
    Ready,
    /// No: the disk is full. It takes them again by itself.
    Full,
    /// No: the database does not answer. It takes them again by itself.
    Away,
    /// No: a write failed. It must be opened again.
    Failed,
}

impl StoreHealth {
    /// What a command is told that would have to write.
    #[must_use]
    pub const fn refusal(self) -> Option<CommandError> {
        match self {
            Self::Ready => None,
            Self::Full => Some(CommandError::StorageFull),
            Self::Failed => Some(CommandError::StoreFailed),
            Self::Away => Some(CommandError::Unavailable),
        }
    }
}

/// Orders and commits: one sync for all that waits.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Puts a job into its tenant's queue, in order, at once. The tenant must exist, or be made by the job.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: nothing is stored, and `done` was told so before this returned.
    fn submit(&self, tenant: TenantId, job: Job) -> Result<Ticket, SubmitError>;

    /// Waits until the job with this ticket, and so every earlier one of the tenant, is settled.
    async fn passed(&self, tenant: TenantId, ticket: Ticket);

    /// The log of a tenant; `None` where there is no such tenant.
    fn log(&self, tenant: TenantId) -> Option<Arc<Log>>;

    /// Whether it takes writes.
    fn health(&self) -> StoreHealth;

    /// What an acknowledgement stands for: `fsync` or `quorum`.
    fn durability(&self) -> &'static str;

    /// Settles what was taken, refuses the rest, syncs and closes.
    async fn close(&self);
}

/// Reads of the log.
#[async_trait]
pub trait LogReader: Send + Sync {
    /// Entries after `seq`, in order: at most `entries_max`, and at most about `bytes_max` bytes but always one.
    /// Entries at or below the floor are not given.
    async fn entries(
        &self,
        tenant: TenantId,
        after: u64,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError>;

    /// The greatest `seq` whose entry lies before `time` (the floor where there is none): from there a reader gets
    /// everything from `time` on.
    async fn seq_before(&self, tenant: TenantId, time: Timestamp) -> Result<u64, StoreError>;
}

/// A key that signs access tokens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// Its `kid`.
    pub id: String,
    /// The seed of the Ed25519 key.
    pub seed: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// When another took its place.
    pub retired_at: Option<Timestamp>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Reads of the small things: tenants, keys, devices, consumers.
#[async_trait]
pub trait Directory: Send + Sync {
    /// All tenants.
    async fn tenants(&self) -> Result<Vec<Tenant>, StoreError>;

    /// All devices of a tenant, in the order they were made.
    async fn devices(&self, tenant: TenantId) -> Result<Vec<DeviceRecord>, StoreError>;

    /// One key, whosever it is.
    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// The keys of a tenant, newest first.
    async fn keys(&self, tenant: TenantId) -> Result<Vec<KeyRecord>, StoreError>;

    /// Where the named consumers of a tenant stand.
    async fn consumers(&self, tenant: TenantId) -> Result<Vec<(String, Cursor)>, StoreError>;

    /// The changes of a session's state, newest first, beyond the one named.
    async fn session_changes(
        &self,
        tenant: TenantId,
        device: DeviceId,
        beyond: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<(EventId, SessionChange)>, StoreError>;

    /// The answer kept for a key of an operation, unless it is forgotten.
    async fn kept_answer(
        &self,
        tenant: TenantId,
        operation: &str,
        key: &str,
    ) -> Result<Option<KeptAnswer>, StoreError>;

    /// Values of a connector's space whose key starts with `prefix`, in the order of their keys, beyond the one named.
    async fn values(
        &self,
        tenant: TenantId,
        space: &'static str,
        prefix: &[u8],
        beyond: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError>;
}

/// Everything a backend does.
pub trait Store: Writer + History + LogReader + Directory + 'static {}

impl<T: Writer + History + LogReader + Directory + 'static> Store for T {}

/// How often one that waits for a job looks whether the store is away.
const AWAY_LOOK: Duration = Duration::from_millis(100);

/// Waits until the job with this ticket is settled, but no longer than the store answers.
///
/// # Errors
///
/// [`StoreError::Away`].
pub async fn passed_unless_away(
    writer: &(impl Writer + ?Sized),
    tenant: TenantId,
    ticket: Ticket,
) -> Result<(), StoreError> {
    let mut passed = std::pin::pin!(writer.passed(tenant, ticket));
    while tokio::time::timeout(AWAY_LOOK, &mut passed).await.is_err() {
        if writer.health() == StoreHealth::Away {
            return Err(StoreError::Away);
        }
    }
    Ok(())
}

/// Submits a job and waits for what becomes of it.
///
/// # Errors
///
/// [`SubmitError`] where it was not taken.
pub async fn commit(
    writer: &(impl Writer + ?Sized),
    tenant: TenantId,
    writes: Vec<Write>,
    entries: Vec<EntryDraft>,
    claim: Option<(Claim, Answer)>,
) -> Result<Outcome, SubmitError> {
    let (told, outcome) = tokio::sync::oneshot::channel();
    let done: Done = Box::new(move |outcome| drop(told.send(outcome)));
    writer.submit(
        tenant,
        Job {
            writes,
            entries,
            claim,
            urgency: Urgency::Now,
            is_baseless: None,
            done,
        },
    )?;
    Ok(outcome.await.unwrap_or(Outcome::Failed(StoreError::Away)))
}
