use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

use super::message::DeviceMsg;
use crate::chat::{ChatOwner, Chats};
use crate::door::Door;
use crate::log::Log;
use crate::model::{DeviceId, DeviceRecord, Jid, MessageBody, Qr, TenantId, Timestamp};
use crate::ports::connector::Session;
use crate::ports::{Clock, Store};
use crate::supervise::Vitals;
use crate::tenant::Shared as TenantShared;

/// Sends of one device that are not settled yet: more than there can be.
const SENDS_MAX: u32 = 1 << 20;

/// What a device leaves on the desk for those who must not wait for its actor.
pub(crate) struct DeviceShared {
    pub(super) id: DeviceId,
    pub(super) tenant: Arc<TenantShared>,
    /// What is durable, and so may be shown.
    pub(super) record: RwLock<Arc<DeviceRecord>>,
    pub(super) qr: Mutex<Option<Qr>>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) door: RwLock<Option<Door<DeviceMsg>>>,
    pub(super) session: RwLock<Option<Arc<dyn Session>>>,
    /// What waits for the network in memory, and whether more does in the store.
    pub(super) outbox_messages: AtomicUsize,
    pub(super) outbox_goes_on: AtomicBool,
    /// Fresh messages on their way to the actor.
    pub(super) offered: AtomicUsize,
    pub(super) overlooked: AtomicBool,
    pub(super) removing: AtomicBool,
    /// One for each send that is not settled yet; a removal takes them all.
    pub(super) sends: Arc<Semaphore>,
    pub(super) last_inbound: AtomicI64,
    pub(super) last_ack: AtomicI64,
    pub(crate) vitals: Vitals,
}

impl DeviceShared {
    pub(super) fn new(tenant: Arc<TenantShared>, record: DeviceRecord) -> Self {
        let last_inbound = record.last_inbound_at.map_or(0, Timestamp::as_millis);
        let last_ack = record.last_ack_at.map_or(0, Timestamp::as_millis);
        Self {
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
            sends: Arc::new(Semaphore::new(
                usize::try_from(SENDS_MAX).unwrap_or(usize::MAX),
            )),
            last_inbound: AtomicI64::new(last_inbound),
            last_ack: AtomicI64::new(last_ack),
            vitals: Vitals::default(),
        }
    }

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

    /// Waits until every send is settled, and lets no other begin.
    pub(super) async fn end_sends(&self) {
        // Nobody closes it, so nothing can go wrong.
        if let Ok(all) = self.sends.acquire_many(SENDS_MAX).await {
            all.forget();
        }
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
