//! A chat without its runtime: ids, the ladder of receipts, the row.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::handle::Draft;
use super::message::ReadMark;
use crate::model::{
    Chat, Content, DeviceId, Direction, EXPIRES_DEFAULT, EntryDraft, EventType, Jid, JidKind,
    LastMessage, Message, MessageBody, MessageError, MessageId, MessageState, Metadata, Status,
    Step, Timestamp,
};
use crate::ports::connector::IncomingMessage;

/// Messages whose state a chat keeps in memory; others are read when a step comes for them.
const KNOWN_MAX: usize = 64;
const PREVIEW_CHARS: usize = 120;

/// What a chat remembers of one message.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) id: MessageId,
    pub(super) direction: Direction,
    pub(super) upstream_id: Arc<str>,
    pub(super) metadata: Option<Arc<Metadata>>,
    pub(super) state: MessageState,
}

impl From<&Message> for Known {
    fn from(message: &Message) -> Self {
        Self {
            id: message.body.id,
            direction: message.body.direction,
            upstream_id: message.body.upstream_id.as_str().into(),
            metadata: message.body.metadata.clone().map(Arc::new),
            state: message.state.clone(),
        }
    }
}

#[derive(Debug)]
pub(super) struct ChatState {
    device: DeviceId,
    jid: Jid,
    row: Option<Chat>,
    last_id: Option<MessageId>,
    known: VecDeque<Known>,
}

/// A message that is about to be stored.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) message: Message,
    pub(super) row: Chat,
    pub(super) entry: EntryDraft,
}

/// What to do about a step.
#[derive(Debug)]
pub(super) enum StepDecision {
    /// Store it and tell.
    Forward {
        state: MessageState,
        entry: EntryDraft,
    },
    /// It changes nothing.
    Nothing,
    /// The message must be read first.
    Unknown,
}

/// `data` of `message.status`.
#[derive(Serialize)]
struct StatusData<'a> {
    id: MessageId,
    chat: &'a Jid,
    direction: Direction,
    upstream_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a Metadata>,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a MessageError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    participant: Option<&'a Jid>,
    at: Timestamp,
}

/// `data` of `chat.read`.
#[derive(Serialize)]
struct ReadData<'a> {
    chat: &'a Jid,
    up_to: MessageId,
    unread: u32,
    at: Timestamp,
}

impl ChatState {
    pub(super) fn new(device: DeviceId, jid: Jid, row: Option<Chat>) -> Self {
        let last_id = row
            .as_ref()
            .and_then(|it| it.last_message.as_ref())
            .map(|it| it.id);
        Self {
            device,
            jid,
            row,
            last_id,
            known: VecDeque::new(),
        }
    }

    /// Gives an outbound message its place.
    pub(super) fn place_outbound(
        &mut self,
        draft: Draft,
        from: Option<Jid>,
        now: Timestamp,
    ) -> Placed {
        let id = self.next_id(now);
        let status = if draft.send_at.is_some_and(|it| now < it) {
            Status::Scheduled
        } else {
            Status::Queued
        };
        let waits_from = draft.send_at.unwrap_or(now);
        let body = MessageBody {
            id,
            device: self.device,
            chat: self.jid.clone(),
            direction: Direction::Out,
            from,
            to: Some(self.jid.clone()),
            participant: None,
            kind: draft.content.kind(),
            content: draft.content,
            reply_to: draft.reply_to,
            mentions: draft.mentions,
            mention_all: draft.mention_all,
            metadata: draft.metadata,
            upstream_id: upstream_id_of(id),
            created_at: now,
            send_at: draft.send_at,
            delay_ms: draft.delay_ms,
            expires_at: Some(
                draft
                    .expires_at
                    .unwrap_or_else(|| waits_from.plus(EXPIRES_DEFAULT)),
            ),
        };
        self.place(
            Message::new(body, MessageState::new(status)),
            EventType::MessageCreated,
            now,
        )
    }

    /// Gives an inbound message its place; `None` where it is a repeat that is remembered.
    pub(super) fn place_inbound(
        &mut self,
        incoming: IncomingMessage,
        own: Option<Jid>,
        now: Timestamp,
    ) -> Result<Placed, MessageId> {
        let same = |it: &&Known| {
            it.direction == incoming.direction && *it.upstream_id == *incoming.upstream_id
        };
        if let Some(known) = self.known.iter().find(same) {
            return Err(known.id);
        }
        let id = self.next_id(now);
        let (to, status, kind) = match incoming.direction {
            Direction::In if self.jid.kind() == JidKind::Person => {
                (own, Status::Delivered, EventType::MessageReceived)
            }
            Direction::In => (
                Some(self.jid.clone()),
                Status::Delivered,
                EventType::MessageReceived,
            ),
            Direction::Out => (
                Some(self.jid.clone()),
                Status::Sent,
                EventType::MessageCreated,
            ),
        };
        let body = MessageBody {
            id,
            device: self.device,
            chat: self.jid.clone(),
            direction: incoming.direction,
            from: Some(incoming.from),
            to,
            participant: incoming.participant,
            kind: incoming.content.kind(),
            content: incoming.content,
            reply_to: None,
            mentions: None,
            mention_all: false,
            metadata: None,
            upstream_id: incoming.upstream_id,
            created_at: now,
            send_at: None,
            delay_ms: None,
            expires_at: None,
        };
        let mut state = MessageState::new(status);
        state.sent_at = Some(incoming.at);
        Ok(self.place(Message::new(body, state), kind, now))
    }

