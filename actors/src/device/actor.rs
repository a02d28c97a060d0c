mod saving;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde::Serialize;
use tokio::task::{AbortHandle, JoinSet};

use super::changes::Changes;
use super::handle::DeviceHandle;
use super::message::{DeviceMsg, DevicePatch, HandedOver};
use super::outbox::Outbox;
use super::shared::{DeviceShared, OutboxView};
use super::sink::DeviceSink;
use super::state::{BackOff, Effect, Input, apply};
use super::work;
use crate::CommandError;
use crate::chat::to_json;
use crate::door::{Reply, report};
use crate::model::{
    DeviceRecord, DeviceState, EntryDraft, EventType, Jid, Qr, Session as SessionView,
    SessionChange, Timestamp,
};
use crate::ports::StoreError;
use crate::ports::connector::{Deps, DeviceLink, Session, Start, Stop, Typing};

pub(super) struct DeviceActor;

/// Stops and starts that wait behind the one under way.
const STEPS_MAX: usize = 8;
const SAVE_AGAIN: Duration = Duration::from_millis(100);
/// Typing that somebody plays at the same time.
const TYPING_MAX: usize = 256;

pub(super) struct Working {
    shared: Arc<DeviceShared>,
    myself: ActorRef<DeviceMsg>,
    session: Arc<dyn Session>,
    /// What is believed; what is durable is shown in `shared`.
    record: DeviceRecord,
    changes: Changes,
    /// Answered when everything that is believed is durable.
    waiting: Vec<Reply<Arc<DeviceRecord>>>,
    outbox: Outbox,
    batch_max: usize,
    handing_over: bool,
    reading: bool,
    removing: bool,
    timer: Option<(Timestamp, AbortHandle)>,
    retry: Option<AbortHandle>,
    /// Stops and starts of the session, one after the other.
    steps: VecDeque<work::Steps>,
    steering: bool,
    tasks: JoinSet<()>,
    typing: JoinSet<()>,
}

/// `data` of `device.state`.
#[derive(Serialize)]
struct StateData {
    #[serde(flatten)]
    session: SessionView,
    previous: DeviceState,
}

impl Actor for DeviceActor {
    type Msg = DeviceMsg;
    type State = Box<Working>;
    type Arguments = Arc<DeviceShared>;

    async fn pre_start(
        &self,
        myself: ActorRef<DeviceMsg>,
        shared: Arc<DeviceShared>,
    ) -> Result<Box<Working>, ActorProcessingErr> {
        #[cfg(feature = "testing")]
        crate::testing::at_start("device", &shared.id());
        let record = (*shared.record()).clone();
        let connector = shared.base().connector(record.connector.kind())?;
        let batch_max = connector.capabilities().batch_max;
        let link = DeviceLink {
            tenant: shared.tenant(),
            device: record.id,
            number: record.number.clone(),
        };
        let deps = Deps {
            sink: Arc::new(DeviceSink(Arc::downgrade(&shared))),
        };
        let session = connector.open(link, deps).await?;
        shared.set_session(Some(Arc::clone(&session)));
        let outbox = Outbox::new(shared.base().limits.outbox_window);
        Ok(Box::new(Working {
            shared,
            myself,
            session,
            record,
            changes: Changes::default(),
            waiting: Vec::new(),
            outbox,
            batch_max,
            handing_over: false,
            reading: false,
            removing: false,
            timer: None,
            retry: None,
            steps: VecDeque::new(),
            steering: false,
            tasks: JoinSet::new(),
            typing: JoinSet::new(),
        }))
    }

