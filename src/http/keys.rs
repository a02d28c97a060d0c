//! `/v1/keys`: API keys, made, listed, changed, ended.

use std::net::IpAddr;
use std::time::Duration;

use actors::CommandError;
use actors::model::{DeviceId, Faults, KeyId, KeyKind, KeyRecord, ScopeSet, Timestamp};
use axum::extract::State;
use futures_util::future::try_join_all;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::{Call, present};
use super::idempotency::{once_with_effect, or_kept};
use super::paging::{Page, PageQuery, Walk, cut};
use super::reply::Reply;
use super::scope::KeysWrite;
use crate::credentials::{NewKey, draw_secret};
use crate::problem::{ApiError, Code, Problems};

const NAME_CHARS_MAX: usize = 100;
/// Devices that a key may be bound to, and addresses it may be used from.
const ENTRIES_MAX: usize = 100;
const OVERLAP_DEFAULT: Duration = Duration::from_hours(24);
const OVERLAP_MAX: Duration = Duration::from_hours(168);

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_key, list_keys))
        .routes(routes!(read_key, update_key, delete_key))
        .routes(routes!(rotate_key))
}

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct Key {
    /// Its id.
    id: KeyId,
    /// Its name, for people.
    name: String,
    /// What sort it is.
    kind: KeyKind,
    /// What it may do.
    scopes: ScopeSet,
    /// The devices it is bound to; empty for all.
    devices: Vec<DeviceId>,
    /// The addresses and blocks it may be used from; empty for everywhere.
    #[schema(value_type = Vec<String>)]
    allowed_ips: Vec<IpNet>,
    /// When it ends by itself.
    expires_at: Option<Timestamp>,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last used, itself or through one of its access tokens; `null` for never. After a crash it may be a
    /// minute behind.
    last_used_at: Option<Timestamp>,
    /// From where.
    #[schema(value_type = Option<String>)]
    last_used_ip: Option<IpAddr>,
}

impl Key {
    async fn of(api: &ApiState, record: &KeyRecord) -> Result<Self, ApiError> {
        let last = api.credentials.last_use(record).await?;
        Ok(Self {
            id: record.id,
            name: record.name.clone(),
            kind: record.kind,
            scopes: record.scopes,
            devices: record.devices.clone(),
            allowed_ips: record.allowed_ips.clone(),
            expires_at: record.expires_at,
            created_at: record.created_at,
            last_used_at: last.map(|it| it.at),
            last_used_ip: last.map(|it| it.ip),
        })
    }
}

/// A key and its secret.
#[derive(Debug, Serialize, ToSchema)]
struct KeyWithSecret {
    /// The key.
    key: Key,
    /// What is sent as `Authorization: Bearer …`, told this once; `null` in the answer to a retry.
    secret: String,
}

/// A key that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    /// Its name, 1 to 100 characters.
    name: String,
    /// What it shall do: nothing that the key which makes it may not.
    scopes: ScopeSet,
    /// The devices it is bound to, at most 100; all that the maker sees when nothing is said.
    #[serde(default)]
    devices: Vec<DeviceId>,
    /// Addresses and blocks (CIDR) it may be used from, at most 100; everywhere when nothing is said.
    #[serde(default)]
    allowed_ips: Vec<String>,
    /// When it ends by itself; never when nothing is said.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// Makes an API key. A key can't make one that may do more than itself, and an access token can't make any.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "create_key", tag = "keys",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body make one API key.")),
    request_body = CreateKey,
    responses((status = 201, description = "Made.", body = KeyWithSecret), Problems),
)]
async fn create_key(State(api): State<ApiState>, call: Call<KeysWrite>) -> Result<Reply, ApiError> {
    call.by_key()?;
    let body: CreateKey = call.body()?;
    let mut faults = Faults::default();
    let allowed_ips = networks(&body.allowed_ips, &mut faults);
    let wanted = NewKey {
        tenant: call.tenant(),
        name: body.name,
        scopes: body.scopes,
        devices: if body.devices.is_empty() {
            call.caller().devices().to_vec()
        } else {
            body.devices
        },
        allowed_ips,
        expires_at: body.expires_at,
    };
    check_name(&wanted.name, &mut faults);
    check_end(wanted.expires_at, &api, &mut faults);
    if let Err(refused) = check_rights(&api, &call, wanted.scopes, &wanted.devices, faults).await {
        return or_kept(&api, call.tenant(), call.claim("create_key")?, refused)
            .await
            .map(Reply::from);
    }
    once_with_effect(&api, &call, "create_key", async |claim| {
        let (record, secret) = api.credentials.draw_key(wanted);
        let shown = KeyWithSecret {
            key: Key::of(&api, &record).await?,
            secret: secret.expose().to_owned(),
        };
        let reply = Reply::created(format!("/v1/keys/{}", record.id), &shown)?.secret(&["secret"]);
        let kept = claim.map(|it| (it, reply.to_answer()));
        let replayed = api.credentials.create_key(record, kept).await?;
        Ok(replayed.map_or(reply, Reply::from))
    })
    .await
}

