//! The slow work of a device: tasks that it owns and that report back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ractor::ActorRef;
use tokio::time::Instant;

use super::handle::DeviceHandle;
use super::message::{DeviceMsg, HandedOver};
use crate::chat::StepOf;
use crate::door::{Reply, report};
use crate::model::{EntryDraft, Jid, MessageBody, MessageId, Status, Step, Timestamp};
use crate::node::Base;
use crate::ports::connector::{
    Command, Connector, ConnectorError, Handed, Session, Start, Stop, Typing,
};
use crate::ports::{Outcome, Write, commit};
use crate::{CommandError, model};

const AGAIN_MIN: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_secs(1);
/// Devices that start with the gateway spread over this time.
const SPREAD_MAX: Duration = Duration::from_millis(250);
/// Messages of a removed device that are ended at a time.
const REMOVE_PAGE: usize = 256;

/// What is to be done to a session, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) stop: Option<Stop>,
    pub(super) start: Option<Start>,
    /// Whether many others start at the same time.
    pub(super) spread: bool,
}

/// Stops and starts a session; a bounded number of devices connect at a time.
pub(super) async fn steer(
    session: Arc<dyn Session>,
    base: Base,
    myself: ActorRef<DeviceMsg>,
    steps: Steps,
) {
    if let Some(how) = steps.stop {
        session.stop(how).await;
    }
    let mut failed = false;
    if let Some(how) = steps.start {
        if steps.spread {
            tokio::time::sleep(SPREAD_MAX.mul_f64(rand::random())).await;
        }
        let _place = base.connects.acquire().await;
        if let Err(error) = session.start(how).await {
            tracing::warn!(%error, "session could not be started");
            failed = true;
        }
    }
    let _heard = report(&myself, DeviceMsg::Steered { failed });
}

/// Hands a batch to the network and has the steps stored. The batch is over when every step is durable, so that what is
/// under way is bounded.
pub(super) async fn hand_over(
    device: DeviceHandle,
    session: Arc<dyn Session>,
    myself: ActorRef<DeviceMsg>,
    batch: Vec<Arc<MessageBody>>,
) {
    let time_max = device
        .shared()
        .base()
        .connector(device.record().connector.kind())
        .map_or(AGAIN_MAX, |it| it.capabilities().command_time_max);
    let begun = Instant::now();
    let handed =
        match tokio::time::timeout(time_max, session.execute(Command::Send(batch.clone()))).await {
            Ok(Ok(handed)) => handed,
            Ok(Err(error)) => {
                let wait = match error {
                    ConnectorError::NotConnected => AGAIN_MAX,
                    ConnectorError::Unknown | ConnectorError::Failed { .. } => AGAIN_MAX / 2,
                };
                tracing::debug!(device = %device.id(), %error, "batch goes to the network again");
                vec![Handed::Later(wait); batch.len()]
            }
            // No answer means unknown: it goes again under the same names.
            Err(_late) => vec![Handed::Later(AGAIN_MAX); batch.len()],
        };
    metrics::histogram!("buho_handover_seconds").record(begun.elapsed());
    let mut outcome = HandedOver {
        settled: Vec::with_capacity(batch.len()),
        again: Vec::new(),
    };
    let mut steps = Vec::with_capacity(batch.len());
    let (mut taken, mut refused, mut later) = (0, 0, 0);
    let missing = std::iter::repeat(Handed::Later(AGAIN_MAX));
    for (body, handed) in batch.into_iter().zip(handed.into_iter().chain(missing)) {
        match handed {
            Handed::Taken { at } => {
                taken += 1;
                steps.push((body, Step::to(Status::Sent, at)));
            }
            Handed::Refused { code, detail } => {
                refused += 1;
                let now = device.shared().clock().now();
                steps.push((body, Step::failed(now, code, &detail)));
            }
            Handed::Later(wait) => {
                later += 1;
                outcome.again.push((body, wait.max(AGAIN_MIN)));
            }
        }
    }
    for (count, outcome) in [(taken, "taken"), (refused, "refused"), (later, "later")] {
        metrics::counter!("buho_deliveries_total", "outcome" => outcome).increment(count);
    }
    outcome
        .settled
        .extend(steps.iter().map(|(body, _)| body.id));
    store_steps(&device, steps).await;
    let _heard = report(&myself, DeviceMsg::HandedOver(outcome));
}

