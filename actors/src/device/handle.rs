use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorCell};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::DeviceActor;
use super::message::{DeviceMsg, DevicePatch};
use super::shared::{DeviceShared, OutboxView};
use super::state::Input;
use crate::chat::{ChatHome, ChatOwner, Draft, ReadMark, SentMessage};
use crate::door::Door;
use crate::model::{
    Chat, DeviceId, DeviceRecord, Direction, Jid, MessageId, Qr, Session as SessionView, TenantId,
    Timestamp,
};
use crate::ports::connector::{Command, Typing};
use crate::ports::{Claim, MessageFilter, MessagePage, MessageQuery, Order};
use crate::supervise::Vitals;
use crate::tenant::Shared as TenantShared;
use crate::{CommandError, StartError};

/// A device, as everybody else sees it. Cheap to clone; outlives a restart of the actor.
#[derive(Clone)]
pub struct DeviceHandle {
    shared: Arc<DeviceShared>,
}

impl From<Arc<DeviceShared>> for DeviceHandle {
    fn from(shared: Arc<DeviceShared>) -> Self {
        Self { shared }
    }
}

/// How many messages are read at a time for a mark of reading.
const READ_PAGE: usize = 1_000;

impl DeviceHandle {
    /// Makes a device known; [`Self::start`] brings it to life.
    pub(crate) fn new(tenant: Arc<TenantShared>, record: DeviceRecord) -> Self {
        Self {
            shared: Arc::new(DeviceShared::new(tenant, record)),
        }
    }