fn check_name(name: &str, faults: &mut Faults) {
    let fits = !name.trim().is_empty() && name.chars().count() <= NAME_CHARS_MAX;
    faults.check(fits, "/name", "must have 1 to 100 characters");
}

fn check_end(end: Option<Timestamp>, api: &ApiState, faults: &mut Faults) {
    faults.check(
        end.is_none_or(|it| api.clock.now() < it),
        "/expires_at",
        "must lie in the future",
    );
}

/// Addresses, and blocks in CIDR form.
fn networks(texts: &[String], faults: &mut Faults) -> Vec<IpNet> {
    faults.check(
        texts.len() <= ENTRIES_MAX,
        "/allowed_ips",
        "must have at most 100 entries",
    );
    let mut read = Vec::new();
    for (place, text) in texts.iter().take(ENTRIES_MAX).enumerate() {
        let block = text.parse::<IpNet>().ok();
        match block.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            Some(network) => read.push(network),
            None => faults.add(
                format!("/allowed_ips/{place}"),
                "must be an address or a block such as 192.0.2.0/24",
            ),
        }
    }
    read
}

/// Nobody gives more than he has: neither rights nor devices.
async fn check_rights(
    api: &ApiState,
    call: &Call<KeysWrite>,
    scopes: ScopeSet,
    devices: &[DeviceId],
    mut faults: Faults,
) -> Result<(), ApiError> {
    let caller = call.caller();
    faults.check(!scopes.is_empty(), "/scopes", "must not be empty");
    faults.check(
        devices.len() <= ENTRIES_MAX,
        "/devices",
        "must have at most 100 entries",
    );
    if !devices.is_empty() {
        let known = api.store.devices(call.tenant()).await?;
        for (place, id) in devices.iter().enumerate().take(ENTRIES_MAX) {
            let fits = caller.sees(*id) && known.iter().any(|it| it.id == *id);
            faults.check(
                fits,
                &format!("/devices/{place}"),
                "there is no such device",
            );
        }
    }
    let is_wider =
        !caller.scopes().covers(scopes) || (devices.is_empty() && !caller.devices().is_empty());
    if is_wider {
        let detail = "A key can't make or widen a key beyond what it may do itself.";
        return Err(ApiError::new(Code::ScopeMissing).detail(detail));
    }
    faults.into_result().map_err(ApiError::invalid)
}

/// Lists the API keys, newest first.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "list_keys", tag = "keys", params(PageQuery),
    responses((status = 200, description = "A page of keys.", body = Page<Key>), Problems),
)]
async fn list_keys(State(api): State<ApiState>, call: Call<KeysWrite>) -> Result<Reply, ApiError> {
    let query: PageQuery = call.query()?;
    let (walk, beyond) = Walk::start::<KeyId>(
        &api,
        call.tenant(),
        "list_keys",
        &(),
        query.cursor.as_deref(),
    )?;
    let limit = query.limit();
    let keys = api.store.keys(call.tenant()).await?;
    let wanted = keys
        .iter()
        .filter(|it| beyond.is_none_or(|beyond| it.id < beyond) && is_shown(&call, it));
    let wanted = wanted.take(limit.saturating_add(1));
    let found = try_join_all(wanted.map(|it| Key::of(&api, it))).await?;
    let (items, next) = cut(found, limit, |it| it.id);
    Reply::ok(&walk.page(items, next))
}

/// A key that is bound to devices sees the keys of these devices alone.
fn is_shown(call: &Call<KeysWrite>, record: &KeyRecord) -> bool {
    let caller = call.caller();
    caller.devices().is_empty()
        || (!record.devices.is_empty() && record.devices.iter().all(|it| caller.sees(*it)))
}

/// The key that the path names.
async fn find(api: &ApiState, call: &Call<KeysWrite>) -> Result<KeyRecord, ApiError> {
    let found = api.store.key(call.path("key")?).await?;
    let own = found.filter(|it| it.tenant == call.tenant() && is_shown(call, it));
    own.ok_or_else(|| ApiError::new(Code::NotFound))
}

/// Reads a key.
#[utoipa::path(
    get, path = "/v1/keys/{key}", operation_id = "read_key", tag = "keys",
    params(("key" = KeyId, Path, description = "The key.")),
    responses((status = 200, description = "The key.", body = Key), Problems),
)]
async fn read_key(State(api): State<ApiState>, call: Call<KeysWrite>) -> Result<Reply, ApiError> {
    let record = find(&api, &call).await?;
    call.no_query()?;
    Reply::ok(&Key::of(&api, &record).await?)
}