    fn place(&mut self, message: Message, kind: EventType, now: Timestamp) -> Placed {
        let body = &message.body;
        let last = LastMessage {
            id: body.id,
            direction: body.direction,
            kind: body.kind,
            preview: preview(&body.content),
        };
        let mut row = self.row.take().unwrap_or_else(|| self.new_row(now));
        row.active_at = row.active_at.max(now);
        row.last_message = Some(last);
        if body.direction == Direction::In {
            row.unread = row.unread.saturating_add(1);
        }
        self.row = Some(row.clone());
        let entry = self.entry(kind, now, Some(body.direction), to_json(&message));
        self.remember(Known::from(&message));
        Placed {
            message,
            row,
            entry,
        }
    }

    fn new_row(&self, now: Timestamp) -> Chat {
        Chat {
            jid: self.jid.clone(),
            device: self.device,
            unread: 0,
            last_message: None,
            read_up_to: None,
            active_at: now,
            created_at: now,
        }
    }

    /// What a step of a message changes.
    pub(super) fn step(&mut self, id: MessageId, step: &Step) -> StepDecision {
        let Some(known) = self.known.iter_mut().find(|it| it.id == id) else {
            return StepDecision::Unknown;
        };
        let Some(next) = known
            .state
            .advanced(step)
            .filter(|_| known.direction == Direction::Out)
        else {
            return StepDecision::Nothing;
        };
        known.state = next.clone();
        let data = to_json(&StatusData {
            id,
            chat: &self.jid,
            direction: known.direction,
            upstream_id: &known.upstream_id,
            metadata: known.metadata.as_deref(),
            status: next.status,
            error: step.error.as_ref(),
            participant: step.participant.as_ref(),
            at: step.at,
        });
        let direction = known.direction;
        let entry = self.entry(EventType::MessageStatus, step.at, Some(direction), data);
        StepDecision::Forward { state: next, entry }
    }

    /// Everything up to a message was read: the new row, and the entry where that is news.
    pub(super) fn mark_read(
        &mut self,
        read: ReadMark,
        now: Timestamp,
    ) -> Option<(Chat, Option<EntryDraft>)> {
        let row = self.row.as_mut()?;
        let arrived = self
            .known
            .iter()
            .filter(|it| it.direction == Direction::In && read.newest < it.id)
            .count();
        let unread = read
            .unread_after
            .saturating_add(u32::try_from(arrived).unwrap_or(u32::MAX))
            .min(row.unread);
        if row.read_up_to.is_some_and(|it| read.up_to <= it) && unread == row.unread {
            return Some((row.clone(), None));
        }
        row.unread = unread;
        row.read_up_to = Some(row.read_up_to.map_or(read.up_to, |it| it.max(read.up_to)));
        let row = row.clone();
        let data = to_json(&ReadData {
            chat: &self.jid,
            up_to: read.up_to,
            unread,
            at: now,
        });
        let entry = self.entry(EventType::ChatRead, now, None, data);
        Some((row, Some(entry)))
    }

    /// Keeps a message that was placed or read.
    pub(super) fn remember(&mut self, known: Known) {
        let place = self.known.partition_point(|it| it.id < known.id);
        if self.known.get(place).is_some_and(|it| it.id == known.id) {
            return;
        }
        if KNOWN_MAX <= self.known.len() {
            if place == 0 {
                // Older than all that are kept: it replaces the oldest, or it could never be kept.
                self.known.pop_front();
                self.known.push_front(known);
                return;
            }
            self.known.pop_front();
            self.known.insert(place - 1, known);
            return;
        }
        self.known.insert(place, known);
    }

    fn next_id(&mut self, now: Timestamp) -> MessageId {
        let id = MessageId::after(self.last_id, now);
        self.last_id = Some(id);
        id
    }

    fn entry(
        &self,
        kind: EventType,
        time: Timestamp,
        direction: Option<Direction>,
        data: Bytes,
    ) -> EntryDraft {
        EntryDraft {
            kind,
            time,
            device: Some(self.device),
            chat: Some(self.jid.clone()),
            direction,
            data,
        }
    }
}

/// The network's name of an outbound message: derived from ours, so that a second hand-over has the same and a receipt
/// finds its message without an index.
pub(crate) fn upstream_id_of(id: MessageId) -> String {
    format!("3EB0{:032X}", id.as_u128())
}

