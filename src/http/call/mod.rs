//! A call: who makes it, and what it brings. The extractor keeps the order of checks that the contract names:
//! 406 → 401 → 429 → 413, 415 → 403; then the handler looks up the ids of its path (404), and only then reads query
//! and body (400, 422).

pub(super) mod accept;
mod body;
mod credential;
mod payload;
mod query;

use std::future::poll_fn;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors::model::{Faults, KeyKind, Scope, TenantId, Timestamp};
use actors::ports::Claim;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use self::body::{present, typed};
pub(crate) use self::credential::{client_of, credential_of, peer_of};
pub(super) use self::payload::drain;
pub(crate) use self::query::{Csv, Limit, read as read_query};

use self::payload::{check_type, read_body};
use super::layers::Trace;
use super::scope::Permission;
use super::{ApiState, Nothing};
use crate::credentials::Caller;
use crate::problem::{ApiError, Code};

/// How long a retry gets the first answer.
const CLAIM_LIFE: Duration = Duration::from_hours(24);
const KEY_CHARS_MAX: usize = 255;
const KEY_RULE: &str = "must be one text of 1 to 255 printable ASCII characters";

/// Tells whoever makes calls one after the other that the command of one stands in its actor's queue: the next may be
/// made, and will not overtake it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entrance(Arc<AtomicBool>);

impl Entrance {
    /// Whether the command stands in the queue.
    pub(crate) fn is_passed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A call whose caller holds the right `S`.
pub(crate) struct Call<S> {
    caller: Caller,
    parts: Parts,
    /// `None` where the path is not UTF-8.
    params: Option<Vec<(String, String)>>,
    body: Bytes,
    is_form: bool,
    came_at: Timestamp,
    needs: PhantomData<fn() -> S>,
}

impl<S: Permission> FromRequest<ApiState> for Call<S> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, ApiError> {
        let (mut parts, mut body) = request.into_parts();
        let read = Self::check(&mut parts, &mut body, api).await;
        if read.is_err() {
            drain(&parts.headers, body).await;
        }
        let (caller, client, (body, is_form)) = read?;
        permit::<S>(&caller, client)?;
        let params = match RawPathParams::from_request_parts(&mut parts, api).await {
            Ok(params) => Some(
                params
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            ),
            Err(_) => None,
        };
        Ok(Self {
            caller,
            parts,
            params,
            body,
            is_form,
            came_at: api.clock.now(),
            needs: PhantomData,
        })
    }
}

type Checked = (Caller, IpAddr, (Bytes, bool));

impl<S: Permission> Call<S> {
    async fn check(
        parts: &mut Parts,
        body: &mut Body,
        api: &ApiState,
    ) -> Result<Checked, ApiError> {
        if accept::choose(&parts.headers, S::FORMS).is_none() {
            let detail = format!("This answer comes as {}.", S::FORMS.join(", "));
            return Err(ApiError::new(Code::NotAcceptable).detail(detail));
        }
        let client = client_of(
            peer_of(&parts.extensions),
            &parts.headers,
            &api.config.server.trusted_proxies,
        );
        let caller = caller_of(parts, client, api).await?;
        let trace = parts.extensions.get::<Arc<Trace>>();
        if let Some(trace) = trace {
            trace.set_caller(&caller);
        }
        if let Some(rate) = caller.count_call() {
            if let Some(trace) = trace {
                trace.set_rate(rate);
            }
            if !rate.passes {
                return Err(ApiError::new(Code::RateLimited).after(rate.reset));
            }
        }
        let bytes = read_body(&parts.headers, body).await?;
        let is_form = check_type(parts, &bytes, S::TAKES_FORM)?;
        Ok((caller, client, (bytes, is_form)))
    }
}

impl<S> Call<S> {
    /// Who calls.
    pub(crate) const fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whose things the call is about.
    pub(crate) fn tenant(&self) -> TenantId {
        self.caller.tenant()
    }

