//! The way to chats: look up or start, send again to a successor, let the idle ones leave.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use ractor::{ActorCell, ActorRef, ActorRuntime, ActorStatus};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::actor::{ChatActor, ChatArgs};
use super::message::{ChatMsg, ReadMark, StepRequest};
use crate::door::{Door, Place, Reply, answer_of};
use crate::model::{
    Chat, Content, Cursor, DELAY_MAX, DeviceId, Faults, Jid, JidKind, MessageBody, MessageId,
    Metadata, SCHEDULE_MAX, Status, Step, TenantId, Timestamp, check_metadata,
};
use crate::ports::connector::{IncomingMessage, Taken};
use crate::ports::{Answer, Claim, Clock, KeptAnswer, Store, Ticket};
use crate::supervise::{RestartBudget, Verdict};
use crate::{CommandError, Limits};

/// A message that is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// What it carries.
    pub content: Content,
    /// The message that it answers.
    pub reply_to: Option<MessageId>,
    /// Who is named in it.
    pub mentions: Option<Vec<Jid>>,
    /// Whether it names everyone.
    pub mention_all: bool,
    /// The integrator's own pairs.
    pub metadata: Option<Metadata>,
    /// How long it, and those behind it in its chat, are held back.
    pub delay_ms: Option<u32>,
    /// When it is to be handed to the network.
    pub send_at: Option<Timestamp>,
    /// When it stops waiting for its device.
    pub expires_at: Option<Timestamp>,
}

const MENTIONS_MAX: usize = 1_024;

impl Draft {
    /// A plain text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        let content = Content::Text {
            text: text.to_owned(),
            preview_url: None,
        };
        Self {
            content,
            reply_to: None,
            mentions: None,
            mention_all: false,
            metadata: None,
            delay_ms: None,
            send_at: None,
            expires_at: None,
        }
    }

    /// Checks the rules that need no look-up; pointers start at the message.
    ///
    /// # Errors
    ///
    /// Every rule that is broken.
    pub fn check(&self, to: &Jid, now: Timestamp) -> Result<(), Faults> {
        let mut faults = Faults::default();
        if let Err(of_content) = self.content.check() {
            faults.extend(of_content.under("/content"));
        }
        if let Some(Err(of_metadata)) = self.metadata.as_ref().map(check_metadata) {
            faults.extend(of_metadata.under("/metadata"));
        }
        let in_group = to.kind() == JidKind::Group;
        faults.check(
            self.mentions.is_none() || in_group,
            "/mentions",
            "mentions work in groups only",
        );
        faults.check(
            self.mentions
                .as_ref()
                .is_none_or(|it| it.len() <= MENTIONS_MAX),
            "/mentions",
            "must have at most 1,024 entries",
        );
        faults.check(
            !self.mention_all || in_group,
            "/mention_all",
            "mentions work in groups only",
        );
        let delay = Duration::from_millis(self.delay_ms.unwrap_or(0).into());
        faults.check(delay <= DELAY_MAX, "/delay_ms", "must be at most 60,000");
        faults.check(
            self.send_at.is_none_or(|it| now < it),
            "/send_at",
            "must lie in the future",
        );
        faults.check(
            self.send_at.is_none_or(|it| it <= now.plus(SCHEDULE_MAX)),
            "/send_at",
            "must lie within a year",
        );
        let waits_from = self.send_at.unwrap_or(now);
        faults.check(
            self.expires_at.is_none_or(|it| waits_from < it),
            "/expires_at",
            "must lie after the message is to be sent",
        );
        faults.into_result()
    }
}

/// A message that was taken and is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    /// Its name.
    pub id: MessageId,
    /// Its chat.
    pub chat: Jid,
    /// Queued or scheduled.
    pub status: Status,
    /// When it was taken.
    pub created_at: Timestamp,
    /// The place of its entry in the log.
    pub cursor: Cursor,
    /// Whether this is the answer of an earlier call with the same key.
    pub replayed: bool,
}

/// The answer of an earlier call, for a retry.
impl TryFrom<KeptAnswer> for SentMessage {
    type Error = CommandError;

    fn try_from(kept: KeptAnswer) -> Result<Self, CommandError> {
        match kept.answer {
            Answer::Sent {
                id,
                chat,
                status,
                created_at,
            } => Ok(Self {
                id,
                chat,
                status,
                created_at,
                cursor: kept.cursor,
                replayed: true,
            }),
            Answer::Given { .. } => Err(CommandError::IdempotencyMismatch),
        }
    }
}