/// Our name, from a network's name that [`upstream_id_of`] made.
pub(crate) fn id_of_upstream(upstream_id: &str) -> Option<MessageId> {
    let hex = upstream_id
        .strip_prefix("3EB0")
        .filter(|it| it.len() == 32)?;
    u128::from_str_radix(hex, 16).ok().map(MessageId::from_u128)
}

fn preview(content: &Content) -> Option<String> {
    match content {
        Content::Text {
            text,
            preview_url: _,
        } => Some(text.chars().take(PREVIEW_CHARS).collect()),
        Content::Location { name, .. } => name
            .as_ref()
            .map(|it| it.chars().take(PREVIEW_CHARS).collect()),
        Content::Contacts { .. } => None,
    }
}

/// JSON of our own plain data, which can't fail to be written.
pub(crate) fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chat() -> ChatState {
        ChatState::new(DeviceId::generate(), "51999888777".parse().unwrap(), None)
    }

    fn text(text: &str) -> Draft {
        Draft::text(text)
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn inbound(upstream_id: &str) -> IncomingMessage {
        IncomingMessage {
            chat: "51999888777".parse().unwrap(),
            from: "51999888777".parse().unwrap(),
            participant: None,
            direction: Direction::In,
            upstream_id: upstream_id.to_owned(),
            content: Content::Text {
                text: "hola".to_owned(),
                preview_url: None,
            },
            at: at(5),
        }
    }

    proptest! {
        #[test]
        fn ids_rise_whatever_the_clock_does(times in prop::collection::vec(0i64..10_000, 1..60)) {
            let mut chat = chat();
            let mut last = None;
            for time in times {
                let placed = chat.place_outbound(text("x"), None, at(time));
                prop_assert!(last < Some(placed.message.body.id));
                last = Some(placed.message.body.id);
            }
        }

        #[test]
        fn memory_is_bounded_and_sorted(count in 1usize..300) {
            let mut chat = chat();
            for _ in 0..count {
                chat.place_outbound(text("x"), None, at(1));
            }
            prop_assert!(chat.known.len() <= KNOWN_MAX);
            prop_assert!(chat.known.iter().zip(chat.known.iter().skip(1)).all(|(a, b)| a.id < b.id));
        }
    }

    #[test]
    fn a_step_happens_once_and_tells_itself() {
        let mut chat = chat();
        let id = chat.place_outbound(text("x"), None, at(1)).message.body.id;
        let read = Step::to(Status::Read, at(2));
        let StepDecision::Forward { state, entry } = chat.step(id, &read) else {
            panic!("no step")
        };
        assert_eq!(
            (state.status, entry.kind),
            (Status::Read, EventType::MessageStatus)
        );
        assert!(matches!(chat.step(id, &read), StepDecision::Nothing));
        assert!(matches!(
            chat.step(id, &Step::to(Status::Delivered, at(3))),
            StepDecision::Nothing
        ));
        assert!(matches!(
            chat.step(MessageId::generate(), &read),
            StepDecision::Unknown
        ));
    }

    #[test]
    fn a_message_that_is_no_longer_known_is_kept_once_it_was_read() {
        let mut chat = chat();
        let first = chat.place_outbound(text("x"), None, at(1)).message;
        for _ in 0..KNOWN_MAX {
            chat.place_outbound(text("x"), None, at(1));
        }
        let step = Step::to(Status::Sent, at(2));
        assert!(matches!(
            chat.step(first.body.id, &step),
            StepDecision::Unknown
        ));
        chat.remember(Known::from(&first));
        assert!(matches!(
            chat.step(first.body.id, &step),
            StepDecision::Forward { .. }
        ));
    }

    #[test]
    fn a_repeat_from_the_network_is_seen() {
        let mut chat = chat();
        let first = chat.place_inbound(inbound("A1"), None, at(9)).unwrap();
        assert_eq!(
            chat.place_inbound(inbound("A1"), None, at(9)).unwrap_err(),
            first.message.body.id
        );
        assert_eq!(first.row.unread, 1);
    }

    #[test]
    fn reading_leaves_what_came_after_unread() {
        let mut chat = chat();
        let first = chat
            .place_inbound(inbound("A1"), None, at(1))
            .unwrap()
            .message
            .body
            .id;
        chat.place_inbound(inbound("A2"), None, at(2)).unwrap();
        let mark = ReadMark {
            up_to: first,
            newest: first,
            unread_after: 0,
        };
        let (row, entry) = chat.mark_read(mark, at(3)).unwrap();
        assert_eq!((row.unread, entry.is_some()), (1, true));
        let (row, entry) = chat.mark_read(mark, at(4)).unwrap();
        assert_eq!(
            (row.unread, entry),
            (1, None),
            "what is already so is no news"
        );
    }

    #[test]
    fn an_upstream_id_names_its_message() {
        let id = MessageId::generate();
        assert_eq!(id_of_upstream(&upstream_id_of(id)), Some(id));
        assert_eq!(id_of_upstream("3EB0C0FFEE"), None);
    }
}
