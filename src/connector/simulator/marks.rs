//! Marks: from which message on a device is owed receipts, kept in the store, and the search from there.

use std::sync::Arc;
use std::time::Duration;

use actors::model::{Direction, Jid, Message, MessageBody, MessageId, Status, Timestamp};
use actors::ports::simulation::AutoReceipts;
use actors::ports::{Job, MessageFilter, MessageQuery, Order, Outcome, Urgency, Write};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Node;
use super::handover::REPLY_AFTER;
use super::line::{Line, Reach};
use super::network::{Network, Route, Trouble};
use super::phones::Promise;
use super::record::{SPACE, mark_key};
use super::timers::{Due, DueStep};

/// How many messages are looked through at once.
const PAGE: usize = 256;

impl Due {
    /// A step of a message that is due.
    pub(super) fn new(line: &Arc<Line>, message: &MessageBody, step: DueStep) -> Self {
        let (chat, upstream_id) = (message.chat.clone(), message.upstream_id.as_str().into());
        Self {
            line: Arc::clone(line),
            id: message.id,
            chat,
            upstream_id,
            step,
        }
    }
}

/// Messages that are counted as owed, for whoever is about to owe them. They are forgiven unless they shall stay, also by
/// a hand-over that is dropped half-way.
pub(super) struct Owed<'a> {
    node: &'a Node,
    line: &'a Arc<Line>,
    ids: Vec<MessageId>,
    /// Whether their mark is not durable yet.
    is_unwritten: bool,
}

impl Owed<'_> {
    /// Some of them.
    pub(super) fn split(&mut self, ids: Vec<MessageId>) -> Self {
        self.ids.retain(|it| !ids.contains(it));
        Self { ids, ..*self }
    }

    /// They are owed from here on.
    pub(super) fn stay(mut self) {
        self.ids.clear();
    }
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if self.is_unwritten {
            self.line.dues.lock().not_written();
        }
        self.node.forgive(self.line, self.ids.drain(..));
    }
}

/// What a search found to be owed.
enum Found {
    /// A step, so much later.
    Step(Duration, DueStep),
    /// Everything, once the phone is online.
    Offline,
    /// Nothing.
    Nothing,
}

