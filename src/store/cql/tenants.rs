//! The tenants of the store, in memory.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use actors::log::{Log, RingBudget, Sequencer};
use actors::model::{Cursor, DeviceId, Jid, MessageId, TenantId};
use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::change::Cell;

/// The epoch of a log that was never repaired.
pub(super) const FIRST_EPOCH: u32 = 1;
/// Buckets that are known to be written down, of one tenant; beyond it all are forgotten.
const KNOWN_BUCKETS_MAX: usize = 4_096;

/// Where a tenant stands; only who commits for it changes this.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    /// Gives the places.
    pub(super) sequencer: Sequencer,
    /// Entries up to here are gone for readers.
    pub(super) floor: u64,
    /// The number of the last commit.
    pub(super) committed: u64,
    /// Commits up to here are in their rows, and the journal says so.
    pub(super) applied: u64,
    /// Whether parts of commits may lie in the journal.
    pub(super) has_parts: bool,
}

impl Ledger {
    /// That of a tenant that begins.
    pub(super) fn new(tenant: TenantId) -> Self {
        let head = Cursor {
            epoch: FIRST_EPOCH,
            seq: 0,
        };
        Self {
            sequencer: Sequencer::new(tenant, head),
            floor: 0,
            committed: 0,
            applied: 0,
            has_parts: false,
        }
    }
}

/// A bucket of a chat's messages, or of a device's where no chat is named.
pub(super) type Bucket = (DeviceId, Option<Jid>, i32);

/// A tenant: one that exists, or one whose first job is on its way.
pub(super) struct Slot {
    id: TenantId,
    key: Cell,
    log: OnceLock<Arc<Log>>,
    devices: RwLock<HashSet<DeviceId>>,
    /// Devices that were removed since the store was opened: what comes late for them is nobody's.
    gone: RwLock<HashSet<DeviceId>>,
    settled: watch::Sender<u64>,
    /// Outbox rows of the commit under way: they may lie in their table already, but are not shown before it is through.
    hidden: Mutex<HashSet<(DeviceId, MessageId)>>,
    known_buckets: Mutex<HashSet<Bucket>>,
    shown: watch::Sender<u64>,
    /// The commit whose rows are being written, by the count of those that will then be through.
    applying: AtomicU64,
    /// Taken by who commits for the tenant, one at a time.
    pub(super) ledger: tokio::sync::Mutex<Ledger>,
}

impl Slot {
    fn new(id: TenantId, key: Cell) -> Arc<Self> {
        Arc::new(Self {
            id,
            key,
            log: OnceLock::new(),
            devices: RwLock::default(),
            gone: RwLock::default(),
            settled: watch::Sender::new(0),
            hidden: Mutex::default(),
            known_buckets: Mutex::default(),
            shown: watch::Sender::new(0),
            applying: AtomicU64::new(0),
            ledger: tokio::sync::Mutex::new(Ledger::new(id)),
        })
    }

    pub(super) fn id(&self) -> TenantId {
        self.id
    }

    /// The id under which its rows lie.
    pub(super) fn key(&self) -> Cell {
        self.key.clone()
    }

    /// Its log, once it exists.
    pub(super) fn log(&self) -> Option<&Arc<Log>> {
        self.log.get()
    }

    /// Says that it exists, with the log that it has.
    pub(super) fn start_log(
        &self,
        head: Cursor,
        floor: u64,
        budget: &Arc<RingBudget>,
    ) -> &Arc<Log> {
        self.log
            .get_or_init(|| Arc::new(Log::new(self.id, head, floor, Arc::clone(budget))))
    }

    /// Whether a device exists.
    pub(super) fn has(&self, device: DeviceId) -> bool {
        self.devices.read().contains(&device)
    }

    pub(super) fn is_gone(&self, device: DeviceId) -> bool {
        self.gone.read().contains(&device)
    }

    pub(super) fn add_device(&self, device: DeviceId) {
        self.devices.write().insert(device);
    }

