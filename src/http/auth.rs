//! Access tokens: traded for a key, looked at, ended; the keys that verify them; tickets for browsers.

use std::time::Duration;

use actors::CommandError;
use actors::model::{DeviceId, Faults, KeyId, ScopeSet, TenantId, Timestamp};
use axum::extract::State;
use axum::http::header;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::{Call, NoQuery};
use super::idempotency::once;
use super::reply::Reply;
use super::scope::{Any, AnyWithForm};
use crate::credentials::TTL_MAX;
use crate::problem::{ApiError, Problems};

/// Devices that a token or ticket may be bound to: more would not fit into a token.
const DEVICES_MAX: usize = 100;
const ORIGIN_CHARS_MAX: usize = 255;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_token))
        .routes(routes!(introspect_token))
        .routes(routes!(revoke_token))
        .routes(routes!(create_ws_ticket))
        .routes(routes!(list_token_keys))
}

/// An access token that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateToken {
    /// What it shall do; all that the key may when nothing is said.
    #[serde(default)]
    scopes: Option<ScopeSet>,
    /// The devices it shall be bound to; those of the key when nothing is said.
    #[serde(default)]
    devices: Option<Vec<DeviceId>>,
    /// How long it shall live, 1 to 3,600 seconds; 900 when nothing is said and the gateway is not told otherwise.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3_600)]
    ttl_seconds: Option<u64>,
}

/// The kind of a token, as RFC 6749 names it.
#[derive(Debug, Serialize, ToSchema)]
enum TokenType {
    /// Sent as `Authorization: Bearer …`.
    Bearer,
}

/// An access token.
#[derive(Debug, Serialize, ToSchema)]
struct AccessToken {
    /// Its text, told this once; `null` in the answer to a retry.
    access_token: String,
    /// How it is sent.
    token_type: TokenType,
    /// Seconds until it ends.
    expires_in: u64,
    /// When it ends.
    expires_at: Timestamp,
    /// What it may do: words between spaces.
    scope: String,
}

/// Trades an API key for an access token with the same rights or narrower ones.
#[utoipa::path(
    post, path = "/v1/auth/tokens", operation_id = "create_token", tag = "auth",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body make one token.")),
    request_body = CreateToken,
    responses((status = 201, description = "Made.", body = AccessToken), Problems),
)]
async fn create_token(State(api): State<ApiState>, call: Call<Any>) -> Result<Reply, ApiError> {
    call.by_key()?;
    let body: CreateToken = call.body()?;
    let ttl = body
        .ttl_seconds
        .map_or(api.config.tokens.ttl_default(), Duration::from_secs);
    let mut faults = check_rights(body.scopes, body.devices.as_deref());
    faults.check(
        (Duration::from_secs(1)..=TTL_MAX).contains(&ttl),
        "/ttl_seconds",
        "must be within 1 and 3,600",
    );
    faults.into_result().map_err(ApiError::invalid)?;
    let reply = once(&api, &call, "create_token", async || {
        check_devices(&api, &call, body.devices.as_deref()).await?;
        let now = api.clock.now();
        let token = api
            .credentials
            .issue_token(call.caller(), body.scopes, body.devices, ttl)
            .await?;
        let reply = Reply::made(&AccessToken {
            access_token: token.text,
            token_type: TokenType::Bearer,
            expires_in: token
                .expires_at
                .since(now)
                .as_millis()
                .div_ceil(1_000)
                .try_into()
                .unwrap_or(u64::MAX),
            expires_at: token.expires_at,
            scope: token.scopes.to_string(),
        });
        Ok(reply?.secret(&["access_token"]))
    });
    reply.await
}

fn check_rights(scopes: Option<ScopeSet>, devices: Option<&[DeviceId]>) -> Faults {
    let mut faults = Faults::default();
    faults.check(
        scopes.is_none_or(|it| !it.is_empty()),
        "/scopes",
        "must not be empty",
    );
    let fits = devices.is_none_or(|it| (1..=DEVICES_MAX).contains(&it.len()));
    faults.check(fits, "/devices", "must have 1 to 100 entries");
    faults
}

