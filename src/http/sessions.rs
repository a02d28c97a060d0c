//! Where the sessions of devices stand.

use std::collections::BTreeMap;

use actors::model::{Cursor, DeviceId, EventId, Session, SessionChange};
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::Call;
use super::paging::{Page, PageQuery, Walk, cut};
use super::reply::Reply;
use super::scope::DevicesRead;
use crate::problem::{ApiError, Problems};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions))
        .routes(routes!(read_session))
        .routes(routes!(list_session_changes))
}

/// The sessions of all devices.
#[derive(Debug, Serialize, ToSchema)]
struct Sessions {
    /// A page of them, newest device first.
    items: Vec<Session>,
    /// Ask for the next page with this; `null` at the end.
    next_cursor: Option<String>,
    /// The position in the event log that the list stands for.
    event_cursor: Cursor,
    /// How many devices are in each state, over all pages.
    counts: BTreeMap<String, u64>,
}

/// Lists the sessions of all devices, newest device first.
#[utoipa::path(
    get, path = "/v1/sessions", operation_id = "list_sessions", tag = "sessions", params(PageQuery),
    responses((status = 200, description = "A page of sessions, and counts by state.", body = Sessions), Problems),
)]
async fn list_sessions(
    State(api): State<ApiState>,
    call: Call<DevicesRead>,
) -> Result<Reply, ApiError> {
    let query: PageQuery = call.query()?;
    let (walk, beyond) = Walk::start::<DeviceId>(
        &api,
        call.tenant(),
        "list_sessions",
        &(),
        query.cursor.as_deref(),
    )?;
    let limit = query.limit();
    let devices = api.node.awake(call.tenant()).await?.devices();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut found: Vec<Session> = Vec::new();
    for device in devices.iter().filter(|it| call.caller().sees(it.id())) {
        let state = serde_json::to_value(device.record().session.state).unwrap_or_default();
        *counts
            .entry(state.as_str().unwrap_or_default().to_owned())
            .or_default() += 1;
        if found.len() <= limit && beyond.is_none_or(|it| device.id() < it) {
            found.push(device.session());
        }
    }
    let (items, next) = cut(found, limit, |it| it.device);
    let page = walk.page(items, next);
    Reply::ok(&Sessions {
        items: page.items,
        next_cursor: page.next_cursor,
        event_cursor: page.event_cursor,
        counts,
    })
}

/// Reads where the session of a device stands.
#[utoipa::path(
    get, path = "/v1/devices/{device}/session", operation_id = "read_session", tag = "sessions",
    params(("device" = DeviceId, Path, description = "The device.")),
    responses((status = 200, description = "The session.", body = Session), Problems),
)]
async fn read_session(
    State(api): State<ApiState>,
    call: Call<DevicesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    call.no_query()?;
    Reply::ok(&device.session())
}

/// Lists every change of a session's state with its reason, newest first.
#[utoipa::path(
    get, path = "/v1/devices/{device}/session/history", operation_id = "list_session_changes", tag = "sessions",
    params(("device" = DeviceId, Path, description = "The device."), PageQuery),
    responses((status = 200, description = "A page of changes.", body = Page<SessionChange>), Problems),
)]
async fn list_session_changes(
    State(api): State<ApiState>,
    call: Call<DevicesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let query: PageQuery = call.query()?;
    let list = format!("list_session_changes {}", device.id());
    let (walk, beyond) =
        Walk::start::<EventId>(&api, call.tenant(), &list, &(), query.cursor.as_deref())?;
    let limit = query.limit();
    let found = api
        .store
        .session_changes(call.tenant(), device.id(), beyond, limit + 1)
        .await?;
    let (found, next) = cut(found, limit, |(id, _)| *id);
    let items: Vec<SessionChange> = found.into_iter().map(|(_, change)| change).collect();
    Reply::ok(&walk.page(items, next))
}
