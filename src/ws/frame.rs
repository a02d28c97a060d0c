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

/// Why the server ends a connection. The range tells a client what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// Something failed on our side: come back at once.
    Unknown,
    /// The gateway stops.
    Stopping,
    /// The consumer was moved: come back to its new place.
    Moved,
    /// Nothing was heard for too long.
    Silent,
    /// Too many events behind.
    LaggedOut,
    /// A write made no progress.
    Stalled,
    /// No ack in time.
    AckTimeout,
    /// Too many frames.
    Rate,
    /// Too many connections.
    TooMany,
    /// The gateway has too much work.
    Overload,
    /// The credential has ended by itself.
    Expired,
    /// The credential may do less than before.
    ScopesChanged,
    /// A cursor of the wrong form.
    BadCursor,
    /// Not a frame.
    BadFrame,
    /// No credential, a wrong one, or a revoked one.
    Unauthenticated,
    /// A credential that may not be used here.
    Forbidden,
    /// None of the client's subprotocols is known.
    NotAcceptable,
    /// No credential in time.
    AuthTimeout,
    /// A newer connection has taken the consumer's name.
    Replaced,
    /// A message was too large.
    TooLarge,
    /// RFC 6455: the protocol itself was broken.
    Protocol,
    /// RFC 6455: a text that is not UTF-8.
    NotUtf8,
}