/// The devices must be there. One that the caller does not see is more than it may give: that is told later, and is the
/// same whether there is such a device or not.
async fn check_devices(
    api: &ApiState,
    call: &Call<Any>,
    devices: Option<&[DeviceId]>,
) -> Result<(), ApiError> {
    let mut faults = Faults::default();
    for (place, id) in devices.unwrap_or_default().iter().enumerate() {
        if !call.caller().sees(*id) {
            continue;
        }
        match api.node.device(call.tenant(), *id).await {
            Ok(_) => {}
            Err(CommandError::NotFound) => {
                faults.add(format!("/devices/{place}"), "there is no such device");
            }
            Err(error) => return Err(error.into()),
        }
    }
    faults.into_result().map_err(ApiError::invalid)
}

/// A token that is asked about.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NamedToken {
    /// The token.
    token: String,
    /// What the client takes it for (RFC 7662); it makes no difference.
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "the standard lets clients send it, and every kind is told apart without it"
    )]
    token_type_hint: Option<String>,
}

/// What a token is (RFC 7662).
#[derive(Debug, Serialize, ToSchema)]
struct TokenFacts {
    /// Whether it is a valid access token of this tenant. If not, nothing else is told.
    active: bool,
    /// What it may do: words between spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// When it ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<TenantId>,
    /// The API key behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyId>,
}

/// Tells whether an access token of this tenant is valid, and what it may do.
///
/// The body may be a form, as RFC 7662 has it. An API key, and a token of another tenant, are `{"active": false}`.
#[utoipa::path(
    post, path = "/v1/auth/introspect", operation_id = "introspect_token", tag = "auth",
    request_body(content(
        (NamedToken = "application/json"),
        (NamedToken = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "What it is.", body = TokenFacts), Problems),
)]
async fn introspect_token(
    State(api): State<ApiState>,
    call: Call<AnyWithForm>,
) -> Result<Reply, ApiError> {
    let body: NamedToken = call.body()?;
    let found = api
        .credentials
        .introspect(call.caller(), &body.token)
        .await?;
    let facts = match found {
        Some(found) => TokenFacts {
            active: true,
            scope: Some(found.scopes.to_string()),
            exp: Some(found.expires_at.as_millis().div_euclid(1_000)),
            tenant: Some(found.tenant),
            key: Some(found.key),
        },
        None => TokenFacts {
            active: false,
            scope: None,
            exp: None,
            tenant: None,
            key: None,
        },
    };
    Reply::ok(&facts)
}

/// Ends an access token of this tenant before its time.
///
/// The body may be a form, as RFC 7009 has it. The answer is the same whatever the token was.
#[utoipa::path(
    post, path = "/v1/auth/revoke", operation_id = "revoke_token", tag = "auth",
    params(("Idempotency-Key" = Option<String>, Header, description = "Ending a token twice is ending it once.")),
    request_body(content(
        (NamedToken = "application/json"),
        (NamedToken = "application/x-www-form-urlencoded"),
    )),
    responses((status = 200, description = "It is no longer valid, if it ever was.", body = Value), Problems),
)]
async fn revoke_token(
    State(api): State<ApiState>,
    call: Call<AnyWithForm>,
) -> Result<Reply, ApiError> {
    let body: NamedToken = call.body()?;
    once(&api, &call, "revoke_token", async || {
        api.credentials
            .revoke_token(call.caller(), &body.token)
            .await?;
        Reply::ok(&Value::Object(serde_json::Map::new()))
    })
    .await
}

/// A ticket that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateWsTicket {
    /// What the connection shall do; all that the credential may when nothing is said.
    #[serde(default)]
    scopes: Option<ScopeSet>,
    /// The devices it shall be bound to; those of the credential when nothing is said.
    #[serde(default)]
    devices: Option<Vec<DeviceId>>,
    /// The origin of the page that will connect, such as `https://app.example.com`: no other may use the ticket.
    #[serde(default)]
    origin: Option<String>,
}

