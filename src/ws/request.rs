//! `request`: any operation of REST by its id, called in the process through the same routes, so that rights, checks
//! and codes are the same on both doors.

use std::collections::HashMap;
use std::future::{poll_fn, ready};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::task::Poll;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::extract::ws::Message;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use tower::ServiceExt;
use utoipa::openapi::OpenApi;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::{Operation as Described, ParameterIn};

use super::frame::{Codec, Refusal};
use crate::credentials::Caller;
use crate::http::call::Entrance;
use crate::problem::{ApiError, Code, finish};

/// Bytes of an answer: what fits into a connection's write buffer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// All operations that a socket may ask for.
#[derive(Debug)]
pub(super) struct Operations(HashMap<String, Operation>);

/// One operation, as its description says.
#[derive(Debug)]
pub(super) struct Operation {
    id: String,
    method: Method,
    segments: Vec<Segment>,
    query: Vec<String>,
    takes_body: bool,
    calls: metrics::Counter,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Fixed(String),
    Param(String),
}

impl Operations {
    /// Reads the description of the API. Credentials, bytes of media, streams, and what is not of `/v1` stay out.
    pub(super) fn of(description: &OpenApi) -> Self {
        let mut found = HashMap::new();
        for (path, item) in description
            .paths
            .paths
            .iter()
            .filter(|(path, _)| is_callable(path))
        {
            let methods = [
                (Method::GET, &item.get),
                (Method::PUT, &item.put),
                (Method::POST, &item.post),
                (Method::PATCH, &item.patch),
                (Method::DELETE, &item.delete),
            ];
            for (method, described) in methods {
                if let Some(operation) = described
                    .as_ref()
                    .and_then(|it| Operation::of(method, path, it))
                {
                    found.insert(operation.id.clone(), operation);
                }
            }
        }
        Self(found)
    }

    /// The operation with this id.
    pub(super) fn find(&self, id: &str) -> Result<&Operation, Refusal> {
        self.0.get(id).ok_or_else(|| {
            Refusal::invalid("/method", "is not an operation that a socket may ask for")
        })
    }
}

fn is_callable(path: &str) -> bool {
    let inner = path.strip_prefix("/v1/").unwrap_or_default();
    let family = inner.split('/').next().unwrap_or_default();
    let is_secret = matches!(family, "" | "auth" | "keys" | "ws" | "admin");
    let is_bytes = family == "media" || inner.ends_with("/media") || inner.ends_with("/picture");
    !is_secret && !is_bytes && inner != "events/stream"
}

impl Operation {
    fn of(method: Method, path: &str, described: &Described) -> Option<Self> {
        let id = described.operation_id.clone()?;
        let segment = |text: &str| match text.strip_prefix('{').and_then(|it| it.strip_suffix('}'))
        {
            Some(name) => Segment::Param(name.to_owned()),
            None => Segment::Fixed(text.to_owned()),
        };
        let parameters = described
            .parameters
            .iter()
            .flatten()
            .filter_map(|it| match it {
                RefOr::T(parameter) => Some(parameter),
                RefOr::Ref(_) => None,
            });
        let query = parameters
            .filter(|it| it.parameter_in == ParameterIn::Query)
            .map(|it| it.name.clone());
        Some(Self {
            method,
            segments: path.split('/').skip(1).map(segment).collect(),
            query: query.collect(),
            takes_body: described.request_body.is_some(),
            calls: metrics::counter!("buho_ws_requests_total", "method" => id.clone()),
            id,
        })
    }