    /// Forgets a device, and so all its rows.
    pub(super) fn forget_device(&self, device: DeviceId) {
        self.devices.write().remove(&device);
        self.gone.write().insert(device);
    }

    /// Hides outbox rows until their commit is through.
    pub(super) fn hide(&self, rows: &[(DeviceId, MessageId)]) {
        self.hidden.lock().extend(rows.iter().copied());
    }

    /// Shows all rows: the commit under way is through.
    pub(super) fn show(&self) {
        self.hidden.lock().clear();
        self.shown.send_modify(|it| *it += 1);
    }

    pub(super) fn is_hidden(&self, device: DeviceId, id: MessageId) -> bool {
        self.hidden.lock().contains(&(device, id))
    }

    /// How many commits are through: what is read before and after the same number of them is the same.
    pub(super) fn shown(&self) -> u64 {
        *self.shown.borrow()
    }

    /// Says that the rows of the commit under way are being written from now on.
    pub(super) fn applies(&self) {
        self.applying.store(self.shown() + 1, Ordering::Release);
    }

    /// Waits until what was just read is shown: rows are in their tables a moment before their commit is through.
    pub(super) async fn caught_up(&self) {
        let applying = self.applying.load(Ordering::Acquire);
        let mut shown = self.shown.subscribe();
        // The sender lives as long as `self`.
        drop(shown.wait_for(|it| applying <= *it).await);
    }

    /// Whether a bucket is known to be written down.
    pub(super) fn knows_bucket(&self, bucket: &Bucket) -> bool {
        self.known_buckets.lock().contains(bucket)
    }

    /// Notes buckets that are written down.
    pub(super) fn know_buckets(&self, buckets: Vec<Bucket>) {
        let mut known = self.known_buckets.lock();
        if KNOWN_BUCKETS_MAX < known.len() + buckets.len() {
            known.clear();
        }
        known.extend(buckets);
    }

    /// Says that every job up to this ticket is settled.
    pub(super) fn settle(&self, ticket: u64) {
        self.settled.send_if_modified(|it| {
            let further = *it < ticket;
            *it = ticket.max(*it);
            further
        });
    }

    /// Waits until this ticket is settled.
    pub(super) async fn passed(&self, ticket: u64) {
        let mut settled = self.settled.subscribe();
        // The sender lives as long as `self`, so this ends with the ticket.
        drop(settled.wait_for(|it| ticket <= *it).await);
    }
}

/// All tenants by id.
pub(super) struct Tenants {
    slots: DashMap<TenantId, Arc<Slot>>,
    gateway: [u8; 16],
}

impl Tenants {
    /// Only the gateway's own. Its rows lie under an id that follows from the cluster's name, since the tenant that
    /// stands for the gateway has the same id in every cluster.
    pub(super) fn new(cluster: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(format!("buho cluster {cluster}")).into();
        let mut gateway = [0; 16];
        gateway
            .iter_mut()
            .zip(hash)
            .for_each(|(to, from)| *to = from);
        let tenants = Self {
            slots: DashMap::new(),
            gateway,
        };
        tenants.slot_or_new(TenantId::GATEWAY);
        tenants
    }

    fn key(&self, id: TenantId) -> Cell {
        Cell::id(if id == TenantId::GATEWAY {
            self.gateway
        } else {
            id.to_bytes()
        })
    }

    /// One that exists, or whose first job is on its way.
    pub(super) fn slot(&self, id: TenantId) -> Option<Arc<Slot>> {
        self.slots.get(&id).map(|it| Arc::clone(&it))
    }

    /// One that exists.
    pub(super) fn existing(&self, id: TenantId) -> Option<Arc<Slot>> {
        self.slot(id).filter(|it| it.log().is_some())
    }

    /// One that is there, or a new one.
    pub(super) fn slot_or_new(&self, id: TenantId) -> Arc<Slot> {
        let new = || Slot::new(id, self.key(id));
        Arc::clone(&self.slots.entry(id).or_insert_with(new))
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.iter().map(|it| Arc::clone(&it)).collect()
    }
}