/// What a chat needs to know of its device.
pub trait ChatOwner: Send + Sync + 'static {
    /// The address of the account, once it is linked.
    fn jid(&self) -> Option<Jid>;

    /// A fresh message is durable and may go to the network. Called on the writer's thread.
    fn offer(&self, body: Arc<MessageBody>);
}

/// Which chat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChatKey {
    /// Its device.
    pub device: DeviceId,
    /// Its address.
    pub chat: Jid,
}

/// What of a chat outlives its actor.
#[derive(Debug, Default)]
pub(super) struct ChatTrace {
    /// The last job it submitted: a successor waits until the writer has passed it.
    pub(super) ticket: AtomicU64,
    /// Whether it ended as asked.
    pub(super) ended: AtomicBool,
    /// When it was last used.
    used: AtomicI64,
    /// Set once its crash has been counted: its successor may not start before.
    rests_until: AtomicI64,
}

#[derive(Clone)]
struct Slot {
    door: Door<ChatMsg>,
    trace: Arc<ChatTrace>,
    budget: Arc<Mutex<RestartBudget>>,
}

/// The device that a chat belongs to, as its callers hold it.
#[derive(Clone)]
pub struct ChatHome {
    /// The tenant.
    pub tenant: TenantId,
    /// The device.
    pub device: DeviceId,
    /// The device's actor, which supervises the chat.
    pub supervisor: ActorCell,
    /// The rest of the device.
    pub owner: Arc<dyn ChatOwner>,
    /// Keeps the device from being removed until the call is settled, also where nobody waits for it any more.
    pub call: Option<Arc<OwnedSemaphorePermit>>,
}

impl fmt::Debug for ChatHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatHome")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// All chats that are in memory, of all devices of the node.
pub struct Chats {
    slots: DashMap<ChatKey, Slot>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    limits: Arc<Limits>,
}

