use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use ractor::{Actor, ActorCell, ActorId};

use super::actor::TenantActor;
use super::message::{CreatedDevice, DeviceDraft, TenantChange, TenantMsg};
use crate::device::DeviceHandle;
use crate::door::Door;
use crate::log::LogHandle;
use crate::model::{DeviceId, Removal, Tenant, TenantId, TenantLimits};
use crate::node::Base;
use crate::ports::Claim;
use crate::supervise::Vitals;
use crate::{CommandError, StartError};

/// What a tenant leaves on the desk for those who must not wait for its actor.
pub(crate) struct Shared {
    base: Base,
    record: RwLock<Arc<Tenant>>,
    pub(super) devices: RwLock<BTreeMap<DeviceId, DeviceHandle>>,
    pub(super) cells: Mutex<HashMap<ActorId, DeviceId>>,
    pub(super) log: RwLock<Option<LogHandle>>,
    door: RwLock<Option<Door<TenantMsg>>>,
    cell: ActorCell,
    vitals: Arc<Vitals>,
    pub(super) log_vitals: Vitals,
}

impl Shared {
    /// Notes whose actor this is, before it can fail.
    pub(crate) fn note_device(&self, cell: &ActorCell, device: DeviceId) {
        self.cells.lock().insert(cell.get_id(), device);
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    pub(crate) fn id(&self) -> TenantId {
        self.record.read().id
    }

    pub(super) fn record(&self) -> Arc<Tenant> {
        Arc::clone(&self.record.read())
    }

    pub(super) fn set_record(&self, record: Arc<Tenant>) {
        *self.record.write() = record;
    }

    /// The tenant's actor; the node's until it has started.
    pub(crate) fn cell(&self) -> ActorCell {
        self.door
            .read()
            .as_ref()
            .map_or_else(|| self.cell.clone(), |it| it.actor().get_cell())
    }
}

/// A tenant, as everybody else sees it. Cheap to clone.
#[derive(Clone)]
pub struct TenantHandle {
    shared: Arc<Shared>,
}

impl TenantHandle {
    /// Starts a tenant: its log, and after that its devices, while it already answers.
    pub(crate) async fn start(
        base: Base,
        record: Tenant,
        vitals: Arc<Vitals>,
        supervisor: ActorCell,
    ) -> Result<Self, StartError> {
        let limits = base.limits.tenant;
        let shared = Arc::new(Shared {
            base,
            record: RwLock::new(Arc::new(record)),
            devices: RwLock::new(BTreeMap::new()),
            cells: Mutex::new(HashMap::new()),
            log: RwLock::new(None),
            door: RwLock::new(None),
            cell: supervisor.clone(),
            vitals,
            log_vitals: Vitals::default(),
        });
        let started = Actor::spawn_linked(None, TenantActor, Arc::clone(&shared), supervisor).await;
        let (actor, _running) = started.map_err(|error| StartError {
            actor: "tenant",
            source: Box::new(error),
        })?;
        *shared.door.write() = Some(Door::new(actor, limits));
        Ok(Self { shared })
    }

    /// Gives the tenant its first work, once its supervisor knows it and so will hear of it should it fail.
    pub(crate) fn begin(&self) {
        if let Ok(door) = self.door() {
            drop(door.push(TenantMsg::StartDevices));
        }
    }

    pub(crate) fn cell(&self) -> ActorCell {
        self.shared.cell()
    }

    fn door(&self) -> Result<Door<TenantMsg>, CommandError> {
        self.shared
            .door
            .read()
            .clone()
            .ok_or(CommandError::Unavailable)
    }

    /// The tenant as it is stored.
    #[must_use]
    pub fn record(&self) -> Arc<Tenant> {
        self.shared.record()
    }

    /// The log.
    ///
    /// # Errors
    ///
    /// `Unavailable` while it rests after a failure.
    pub fn log(&self) -> Result<LogHandle, CommandError> {
        self.shared
            .log
            .read()
            .clone()
            .ok_or(CommandError::Unavailable)
    }

    /// A device.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<DeviceHandle> {
        self.shared.devices.read().get(&id).cloned()
    }

    /// All devices, newest first.
    #[must_use]
    pub fn devices(&self) -> Vec<DeviceHandle> {
        self.shared.devices.read().values().rev().cloned().collect()
    }

    /// Makes a device.
    ///
    /// # Errors
    ///
    /// `NumberTaken`, `LimitReached`, `IdempotencyMismatch`, or what keeps it from being stored.
    pub async fn create_device(
        &self,
        draft: DeviceDraft,
        claim: Option<Claim>,
    ) -> Result<CreatedDevice, CommandError> {
        self.door()?
            .ask(|reply| TenantMsg::CreateDevice {
                draft,
                claim,
                reply,
            })
            .await
    }

    /// Removes a device and all that belongs to it.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none.
    pub async fn remove_device(&self, device: DeviceId) -> Result<(), CommandError> {
        self.door()?
            .ask(|reply| TenantMsg::RemoveDevice { device, reply })
            .await
    }

    /// Changes what the tenant may use.
    ///
    /// # Errors
    ///
    /// What keeps it from being stored.
    pub(crate) async fn set_limits(
        &self,
        limits: TenantLimits,
    ) -> Result<Arc<Tenant>, CommandError> {
        self.change(TenantChange::Limits(limits)).await
    }

    /// Notes how far its removal is.
    ///
    /// # Errors
    ///
    /// What keeps it from being stored.
    pub(crate) async fn set_removal(&self, removal: Removal) -> Result<Arc<Tenant>, CommandError> {
        self.change(TenantChange::Removal(removal)).await
    }

    async fn change(&self, change: TenantChange) -> Result<Arc<Tenant>, CommandError> {
        self.door()?
            .ask(|reply| TenantMsg::Change { change, reply })
            .await
    }

    /// How many messages wait at its door.
    pub(crate) fn depth(&self) -> usize {
        self.shared.door.read().as_ref().map_or(0, Door::depth)
    }

    /// The actors below, for the operator: at most `max` devices.
    pub(crate) fn supervision(&self, max: usize) -> serde_json::Value {
        let now = self.shared.base.clock.now();
        let devices = self.devices();
        let shown: Vec<_> = devices
            .iter()
            .take(max)
            .map(|it| device_supervision(&self.shared.base, it, now))
            .collect();
        serde_json::json!({
            "actor": "tenant",
            "name": self.record().id,
            "status": format!("{:?}", self.cell().get_status()),
            "queue": self.depth(),
            "vitals": self.shared.vitals.to_json(now),
            "log": self.shared.log_vitals.to_json(now),
            "devices_total": devices.len(),
            "children": shown,
        })
    }
}

/// Chats of a device that the operator is shown.
const CHATS_SHOWN: usize = 20;

fn device_supervision(
    base: &Base,
    device: &DeviceHandle,
    now: crate::model::Timestamp,
) -> serde_json::Value {
    let chats = base.chats.of_device(device.id(), CHATS_SHOWN);
    let chats: Vec<_> = chats
        .iter()
        .map(|(jid, queue, restarts)| serde_json::json!({"actor": "chat", "name": format!("{jid:?}"), "queue": queue, "vitals": {"restarts": restarts}}))
        .collect();
    serde_json::json!({
        "actor": "device",
        "name": device.id(),
        "state": device.record().session.state,
        "queue": device.depth(),
        "vitals": device.vitals().to_json(now),
        "children": chats,
    })
}

impl fmt::Debug for TenantHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantHandle")
            .field("id", &self.shared.id())
            .finish_non_exhaustive()
    }
}
