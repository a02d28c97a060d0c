//! The wires of the peers, as far as a load test needs them: NATS over a WebSocket, and centrifuge's JSON protocol.

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

use super::frame::{Frame, parse_frames};
use crate::error::LoadError;

/// The subject, or channel, that everything is published to.
pub(crate) const CHANNEL: &str = "fan";
/// What a NATS client says first.
pub(crate) const NATS_CONNECT: &str =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"load\",\"version\":\"1\"}\r\n";
/// The subscription.
pub(crate) const NATS_SUBSCRIBE: &str = "SUB fan 1\r\n";
/// Its answer says that all before it was taken.
pub(crate) const NATS_PING: &str = "PING\r\n";
/// The longest NATS operation that is waited for.
const NATS_OPERATION: usize = 4 << 20;

/// Operations of a NATS server, which may come in any pieces.
#[derive(Debug, Default)]
pub(crate) struct NatsBuffer {
    pending: BytesMut,
}

/// What a NATS server said, besides messages.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct NatsSaid {
    /// It wants a `PONG`.
    pub(crate) ping: bool,
    /// It answered our `PING`.
    pub(crate) pong: bool,
}

impl NatsBuffer {
    /// Takes in a piece; answers the whole operations that are there now.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<(Bytes, NatsSaid), LoadError> {
        self.pending.extend_from_slice(piece);
        let mut said = NatsSaid::default();
        let mut length = 0;
        while let Some(operation) = operation(self.pending.get(length..).unwrap_or_default())? {
            match operation.kind {
                Kind::Ping => said.ping = true,
                Kind::Pong => said.pong = true,
                Kind::Message | Kind::Other => {}
            }
            length += operation.length;
        }
        if self.pending.len() - length > NATS_OPERATION {
            return Err(LoadError::Protocol("an endless NATS operation".to_owned()));
        }
        Ok((self.pending.split_to(length).freeze(), said))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Ping,
    Pong,
    Other,
}

struct Operation<'a> {
    kind: Kind,
    length: usize,
    payload: &'a [u8],
}

/// The operation at the start of the bytes, if it is all there.
fn operation(bytes: &[u8]) -> Result<Option<Operation<'_>>, LoadError> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let line = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let after = end + 2;
    let plain = |kind| {
        Ok(Some(Operation {
            kind,
            length: after,
            payload: &[],
        }))
    };
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("PING") => plain(Kind::Ping),
        Some("PONG") => plain(Kind::Pong),
        Some("-ERR") => Err(LoadError::Protocol(format!("NATS: {line}"))),
        Some("MSG") => {
            let size: usize = words
                .last()
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| LoadError::Protocol(format!("NATS: {line}")))?;
            let payload = bytes.get(after..after.saturating_add(size));
            Ok(payload
                .filter(|_| bytes.len() >= after + size + 2)
                .map(|payload| Operation {
                    kind: Kind::Message,
                    length: after + size + 2,
                    payload,
                }))
        }
        Some(_) | None => plain(Kind::Other),
    }
}

/// The frames in whole NATS operations.
pub(crate) fn nats_frames(mut bytes: &[u8]) -> Result<Vec<Frame<'_>>, LoadError> {
    let mut frames = Vec::new();
    while let Some(operation) = operation(bytes)? {
        if operation.kind == Kind::Message {
            frames.push(serde_json::from_slice(operation.payload).map_err(|source| {
                LoadError::Body {
                    call: "a NATS message".to_owned(),
                    source,
                }
            })?);
        }
        bytes = bytes.get(operation.length..).unwrap_or_default();
    }
    Ok(frames)
}

#[derive(Debug, Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    push: Option<Push<'a>>,
    error: Option<PeerError>,
}

#[derive(Debug, Deserialize)]
struct Push<'a> {
    #[serde(borrow, rename = "pub")]
    publication: Option<Publication<'a>>,
    disconnect: Option<PeerError>,
}

#[derive(Debug, Deserialize)]
struct Publication<'a> {
    #[serde(borrow)]
    data: Frame<'a>,
}

#[derive(Debug, Deserialize)]
struct PeerError {
    code: u32,
}

/// The published frames in lines of centrifuge's JSON protocol; the answer to our `subscribe` becomes a `ready`.
pub(crate) fn centrifuge_frames(text: &str) -> Result<Vec<Frame<'_>>, LoadError> {
    let mut frames = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let reply: Reply<'_> = serde_json::from_str(line).map_err(|source| LoadError::Body {
            call: format!("centrifuge {}", line.chars().take(120).collect::<String>()),
            source,
        })?;
        let refused = reply.error.map(|error| error.code);
        let push = reply.push;
        let ended = push.as_ref().and_then(|push| push.disconnect.as_ref());
        if let Some(code) = refused.or(ended.map(|error| error.code)) {
            return Err(LoadError::Protocol(format!("centrifuge error {code}")));
        }
        if let Some(publication) = push.and_then(|push| push.publication) {
            frames.push(publication.data);
        } else if line.contains("\"subscribe\"") {
            frames.extend(
                parse_frames(r#"{"op":"ready","id":1}"#)
                    .ok()
                    .into_iter()
                    .flatten(),
            );
        }
    }
    Ok(frames)
}

/// Whether a message is centrifuge's ping, which is answered by the same.
pub(crate) fn is_centrifuge_ping(text: &str) -> bool {
    text.trim() == "{}"
}

/// The frame that stands for a message, published as it is.
pub(crate) fn published(seq: u64, text: &str) -> String {
    let content = json!({"text": text});
    json!({"op": "event", "event": {"seq": seq, "data": {"content": content}}}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nats_operations_in_any_pieces_are_the_same_messages() {
        let mut wire = b"INFO {\"a\":1}\r\nPONG\r\n".to_vec();
        for seq in 1..=3 {
            let body = published(seq, "a\r\nb");
            wire.extend(format!("MSG fan 1 {}\r\n{body}\r\n", body.len()).bytes());
        }
        wire.extend(b"PING\r\n");
        for size in [1, 7, 4_096] {
            let (mut buffer, mut seqs) = (NatsBuffer::default(), Vec::new());
            let (mut pings, mut pongs) = (0, 0);
            for piece in wire.chunks(size) {
                let (whole, said) = buffer.take(piece).unwrap();
                pings += u32::from(said.ping);
                pongs += u32::from(said.pong);
                let frames = nats_frames(&whole).unwrap();
                seqs.extend(frames.iter().map(|frame| frame.event.as_ref().unwrap().seq));
            }
            assert_eq!(seqs, [1, 2, 3], "{size}");
            assert_eq!((pings, pongs), (1, 1), "{size}");
        }
        assert!(NatsBuffer::default().take(b"-ERR 'no'\r\n").is_err());
    }

    #[test]
    fn centrifuge_publications_are_frames_and_its_errors_are_told() {
        let text = format!(
            "{{\"id\":2,\"subscribe\":{{\"recoverable\":true}}}}\n{{\"push\":{{\"channel\":\"fan\",\"pub\":{{\"data\":{},\"offset\":4}}}}}}\n",
            published(9, "x")
        );
        let frames = centrifuge_frames(&text).unwrap();
        assert_eq!((&*frames[0].op, frames[0].id), ("ready", Some(1)));
        assert_eq!(frames[1].event.as_ref().unwrap().seq, 9);
        assert!(centrifuge_frames(r#"{"id":1,"error":{"code":107,"message":"x"}}"#).is_err());
        assert!(is_centrifuge_ping("{}\n"));
    }
}
