//! Publishes the messages that subscribers get: to the gateway as sends, to the bare yardstick as frames.

use serde_json::json;
use tokio::time::{Instant, timeout};

use super::subscribers::stamped;
use crate::client::Endpoint;
use crate::client::calls::no_cursor;
use crate::client::http::{Connection, request};
use crate::client::peer::{CHANNEL, published};
use crate::client::sends::{batch_body, body, number, path, read_batch, read_sent};
use crate::client::ws::{Dialect, Socket};
use crate::error::LoadError;

/// How long an acknowledgement may take.
const ACKNOWLEDGED: std::time::Duration = std::time::Duration::from_secs(30);

/// A publisher on one connection. It remembers the place of everything it published.
#[derive(Debug)]
pub(crate) struct Publisher {
    endpoint: Endpoint,
    dialect: Dialect,
    device: String,
    chats: u64,
    payload: usize,
    origin: Instant,
    connection: Connection,
    /// The socket that publishes to NATS.
    nats: Option<Socket>,
    next: u64,
    /// Places of what was acknowledged. Bounded by what the scenario publishes.
    pub(crate) seqs: Vec<u64>,
}

/// What to publish.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    /// The device to send from; the bare yardstick has none.
    pub(crate) device: String,
    /// Numbers that messages go to, in turn.
    pub(crate) chats: u64,
    /// Bytes of text in a message.
    pub(crate) payload: usize,
}

impl Publisher {
    /// A publisher whose stamps count from `origin`.
    pub(crate) fn new(
        endpoint: &Endpoint,
        dialect: Dialect,
        publication: &Publication,
        origin: Instant,
    ) -> Self {
        Self {
            endpoint: endpoint.clone(),
            dialect,
            device: publication.device.clone(),
            chats: publication.chats.max(1),
            payload: publication.payload,
            origin,
            connection: Connection::new(endpoint.address),
            nats: None,
            next: 1,
            seqs: Vec::new(),
        }
    }

    /// Publishes one message that was due at a time, acknowledged when this returns.
    pub(crate) async fn one(&mut self, due: Instant) -> Result<(), LoadError> {
        match self.dialect {
            Dialect::Bare(_) | Dialect::Centrifuge => self.frames(1, due).await,
            Dialect::Nats => self.operations(1, due).await,
            Dialect::Gateway(_) => {
                let body = self.message(due).to_string();
                let request = self.request(&path(&self.device), &body);
                let answer = self.exchange(&request).await?;
                let seq = read_sent(&answer)?.seq();
                self.seqs.push(seq.ok_or_else(no_cursor)?);
                Ok(())
            }
        }
    }

    /// Publishes many in one call, acknowledged when this returns.
    pub(crate) async fn many(&mut self, count: u64) -> Result<(), LoadError> {
        match self.dialect {
            Dialect::Bare(_) | Dialect::Centrifuge => self.frames(count, Instant::now()).await,
            Dialect::Nats => self.operations(count, Instant::now()).await,
            Dialect::Gateway(_) => {
                let now = Instant::now();
                let messages: Vec<_> = (0..count).map(|_| self.message(now)).collect();
                let body = batch_body(&messages).to_string();
                let request = self.request(&format!("{}/batch", path(&self.device)), &body);
                let answer = self.exchange(&request).await?;
                let outcome = read_batch(&answer)?;
                if outcome.accepted != count {
                    return Err(LoadError::Protocol(format!(
                        "of a batch of {count} only {} were accepted: {:?}",
                        outcome.accepted, outcome.errors
                    )));
                }
                if u64::try_from(outcome.seqs.len()) != Ok(count) {
                    return Err(no_cursor());
                }
                self.seqs.extend(outcome.seqs);
                Ok(())
            }
        }
    }

    async fn frames(&mut self, count: u64, due: Instant) -> Result<(), LoadError> {
        let text = self.stamped(due);
        let body = json!({"first": self.next, "count": count, "text": text}).to_string();
        let request = self.request("/publish", &body);
        let answer = self.exchange(&request).await?;
        if !answer.succeeded() {
            return Err(LoadError::Refused {
                call: "POST /publish".to_owned(),
                problem: answer.problem(),
            });
        }
        self.seqs.extend(self.next..self.next + count);
        self.next += count;
        Ok(())
    }

    /// Publishes to NATS, as one write; its answer to a ping means that the server has taken them all.
    async fn operations(&mut self, count: u64, due: Instant) -> Result<(), LoadError> {
        let text = self.stamped(due);
        let mut operations = Vec::new();
        for seq in self.next..self.next + count {
            let frame = published(seq, &text);
            let head = format!("PUB {CHANNEL} {}\r\n", frame.len());
            operations.extend(head.bytes().chain(frame.bytes()).chain(*b"\r\n"));
        }
        if self.nats.is_none() {
            let mut socket = Socket::open(&self.endpoint, Dialect::Nats).await?;
            socket.connect_nats().await?;
            self.nats = Some(socket);
        }
        if let Some(socket) = &mut self.nats {
            socket.publish_nats(operations).await?;
        }
        self.seqs.extend(self.next..self.next + count);
        self.next += count;
        Ok(())
    }

    fn message(&mut self, due: Instant) -> serde_json::Value {
        let chat = self.next % self.chats;
        self.next += 1;
        body(&number(chat), &self.stamped(due))
    }

    fn stamped(&self, due: Instant) -> String {
        stamped(due.saturating_duration_since(self.origin), self.payload)
    }

    fn request(&self, path: &str, body: &str) -> bytes::Bytes {
        request(&self.endpoint, "POST", path, Some(body.as_bytes()))
    }

    async fn exchange(&mut self, request: &[u8]) -> Result<crate::client::http::Answer, LoadError> {
        timeout(ACKNOWLEDGED, self.connection.exchange(request))
            .await
            .map_err(|_| LoadError::Protocol(format!("no answer within {ACKNOWLEDGED:?}")))?
    }
}