/// Has steps stored, however long it takes: what happened on the network must not be forgotten. Ends with the device.
async fn store_steps(device: &DeviceHandle, mut steps: Vec<(Arc<MessageBody>, Step)>) {
    let mut wait = AGAIN_MIN;
    loop {
        let mut answers = Vec::with_capacity(steps.len());
        for (body, step) in &steps {
            let of = StepOf::HandedOver(body.id);
            answers.push(
                device
                    .shared()
                    .chats()
                    .step(&device.home(), body.chat.clone(), of, step.clone())
                    .await,
            );
        }
        let answers = join_all(answers.into_iter().map(async |it| it?.await)).await;
        let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
        let mut failed = failed.into_iter();
        steps.retain(|_| failed.next().unwrap_or(false));
        if steps.is_empty() {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

/// Stores that scheduled messages have come up, and that others have expired.
pub(super) async fn tell_due(
    device: DeviceHandle,
    myself: ActorRef<DeviceMsg>,
    came_up: Vec<Arc<MessageBody>>,
    expired: Vec<Arc<MessageBody>>,
    now: Timestamp,
) {
    for body in came_up {
        let step = Step::to(Status::Queued, now);
        let told = device
            .shared()
            .chats()
            .step(
                &device.home(),
                body.chat.clone(),
                StepOf::Named(body.id),
                step,
            )
            .await;
        if let Ok(told) = told {
            // A message that is sent before this is stored needs it no more.
            drop(told.await);
        }
    }
    let ids: Vec<MessageId> = expired.iter().map(|it| it.id).collect();
    store_steps(
        &device,
        expired
            .into_iter()
            .map(|it| (it, Step::to(Status::Expired, now)))
            .collect(),
    )
    .await;
    let _heard = report(&myself, DeviceMsg::Ended(ids));
}

/// Reads a page of what waits in the store.
pub(super) async fn read_page(
    device: DeviceHandle,
    myself: ActorRef<DeviceMsg>,
    beyond: Option<(Jid, MessageId)>,
    max: usize,
) {
    let shared = device.shared();
    let page = shared
        .store()
        .outbox(shared.tenant(), shared.id(), beyond, max)
        .await;
    let page = page.map(|it| {
        it.into_iter()
            .map(|message| Arc::new(message.body))
            .collect()
    });
    if page.is_err() {
        tokio::time::sleep(AGAIN_MAX).await;
    }
    let _heard = report(&myself, DeviceMsg::PageRead(page));
}

/// Plays typing; after its span it is over.
pub(super) async fn play_typing(
    session: Arc<dyn Session>,
    chat: Jid,
    typing: Typing,
    span: Option<Duration>,
    reply: Reply<()>,
) {
    let told = session
        .execute(Command::Typing {
            chat: chat.clone(),
            typing,
        })
        .await;
    reply.send(
        told.map(drop)
            .map_err(|_| CommandError::StateConflict("the device is not connected")),
    );
    if let Some(span) = span {
        tokio::time::sleep(span).await;
        drop(
            session
                .execute(Command::Typing {
                    chat,
                    typing: Typing::Paused,
                })
                .await,
        );
    }
}

/// Ends what waits, then removes the device and has the network forget it.
pub(super) async fn remove(
    device: DeviceHandle,
    session: Arc<dyn Session>,
    connector: Option<Arc<dyn Connector>>,
    myself: ActorRef<DeviceMsg>,
    entry: EntryDraft,
    reply: Reply<()>,
) {
    let how = if device.record().linked {
        Stop::Logout
    } else {
        Stop::Disconnect
    };
    session.stop(how).await;
    let shared = device.shared();
    let (tenant, id) = (shared.tenant(), shared.id());
    shared.end_sends().await;
    // Behind everything else that is already on its way to the store.
    drop(commit(&**shared.store(), tenant, Vec::new(), Vec::new(), None).await);
    loop {
        match shared.store().outbox(tenant, id, None, REMOVE_PAGE).await {
            Ok(page) if page.is_empty() => break,
            Ok(page) => {
                let now = shared.clock().now();
                let end = |it: model::Message| {
                    (
                        Arc::new(it.body),
                        Step::failed(now, "device_deleted", "the device was deleted"),
                    )
                };
                store_steps(&device, page.into_iter().map(end).collect()).await;
            }
            Err(error) => {
                tracing::warn!(%error, "outbox of a removed device could not be read");
                break;
            }
        }
    }
    let mut wait = AGAIN_MIN;
    loop {
        let removed = commit(
            &**shared.store(),
            tenant,
            vec![Write::DeviceRemoved(id)],
            vec![entry.clone()],
            None,
        )
        .await;
        match removed {
            Ok(Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch) => break,
            // It has left its network: there is no way back, however long the store takes.
            Ok(Outcome::Failed(_)) | Err(_) => {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(AGAIN_MAX);
            }
        }
    }
    if let Some(connector) = connector {
        connector.forget(tenant, id).await;
    }
    reply.send(Ok(()));
    let _heard = report(&myself, DeviceMsg::Removed);
}