impl Close {
    /// Its number on the wire.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Unknown => 4000,
            Self::Stopping => 4001,
            Self::Moved => 4002,
            Self::Silent => 4003,
            Self::LaggedOut => 4004,
            Self::Stalled => 4005,
            Self::AckTimeout => 4006,
            Self::Rate => 4100,
            Self::TooMany => 4102,
            Self::Overload => 4103,
            Self::Expired => 4200,
            Self::ScopesChanged => 4201,
            Self::BadCursor => 4300,
            Self::BadFrame => 4400,
            Self::Unauthenticated => 4401,
            Self::Forbidden => 4403,
            Self::NotAcceptable => 4406,
            Self::AuthTimeout => 4408,
            Self::Replaced => 4409,
            Self::TooLarge => 4413,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
        }
    }

    /// Its reason on the wire.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Stopping => "shutting down",
            Self::Moved => "moved",
            Self::Silent => "heartbeat missed",
            Self::LaggedOut => "lagged out",
            Self::Stalled => "write stalled",
            Self::AckTimeout => "ack timeout",
            Self::Rate => "rate",
            Self::TooMany => "too many connections",
            Self::Overload => "overload",
            Self::Expired => "expired",
            Self::ScopesChanged => "scopes changed",
            Self::BadCursor => "cursor not valid",
            Self::BadFrame => "bad frame",
            Self::Unauthenticated => "not authenticated",
            Self::Forbidden => "forbidden",
            Self::NotAcceptable => "no known subprotocol",
            Self::AuthTimeout => "no auth in time",
            Self::Replaced => "replaced",
            Self::TooLarge => "too large",
            Self::Protocol => "protocol error",
            Self::NotUtf8 => "not UTF-8",
        }
    }

    /// What a credential that was turned down in band means for the connection.
    pub(super) const fn for_code(code: Code) -> Self {
        match code {
            Code::ScopeMissing | Code::IpNotAllowed | Code::OriginNotAllowed | Code::Forbidden => {
                Self::Forbidden
            }
            Code::RateLimited | Code::LimitReached => Self::Rate,
            Code::Internal
            | Code::Unavailable
            | Code::Busy
            | Code::StoreFailed
            | Code::OutcomeUnknown
            | Code::StorageFull => Self::Overload,
            Code::Unauthenticated
            | Code::InvalidJson
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::NotAcceptable
            | Code::StateConflict
            | Code::NumberTaken
            | Code::IdempotencyMismatch
            | Code::IdempotencyInProgress
            | Code::CursorGone
            | Code::BodyTooLarge
            | Code::UnsupportedMediaType
            | Code::Invalid
            | Code::InvalidCursor
            | Code::UnsupportedByConnector => Self::Unauthenticated,
        }
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
mod tests {
    use serde_json::json;

    use super::*;

    fn packed(value: &Value) -> Message {
        Message::Binary(rmp_serde::to_vec_named(value).unwrap().into())
    }

    #[test]
    fn a_message_is_one_map_or_an_array_of_maps_in_either_encoding() {
        for value in [
            json!({"op": "heartbeat"}),
            json!([{"op": "heartbeat"}, {"op": "ack", "cursor": "1-2"}]),
            json!([]),
        ] {
            let maps = Codec::Json
                .read(&Message::Text(value.to_string().into()))
                .unwrap();
            assert_eq!(Codec::MsgPack.read(&packed(&value)).unwrap(), maps);
            assert_eq!(maps.len(), value.as_array().map_or(1, Vec::len));
        }
    }

    #[test]
    fn what_is_no_map_is_a_bad_frame() {
        for wrong in [
            "", "{", "1", "\"x\"", "null", "[1]", "[[{}]]", "nonsense", "{}x",
        ] {
            assert_eq!(
                Codec::Json.read(&Message::Text(wrong.into())),
                None,
                "{wrong}"
            );
        }
        assert_eq!(
            Codec::Json.read(&Message::Binary(Bytes::from_static(b"{}"))),
            None
        );
        assert_eq!(Codec::MsgPack.read(&Message::Text("{}".into())), None);
        let nested =
            |depth: usize| format!("{{\"y\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(
            Codec::Json
                .read(&Message::Text(nested(62).into()))
                .is_some()
        );
        assert!(
            Codec::Json
                .read(&Message::Text(nested(63).into()))
                .is_none()
        );
        assert!(
            Codec::Json
                .read(&Message::Text(nested(20_000).into()))
                .is_none()
        );
    }

    #[test]
    fn forged_messagepack_is_refused() {
        let deep = [0x91; 80];
        let forged: [&[u8]; 10] = [
            b"",
            b"\xc1",
            b"\xdf\xff\xff\xff\xff",
            b"\xdd\xff\xff\xff\xff",
            b"\x81\xdb\xff\xff\xff\xff",
            b"\x81\xa1a\xc6\xff\xff\xff\xff",
            // A key that is a number, an extension, a binary value, and bytes behind the end.
            b"\x81\x01\x01",
            b"\x81\xa1a\xd4\x01\x01",
            b"\x81\xa1a\xc4\x01\x00",
            b"\x80\x80",
        ];
        for bytes in forged.into_iter().chain([&deep[..]]) {
            assert_eq!(
                Codec::MsgPack.read(&Message::Binary(Bytes::copy_from_slice(bytes))),
                None,
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn a_reply_holds_the_body_as_it_is() {
        let id = json!("r1");
        let Ok(Message::Text(text)) = Codec::Json.reply(Some(&id), b"{\"a\":1.50}", true) else {
            panic!("a text")
        };
        assert_eq!(
            &*text,
            r#"{"op":"reply","id":"r1","ok":{"a":1.50},"replayed":true}"#
        );
        let Ok(Message::Binary(bytes)) = Codec::MsgPack.reply(None, b"{}", false) else {
            panic!("a binary")
        };
        assert_eq!(
            rmp_serde::from_slice::<Value>(&bytes).unwrap(),
            json!({"op": "reply", "ok": {}})
        );
        let Message::Text(text) =
            Codec::Json.refusal(Some(&json!(5)), &Refusal::invalid("/filter", "is wrong"))
        else {
            panic!("a text")
        };
        let refused: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (
                &refused["error"]["code"],
                &refused["error"]["errors"][0]["pointer"]
            ),
            (&json!("invalid"), &json!("/filter"))
        );
    }

    #[test]
    fn the_servers_words_have_their_names() {
        let cursor = Cursor { epoch: 7, seq: 5 };
        let Message::Text(text) = Codec::Json.write(&ServerFrame::Position { cursor, events: 3 })
        else {
            panic!("a text")
        };
        assert_eq!(&*text, r#"{"op":"position","cursor":"7-5","events":3}"#);
        let Message::Text(text) = Codec::Json.write(&ServerFrame::HeartbeatAck {}) else {
            panic!("a text")
        };
        assert_eq!(&*text, r#"{"op":"heartbeat_ack"}"#);
        assert_eq!(Name('c', 7).to_string(), "c_7");
    }
}
