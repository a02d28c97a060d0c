//! `/v1/me`: what the credential of a call is.

use actors::model::{DeviceId, KeyId, KeyKind, ScopeSet, TenantId, TenantLimits, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::Call;
use super::reply::Reply;
use super::scope::Any;
use crate::problem::{ApiError, Problems};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(read_me))
}

/// A tenant, by id and name.
#[derive(Debug, Serialize, ToSchema)]
struct MyTenant {
    /// Its id.
    id: TenantId,
    /// Its name, for people.
    name: String,
}

/// A key, by id and name.
#[derive(Debug, Serialize, ToSchema)]
struct MyKey {
    /// Its id.
    id: KeyId,
    /// Its name, for people.
    name: String,
}

/// What a credential is and may do.
#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// Whose it is.
    tenant: MyTenant,
    /// The API key, or the one behind the access token.
    key: MyKey,
    /// The key's kind.
    kind: KeyKind,
    /// What the credential may do.
    scopes: ScopeSet,
    /// The devices it is bound to, where it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    devices: Vec<DeviceId>,
    /// When it ends by itself, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// What the tenant may use; 0 for no limit.
    limits: TenantLimits,
}

/// Tells what this credential may do, whose it is, and the tenant's limits.
#[utoipa::path(
    get, path = "/v1/me", operation_id = "read_me", tag = "me",
    responses((status = 200, description = "The credential.", body = Me), Problems),
)]
async fn read_me(call: Call<Any>) -> Result<Reply, ApiError> {
    call.no_query()?;
    let caller = call.caller();
    Reply::ok(&Me {
        tenant: MyTenant {
            id: caller.tenant(),
            name: caller.tenant_name().to_string(),
        },
        key: MyKey {
            id: caller.key(),
            name: caller.key_name().to_owned(),
        },
        kind: caller.kind(),
        scopes: caller.scopes(),
        devices: caller.devices().to_vec(),
        expires_at: caller.expires_at(),
        limits: caller.limits(),
    })
}