    /// Builds the call: what the path and the query name goes there, the rest is the body. Where there is no body, the
    /// rest goes into the query, which refuses what it does not know.
    pub(super) fn request(
        &self,
        mut params: Map<String, Value>,
        key: Option<&str>,
    ) -> Result<Request<Body>, Refusal> {
        params.retain(|name, value| {
            !value.is_null() || (self.takes_body && !self.query.contains(name))
        });
        let mut uri = String::new();
        for segment in &self.segments {
            uri.push('/');
            match segment {
                Segment::Fixed(text) => uri.push_str(text),
                Segment::Param(name) => {
                    let value = params.remove(name).as_ref().and_then(plain);
                    let value = value.ok_or_else(|| {
                        Refusal::invalid(&format!("/{name}"), "is missing, or not a text")
                    })?;
                    uri.extend(utf8_percent_encode(&value, NON_ALPHANUMERIC));
                }
            }
        }
        let in_query: Vec<String> = params
            .keys()
            .filter(|name| !self.takes_body || self.query.contains(name))
            .cloned()
            .collect();
        for (place, name) in in_query.iter().enumerate() {
            let value = params.remove(name).unwrap_or_default();
            uri.push(if place == 0 { '?' } else { '&' });
            uri.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
            uri.push('=');
            uri.extend(utf8_percent_encode(&listed(&value), NON_ALPHANUMERIC));
        }
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(uri)
            .header(header::ACCEPT, "application/json");
        if let Some(key) = key {
            let wrong = || {
                Refusal::invalid(
                    "@Idempotency-Key",
                    "must be one text of 1 to 255 printable ASCII characters",
                )
            };
            request = request.header(
                "idempotency-key",
                HeaderValue::from_str(key).map_err(|_| wrong())?,
            );
        }
        let body = if self.takes_body {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(Value::Object(params).to_string())
        } else {
            Body::empty()
        };
        request
            .body(body)
            .map_err(|_| ApiError::new(Code::NotFound).into())
    }

    /// Whether it only reads.
    pub(super) fn is_read(&self) -> bool {
        self.method == Method::GET
    }

    /// Counts a call of it.
    pub(super) fn count(&self) {
        self.calls.increment(1);
    }
}

/// A value as a part of the path.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A value as a parameter of the query: a list stands between commas.
fn listed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(listed).collect::<Vec<_>>().join(","),
        Value::Null => String::new(),
        Value::Number(_) | Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

/// Who asks, and from where.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    pub(super) client: IpAddr,
    pub(super) codec: Codec,
    /// Names the call in the log.
    pub(super) trace: String,
}

/// A call under way.
pub(super) type Calling = BoxFuture<'static, Message>;

/// What a call comes to as long as it may be overtaken: once its command stands in its actor's queue, or it is answered.
pub(super) async fn enter(mut calling: Calling, entrance: Entrance) -> Calling {
    poll_fn(|cx| match calling.as_mut().poll(cx) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending if entrance.is_passed() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
    .map_or(calling, |reply| Box::pin(ready(reply)))
}

/// Carries a call out and writes its reply.
pub(super) async fn call(
    routes: Router,
    mut request: Request<Body>,
    id: Option<Value>,
    asker: Asker,
    entrance: Entrance,
) -> Message {
    let extensions = request.extensions_mut();
    extensions.insert(entrance);
    extensions.insert(ConnectInfo(SocketAddr::new(asker.client, 0)));
    extensions.insert(asker.caller);
    let handled = AssertUnwindSafe(routes.oneshot(request))
        .catch_unwind()
        .await;
    let response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_panic) => {
            tracing::error!(request_id = asker.trace, "a handler panicked");
            ApiError::new(Code::Internal).into_response()
        }
    };
    let refused = match reply(finish(response, &asker.trace), id.as_ref(), asker.codec).await {
        Ok(message) => return message,
        Err(refusal) => refusal,
    };
    asker.codec.refusal(id.as_ref(), &refused)
}

