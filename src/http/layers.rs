//! What surrounds every call: its request id, what is counted and logged of it, and what keeps the house standing
//! when a handler panics or the gateway stops.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use actors::model::id::suffix;
use actors::model::{EventId, KeyId, TenantId};
use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use dashmap::DashMap;
use futures_util::FutureExt;
use metrics::{Counter, Histogram};
use tokio::time::Instant;
use tracing::Instrument;

use super::ApiState;
use super::call::drain;
use crate::credentials::{Caller, RateNow};
use crate::problem::{ApiError, Code, finish};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_CHARS_MAX: usize = 128;
/// Names a call in logs, metrics and to the caller where it fits no route.
const NO_ROUTE: &str = "none";

/// What is learned of a call on its way in, for its way out.
#[derive(Debug)]
pub(crate) struct Trace {
    id: String,
    caller: OnceLock<(TenantId, KeyId)>,
    rate: OnceLock<RateNow>,
}

impl Trace {
    /// The request id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Notes who calls.
    pub(crate) fn set_caller(&self, caller: &Caller) {
        // A call has one caller: a second note would say the same.
        let _ = self.caller.set((caller.tenant(), caller.key()));
    }

    /// Notes how the tenant stands against its rate.
    pub(crate) fn set_rate(&self, rate: RateNow) {
        let _ = self.rate.set(rate);
    }
}

/// Puts everything around the routes that every call passes.
pub(crate) fn around(routes: Router<ApiState>, api: ApiState) -> Router {
    let observer = Observer {
        api: api.clone(),
        routes: Arc::default(),
    };
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(observer, observe))
        .with_state(api)
}

async fn not_found(request: Request) -> ApiError {
    let (parts, body) = request.into_parts();
    drain(&parts.headers, body).await;
    ApiError::new(Code::NotFound)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let (parts, body) = request.into_parts();
    drain(&parts.headers, body).await;
    ApiError::new(Code::MethodNotAllowed)
}

#[derive(Clone)]
struct Observer {
    api: ApiState,
    /// The counters of each route: as many as there are routes.
    routes: Arc<DashMap<String, Arc<RouteMetrics>>>,
}

struct RouteMetrics {
    seconds: Histogram,
    /// As many as there are methods and statuses that the route has given.
    requests: DashMap<(&'static str, u16), Counter>,
}

impl Observer {
    fn metrics(&self, route: &str) -> Arc<RouteMetrics> {
        if let Some(known) = self.routes.get(route) {
            return Arc::clone(&known);
        }
        let fresh = || {
            let seconds =
                metrics::histogram!("buho_http_request_seconds", "route" => route.to_owned());
            Arc::new(RouteMetrics {
                seconds,
                requests: DashMap::new(),
            })
        };
        Arc::clone(&self.routes.entry(route.to_owned()).or_insert_with(fresh))
    }

    fn count(&self, route: &str, method: &'static str, status: StatusCode, seconds: f64) {
        let metrics = self.metrics(route);
        metrics.seconds.record(seconds);
        let fresh = || {
            let (route, status) = (route.to_owned(), status.as_str().to_owned());
            metrics::counter!("buho_http_requests_total", "method" => method, "route" => route, "status" => status)
        };
        metrics
            .requests
            .entry((method, status.as_u16()))
            .or_insert_with(fresh)
            .increment(1);
    }

    /// The origin of a page that may read our answers.
    fn origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let listed = self
            .api
            .config
            .server
            .allowed_origins
            .iter()
            .any(|it| it.as_bytes() == origin.as_bytes());
        listed.then(|| origin.clone())
    }
}

async fn observe(State(observer): State<Observer>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = word(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let route = path.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let origin = observer.origin(request.headers());
    let id = request_id(request.headers());
    let trace = Arc::new(Trace {
        id,
        caller: OnceLock::new(),
        rate: OnceLock::new(),
    });
    request.extensions_mut().insert(Arc::clone(&trace));

    let is_preflight = origin.is_some()
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let response = if *observer.api.stopping.borrow() && !is_operation(route) {
        ApiError::new(Code::Unavailable)
            .detail("The gateway is shutting down.")
            .into_response()
    } else if is_preflight && request.method() == Method::OPTIONS {
        preflight(request.headers())
    } else {
        let span = tracing::debug_span!("request", request_id = trace.id());
        let takes_key =
            request.method() == Method::POST && request.headers().contains_key("idempotency-key");
        let handled = next.run(request).instrument(span);
        let handled = if takes_key {
            observer.api.idempotency.to_the_end(handled).await
        } else {
            AssertUnwindSafe(handled).catch_unwind().await.ok()
        };
        handled.unwrap_or_else(|| {
            tracing::error!(request_id = trace.id(), method, route, "a handler panicked");
            ApiError::new(Code::Internal).into_response()
        })
    };

    let mut response = finish(response, trace.id());
    write_headers(response.headers_mut(), &trace, origin);
    let (status, seconds) = (response.status(), started.elapsed().as_secs_f64());
    observer.count(route, method, status, seconds);
    let (tenant, key) = trace.caller.get().copied().unzip();
    tracing::debug!(
        target: "buho::access",
        request_id = trace.id(), method, route, status = status.as_u16(), seconds,
        tenant = tenant.map(tracing::field::display), key = key.map(tracing::field::display),
    );
    response
}

/// What is still answered while the gateway stops.
fn is_operation(route: &str) -> bool {
    matches!(route, "/health/live" | "/health/ready" | "/metrics")
}

fn write_headers(headers: &mut HeaderMap, trace: &Trace, origin: Option<HeaderValue>) {
    // It was checked, or drawn, to be a header's text.
    if let Ok(id) = HeaderValue::from_str(trace.id()) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(rate) = trace.rate.get() {
        headers.insert("ratelimit-limit", rate.limit.into());
        headers.insert("ratelimit-remaining", rate.remaining.into());
        headers.insert("ratelimit-reset", rate.reset.into());
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        let exposed = "x-request-id, location, retry-after, idempotency-replayed, ratelimit-limit, ratelimit-remaining, ratelimit-reset";
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(exposed),
        );
    }
}

/// Answers a browser that asks before it calls, for a page of a listed origin.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let methods = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static("600"),
    );
    response
}

/// The caller's own id where it is a good one, else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get(REQUEST_ID)
        .and_then(|it| it.to_str().ok())
        .filter(|it| is_request_id(it));
    given.map_or_else(draw_request_id, str::to_owned)
}

fn is_request_id(text: &str) -> bool {
    let is_plain = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'_' | b':' | b'-');
    (1..=REQUEST_ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(is_plain)
}

/// A new request id.
pub(crate) fn draw_request_id() -> String {
    let suffix = suffix(EventId::generate().as_u128());
    format!("req_{}", std::str::from_utf8(&suffix).unwrap_or_default())
}

/// Methods as a bounded set of words.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_request_id_is_kept_and_another_replaced() {
        let told = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                REQUEST_ID,
                HeaderValue::from_bytes(text.as_bytes()).unwrap(),
            );
            request_id(&headers)
        };
        for good in ["a", "trace-1:2.3_4", &"x".repeat(128)] {
            assert_eq!(told(good), good);
        }
        for bad in ["", "with space", "ñ", &"x".repeat(129), "a/b"] {
            let id = told(bad);
            assert!(id.starts_with("req_") && id.len() == 30, "{bad} {id}");
        }
        assert_ne!(draw_request_id(), draw_request_id());
    }
}
