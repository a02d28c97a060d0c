//! The event log over HTTP: long poll, a stream of server-sent events, one entry.

mod query;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use actors::log::{Entry, Facts, Heard, Listener, Opened, Reset};
use actors::model::{Cursor, EventId};
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::query::{PollQuery, StreamQuery, Wanted};
use super::ApiState;
use super::call::Call;
use super::scope::{EventsRead, EventsReadStream};
use crate::credentials::Ended;
use crate::problem::{ApiError, Code, Problems};
use crate::ws::Sockets;

pub(super) use self::query::parse_start;

/// A reader over HTTP, counted while it is there.
#[derive(Debug)]
struct Reading(metrics::Gauge);

impl Reading {
    fn by(transport: &'static str) -> Self {
        let readers = metrics::gauge!("buho_event_readers", "transport" => transport);
        readers.increment(1);
        Self(readers)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Entries that one poll looks at; a filter that lets little pass ends it with what it has.
const LOOKED_AT_MAX: usize = 20_000;
/// Bytes of the entries of one answer; one larger entry always passes.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Entries that are taken at once.
const TAKE_MAX: usize = 256;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_events))
        .routes(routes!(stream_events))
        .routes(routes!(read_event))
}

/// An entry of the log.
#[derive(Debug, Serialize, ToSchema)]
struct Event {
    /// Names the entry on every transport: the key for removing repeats.
    id: EventId,
    /// Which life of the log.
    epoch: u32,
    /// Its place: 1, 2, 3 … without holes.
    seq: u64,
    /// What happened, such as `message.created`. The list may grow.
    #[serde(rename = "type")]
    kind: String,
    /// When.
    time: actors::model::Timestamp,
    /// Whose log.
    tenant: actors::model::TenantId,
    /// To which device.
    #[schema(required = false)]
    device: Option<actors::model::DeviceId>,
    /// In which chat.
    #[schema(required = false)]
    chat: Option<String>,
    /// What there is to know.
    data: Value,
}

/// What a poll found.
#[derive(Debug, Serialize, ToSchema)]
struct Events {
    /// The entries, in order.
    items: Vec<Event>,
    /// Go on with this; it also moves over entries that were filtered out.
    next_cursor: Cursor,
    /// The newest place.
    head: Cursor,
    /// From here one gets everything that is kept.
    oldest: Cursor,
}

/// Reads the event log from a place on; waits for news if asked to.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "list_events", tag = "events", params(PollQuery),
    responses(
        (status = 200, description = "Entries, and where to go on.", body = Events),
        (status = 410, description = "Continuity is lost; `reason`, `oldest` and `head` say how to go on.", content_type = "application/problem+json"),
        Problems,
    ),
)]
async fn list_events(
    State(api): State<ApiState>,
    call: Call<EventsRead>,
) -> Result<Response, ApiError> {
    let query: PollQuery = call.query()?;
    let wanted = Wanted::of(&query.terms(), query.after.as_deref(), call.caller())?;
    let log = api.node.log_of(call.tenant()).await?;
    let Opened {
        listener, reset, ..
    } = log.listen(wanted.start).await?;
    if let Some(reset) = reset {
        return Err(gone(&reset));
    }
    let _reading = Reading::by("long_poll");
    let until = Instant::now() + Duration::from_secs(query.wait_seconds().into());
    let mut poll = Poll {
        listener,
        wanted,
        limit: query.limit(),
        items: Vec::new(),
        bytes: 0,
        looked_at: 0,
    };
    let (mut stopping, mut ended) = (api.stopping.clone(), call.caller().ended());
    tokio::select! {
        found = poll.run(until) => found?,
        // Whoever waits at the end of the gateway gets what there is.
        _ = stopping.wait_for(|it| *it) => {}
        _ = ended.wait_for(|it| *it != Ended::No) => return Err(ApiError::new(Code::Unauthenticated)),
    }
    Ok(poll.answer())
}

