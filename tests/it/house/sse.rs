//! A reader of `GET /v1/events/stream`.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use super::PATIENCE;
use super::client::Call;

/// One event of the stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SseEvent {
    pub(crate) id: Option<String>,
    /// The `event:` line; entries have none.
    pub(crate) name: Option<String>,
    pub(crate) data: Value,
}

/// An open stream.
pub(crate) struct Sse {
    bytes: BoxStream<'static, Vec<u8>>,
    text: Vec<u8>,
    waiting: VecDeque<SseEvent>,
    has_ended: bool,
}

impl std::fmt::Debug for Sse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sse")
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}

impl Sse {
    /// Opens a stream; it must be one.
    pub(crate) async fn open(call: Call) -> Self {
        let response = call.open().await.expect("an answer");
        assert_eq!(response.status(), 200, "not a stream");
        Self::of(response)
    }

    /// Opens a stream, unless nobody answers or the answer is another one.
    pub(crate) async fn attempt(call: Call) -> Option<Self> {
        let response = call.open().await.ok()?;
        (response.status() == 200).then(|| Self::of(response))
    }

    fn of(response: Response) -> Self {
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let bytes = response
            .bytes_stream()
            .take_while(|it| std::future::ready(it.is_ok()));
        Self {
            bytes: bytes.map(|it| it.unwrap().to_vec()).boxed(),
            text: Vec::new(),
            waiting: VecDeque::new(),
            has_ended: false,
        }
    }

    /// The next event, `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<SseEvent> {
        while self.waiting.is_empty() && !self.has_ended {
            let more = timeout(PATIENCE * 3, self.bytes.next())
                .await
                .expect("the stream is silent");
            match more {
                Some(bytes) => self.take(&bytes),
                None => self.has_ended = true,
            }
        }
        self.waiting.pop_front()
    }

    /// The next entry; named events are passed over.
    pub(crate) async fn entry(&mut self) -> SseEvent {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.name.is_none() {
                return event;
            }
        }
    }

    /// The next event of a name.
    pub(crate) async fn named(&mut self, name: &str) -> SseEvent {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event.name.as_deref() == Some(name) {
                return event;
            }
        }
    }

    /// Whether the stream ended in the middle of an event.
    pub(crate) const fn is_torn(&self) -> bool {
        !self.text.is_empty()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.text.extend(bytes);
        while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("UTF-8");
            self.waiting.extend(parse(&block));
        }
    }
}

/// One block between empty lines; `None` for a comment.
fn parse(block: &str) -> Option<SseEvent> {
    let mut event = SseEvent::default();
    let mut data = Vec::new();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.into()),
            "event" => event.name = Some(value.into()),
            "data" => data.push(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return None;
    }
    event.data = serde_json::from_str(&data.join("\n")).expect("JSON data");
    Some(event)
}
