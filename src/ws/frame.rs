//! The words on the wire: what a client may say, what the server says, in JSON and in MessagePack.

use std::fmt;

use actors::log::{Entry, Ephemeral, Reset};
use actors::model::{Cursor, Fault, Faults, ScopeSet, TenantId, Timestamp};
use axum::body::Bytes;
use axum::extract::ws::{Message, Utf8Bytes};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::problem::{ApiError, Code};

/// The largest message that a client may send.
pub(super) const FRAME_BYTES_MAX: usize = 65_536;
/// How deep maps and arrays may stand in each other.
const DEPTH_MAX: usize = 64;

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Text messages.
    Json,
    /// Binary messages: the same maps and names.
    MsgPack,
}

impl Codec {
    /// The subprotocol that stands for it.
    pub(super) const fn protocol(self) -> &'static str {
        match self {
            Self::Json => "buho.v1.json",
            Self::MsgPack => "buho.v1.msgpack",
        }
    }

    /// Writes a frame. Ours are made of texts and numbers, which can't fail to be written.
    pub(super) fn write(self, frame: &impl Serialize) -> Message {
        match self {
            Self::Json => Message::Text(serde_json::to_string(frame).unwrap_or_default().into()),
            Self::MsgPack => {
                Message::Binary(rmp_serde::to_vec_named(frame).unwrap_or_default().into())
            }
        }
    }

    /// The frame of an entry, as all its readers share it.
    pub(super) fn event(self, entry: &Entry) -> Message {
        match self {
            Self::Json => text(entry.json_frame()),
            Self::MsgPack => Message::Binary(entry.packed_frame()),
        }
    }

    /// The frame of an ephemeral event.
    pub(super) fn ephemeral(self, event: &Ephemeral) -> Message {
        match self {
            Self::Json => text(event.frame.clone()),
            Self::MsgPack => {
                self.write(&serde_json::from_slice::<Value>(&event.frame).unwrap_or_default())
            }
        }
    }

    /// The answer to a request that was carried out; `body` is JSON.
    pub(super) fn reply(
        self,
        id: Option<&Value>,
        body: &[u8],
        is_replayed: bool,
    ) -> Result<Message, serde_json::Error> {
        let replayed = is_replayed.then_some(true);
        Ok(match self {
            Self::Json => self.write(&Reply {
                op: "reply",
                id,
                ok: Some(serde_json::from_slice::<&RawValue>(body)?),
                error: None,
                replayed,
            }),
            Self::MsgPack => self.write(&Reply {
                op: "reply",
                id,
                ok: Some(serde_json::from_slice::<Value>(body)?),
                error: None,
                replayed,
            }),
        })
    }

    /// The answer to what was refused.
    pub(super) fn refusal(self, id: Option<&Value>, refusal: &Refusal) -> Message {
        self.write(&Reply::<()> {
            op: "reply",
            id,
            ok: None,
            error: Some(refusal),
            replayed: None,
        })
    }

    /// Reads a message: one map, or an array of maps. `None` is a bad frame.
    pub(super) fn read(self, message: &Message) -> Option<Vec<Map<String, Value>>> {
        let value: Value = match (self, message) {
            (Self::Json, Message::Text(text)) => serde_json::from_str(text).ok()?,
            (Self::MsgPack, Message::Binary(bytes)) => unpack(bytes)?,
            (
                Self::Json | Self::MsgPack,
                Message::Text(_)
                | Message::Binary(_)
                | Message::Ping(_)
                | Message::Pong(_)
                | Message::Close(_),
            ) => {
                return None;
            }
        };
        let maps = match value {
            Value::Object(map) => vec![Value::Object(map)],
            Value::Array(maps) => maps,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        };
        let map = |value| match value {
            Value::Object(map) if map.values().all(|it| is_shallow(it, DEPTH_MAX - 2)) => Some(map),
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => None,
        };
        maps.into_iter().map(map).collect()
    }
}

/// Entries and events are written as UTF-8; were one not, its reader would see an empty text.
fn text(frame: Bytes) -> Message {
    Message::Text(Utf8Bytes::try_from(frame).unwrap_or_default())
}