/// Streams the event log as server-sent events.
///
/// Entries come without an `event:` line, so that `onmessage` hears them; `reset`, `position` and `lag` are named.
#[utoipa::path(
    get, path = "/v1/events/stream", operation_id = "stream_events", tag = "events",
    params(StreamQuery, ("Last-Event-ID" = Option<String>, Header, description = "Goes before `after`.")),
    responses((status = 200, description = "A stream that does not end by itself.", content_type = "text/event-stream"), Problems),
)]
async fn stream_events(
    State(api): State<ApiState>,
    Extension(sockets): Extension<Arc<Sockets>>,
    call: Call<EventsReadStream>,
) -> Result<Response, ApiError> {
    let query: StreamQuery = call.query()?;
    let last = match call
        .headers()
        .get("last-event-id")
        .filter(|it| !it.is_empty())
    {
        Some(last) => Some(
            last.to_str()
                .map_err(|_| query::wrong_cursor("@Last-Event-ID"))?,
        ),
        None => query.after.as_deref(),
    };
    let wanted = Wanted::of(&query.terms(), last, call.caller())?;
    let limit = call.caller().limits().connections;
    let place = sockets.connections.place(call.tenant(), limit);
    let place = place.ok_or_else(|| {
        ApiError::new(Code::LimitReached)
            .with("limit", "connections")
            .after_about(1)
    })?;
    let log = api.node.log_of(call.tenant()).await?;
    let opened = log.listen(wanted.start).await?;
    let body = stream::Feed::new(&api, call.caller().clone(), wanted, opened, place).into_body();
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// Reads one entry of the event log.
#[utoipa::path(
    get, path = "/v1/events/{event}", operation_id = "read_event", tag = "events",
    params(("event" = EventId, Path, description = "The entry.")),
    responses((status = 200, description = "The entry.", body = Event), Problems),
)]
async fn read_event(
    State(api): State<ApiState>,
    call: Call<EventsRead>,
) -> Result<Response, ApiError> {
    let id: EventId = call.path("event")?;
    let log = api.node.log_of(call.tenant()).await?;
    let sight = actors::log::Sight::new(call.caller().scopes(), call.caller().devices());
    let found = log
        .entry(id)
        .await?
        .filter(|it| sight.sees(Facts::from(&**it)));
    let entry = found.ok_or_else(|| ApiError::new(Code::NotFound))?;
    call.no_query()?;
    Ok(json(entry.json().into()))
}

/// A poll under way. What it has found is whole at any time.
struct Poll {
    listener: Listener,
    wanted: Wanted,
    limit: usize,
    items: Vec<Arc<Entry>>,
    bytes: usize,
    looked_at: usize,
}

impl Poll {
    /// Looks for entries; waits for the first one until then.
    async fn run(&mut self, until: Instant) -> Result<(), ApiError> {
        let mut heard = Vec::new();
        while !self.is_full() {
            let head = self.listener.log().head().seq;
            if head <= self.listener.position().seq && !self.items.is_empty() {
                return Ok(());
            }
            let before = self.listener.position().seq;
            let next = self.listener.next(&mut heard, TAKE_MAX);
            let next = if before < head {
                next.await
            } else {
                match tokio::time::timeout_at(until, next).await {
                    Ok(next) => next,
                    Err(_over) => return Ok(()),
                }
            };
            match next? {
                Heard::Entries { .. } => self.take(&mut heard),
                Heard::Ephemerals => self.listener.take_ephemerals(&mut Vec::new()),
                Heard::Trimmed { oldest, head } if self.items.is_empty() => {
                    return Err(gone(&Reset {
                        reason: actors::log::Lost::Trimmed,
                        oldest,
                        head,
                    }));
                }
                Heard::Trimmed { .. } | Heard::Closed => return Ok(()),
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.limit <= self.items.len()
            || ANSWER_BYTES_MAX <= self.bytes
            || LOOKED_AT_MAX <= self.looked_at
    }

    /// Takes what is wanted; where there is no room left, the rest is heard again.
    fn take(&mut self, heard: &mut Vec<Arc<Entry>>) {
        for entry in heard.drain(..) {
            let seq = entry.cursor().seq;
            let is_wanted = self.wanted.passes(&entry);
            if is_wanted && self.is_full() {
                self.listener.jump(seq - 1);
                return;
            }
            self.looked_at += 1;
            if is_wanted {
                self.bytes += entry.weight();
                self.items.push(entry);
                if self.is_full() {
                    self.listener.jump(seq);
                    return;
                }
            }
        }
    }

    fn answer(&self) -> Response {
        let log = self.listener.log();
        let mut body = Vec::with_capacity(self.bytes + 200);
        body.extend_from_slice(b"{\"items\":[");
        for (place, entry) in self.items.iter().enumerate() {
            if 0 < place {
                body.push(b',');
            }
            body.extend_from_slice(&entry.json());
        }
        let (next, oldest) = (self.listener.position(), log.oldest());
        body.extend_from_slice(
            format!(
                "],\"next_cursor\":\"{next}\",\"head\":\"{}\",\"oldest\":\"{oldest}\"}}",
                log.head()
            )
            .as_bytes(),
        );
        json(body.into())
    }
}

/// The problem of a reader whose place is lost.
pub(super) fn gone(reset: &Reset) -> ApiError {
    ApiError::new(Code::CursorGone)
        .with("reason", reset.reason.as_str())
        .with("oldest", reset.oldest.to_string())
        .with("head", reset.head.to_string())
}

fn json(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
