//! The way to a network: message-shaped, so that a connector could live in a process of its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Clock, Store};
use crate::model::{
    ConnectorKind, Content, ContentKind, DeviceId, Direction, Health, Jid, MessageBody, MessageId,
    PhoneNumber, Qr, Status, TenantId, Timestamp,
};

/// What a connector can carry. What is not named here is refused before it reaches the network.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The kinds of content it sends.
    pub contents: &'static [ContentKind],
    /// The most messages in one [`Command::Send`].
    pub batch_max: usize,
    /// The longest a command may take; after that its outcome is unknown.
    pub command_time_max: Duration,
}

/// The device a session is for.
#[derive(Clone, Debug)]
pub struct DeviceLink {
    /// Its tenant.
    pub tenant: TenantId,
    /// The device.
    pub device: DeviceId,
    /// Its number, where one is known.
    pub number: Option<PhoneNumber>,
}

/// How a session starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Go on with the link that is there.
    Resume,
    /// Make a new link: show QRs and wait for a phone.
    LinkQr,
}

/// How a session stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Leave the network, keep the link.
    Disconnect,
    /// Give up the link.
    Logout,
}

/// What a device asks of its network.
#[derive(Clone, Debug)]
pub enum Command {
    /// Hand messages over, in this order. A message may come a second time after a crash; its `upstream_id` is the same.
    Send(Vec<Arc<MessageBody>>),
    /// Tell a chat that its messages up to this one were read; nothing is told where the network does not know it.
    MarkRead {
        /// The chat.
        chat: Jid,
        /// The network's names of the messages, oldest first.
        upstream_ids: Vec<String>,
    },
    /// Tell a chat that somebody types.
    Typing {
        /// The chat.
        chat: Jid,
        /// What is done.
        typing: Typing,
    },
}

/// What somebody does in a chat.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Typing {
    /// Writes.
    Composing,
    /// Records a voice message.
    Recording,
    /// Has stopped.
    Paused,
}

/// Whether somebody is there.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Is there.
    Available,
    /// Is away.
    Unavailable,
}

/// What became of one message that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handed {
    /// The network has it.
    Taken {
        /// When, by its clock.
        at: Timestamp,
    },
    /// The network will never take it.
    Refused {
        /// A stable word, such as `not_on_network`.
        code: &'static str,
        /// The same for people.
        detail: String,
    },
    /// Not now: hand it over again, with those behind it in its chat, after this time.
    Later(Duration),
}

/// What became of a command: for [`Command::Send`] one [`Handed`] a message, in order; else empty.
pub type Outcomes = Vec<Handed>;

/// Why a command could not be carried out at all; every message in it is to be handed over again.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The session is not on the network.
    #[error("session is not connected")]
    NotConnected,
    /// The network gave no answer: it may have happened.
    #[error("network gave no answer")]
    Unknown,
    /// The connector can't do this now.
    #[error("connector failed: {reason}")]
    Failed {
        /// In its own words; for our log, never for a caller.
        reason: String,
    },
}

/// Something that came from the network and must be durable before the network is told that we have it.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// A message.
    Message(Box<IncomingMessage>),
    /// A receipt for a message of the device.
    Receipt {
        /// The chat.
        chat: Jid,
        /// Our name of the message where the connector can tell it from the network's name.
        id: Option<MessageId>,
        /// The network's name of the message.
        upstream_id: String,
        /// What it says: sent, delivered, read or played.
        status: Status,
        /// When, by the network's clock.
        at: Timestamp,
        /// Whose receipt, in a group.
        participant: Option<Jid>,
    },
}

/// A message from the network.
#[derive(Clone, Debug)]
pub struct IncomingMessage {
    /// The chat.
    pub chat: Jid,
    /// Who wrote it.
    pub from: Jid,
    /// Who wrote it within a group.
    pub participant: Option<Jid>,
    /// Whether the device's own account wrote it, on another phone.
    pub direction: Direction,
    /// The network's name for it; a repeat has the same.
    pub upstream_id: String,
    /// What it carries.
    pub content: Content,
    /// When it was written, by the network's clock.
    pub at: Timestamp,
}

