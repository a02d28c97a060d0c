//! Chats: one small row each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ContentKind, DeviceId, Direction, Jid, MessageId, Timestamp};

/// A chat as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Chat {
    /// Its address, which is its id.
    pub jid: Jid,
    /// The device that has it.
    pub device: DeviceId,
    /// Inbound messages that nobody has read.
    #[serde(rename = "unread_count")]
    pub unread: u32,
    /// The newest message.
    pub last_message: Option<LastMessage>,
    /// Up to where it was read.
    pub read_up_to: Option<MessageId>,
    /// When something was last said in it.
    pub active_at: Timestamp,
    /// When it came to be.
    pub created_at: Timestamp,
}

/// What a chat list shows of the newest message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastMessage {
    /// Its name.
    pub id: MessageId,
    /// Which way it went.
    pub direction: Direction,
    /// The type of its content.
    #[serde(rename = "type")]
    pub kind: ContentKind,
    /// The start of its text, at most 120 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<String>,
}
