//! Sends as WebSocket requests: every socket keeps a number of them unanswered.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::closed_loop::{Outcome, Span, Tally, Window, measure};
use crate::client::Endpoint;
use crate::client::calls::no_cursor;
use crate::client::payload::{Codec, Payload};
use crate::client::sends::{body, number};
use crate::client::ws::{Dialect, Socket};
use crate::error::{LoadError, code_leaves_open};

/// How long replies may still come after the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What to load a gateway with.
#[derive(Debug, Clone)]
pub(crate) struct Pipeline {
    /// The gateway.
    pub(crate) endpoint: Endpoint,
    /// Its process, if known.
    pub(crate) pid: Option<u32>,
    /// The device to send from.
    pub(crate) device: String,
    /// How many numbers to send to.
    pub(crate) chats: u64,
    /// The text to send.
    pub(crate) text: String,
    /// The encoding of frames.
    pub(crate) codec: Codec,
    /// Sockets.
    pub(crate) sockets: usize,
    /// Requests unanswered at a time, on each socket.
    pub(crate) in_flight: u64,
    /// When to measure.
    pub(crate) window: Window,
}

impl Pipeline {
    /// Loads the gateway over WebSockets.
    pub(crate) async fn run(&self, label: &str) -> Result<Outcome, LoadError> {
        let mut sockets = Vec::with_capacity(self.sockets);
        for _ in 0..self.sockets {
            sockets.push(Socket::open(&self.endpoint, Dialect::Gateway(self.codec)).await?);
        }
        let span = self.window.open();
        let mut workers = JoinSet::new();
        for (index, socket) in (0_u64..).zip(sockets) {
            let in_flight = self.in_flight.min(socket.in_flight);
            let sender = Sender {
                plan: self.clone(),
                socket,
                in_flight,
                next: index.wrapping_mul(7_919),
                unanswered: HashMap::new(),
                tally: Tally::new(),
                span,
            };
            workers.spawn(sender.run());
        }
        measure(self.pid, span, workers, label).await
    }
}

struct Sender {
    plan: Pipeline,
    socket: Socket,
    in_flight: u64,
    next: u64,
    /// Bounded by `in_flight`.
    unanswered: HashMap<u64, Instant>,
    tally: Tally,
    span: Span,
}

impl Sender {
    async fn run(mut self) -> Tally {
        if let Err(error) = self.work().await {
            self.tally.errors.count(error.tally_name());
        }
        // What was never answered may be stored.
        self.tally.unknown += length(&self.unanswered);
        self.tally
    }

    async fn work(&mut self) -> Result<(), LoadError> {
        while Instant::now() < self.span.until {
            self.fill().await?;
            let Ok(message) = timeout_at(self.span.until, self.socket.message()).await else {
                break;
            };
            self.take(&message?)?;
            while let Some(message) = self.socket.message_now().await? {
                self.take(&message)?;
            }
        }
        // What is under way is stored too, and belongs to the books.
        let until = Instant::now() + LAST_ANSWERS;
        while !self.unanswered.is_empty() {
            let Ok(message) = timeout_at(until, self.socket.message()).await else {
                let late = length(&self.unanswered);
                self.tally.errors.add("no reply".to_owned(), late);
                break;
            };
            self.take(&message?)?;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), LoadError> {
        let room = self.in_flight.saturating_sub(length(&self.unanswered));
        for _ in 0..room {
            let id = self.next;
            self.next = self.next.wrapping_add(1);
            self.unanswered.insert(id, Instant::now());
            self.socket.feed(&self.frame(id)).await?;
        }
        self.socket.flush().await
    }

    fn frame(&self, id: u64) -> Value {
        let mut params = body(&number(id % self.plan.chats.max(1)), &self.plan.text);
        if let Value::Object(members) = &mut params {
            members.insert("device".to_owned(), self.plan.device.clone().into());
        }
        json!({"op": "request", "id": id, "method": "send_message", "params": params})
    }

    fn take(&mut self, message: &Payload) -> Result<(), LoadError> {
        let ended = Instant::now();
        for frame in message.frames()? {
            if frame.op != "reply" {
                continue;
            }
            let Some(began) = frame.id.and_then(|id| self.unanswered.remove(&id)) else {
                self.tally.errors.count("reply to no request".to_owned());
                continue;
            };
            match (frame.ok, frame.error) {
                (Some(sent), _) => {
                    self.tally.seqs.push(sent.seq().ok_or_else(no_cursor)?);
                    if self.span.covers(began, ended) {
                        self.tally.accepted += 1;
                        self.tally.latencies.record(ended.duration_since(began));
                    }
                }
                (None, Some(problem)) => {
                    self.tally.unknown += u64::from(code_leaves_open(&problem.code));
                    self.tally.errors.count(format!("reply {}", problem.code));
                }
                (None, None) => self
                    .tally
                    .errors
                    .count("reply without ok and error".to_owned()),
            }
        }
        Ok(())
    }
}

fn length<K, V>(map: &HashMap<K, V>) -> u64 {
    u64::try_from(map.len()).unwrap_or(u64::MAX)
}
