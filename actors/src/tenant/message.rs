use std::sync::Arc;

use ractor::ActorCell;

use crate::device::DeviceHandle;
use crate::door::Reply;
use crate::model::{
    ConnectorChoice, Device, DeviceId, DeviceRecord, Faults, Metadata, PhoneNumber, Removal,
    Tenant, TenantLimits,
};
use crate::ports::{Claim, KeptAnswer};
use crate::{CommandError, StartError};

/// What a tenant can be asked, and what comes back from its slow work.
pub(super) enum TenantMsg {
    /// Make a device.
    CreateDevice {
        draft: DeviceDraft,
        claim: Option<Claim>,
        reply: Reply<CreatedDevice>,
    },
    /// A device was made, or not.
    Created {
        device: Option<DeviceHandle>,
        number: Option<PhoneNumber>,
        answer: Result<CreatedDevice, CommandError>,
        reply: Reply<CreatedDevice>,
    },
    /// Remove a device.
    RemoveDevice { device: DeviceId, reply: Reply<()> },
    /// A device is gone.
    Gone(DeviceId),
    /// Change the tenant's record.
    Change {
        change: TenantChange,
        reply: Reply<Arc<Tenant>>,
    },
    /// Start the devices that are known.
    StartDevices,
    /// A device was started, or could not be.
    Started {
        device: DeviceId,
        result: Result<ActorCell, StartError>,
    },
    /// A rest is over.
    StartAgain(DeviceId),
    /// The log's rest is over.
    StartLogAgain,
}

/// What changes about a tenant.
#[derive(Clone, Copy, Debug)]
pub(super) enum TenantChange {
    /// What it may use.
    Limits(TenantLimits),
    /// How far its removal is.
    Removal(Removal),
}

/// A device that is to be made.
#[derive(Clone, Debug)]
pub struct DeviceDraft {
    /// Its name, for people.
    pub name: String,
    /// Its connector.
    pub connector: ConnectorChoice,
    /// Its number, where the owner chooses it.
    pub number: Option<PhoneNumber>,
    /// The integrator's own pairs.
    pub metadata: Metadata,
}

impl DeviceDraft {
    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// Every rule that is broken.
    pub fn check(&self) -> Result<(), Faults> {
        crate::device::check_description(&self.name, &self.metadata)
    }

    pub(super) fn into_record(self, id: DeviceId, now: crate::model::Timestamp) -> DeviceRecord {
        DeviceRecord {
            id,
            name: self.name,
            connector: self.connector,
            number: self.number,
            linked: false,
            desired: crate::model::Desired::Disconnected,
            session: crate::model::SessionState::created(now),
            last_inbound_at: None,
            last_ack_at: None,
            metadata: self.metadata,
            created_at: now,
        }
    }
}

/// A device that was made, now or by an earlier call with the same key.
#[derive(Clone, Debug)]
pub enum CreatedDevice {
    /// Now.
    Made(Box<Device>),
    /// By an earlier call: its answer.
    Replayed(KeptAnswer),
}
