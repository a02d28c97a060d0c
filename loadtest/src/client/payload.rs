//! One WebSocket message of a server, in any of the encodings that are spoken here.

use bytes::Bytes;
use clap::ValueEnum;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::frame::{Frame, parse_frames, parse_packed};
use super::peer;
use crate::error::LoadError;

/// The encoding of the gateway's frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    /// Text, `buho.v1.json`.
    #[default]
    Json,
    /// Binary, `buho.v1.msgpack`.
    Msgpack,
}

impl Codec {
    /// The WebSocket subprotocol.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Json => "buho.v1.json",
            Self::Msgpack => "buho.v1.msgpack",
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Msgpack => "MessagePack",
        }
    }

    /// A frame as a WebSocket message.
    pub(crate) fn encode(self, frame: &Value) -> Result<Message, LoadError> {
        match self {
            Self::Json => Ok(Message::text(frame.to_string())),
            Self::Msgpack => rmp_serde::to_vec_named(frame)
                .map(Message::binary)
                .map_err(|error| LoadError::Protocol(format!("packing a frame: {error}"))),
        }
    }
}

/// What came in one WebSocket message.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A map, or an array of maps, in JSON.
    Text(Utf8Bytes),
    /// The same in MessagePack.
    Packed(Bytes),
    /// Lines of a centrifuge server, each a map whose publication is a frame.
    Centrifuge(Utf8Bytes),
    /// Whole operations of a NATS server; the payload of each `MSG` is a frame.
    Nats(Bytes),
}

impl Payload {
    /// Its bytes, without the heads of the WebSocket's frames.
    pub(crate) fn length(&self) -> u64 {
        let bytes = match self {
            Self::Text(text) | Self::Centrifuge(text) => text.len(),
            Self::Packed(bytes) | Self::Nats(bytes) => bytes.len(),
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The frames in it, read no further than a load test needs.
    pub(crate) fn frames(&self) -> Result<Vec<Frame<'_>>, LoadError> {
        match self {
            Self::Text(text) => parse_frames(text).map_err(|source| LoadError::Body {
                call: format!("frame {}", self.start()),
                source,
            }),
            Self::Packed(bytes) => parse_packed(bytes)
                .map_err(|error| LoadError::Protocol(format!("a packed frame: {error}"))),
            Self::Centrifuge(text) => peer::centrifuge_frames(text),
            Self::Nats(bytes) => peer::nats_frames(bytes),
        }
    }

    /// Its first characters, for a person.
    pub(crate) fn start(&self) -> String {
        match self {
            Self::Text(text) | Self::Centrifuge(text) => text.chars().take(120).collect(),
            Self::Packed(bytes) | Self::Nats(bytes) => {
                String::from_utf8_lossy(bytes).chars().take(120).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_encodings_say_the_same() {
        let event = json!({"op": "event", "event": {"id": "evt_1", "epoch": 7, "seq": 120_392, "type": "message.created",
            "data": {"id": "msg_1", "content": {"type": "text", "text": "a \"b\" ñ"}, "reactions": [], "x": null, "y": -1.5}}});
        for frames in [
            event.clone(),
            json!([event, {"op": "position", "cursor": "7-120395"}]),
        ] {
            let Message::Binary(bytes) = Codec::Msgpack.encode(&frames).unwrap() else {
                panic!("packed frames are binary");
            };
            let packed = Payload::Packed(bytes);
            let Message::Text(text) = Codec::Json.encode(&frames).unwrap() else {
                panic!("JSON frames are text");
            };
            let text = Payload::Text(text);
            for payload in [&packed, &text] {
                let read = payload.frames().unwrap();
                let entry = read[0].event.as_ref().unwrap();
                assert_eq!((entry.seq, &*entry.kind), (120_392, "message.created"));
                let content = entry.data.as_ref().unwrap().content.as_ref().unwrap();
                assert_eq!(content.text, "a \"b\" ñ");
                assert_eq!(read.len(), frames.as_array().map_or(1, Vec::len));
            }
        }
    }
}
