use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;

use super::handle::Shared;
use super::message::{CreatedDevice, DeviceDraft, TenantChange, TenantMsg};
use crate::chat::to_json;
use crate::device::DeviceHandle;
use crate::door::{Reply, report};
use crate::log::LogHandle;
use crate::model::{DeviceId, EntryDraft, EventType, PhoneNumber, Removal, Tenant};
use crate::ports::{Answer, Claim, Outcome, Write, commit};
use crate::supervise::Verdict;
use crate::{CommandError, StartError};

pub(super) struct TenantActor;

/// Devices and their removals that are being made at the same time.
const TASKS_MAX: usize = 1_024;
/// How long the children have to end.
const DRAIN_MAX: Duration = Duration::from_secs(8);

pub(super) struct Working {
    shared: Arc<Shared>,
    myself: ActorRef<TenantMsg>,
    log: Option<ActorCell>,
    /// Numbers of devices that are being made.
    reserved: HashSet<PhoneNumber>,
    /// How many devices are being made.
    making: usize,
    tasks: JoinSet<()>,
}

impl Actor for TenantActor {
    type Msg = TenantMsg;
    type State = Working;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<TenantMsg>,
        shared: Arc<Shared>,
    ) -> Result<Working, ActorProcessingErr> {
        #[cfg(feature = "testing")]
        crate::testing::at_start("tenant", &shared.id());
        let mut tenant = Working {
            shared,
            myself,
            log: None,
            reserved: HashSet::new(),
            making: 0,
            tasks: JoinSet::new(),
        };
        tenant.start_log().await?;
        let records = tenant
            .shared
            .base()
            .store
            .devices(tenant.shared.id())
            .await?;
        let handles = records
            .into_iter()
            .map(|it| (it.id, DeviceHandle::new(Arc::clone(&tenant.shared), it)))
            .collect();
        *tenant.shared.devices.write() = handles;
        Ok(tenant)
    }

    async fn handle(
        &self,
        _myself: ActorRef<TenantMsg>,
        message: TenantMsg,
        tenant: &mut Working,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(feature = "testing")]
        crate::testing::at_message("tenant", &tenant.shared.id());
        while tenant.tasks.try_join_next().is_some() {}
        match message {
            TenantMsg::CreateDevice {
                draft,
                claim,
                reply,
            } => tenant.create_device(draft, claim, reply),
            TenantMsg::Created {
                device,
                number,
                answer,
                reply,
            } => {
                tenant.making = tenant.making.saturating_sub(1);
                if let Some(number) = number {
                    tenant.reserved.remove(&number);
                }
                if let Some(device) = device {
                    tenant
                        .shared
                        .devices
                        .write()
                        .insert(device.id(), device.clone());
                    tenant.start_devices(vec![device]);
                }
                reply.send(answer);
            }
            TenantMsg::RemoveDevice { device, reply } => tenant.remove_device(device, reply),
            TenantMsg::Gone(device) => {
                tenant.shared.devices.write().remove(&device);
                tenant.shared.cells.lock().retain(|_, it| *it != device);
            }
            TenantMsg::Change { change, reply } => tenant.change(change, reply),
            TenantMsg::StartDevices => {
                let devices = tenant.shared.devices.read().values().cloned().collect();
                tenant.start_devices(devices);
            }
            TenantMsg::Started { device, result } => tenant.started(device, result),
            TenantMsg::StartAgain(device) => {
                let device = tenant.shared.devices.read().get(&device).cloned();
                tenant.start_devices(device.into_iter().collect());
            }
            TenantMsg::StartLogAgain => {
                if let Err(error) = tenant.start_log().await {
                    tenant.log_failed(&error.source.to_string());
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<TenantMsg>,
        event: SupervisionEvent,
        tenant: &mut Working,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                tenant.child_failed(&cell, &error.to_string());
            }
            SupervisionEvent::ActorTerminated(cell, _, _) => {
                tenant.shared.cells.lock().remove(&cell.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<TenantMsg>,
        tenant: &mut Working,
    ) -> Result<(), ActorProcessingErr> {
        tenant.tasks.shutdown().await;
        myself
            .get_cell()
            .drain_children_and_wait(Some(DRAIN_MAX))
            .await;
        Ok(())
    }
}

impl Working {
    async fn start_log(&mut self) -> Result<(), StartError> {
        let base = self.shared.base();
        let missing = || StartError {
            actor: "log",
            source: "the tenant has no log".into(),
        };
        let log = base.store.log(self.shared.id()).ok_or_else(missing)?;
        let handle = LogHandle::start(
            log,
            Arc::clone(&base.store),
            Arc::clone(&base.clock),
            base.limits.log.clone(),
            self.myself.get_cell(),
        )
        .await?;
        self.log = Some(handle.cell());
        *self.shared.log.write() = Some(handle);
        Ok(())
    }

    fn create_device(
        &mut self,
        draft: DeviceDraft,
        claim: Option<Claim>,
        reply: Reply<CreatedDevice>,
    ) {
        if let Err(error) = self.room_for(&draft) {
            // A retry of a call that made the device is answered by the writer, not by the number that it took itself.
            let of_a_retry = claim.is_some()
                && matches!(
                    error,
                    CommandError::NumberTaken | CommandError::LimitReached(_)
                );
            if !of_a_retry {
                return reply.send(Err(error));
            }
            return self.replay_or(error, claim, reply);
        }
        let number = draft.number.clone();
        self.reserved.extend(number.clone());
        self.making += 1;
        let (shared, myself) = (Arc::clone(&self.shared), self.myself.clone());
        self.tasks.spawn(async move {
            let (device, answer) = make_device(&shared, draft, claim).await;
            let _heard = report(
                &myself,
                TenantMsg::Created {
                    device,
                    number,
                    answer,
                    reply,
                },
            );
        });
    }

    fn room_for(&self, draft: &DeviceDraft) -> Result<(), CommandError> {
        if TASKS_MAX <= self.tasks.len() {
            return Err(CommandError::Busy);
        }
        let devices = self.shared.devices.read();
        let defaults = self.shared.base().limits.tenant_defaults;
        let max = self.shared.record().limits.or(defaults).devices;
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        if 0 < max && max <= devices.len().saturating_add(self.making) {
            return Err(CommandError::LimitReached("devices"));
        }
        let Some(number) = &draft.number else {
            return Ok(());
        };
        let taken = self.reserved.contains(number)
            || devices
                .values()
                .any(|it| it.record().number.as_ref() == Some(number));
        if taken {
            Err(CommandError::NumberTaken)
        } else {
            Ok(())
        }
    }

    fn replay_or(
        &mut self,
        error: CommandError,
        claim: Option<Claim>,
        reply: Reply<CreatedDevice>,
    ) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let Some(claim) = claim else {
                return reply.send(Err(error));
            };
            let kept = shared
                .base()
                .store
                .kept_answer(shared.id(), claim.operation, &claim.key)
                .await;
            reply.send(match kept {
                Ok(Some(kept)) if kept.fingerprint == claim.fingerprint => {
                    Ok(CreatedDevice::Replayed(kept))
                }
                Ok(Some(_)) => Err(CommandError::IdempotencyMismatch),
                Ok(None) => Err(error),
                Err(read) => Err(read.into()),
            });
        });
    }

    fn remove_device(&mut self, device: DeviceId, reply: Reply<()>) {
        let Some(handle) = self.shared.devices.read().get(&device).cloned() else {
            return reply.send(Err(CommandError::NotFound));
        };
        if TASKS_MAX <= self.tasks.len() {
            return reply.send(Err(CommandError::Busy));
        }
        let (shared, myself) = (Arc::clone(&self.shared), self.myself.clone());
        self.tasks.spawn(async move {
            let removed = handle.remove().await;
            if removed.is_ok() {
                shared.devices.write().remove(&device);
                let _heard = report(&myself, TenantMsg::Gone(device));
            }
            reply.send(removed);
        });
    }

    fn change(&mut self, change: TenantChange, reply: Reply<Arc<Tenant>>) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let mut record = (*shared.record()).clone();
            match change {
                TenantChange::Limits(limits) => record.limits = limits,
                TenantChange::Removal(removal) => record.removal = removal,
            }
            if record.removal == Removal::Done {
                record.name.clear();
            }
            let stored = commit(
                &*shared.base().store,
                record.id,
                vec![Write::Tenant(Box::new(record.clone()))],
                Vec::new(),
                None,
            )
            .await;
            reply.send(match stored {
                Ok(Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch) => {
                    shared.set_record(Arc::new(record));
                    Ok(shared.record())
                }
                Ok(Outcome::Failed(error)) => Err(CommandError::of_commit(&error)),
                Err(refused) => Err(refused.into()),
            });
        });
    }

    fn start_devices(&mut self, devices: Vec<DeviceHandle>) {
        let myself = self.myself.clone();
        self.tasks.spawn(async move {
            for device in devices {
                let result = device.start(myself.get_cell()).await;
                let _heard = report(
                    &myself,
                    TenantMsg::Started {
                        device: device.id(),
                        result,
                    },
                );
            }
        });
    }

    fn started(&mut self, device: DeviceId, result: Result<ActorCell, StartError>) {
        if let Err(error) = result {
            tracing::error!(%device, error = %error.source, "device could not be started");
            self.device_failed(device, &error.source.to_string());
        }
    }

    fn child_failed(&mut self, cell: &ActorCell, reason: &str) {
        let device = self.shared.cells.lock().remove(&cell.get_id());
        if let Some(device) = device {
            tracing::error!(%device, reason, "device failed");
            return self.device_failed(device, reason);
        }
        if self
            .log
            .as_ref()
            .is_some_and(|it| it.get_id() == cell.get_id())
        {
            self.log_failed(reason);
        }
    }

    /// The log has crashed, or could not be started: its readers go on without it.
    fn log_failed(&mut self, reason: &str) {
        tracing::error!(tenant = %self.shared.id(), reason, "log failed");
        metrics::counter!("buho_actor_crashes_total", "actor" => "log").increment(1);
        let verdict = self
            .shared
            .log_vitals
            .failed(reason, self.shared.base().clock.now());
        self.after(verdict, TenantMsg::StartLogAgain);
    }

    fn device_failed(&mut self, device: DeviceId, reason: &str) {
        metrics::counter!("buho_actor_crashes_total", "actor" => "device").increment(1);
        let Some(handle) = self.shared.devices.read().get(&device).cloned() else {
            return;
        };
        let verdict = handle
            .vitals()
            .failed(reason, self.shared.base().clock.now());
        self.after(verdict, TenantMsg::StartAgain(device));
    }

    fn after(&mut self, verdict: Verdict, message: TenantMsg) {
        let wait = match verdict {
            Verdict::Restart => Duration::ZERO,
            Verdict::Rest { until } => until.since(self.shared.base().clock.now()),
        };
        let myself = self.myself.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            let _heard = report(&myself, message);
        });
    }
}

