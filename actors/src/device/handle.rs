use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use ractor::{Actor, ActorCell};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::DeviceActor;
use super::message::{DeviceMsg, DevicePatch};
use super::state::Input;
use crate::chat::{ChatHome, ChatOwner, Chats, Draft, ReadMark, SentMessage};
use crate::door::Door;
use crate::log::Log;
use crate::model::{
    Chat, DeviceId, DeviceRecord, Direction, Jid, MessageBody, MessageId, Qr,
    Session as SessionView, TenantId, Timestamp,
};
use crate::ports::connector::{Command, Session, Typing};
use crate::ports::{Claim, Clock, MessageFilter, MessageQuery, Order, Store};
use crate::supervise::Vitals;
use crate::tenant::Shared as TenantShared;
use crate::{CommandError, StartError};

/// What a device leaves on the desk for those who must not wait for its actor.
pub(crate) struct DeviceShared {
    id: DeviceId,
    tenant: Arc<TenantShared>,
    /// What is durable, and so may be shown.
    record: RwLock<Arc<DeviceRecord>>,
    qr: Mutex<Option<Qr>>,
    changed: watch::Sender<u64>,
    door: RwLock<Option<Door<DeviceMsg>>>,
    session: RwLock<Option<Arc<dyn Session>>>,
    /// What waits for the network in memory, and whether more does in the store.
    outbox_messages: AtomicUsize,
    outbox_goes_on: AtomicBool,
    /// Fresh messages on their way to the actor.
    offered: AtomicUsize,
    overlooked: AtomicBool,
    removing: AtomicBool,
    last_inbound: AtomicI64,
    last_ack: AtomicI64,
    pub(crate) vitals: Vitals,
}

impl DeviceShared {
    pub(super) fn id(&self) -> DeviceId {
        self.id
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.tenant.id()
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.tenant.base().store
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.tenant.base().clock
    }

    pub(super) fn chats(&self) -> &Arc<Chats> {
        &self.tenant.base().chats
    }

    pub(super) fn base(&self) -> &crate::node::Base {
        self.tenant.base()
    }

    pub(super) fn log(&self) -> Option<Arc<Log>> {
        self.store().log(self.tenant())
    }

    pub(super) fn record(&self) -> Arc<DeviceRecord> {
        Arc::clone(&self.record.read())
    }

    /// Shows a record that is durable.
    pub(super) fn show(&self, record: Arc<DeviceRecord>) {
        *self.record.write() = record;
        self.changed.send_modify(|it| *it = it.wrapping_add(1));
    }

    pub(super) fn show_qr(&self, qr: Option<Qr>) {
        *self.qr.lock() = qr;
        self.changed.send_modify(|it| *it = it.wrapping_add(1));
    }

    pub(super) fn set_session(&self, session: Option<Arc<dyn Session>>) {
        *self.session.write() = session;
    }

    pub(super) fn session(&self) -> Option<Arc<dyn Session>> {
        self.session.read().clone()
    }

    pub(super) fn show_outbox(&self, view: OutboxView) {
        self.outbox_messages.store(view.messages, Ordering::Relaxed);
        self.outbox_goes_on.store(view.goes_on, Ordering::Relaxed);
    }

    pub(super) fn set_removing(&self) {
        self.removing.store(true, Ordering::Release);
    }

    /// The network was heard.
    pub(super) fn heard(&self) {
        self.last_inbound
            .store(self.clock().now().as_millis(), Ordering::Relaxed);
    }

    /// The network has confirmed something.
    pub(super) fn acknowledged(&self) {
        self.last_ack
            .store(self.clock().now().as_millis(), Ordering::Relaxed);
    }

    /// A message that was offered has reached the actor.
    pub(super) fn offer_arrived(&self) {
        self.offered.fetch_sub(1, Ordering::AcqRel);
    }

    /// From now on what does not fit is told again.
    pub(super) fn overlooked_arrived(&self) {
        self.overlooked.store(false, Ordering::Release);
    }

    /// Tells the actor what its own work or its network has to say. Bounded by who may say it: one batch, one save, one
    /// page at a time, and the few notes of a session. Says whether the actor will hear it: one that is gone has no
    /// use for it, because its successor starts from the store.
    pub(super) fn tell(&self, message: DeviceMsg) -> bool {
        let door = self.door.read();
        door.as_ref().is_some_and(|it| it.push(message).is_ok())
    }
}

impl ChatOwner for DeviceShared {
    fn jid(&self) -> Option<Jid> {
        self.record.read().jid()
    }