/// Reads one value of MessagePack that fills the message: lengths are checked against the bytes that are there, the
/// depth is bounded, keys are texts, and there are no binary or extension types.
fn unpack(bytes: &Bytes) -> Option<Value> {
    let mut rest: &[u8] = bytes;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(DEPTH_MAX);
    let value = Value::deserialize(&mut reader).ok()?;
    rest.is_empty().then_some(value)
}

fn is_shallow(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => 0 < depth && items.iter().all(|it| is_shallow(it, depth - 1)),
        Value::Object(members) => 0 < depth && members.values().all(|it| is_shallow(it, depth - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

#[derive(Serialize)]
struct Reply<'a, T> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a Refusal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

/// `error` in a reply: the codes are those of REST, and `unknown_op`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retry_after_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<Fault>,
}

impl Refusal {
    /// One broken rule.
    pub(super) fn invalid(pointer: &str, detail: &str) -> Self {
        Faults::one(pointer, detail).into()
    }

    /// What does not fit the state of the conversation.
    pub(super) fn conflict(detail: &str) -> Self {
        ApiError::new(Code::StateConflict).detail(detail).into()
    }

    /// A cursor of the wrong form.
    pub(super) fn cursor(pointer: &str) -> Self {
        let mut refusal = Self::from(ApiError::new(Code::InvalidCursor));
        refusal.errors =
            Faults::one(pointer, "is not a cursor, `now`, `oldest` or a time").into_vec();
        refusal
    }

    /// An `op` that there is not.
    pub(super) fn unknown_op() -> Self {
        Self {
            code: "unknown_op".to_owned(),
            title: "There is no such op".to_owned(),
            detail: "The protocol buho.v1 does not have this `op`.".to_owned(),
            retry_after_ms: None,
            errors: Vec::new(),
        }
    }

    /// A right that is missing.
    pub(super) fn scope_missing(scope: &str) -> Self {
        ApiError::new(Code::ScopeMissing)
            .detail(format!("The scope `{scope}` is needed."))
            .into()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self {
            code: error.code().as_str().to_owned(),
            title: error.code().title().to_owned(),
            detail: error.text().to_owned(),
            retry_after_ms: error
                .retry_after()
                .map(|seconds| seconds.saturating_mul(1000)),
            errors: Vec::new(),
        }
    }
}

impl From<Faults> for Refusal {
    fn from(faults: Faults) -> Self {
        let mut refusal = Self::from(ApiError::new(Code::Invalid));
        refusal.errors = faults.into_vec();
        refusal
    }
}

/// Everything but entries and replies that the server says.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum ServerFrame<'a> {
    Hello {
        version: u32,
        connection: Name,
        heartbeat_ms: u64,
        auth_ms: u64,
        limits: HelloLimits,
        node: &'a str,
    },
    Ready {
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a Value>,
        session: Name,
        tenant: TenantId,
        scopes: ScopeSet,
        #[serde(skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
        cursor: Ends,
        resumed: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    Position {
        cursor: Cursor,
        events: u64,
    },
    Reset {
        reason: &'static str,
        oldest: Cursor,
        head: Cursor,
    },
    Lag {
        behind: u64,
        mode: &'static str,
    },
    Notice {
        code: &'static str,
        detail: &'static str,
        after_ms: u64,
    },
    HeartbeatAck {},
}

impl From<&Reset> for ServerFrame<'_> {
    fn from(reset: &Reset) -> Self {
        Self::Reset {
            reason: reset.reason.as_str(),
            oldest: reset.oldest,
            head: reset.head,
        }
    }
}

/// Both ends of a log.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Ends {
    pub(super) head: Cursor,
    pub(super) oldest: Cursor,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct HelloLimits {
    pub(super) frame_bytes: usize,
    pub(super) rate: u32,
    pub(super) burst: u32,
    pub(super) in_flight: u32,
}

/// A number with a letter before it, such as `c_7`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name(pub(super) char, pub(super) u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.0, self.1)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
