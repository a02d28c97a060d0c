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
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::Endpoint;
use super::frame::{Frame, parse_frames};
use super::http::Answer;
use crate::error::LoadError;

/// Which server is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The gateway's protocol `buho.v1.json` at `/v1/ws`.
    Gateway,
    /// The bare yardstick at `/ws`: no hello, subscribed with the upgrade.
    Bare,
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
            heartbeat: heartbeat(HEARTBEAT_MS),
            in_flight: IN_FLIGHT,
        };
        match dialect {
            Dialect::Gateway => socket.take_hello().await?,
            Dialect::Bare => {}
        }
        Ok(socket)
    }

    async fn take_hello(&mut self) -> Result<(), LoadError> {
        let text = self.step("hello").await?;
        let frames = read(&text)?;
        let Some(hello) = frames.iter().find(|frame| frame.op == "hello") else {
            return Err(LoadError::Protocol(format!("no hello but {text}")));
        };
        self.heartbeat = heartbeat(hello.heartbeat_ms.unwrap_or(HEARTBEAT_MS));
        let limit = hello.limits.and_then(|limits| limits.in_flight);
        self.in_flight = limit.unwrap_or(IN_FLIGHT).max(1);
        Ok(())
    }

    /// Subscribes to what happens from now on, and waits until that holds.
    pub(crate) async fn subscribe(&mut self, filter: &Value) -> Result<(), LoadError> {
        let id = SUBSCRIBE;
        let frame = json!({"op": "subscribe", "id": id, "filter": filter, "after": "now"});
        self.feed(frame.to_string()).await?;
        self.flush().await?;
        while !subscribed(&self.step("ready").await?)? {}
        Ok(())
    }

    /// The next text, sending heartbeats while waiting.
    pub(crate) async fn text(&mut self) -> Result<Utf8Bytes, LoadError> {
        loop {
            let message = tokio::select! {
                biased;
                message = self.stream.next() => message,
                _ = self.heartbeat.tick() => {
                    self.feed(json!({"op": "heartbeat"}).to_string()).await?;
                    self.flush().await?;
                    continue;
                }
            };
            if let Some(text) = taken(message)? {
                return Ok(text);
            }
        }
    }

    /// The next text if it is already here.
    pub(crate) fn text_now(&mut self) -> Result<Option<Utf8Bytes>, LoadError> {
        while let Some(message) = self.stream.next().now_or_never() {
            if let Some(text) = taken(message)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Puts a text into the write buffer.
    pub(crate) async fn feed(&mut self, text: String) -> Result<(), LoadError> {
        self.stream
            .feed(Message::text(text))
            .await
            .map_err(failed("writing"))
    }

    /// Writes what is buffered.
    pub(crate) async fn flush(&mut self) -> Result<(), LoadError> {
        self.stream.flush().await.map_err(failed("writing"))
    }

    async fn step(&mut self, what: &str) -> Result<Utf8Bytes, LoadError> {
        timeout(STEP, self.text())
            .await
            .map_err(|_| LoadError::Protocol(format!("no {what} frame within {STEP:?}")))?
    }
}

/// Reads the frames of a text.
pub(crate) fn read(text: &str) -> Result<Vec<Frame<'_>>, LoadError> {
    parse_frames(text).map_err(|source| LoadError::Body {
        call: format!("frame {}", text.chars().take(120).collect::<String>()),
        source,
    })
}

/// Whether a message holds the answer to `subscribe`.
fn subscribed(text: &str) -> Result<bool, LoadError> {
    let mut found = false;
    for frame in read(text)? {
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
    let path = match dialect {
        Dialect::Gateway => "/v1/ws",
        Dialect::Bare => "/ws",
    };
    let mut request = format!("ws://{}{path}", endpoint.address)
        .into_client_request()
        .map_err(failed("building the upgrade"))?;
    if dialect == Dialect::Gateway {
        let protocol = HeaderValue::from_static("buho.v1.json");
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

fn taken(
    message: Option<Result<Message, tungstenite::Error>>,
) -> Result<Option<Utf8Bytes>, LoadError> {
    let cut = || LoadError::Closed {
        code: 1006,
        reason: "cut without a close frame".to_owned(),
    };
    match message.ok_or_else(cut)?.map_err(failed("reading"))? {
        Message::Text(text) => Ok(Some(text)),
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
        Message::Binary(_) => Err(LoadError::Protocol(
            "a binary message on a JSON socket".to_owned(),
        )),
        Message::Close(frame) => Err(LoadError::Closed {
            code: frame.as_ref().map_or(1005, |frame| frame.code.into()),
            reason: frame.map_or_else(String::new, |frame| frame.reason.as_str().to_owned()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_ready_means_subscribed() {
        let ready =
            |id: u64| format!(r#"[{{"op":"notice","code":"x"}},{{"op":"ready","id":{id}}}]"#);
        assert!(subscribed(&ready(1)).unwrap());
        assert!(!subscribed(&ready(2)).unwrap());
        assert!(!subscribed(r#"{"op":"reply","id":1,"ok":{}}"#).unwrap());
    }

    #[test]
    fn a_refused_subscription_names_its_code() {
        let refused = r#"{"op":"reply","id":1,"error":{"code":"scope_missing","title":"x"}}"#;
        let error = subscribed(refused).unwrap_err();
        assert!(error.tally_name().contains("scope_missing"));
    }
}