    fn offer(&self, body: Arc<MessageBody>) {
        if self.offered.fetch_add(1, Ordering::AcqRel) < self.base().limits.outbox_window {
            if !self.tell(DeviceMsg::Offered(body)) {
                self.offered.fetch_sub(1, Ordering::AcqRel);
            }
            return;
        }
        self.offered.fetch_sub(1, Ordering::AcqRel);
        if !self.overlooked.swap(true, Ordering::AcqRel) {
            let _heard = self.tell(DeviceMsg::Overlooked);
        }
    }
}

/// What of a device waits for the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutboxView {
    /// Messages in memory.
    pub(crate) messages: usize,
    /// Whether more waits in the store, or may.
    pub(crate) goes_on: bool,
}

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

/// How long a caller waits for a device that is still starting.
const START_WAIT_MAX: Duration = Duration::from_secs(5);
/// How many messages are looked at for a mark of reading.
const READ_LOOK_MAX: usize = 1_000;

impl DeviceHandle {
    /// Makes a device known; [`Self::start`] brings it to life.
    pub(crate) fn new(tenant: Arc<TenantShared>, record: DeviceRecord) -> Self {
        let last_inbound = record.last_inbound_at.map_or(0, Timestamp::as_millis);
        let shared = DeviceShared {
            id: record.id,
            tenant,
            record: RwLock::new(Arc::new(record)),
            qr: Mutex::new(None),
            changed: watch::Sender::new(0),
            door: RwLock::new(None),
            session: RwLock::new(None),
            outbox_messages: AtomicUsize::new(0),
            outbox_goes_on: AtomicBool::new(false),
            offered: AtomicUsize::new(0),
            overlooked: AtomicBool::new(false),
            removing: AtomicBool::new(false),
            last_inbound: AtomicI64::new(last_inbound),
            last_ack: AtomicI64::new(0),
            vitals: Vitals::default(),
        };
        Self {
            shared: Arc::new(shared),
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
        let started = tokio::time::timeout(START_WAIT_MAX, started).await;
        started.map_err(|_late| CommandError::Unavailable)
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
        }
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
    /// See [`Chats::send`].
    pub async fn send(
        &self,
        chat: Jid,
        draft: Draft,
        claim: Option<Claim>,
    ) -> Result<SentMessage, CommandError> {
        self.present()?;
        self.shared
            .chats()
            .send(&self.home(), chat, draft, claim)
            .await
    }

    /// As [`Self::send`], in the order of the calls; see [`Chats::send_in_order`].
    ///
    /// # Errors
    ///
    /// See [`Chats::send_in_order`].
    pub async fn send_in_order(
        &self,
        chat: Jid,
        draft: Draft,
        claim: Option<Claim>,
        deadline: Instant,
    ) -> Result<impl Future<Output = Result<SentMessage, CommandError>> + use<>, CommandError> {
        self.present()?;
        self.shared
            .chats()
            .send_in_order(&self.home(), chat, draft, claim, deadline)
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
        let (tenant, device) = (shared.tenant(), shared.id);
        let row = shared
            .store()
            .chat(tenant, device, &chat)
            .await?
            .ok_or(CommandError::NotFound)?;
        let newest = row
            .last_message
            .as_ref()
            .map(|it| it.id)
            .ok_or(CommandError::NotFound)?;
        let up_to = up_to.unwrap_or(newest);
        let unread = usize::try_from(row.unread)
            .unwrap_or(READ_LOOK_MAX)
            .clamp(1, READ_LOOK_MAX);
        let filter = MessageFilter {
            direction: Some(Direction::In),
            ..MessageFilter::default()
        };
        let query = MessageQuery {
            chat: Some(chat.clone()),
            beyond: None,
            order: Order::Newest,
            filter,
            limit: unread,
        };
        let inbound = shared.store().messages(tenant, device, query).await?.items;
        let (after, read): (Vec<_>, Vec<_>) =
            inbound.into_iter().partition(|it| up_to < it.body.id);
        let unread_after = u32::try_from(after.len()).unwrap_or(u32::MAX);
        let mark = ReadMark {
            up_to,
            newest,
            unread_after,
        };
        let marked = shared
            .chats()
            .mark_read(&self.home(), chat.clone(), mark, claim)
            .await?;
        let upstream_ids: Vec<String> = read
            .into_iter()
            .rev()
            .map(|it| it.body.upstream_id)
            .collect();
        if 0 < row.unread && !upstream_ids.is_empty() {
            self.tell_network(Command::MarkRead { chat, upstream_ids })
                .await;
        }
        Ok(marked)
    }

    /// What may be lost when the network is not reached.
    async fn tell_network(&self, command: Command) {
        let Some(session) = self.shared.session() else {
            return;
        };
        let told = tokio::time::timeout(Duration::from_secs(5), session.execute(command)).await;
        if let Ok(Err(error)) = told {
            tracing::debug!(device = %self.shared.id, %error, "network was not told");
        }
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