/// A ticket for one WebSocket.
#[derive(Debug, Serialize, ToSchema)]
struct WsTicket {
    /// Its text, told this once; `null` in the answer to a retry.
    ticket: String,
    /// When it ends: in 30 seconds.
    expires_at: Timestamp,
    /// Where to connect with it; `null` in the answer to a retry.
    url: String,
}

/// Makes a single-use ticket for a browser, which can't set headers on a WebSocket.
#[utoipa::path(
    post, path = "/v1/ws/tickets", operation_id = "create_ws_ticket", tag = "auth",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body make one ticket.")),
    request_body = CreateWsTicket,
    responses((status = 201, description = "Made.", body = WsTicket), Problems),
)]
async fn create_ws_ticket(State(api): State<ApiState>, call: Call<Any>) -> Result<Reply, ApiError> {
    let body: CreateWsTicket = call.body()?;
    let mut faults = check_rights(body.scopes, body.devices.as_deref());
    let fits = body.origin.as_ref().is_none_or(|it| is_origin(it));
    faults.check(
        fits,
        "/origin",
        "must be scheme://host or scheme://host:port",
    );
    faults.into_result().map_err(ApiError::invalid)?;
    once(&api, &call, "create_ws_ticket", async || {
        check_devices(&api, &call, body.devices.as_deref()).await?;
        let ticket =
            api.credentials
                .issue_ticket(call.caller(), body.scopes, body.devices, body.origin)?;
        let url = format!("{}/v1/ws?ticket={}", ws_base(&api, &call), ticket.text);
        let reply = Reply::made(&WsTicket {
            ticket: ticket.text,
            expires_at: ticket.expires_at,
            url,
        });
        Ok(reply?.secret(&["ticket", "url"]))
    })
    .await
}

/// Whether it is what a browser sends as `Origin`.
fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let is_host = |it: &str| {
        !it.is_empty()
            && it
                .bytes()
                .all(|it| it.is_ascii_graphic() && !b"/?#@\\\"".contains(&it))
    };
    text.len() <= ORIGIN_CHARS_MAX && host.is_some_and(is_host)
}

/// Where clients reach the gateway's WebSocket: the configured URL, else what this client took.
fn ws_base(api: &ApiState, call: &Call<Any>) -> String {
    if let Some(public) = &api.config.server.public_url {
        let (scheme, rest) = public.split_once("://").unwrap_or(("http", public));
        let scheme = if scheme == "https" { "wss" } else { "ws" };
        return format!("{scheme}://{}", rest.trim_end_matches('/'));
    }
    let host = call
        .headers()
        .get(header::HOST)
        .and_then(|it| it.to_str().ok());
    format!(
        "ws://{}",
        host.map_or_else(|| api.config.server.listen.to_string(), str::to_owned)
    )
}

/// The public keys that verify access tokens (RFC 7517).
#[derive(Debug, Serialize, ToSchema)]
struct TokenKeys {
    /// One key, and the one before it while tokens of that may still be about.
    #[schema(value_type = Vec<Value>)]
    keys: Vec<jsonwebtoken::jwk::Jwk>,
}

/// Lists the public keys that verify access tokens.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", operation_id = "list_token_keys", tag = "auth", security(()),
    responses((status = 200, description = "The keys.", body = TokenKeys), Problems),
)]
async fn list_token_keys(State(api): State<ApiState>, _: NoQuery) -> Result<Reply, ApiError> {
    Reply::ok(&TokenKeys {
        keys: api.credentials.jwks(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_and_host() {
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "http://[::1]:8080",
        ] {
            assert!(is_origin(good), "{good}");
        }
        let long = format!("https://{}", "a".repeat(255));
        for bad in [
            "",
            "null",
            "app.example.com",
            "https://",
            "https://a/",
            "https://a b",
            "ftp://a",
            "https://u@a",
            &long,
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
