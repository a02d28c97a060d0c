//! `GET /v1/events/stream`: the body of a stream, event by whole event.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use actors::log::{Entry, Facts, Heard, Listener, Opened, Reset};
use actors::model::Timestamp;
use actors::ports::Clock;
use axum::body::{Body, Bytes};
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Reading;
use super::query::Wanted;
use crate::credentials::{Caller, Ended};
use crate::http::ApiState;
use crate::ws::{Delivery, Place, Verdict};

/// A comment keeps the connection alive when nothing happens.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Bytes that are handed on together; one larger entry always passes.
const CHUNK_BYTES: usize = 32 << 10;
/// Entries that are taken at once.
const TAKE_MAX: usize = 128;

/// What a stream is made of. It is asked for the next chunk when the last one is on its way, so it holds no queue.
pub(super) struct Feed {
    listener: Listener,
    delivery: Delivery,
    queue: Vec<Arc<Entry>>,
    at: usize,
    chunk: String,
    max_lag: u64,
    is_over: bool,
    caller: Caller,
    ended: watch::Receiver<Ended>,
    stopping: watch::Receiver<bool>,
    clock: Arc<dyn Clock>,
    _place: Place,
    _reading: Reading,
}

impl Feed {
    pub(super) fn new(
        api: &ApiState,
        caller: Caller,
        wanted: Wanted,
        opened: Opened,
        place: Place,
    ) -> Self {
        let Opened {
            listener, reset, ..
        } = opened;
        let head = listener.log().head().seq;
        let mut feed = Self {
            delivery: Delivery::new(wanted.filter, wanted.sight, listener.position(), head),
            listener,
            queue: Vec::new(),
            at: 0,
            chunk: String::new(),
            max_lag: api.config.streams.max_lag,
            is_over: false,
            ended: caller.ended(),
            caller,
            stopping: api.stopping.clone(),
            clock: Arc::clone(&api.clock),
            _place: place,
            _reading: Reading::by("sse"),
        };
        if let Some(reset) = reset {
            feed.reset(&reset);
        }
        feed
    }

    pub(super) fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut feed| async move {
            let chunk = feed.next().await?;
            Some((Ok::<_, std::convert::Infallible>(chunk), feed))
        }))
    }

    /// The next whole events; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let comment_at = Instant::now() + COMMENT_EVERY;
        loop {
            self.fill();
            if !self.chunk.is_empty() {
                return Some(std::mem::take(&mut self.chunk).into());
            }
            if self.is_over {
                return None;
            }
            let expires = self
                .caller
                .expires_at()
                .map(|at| Instant::now() + at.since(self.now()));
            let heard = tokio::select! {
                heard = self.listener.next(&mut self.queue, TAKE_MAX) => heard,
                _ = self.stopping.wait_for(|it| *it) => return None,
                _ = self.ended.wait_for(|it| *it != Ended::No) => return None,
                () = sleep_until(expires) => return None,
                () = tokio::time::sleep_until(comment_at) => return Some(Bytes::from_static(b":\n\n")),
            };
            match heard {
                Ok(heard) => self.heard(heard),
                Err(error) => {
                    tracing::warn!(tenant = %self.caller.tenant(), %error, "a stream's events could not be read");
                    return None;
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn fill(&mut self) {
        let now = Instant::now();
        while self.chunk.len() < CHUNK_BYTES {
            if self.delivery.position_is_due() {
                let (cursor, events) = self.delivery.tell_position();
                self.word(
                    "position",
                    Some(&cursor.to_string()),
                    &json!({"cursor": cursor, "events": events}),
                );
            }
            let Some(entry) = self.queue.get(self.at) else {
                self.queue.clear();
                self.at = 0;
                self.tell_end_of_lag();
                return;
            };
            self.at += 1;
            match self.delivery.offer(
                entry.cursor().seq,
                Facts::from(&**entry),
                entry.weight(),
                now,
            ) {
                Verdict::Send => {
                    // An entry is one line of UTF-8.
                    let json = entry.json();
                    let _written = write!(
                        self.chunk,
                        "id: {}\ndata: {}\n\n",
                        entry.cursor(),
                        String::from_utf8_lossy(&json)
                    );
                }
                Verdict::Skip | Verdict::Hold => {}
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Entries { from_store } => {
                let behind = self.listener.behind();
                self.is_over = self.delivery.is_live() && from_store && self.max_lag < behind;
                if let Some(is_on) = self.delivery.fed_from(from_store) {
                    let mode = if is_on { "on" } else { "off" };
                    self.word("lag", None, &json!({"behind": behind, "mode": mode}));
                }
            }
            // Ephemeral events are for WebSockets.
            Heard::Ephemerals => self.listener.take_ephemerals(&mut Vec::new()),
            Heard::Trimmed { oldest, head } => {
                self.listener.jump(head.seq);
                self.delivery.jump(head);
                self.reset(&Reset {
                    reason: actors::log::Lost::Trimmed,
                    oldest,
                    head,
                });
            }
            Heard::Closed => self.is_over = true,
        }
    }

    /// What was heard last reached the head, and nothing need follow it.
    fn tell_end_of_lag(&mut self) {
        if self.delivery.is_lagging() && self.listener.behind() == 0 {
            self.delivery.fed_from(false);
            self.word("lag", None, &json!({"behind": 0, "mode": "off"}));
        }
    }

    fn reset(&mut self, reset: &Reset) {
        let data =
            json!({"reason": reset.reason.as_str(), "oldest": reset.oldest, "head": reset.head});
        self.word("reset", None, &data);
    }

    fn word(&mut self, name: &str, id: Option<&str>, data: &serde_json::Value) {
        let id = id.map(|it| format!("id: {it}\n")).unwrap_or_default();
        // Writing to memory can't fail.
        let _written = write!(self.chunk, "event: {name}\n{id}data: {data}\n\n");
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
