//! A subscription: turns what its listener hears into the messages of one connection, in order.

use std::collections::VecDeque;
use std::sync::Arc;

use actors::log::{Attachment, Entry, Ephemeral, Facts, Filter, Heard, Listener, Reset, Sight};
use actors::model::Cursor;
use actors::ports::StoreError;
use axum::extract::ws::Message;
use tokio::time::Instant;

use super::close::Close;
use super::frame::{Codec, ServerFrame};
use super::state::{Beyond, Delivery, Verdict};

/// Entries that are taken from the ring at once.
const TAKE_MAX: usize = 128;
/// What the buffer keeps when it is empty.
const KEEP: usize = 8;
/// Ephemeral events that are sent at once, the latest of each kind, device and chat.
const EPHEMERALS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Reader {
    codec: Codec,
    listener: Listener,
    delivery: Delivery,
    /// Entries that were heard; those before `at` are behind us.
    queue: Vec<Arc<Entry>>,
    at: usize,
    /// What is said before the next entry: at most a few words and [`EPHEMERALS_MAX`].
    words: VecDeque<Message>,
    attachment: Option<Attachment>,
    max_lag: u64,
}

impl Reader {
    pub(super) const fn new(
        codec: Codec,
        listener: Listener,
        delivery: Delivery,
        attachment: Option<Attachment>,
        max_lag: u64,
    ) -> Self {
        Self {
            codec,
            listener,
            delivery,
            queue: Vec::new(),
            at: 0,
            words: VecDeque::new(),
            attachment,
            max_lag,
        }
    }

    /// Tells the client that continuity is lost before anything else is said.
    pub(super) fn tell_reset(&mut self, reset: &Reset) {
        self.words
            .push_back(self.codec.write(&ServerFrame::from(reset)));
    }

    /// What is known of the subscription itself.
    pub(super) const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The message that is next, if one may be sent now.
    pub(super) fn next_message(&mut self, now: Instant) -> Option<Message> {
        if let Some(word) = self.words.pop_front() {
            return Some(word);
        }
        loop {
            if self.delivery.position_is_due() {
                return Some(self.position());
            }
            let Some(entry) = self.queue.get(self.at) else {
                break;
            };
            match self.delivery.offer(
                entry.cursor().seq,
                Facts::from(&**entry),
                entry.weight(),
                now,
            ) {
                Verdict::Send => {
                    let message = self.codec.event(entry);
                    self.at += 1;
                    return Some(message);
                }
                Verdict::Skip => self.at += 1,
                Verdict::Hold => return None,
            }
        }
        if !self.queue.is_empty() {
            self.queue.clear();
            self.queue.shrink_to(KEEP);
            self.words.shrink_to(0);
            self.at = 0;
        }
        // What was heard last reached the head, and nothing need follow it.
        if self.delivery.is_lagging() && self.listener.behind() == 0 {
            self.delivery.fed_from(false);
            return Some(self.lag(0, "off"));
        }
        None
    }

    fn lag(&self, behind: u64, mode: &'static str) -> Message {
        self.codec.write(&ServerFrame::Lag { behind, mode })
    }

    /// Tells the client its place, behind what is to be said before.
    pub(super) fn say_position(&mut self) {
        let position = self.position();
        self.words.push_back(position);
    }

    fn position(&mut self) -> Message {
        let (cursor, events) = self.delivery.tell_position();
        self.codec.write(&ServerFrame::Position { cursor, events })
    }

    /// Whether everything that was heard is behind us.
    pub(super) fn is_hungry(&self) -> bool {
        self.queue.len() <= self.at && self.words.is_empty()
    }

    /// Waits for more; dropping the future loses nothing.
    pub(super) async fn listen(&mut self) -> Result<Heard, StoreError> {
        self.listener.next(&mut self.queue, TAKE_MAX).await
    }

    /// Takes note of what was heard.
    ///
    /// # Errors
    ///
    /// Why the connection must end.
    pub(super) fn heard(&mut self, heard: Heard) -> Result<(), Close> {
        match heard {
            Heard::Entries { from_store } => {
                let waiting = u64::try_from(self.queue.len()).unwrap_or(u64::MAX);
                let behind = || self.listener.behind().saturating_add(waiting);
                if self.delivery.is_live() && from_store && self.max_lag < behind() {
                    return Err(Close::LaggedOut);
                }
                if let Some(is_on) = self.delivery.fed_from(from_store) {
                    let mode = if is_on { "on" } else { "off" };
                    let word = self.lag(behind(), mode);
                    self.words.push_back(word);
                }
            }
            Heard::Ephemerals => self.take_ephemerals(),
            Heard::Trimmed { oldest, head } => {
                self.listener.jump(head.seq);
                self.delivery.jump(head);
                self.words.push_back(self.codec.write(&ServerFrame::Reset {
                    reason: "trimmed",
                    oldest,
                    head,
                }));
            }
            Heard::Closed => return Err(Close::Stopping),
        }
        Ok(())
    }