    async fn handle(
        &self,
        _myself: ActorRef<DeviceMsg>,
        message: DeviceMsg,
        device: &mut Box<Working>,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(feature = "testing")]
        crate::testing::at_message("device", &device.shared.id());
        while device.tasks.try_join_next().is_some() {}
        match message {
            DeviceMsg::Command { input, reply } => device.command(input, reply),
            DeviceMsg::Patch { patch, reply } => device.patch(patch, reply),
            DeviceMsg::Remove { reply } => device.remove(reply),
            DeviceMsg::Type {
                chat,
                typing,
                span,
                reply,
            } => device.type_for(chat, typing, span, reply),
            DeviceMsg::Noted(input) => device.noted(input),
            DeviceMsg::QrShown(qr) => device.qr_shown(qr),
            DeviceMsg::Saved(outcome) => device.saved(outcome),
            DeviceMsg::SaveAgain => {
                device.changes.again();
                device.save();
            }
            DeviceMsg::Steered { failed } => {
                device.steering = false;
                if failed {
                    device.noted(Input::Dropped("start_failed"));
                }
                device.steer_on();
            }
            DeviceMsg::Offered(body) => {
                device.shared.offer_arrived();
                let now = device.now();
                device.outbox.offer(body, now);
            }
            DeviceMsg::Overlooked => {
                device.shared.overlooked_arrived();
                device.outbox.overlooked();
            }
            DeviceMsg::PageRead(page) => device.page_read(page),
            DeviceMsg::HandedOver(handed) => device.handed_over(handed),
            DeviceMsg::Ended(ids) => ids.into_iter().for_each(|id| device.outbox.settled(id)),
            DeviceMsg::Due => device.timer = None,
            DeviceMsg::Removed => {
                let shared = Arc::clone(&device.shared);
                shared.base().chats.forget(shared.id());
                device.myself.stop(Some("removed".to_owned()));
                return Ok(());
            }
        }
        device.go_on();
        device.shared.show_outbox(OutboxView {
            messages: device.outbox.len(),
            goes_on: device.outbox.is_behind(),
        });
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<DeviceMsg>,
        event: SupervisionEvent,
        device: &mut Box<Working>,
    ) -> Result<(), ActorProcessingErr> {
        // A chat that fails is started again by its next caller, under its own budget.
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tracing::error!(device = %device.shared.id(), %error, "chat failed");
            device.shared.vitals.child_failed(&error.to_string());
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<DeviceMsg>,
        device: &mut Box<Working>,
    ) -> Result<(), ActorProcessingErr> {
        device.tasks.shutdown().await;
        myself
            .get_cell()
            .drain_children_and_wait(Some(Duration::from_secs(5)))
            .await;
        device.save_times();
        device.shared.set_session(None);
        Ok(())
    }
}

impl Working {
    fn now(&self) -> Timestamp {
        self.shared.clock().now()
    }

    /// What the store would surely refuse is refused before anything has changed.
    fn command(&mut self, input: Input, reply: Reply<Arc<DeviceRecord>>) {
        match self.writable().and_then(|()| self.feed(input)) {
            Ok(()) => self.answer_when_saved(reply),
            Err(error) => reply.send(Err(error)),
        }
    }

    fn writable(&self) -> Result<(), CommandError> {
        self.shared.store().health().refusal().map_or(Ok(()), Err)
    }

    fn answer_when_saved(&mut self, reply: Reply<Arc<DeviceRecord>>) {
        if self.changes.is_durable() && *self.shared.record() == self.record {
            return reply.send(Ok(self.shared.record()));
        }
        self.waiting.push(reply);
        self.save();
    }

    fn noted(&mut self, input: Input) {
        if let Err(error) = self.feed(input) {
            tracing::debug!(device = %self.shared.id(), %error, "note changes nothing");
        }
        if self.record != *self.shared.record() {
            self.save();
        }
    }

    /// Applies what happened to the session, does what follows, and has it saved and told.
    fn feed(&mut self, input: Input) -> Result<(), CommandError> {
        let now = self.now();
        let limits = &self.shared.base().limits;
        let back_off = BackOff {
            min: limits.reconnect_min,
            max: limits.reconnect_max,
            jitter: rand::random(),
        };
        let previous = self.record.session.state;
        let booting = input == Input::Boot;
        let (change, effect) = apply(&mut self.record, input, now, back_off)?;
        if previous == DeviceState::Pairing && self.record.session.state != DeviceState::Pairing {
            self.shared.show_qr(None);
        }
        if let Some(change) = change {
            let data = StateData {
                session: self.view(),
                previous,
            };
            let entry = self.entry(EventType::DeviceState, now, to_json(&data));
            self.tell_later(Some(change), entry);
            self.save();
        }
        if let Some(effect) = effect {
            self.carry_out(effect, booting);
        }
        Ok(())
    }