    /// The tenant that it belongs to.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.shared.tenant()
    }

    /// Starts the actor, also once more after a crash.
    pub(crate) async fn start(&self, supervisor: ActorCell) -> Result<ActorCell, StartError> {
        self.shared.offered.store(0, Ordering::Release);
        self.shared.overlooked.store(false, Ordering::Release);
        let started =
            Actor::spawn_linked(None, DeviceActor, Arc::clone(&self.shared), supervisor).await;
        let (actor, _running) = started.map_err(|error| StartError {
            actor: "device",
            source: Box::new(error),
        })?;
        let cell = actor.get_cell();
        self.shared.tenant.note_device(&cell, self.shared.id);
        *self.shared.door.write() = Some(Door::new(actor, self.shared.base().limits.device));
        self.shared
            .changed
            .send_modify(|it| *it = it.wrapping_add(1));
        let _heard = self.shared.tell(DeviceMsg::Noted(Input::Boot));
        Ok(cell)
    }

    pub(super) fn shared(&self) -> &DeviceShared {
        &self.shared
    }

    pub(crate) fn vitals(&self) -> &Vitals {
        &self.shared.vitals
    }

    pub(crate) fn depth(&self) -> usize {
        self.shared.door.read().as_ref().map_or(0, Door::depth)
    }

    pub(crate) fn outbox(&self) -> OutboxView {
        OutboxView {
            messages: self.shared.outbox_messages.load(Ordering::Relaxed),
            goes_on: self.shared.outbox_goes_on.load(Ordering::Relaxed),
        }
    }

    /// The way to the actor; waits for a device that was just made or found to come to life.
    async fn door(&self) -> Result<Door<DeviceMsg>, CommandError> {
        self.present()?;
        let mut changes = self.changes();
        let started = async {
            loop {
                let door = self.shared.door.read().clone();
                if let Some(door) = door {
                    return door;
                }
                // The sender is our own: it does not go away while it is waited for.
                drop(changes.changed().await);
            }
        };
        let started = tokio::time::timeout(self.patience(), started).await;
        started.map_err(|_late| CommandError::Unavailable)
    }

    /// How long a caller waits for what stands beside his command: a start before it, the network's ear behind it.
    fn patience(&self) -> Duration {
        self.shared.base().limits.device.answer_max / 2
    }

    pub(super) fn home(&self) -> ChatHome {
        let supervisor = self
            .shared
            .door
            .read()
            .as_ref()
            .map(|it| it.actor().get_cell());
        let supervisor = supervisor.unwrap_or_else(|| self.shared.tenant.cell());
        ChatHome {
            tenant: self.shared.tenant(),
            device: self.shared.id,
            supervisor,
            owner: Arc::clone(&self.shared) as Arc<dyn ChatOwner>,
            call: None,
        }
    }

    /// As [`Self::home`], for a send: the device is not removed before it is settled.
    fn home_for_send(&self) -> Result<ChatHome, CommandError> {
        self.present()?;
        let call = Arc::clone(&self.shared.sends).try_acquire_owned();
        let call = call.map_err(|_removing| CommandError::NotFound)?;
        Ok(ChatHome {
            call: Some(Arc::new(call)),
            ..self.home()
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.shared.id
    }

    /// The device as it is stored.
    #[must_use]
    pub fn record(&self) -> Arc<DeviceRecord> {
        self.shared.record()
    }

    /// The state of its session.
    #[must_use]
    pub fn session(&self) -> SessionView {
        let record = self.shared.record();
        let time = |it: &AtomicI64| {
            Some(it.load(Ordering::Relaxed))
                .filter(|it| 0 < *it)
                .map(Timestamp::from_millis)
        };
        SessionView {
            device: self.shared.id,
            session: record.session.clone(),
            last_inbound_at: time(&self.shared.last_inbound),
            last_ack_at: time(&self.shared.last_ack),
        }
    }

    /// The QR that is being shown.
    #[must_use]
    pub fn qr(&self) -> Option<Qr> {
        self.shared.qr.lock().clone()
    }

    /// Wakes whenever the state or the QR changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    async fn command(&self, input: Input) -> Result<Arc<DeviceRecord>, CommandError> {
        self.door()
            .await?
            .ask(|reply| DeviceMsg::Command { input, reply })
            .await
    }

    /// Wants it on the network.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub async fn connect(&self) -> Result<Arc<DeviceRecord>, CommandError> {
        self.command(Input::Connect).await
    }

    /// Wants it off the network; the link stays.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub async fn disconnect(&self) -> Result<Arc<DeviceRecord>, CommandError> {
        self.command(Input::Disconnect).await
    }

    /// Wants it off and on again.
    ///
    /// # Errors
    ///
    /// `StateConflict` where it is not linked.
    pub async fn restart(&self) -> Result<Arc<DeviceRecord>, CommandError> {
        self.command(Input::Restart).await
    }

    /// Gives up the link.
    ///
    /// # Errors
    ///
    /// `StateConflict` where it is not linked.
    pub async fn logout(&self) -> Result<Arc<DeviceRecord>, CommandError> {
        self.command(Input::Logout).await
    }

    /// Changes its description.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub async fn patch(&self, patch: DevicePatch) -> Result<Arc<DeviceRecord>, CommandError> {
        self.door()
            .await?
            .ask(|reply| DeviceMsg::Patch { patch, reply })
            .await
    }

    /// Removes it: what waits ends as failed, then all that belongs to it goes.
    ///
    /// # Errors
    ///
    /// See [`CommandError`].
    pub(crate) async fn remove(&self) -> Result<(), CommandError> {
        self.door()
            .await?
            .ask(|reply| DeviceMsg::Remove { reply })
            .await
    }

    /// Takes a message for the network; answers when it is durable.
    ///
    /// # Errors
    ///
    /// See [`Chats::send`](crate::chat::Chats::send).
    pub async fn send(
        &self,
        chat: Jid,
        draft: Draft,
        claim: Option<Claim>,
    ) -> Result<SentMessage, CommandError> {
        let home = self.home_for_send()?;
        self.shared.chats().send(&home, chat, draft, claim).await
    }

    /// As [`Self::send`], in the order of the calls; see
    /// [`Chats::send_in_order`](crate::chat::Chats::send_in_order).
    ///
    /// # Errors
    ///
    /// See [`Chats::send_in_order`](crate::chat::Chats::send_in_order).
    pub async fn send_in_order(
        &self,
        chat: Jid,
        draft: Draft,
        claim: Option<Claim>,
        deadline: Instant,
    ) -> Result<impl Future<Output = Result<SentMessage, CommandError>> + use<>, CommandError> {
        let home = self.home_for_send()?;
        self.shared
            .chats()
            .send_in_order(&home, chat, draft, claim, deadline)
            .await
    }

    fn present(&self) -> Result<(), CommandError> {
        if self.shared.removing.load(Ordering::Acquire) {
            Err(CommandError::NotFound)
        } else {
            Ok(())
        }
    }

    /// Marks a chat as read up to a message, or altogether, and tells the network where it is reached.
    ///
    /// # Errors
    ///
    /// `NotFound` for a chat or message that is not there.
    pub async fn mark_read(
        &self,
        chat: Jid,
        up_to: Option<MessageId>,
        claim: Option<Claim>,
    ) -> Result<Chat, CommandError> {
        self.present()?;
        let shared = &self.shared;
        let row = shared
            .store()
            .chat(shared.tenant(), shared.id, &chat)
            .await?
            .ok_or(CommandError::NotFound)?;
        let newest = row
            .last_message
            .as_ref()
            .map(|it| it.id)
            .ok_or(CommandError::NotFound)?;
        let up_to = up_to.unwrap_or(newest);
        let (unread_after, from) = self.unread_between(&row, up_to, newest).await?;
        let mark = ReadMark {
            up_to,
            newest,
            unread_after,
        };
        let marked = shared
            .chats()
            .mark_read(&self.home(), chat, mark, claim)
            .await?;
        let read = row.unread.saturating_sub(unread_after);
        // What may be lost when the network is not reached, or is slow.
        let told = self.tell_read(row.jid, up_to, from, read);
        drop(tokio::time::timeout(self.patience(), told).await);
        Ok(marked)
    }

    /// How many inbound messages after `up_to`, up to the newest of the snapshot, are unread, and the oldest of them.
    /// Ends with as many as the chat has unread, or at `up_to`.
    async fn unread_between(
        &self,
        row: &Chat,
        up_to: MessageId,
        newest: MessageId,
    ) -> Result<(u32, Option<MessageId>), CommandError> {
        let (mut unread, mut oldest, mut beyond) = (0, None, None);
        while unread < row.unread {
            let page = self
                .inbound(&row.jid, beyond, row.unread.saturating_sub(unread))
                .await?;
            let after = page.items.iter().take_while(|it| up_to < it.body.id);
            for message in after.filter(|it| it.body.id <= newest) {
                unread = unread.saturating_add(1);
                oldest = Some(message.body.id);
            }
            match page.next {
                Some(next) if up_to < next => beyond = Some(next),
                Some(_) | None => break,
            }
        }
        Ok((unread, oldest))
    }

    /// Tells the network that the newest `count` inbound messages up to `up_to` were read. They lie beyond `from`.
    async fn tell_read(
        &self,
        chat: Jid,
        up_to: MessageId,
        from: Option<MessageId>,
        count: u32,
    ) -> Result<(), CommandError> {
        let (mut left, mut beyond) = (count, from);
        while 0 < left
            && let Some(session) = self.shared.session()
        {
            let page = self.inbound(&chat, beyond, left).await?;
            // Not those that came meanwhile.
            let read = page.items.into_iter().filter(|it| it.body.id <= up_to);
            let mut upstream_ids: Vec<String> = read.map(|it| it.body.upstream_id).collect();
            upstream_ids.reverse();
            left = left.saturating_sub(u32::try_from(upstream_ids.len()).unwrap_or(u32::MAX));
            if !upstream_ids.is_empty() {
                let chat = chat.clone();
                let command = Command::MarkRead { chat, upstream_ids };
                if let Err(error) = session.execute(command).await {
                    tracing::debug!(device = %self.shared.id, %error, "network was not told");
                    return Ok(());
                }
            }
            match page.next {
                Some(next) => beyond = Some(next),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// A page of inbound messages of a chat, newest first.
    async fn inbound(
        &self,
        chat: &Jid,
        beyond: Option<MessageId>,
        max: u32,
    ) -> Result<MessagePage, CommandError> {
        let query = MessageQuery {
            chat: Some(chat.clone()),
            beyond,
            order: Order::Newest,
            filter: MessageFilter {
                direction: Some(Direction::In),
                ..MessageFilter::default()
            },
            limit: usize::try_from(max).map_or(READ_PAGE, |it| it.min(READ_PAGE)),
        };
        let (tenant, device) = (self.shared.tenant(), self.shared.id);
        Ok(self.shared.store().messages(tenant, device, query).await?)
    }

    /// Tells a chat that somebody types, and after `span` that it is over.
    ///
    /// # Errors
    ///
    /// `StateConflict` where the device is not on the network.
    pub async fn type_for(
        &self,
        chat: Jid,
        typing: Typing,
        span: Option<Duration>,
    ) -> Result<(), CommandError> {
        self.door()
            .await?
            .ask(|reply| DeviceMsg::Type {
                chat,
                typing,
                span,
                reply,
            })
            .await
    }

    /// Tells a chat that somebody types.
    ///
    /// # Errors
    ///
    /// `StateConflict` where the device is not on the network.
    pub async fn typing(&self, chat: Jid, typing: Typing) -> Result<(), CommandError> {
        self.type_for(chat, typing, None).await
    }
}

impl fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceHandle")
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}
