//! Named consumers: readers whose place the server keeps.

use actors::log::{Consumer, ConsumerName, Log};
use actors::model::Cursor;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::Call;
use super::events::{gone, parse_start};
use super::idempotency::once;
use super::paging::{Page, PageQuery, Walk, cut};
use super::reply::Reply;
use super::scope::EventsRead;
use crate::problem::{ApiError, Problems};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_consumers))
        .routes(routes!(read_consumer, delete_consumer))
        .routes(routes!(seek_consumer))
}

/// A reader whose place the server keeps.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Consumer)]
struct ConsumerBody {
    /// Its name.
    name: String,
    /// Everything up to here was confirmed.
    cursor: Cursor,
    /// Entries that lie ahead of it.
    behind: u64,
    /// Whether a connection holds the name.
    connected: bool,
}

impl ConsumerBody {
    fn of(consumer: &Consumer, log: &Log) -> Self {
        let behind = log.head().seq.saturating_sub(consumer.cursor.seq);
        Self {
            name: consumer.name.to_string(),
            cursor: consumer.cursor,
            behind,
            connected: consumer.is_connected,
        }
    }
}

/// Where a consumer shall stand.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Seek {
    /// A cursor, `oldest`, `now` or a time.
    #[schema(example = "1-120392")]
    after: String,
}

/// Lists the named consumers, by name.
#[utoipa::path(
    get, path = "/v1/consumers", operation_id = "list_consumers", tag = "events", params(PageQuery),
    responses((status = 200, description = "A page of consumers.", body = Page<ConsumerBody>), Problems),
)]
async fn list_consumers(
    State(api): State<ApiState>,
    call: Call<EventsRead>,
) -> Result<Reply, ApiError> {
    let query: PageQuery = call.query()?;
    let (walk, beyond) = Walk::start::<String>(
        &api,
        call.tenant(),
        "list_consumers",
        &(),
        query.cursor.as_deref(),
    )?;
    let log = api.node.log_of(call.tenant()).await?;
    let mut consumers = log.consumers().await?;
    consumers.retain(|it| {
        beyond
            .as_deref()
            .is_none_or(|beyond| beyond < it.name.as_str())
    });
    let (consumers, next) = cut(consumers, query.limit(), |it| it.name.to_string());
    let items: Vec<ConsumerBody> = consumers
        .iter()
        .map(|it| ConsumerBody::of(it, log.log()))
        .collect();
    Reply::ok(&walk.page(items, next))
}

/// Reads where a named consumer stands.
#[utoipa::path(
    get, path = "/v1/consumers/{name}", operation_id = "read_consumer", tag = "events",
    params(("name" = String, Path, description = "The consumer.")),
    responses((status = 200, description = "The consumer.", body = ConsumerBody), Problems),
)]
async fn read_consumer(
    State(api): State<ApiState>,
    call: Call<EventsRead>,
) -> Result<Reply, ApiError> {
    let name: ConsumerName = call.path("name")?;
    let log = api.node.log_of(call.tenant()).await?;
    let consumer = log.consumer(&name).await?;
    call.no_query()?;
    Reply::ok(&ConsumerBody::of(&consumer, log.log()))
}

/// Forgets a named consumer; a connection that holds its name is closed.
#[utoipa::path(
    delete, path = "/v1/consumers/{name}", operation_id = "delete_consumer", tag = "events",
    params(("name" = String, Path, description = "The consumer.")),
    responses((status = 204, description = "It is forgotten."), Problems),
)]
async fn delete_consumer(
    State(api): State<ApiState>,
    call: Call<EventsRead>,
) -> Result<Reply, ApiError> {
    let name: ConsumerName = call.path("name")?;
    let log = api.node.log_of(call.tenant()).await?;
    log.consumer(&name).await?;
    call.no_query()?;
    log.delete(name).await?;
    Ok(Reply::no_content())
}

/// Moves a named consumer; a connection that holds its name is closed and comes back to the new place.
#[utoipa::path(
    post, path = "/v1/consumers/{name}/seek", operation_id = "seek_consumer", tag = "events",
    params(
        ("name" = String, Path, description = "The consumer."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body move once."),
    ),
    request_body = Seek,
    responses((status = 200, description = "The consumer at its new place.", body = ConsumerBody), Problems),
)]
async fn seek_consumer(
    State(api): State<ApiState>,
    call: Call<EventsRead>,
) -> Result<Reply, ApiError> {
    let name: ConsumerName = call.path("name")?;
    let log = api.node.log_of(call.tenant()).await?;
    log.consumer(&name).await?;
    let start = parse_start(&call.body::<Seek>()?.after, "/after")?;
    once(&api, &call, "seek_consumer", async || {
        let opened = log.listen(start).await?;
        if let Some(reset) = &opened.reset {
            return Err(gone(reset));
        }
        let consumer = log.seek(name.clone(), opened.listener.position()).await?;
        Reply::ok(&ConsumerBody::of(&consumer, log.log()))
    })
    .await
}
