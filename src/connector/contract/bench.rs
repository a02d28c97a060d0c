//! The bench that the rules are tried on: a gateway's ear, and devices.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actors::model::{
    Content, ContentKind, DeviceId, Direction, Jid, MessageBody, MessageId, PhoneNumber, Status,
    TenantId, Timestamp,
};
use actors::ports::connector::{
    Command, Connector, Deps, DeviceLink, Handed, Incoming, IncomingMessage, Note, Session, Sink,
    SinkError, Start, Taken,
};
use async_trait::async_trait;
use parking_lot::Mutex;

/// A connector that is tried, and a hand on its network.
#[async_trait]
pub(crate) trait Bench: Send + Sync {
    /// The connector.
    fn connector(&self) -> Arc<dyn Connector>;

    /// Whose devices they are.
    fn tenant(&self) -> TenantId;

    /// Plays the phone with this number that scans the device's QR.
    async fn scan(&self, device: DeviceId, number: PhoneNumber);

    /// An address that takes messages and confirms that they arrived and were read.
    async fn reader(&self) -> Jid;

    /// An address that is not on the network.
    async fn nobody(&self) -> Jid;

    /// Ends the connector, and starts it again on what it kept.
    async fn restart(&mut self);
}

/// One receipt that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) chat: Jid,
    pub(crate) id: Option<MessageId>,
    pub(crate) upstream_id: String,
    pub(crate) status: Status,
}

#[derive(Default)]
struct Heard {
    /// What came for the first time.
    messages: Vec<IncomingMessage>,
    receipts: Vec<Receipt>,
    notes: Vec<Note>,
    names: HashMap<(Jid, String), MessageId>,
    repeats: usize,
    sizes: Vec<usize>,
    /// How many messages there were when the session came onto the network.
    before_connected: Option<usize>,
}

/// A gateway's ear that remembers, drops repeats as the gateway does, and can be too busy.
#[derive(Default)]
pub(crate) struct Ear {
    heard: Mutex<Heard>,
    busy: AtomicU32,
}

impl Ear {
    /// Will not take the next offers.
    pub(crate) fn is_busy_for(&self, offers: u32) {
        self.busy.store(offers, Ordering::Relaxed);
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.heard
            .lock()
            .messages
            .iter()
            .map(|it| said(&it.content))
            .collect()
    }

    pub(crate) fn messages(&self) -> Vec<IncomingMessage> {
        self.heard.lock().messages.clone()
    }

    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        self.heard.lock().receipts.clone()
    }

    pub(crate) fn notes(&self) -> Vec<Note> {
        self.heard.lock().notes.clone()
    }

    pub(crate) fn repeats(&self) -> usize {
        self.heard.lock().repeats
    }

    /// How many messages there were when the session came onto the network.
    pub(crate) fn before_connected(&self) -> Option<usize> {
        self.heard.lock().before_connected
    }

    /// The sizes of the batches that came.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.heard.lock().sizes.clone()
    }

    pub(crate) fn has(&self, wanted: impl Fn(&Note) -> bool) -> bool {
        self.heard.lock().notes.iter().any(wanted)
    }

    /// The number that the device was linked with.
    pub(crate) fn linked_number(&self) -> Option<PhoneNumber> {
        let number = |note: &Note| {
            let Note::Linked { number } = note else {
                return None;
            };
            Some(number.clone())
        };
        self.heard.lock().notes.iter().find_map(number)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.has(|it| matches!(it, Note::Connected))
    }
}

#[async_trait]
impl Sink for Ear {
    async fn commit(&self, batch: Vec<Incoming>) -> Result<Vec<Taken>, SinkError> {
        tokio::task::yield_now().await;
        if self
            .busy
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |it| it.checked_sub(1))
            .is_ok()
        {
            return Err(SinkError::Busy);
        }
        let mut heard = self.heard.lock();
        heard.sizes.push(batch.len());
        let mut take = |item| match item {
            Incoming::Message(message) => {
                let key = (message.chat.clone(), message.upstream_id.clone());
                if let Some(id) = heard.names.get(&key).copied() {
                    heard.repeats += 1;
                    return Taken::Repeat(id);
                }
                let id = MessageId::generate();
                heard.names.insert(key, id);
                heard.messages.push(*message);
                Taken::New(id)
            }
            Incoming::Receipt {
                chat,
                id,
                upstream_id,
                status,
                ..
            } => {
                heard.receipts.push(Receipt {
                    chat,
                    id,
                    upstream_id,
                    status,
                });
                id.map_or(Taken::Unknown, Taken::New)
            }
        };
        Ok(batch.into_iter().map(&mut take).collect())
    }

    fn notify(&self, note: Note) {
        let mut heard = self.heard.lock();
        if matches!(note, Note::Connected) {
            heard.before_connected = Some(heard.messages.len());
        }
        heard.notes.push(note);
    }
}

