//! The tenants of the store and the numbers of their devices, in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use actors::log::{Log, RingBudget};
use actors::model::{Cursor, DeviceId, TenantId};
use dashmap::DashMap;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::keys::Place;

/// The number of [`TenantId::GATEWAY`], which always exists.
pub(super) const GATEWAY: u32 = 0;

/// A tenant: one that exists, or one whose first job is on its way.
pub(super) struct Slot {
    id: TenantId,
    number: u32,
    log: OnceLock<Arc<Log>>,
    devices: RwLock<HashMap<DeviceId, u32>>,
    settled: watch::Sender<u64>,
}

impl Slot {
    fn new(id: TenantId, number: u32) -> Arc<Self> {
        let (log, devices) = (OnceLock::new(), RwLock::default());
        Arc::new(Self {
            id,
            number,
            log,
            devices,
            settled: watch::Sender::new(0),
        })
    }

    pub(super) fn id(&self) -> TenantId {
        self.id
    }

    pub(super) fn number(&self) -> u32 {
        self.number
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

    /// Where the rows of a device lie.
    pub(super) fn place(&self, device: DeviceId) -> Option<Place> {
        let number = self.devices.read().get(&device).copied()?;
        Some(Place {
            tenant: self.number,
            device: number,
        })
    }

    /// Names the number of a device that exists.
    pub(super) fn set_device(&self, device: DeviceId, number: u32) {
        self.devices.write().insert(device, number);
    }

    /// Forgets a device, and so all its rows.
    pub(super) fn forget_device(&self, device: DeviceId) {
        self.devices.write().remove(&device);
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
    next: AtomicU32,
}

impl Tenants {
    /// Only the gateway's own.
    pub(super) fn new() -> Self {
        let slots = DashMap::new();
        slots.insert(TenantId::GATEWAY, Slot::new(TenantId::GATEWAY, GATEWAY));
        Self {
            slots,
            next: AtomicU32::new(GATEWAY + 1),
        }
    }

    /// Adds one that the store has, unless it is known.
    pub(super) fn load(&self, id: TenantId, number: u32) -> Arc<Slot> {
        self.reserve(number);
        let slot = self.slots.entry(id);
        Arc::clone(&slot.or_insert_with(|| Slot::new(id, number)))
    }

    /// Keeps a number from being given again.
    pub(super) fn reserve(&self, number: u32) {
        self.next
            .fetch_max(number.saturating_add(1), Ordering::Relaxed);
    }

    /// One that exists, or whose first job is on its way.
    pub(super) fn slot(&self, id: TenantId) -> Option<Arc<Slot>> {
        self.slots.get(&id).map(|it| Arc::clone(&it))
    }

    /// One that exists.
    pub(super) fn existing(&self, id: TenantId) -> Option<Arc<Slot>> {
        self.slot(id).filter(|it| it.log().is_some())
    }

    /// One that is there, or one with a number of its own.
    pub(super) fn slot_or_new(&self, id: TenantId) -> Arc<Slot> {
        Arc::clone(
            &self
                .slots
                .entry(id)
                .or_insert_with(|| Slot::new(id, self.next_number())),
        )
    }

    /// Where the rows of a device lie; a device that is not known gets a number.
    pub(super) fn place_or_new(&self, slot: &Slot, device: DeviceId) -> Place {
        let number = *slot
            .devices
            .write()
            .entry(device)
            .or_insert_with(|| self.next_number());
        Place {
            tenant: slot.number,
            device: number,
        }
    }

    fn next_number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> Vec<Arc<Slot>> {
        self.slots.iter().map(|it| Arc::clone(&it)).collect()
    }
}
