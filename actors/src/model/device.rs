//! Devices and the state of their session.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DeviceId, Jid, Metadata, PhoneNumber, Timestamp};

/// Which network a device is linked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectorKind {
    /// The built-in simulated network.
    Simulator,
}

/// The connector of a device with its own settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ConnectorChoice {
    /// The built-in simulated network; it has no settings.
    Simulator {},
}

impl ConnectorChoice {
    /// Which network.
    #[must_use]
    pub const fn kind(&self) -> ConnectorKind {
        match self {
            Self::Simulator {} => ConnectorKind::Simulator,
        }
    }
}

/// Where a device's session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Made, never linked.
    Created,
    /// On its way to the network.
    Connecting,
    /// Shows a QR and waits for a phone.
    Pairing,
    /// Linked, and on the network.
    Connected,
    /// Off the network; still linked if it ever was.
    Disconnected,
    /// No longer linked.
    LoggedOut,
    /// The network will not have it; `reason` says why.
    Failed,
}

/// Whether the network restricts the account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// As it should be.
    #[default]
    Good,
    /// The network limits what it may send.
    Restricted,
    /// The network has shut it out.
    Banned,
}

/// How the network treats the account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// In one word.
    pub state: HealthState,
    /// Why.
    pub reason: Option<String>,
    /// Until when, where the network said so.
    pub until: Option<Timestamp>,
}

/// Where a session stands, since when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionState {
    /// Where it stands.
    pub state: DeviceState,
    /// Since when.
    pub since: Timestamp,
    /// Why, in a stable word.
    pub reason: Option<String>,
    /// Which attempt to connect this is; 0 when none is under way.
    pub attempt: u32,
    /// When the next attempt is made.
    pub next_attempt_at: Option<Timestamp>,
    /// How the network treats the account.
    pub health: Health,
}

impl SessionState {
    /// The state of a device that was just made.
    #[must_use]
    pub fn created(now: Timestamp) -> Self {
        Self {
            state: DeviceState::Created,
            since: now,
            reason: None,
            attempt: 0,
            next_attempt_at: None,
            health: Health::default(),
        }
    }
}

/// What the owner of a device wants of its session. Durable; what is observed is [`SessionState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// Be on the network, also after a restart.
    Connected,
    /// Stay off it.
    Disconnected,
}

/// A device as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Its name, for people.
    pub name: String,
    /// Its connector.
    pub connector: ConnectorChoice,
    /// Its phone number, once it is known.
    pub number: Option<PhoneNumber>,
    /// Its address on the network, once it is linked.
    pub jid: Option<Jid>,
    /// Where its session stands.
    #[serde(flatten)]
    pub session: SessionState,
    /// The integrator's own pairs.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A device as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Its id.
    pub id: DeviceId,
    /// Its name, for people.
    pub name: String,
    /// Its connector.
    pub connector: ConnectorChoice,
    /// Its phone number, once it is known.
    pub number: Option<PhoneNumber>,
    /// Whether a phone has linked it.
    pub linked: bool,
    /// What its owner wants.
    pub desired: Desired,
    /// Where its session last stood.
    pub session: SessionState,
    /// When the last message or receipt came in, as of the last save.
    #[serde(default)]
    pub last_inbound_at: Option<Timestamp>,
    /// When the network last took or confirmed something.
    #[serde(default)]
    pub last_ack_at: Option<Timestamp>,
    /// The integrator's own pairs.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
}

impl DeviceRecord {
    /// The address on the network, once linked.
    #[must_use]
    pub fn jid(&self) -> Option<Jid> {
        self.number
            .as_ref()
            .filter(|_| self.linked)
            .map(Jid::person)
    }

    /// The device as the API shows it.
    #[must_use]
    pub fn to_device(&self) -> Device {
        Device {
            id: self.id,
            name: self.name.clone(),
            connector: self.connector.clone(),
            number: self.number.clone(),
            jid: self.jid(),
            session: self.session.clone(),
            metadata: self.metadata.clone(),
            created_at: self.created_at,
        }
    }
}

/// The state of a device's session as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Session {
    /// The device.
    pub device: DeviceId,
    /// Where it stands.
    #[serde(flatten)]
    pub session: SessionState,
    /// When the last message or receipt came in.
    pub last_inbound_at: Option<Timestamp>,
    /// When the network last took or confirmed something.
    pub last_ack_at: Option<Timestamp>,
}

/// One change of a session's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionChange {
    /// The state after it.
    pub state: DeviceState,
    /// The state before it.
    pub previous: DeviceState,
    /// Why, in a stable word.
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A QR that is being shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Qr {
    /// What the QR says.
    pub code: String,
    /// When the next one takes its place.
    pub expires_at: Timestamp,
    /// Which one of this pairing it is, from 1.
    pub attempt: u32,
}