impl Chats {
    /// No chat is in memory.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, limits: Arc<Limits>) -> Arc<Self> {
        Arc::new(Self {
            slots: DashMap::new(),
            store,
            clock,
            limits,
        })
    }

    /// Takes a message for the network; answers when it is durable.
    ///
    /// # Errors
    ///
    /// `Busy`, `Unavailable`, `StoreFailed`, `StorageFull`: not stored. `OutcomeUnknown`: ask again with the same key.
    pub async fn send(
        &self,
        home: &ChatHome,
        chat: Jid,
        draft: Draft,
        claim: Option<Claim>,
    ) -> Result<SentMessage, CommandError> {
        let draft = Box::new(draft);
        self.ask(home, chat, move |reply| ChatMsg::Send {
            draft,
            claim,
            reply,
        })
        .await
    }

    /// As [`Self::send`], but puts the message into the chat's queue before it returns; the answer comes later. Waits
    /// while the queue is full, so that a long batch is slowed and not refused.
    ///
    /// # Errors
    ///
    /// `Unavailable` where the chat can't be started, `Busy` where its queue had no place before the deadline.
    pub async fn send_in_order(
        &self,
        home: &ChatHome,
        chat: Jid,
        draft: Draft,
        claim: Option<Claim>,
        deadline: Instant,
    ) -> Result<impl Future<Output = Result<SentMessage, CommandError>> + use<>, CommandError> {
        let draft = Box::new(draft);
        let placed = self.push(home, chat, move |reply| ChatMsg::Send {
            draft,
            claim,
            reply,
        });
        let answer = tokio::time::timeout_at(deadline, placed)
            .await
            .map_err(|_late| CommandError::Busy)??;
        Ok(answer_of(answer, self.limits.chat.answer_max))
    }

    /// Puts a message from the network into its chat's queue; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// `Unavailable` where the chat can't be started.
    pub async fn receive(
        &self,
        home: &ChatHome,
        message: IncomingMessage,
    ) -> Result<impl Future<Output = Result<Taken, CommandError>> + use<>, CommandError> {
        let chat = message.chat.clone();
        let message = Box::new(message);
        let answer = self
            .push(home, chat, move |reply| ChatMsg::Receive { message, reply })
            .await?;
        Ok(answer_of(answer, self.limits.chat.answer_max))
    }

    /// Puts a step of a message into its chat's queue; waits while the queue is full.
    ///
    /// # Errors
    ///
    /// `Unavailable` where the chat can't be started.
    pub async fn step(
        &self,
        home: &ChatHome,
        chat: Jid,
        of: StepOf,
        step: Step,
    ) -> Result<impl Future<Output = Result<Taken, CommandError>> + use<>, CommandError> {
        let request = match of {
            StepOf::HandedOver(id) => StepRequest {
                id,
                step,
                leaves_outbox: true,
            },
            StepOf::Named(id) => StepRequest {
                id,
                step,
                leaves_outbox: false,
            },
        };
        let answer = self
            .push(home, chat, move |reply| ChatMsg::Step { request, reply })
            .await?;
        Ok(answer_of(answer, self.limits.chat.answer_max))
    }

    /// Marks a chat as read.
    ///
    /// # Errors
    ///
    /// `NotFound` where the chat was never seen, else as [`Self::send`].
    pub async fn mark_read(
        &self,
        home: &ChatHome,
        chat: Jid,
        read: ReadMark,
        claim: Option<Claim>,
    ) -> Result<Chat, CommandError> {
        self.ask(home, chat, move |reply| ChatMsg::MarkRead {
            read,
            claim,
            reply,
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        home: &ChatHome,
        chat: Jid,
        message: impl FnOnce(Reply<T>) -> ChatMsg + Send,
    ) -> Result<T, CommandError> {
        let key = ChatKey {
            device: home.device,
            chat,
        };
        let slot = self.slot(home, &key, None)?;
        let place = slot.door.place()?.holding(home.call.clone());
        let answer = self.push_at(home, &key, slot, place, message)?;
        answer_of(answer, self.limits.chat.answer_max).await
    }

    async fn push<T: Send + 'static>(
        &self,
        home: &ChatHome,
        chat: Jid,
        message: impl FnOnce(Reply<T>) -> ChatMsg + Send,
    ) -> Result<oneshot::Receiver<Result<T, CommandError>>, CommandError> {
        let key = ChatKey {
            device: home.device,
            chat,
        };
        let slot = self.slot(home, &key, None)?;
        let place = slot.door.place_when_free().await;
        let place = place.holding(home.call.clone());
        self.push_at(home, &key, slot, place, message)
    }

    /// A message that comes back found its chat leaving: it goes to the successor.
    fn push_at<T>(
        &self,
        home: &ChatHome,
        key: &ChatKey,
        mut slot: Slot,
        place: Place,
        message: impl FnOnce(Reply<T>) -> ChatMsg,
    ) -> Result<oneshot::Receiver<Result<T, CommandError>>, CommandError> {
        let (port, answer) = oneshot::channel();
        let mut message = message(Reply::new(port, place));
        loop {
            match slot.door.push(message) {
                Ok(()) => return Ok(answer),
                Err(back) => {
                    message = back;
                    slot = self.slot(home, key, Some(&slot))?;
                }
            }
        }
    }

    fn slot(
        &self,
        home: &ChatHome,
        key: &ChatKey,
        gone: Option<&Slot>,
    ) -> Result<Slot, CommandError> {
        let now = self.clock.now();
        if gone.is_none()
            && let Some(slot) = self.slots.get(key)
        {
            slot.trace.used.store(now.as_millis(), Ordering::Relaxed);
            return Ok(slot.clone());
        }
        if self.limits.chats_resident_max.saturating_mul(2) <= self.slots.len() {
            return Err(CommandError::Busy);
        }
        match self.slots.entry(key.clone()) {
            Entry::Occupied(mut there) => {
                let replaced = gone.is_some_and(|it| {
                    it.door.actor().get_id() == there.get().door.actor().get_id()
                });
                if replaced {
                    let slot = self.start(home, key, Some(there.get()), now)?;
                    there.insert(slot);
                }
                Ok(there.get().clone())
            }
            Entry::Vacant(free) => {
                let slot = self.start(home, key, None, now)?;
                Ok(free.insert(slot).clone())
            }
        }
    }

    /// Starts a chat. One that crashes again and again rests for a while.
    fn start(
        &self,
        home: &ChatHome,
        key: &ChatKey,
        before: Option<&Slot>,
        now: Timestamp,
    ) -> Result<Slot, CommandError> {
        let budget = before.map_or_else(Arc::default, |it| Arc::clone(&it.budget));
        if let Some(before) = before
            && !before.trace.ended.load(Ordering::Acquire)
            && before.door.actor().get_status() == ActorStatus::Stopped
        {
            let mut rests_until = before.trace.rests_until.load(Ordering::Acquire);
            if rests_until == 0 {
                metrics::counter!("buho_actor_crashes_total", "actor" => "chat").increment(1);
                rests_until = match budget.lock().spend(now) {
                    Verdict::Restart => now.as_millis(),
                    Verdict::Rest { until } => until.as_millis(),
                };
                before
                    .trace
                    .rests_until
                    .store(rests_until, Ordering::Release);
            }
            if now.as_millis() < rests_until {
                return Err(CommandError::Unavailable);
            }
        }
        let trace = Arc::new(ChatTrace::default());
        trace.used.store(now.as_millis(), Ordering::Relaxed);
        if let Some(before) = before {
            // What it waits for its own successor waits for too, should it leave before it has come so far.
            let ticket = before.trace.ticket.load(Ordering::Acquire);
            trace.ticket.store(ticket, Ordering::Release);
        }
        let args = ChatArgs {
            home: ChatHome {
                call: None,
                ..home.clone()
            },
            jid: key.chat.clone(),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            trace: Arc::clone(&trace),
            before: before.map(|it| {
                (
                    it.door.actor().get_cell(),
                    Ticket(it.trace.ticket.load(Ordering::Acquire)),
                )
            }),
        };
        let started = ActorRuntime::<ChatActor>::spawn_linked_instant(
            None,
            ChatActor,
            args,
            home.supervisor.clone(),
        );
        let (actor, _running): (ActorRef<ChatMsg>, _) = started.map_err(|error| {
            tracing::warn!(%error, device = %key.device, "chat could not be started");
            CommandError::Unavailable
        })?;
        Ok(Slot {
            door: Door::new(actor, self.limits.chat),
            trace,
            budget,
        })
    }

    /// Lets idle chats leave, and the least recently used where there are too many. Messages that arrive meanwhile go
    /// to a successor. Only a running actor is drained: a starting one would lose its queue.
    pub fn sweep(&self) {
        let now = self.clock.now();
        let idle_since = now.minus(self.limits.chat_idle).as_millis();
        let used = |slot: &Slot| slot.trace.used.load(Ordering::Relaxed);
        let threshold = if self.limits.chats_resident_max < self.slots.len() {
            let mut times: Vec<i64> = self.slots.iter().map(|it| used(it.value())).collect();
            let leave = times
                .len()
                .saturating_sub(self.limits.chats_resident_max)
                .min(times.len().saturating_sub(1));
            let (_, nth, _) = times.select_nth_unstable(leave);
            idle_since.max(*nth)
        } else {
            idle_since
        };
        for slot in &self.slots {
            let actor = slot.door.actor();
            if used(&slot) <= threshold
                && slot.door.depth() == 0
                && actor.get_status() == ActorStatus::Running
            {
                drop(actor.drain());
            }
        }
        self.slots.retain(|_, slot| {
            slot.door.actor().get_status() != ActorStatus::Stopped || idle_since < used(slot)
        });
    }

    /// Gives how many messages wait at the door of each chat that is in memory.
    pub(crate) fn depths(&self, mut tell: impl FnMut(usize)) {
        self.slots.iter().for_each(|it| tell(it.door.depth()));
    }

    /// Forgets the chats of a device that was removed.
    pub fn forget(&self, device: DeviceId) {
        self.slots.retain(|key, _| key.device != device);
    }

    /// How many are in memory.
    #[must_use]
    pub fn resident(&self) -> usize {
        self.slots.len()
    }

    /// The chats of a device that are in memory: how much waits, and how often they crashed. At most `max`.
    #[must_use]
    pub fn of_device(&self, device: DeviceId, max: usize) -> Vec<(Jid, usize, u64)> {
        let of_device = self.slots.iter().filter(|it| it.key().device == device);
        of_device
            .take(max)
            .map(|it| {
                (
                    it.key().chat.clone(),
                    it.door.depth(),
                    it.budget.lock().total(),
                )
            })
            .collect()
    }
}

impl fmt::Debug for Chats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chats")
            .field("resident", &self.slots.len())
            .finish_non_exhaustive()
    }
}

/// Which message a step is about.
#[derive(Clone, Copy, Debug)]
pub enum StepOf {
    /// One that was handed to the network, or ended, and leaves the outbox.
    HandedOver(MessageId),
    /// One that is named in a receipt.
    Named(MessageId),
}
