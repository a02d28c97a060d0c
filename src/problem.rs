//! Every error that leaves the house: one closed table, one form (RFC 9457).
//!
//! [`ApiError::into_response`] leaves the body open; [`finish`] writes it when the answer passes the outermost layer,
//! which knows the request id. There the log also gets the whole chain of causes, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use actors::CommandError;
use actors::model::{Fault, Faults};
use actors::ports::{StoreError, SubmitError};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::{self, ContentBuilder, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::telemetry::Chain;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

macro_rules! codes {
    ($($name:ident = $text:literal, $status:ident, $title:literal, $detail:literal;)*) => {
        /// The closed list of problems. A code, once published, keeps its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub(crate) enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// The whole table.
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word on the wire.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Its HTTP status.
            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it is, for people.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What is said where nothing more is known.
            const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $detail,)* }
            }

            /// Its page, in Markdown.
            pub(crate) const fn page(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("problems/", $text, ".md")),)* }
            }
        }
    };
}

codes! {
    InvalidJson = "invalid_json", BAD_REQUEST, "The request could not be read",
        "The body is not UTF-8 encoded JSON of at most 64 levels, or the query can't be decoded.";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "No valid credential",
        "Send one API key or access token as `Authorization: Bearer …`.";
    ScopeMissing = "scope_missing", FORBIDDEN, "The credential lacks a right",
        "The credential does not hold the scope that this call needs.";
    IpNotAllowed = "ip_not_allowed", FORBIDDEN, "The credential may not be used from here",
        "The caller's address is not in the credential's allowed addresses.";
    OriginNotAllowed = "origin_not_allowed", FORBIDDEN, "Pages of this origin may not connect",
        "The origin is neither this host nor one of `server.allowed_origins`.";
    Forbidden = "forbidden", FORBIDDEN, "Not allowed",
        "This kind of credential may not make this call.";
    NotFound = "not_found", NOT_FOUND, "Not found",
        "There is no such thing here.";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method does not fit the resource",
        "The `Allow` header names the methods that do.";
    NotAcceptable = "not_acceptable", NOT_ACCEPTABLE, "No wanted form is at hand",
        "None of the media types in `Accept` can be produced.";
    StateConflict = "state_conflict", CONFLICT, "It clashes with the present state",
        "The present state does not allow this.";
    NumberTaken = "number_taken", CONFLICT, "The number is another device's",
        "Another device of this tenant has this number.";
    IdempotencyMismatch = "idempotency_mismatch", CONFLICT, "The idempotency key was used for another call",
        "Operation, path and body must be those of the key's first call.";
    IdempotencyInProgress = "idempotency_in_progress", CONFLICT, "The first call with this key is still running",
        "Try again later with the same key.";
    CursorGone = "cursor_gone", GONE, "The cursor can't be resumed",
        "Continuity is lost: take a snapshot and go on from its `event_cursor`.";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The body is too large",
        "A body may have at most 1,048,576 bytes.";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body's type can't be read",
        "Send `Content-Type: application/json` in UTF-8 and no `Content-Encoding`.";
    Invalid = "invalid", UNPROCESSABLE_ENTITY, "The request breaks a rule",
        "Each broken rule is named in `errors`.";
    InvalidCursor = "invalid_cursor", UNPROCESSABLE_ENTITY, "The cursor does not fit",
        "A cursor is good only for its own list, filters and tenant.";
    UnsupportedByConnector = "unsupported_by_connector", UNPROCESSABLE_ENTITY, "The device's network can't do this",
        "What the connector does not support is named in `errors`.";
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many calls",
        "Wait for `Retry-After`.";
    LimitReached = "limit_reached", TOO_MANY_REQUESTS, "A limit of the tenant is reached",
        "Something has to be removed, or the limit raised, before more can be made.";
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something went wrong on our side",
        "It may or may not have happened; the log knows more under the request id.";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "A part of the service is away",
        "Nothing was stored. Try again later.";
    Busy = "busy", SERVICE_UNAVAILABLE, "The gateway has too much work",
        "Nothing was stored. Try again shortly.";
    StoreFailed = "store_failed", SERVICE_UNAVAILABLE, "The store takes no writes",
        "Nothing was stored: an earlier write failed, and the gateway has to be restarted.";
    OutcomeUnknown = "outcome_unknown", GATEWAY_TIMEOUT, "The outcome is not known",
        "It may have been stored: try again with the same idempotency key.";
    StorageFull = "storage_full", INSUFFICIENT_STORAGE, "The storage is full",
        "Nothing was stored. Writes work again when space is free.";
}

