//! The REST frontend: reads a request, knocks at an actor's door or asks the store, writes the answer.

mod auth;
pub(crate) mod call;
mod chats;
mod consumers;
mod devices;
mod events;
pub(crate) mod idempotency;
mod keys;
mod layers;
mod me;
mod messages;
mod openapi;
mod operations;
mod paging;
mod reply;
pub(crate) mod scope;
mod serve;
mod sessions;
mod simulations;

use std::ops::Deref;
use std::sync::Arc;

use actors::device::DeviceHandle;
use actors::node::NodeHandle;
use actors::ports::simulation::Simulation;
use actors::ports::{Clock, Store};
use axum::Router;
use tokio::sync::watch;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::problem::{ApiError, Code};
use crate::telemetry::Metrics;
use crate::ws::Sockets;

pub(crate) use serve::{ServeLimits, Written, listen, serve};

/// What the handlers may reach.
pub(crate) struct Api {
    pub(crate) node: NodeHandle,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) simulation: Arc<dyn Simulation>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: Arc<Config>,
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) metrics: Metrics,
    pub(crate) idempotency: idempotency::InFlight,
}

/// [`Api`], shared by all handlers.
#[derive(Clone)]
pub(crate) struct ApiState(Arc<Api>);

impl From<Api> for ApiState {
    fn from(api: Api) -> Self {
        Self(Arc::new(api))
    }
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState").finish_non_exhaustive()
    }
}

impl Deref for ApiState {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.0
    }
}

impl Api {
    /// The device that the path names, if the caller may see it.
    pub(crate) async fn device<S>(&self, call: &call::Call<S>) -> Result<DeviceHandle, ApiError> {
        let id = call.path("device")?;
        if !call.caller().sees(id) {
            return Err(ApiError::new(Code::NotFound));
        }
        Ok(self.node.device(call.tenant(), id).await?)
    }
}

/// A body or a query that has no members.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// All routes, with the description that belongs to them; and the sockets that are opened through them.
pub(crate) fn router(api: ApiState) -> (Router, Arc<Sockets>) {
    let (routes, description) = openapi::base()
        .merge(auth::router())
        .merge(keys::router())
        .merge(me::router())
        .merge(devices::router())
        .merge(sessions::router())
        .merge(messages::router())
        .merge(chats::router())
        .merge(simulations::router())
        .merge(events::router())
        .merge(consumers::router())
        .merge(crate::ws::router())
        .merge(operations::router())
        .split_for_parts();
    let (routes, sockets) = crate::ws::connect(routes, &description);
    (
        layers::around(routes.merge(openapi::router(description)), api),
        sockets,
    )
}
