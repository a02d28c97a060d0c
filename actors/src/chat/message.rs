use super::handle::{Draft, SentMessage};
use crate::CommandError;
use crate::door::Reply;
use crate::model::{Chat, Message, MessageId, Step};
use crate::ports::connector::{IncomingMessage, Taken};
use crate::ports::{Claim, StoreError};

/// What a chat can be asked.
pub(super) enum ChatMsg {
    /// Take a message for the network.
    Send {
        draft: Box<Draft>,
        claim: Option<Claim>,
        reply: Reply<SentMessage>,
    },
    /// Take a message from the network.
    Receive {
        message: Box<IncomingMessage>,
        reply: Reply<Taken>,
    },
    /// A message got further.
    Step {
        request: StepRequest,
        reply: Reply<Taken>,
    },
    /// A message that a step needs was read.
    Found {
        id: MessageId,
        found: Result<Option<Box<Message>>, StoreError>,
    },
    /// Everything up to a message was read.
    MarkRead {
        read: ReadMark,
        claim: Option<Claim>,
        reply: Reply<Chat>,
    },
    /// The writer turned a job down: what this chat believes is no longer what is stored.
    Stale,
}

impl ChatMsg {
    /// Answers that nothing was stored, and why.
    pub(super) fn refuse(self, why: CommandError) {
        match self {
            Self::Send { reply, .. } => reply.send(Err(why)),
            Self::Receive { reply, .. } | Self::Step { reply, .. } => reply.send(Err(why)),
            Self::MarkRead { reply, .. } => reply.send(Err(why)),
            Self::Found { .. } | Self::Stale => {}
        }
    }
}

/// A step of one message.
pub(super) struct StepRequest {
    pub(super) id: MessageId,
    pub(super) step: Step,
    /// Whether it no longer waits for the network.
    pub(super) leaves_outbox: bool,
}

/// How far a chat was read, as seen in a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct ReadMark {
    /// Up to here.
    pub up_to: MessageId,
    /// The newest message of the snapshot.
    pub newest: MessageId,
    /// Inbound messages between the two.
    pub unread_after: u32,
}
