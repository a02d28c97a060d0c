//! A bare axum handler that reads the same JSON as a send, stores nothing, and answers with the same shape.

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
struct Send {
    to: String,
    content: Content,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct Sent {
    id: &'static str,
    chat: String,
    status: &'static str,
    created_at: &'static str,
    event_cursor: &'static str,
}

/// The route, at the gateway's path, so that the very same requests fit.
pub(super) fn router() -> Router {
    Router::new().route("/v1/devices/{device}/messages", post(send))
}

async fn send(Json(request): Json<Send>) -> Result<(StatusCode, Json<Sent>), StatusCode> {
    if request.content.kind != "text" || request.content.text.is_empty() {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let sent = Sent {
        id: "msg_01jd8zq4t1e6fva0b3c5d7e9fg",
        chat: request.to + "@s.whatsapp.net",
        status: "queued",
        created_at: "2026-01-01T00:00:00.000Z",
        event_cursor: "1-1",
    };
    Ok((StatusCode::ACCEPTED, Json(sent)))
}
