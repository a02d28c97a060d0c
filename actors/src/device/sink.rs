//! The gateway's ear for one device: what a connector tells goes to the device and to its chats.

use std::sync::Weak;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::Serialize;

use super::handle::DeviceHandle;
use super::message::DeviceMsg;
use super::shared::DeviceShared;
use super::state::Input;
use crate::CommandError;
use crate::chat::{StepOf, id_of_upstream, to_json};
use crate::log::Ephemeral;
use crate::model::{Direction, EventType, Jid, MessageId, Step, Timestamp};
use crate::ports::connector::{
    Availability, Incoming, IncomingMessage, Note, Sink, SinkError, Taken, Typing,
};

/// Does not keep the device alive: a connector may hold it for longer than the device lives.
pub(super) struct DeviceSink(pub(super) Weak<DeviceShared>);

#[derive(Serialize)]
struct EphemeralFrame<'a, D> {
    op: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    device: crate::model::DeviceId,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat: Option<&'a Jid>,
    data: D,
}

#[derive(Serialize)]
struct TypingData<'a> {
    participant: &'a Jid,
    presence: Typing,
}

#[derive(Serialize)]
struct PresenceData<'a> {
    contact: &'a Jid,
    presence: Availability,
    last_seen: Option<Timestamp>,
}

#[async_trait]
impl Sink for DeviceSink {
    async fn commit(&self, batch: Vec<Incoming>) -> Result<Vec<Taken>, SinkError> {
        let device = DeviceHandle::from(self.0.upgrade().ok_or(SinkError::Away)?);
        device.shared().heard();
        let mut answers = Vec::with_capacity(batch.len());
        for incoming in batch {
            answers.push(match incoming {
                Incoming::Message(message) => Pending::of(message_in(&device, *message).await?),
                Incoming::Receipt {
                    chat,
                    id,
                    upstream_id,
                    status,
                    at,
                    participant,
                } => {
                    let step = Step {
                        status,
                        at,
                        error: None,
                        participant,
                    };
                    Pending::of(receipt_in(&device, chat, id, &upstream_id, step).await?)
                }
            });
        }
        join_all(answers.into_iter().map(Pending::wait))
            .await
            .into_iter()
            .collect()
    }

    fn notify(&self, note: Note) {
        let Some(device) = self.0.upgrade() else {
            return;
        };
        let input = match note {
            Note::Qr(qr) => {
                let _heard = device.tell(DeviceMsg::QrShown(qr));
                return;
            }
            Note::PairingTimeout => Input::PairingTimeout,
            Note::Linked { number } => Input::Linked(number),
            Note::Connected => Input::Connected,
            Note::Dropped { reason } => Input::Dropped(reason),
            Note::LoggedOut => Input::LoggedOut,
            Note::Banned { reason } => Input::Banned(reason),
            Note::Health(health) => Input::Health(health),
            Note::Typing {
                chat,
                participant,
                typing,
            } => {
                let data = TypingData {
                    participant: &participant,
                    presence: typing,
                };
                return ring(&device, EventType::ChatPresence, Some(chat), data);
            }
            Note::Presence {
                contact,
                availability,
                last_seen,
            } => {
                let data = PresenceData {
                    contact: &contact,
                    presence: availability,
                    last_seen,
                };
                return ring(
                    &device,
                    EventType::PresenceUpdated,
                    Some(contact.clone()),
                    data,
                );
            }
        };
        let _heard = device.tell(DeviceMsg::Noted(input));
    }
}

fn ring(device: &DeviceShared, kind: EventType, chat: Option<Jid>, data: impl Serialize) {
    let frame = EphemeralFrame {
        op: "ephemeral",
        kind: kind.as_str(),
        device: device.id(),
        chat: chat.as_ref(),
        data,
    };
    let frame = to_json(&frame);
    if let Some(log) = device.log() {
        log.ring_ephemeral(Ephemeral {
            kind,
            device: device.id(),
            chat,
            frame,
        });
    }
}

/// An answer that is there, or on its way from a chat.
enum Pending<F> {
    There(Taken),
    Coming(F),
}

impl<F: Future<Output = Result<Taken, CommandError>>> Pending<F> {
    fn of(found: Result<F, Taken>) -> Self {
        match found {
            Ok(coming) => Self::Coming(coming),
            Err(taken) => Self::There(taken),
        }
    }

    async fn wait(self) -> Result<Taken, SinkError> {
        match self {
            Self::There(taken) => Ok(taken),
            Self::Coming(answer) => answer.await.map_err(|error| away(&error)),
        }
    }
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Taken, CommandError>> + Send>>;

async fn message_in(
    device: &DeviceHandle,
    message: IncomingMessage,
) -> Result<Result<Answer, Taken>, SinkError> {
    let from_me = message.direction == Direction::Out;
    let shared = device.shared();
    let known = shared
        .store()
        .by_upstream(
            shared.tenant(),
            shared.id(),
            &message.chat,
            from_me,
            &message.upstream_id,
        )
        .await;
    match known {
        Ok(Some(id)) => Ok(Err(Taken::Repeat(id))),
        Ok(None) => {
            let answer = shared
                .chats()
                .receive(&device.home(), message)
                .await
                .map_err(|error| away(&error))?;
            Ok(Ok(Box::pin(answer)))
        }
        Err(error) => {
            tracing::warn!(%error, "repeat of a message could not be looked up");
            Err(SinkError::Away)
        }
    }
}

async fn receipt_in(
    device: &DeviceHandle,
    chat: Jid,
    id: Option<MessageId>,
    upstream_id: &str,
    step: Step,
) -> Result<Result<Answer, Taken>, SinkError> {
    let shared = device.shared();
    let id = match id.or_else(|| id_of_upstream(upstream_id)) {
        Some(id) => Some(id),
        None => shared
            .store()
            .by_upstream(shared.tenant(), shared.id(), &chat, true, upstream_id)
            .await
            .map_err(|_| SinkError::Away)?,
    };
    let Some(id) = id else {
        return Ok(Err(Taken::Unknown));
    };
    let answer = shared
        .chats()
        .step(&device.home(), chat, StepOf::Named(id), step)
        .await
        .map_err(|error| away(&error))?;
    Ok(Ok(Box::pin(answer)))
}

fn away(error: &CommandError) -> SinkError {
    match error {
        CommandError::Busy | CommandError::OutcomeUnknown => SinkError::Busy,
        CommandError::NotFound
        | CommandError::Invalid(_)
        | CommandError::Unsupported(_)
        | CommandError::StateConflict(_)
        | CommandError::NumberTaken
        | CommandError::IdempotencyMismatch
        | CommandError::LimitReached(_)
        | CommandError::Unavailable
        | CommandError::StoreFailed
        | CommandError::StorageFull
        | CommandError::Store(_) => SinkError::Away,
    }
}
