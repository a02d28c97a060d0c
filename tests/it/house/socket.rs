//! An open WebSocket as an integrator holds it.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Codec, PATIENCE};

/// What came over a socket.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// One map.
    Frame(Value),
    /// A Close with this code, 1005 for one without a code, 1006 for a cut connection.
    Closed(u16),
}

/// An open WebSocket. A frame that a test does not ask for stays in its place until it is asked for.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    codec: Codec,
    protocol: Option<String>,
    waiting: VecDeque<Value>,
    asked: u64,
}

impl Socket {
    pub(crate) const fn new(
        stream: WebSocketStream<TcpStream>,
        codec: Codec,
        protocol: Option<String>,
    ) -> Self {
        Self {
            stream,
            codec,
            protocol,
            waiting: VecDeque::new(),
            asked: 0,
        }
    }

    /// The subprotocol that the server chose.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Sends one map, or an array of maps.
    pub(crate) async fn send(&mut self, frame: &Value) {
        let message = self.written(frame);
        self.message(message).await;
    }

    /// As [`Self::send`]; says whether there was anybody to take it.
    pub(crate) async fn offer(&mut self, frame: &Value) -> bool {
        let message = self.written(frame);
        self.stream.send(message).await.is_ok()
    }

    fn written(&self, frame: &Value) -> Message {
        match self.codec {
            Codec::Json => Message::text(frame.to_string()),
            Codec::MsgPack => Message::binary(rmp_serde::to_vec_named(frame).unwrap()),
        }
    }

    pub(crate) async fn message(&mut self, message: Message) {
        self.stream
            .send(message)
            .await
            .expect("the socket takes a message");
    }

    /// What comes next, within the patience of a test.
    pub(crate) async fn heard(&mut self) -> Heard {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Heard::Frame(frame);
            }
            if let Some(code) = self.read().await {
                return Heard::Closed(code);
            }
        }
    }

    /// The next map.
    pub(crate) async fn frame(&mut self) -> Value {
        match self.heard().await {
            Heard::Frame(frame) => frame,
            Heard::Closed(code) => panic!("closed with {code} instead of a frame"),
        }
    }

    /// The first map that fits; what stands before it keeps its place.
    pub(crate) async fn until_frame(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut looked = 0;
        loop {
            if let Some(place) =
                (looked..self.waiting.len()).find(|place| fits(&self.waiting[*place]))
            {
                return self.waiting.remove(place).unwrap();
            }
            looked = self.waiting.len();
            if let Some(code) = self.read().await {
                panic!("closed with {code} before {what}");
            }
        }
    }

    pub(crate) async fn until_op(&mut self, op: &str) -> Value {
        self.until_frame(op, |frame| frame["op"] == op).await
    }

    /// The next entry, of any type.
    pub(crate) async fn event(&mut self) -> Value {
        self.until_op("event").await["event"].take()
    }

    /// The next entry of a type.
    pub(crate) async fn until_event(&mut self, kind: &str) -> Value {
        let fits = |frame: &Value| frame["op"] == "event" && frame["event"]["type"] == kind;
        self.until_frame(kind, fits).await["event"].take()
    }

    /// The code with which the server closes; frames before it are passed over.
    pub(crate) async fn until_close(&mut self) -> u16 {
        loop {
            if let Heard::Closed(code) = self.heard().await {
                return code;
            }
        }
    }

    /// Proves identity in band; gives what the server says to it.
    pub(crate) async fn auth(&mut self, token: &str, mut wish: Value) -> Value {
        wish["op"] = json!("auth");
        wish["token"] = json!(token);
        self.ask(wish).await
    }

    /// Subscribes, where the upgrade carried the credential; gives the `ready`.
    pub(crate) async fn subscribe(&mut self, filter: Value, after: &str) -> Value {
        let wish = json!({"op": "subscribe", "filter": filter, "after": after});
        let ready = self.ask(wish).await;
        assert_eq!(ready["op"], "ready", "{ready}");
        ready
    }

    /// One command; gives the `reply`.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        params: Value,
        key: Option<&str>,
    ) -> Value {
        let mut wish = json!({"op": "request", "method": method, "params": params});
        if let Some(key) = key {
            wish["idempotency_key"] = json!(key);
        }
        let reply = self.ask(wish).await;
        assert_eq!(reply["op"], "reply", "{reply}");
        reply
    }

    /// Sends a map under the next id and gives the `ready` or `reply` to it.
    pub(crate) async fn ask(&mut self, mut wish: Value) -> Value {
        self.asked += 1;
        let id = json!(self.asked);
        wish["id"] = id.clone();
        self.send(&wish).await;
        self.until_frame(&format!("the answer to {wish}"), |frame| {
            frame["id"] == id && (frame["op"] == "ready" || frame["op"] == "reply")
        })
        .await
    }

    /// Ends the connection without a word, as a dying client does.
    pub(crate) fn cut(self) {
        drop(self);
    }

    /// Says goodbye and waits for the peer's.
    pub(crate) async fn close(mut self) {
        // The peer may have closed already.
        let _ = self.stream.close(None).await;
        let peer = timeout(PATIENCE, async {
            while let Some(Ok(_)) = self.stream.next().await {}
        });
        peer.await.expect("the peer answers a Close");
    }

    /// Takes one message in; gives the code where the connection ended.
    async fn read(&mut self) -> Option<u16> {
        let next = timeout(PATIENCE * 3, self.stream.next())
            .await
            .expect("the socket is silent");
        let frames = match next {
            Some(Ok(Message::Text(text))) => {
                assert_eq!(self.codec, Codec::Json, "text on a msgpack socket");
                serde_json::from_str(&text).expect("a JSON frame")
            }
            Some(Ok(Message::Binary(bytes))) => {
                assert_eq!(self.codec, Codec::MsgPack, "binary on a JSON socket");
                rmp_serde::from_slice(&bytes).expect("a MessagePack frame")
            }
            Some(Ok(Message::Close(reason))) => {
                // The answer to it waits to be written, and the server for the answer.
                let _ = self.stream.flush().await;
                return Some(reason.map_or(1005, |it| it.code.into()));
            }
            Some(Ok(_)) => return None,
            Some(Err(_)) | None => return Some(1006),
        };
        if let Value::Array(frames) = frames {
            self.waiting.extend(frames);
        } else {
            self.waiting.push_back(frames);
        }
        None
    }
}
