//! One WebSocket: the upgrade with the credential, the hello, a subscription, texts in and out, heartbeats.

use std::time::Duration;

use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Endpoint;
use super::http::Answer;
use super::payload::{Codec, Payload};
use super::peer::{
    CHANNEL, NATS_CONNECT, NATS_PING, NATS_SUBSCRIBE, NatsBuffer, is_centrifuge_ping,
};
use crate::error::LoadError;

/// Which server is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The gateway's protocol `buho.v1` at `/v1/ws`.
    Gateway(Codec),
    /// The bare yardstick at `/ws`: no hello, subscribed with the upgrade, behind a place where one is named.
    Bare(Option<u64>),
    /// A NATS server's WebSocket listener.
    Nats,
    /// A server on the centrifuge library.
    Centrifuge,
}

impl Dialect {
    fn path(self) -> &'static str {
        match self {
            Self::Gateway(_) => "/v1/ws",
            Self::Bare(_) => "/ws",
            Self::Nats => "/",
            Self::Centrifuge => "/connection/websocket",
        }
    }
}

/// The id of our `subscribe` frame.
const SUBSCRIBE: u64 = 1;
/// How long a handshake step may take.
const STEP: Duration = Duration::from_secs(30);
/// The heartbeat where the server names none.
const HEARTBEAT_MS: u64 = 25_000;
/// The requests in flight where the server names no bound.
const IN_FLIGHT: u64 = 1_000;
/// Read at a time. Tungstenite zero-fills its read buffer on every poll, so a large one costs more than it saves.
const READ_BYTES: usize = 4 * 1024;

/// An open, authenticated connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    dialect: Dialect,
    nats: NatsBuffer,
    heartbeat: Interval,
    /// Requests that may be unanswered at a time.
    pub(crate) in_flight: u64,
}

impl Socket {
    /// Connects, upgrades, and (with the gateway) takes in the hello.
    pub(crate) async fn open(endpoint: &Endpoint, dialect: Dialect) -> Result<Self, LoadError> {
        let tcp = TcpStream::connect(endpoint.address)
            .await
            .map_err(LoadError::io("connecting"))?;
        tcp.set_nodelay(true).map_err(LoadError::io("connecting"))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(16 * 1024);
        let request = upgrade_request(endpoint, dialect)?;
        let upgrade = client_async_with_config(request, tcp, Some(config));
        let (stream, _) = timeout(STEP, upgrade)
            .await
            .map_err(|_| LoadError::Protocol("no answer to the WebSocket upgrade".to_owned()))?
            .map_err(refused_upgrade)?;
        let mut socket = Self {
            stream,
            dialect,
            nats: NatsBuffer::default(),
            heartbeat: heartbeat(HEARTBEAT_MS),
            in_flight: IN_FLIGHT,
        };
        match dialect {
            Dialect::Gateway(_) => socket.take_hello().await?,
            Dialect::Bare(_) | Dialect::Nats | Dialect::Centrifuge => {}
        }
        Ok(socket)
    }

    async fn take_hello(&mut self) -> Result<(), LoadError> {
        let message = self.step("hello").await?;
        let frames = message.frames()?;
        let Some(hello) = frames.iter().find(|frame| frame.op == "hello") else {
            let start = message.start();
            return Err(LoadError::Protocol(format!("no hello but {start}")));
        };
        self.heartbeat = heartbeat(hello.heartbeat_ms.unwrap_or(HEARTBEAT_MS));
        let limit = hello.limits.and_then(|limits| limits.in_flight);
        self.in_flight = limit.unwrap_or(IN_FLIGHT).max(1);
        Ok(())
    }

    /// Subscribes to what happens after a place, and waits until that holds. The message that says so may hold
    /// events too.
    pub(crate) async fn subscribe(
        &mut self,
        filter: &Value,
        after: &str,
    ) -> Result<Option<Payload>, LoadError> {
        match self.dialect {
            Dialect::Bare(_) => return Ok(None),
            Dialect::Nats => return self.subscribe_nats().await,
            Dialect::Centrifuge => {
                // Both commands in one message: one line each.
                let connect = json!({"id": 1, "connect": {}});
                let subscribe = json!({"id": 2, "subscribe": {"channel": CHANNEL}});
                let lines = Message::text(format!("{connect}\n{subscribe}"));
                self.stream.feed(lines).await.map_err(failed("writing"))?;
            }
            Dialect::Gateway(_) => {
                let frame =
                    json!({"op": "subscribe", "id": SUBSCRIBE, "filter": filter, "after": after});
                self.feed(&frame).await?;
            }
        }
        self.flush().await?;
        loop {
            let message = self.step("ready").await?;
            if subscribed(&message)? {
                return Ok(Some(message));
            }
        }
    }

