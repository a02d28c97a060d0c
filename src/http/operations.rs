//! What the people who run the gateway look at: health, metrics; and the pages of the problems.

use std::net::IpAddr;

use actors::model::KeyKind;
use actors::ports::StoreHealth;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::call::{NoQuery, client_of, credential_of, peer_of, read_query};
use super::reply::Reply;
use super::{ApiState, Nothing};
use crate::problem::{ApiError, Code, Problems};

const MARKDOWN: HeaderValue = HeaderValue::from_static("text/markdown; charset=utf-8");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(read_liveness))
        .routes(routes!(read_readiness))
        .routes(routes!(read_metrics))
        .routes(routes!(list_problems))
        .routes(routes!(read_problem))
}

/// The process is there.
#[derive(Debug, Serialize, ToSchema)]
struct Liveness {
    /// Always `live`.
    status: &'static str,
}

/// Tells that the process answers.
#[utoipa::path(
    get, path = "/health/live", operation_id = "read_liveness", tag = "operations", security(()),
    responses((status = 200, description = "It does.", body = Liveness)),
)]
async fn read_liveness(_: NoQuery) -> Result<Reply, ApiError> {
    Reply::ok(&Liveness { status: "live" })
}

/// The gateway does all that it is for.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// Always `ready`; what is not is a problem.
    status: &'static str,
    /// What is there only in part: `store` where its disk is full, so that it is read but not written.
    degraded: Vec<&'static str>,
    /// What an acknowledgement stands for: `fsync` or `quorum`.
    dur: &'static str,
}

/// Tells whether the gateway can do its work, or names what is away in `away`.
#[utoipa::path(
    get, path = "/health/ready", operation_id = "read_readiness", tag = "operations", security(()),
    responses((status = 200, description = "It can.", body = Readiness), Problems),
)]
async fn read_readiness(State(api): State<ApiState>, _: NoQuery) -> Result<Reply, ApiError> {
    let dur = api.store.durability();
    let health = api.store.health();
    let away = if matches!(health, StoreHealth::Failed | StoreHealth::Away) {
        "store"
    } else if *api.stopping.borrow() {
        "gateway"
    } else {
        let degraded = if health == StoreHealth::Full {
            vec!["store"]
        } else {
            Vec::new()
        };
        return Reply::ok(&Readiness {
            status: "ready",
            degraded,
            dur,
        });
    };
    let error = ApiError::new(Code::Unavailable).detail(format!("Away: {away}."));
    Err(error.with("away", json!([away])).with("dur", dur))
}

/// What the gateway has measured, in Prometheus' text form. From this machine no credential is needed, from elsewhere
/// an admin key.
#[utoipa::path(
    get, path = "/metrics", operation_id = "read_metrics", tag = "operations", security((), ("bearer" = [])),
    responses((status = 200, description = "The measurements.", body = String, content_type = "text/plain"), Problems),
)]
async fn read_metrics(State(api): State<ApiState>, parts: Parts) -> Result<Response, ApiError> {
    let peer = peer_of(&parts.extensions);
    if !is_local(peer, &parts) {
        let client = client_of(peer, &parts.headers, &api.config.server.trusted_proxies);
        let credential = credential_of(&parts.headers, &parts.uri)?;
        let credential = credential.ok_or_else(|| ApiError::new(Code::Unauthenticated))?;
        if api.credentials.verify(&credential, client).await?.kind() != KeyKind::Admin {
            return Err(ApiError::new(Code::Forbidden).detail("The metrics are for admin keys."));
        }
    }
    read_query(parts.uri.query()).map(|Nothing {}| ())?;
    api.node.measure();
    Ok(([(header::CONTENT_TYPE, PROMETHEUS)], api.metrics.render()).into_response())
}

/// Whether somebody on this machine asks for himself: a proxy on it speaks for others.
fn is_local(peer: IpAddr, parts: &Parts) -> bool {
    let is_forwarded = parts.headers.contains_key("x-forwarded-for")
        || parts.headers.contains_key(header::FORWARDED);
    peer.is_loopback() && !is_forwarded
}

/// One kind of problem.
#[derive(Debug, Serialize, ToSchema)]
struct ProblemKind {
    /// Its stable name.
    code: Code,
    /// What it is, for people.
    title: &'static str,
    /// Its HTTP status.
    status: u16,
    /// Its page.
    page: String,
}

/// Every kind of problem.
#[derive(Debug, Serialize, ToSchema)]
struct ProblemKinds {
    /// All of them.
    items: Vec<ProblemKind>,
    /// Always `null`.
    next_cursor: Option<String>,
}

/// Lists every kind of problem that an answer may be.
#[utoipa::path(
    get, path = "/problems", operation_id = "list_problems", tag = "operations", security(()),
    responses((status = 200, description = "The list.", body = ProblemKinds)),
)]
async fn list_problems(_: NoQuery) -> Result<Reply, ApiError> {
    let kind = |code: &Code| ProblemKind {
        code: *code,
        title: code.title(),
        status: code.status().as_u16(),
        page: format!("/problems/{}", code.as_str()),
    };
    Reply::ok(&ProblemKinds {
        items: Code::ALL.iter().map(kind).collect(),
        next_cursor: None,
    })
}

/// Explains a kind of problem, and what to do about it.
#[utoipa::path(
    get, path = "/problems/{code}", operation_id = "read_problem", tag = "operations", security(()),
    params(("code" = String, Path, description = "The code.")),
    responses((status = 200, description = "Its page.", body = String, content_type = "text/markdown"), Problems),
)]
async fn read_problem(Path(code): Path<String>, uri: Uri) -> Result<Response, ApiError> {
    let code = Code::named(&code).ok_or_else(|| ApiError::new(Code::NotFound))?;
    read_query(uri.query()).map(|Nothing {}| ())?;
    Ok(([(header::CONTENT_TYPE, MARKDOWN)], code.page()).into_response())
}