impl Node {
    /// Counts messages as owed; when this returns, a restart finds them.
    pub(super) async fn cover<'a>(
        &'a self,
        line: &'a Arc<Line>,
        ids: Vec<MessageId>,
    ) -> Result<Owed<'a>, Trouble> {
        let (moved, durable) = {
            let mut dues = line.dues.lock();
            let mut moved = false;
            for id in &ids {
                moved |= dues.add(*id);
            }
            (
                moved,
                dues.lowered().map(|mark| self.submit_mark(line, mark)),
            )
        };
        let mut owed = Owed {
            node: self,
            line,
            ids,
            is_unwritten: durable.is_some(),
        };
        if moved {
            self.watch_mark(line);
        }
        if let Some(told) = durable {
            match told?.await {
                Ok(Outcome::Committed { cursor: _ }) => owed.is_unwritten = false,
                Ok(_) | Err(_) => return Err(Trouble::Away),
            }
        }
        Ok(owed)
    }

    /// These messages are owed nothing more.
    pub(super) fn forgive(&self, line: &Arc<Line>, ids: impl Iterator<Item = MessageId>) {
        let mut moved = false;
        for id in ids {
            moved |= line.dues.lock().settle(id);
        }
        if moved {
            self.watch_mark(line);
        }
    }

    /// Puts the mark into the writer's queue. The caller holds the lock on the dues, so that marks are queued in the
    /// order in which they were decided.
    fn submit_mark(
        &self,
        line: &Line,
        mark: MessageId,
    ) -> Result<oneshot::Receiver<Outcome>, Trouble> {
        let (tell, told) = oneshot::channel();
        let value = Some(Bytes::copy_from_slice(&mark.to_bytes()));
        let writes = vec![Write::Value {
            space: SPACE,
            key: mark_key(line.device),
            value,
        }];
        let job = Job {
            writes,
            entries: Vec::new(),
            claim: None,
            urgency: Urgency::Soon,
            is_baseless: None,
            done: Box::new(move |outcome| drop(tell.send(outcome))),
        };
        self.store.submit(line.tenant, job)?;
        Ok(told)
    }

    /// The mark of a line may have moved: it is looked at when marks are written next.
    pub(super) fn watch_mark(&self, line: &Arc<Line>) {
        let mut moved = self.moved_marks.lock();
        moved.push(Arc::clone(line));
        if moved.len() == 1 {
            drop(moved);
            self.timers.wake.notify_one();
        }
    }

    /// Whether there are marks to look at.
    pub(super) fn marks_moved(&self) -> bool {
        !self.moved_marks.lock().is_empty()
    }

    /// Writes the marks that moved. Nobody waits for it: a mark that is not written is lower, and that does no harm.
    pub(super) fn write_marks(&self) {
        let lines = std::mem::take(&mut *self.moved_marks.lock());
        for line in lines {
            let mut dues = line.dues.lock();
            let Some(mark) = dues.changed() else { continue };
            if self.submit_mark(&line, mark).is_err() {
                dues.not_written();
            }
        }
    }

    /// Finds in the store what a line is owed and what is not in memory any more.
    pub(super) async fn search(&self, line: &Arc<Line>) {
        let _lane = line.search_lane.lock().await;
        let (Some(network), Reach::Online(_)) = (line.network.upgrade(), line.reach()) else {
            return;
        };
        let Some(from) = line.dues.lock().search() else {
            return;
        };
        let again = network.held.lock().forget(line.device);
        self.forgive(line, again.iter().map(|due| due.id));
        match self.search_from(&network, line, from).await {
            Ok(()) => {
                line.taken();
                if line.dues.lock().found() {
                    self.watch_mark(line);
                }
            }
            Err(_busy_or_away) => {
                line.dues.lock().search_failed();
                if line.listens() {
                    self.search_later(line);
                }
            }
        }
    }

    async fn search_from(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        from: MessageId,
    ) -> Result<(), Trouble> {
        let mut beyond = Some(MessageId::from_u128(from.as_u128().saturating_sub(1)));
        // What comes later is handed over under our eyes.
        let filter = MessageFilter {
            direction: Some(Direction::Out),
            to: Some(self.clock.now()),
            ..MessageFilter::default()
        };
        loop {
            let query = MessageQuery {
                chat: None,
                beyond,
                order: Order::Oldest,
                filter: filter.clone(),
                limit: PAGE,
            };
            let page = self.store.messages(line.tenant, line.device, query).await?;
            let Reach::Online(_) = line.reach() else {
                return Err(Trouble::Away);
            };
            self.take_up(network, line, &page.items).await?;
            match page.next {
                Some(next) => beyond = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Schedules what one page of messages is owed.
    async fn take_up(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        messages: &[Message],
    ) -> Result<(), Trouble> {
        let mut found = Vec::new();
        for message in messages
            .iter()
            .filter(|it| matches!(it.state.status, Status::Sent | Status::Delivered))
        {
            match self.owed(network, line, message).await? {
                Found::Nothing => {}
                Found::Offline => {
                    line.dues.lock().add(message.body.id);
                    self.hold(
                        network,
                        Due::new(line, &message.body, DueStep::Delivered { read_ms: None }),
                    );
                }
                Found::Step(after, step) => {
                    found.push((Instant::now() + after, Due::new(line, &message.body, step)));
                }
            }
        }
        let room = self.timers.reserve(found.len()).await;
        let mut room = room.ok_or(Trouble::Busy)?;
        for (_at, due) in &found {
            line.dues.lock().add(due.id);
        }
        room.set(found);
        Ok(())
    }

    async fn owed(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        message: &Message,
    ) -> Result<Found, Trouble> {
        let account = line.account().ok_or(Trouble::Away)?;
        let route = network
            .routes(account.digits, std::iter::once(&message.body.chat))
            .pop();
        let delivered = message.state.status == Status::Delivered;
        Ok(match route {
            None | Some(Route::Nowhere) => Found::Nothing,
            Some(Route::Own) if delivered => Found::Step(Duration::ZERO, DueStep::Read),
            Some(Route::Own) => {
                Found::Step(Duration::ZERO, DueStep::Delivered { read_ms: Some(0) })
            }
            Some(Route::Device(other)) => {
                self.owed_by_device(&other, &account.jid, message).await?
            }
            Some(Route::Phone(number)) => {
                let promise = network.phones.read().promise(number);
                owed_by_phone(promise, message, self.clock.now())
            }
        })
    }

    /// What another simulated device has of a message is what its sender is owed.
    async fn owed_by_device(
        &self,
        other: &Line,
        own: &Jid,
        message: &Message,
    ) -> Result<Found, Trouble> {
        let upstream_id = &message.body.upstream_id;
        let Some(theirs) = self
            .store
            .by_upstream(other.tenant, other.device, own, false, upstream_id)
            .await?
        else {
            return Ok(Found::Nothing);
        };
        let copy = self
            .store
            .message(other.tenant, other.device, theirs)
            .await?;
        let read = copy.is_some_and(|it| matches!(it.state.status, Status::Read | Status::Played));
        Ok(match (message.state.status == Status::Delivered, read) {
            (true, true) => Found::Step(Duration::ZERO, DueStep::Read),
            (true, false) => Found::Nothing,
            (false, read) => Found::Step(
                Duration::ZERO,
                DueStep::Delivered {
                    read_ms: read.then_some(0),
                },
            ),
        })
    }
}

fn owed_by_phone(promise: Promise, message: &Message, now: Timestamp) -> Found {
    let left = |since: Option<Timestamp>, millis: u32| {
        let span = Duration::from_millis(u64::from(millis));
        since.map_or(span, |since| since.plus(span).since(now))
    };
    let state = &message.state;
    match (promise, state.status == Status::Delivered) {
        (Promise::NotThere | Promise::Nothing, _) | (Promise::Reply, true) => Found::Nothing,
        (Promise::Receipts(AutoReceipts { read_ms: None, .. }), true) => Found::Nothing,
        (Promise::Offline, _) => Found::Offline,
        (Promise::Reply, false) => Found::Step(REPLY_AFTER, DueStep::Reply),
        (
            Promise::Receipts(AutoReceipts {
                read_ms: Some(read_ms),
                ..
            }),
            true,
        ) => Found::Step(left(state.delivered_at, read_ms), DueStep::Read),
        (
            Promise::Receipts(AutoReceipts {
                deliver_ms,
                read_ms,
            }),
            false,
        ) => Found::Step(
            left(state.sent_at, deliver_ms),
            DueStep::Delivered { read_ms },
        ),
    }
}
