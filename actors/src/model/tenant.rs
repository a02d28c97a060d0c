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

/// A tenant as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, for people.
    pub name: String,
    /// What it may use.
    pub limits: TenantLimits,
    /// When it was made.
    pub created_at: Timestamp,
}
