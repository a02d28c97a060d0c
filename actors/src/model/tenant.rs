//! Tenants.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{TenantId, Timestamp};

/// What a tenant may use; 0 means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantLimits {
    /// Devices.
    pub devices: u32,
    /// Open WebSocket and SSE connections.
    pub connections: u32,
    /// Calls a second.
    pub requests_per_second: u32,
}

impl TenantLimits {
    /// What counts where these are a tenant's own: `defaults` stand in for what it has no limit of its own for.
    #[must_use]
    pub const fn or(self, defaults: Self) -> Self {
        const fn first(own: u32, default: u32) -> u32 {
            if own == 0 { default } else { own }
        }
        Self {
            devices: first(self.devices, defaults.devices),
            connections: first(self.connections, defaults.connections),
            requests_per_second: first(self.requests_per_second, defaults.requests_per_second),
        }
    }
}

/// A tenant as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, for people.
    pub name: String,
    /// What it may use; 0 where the configured limit counts.
    pub limits: TenantLimits,
    /// When it was made.
    pub created_at: Timestamp,
    /// How far its removal is.
    #[serde(default, skip_serializing_if = "Removal::is_none")]
    #[schema(ignore)]
    pub removal: Removal,
}

impl Tenant {
    /// Whether nobody has begun to remove it.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        self.removal.is_none()
    }
}

/// How far the removal of a tenant is. What is left of one is its record, so that no start begins it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// It lives.
    #[default]
    None,
    /// Nobody is let in any more; what it owns goes.
    Begun,
    /// All that it owned is gone.
    Done,
}

impl Removal {
    /// Whether the tenant lives.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}
