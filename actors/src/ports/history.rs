//! Reads of the past: messages and chats, page by page.

use async_trait::async_trait;

use super::StoreError;
use crate::model::{
    Chat, Content, ContentKind, DeviceId, Direction, Jid, Message, MessageId, Status, TenantId,
    Timestamp,
};

/// Which way a list runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Newest first.
    Newest,
    /// Oldest first.
    Oldest,
}

/// Which messages a list holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// At or after.
    pub from: Option<Timestamp>,
    /// Before.
    pub to: Option<Timestamp>,
    /// Which way they went.
    pub direction: Option<Direction>,
    /// What they carry.
    pub kind: Option<ContentKind>,
    /// How far they got.
    pub status: Option<Status>,
    /// A part of their text, lower case.
    pub text: Option<String>,
}

impl MessageFilter {
    /// Whether a message belongs into the list.
    #[must_use]
    pub fn matches(&self, message: &Message) -> bool {
        let (body, state) = (&message.body, &message.state);
        let said = |part: &String| match &body.content {
            Content::Text {
                text,
                preview_url: _,
            } => text.to_lowercase().contains(part),
            Content::Location { .. } | Content::Contacts { .. } => false,
        };
        self.from.is_none_or(|it| it <= body.created_at)
            && self.to.is_none_or(|it| body.created_at < it)
            && self.direction.is_none_or(|it| it == body.direction)
            && self.kind.is_none_or(|it| it == body.kind)
            && self.status.is_none_or(|it| it == state.status)
            && self.text.as_ref().is_none_or(said)
    }
}

/// A page of messages that is wanted.
#[derive(Clone, Debug)]
pub struct MessageQuery {
    /// Of this chat, or of the whole device.
    pub chat: Option<Jid>,
    /// Beyond this one, which is left out; from the end where `None`.
    pub beyond: Option<MessageId>,
    /// Which way.
    pub order: Order,
    /// Only these.
    pub filter: MessageFilter,
    /// At most so many.
    pub limit: usize,
}

/// A page of messages.
#[derive(Clone, Debug, Default)]
pub struct MessagePage {
    /// The messages. There may be fewer than were asked for, even none, though more follow: a filter looks at a
    /// bounded number of rows at a time.
    pub items: Vec<Message>,
    /// Where to go on; `None` at the end.
    pub next: Option<MessageId>,
}

/// A page of chats that is wanted: the last active first.
#[derive(Clone, Debug)]
pub struct ChatQuery {
    /// Beyond this one (its `active_at` and address), which is left out.
    pub beyond: Option<(Timestamp, Jid)>,
    /// Only with, or only without, unread messages.
    pub unread: Option<bool>,
    /// A part of the address.
    pub text: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Reads of messages and chats. Each call names its tenant.
#[async_trait]
pub trait History: Send + Sync {
    /// One message of a device.
    async fn message(
        &self,
        tenant: TenantId,
        device: DeviceId,
        id: MessageId,
    ) -> Result<Option<Message>, StoreError>;

    /// A page of messages.
    async fn messages(
        &self,
        tenant: TenantId,
        device: DeviceId,
        query: MessageQuery,
    ) -> Result<MessagePage, StoreError>;

    /// One chat.
    async fn chat(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
    ) -> Result<Option<Chat>, StoreError>;

    /// A page of chats; one more than `limit` is never given.
    async fn chats(
        &self,
        tenant: TenantId,
        device: DeviceId,
        query: ChatQuery,
    ) -> Result<Vec<Chat>, StoreError>;

    /// Our name for a message, by the network's.
    async fn by_upstream(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
        from_me: bool,
        upstream_id: &str,
    ) -> Result<Option<MessageId>, StoreError>;

    /// Messages that wait for the network, by chat and then in order, beyond the one named.
    async fn outbox(
        &self,
        tenant: TenantId,
        device: DeviceId,
        beyond: Option<(Jid, MessageId)>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError>;
}