    /// The latest of each kind, device and chat; the oldest are lost beyond the bound.
    fn take_ephemerals(&mut self) {
        let mut events = Vec::new();
        self.listener.take_ephemerals(&mut events);
        let mut latest: Vec<&Ephemeral> = Vec::new();
        for event in events
            .iter()
            .rev()
            .map(|it| &**it)
            .filter(|it| self.delivery.passes(Facts::from(*it)))
        {
            let is_known = latest.iter().any(|it| {
                it.kind == event.kind && it.device == event.device && it.chat == event.chat
            });
            if !is_known && latest.len() < EPHEMERALS_MAX {
                latest.push(event);
            }
        }
        self.words
            .extend(latest.into_iter().rev().map(|it| self.codec.ephemeral(it)));
    }

    /// Takes an ack.
    pub(super) fn ack(&mut self, cursor: Cursor, now: Instant) -> Result<(), Beyond> {
        let confirmed = self.delivery.ack(cursor, now)?;
        if let (Some(seq), Some(attachment)) = (confirmed, &self.attachment) {
            attachment.ack(seq);
        }
        Ok(())
    }

    pub(super) fn set_filter(&mut self, filter: Filter) {
        self.delivery.set_filter(filter);
    }

    pub(super) fn set_sight(&mut self, sight: Sight) {
        self.delivery.set_sight(sight);
    }
}

#[cfg(test)]
mod tests {
    use actors::log::{Log, RingBudget, Sequencer};
    use actors::model::{EntryDraft, EventType, ScopeSet, TenantId, Timestamp};
    use actors::ports::LogReader;
    use async_trait::async_trait;

    use super::*;

    /// A log on disk.
    struct Kept(Vec<Arc<Entry>>);

    #[async_trait]
    impl LogReader for Kept {
        async fn entries(
            &self,
            _: TenantId,
            after: u64,
            _: usize,
            _: usize,
        ) -> Result<Vec<Arc<Entry>>, StoreError> {
            let beyond = self.0.iter().filter(|it| after < it.cursor().seq);
            Ok(beyond.cloned().collect())
        }

        async fn seq_before(&self, _: TenantId, _: Timestamp) -> Result<u64, StoreError> {
            Ok(0)
        }
    }

    #[tokio::test]
    async fn a_lag_is_over_when_the_last_chunk_reaches_the_head() {
        let (tenant, start) = (TenantId::generate(), Cursor { epoch: 1, seq: 0 });
        // A ring that holds one entry: everything before it is read from the store.
        let log = Arc::new(Log::new(tenant, start, 0, Arc::new(RingBudget::new(1))));
        let mut sequencer = Sequencer::new(tenant, start);
        let draft = EntryDraft {
            kind: EventType::DeviceState,
            time: Timestamp::from_millis(1),
            device: None,
            chat: None,
            direction: None,
            data: bytes::Bytes::from_static(b"{}"),
        };
        let entries: Vec<_> = (0..3).map(|_| sequencer.place(draft.clone())).collect();
        let store = Arc::new(Kept(entries.clone()));
        let sight = Sight::new(ScopeSet::tenant(), &[]);
        let delivery = Delivery::new(Filter::default(), sight, start, 0);
        let listener = Listener::new(Arc::clone(&log), store, 0);
        let mut reader = Reader::new(Codec::Json, listener, delivery, None, 100);
        let said = |reader: &mut Reader| {
            let messages = std::iter::from_fn(|| reader.next_message(Instant::now()));
            let word = |message: Message| {
                let frame: serde_json::Value =
                    serde_json::from_str(message.to_text().unwrap()).unwrap();
                format!("{} {}", frame["op"], frame["mode"]).replace('"', "")
            };
            messages.map(word).collect::<Vec<_>>()
        };
        assert_eq!(said(&mut reader), ["position null"]);
        log.publish(&entries);
        let heard = reader.listen().await.unwrap();
        reader.heard(heard).unwrap();
        let expected = [
            "lag on",
            "event null",
            "event null",
            "event null",
            "lag off",
        ];
        assert_eq!(said(&mut reader), expected);
        assert!(said(&mut reader).is_empty());
    }
}
