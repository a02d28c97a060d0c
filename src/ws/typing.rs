//! `ephemeral` upwards: typing in a chat.

use actors::model::{DeviceId, Jid, Scope};
use actors::ports::connector::Typing;
use serde_json::Value;

use super::frame::Refusal;
use crate::credentials::Caller;
use crate::http::ApiState;
use crate::problem::{ApiError, Code};

/// Tells a chat that somebody types on a device. The words are `device`, `chat` and `type`.
pub(super) async fn type_up(
    api: ApiState,
    caller: Caller,
    words: [String; 3],
    data: Value,
) -> Result<(), Refusal> {
    let [device, chat, kind] = words;
    if !caller.may(Scope::PresenceWrite) {
        return Err(Refusal::scope_missing(Scope::PresenceWrite.as_str()));
    }
    if kind != "chat.presence" {
        return Err(Refusal::invalid("/type", "must be `chat.presence`"));
    }
    let not_found = || Refusal::from(ApiError::new(Code::NotFound));
    let device: DeviceId = device.parse().map_err(|_| not_found())?;
    let chat: Jid = chat
        .parse()
        .map_err(|error| Refusal::invalid("/chat", &format!("is {error}")))?;
    let presence = data.get("presence").cloned().unwrap_or_default();
    let wrong = |_| {
        Refusal::invalid(
            "/data/presence",
            "must be `composing`, `recording` or `paused`",
        )
    };
    let typing: Typing = serde_json::from_value(presence).map_err(wrong)?;
    if !caller.sees(device) {
        return Err(not_found());
    }
    let failed = |error| Refusal::from(ApiError::from(error));
    let device = api
        .node
        .device(caller.tenant(), device)
        .await
        .map_err(failed)?;
    let seen = api.store.chat(caller.tenant(), device.id(), &chat).await;
    if seen.map_err(|error| failed(error.into()))?.is_none() {
        return Err(not_found());
    }
    device.typing(chat, typing).await.map_err(failed)
}