    fn view(&self) -> SessionView {
        let shown = DeviceHandle::from(Arc::clone(&self.shared)).session();
        SessionView {
            session: self.record.session.clone(),
            ..shown
        }
    }

    fn entry(&self, kind: EventType, time: Timestamp, data: bytes::Bytes) -> EntryDraft {
        EntryDraft {
            kind,
            time,
            device: Some(self.record.id),
            chat: None,
            direction: None,
            data,
        }
    }

    fn tell_later(&mut self, change: Option<SessionChange>, entry: EntryDraft) {
        if self.changes.push(change, entry).is_some() {
            tracing::warn!(device = %self.shared.id(), "session changes faster than it can be saved");
        }
    }

    fn carry_out(&mut self, effect: Effect, booting: bool) {
        if let Some(retry) = self.retry.take() {
            retry.abort();
        }
        match effect {
            Effect::RetryAt(at) => {
                let (wait, myself) = (at.since(self.now()), self.myself.clone());
                self.retry = Some(self.tasks.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _heard = report(&myself, DeviceMsg::Noted(Input::RetryDue));
                }));
            }
            Effect::Start(how) => self.steer(work::Steps {
                stop: None,
                start: Some(how),
                spread: booting,
            }),
            Effect::Stop(how) => self.steer(work::Steps {
                stop: Some(how),
                start: None,
                spread: false,
            }),
            Effect::StopAndStart => {
                self.steer(work::Steps {
                    stop: Some(Stop::Disconnect),
                    start: Some(Start::Resume),
                    spread: false,
                });
            }
        }
    }

    /// Has the session stopped or started behind what is under way. Where many wait, the older ones are overtaken by
    /// the newer, which say what is wanted now.
    fn steer(&mut self, steps: work::Steps) {
        if STEPS_MAX <= self.steps.len() {
            self.steps.pop_front();
        }
        self.steps.push_back(steps);
        self.steer_on();
    }

    fn steer_on(&mut self) {
        if self.steering {
            return;
        }
        if let Some(steps) = self.steps.pop_front() {
            self.steering = true;
            self.tasks.spawn(work::steer(
                Arc::clone(&self.session),
                self.shared.base().clone(),
                self.myself.clone(),
                steps,
            ));
        }
    }

    fn qr_shown(&mut self, qr: Qr) {
        let now = self.now();
        self.noted(Input::QrShown);
        if self.record.session.state == DeviceState::Pairing {
            let entry = self.entry(EventType::DeviceQr, now, to_json(&qr));
            self.tell_later(None, entry);
            self.shared.show_qr(Some(qr));
            self.save();
        }
    }

    fn patch(&mut self, patch: DevicePatch, reply: Reply<Arc<DeviceRecord>>) {
        let patched = patch
            .over(&self.record.name, &self.record.metadata)
            .map_err(CommandError::Invalid);
        let (name, metadata) = match patched.and_then(|it| self.writable().map(|()| it)) {
            Ok(it) => it,
            Err(error) => return reply.send(Err(error)),
        };
        if name != self.record.name || metadata != self.record.metadata {
            (self.record.name, self.record.metadata) = (name, metadata);
            let entry = self.entry(
                EventType::DeviceUpdated,
                self.now(),
                to_json(&self.record.to_device()),
            );
            self.tell_later(None, entry);
        }
        self.answer_when_saved(reply);
    }

    /// One save at a time; what changes meanwhile goes with the next. A save that is refused is tried again until it
    /// is through: what happened stays true, and whoever waits for it longer than the door allows hears `OutcomeUnknown`.
    fn type_for(&mut self, chat: Jid, typing: Typing, span: Option<Duration>, reply: Reply<()>) {
        while self.typing.try_join_next().is_some() {}
        if self.record.session.state != DeviceState::Connected {
            return reply.send(Err(CommandError::StateConflict(
                "the device is not connected",
            )));
        }
        if TYPING_MAX <= self.typing.len() {
            return reply.send(Err(CommandError::Busy));
        }
        self.typing.spawn(work::play_typing(
            Arc::clone(&self.session),
            chat,
            typing,
            span,
            reply,
        ));
    }

    /// Whatever can be done now: hand over, read on, expire, wait for the next thing due.
    fn go_on(&mut self) {
        if self.removing {
            return;
        }
        let now = self.now();
        let came_up = self.outbox.release(now);
        let expired = self.outbox.expire(now);
        if !came_up.is_empty() || !expired.is_empty() {
            let device = DeviceHandle::from(Arc::clone(&self.shared));
            self.tasks.spawn(work::tell_due(
                device,
                self.myself.clone(),
                came_up,
                expired,
                now,
            ));
        }
        // Not while a page is read: it may hold what would be handed over meanwhile, and bring it a second time.
        let is_free = !self.handing_over && !self.reading;
        if self.record.session.state == DeviceState::Connected && is_free {
            let batch = self.outbox.take(self.batch_max);
            if !batch.is_empty() {
                self.handing_over = true;
                let device = DeviceHandle::from(Arc::clone(&self.shared));
                self.tasks.spawn(work::hand_over(
                    device,
                    Arc::clone(&self.session),
                    self.myself.clone(),
                    batch,
                ));
            }
        }
        if !self.handing_over
            && !self.reading
            && let Some(beyond) = self.outbox.wants_page()
        {
            self.reading = true;
            let max = self.shared.base().limits.outbox_window;
            self.tasks.spawn(work::read_page(
                DeviceHandle::from(Arc::clone(&self.shared)),
                self.myself.clone(),
                beyond,
                max,
            ));
        }
        self.arm(now);
    }

    fn arm(&mut self, now: Timestamp) {
        let due = self.outbox.next_due();
        if self.timer.as_ref().map(|(at, _)| *at) == due {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
        if let Some(at) = due {
            let (wait, myself) = (at.since(now), self.myself.clone());
            let timer = self.tasks.spawn(async move {
                tokio::time::sleep(wait).await;
                let _heard = report(&myself, DeviceMsg::Due);
            });
            self.timer = Some((at, timer));
        }
    }

    fn page_read(&mut self, page: Result<Vec<Arc<crate::model::MessageBody>>, StoreError>) {
        self.reading = false;
        match page {
            Ok(page) => {
                let now = self.now();
                self.outbox
                    .refill(page, self.shared.base().limits.outbox_window, now);
            }
            Err(error) => {
                // The next message or timer asks again.
                tracing::warn!(device = %self.shared.id(), %error, "outbox could not be read");
            }
        }
    }

    fn handed_over(&mut self, handed: HandedOver) {
        self.handing_over = false;
        for id in handed.settled {
            self.outbox.settled(id);
            self.shared.acknowledged();
        }
        if !handed.again.is_empty() {
            let now = self.now();
            self.outbox.put_back(handed.again, now);
        }
    }

    fn remove(&mut self, reply: Reply<()>) {
        if self.removing {
            return reply.send(Err(CommandError::NotFound));
        }
        // There is no way back once the device has left its network.
        if let Err(error) = self.writable() {
            return reply.send(Err(error));
        }
        self.removing = true;
        self.shared.set_removing();
        if let Some((_, timer)) = self.timer.take() {
            timer.abort();
        }
        let connector = self
            .shared
            .base()
            .connector(self.record.connector.kind())
            .ok();
        let device = DeviceHandle::from(Arc::clone(&self.shared));
        let entry = self.entry(
            EventType::DeviceDeleted,
            self.now(),
            to_json(&self.record.to_device()),
        );
        self.tasks.spawn(work::remove(
            device,
            Arc::clone(&self.session),
            connector,
            self.myself.clone(),
            entry,
            reply,
        ));
    }
}
