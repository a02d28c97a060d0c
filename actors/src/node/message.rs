use crate::door::Reply;
use crate::model::{Tenant, TenantId, TenantLimits};
use crate::tenant::TenantHandle;
use crate::{CommandError, StartError};

/// What the node can be asked, and what comes back from its slow work.
pub(super) enum NodeMsg {
    /// Start a tenant, or wait for its start.
    Start {
        tenant: TenantId,
        reply: Reply<TenantHandle>,
    },
    /// Start every tenant.
    StartAll,
    /// A tenant was started, or could not be.
    Started {
        tenant: TenantId,
        result: Result<TenantHandle, StartError>,
    },
    /// A rest is over.
    StartAgain(TenantId),
    /// Make a tenant.
    CreateTenant {
        name: String,
        limits: TenantLimits,
        reply: Reply<Tenant>,
    },
    /// A tenant was made, or not.
    Created {
        answer: Result<Tenant, CommandError>,
        reply: Reply<Tenant>,
    },
    /// A tenant is no more.
    Forget(TenantId),
    /// Idle chats leave.
    Sweep,
}
