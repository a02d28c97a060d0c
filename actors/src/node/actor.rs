use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::task::JoinSet;

use super::handle::Shared;
use super::message::NodeMsg;
use crate::door::{Reply, report};
use crate::model::{Removal, Tenant, TenantId, TenantLimits};
use crate::ports::{Outcome, Write, commit};
use crate::supervise::Verdict;
use crate::tenant::TenantHandle;
use crate::{CommandError, StartError};

pub(super) struct NodeActor;

/// Tenants that start at the same time.
const STARTS_MAX: usize = 16;
/// Callers that wait for one tenant's start.
const WAITERS_MAX: usize = 10_000;
/// How long the tenants have to end.
const DRAIN_MAX: Duration = Duration::from_secs(9);

pub(super) struct Working {
    shared: Arc<Shared>,
    myself: ActorRef<NodeMsg>,
    /// Tenants that are being started, or wait for it, and who asks for them.
    starting: HashMap<TenantId, Vec<Reply<TenantHandle>>>,
    queue: VecDeque<TenantId>,
    under_way: usize,
    cells: HashMap<ActorId, TenantId>,
    /// Tenants that rest after failures.
    resting: HashMap<TenantId, crate::model::Timestamp>,
    tasks: JoinSet<()>,
}

impl Actor for NodeActor {
    type Msg = NodeMsg;
    type State = Working;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMsg>,
        shared: Arc<Shared>,
    ) -> Result<Working, ActorProcessingErr> {
        let mut tasks = JoinSet::new();
        let pause = (shared.base.limits.chat_idle / 4)
            .clamp(Duration::from_millis(50), Duration::from_secs(5));
        let sweeper = myself.clone();
        tasks.spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                if !report(&sweeper, NodeMsg::Sweep) {
                    return;
                }
            }
        });
        Ok(Working {
            shared,
            myself,
            starting: HashMap::new(),
            queue: VecDeque::new(),
            under_way: 0,
            cells: HashMap::new(),
            resting: HashMap::new(),
            tasks,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<NodeMsg>,
        message: NodeMsg,
        node: &mut Working,
    ) -> Result<(), ActorProcessingErr> {
        while node.tasks.try_join_next().is_some() {}
        match message {
            NodeMsg::Start { tenant, reply } => node.start(tenant, reply),
            NodeMsg::StartAll => {
                let tenants: Vec<TenantId> =
                    node.shared.records.iter().map(|it| *it.key()).collect();
                tenants.into_iter().for_each(|it| node.enqueue(it));
            }
            NodeMsg::Started { tenant, result } => node.started(tenant, result),
            NodeMsg::StartAgain(tenant) => {
                node.resting.remove(&tenant);
                node.enqueue(tenant);
            }
            NodeMsg::CreateTenant {
                name,
                limits,
                reply,
            } => node.create_tenant(name, limits, reply),
            NodeMsg::Created { answer, reply } => {
                if let Ok(tenant) = &answer {
                    node.shared
                        .records
                        .insert(tenant.id, Arc::new(tenant.clone()));
                    node.enqueue(tenant.id);
                }
                reply.send(answer);
            }
            NodeMsg::Forget(tenant) => {
                node.shared.records.remove(&tenant);
                node.shared.vitals.remove(&tenant);
                if let Some((_, handle)) = node.shared.running.remove(&tenant) {
                    handle.cell().stop(Some("removed".to_owned()));
                }
            }
            NodeMsg::Sweep => node.shared.base.chats.sweep(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<NodeMsg>,
        event: SupervisionEvent,
        node: &mut Working,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                node.tenant_failed(&cell, &error.to_string());
            }
            SupervisionEvent::ActorTerminated(cell, _, _) => {
                if let Some(tenant) = node.cells.remove(&cell.get_id()) {
                    node.shared.running.remove(&tenant);
                }
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        myself: ActorRef<NodeMsg>,
        node: &mut Working,
    ) -> Result<(), ActorProcessingErr> {
        node.tasks.shutdown().await;
        myself
            .get_cell()
            .drain_children_and_wait(Some(DRAIN_MAX))
            .await;
        Ok(())
    }
}

impl Working {
    fn start(&mut self, tenant: TenantId, reply: Reply<TenantHandle>) {
        if let Some(running) = self.shared.running.get(&tenant) {
            return reply.send(Ok(running.clone()));
        }
        if !self.shared.records.contains_key(&tenant) {
            return reply.send(Err(CommandError::NotFound));
        }
        if self.resting.contains_key(&tenant) {
            return reply.send(Err(CommandError::Unavailable));
        }
        self.enqueue(tenant);
        if let Some(waiters) = self.starting.get_mut(&tenant) {
            if WAITERS_MAX <= waiters.len() {
                return reply.send(Err(CommandError::Busy));
            }
            waiters.push(reply);
        }
    }

    fn enqueue(&mut self, tenant: TenantId) {
        if self.starting.contains_key(&tenant) || self.shared.running.contains_key(&tenant) {
            return;
        }
        self.starting.insert(tenant, Vec::new());
        self.queue.push_back(tenant);
        self.start_next();
    }

    fn start_next(&mut self) {
        while self.under_way < STARTS_MAX {
            let Some(tenant) = self.queue.pop_front() else {
                return;
            };
            let Some(record) = self.shared.records.get(&tenant).map(|it| (**it).clone()) else {
                // It was removed while it waited.
                for waiter in self.starting.remove(&tenant).unwrap_or_default() {
                    waiter.send(Err(CommandError::NotFound));
                }
                continue;
            };
            self.under_way += 1;
            let (base, myself) = (self.shared.base.clone(), self.myself.clone());
            let vitals = Arc::clone(&self.shared.vitals.entry(tenant).or_default());
            self.tasks.spawn(async move {
                let result = TenantHandle::start(base, record, vitals, myself.get_cell()).await;
                let _heard = report(&myself, NodeMsg::Started { tenant, result });
            });
        }
    }

    fn started(&mut self, tenant: TenantId, result: Result<TenantHandle, StartError>) {
        self.under_way = self.under_way.saturating_sub(1);
        let waiters = self.starting.remove(&tenant).unwrap_or_default();
        match result {
            Ok(handle) => {
                self.cells.insert(handle.cell().get_id(), tenant);
                self.shared.running.insert(tenant, handle.clone());
                handle.begin();
                waiters
                    .into_iter()
                    .for_each(|it| it.send(Ok(handle.clone())));
            }
            Err(error) => {
                tracing::error!(%tenant, error = %error.source, "tenant could not be started");
                waiters
                    .into_iter()
                    .for_each(|it| it.send(Err(CommandError::Unavailable)));
                self.again(tenant, &error.source.to_string());
            }
        }
        self.start_next();
    }

    fn tenant_failed(&mut self, cell: &ActorCell, reason: &str) {
        let Some(tenant) = self.cells.remove(&cell.get_id()) else {
            return;
        };
        tracing::error!(%tenant, reason, "tenant failed");
        metrics::counter!("buho_actor_crashes_total", "actor" => "tenant").increment(1);
        self.shared.running.remove(&tenant);
        self.again(tenant, reason);
    }

    fn again(&mut self, tenant: TenantId, reason: &str) {
        let now = self.shared.base.clock.now();
        let vitals = Arc::clone(&self.shared.vitals.entry(tenant).or_default());
        match vitals.failed(reason, now) {
            Verdict::Restart => self.enqueue(tenant),
            Verdict::Rest { until } => {
                self.resting.insert(tenant, until);
                let (wait, myself) = (until.since(now), self.myself.clone());
                self.tasks.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _heard = report(&myself, NodeMsg::StartAgain(tenant));
                });
            }
        }
    }

    fn create_tenant(&mut self, name: String, limits: TenantLimits, reply: Reply<Tenant>) {
        let (base, myself) = (self.shared.base.clone(), self.myself.clone());
        self.tasks.spawn(async move {
            let now = base.clock.now();
            let tenant = Tenant {
                id: TenantId::at(now),
                name,
                limits,
                created_at: now,
                removal: Removal::None,
            };
            let stored = commit(
                &*base.store,
                tenant.id,
                vec![Write::Tenant(Box::new(tenant.clone()))],
                Vec::new(),
                None,
            )
            .await;
            let answer = match stored {
                Ok(Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch) => {
                    Ok(tenant)
                }
                Ok(Outcome::Failed(error)) => Err(CommandError::of_commit(&error)),
                Err(refused) => Err(refused.into()),
            };
            let _heard = report(&myself, NodeMsg::Created { answer, reply });
        });
    }
}
