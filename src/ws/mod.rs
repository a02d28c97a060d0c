//! The WebSocket frontend, protocol `buho.v1`: one connection authenticates, listens, confirms and asks.
//!
//! [`frame`] has the words on the wire and [`wish`] what a client may ask for; [`state`] is the session without its
//! socket; [`reader`] turns entries into messages; [`request`] calls the operations of REST in the process;
//! [`session`] holds it all together over a [`socket`].

mod close;
mod connections;
mod frame;
mod gate;
mod open;
mod reader;
mod request;
mod session;
mod socket;
mod state;
mod typing;
mod wish;

use std::sync::{Arc, OnceLock};

use actors::model::{Faults, KeyKind};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use axum::response::Response;
use axum::{RequestExt, Router};
use serde::Deserialize;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use self::connections::{Connections, Place};
pub(crate) use self::state::{Delivery, Verdict};

use self::close::Close;
use self::frame::{Codec, FRAME_BYTES_MAX};
use self::request::Operations;
use self::session::{Parts, Session};
use self::socket::Socket;
use crate::credentials::Caller;
use crate::http::call::{client_of, credential_of, peer_of, read_query};
use crate::http::{ApiState, Written};
use crate::problem::{ApiError, Code, Problems};

/// Read at a time: tungstenite fills its buffer with zeroes at every read, so a large one costs more than it saves.
const READ_BUFFER: usize = 4 << 10;
/// Written at once.
const WRITE_BUFFER: usize = 16 << 10;
/// A mebibyte for what waits, and as much again for one large entry or answer behind it.
const WRITE_BUFFER_MAX: usize = 2 << 20;

/// What all connections share.
pub(crate) struct Sockets {
    pub(crate) connections: Arc<Connections>,
    counters: Counters,
    operations: Operations,
    /// The routes that requests are called through, without what surrounds HTTP calls.
    bare: Router<ApiState>,
    ready: OnceLock<Router>,
}

impl Sockets {
    /// The routes with what they reach.
    fn routes(&self, api: &ApiState) -> Router {
        self.ready
            .get_or_init(|| self.bare.clone().with_state(api.clone()))
            .clone()
    }
}

impl Sockets {
    /// Waits until no WebSocket is open.
    pub(crate) async fn settled(&self) {
        self.connections.settled().await;
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

/// What is counted of connections.
struct Counters {
    frames_in: metrics::Counter,
    frames_out: metrics::Counter,
}

impl Counters {
    fn new() -> Self {
        Self {
            frames_in: metrics::counter!("buho_ws_frames_total", "direction" => "in"),
            frames_out: metrics::counter!("buho_ws_frames_total", "direction" => "out"),
        }
    }

    fn received(&self) {
        self.frames_in.increment(1);
    }

    fn sent(&self, frames: u64) {
        self.frames_out.increment(frames);
    }

    fn closed(&self, close: Close) {
        metrics::counter!("buho_ws_closed_total", "code" => close.code().to_string()).increment(1);
    }
}

/// The route of the upgrade.
pub(crate) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().routes(routes!(open_socket))
}

/// Gives the routes what sockets and event streams share; sockets call these same routes.
pub(crate) fn connect(
    routes: Router<ApiState>,
    description: &OpenApi,
) -> (Router<ApiState>, Arc<Sockets>) {
    let sockets = Arc::new(Sockets {
        connections: Arc::default(),
        counters: Counters::new(),
        operations: Operations::of(description),
        bare: routes.clone(),
        ready: OnceLock::new(),
    });
    (routes.layer(Extension(Arc::clone(&sockets))), sockets)
}

/// Opens a WebSocket of the protocol `buho.v1`.
///
/// The credential comes in a header, as a ticket in the query, or in band with `auth`. Subprotocols: `buho.v1.json`
/// (the default) and `buho.v1.msgpack`.
#[utoipa::path(
    get, path = "/v1/ws", operation_id = "open_socket", tag = "events",
    params(("ticket" = Option<String>, Query, description = "A ticket that is used up by this.")),
    responses((status = 101, description = "The protocol changes to WebSocket."), Problems),
)]
async fn open_socket(
    State(api): State<ApiState>,
    Extension(sockets): Extension<Arc<Sockets>>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection> =
        request.extract_parts().await;
    let client = client_of(
        peer_of(request.extensions()),
        request.headers(),
        &api.config.server.trusted_proxies,
    );
    let known = caller_of(&api, request.headers(), request.uri(), client).await?;
    let caller = known.as_ref().map(|(caller, _)| caller);
    if let Some(rate) = caller.and_then(Caller::count_call).filter(|it| !it.passes) {
        return Err(ApiError::new(Code::RateLimited).after_about(rate.reset));
    }
    if let Some(caller) = caller {
        let limit = caller.limits().connections;
        if sockets.connections.is_full(caller.tenant(), limit) {
            return Err(ApiError::new(Code::LimitReached)
                .with("limit", "connections")
                .after_about(1));
        }
        if !caller.may_come_from(client) {
            return Err(ApiError::new(Code::IpNotAllowed));
        }
        if caller.kind() == KeyKind::Admin {
            return Err(
                ApiError::new(Code::Forbidden).detail("An admin key serves the admin API alone.")
            );
        }
    }
    check_origin(
        &api,
        request.headers(),
        known.as_ref().and_then(|(_, bound)| bound.as_deref()),
    )?;
    let SocketQuery { ticket: _ } = read_query(request.uri().query())?;
    let upgrade = upgrade.map_err(|_| {
        ApiError::invalid(Faults::one(
            "@Upgrade",
            "must ask for a WebSocket of version 13",
        ))
    })?;
    let written = request.extensions().get().cloned().unwrap_or_default();
    Ok(accept(
        (upgrade, written),
        request.headers(),
        api,
        sockets,
        (client, known.map(|(caller, _)| caller)),
    ))
}