async fn make_device(
    shared: &Arc<Shared>,
    draft: DeviceDraft,
    claim: Option<Claim>,
) -> (Option<DeviceHandle>, Result<CreatedDevice, CommandError>) {
    let now = shared.base().clock.now();
    let record = draft.into_record(DeviceId::at(now), now);
    let device = record.to_device();
    let body = to_json(&device);
    let answer = Answer::Given {
        status: 201,
        location: Some(format!("/v1/devices/{}", device.id)),
        body: body.clone(),
    };
    let entry = EntryDraft {
        kind: EventType::DeviceCreated,
        time: now,
        device: Some(device.id),
        chat: None,
        direction: None,
        data: body,
    };
    let writes = vec![Write::Device(Box::new(record.clone()))];
    let stored = commit(
        &*shared.base().store,
        shared.id(),
        writes,
        vec![entry],
        claim.map(|it| (it, answer)),
    )
    .await;
    match stored {
        Ok(Outcome::Committed { .. }) => (
            Some(DeviceHandle::new(Arc::clone(shared), record)),
            Ok(CreatedDevice::Made(Box::new(device))),
        ),
        Ok(Outcome::Replayed(kept)) => (None, Ok(CreatedDevice::Replayed(kept))),
        Ok(Outcome::Mismatch) => (None, Err(CommandError::IdempotencyMismatch)),
        Ok(Outcome::Failed(error)) => (None, Err(CommandError::of_commit(&error))),
        Err(refused) => (None, Err(refused.into())),
    }
}
