//! The success of a call.

use actors::ports::{Answer, KeptAnswer};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::problem::{ApiError, Code};

/// An answer that is a success: a status, maybe a place, and a JSON body or none.
#[derive(Debug)]
pub(crate) struct Reply {
    status: StatusCode,
    location: Option<String>,
    body: Bytes,
    secrets: &'static [&'static str],
    is_replay: bool,
    is_kept: bool,
}

impl Reply {
    /// 200 and the resource.
    pub(crate) fn ok(body: &impl Serialize) -> Result<Self, ApiError> {
        Self::with(StatusCode::OK, None, body)
    }

    /// 201, where it is, and the resource.
    pub(crate) fn created(
        location: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Self, ApiError> {
        Self::with(StatusCode::CREATED, Some(location.into()), body)
    }

    /// 201 and what was made, where it has no place of its own.
    pub(crate) fn made(body: &impl Serialize) -> Result<Self, ApiError> {
        Self::with(StatusCode::CREATED, None, body)
    }

    /// 202: it is stored, and the rest is news.
    pub(crate) fn accepted(body: &impl Serialize) -> Result<Self, ApiError> {
        Self::with(StatusCode::ACCEPTED, None, body)
    }

    /// 204, without a body.
    pub(crate) const fn no_content() -> Self {
        Self {
            status: StatusCode::NO_CONTENT,
            location: None,
            body: Bytes::new(),
            secrets: &[],
            is_replay: false,
            is_kept: true,
        }
    }

    fn with(
        status: StatusCode,
        location: Option<String>,
        body: &impl Serialize,
    ) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| ApiError::new(Code::Internal).because(error))?;
        Ok(Self {
            status,
            location,
            body: body.into(),
            secrets: &[],
            is_replay: false,
            is_kept: true,
        })
    }

    /// Marks it as the first answer, given again.
    pub(crate) const fn replayed(mut self) -> Self {
        self.is_replay = true;
        self
    }

    /// Marks it as one that a retry shall not get again, because a part of it may fare better then.
    pub(crate) const fn not_kept(mut self) -> Self {
        self.is_kept = false;
        self
    }

    /// Whether retries get it again.
    pub(crate) const fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Names members of the body that are told once: a replay has `null` in their place.
    pub(crate) const fn secret(mut self, members: &'static [&'static str]) -> Self {
        self.secrets = members;
        self
    }

    /// What is kept of it for retries.
    pub(crate) fn to_answer(&self) -> Answer {
        Answer::Given {
            status: self.status.as_u16(),
            location: self.location.clone(),
            body: self.without_secrets().unwrap_or_else(|| self.body.clone()),
        }
    }

    fn without_secrets(&self) -> Option<Bytes> {
        if self.secrets.is_empty() {
            return None;
        }
        let mut body: Value = serde_json::from_slice(&self.body).ok()?;
        let members = body.as_object_mut()?;
        for secret in self.secrets {
            members.insert((*secret).to_owned(), Value::Null);
        }
        Some(body.to_string().into())
    }
}

/// A kept answer is only ever given again, so it is marked as a replay.
impl From<KeptAnswer> for Reply {
    fn from(kept: KeptAnswer) -> Self {
        let (status, location, body) = match kept.answer {
            Answer::Sent {
                id,
                chat,
                status,
                created_at,
            } => {
                let body = json!({
                    "id": id, "chat": chat, "status": status, "created_at": created_at, "event_cursor": kept.cursor,
                });
                (StatusCode::ACCEPTED, None, body.to_string().into())
            }
            Answer::Given {
                status,
                location,
                body,
            } => (
                StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
                location,
                body,
            ),
        };
        Self {
            status,
            location,
            body,
            secrets: &[],
            is_replay: true,
            is_kept: true,
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let is_empty = self.body.is_empty();
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if !is_empty {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            );
        }
        // A place is made of ids and fixed words: it is always a header's text.
        if let Some(location) = self.location.and_then(|it| HeaderValue::try_from(it).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if self.is_replay {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use actors::model::{Cursor, Timestamp};

    use super::*;

    #[test]
    fn a_kept_answer_has_no_secrets_and_comes_back_as_a_replay() {
        let first = Reply::created("/v1/keys/1", &json!({"id": 1, "secret": "s"}))
            .unwrap()
            .secret(&["secret"]);
        let kept = KeptAnswer {
            answer: first.to_answer(),
            cursor: Cursor { epoch: 1, seq: 1 },
            fingerprint: [0; 32],
            expires_at: Timestamp::from_millis(0),
        };
        let replay = Reply::from(kept);
        assert_eq!(replay.body, json!({"id": 1, "secret": null}).to_string());
        let response = replay.into_response();
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()["location"], "/v1/keys/1");
        assert_eq!(response.headers()["idempotency-replayed"], "true");
        let response = first.into_response();
        assert!(!response.headers().contains_key("idempotency-replayed"));
        assert!(
            !Reply::no_content()
                .into_response()
                .headers()
                .contains_key("content-type")
        );
    }
}
