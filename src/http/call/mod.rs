//! A call: who makes it, and what it brings. The extractor keeps the order of checks that the contract names:
//! 406 → 401 → 429 → 413, 415 → 403; then the handler looks up the ids of its path (404), and only then reads query
//! and body (400, 422).

pub(super) mod accept;
mod body;
mod credential;
mod query;

use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use actors::model::{Faults, KeyKind, Scope, TenantId, Timestamp};
use actors::ports::Claim;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::body::{present, typed};
pub(crate) use self::credential::{client_of, credential_of, peer_of};
pub(crate) use self::query::{Csv, Limit};

use super::ApiState;
use super::layers::Trace;
use super::scope::Permission;
use crate::credentials::Caller;
use crate::problem::{ApiError, Code};

/// Bytes of a body.
pub(crate) const BODY_BYTES_MAX: usize = 1_048_576;
/// How long a retry gets the first answer.
pub(crate) const CLAIM_LIFE: Duration = Duration::from_hours(24);
/// How long a body may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// For each such piece that has come it gets a second more.
const BODY_PIECE_BYTES: usize = 32_768;
/// What is read and thrown away of a refused body, so that the refusal is not lost in a reset of the connection.
const DRAIN_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);
const KEY_CHARS_MAX: usize = 255;
const KEY_RULE: &str = "must be one text of 1 to 255 printable ASCII characters";

/// A call whose caller holds the right `S`.
pub(crate) struct Call<S> {
    caller: Caller,
    parts: Parts,
    /// `None` where the path is not UTF-8.
    params: Option<Vec<(String, String)>>,
    body: Bytes,
    is_form: bool,
    client: IpAddr,
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
            client,
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

    /// Where the call comes from: the peer, or what a trusted proxy says.
    pub(crate) const fn peer(&self) -> IpAddr {
        self.client
    }

    /// The path and query, as they came.
    pub(crate) const fn uri(&self) -> &Uri {
        &self.parts.uri
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

    /// The body. `T` says `deny_unknown_fields`.
    ///
    /// # Errors
    ///
    /// `invalid_json` where it can't be read, `invalid` where it breaks a rule.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
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
#[expect(
    clippy::too_many_arguments,
    reason = "a call in its parts, and where its key stood"
)]
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

/// The problem of a caller that lacks a right.
pub(crate) fn lacks(scope: Scope) -> ApiError {
    let detail = format!("The credential does not hold `{}`.", scope.as_str());
    ApiError::new(Code::ScopeMissing)
        .detail(detail)
        .with("scope", scope.as_str())
}

async fn read_body(headers: &HeaderMap, body: &mut Body) -> Result<Bytes, ApiError> {
    let told = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.parse::<usize>().ok());
    if told.is_some_and(|it| BODY_BYTES_MAX < it) {
        return Err(ApiError::new(Code::BodyTooLarge));
    }
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    let begun = Instant::now();
    let mut deadline = begun + BODY_TIME_MAX;
    let cut =
        || ApiError::new(Code::InvalidJson).detail("The body did not arrive whole and in time.");
    while let Some(frame) = timeout_at(deadline, body.frame())
        .await
        .map_err(|_| cut())?
    {
        let Ok(data) = frame.map_err(|_| cut())?.into_data() else {
            continue;
        };
        let length = first
            .len()
            .saturating_add(whole.len())
            .saturating_add(data.len());
        if BODY_BYTES_MAX < length {
            return Err(ApiError::new(Code::BodyTooLarge));
        }
        // Most bodies come in one piece, which is taken as it is.
        if length == data.len() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
        let pieces = u64::try_from(length / BODY_PIECE_BYTES).unwrap_or(0);
        deadline = begun + BODY_TIME_MAX + Duration::from_secs(pieces);
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// Checks that the body's type can be read; tells whether it is a form.
fn check_type(parts: &Parts, body: &Bytes, takes_form: bool) -> Result<bool, ApiError> {
    if body.is_empty() {
        return Ok(false);
    }
    let refused = || ApiError::new(Code::UnsupportedMediaType);
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(refused());
    }
    let kind = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|it| it.to_str().ok())
        .ok_or_else(refused)?;
    let mut pieces = kind.split(';').map(str::trim);
    let name = pieces.next().unwrap_or_default().to_ascii_lowercase();
    let is_utf8 = pieces
        .filter_map(|it| it.split_once('='))
        .all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        });
    let is_patch = name == "application/merge-patch+json" && parts.method == Method::PATCH;
    let is_form = takes_form && name == "application/x-www-form-urlencoded";
    if is_utf8 && (name == "application/json" || is_patch || is_form) {
        Ok(is_form)
    } else {
        Err(refused())
    }
}

/// Reads what is left of a refused body and throws it away. Who waits for a `100 Continue` has not sent it.
pub(super) async fn drain(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Whoever is slower than this may lose the answer.
    drop(tokio::time::timeout(DRAIN_TIME_MAX, reading).await);
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn parts(method: Method, kind: Option<&str>, encoding: Option<&str>) -> Parts {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        parts.method = method;
        if let Some(kind) = kind {
            parts
                .headers
                .insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        }
        if let Some(encoding) = encoding {
            parts.headers.insert(
                header::CONTENT_ENCODING,
                HeaderValue::from_str(encoding).unwrap(),
            );
        }
        parts
    }

    #[test]
    fn only_plain_json_in_utf8_is_read() {
        let body = Bytes::from_static(b"{}");
        let check = |method, kind, encoding| {
            check_type(&parts(method, kind, encoding), &body, false).is_ok()
        };
        for kind in [
            "application/json",
            "Application/JSON; Charset=\"UTF-8\"",
            "application/json;a=b",
        ] {
            assert!(check(Method::POST, Some(kind), None), "{kind}");
        }
        for kind in [
            "text/json",
            "application/json; charset=latin1",
            "application/merge-patch+json",
            "",
            "json",
        ] {
            assert!(!check(Method::POST, Some(kind), None), "{kind}");
        }
        assert!(check(
            Method::PATCH,
            Some("application/merge-patch+json"),
            None
        ));
        assert!(!check(Method::POST, None, None));
        assert!(!check(
            Method::POST,
            Some("application/json"),
            Some("identity")
        ));
        assert!(!check(
            Method::POST,
            Some("application/x-www-form-urlencoded"),
            None
        ));
        let form = parts(
            Method::POST,
            Some("application/x-www-form-urlencoded"),
            None,
        );
        assert!(check_type(&form, &body, true).unwrap());
        assert!(!check_type(&parts(Method::POST, None, None), &Bytes::new(), false).unwrap());
    }

    #[tokio::test]
    async fn a_body_may_have_a_mebibyte_in_any_pieces() {
        for (bytes, fits) in [(BODY_BYTES_MAX, true), (BODY_BYTES_MAX + 1, false)] {
            let whole = vec![b' '; bytes];
            let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
                whole.chunks(60_000).map(|it| Ok(it.to_vec())).collect();
            for mut body in [
                Body::from(whole.clone()),
                Body::from_stream(futures_util::stream::iter(pieces)),
            ] {
                let read = read_body(&HeaderMap::new(), &mut body).await;
                assert_eq!(read.map(|it| it.len()).ok(), fits.then_some(bytes));
            }
        }
    }

    #[test]
    fn a_key_is_printable_and_short() {
        assert!(is_key("o-17") && is_key(&"k".repeat(255)) && is_key("a b"));
        assert!(!is_key("") && !is_key(&"k".repeat(256)) && !is_key("ñ") && !is_key("a\tb"));
    }
}