/// What is to change (RFC 7396): absent members stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateKey {
    /// Its name, 1 to 100 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    name: Option<Option<String>>,
    /// What it shall do.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<ScopeSet>)]
    scopes: Option<Option<ScopeSet>>,
    /// The devices it is bound to; `null` or empty for all.
    #[serde(default, deserialize_with = "present")]
    devices: Option<Option<Vec<DeviceId>>>,
    /// Addresses and blocks it may be used from; `null` or empty for everywhere.
    #[serde(default, deserialize_with = "present")]
    allowed_ips: Option<Option<Vec<String>>>,
    /// When it ends by itself; `null` for never.
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Option<Timestamp>>,
}

/// Changes a key. Where it may do less than before, its open connections end.
#[utoipa::path(
    patch, path = "/v1/keys/{key}", operation_id = "update_key", tag = "keys",
    params(("key" = KeyId, Path, description = "The key.")),
    request_body(content((UpdateKey = "application/json"), (UpdateKey = "application/merge-patch+json"))),
    responses((status = 200, description = "The key as it is now.", body = Key), Problems),
)]
async fn update_key(State(api): State<ApiState>, call: Call<KeysWrite>) -> Result<Reply, ApiError> {
    call.by_key()?;
    let _turn = api.credentials.turn(call.path("key")?).await;
    let before = find(&api, &call).await?;
    let body: UpdateKey = call.body()?;
    let mut faults = Faults::default();
    let mut after = before.clone();
    faults.check(body.name != Some(None), "/name", "can't be erased");
    faults.check(body.scopes != Some(None), "/scopes", "can't be erased");
    if let Some(name) = body.name.flatten() {
        check_name(&name, &mut faults);
        after.name = name;
    }
    if let Some(end) = body.expires_at {
        check_end(end, &api, &mut faults);
        after.expires_at = end;
    }
    if let Some(texts) = body.allowed_ips {
        after.allowed_ips = networks(&texts.unwrap_or_default(), &mut faults);
    }
    after.scopes = body.scopes.flatten().unwrap_or(after.scopes);
    after.devices = body
        .devices
        .map_or(after.devices, Option::unwrap_or_default);
    check_rights(&api, &call, after.scopes, &after.devices, faults).await?;
    if after != before {
        api.credentials.change_key(&before, after.clone()).await?;
    }
    Reply::ok(&Key::of(&api, &after).await?)
}

/// Ends a key, its access tokens, and every connection that came in with one of them.
#[utoipa::path(
    delete, path = "/v1/keys/{key}", operation_id = "delete_key", tag = "keys",
    params(("key" = KeyId, Path, description = "The key.")),
    responses((status = 204, description = "Gone."), Problems),
)]
async fn delete_key(State(api): State<ApiState>, call: Call<KeysWrite>) -> Result<Reply, ApiError> {
    let record = find(&api, &call).await?;
    call.no_query()?;
    match api.credentials.revoke_key(record.id).await {
        // A twin was faster.
        Ok(()) | Err(CommandError::NotFound) => Ok(Reply::no_content()),
        Err(error) => Err(error.into()),
    }
}

/// How a secret is to be replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateKey {
    /// Seconds for which the old secret works on, 0 to 604,800; a day when nothing is said.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 604_800)]
    overlap_seconds: Option<u64>,
}

/// Gives a key a new secret. The old one works until the overlap ends; never more than two do.
#[utoipa::path(
    post, path = "/v1/keys/{key}/rotate", operation_id = "rotate_key", tag = "keys",
    params(
        ("key" = KeyId, Path, description = "The key."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body rotate once."),
    ),
    request_body = RotateKey,
    responses((status = 200, description = "The key and its new secret.", body = KeyWithSecret), Problems),
)]
async fn rotate_key(State(api): State<ApiState>, call: Call<KeysWrite>) -> Result<Reply, ApiError> {
    call.by_key()?;
    let _turn = api.credentials.turn(call.path("key")?).await;
    let record = find(&api, &call).await?;
    let body: RotateKey = call.body()?;
    let overlap = body
        .overlap_seconds
        .map_or(OVERLAP_DEFAULT, Duration::from_secs);
    let mut faults = Faults::default();
    faults.check(
        overlap <= OVERLAP_MAX,
        "/overlap_seconds",
        "must be within 0 and 604,800",
    );
    // Whoever holds the new secret holds the key's rights.
    check_rights(&api, &call, record.scopes, &record.devices, faults).await?;
    once_with_effect(&api, &call, "rotate_key", async |claim| {
        let (after, secret) = draw_secret(&record);
        let shown = KeyWithSecret {
            key: Key::of(&api, &after).await?,
            secret: secret.expose().to_owned(),
        };
        let reply = Reply::ok(&shown)?.secret(&["secret"]);
        let kept = claim.map(|it| (it, reply.to_answer()));
        let rotated = api.credentials.rotate_key(&record, after, overlap, kept);
        Ok(rotated.await?.map_or(reply, Reply::from))
    })
    .await
}