    /// Which of these media types the answer shall have; the first where it does not matter.
    pub(crate) fn prefers(&self, forms: &'static [&'static str]) -> &'static str {
        accept::choose(&self.parts.headers, forms)
            .or(forms.first().copied())
            .unwrap_or_default()
    }

    /// The headers.
    pub(crate) const fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// A part of the path. What is malformed is absent.
    ///
    /// # Errors
    ///
    /// `not_found`.
    pub(crate) fn path<T: FromStr>(&self, name: &str) -> Result<T, ApiError> {
        let found = self.params.iter().flatten().find(|(it, _)| it == name);
        found
            .and_then(|(_, text)| text.parse().ok())
            .ok_or_else(|| ApiError::new(Code::NotFound))
    }

    /// The query. Everything that `T` does not read is refused; no `#[serde(flatten)]` in it.
    ///
    /// # Errors
    ///
    /// `invalid_json` where it can't be decoded, `invalid` where it breaks a rule.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        query::read(self.parts.uri.query())
    }

    /// For an operation that reads neither query nor body: nothing in a query is known to it.
    ///
    /// # Errors
    ///
    /// As [`Self::query`].
    pub(crate) fn no_query(&self) -> Result<(), ApiError> {
        self.query().map(|Nothing {}| ())
    }

    /// The command of this call stands in its actor's queue.
    pub(crate) fn entered(&self) {
        if let Some(Entrance(passed)) = self.parts.extensions.get() {
            passed.store(true, Ordering::Release);
        }
    }

    /// Asks an actor, with a question that stands in its queue from the first poll on.
    pub(crate) async fn enters<T>(&self, asking: impl Future<Output = T>) -> T {
        let mut asking = pin!(asking);
        poll_fn(|cx| {
            let answer = asking.as_mut().poll(cx);
            self.entered();
            answer
        })
        .await
    }

    /// Lets no access token in: what makes credentials is for keys.
    ///
    /// # Errors
    ///
    /// `forbidden`.
    pub(crate) fn by_key(&self) -> Result<(), ApiError> {
        if self.caller().is_token() {
            return Err(ApiError::new(Code::Forbidden)
                .detail("An access token can't make access tokens, nor make or change API keys."));
        }
        Ok(())
    }

    /// The body. `T` says `deny_unknown_fields`. What has a body has no query: a parameter in one is refused too.
    ///
    /// # Errors
    ///
    /// `invalid_json` where one of them can't be read, `invalid` where one breaks a rule.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let body = self.read_body();
        let is_unreadable = |it: &ApiError| it.code() == Code::InvalidJson;
        if !body.as_ref().is_err_and(is_unreadable) {
            self.no_query()?;
        }
        body
    }

    fn read_body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        if self.is_form {
            return query::read(Some(
                std::str::from_utf8(&self.body).map_err(|_| ApiError::new(Code::InvalidJson))?,
            ));
        }
        body::read(&self.body)
    }

    fn value(&self) -> Result<Value, ApiError> {
        if self.is_form {
            return Ok(Value::String(
                String::from_utf8_lossy(&self.body).into_owned(),
            ));
        }
        body::value(&self.body)
    }

    /// The path without its escapes, as fingerprints know it.
    fn plain_path(&self) -> String {
        percent_decode_str(self.parts.uri.path())
            .decode_utf8_lossy()
            .into_owned()
    }

    /// The client's claim to an idempotency key of this operation; `None` without the header.
    ///
    /// # Errors
    ///
    /// `invalid` for a key that is none, `invalid_json` for a body that can't be read.
    pub(crate) fn claim(&self, operation: &'static str) -> Result<Option<Claim>, ApiError> {
        let mut keys = self.headers().get_all("idempotency-key").iter();
        let Some(key) = keys.next() else {
            return Ok(None);
        };
        let text = key
            .to_str()
            .ok()
            .filter(|it| is_key(it) && keys.next().is_none());
        let faulty = || Faults::one("@Idempotency-Key", KEY_RULE);
        let key = text.ok_or_else(|| ApiError::invalid(faulty()))?;
        Ok(Some(claim(
            operation,
            &self.plain_path(),
            &self.value()?,
            key,
            self.came_at,
        )))
    }
}

fn claim(operation: &'static str, path: &str, body: &Value, key: &str, now: Timestamp) -> Claim {
    let fingerprint = body::fingerprint(operation, path, body);
    Claim {
        operation,
        key: key.into(),
        fingerprint,
        expires_at: now.plus(CLAIM_LIFE),
    }
}

/// The claim to a key that came by another way than the header, as if the call had come alone to `path`.
///
/// # Errors
///
/// `invalid` at `pointer` for a key that is none.
pub(crate) fn claim_of(
    operation: &'static str,
    path: &str,
    body: &Value,
    key: &str,
    pointer: &str,
    now: Timestamp,
) -> Result<Claim, ApiError> {
    if is_key(key) {
        return Ok(claim(operation, path, body, key, now));
    }
    Err(ApiError::invalid(Faults::one(pointer, KEY_RULE)))
}

fn is_key(text: &str) -> bool {
    (1..=KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|it| matches!(it, 0x20..=0x7e))
}

/// The caller that our own WebSocket put there, or the one that the headers prove.
async fn caller_of(parts: &mut Parts, client: IpAddr, api: &ApiState) -> Result<Caller, ApiError> {
    if let Some(caller) = parts.extensions.get::<Caller>() {
        let is_over = caller.is_over(api.clock.now());
        return if is_over {
            Err(ApiError::new(Code::Unauthenticated))
        } else {
            Ok(caller.clone())
        };
    }
    let credential = credential_of(&parts.headers, &parts.uri)?;
    let credential = credential.ok_or_else(|| ApiError::new(Code::Unauthenticated))?;
    api.credentials.authenticate(&credential, client).await
}

fn permit<S: Permission>(caller: &Caller, client: IpAddr) -> Result<(), ApiError> {
    if !caller.may_come_from(client) {
        return Err(ApiError::new(Code::IpNotAllowed));
    }
    if caller.kind() == KeyKind::Admin {
        return Err(
            ApiError::new(Code::Forbidden).detail("An admin key serves the admin API alone.")
        );
    }
    match S::SCOPE {
        Some(scope) if !caller.may(scope) => Err(lacks(scope)),
        Some(_) | None => Ok(()),
    }
}

/// The same for an operation without a caller: it takes no query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        query::read(parts.uri.query()).map(|Nothing {}| Self)
    }
}

/// The problem of a caller that lacks a right.
pub(crate) fn lacks(scope: Scope) -> ApiError {
    let detail = format!("The credential does not hold `{}`.", scope.as_str());
    ApiError::new(Code::ScopeMissing)
        .detail(detail)
        .with("scope", scope.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_printable_and_short() {
        assert!(is_key("o-17") && is_key(&"k".repeat(255)) && is_key("a b"));
        assert!(!is_key("") && !is_key(&"k".repeat(256)) && !is_key("ñ") && !is_key("a\tb"));
    }
}