/// A device on the bench.
pub(crate) struct Phone {
    pub(crate) device: DeviceId,
    pub(crate) number: PhoneNumber,
    pub(crate) ear: Arc<Ear>,
    pub(crate) session: Arc<dyn Session>,
}

impl Phone {
    pub(crate) fn jid(&self) -> Jid {
        Jid::person(&self.number)
    }

    /// A device that has not been linked.
    pub(crate) async fn open(bench: &impl Bench, number: &str) -> Self {
        Self::reopen(bench, DeviceId::generate(), number).await
    }

    /// The same device with a new session.
    pub(crate) async fn reopen(bench: &impl Bench, device: DeviceId, number: &str) -> Self {
        let ear = Arc::new(Ear::default());
        let link = DeviceLink {
            tenant: bench.tenant(),
            device,
            number: None,
        };
        let session = bench
            .connector()
            .open(
                link,
                Deps {
                    sink: Arc::clone(&ear) as _,
                },
            )
            .await
            .unwrap();
        Self {
            device,
            number: number.parse().unwrap(),
            ear,
            session,
        }
    }

    /// A device that is linked and on the network.
    pub(crate) async fn connected(bench: &impl Bench, number: &str) -> Self {
        let phone = Self::open(bench, number).await;
        phone.session.start(Start::LinkQr).await.unwrap();
        bench.scan(phone.device, phone.number.clone()).await;
        until("the device is connected", || phone.ear.is_connected()).await;
        phone
    }

    pub(crate) fn message(&self, chat: &Jid, text: &str) -> Arc<MessageBody> {
        let id = MessageId::generate();
        Arc::new(MessageBody {
            id,
            device: self.device,
            chat: chat.clone(),
            direction: Direction::Out,
            from: Some(self.jid()),
            to: Some(chat.clone()),
            participant: None,
            kind: ContentKind::Text,
            content: Content::Text {
                text: text.to_owned(),
                preview_url: None,
            },
            reply_to: None,
            mentions: None,
            mention_all: false,
            metadata: None,
            upstream_id: format!("UP{id}"),
            created_at: Timestamp::from_millis(0),
            send_at: None,
            delay_ms: None,
            expires_at: None,
        })
    }

    pub(crate) async fn send(&self, batch: &[Arc<MessageBody>]) -> Vec<Handed> {
        self.session
            .execute(Command::Send(batch.to_vec()))
            .await
            .unwrap()
    }

    /// Hands over until the network has it, as the gateway does.
    pub(crate) async fn send_until_taken(&self, message: &Arc<MessageBody>) {
        for _ in 0..100 {
            match &self.send(std::slice::from_ref(message)).await[0] {
                Handed::Taken { .. } => return,
                Handed::Later(pause) => tokio::time::sleep(*pause).await,
                Handed::Refused { code, .. } => panic!("refused: {code}"),
            }
        }
        panic!("never taken");
    }

    pub(crate) fn steps_of(&self, message: &MessageBody) -> Vec<Status> {
        self.ear
            .receipts()
            .iter()
            .filter(|it| it.upstream_id == message.upstream_id)
            .map(|it| it.status)
            .collect()
    }
}

fn said(content: &Content) -> String {
    match content {
        Content::Text { text, .. } => text.clone(),
        Content::Location { .. } | Content::Contacts { .. } => panic!("not a text"),
    }
}

/// Waits for a state.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(300), waiting)
            .await
            .is_ok(),
        "never: {what}"
    );
}

pub(crate) fn taken(handed: &Handed) -> bool {
    matches!(handed, Handed::Taken { .. })
}
