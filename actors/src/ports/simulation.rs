//! The levers of the simulated network: what `/simulations/*` pulls.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connector::{Availability, Typing};
use crate::model::{Content, DeviceId, Jid, MessageId, PhoneNumber, Status, TenantId, Timestamp};

/// How a virtual phone behaves. Absent members of a change keep what was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Phone {
    /// Whether the number is on the network.
    pub exists: bool,
    /// The name it gives itself.
    pub name: Option<String>,
    /// Whether it is online: an offline phone gets its messages when it comes back.
    pub online: bool,
    /// When it confirms; `null` for never.
    pub auto_receipts: Option<AutoReceipts>,
    /// What it answers to each message.
    pub auto_reply: Option<String>,
    /// Whether it has blocked our devices: messages to it stay `sent`.
    pub blocks_us: bool,
}

/// When a virtual phone confirms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoReceipts {
    /// Milliseconds from sent to delivered, at most 86,400,000.
    pub deliver_ms: u32,
    /// Milliseconds from delivered to read, at most 86,400,000; `null` for never.
    #[serde(default)]
    pub read_ms: Option<u32>,
}

impl Default for Phone {
    /// Exists, is online, delivers after 50 ms, does not read.
    fn default() -> Self {
        Self {
            exists: true,
            name: None,
            online: true,
            auto_receipts: Some(AutoReceipts {
                deliver_ms: 50,
                read_ms: None,
            }),
            auto_reply: None,
            blocks_us: false,
        }
    }
}

/// Which phone a setting is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhoneChoice {
    /// This number.
    Number(PhoneNumber),
    /// Every number without a setting of its own.
    Default,
}

/// An inbound message that is to be played.
#[derive(Clone, Debug)]
pub struct PlayedMessage {
    /// Who writes it.
    pub from: Jid,
    /// What it carries.
    pub content: Content,
    /// The group it is written in.
    pub group: Option<Jid>,
    /// When it was written; now where `None`.
    pub timestamp: Option<Timestamp>,
    /// How many of it, 1 to 1,000.
    pub count: u32,
    /// The network's names derive from this, so that the same act twice makes no second message.
    pub seed: u128,
}

/// What happens to the connection of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionEvent {
    /// It breaks, and comes back by itself.
    Drop,
    /// The network shuts the account out.
    Ban,
    /// The phone gives up the link.
    Logout,
    /// The network limits the account.
    Restrict,
}

/// Why the simulated network could not play something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulationError {
    /// No QR is being shown.
    #[error("no QR is being shown")]
    NoQr,
    /// The number is another device's.
    #[error("the number is taken")]
    NumberTaken,
    /// The device is not linked.
    #[error("the device is not linked")]
    NotLinked,
    /// The message named is not one that was handed to the network.
    #[error("the network does not know the message")]
    UnknownMessage,
    /// Too much is under way.
    #[error("the network is busy")]
    Busy,
    /// The store is away.
    #[error("the store is away")]
    Away,
    /// The disk is full; nothing was stored.
    #[error("the storage is full")]
    Full,
    /// The store takes no writes until it is opened again; nothing was stored.
    #[error("the store has failed")]
    Failed,
    /// The store did not say whether it was written.
    #[error("the outcome is unknown")]
    Unknown,
}

/// The simulated network's levers. The caller has checked that the device is the tenant's and a simulator.
#[async_trait]
pub trait Simulation: Send + Sync {
    /// Plays the phone that scans the QR; waits up to 5 s for one. Already linked is fine.
    async fn scan(
        &self,
        tenant: TenantId,
        device: DeviceId,
        number: Option<PhoneNumber>,
    ) -> Result<(), SimulationError>;

    /// Plays inbound messages. Gives their names where the device took them at once, `None` where the network keeps
    /// them until the device is back.
    async fn play_messages(
        &self,
        tenant: TenantId,
        device: DeviceId,
        message: PlayedMessage,
    ) -> Result<Option<Vec<MessageId>>, SimulationError>;

    /// Plays a receipt for a message of the device.
    async fn play_receipt(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: Jid,
        message: MessageId,
        status: Status,
    ) -> Result<(), SimulationError>;

    /// Plays that somebody comes or goes.
    async fn play_presence(
        &self,
        tenant: TenantId,
        device: DeviceId,
        from: Jid,
        availability: Availability,
    ) -> Result<(), SimulationError>;

    /// Plays that somebody types in a chat.
    async fn play_typing(
        &self,
        tenant: TenantId,
        device: DeviceId,
        from: Jid,
        chat: Jid,
        typing: Typing,
    ) -> Result<(), SimulationError>;

    /// Plays what happens to the connection.
    async fn play_connection(
        &self,
        tenant: TenantId,
        device: DeviceId,
        event: ConnectionEvent,
    ) -> Result<(), SimulationError>;

    /// How a phone behaves.
    async fn phone(&self, tenant: TenantId, choice: PhoneChoice) -> Result<Phone, SimulationError>;

    /// Sets how a phone behaves; durable when this returns.
    async fn set_phone(
        &self,
        tenant: TenantId,
        choice: PhoneChoice,
        phone: Phone,
    ) -> Result<(), SimulationError>;
}