    async fn subscribe_nats(&mut self) -> Result<Option<Payload>, LoadError> {
        self.write_nats([NATS_CONNECT, NATS_SUBSCRIBE, NATS_PING].concat().into())
            .await?;
        self.pong().await.map(Some)
    }

    /// Greets a NATS server without subscribing.
    pub(crate) async fn connect_nats(&mut self) -> Result<(), LoadError> {
        self.write_nats([NATS_CONNECT, NATS_PING].concat().into())
            .await?;
        self.pong().await.map(drop)
    }

    /// Publishes operations to a NATS server, and waits until it has taken them.
    pub(crate) async fn publish_nats(&mut self, mut operations: Vec<u8>) -> Result<(), LoadError> {
        operations.extend(NATS_PING.bytes());
        self.write_nats(operations).await?;
        self.pong().await.map(drop)
    }

    async fn write_nats(&mut self, operations: Vec<u8>) -> Result<(), LoadError> {
        self.stream
            .send(Message::binary(operations))
            .await
            .map_err(failed("writing"))
    }

    /// The operations up to the answer to our ping.
    async fn pong(&mut self) -> Result<Payload, LoadError> {
        loop {
            let message = self.step("PONG").await?;
            let Payload::Nats(bytes) = &message else {
                continue;
            };
            if bytes.windows(6).any(|word| word == b"PONG\r\n") {
                return Ok(message);
            }
        }
    }

    /// The next message, sending heartbeats while waiting.
    pub(crate) async fn message(&mut self) -> Result<Payload, LoadError> {
        loop {
            let message = tokio::select! {
                biased;
                message = self.stream.next() => message,
                _ = self.heartbeat.tick() => {
                    self.beat().await?;
                    continue;
                }
            };
            if let Some(payload) = self.taken(message).await? {
                return Ok(payload);
            }
        }
    }

    /// The next message if it is already here.
    pub(crate) async fn message_now(&mut self) -> Result<Option<Payload>, LoadError> {
        while let Some(message) = self.stream.next().now_or_never() {
            if let Some(payload) = self.taken(message).await? {
                return Ok(Some(payload));
            }
        }
        Ok(None)
    }

    /// Puts a frame into the write buffer.
    pub(crate) async fn feed(&mut self, frame: &Value) -> Result<(), LoadError> {
        let codec = match self.dialect {
            Dialect::Gateway(codec) => codec,
            Dialect::Bare(_) | Dialect::Nats | Dialect::Centrifuge => Codec::Json,
        };
        self.stream
            .feed(codec.encode(frame)?)
            .await
            .map_err(failed("writing"))
    }

    /// Writes what is buffered.
    pub(crate) async fn flush(&mut self) -> Result<(), LoadError> {
        self.stream.flush().await.map_err(failed("writing"))
    }

    async fn beat(&mut self) -> Result<(), LoadError> {
        match self.dialect {
            Dialect::Gateway(_) => {
                self.feed(&json!({"op": "heartbeat"})).await?;
                self.flush().await
            }
            // The others ping, and are answered.
            Dialect::Bare(_) | Dialect::Nats | Dialect::Centrifuge => Ok(()),
        }
    }