impl Code {
    /// The code with this word.
    pub(crate) fn named(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.as_str() == text)
    }

    /// How long to wait, in seconds, where nothing better is known.
    const fn retry_after(self) -> Option<u64> {
        match self {
            Self::RateLimited | Self::Busy | Self::Unavailable | Self::IdempotencyInProgress => {
                Some(1)
            }
            Self::StoreFailed | Self::StorageFull => Some(5),
            Self::LimitReached => Some(60),
            Self::InvalidJson
            | Self::Unauthenticated
            | Self::ScopeMissing
            | Self::IpNotAllowed
            | Self::OriginNotAllowed
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::NotAcceptable
            | Self::StateConflict
            | Self::NumberTaken
            | Self::IdempotencyMismatch
            | Self::CursorGone
            | Self::BodyTooLarge
            | Self::UnsupportedMediaType
            | Self::Invalid
            | Self::InvalidCursor
            | Self::UnsupportedByConnector
            | Self::Internal
            | Self::OutcomeUnknown => None,
        }
    }
}

/// The body of an error answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `/problems/<code>`: a page of this gateway that explains the code.
    #[serde(rename = "type")]
    kind: String,
    /// A stable name for the kind of problem. The list may grow.
    code: Code,
    /// The kind of problem, for people.
    title: &'static str,
    /// The HTTP status, again.
    status: u16,
    /// This very case, for people.
    detail: String,
    /// The answer's `X-Request-Id`; left out in the items of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// Every broken rule, where the request breaks rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<Fault>,
    /// What some codes tell beside that.
    #[serde(flatten)]
    members: Map<String, Value>,
}

/// What a handler returns when it can't do its work.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    code: Code,
    detail: Option<String>,
    errors: Vec<Fault>,
    members: Map<String, Value>,
    retry_after: Option<u64>,
    /// For the log alone; the caller never sees it.
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ApiError {
    /// The plain problem.
    pub(crate) fn new(code: Code) -> Self {
        let retry_after = code.retry_after();
        Self(Box::new(Inner {
            code,
            detail: None,
            errors: Vec::new(),
            members: Map::new(),
            retry_after,
            cause: None,
        }))
    }

    /// A request that breaks rules.
    pub(crate) fn invalid(faults: Faults) -> Self {
        let mut error = Self::new(Code::Invalid);
        error.0.errors = faults.into_vec();
        error
    }

    /// Says more about this very case; must not hold what is private to us.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Adds a member to the body.
    pub(crate) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(member.to_owned(), value.into());
        self
    }

    /// Says how long to wait, in whole seconds and at least one.
    pub(crate) fn after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds.max(1));
        self
    }

    /// As [`Self::after`], and by chance up to nine seconds more: those who were refused together shall not come back
    /// together.
    pub(crate) fn after_about(self, seconds: u64) -> Self {
        self.after(seconds.max(1).saturating_add(rand::random_range(0..=9)))
    }

    /// Keeps the cause for the log.
    pub(crate) fn because(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Box::new(cause));
        self
    }

    /// Its code.
    pub(crate) const fn code(&self) -> Code {
        self.0.code
    }

    /// Whether the same call may fare better later: such an answer is not kept for retries.
    pub(crate) fn may_change(&self) -> bool {
        let status = self.0.code.status();
        status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || self.0.code == Code::IdempotencyInProgress
    }

    /// How long to wait, in seconds.
    pub(crate) const fn retry_after(&self) -> Option<u64> {
        self.0.retry_after
    }

    /// What is said about this very case.
    pub(crate) fn text(&self) -> &str {
        self.0.text()
    }

    /// Its body, without a request id: for one item of many.
    pub(crate) fn to_problem(&self) -> Problem {
        self.0.to_problem(None)
    }
}

impl Inner {
    fn text(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.code.meaning())
    }

    fn to_problem(&self, request_id: Option<&str>) -> Problem {
        Problem {
            kind: format!("/problems/{}", self.code.as_str()),
            code: self.code,
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: self.text().to_owned(),
            request_id: request_id.map(str::to_owned),
            errors: self.errors.clone(),
            members: self.members.clone(),
        }
    }
}