async fn reply(response: Response, id: Option<&Value>, codec: Codec) -> Result<Message, Refusal> {
    let (parts, body) = response.into_parts();
    let too_large = |_| {
        Refusal::invalid(
            "/params/limit",
            "the answer would have more than 1 MiB: ask for less at a time",
        )
    };
    let bytes = to_bytes(body, ANSWER_BYTES_MAX).await.map_err(too_large)?;
    if parts.status == StatusCode::NO_CONTENT {
        return codec
            .reply(id, b"{}", false)
            .map_err(|_| ApiError::new(Code::Internal).into());
    }
    if parts.status.is_success() {
        let is_replayed = parts
            .headers
            .get("idempotency-replayed")
            .is_some_and(|it| it == "true");
        return codec
            .reply(id, &bytes, is_replayed)
            .map_err(|_| ApiError::new(Code::NotAcceptable).into());
    }
    let mut refusal: Refusal =
        serde_json::from_slice(&bytes).map_err(|_| Refusal::from(ApiError::new(Code::Internal)))?;
    let wait = parts
        .headers
        .get(header::RETRY_AFTER)
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.parse::<u64>().ok());
    refusal.retry_after_ms = wait.map(|seconds| seconds.saturating_mul(1000));
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, PathItem};
    use utoipa::openapi::request_body::RequestBody;
    use utoipa::openapi::{HttpMethod, OpenApiBuilder, PathsBuilder};

    use super::*;

    fn operations() -> Operations {
        let query = |name: &str| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .build()
        };
        let operation = |id: &str| OperationBuilder::new().operation_id(Some(id));
        let paths = PathsBuilder::new()
            .path(
                "/v1/devices",
                PathItem::new(
                    HttpMethod::Get,
                    operation("list_devices").parameter(query("limit")),
                ),
            )
            .path(
                "/v1/devices/{device}/chats/{chat}/read",
                PathItem::new(
                    HttpMethod::Post,
                    operation("mark_chat_read").request_body(Some(RequestBody::new())),
                ),
            )
            .path(
                "/v1/keys",
                PathItem::new(HttpMethod::Post, operation("create_key")),
            )
            .path(
                "/v1/auth/tokens",
                PathItem::new(HttpMethod::Post, operation("create_token")),
            )
            .path(
                "/v1/events/stream",
                PathItem::new(HttpMethod::Get, operation("stream_events")),
            )
            .path(
                "/v1/media/{media}",
                PathItem::new(HttpMethod::Get, operation("read_media")),
            )
            .path(
                "/health/live",
                PathItem::new(HttpMethod::Get, operation("read_liveness")),
            );
        Operations::of(&OpenApiBuilder::new().paths(paths).build())
    }

    fn map(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else {
            panic!("a map")
        };
        map
    }

    #[test]
    fn a_flat_map_is_put_where_it_belongs() {
        let operations = operations();
        let read = operations.find("mark_chat_read").unwrap();
        let params =
            map(json!({"device": "dev_1", "chat": "51999888777@s.whatsapp.net", "up_to": null}));
        let request = read.request(params, Some("k-1")).unwrap();
        assert_eq!(
            request.uri(),
            "/v1/devices/dev%5F1/chats/51999888777%40s%2Ewhatsapp%2Enet/read"
        );
        assert_eq!(
            (request.method(), &request.headers()["idempotency-key"]),
            (&Method::POST, &HeaderValue::from_static("k-1"))
        );
        let body = to_bytes(request.into_body(), 100)
            .now_or_never()
            .unwrap()
            .unwrap();
        assert_eq!(body, "{\"up_to\":null}");
        let list = operations.find("list_devices").unwrap();
        let request = list
            .request(
                map(json!({"limit": 3, "limt": [1, 2], "cursor": null})),
                None,
            )
            .unwrap();
        assert_eq!(request.uri(), "/v1/devices?limit=3&limt=1%2C2");
        assert_eq!(
            read.request(map(json!({"device": {}})), None)
                .unwrap_err()
                .errors[0]
                .pointer,
            "/device"
        );
        assert_eq!(
            list.request(Map::new(), Some("ñ\n")).unwrap_err().code,
            "invalid"
        );
    }

    #[test]
    fn credentials_bytes_and_streams_are_not_for_sockets() {
        let operations = operations();
        for id in [
            "create_key",
            "create_token",
            "stream_events",
            "read_media",
            "read_liveness",
            "fly_to_the_moon",
        ] {
            assert_eq!(operations.find(id).unwrap_err().code, "invalid", "{id}");
        }
        assert_eq!(operations.0.len(), 2);
    }
}