    /// What a WebSocket message says, if anything; pings of peers are answered.
    async fn taken(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<Option<Payload>, LoadError> {
        let Some(message) = data(message)? else {
            return Ok(None);
        };
        match (self.dialect, message) {
            (Dialect::Gateway(Codec::Json) | Dialect::Bare(_), Message::Text(text)) => {
                Ok(Some(Payload::Text(text)))
            }
            (Dialect::Gateway(Codec::Msgpack), Message::Binary(bytes)) => {
                Ok(Some(Payload::Packed(bytes)))
            }
            (Dialect::Centrifuge, Message::Text(text)) if is_centrifuge_ping(&text) => {
                self.answer(Message::text("{}")).await?;
                Ok(None)
            }
            (Dialect::Centrifuge, Message::Text(text)) => Ok(Some(Payload::Centrifuge(text))),
            (Dialect::Nats, Message::Binary(bytes)) => {
                let (whole, said) = self.nats.take(&bytes)?;
                if said.ping {
                    self.answer(Message::binary(b"PONG\r\n".as_slice())).await?;
                }
                Ok((!whole.is_empty()).then_some(Payload::Nats(whole)))
            }
            (_, _) => Err(LoadError::Protocol(
                "a message of the wrong encoding".to_owned(),
            )),
        }
    }

    async fn answer(&mut self, message: Message) -> Result<(), LoadError> {
        self.stream.send(message).await.map_err(failed("writing"))
    }

    async fn step(&mut self, what: &str) -> Result<Payload, LoadError> {
        timeout(STEP, self.message())
            .await
            .map_err(|_| LoadError::Protocol(format!("no {what} frame within {STEP:?}")))?
    }
}

/// Whether a message holds the answer to `subscribe`.
fn subscribed(message: &Payload) -> Result<bool, LoadError> {
    let mut found = false;
    for frame in message.frames()? {
        let ours = frame.id == Some(SUBSCRIBE);
        if let Some(problem) = frame.error.filter(|_| ours || frame.id.is_none()) {
            let detail = problem.detail.unwrap_or_default();
            return Err(LoadError::Protocol(format!(
                "subscribe was answered with {}: {detail}",
                problem.code
            )));
        }
        found |= ours && frame.op == "ready";
    }
    Ok(found)
}

fn heartbeat(every_ms: u64) -> Interval {
    // A fifth early, so that a busy client does not come late.
    let every = Duration::from_millis((every_ms * 4 / 5).max(100));
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn upgrade_request(endpoint: &Endpoint, dialect: Dialect) -> Result<Request, LoadError> {
    let after = match dialect {
        Dialect::Bare(Some(seq)) => format!("?after={seq}"),
        Dialect::Bare(None) | Dialect::Gateway(_) | Dialect::Nats | Dialect::Centrifuge => {
            String::new()
        }
    };
    let mut request = format!("ws://{}{}{after}", endpoint.address, dialect.path())
        .into_client_request()
        .map_err(failed("building the upgrade"))?;
    if let Dialect::Gateway(codec) = dialect {
        let protocol = HeaderValue::from_static(codec.protocol());
        request
            .headers_mut()
            .insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    if let Some(credential) = &endpoint.credential {
        let value = HeaderValue::try_from(format!("Bearer {credential}"))
            .map_err(|_| LoadError::Target("the key is not a header value".to_owned()))?;
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Ok(request)
}

fn refused_upgrade(error: tungstenite::Error) -> LoadError {
    let tungstenite::Error::Http(response) = error else {
        return failed("upgrading")(error);
    };
    let status = response.status().as_u16();
    let body = response.into_body().unwrap_or_default().into();
    LoadError::Refused {
        call: "GET /v1/ws".to_owned(),
        problem: Answer { status, body }.problem(),
    }
}

fn failed(doing: &'static str) -> impl FnOnce(tungstenite::Error) -> LoadError {
    move |source| LoadError::Socket {
        doing,
        source: Box::new(source),
    }
}

/// The text or the bytes of a message; `None` for what the WebSocket itself takes care of.
fn data(
    message: Option<Result<Message, tungstenite::Error>>,
) -> Result<Option<Message>, LoadError> {
    let cut = || LoadError::Closed {
        code: 1006,
        reason: "cut without a close frame".to_owned(),
    };
    match message.ok_or_else(cut)?.map_err(failed("reading"))? {
        data @ (Message::Text(_) | Message::Binary(_)) => Ok(Some(data)),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        Message::Close(frame) => Err(LoadError::Closed {
            code: frame.as_ref().map_or(1005, |frame| frame.code.into()),
            reason: frame.map_or_else(String::new, |frame| frame.reason.as_str().to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Payload {
        Payload::Text(text.into())
    }

    #[test]
    fn only_our_ready_means_subscribed() {
        let ready = |id: u64| {
            text(&format!(
                r#"[{{"op":"notice","code":"x"}},{{"op":"ready","id":{id}}}]"#
            ))
        };
        assert!(subscribed(&ready(1)).unwrap());
        assert!(!subscribed(&ready(2)).unwrap());
        assert!(!subscribed(&text(r#"{"op":"reply","id":1,"ok":{}}"#)).unwrap());
    }

    #[test]
    fn a_refused_subscription_names_its_code() {
        let refused = r#"{"op":"reply","id":1,"error":{"code":"scope_missing","title":"x"}}"#;
        let error = subscribed(&text(refused)).unwrap_err();
        assert!(error.tally_name().contains("scope_missing"));
    }
}