impl From<Code> for ApiError {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotFound => Self::new(Code::NotFound),
            CommandError::Invalid(faults) => Self::invalid(faults),
            CommandError::Unsupported(faults) => {
                let mut error = Self::new(Code::UnsupportedByConnector);
                error.0.errors = faults.into_vec();
                error
            }
            CommandError::StateConflict(how) => Self::new(Code::StateConflict).detail(how),
            CommandError::NumberTaken => Self::new(Code::NumberTaken),
            CommandError::IdempotencyMismatch => Self::new(Code::IdempotencyMismatch),
            CommandError::LimitReached(which) => Self::new(Code::LimitReached)
                .detail(format!("The limit `{which}` is reached."))
                .with("limit", which),
            CommandError::Busy => Self::new(Code::Busy),
            CommandError::Unavailable => Self::new(Code::Unavailable),
            CommandError::StoreFailed => Self::new(Code::StoreFailed),
            CommandError::StorageFull => Self::new(Code::StorageFull),
            CommandError::OutcomeUnknown => Self::new(Code::OutcomeUnknown),
            CommandError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed => Self::new(Code::StoreFailed),
            StoreError::Full => Self::new(Code::StorageFull),
            StoreError::Away => Self::new(Code::Unavailable),
            StoreError::Gone => Self::new(Code::NotFound),
            StoreError::Refused(refused) => refused.into(),
            StoreError::Damaged { .. } | StoreError::Engine { .. } => {
                Self::new(Code::Internal).because(error)
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        CommandError::from(error).into()
    }
}

/// A problem on its way out, still without a body.
#[derive(Clone, Debug)]
struct Open(Arc<Inner>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.0.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, MEDIA_TYPE);
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.0.code == Code::Unauthenticated {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"buho\""),
            );
        }
        response.extensions_mut().insert(Open(Arc::from(self.0)));
        response
    }
}

/// Writes the body of a problem under its request id, and tells the log why. Other answers pass unchanged.
pub(crate) fn finish(mut response: Response, request_id: &str) -> Response {
    let Some(Open(problem)) = response.extensions_mut().remove::<Open>() else {
        return response;
    };
    if let Some(cause) = &problem.cause {
        let code = problem.code.as_str();
        tracing::error!(request_id, code, error = %Chain(&**cause), "request failed");
    }
    // A problem is made of texts and numbers, which can't fail to be written.
    let body = serde_json::to_vec(&problem.to_problem(Some(request_id))).unwrap_or_default();
    *response.body_mut() = Body::from(body);
    response
}

/// What every operation may answer besides success; named once in `responses(...)`.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let answer = |description: &str| -> RefOr<openapi::Response> {
            let content = ContentBuilder::new()
                .schema(Some(openapi::Ref::from_schema_name("Problem")))
                .build();
            ResponseBuilder::new()
                .description(description)
                .content("application/problem+json", content)
                .build()
                .into()
        };
        BTreeMap::from([
            (
                "4XX".to_owned(),
                answer("Refused: the request, or what it meets, has to change."),
            ),
            (
                "5XX".to_owned(),
                answer("Failed: the same request may work later."),
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn body_of(error: ApiError) -> Value {
        let response = finish(error.into_response(), "req_1");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn a_problem_has_the_members_of_the_contract() {
        let error = ApiError::from(CommandError::Invalid(Faults::one("/to", "is no number")))
            .with("more", 1);
        let body = body_of(error).await;
        assert_eq!(
            body,
            serde_json::json!({
                "type": "/problems/invalid", "code": "invalid", "title": "The request breaks a rule", "status": 422,
                "detail": "Each broken rule is named in `errors`.", "request_id": "req_1",
                "errors": [{"pointer": "/to", "detail": "is no number"}], "more": 1,
            })
        );
    }

    #[tokio::test]
    async fn the_caller_never_sees_a_cause() {
        let error = StoreError::Engine {
            operation: "read",
            source: "/var/lib/secret".into(),
        };
        let body = body_of(error.into()).await;
        assert_eq!(body["code"], "internal");
        assert!(!body.to_string().contains("secret"), "{body}");
    }

    #[test]
    fn waits_are_told_and_a_401_names_its_scheme() {
        for code in Code::ALL {
            let response = ApiError::new(*code).into_response();
            let waits = matches!(response.status().as_u16(), 429 | 503);
            assert!(
                !waits || response.headers().contains_key("retry-after"),
                "{code:?}"
            );
            let is_401 = response.status() == StatusCode::UNAUTHORIZED;
            assert_eq!(
                is_401,
                response.headers().contains_key("www-authenticate"),
                "{code:?}"
            );
        }
    }

    #[test]
    fn every_code_has_a_word_and_a_page_that_names_it() {
        for code in Code::ALL {
            assert_eq!(Code::named(code.as_str()), Some(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
            let first = code.page().lines().next().unwrap();
            assert_eq!(first, format!("# {}", code.title()));
            let facts = format!("`{}` · HTTP {}", code.as_str(), code.status().as_u16());
            assert!(code.page().contains(&facts), "{code:?}");
        }
    }
}