/// The query of the upgrade.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SocketQuery {
    #[expect(dead_code, reason = "it was redeemed before; here it is only known")]
    ticket: Option<String>,
}

/// Who it is, where header or ticket tell, with the origin that the ticket is bound to.
async fn caller_of(
    api: &ApiState,
    headers: &HeaderMap,
    uri: &Uri,
    client: std::net::IpAddr,
) -> Result<Option<(Caller, Option<String>)>, ApiError> {
    let credential = credential_of(headers, uri)?;
    let ticket = uri
        .query()
        .into_iter()
        .flat_map(|it| it.split('&'))
        .find_map(|it| it.strip_prefix("ticket="));
    match (credential, ticket) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(ApiError::new(Code::Unauthenticated)
            .detail("Two different credentials came in one request.")),
        (Some(credential), None) => Ok(Some((
            api.credentials.authenticate(&credential, client).await?,
            None,
        ))),
        (None, Some(ticket)) => {
            let found = api.credentials.redeem_ticket(ticket);
            found.map(Some).ok_or_else(|| {
                ApiError::new(Code::Unauthenticated).detail("The ticket is used, over, or none.")
            })
        }
    }
}

/// A page may connect from this host or a listed one; without an origin it is no browser.
fn check_origin(api: &ApiState, headers: &HeaderMap, bound: Option<&str>) -> Result<(), ApiError> {
    let refused = || ApiError::new(Code::OriginNotAllowed);
    let Some(origin) = headers.get(header::ORIGIN) else {
        return bound.map_or(Ok(()), |_| Err(refused()));
    };
    let origin = origin.to_str().map_err(|_| refused())?;
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    if bound.is_some_and(|it| it != origin)
        || !is_allowed(origin, host, &api.config.server.allowed_origins)
    {
        return Err(refused());
    }
    Ok(())
}

fn is_allowed(origin: &str, host: Option<&str>, listed: &[String]) -> bool {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let is_own = authority
        .zip(host)
        .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host));
    is_own || listed.iter().any(|it| it.eq_ignore_ascii_case(origin))
}

/// The codec that is wanted: the first known subprotocol, JSON where none is asked for, none where all are unknown.
fn codec_of(headers: &HeaderMap) -> Option<(Codec, bool)> {
    let offered = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|it| it.to_str().ok());
    let mut offered = offered
        .flat_map(|it| it.split(','))
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .peekable();
    if offered.peek().is_none() {
        return Some((Codec::Json, false));
    }
    let known = |name: &str| {
        [Codec::Json, Codec::MsgPack]
            .into_iter()
            .find(|it| it.protocol() == name)
    };
    offered.find_map(known).map(|codec| (codec, true))
}

fn accept(
    (upgrade, written): (WebSocketUpgrade, Written),
    headers: &HeaderMap,
    api: ApiState,
    sockets: Arc<Sockets>,
    who: (std::net::IpAddr, Option<Caller>),
) -> Response {
    let mut upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(WRITE_BUFFER_MAX)
        .max_message_size(FRAME_BYTES_MAX)
        .max_frame_size(FRAME_BYTES_MAX);
    let open = sockets.connections.open();
    let Some((codec, is_offered)) = codec_of(headers) else {
        return upgrade.on_upgrade(move |socket| async move {
            sockets.counters.closed(Close::NotAcceptable);
            Socket::new(socket, written)
                .close(Close::NotAcceptable)
                .await;
            drop(open);
        });
    };
    if is_offered {
        upgrade.set_selected_protocol(HeaderValue::from_static(codec.protocol()));
    }
    let (client, known) = who;
    upgrade.on_upgrade(move |socket: WebSocket| {
        let session = Session::new(
            Parts {
                api,
                sockets,
                codec,
                client,
                written,
                open,
            },
            socket,
        );
        Box::pin(Box::new(session).run(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(protocol: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(protocol),
        );
        headers
    }

    #[test]
    fn the_first_known_subprotocol_counts() {
        assert_eq!(codec_of(&HeaderMap::new()), Some((Codec::Json, false)));
        assert_eq!(
            codec_of(&headers("chat, buho.v1.msgpack,buho.v1.json")),
            Some((Codec::MsgPack, true))
        );
        assert_eq!(codec_of(&headers("chat, buho.v9.json")), None);
    }

    #[test]
    fn an_origin_is_this_host_or_listed() {
        let listed = ["https://app.example".to_owned()];
        let host = Some("gw.example:8080");
        assert!(is_allowed("http://gw.example:8080", host, &[]));
        assert!(is_allowed("https://GW.example:8080", host, &[]));
        assert!(is_allowed("https://app.example", host, &listed));
        for foreign in [
            "null",
            "https://gw.example",
            "https://evil.example",
            "gw.example:8080",
            "",
        ] {
            assert!(!is_allowed(foreign, host, &listed), "{foreign}");
        }
    }
}