/// What came of one [`Incoming`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is stored under this name now; for a receipt the name of its message.
    New(MessageId),
    /// It was there already, or changed nothing.
    Repeat(MessageId),
    /// It belongs to nothing that is known.
    Unknown,
}

/// What may be lost without harm, or is told again.
#[derive(Clone, Debug)]
pub enum Note {
    /// A QR is being shown.
    Qr(Qr),
    /// Nobody scanned in time; the session has ended.
    PairingTimeout,
    /// A phone has linked the device; the session goes on to connect.
    Linked {
        /// The number of the account.
        number: PhoneNumber,
    },
    /// The session is on the network.
    Connected,
    /// The session fell off the network, and may come back.
    Dropped {
        /// A stable word.
        reason: &'static str,
    },
    /// The phone gave up the link.
    LoggedOut,
    /// The network has shut the account out.
    Banned {
        /// A stable word.
        reason: &'static str,
    },
    /// How the network treats the account changed.
    Health(Health),
    /// Somebody types in a chat.
    Typing {
        /// The chat.
        chat: Jid,
        /// Who.
        participant: Jid,
        /// What is done.
        typing: Typing,
    },
    /// Somebody came or went.
    Presence {
        /// Who.
        contact: Jid,
        /// Whether there.
        availability: Availability,
        /// When last seen.
        last_seen: Option<Timestamp>,
    },
}

/// Why the gateway could not take what came in: the network is to offer it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// Too much is under way.
    #[error("gateway is busy")]
    Busy,
    /// The device is going, or the store is away.
    #[error("gateway is away")]
    Away,
}

/// The gateway's ear for one device.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Takes what came in; when this returns, it is durable. One answer an item, in order.
    async fn commit(&self, batch: Vec<Incoming>) -> Result<Vec<Taken>, SinkError>;

    /// Takes a note.
    fn notify(&self, note: Note);
}

/// What a connector gets to work with.
#[derive(Clone)]
pub struct Deps {
    /// The gateway's ear.
    pub sink: Arc<dyn Sink>,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deps").finish_non_exhaustive()
    }
}

/// One device's way to its network.
#[async_trait]
pub trait Session: Send + Sync {
    /// Starts, or starts again; what follows is told by notes.
    ///
    /// # Errors
    ///
    /// Where it can't even begin.
    async fn start(&self, how: Start) -> Result<(), ConnectorError>;

    /// Carries out a command.
    ///
    /// # Errors
    ///
    /// Where the command as a whole could not be carried out.
    async fn execute(&self, command: Command) -> Result<Outcomes, ConnectorError>;

    /// Stops; no note follows.
    async fn stop(&self, how: Stop);
}

/// A kind of network.
#[async_trait]
pub trait Connector: Send + Sync {
    /// Which one.
    fn kind(&self) -> ConnectorKind;

    /// What it can carry.
    fn capabilities(&self) -> &Capabilities;

    /// Opens a session for a device; at most one is open a device.
    ///
    /// # Errors
    ///
    /// Where the connector can't serve the device.
    async fn open(&self, link: DeviceLink, deps: Deps) -> Result<Arc<dyn Session>, ConnectorError>;

    /// Forgets a device that was deleted: credentials, and what the network keeps for it.
    async fn forget(&self, tenant: TenantId, device: DeviceId);

    /// Forgets whatever is left of a tenant whose devices are forgotten.
    ///
    /// # Errors
    ///
    /// Where it can't be done now.
    async fn forget_tenant(&self, tenant: TenantId) -> Result<(), ConnectorError>;
}

/// What every connector is built from.
#[derive(Clone)]
pub struct ConnectorBase {
    /// Keeps what must survive a restart.
    pub store: Arc<dyn Store>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for ConnectorBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorBase").finish_non_exhaustive()
    }
}
