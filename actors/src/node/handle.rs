use std::fmt;
use std::sync::Arc;

use dashmap::DashMap;
use futures_util::stream::{self, StreamExt as _};
use ractor::Actor;
use tokio::sync::Semaphore;

use super::actor::NodeActor;
use super::message::NodeMsg;
use crate::chat::Chats;
use crate::device::DeviceHandle;
use crate::door::Door;
use crate::log::LogHandle;
use crate::model::{ConnectorKind, DeviceId, Removal, Tenant, TenantId, TenantLimits};
use crate::ports::connector::Connector;
use crate::ports::{Clock, Store};
use crate::supervise::Vitals;
use crate::tenant::TenantHandle;
use crate::{CommandError, Limits, StartError};

/// What every actor is built from.
#[derive(Clone)]
pub struct Base {
    /// Keeps everything.
    pub store: Arc<dyn Store>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The ways to the networks.
    pub connectors: Arc<[Arc<dyn Connector>]>,
    /// The chats that are in memory.
    pub chats: Arc<Chats>,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// A place for each device that connects.
    pub connects: Arc<Semaphore>,
}

impl Base {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        connectors: Vec<Arc<dyn Connector>>,
        limits: Limits,
    ) -> Self {
        let limits = Arc::new(limits);
        let chats = Chats::new(Arc::clone(&store), Arc::clone(&clock), Arc::clone(&limits));
        let connects = Arc::new(Semaphore::new(limits.connects_max.max(1)));
        Self {
            store,
            clock,
            connectors: connectors.into(),
            chats,
            limits,
            connects,
        }
    }

    pub(crate) fn connector(&self, kind: ConnectorKind) -> Result<Arc<dyn Connector>, StartError> {
        let found = self.connectors.iter().find(|it| it.kind() == kind).cloned();
        found.ok_or_else(|| StartError {
            actor: "device",
            source: format!("there is no connector {kind:?}").into(),
        })
    }
}

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").finish_non_exhaustive()
    }
}

pub(super) struct Shared {
    pub(super) base: Base,
    /// Every tenant there is, asleep or not.
    pub(super) records: DashMap<TenantId, Arc<Tenant>>,
    pub(super) running: DashMap<TenantId, TenantHandle>,
    pub(super) vitals: DashMap<TenantId, Arc<Vitals>>,
}

/// The node, as everybody else sees it. Cheap to clone.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
    door: Door<NodeMsg>,
}

/// Devices of one tenant that the operator is shown.
const DEVICES_SHOWN: usize = 100;
const NAME_CHARS_MAX: usize = 100;
/// Devices of a tenant that are removed at the same time.
const REMOVALS_MAX: usize = 16;

impl NodeHandle {
    /// Starts the node; its tenants follow while it already answers.
    ///
    /// # Errors
    ///
    /// Where the store can't be read.
    pub async fn start(base: Base) -> Result<Self, StartError> {
        let limits = base.limits.tenant;
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| StartError {
            actor: "node",
            source,
        };
        let tenants = base
            .store
            .tenants()
            .await
            .map_err(|error| failed(Box::new(error)))?;
        let records = tenants
            .into_iter()
            .filter(|it| it.removal != Removal::Done)
            .map(|it| (it.id, Arc::new(it)))
            .collect();
        let shared = Arc::new(Shared {
            base,
            records,
            running: DashMap::new(),
            vitals: DashMap::new(),
        });
        let (actor, _running) = Actor::spawn(None, NodeActor, Arc::clone(&shared))
            .await
            .map_err(|error| failed(Box::new(error)))?;
        let door = Door::new(actor, limits);
        drop(door.push(NodeMsg::StartAll));
        Ok(Self { shared, door })
    }

    /// A tenant that is awake.
    #[must_use]
    pub fn tenant(&self, id: TenantId) -> Option<TenantHandle> {
        self.shared.running.get(&id).map(|it| it.clone())
    }

    /// A tenant, woken where it sleeps.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is none, `Unavailable` while it rests after failures.
    pub async fn awake(&self, id: TenantId) -> Result<TenantHandle, CommandError> {
        match self.tenant(id) {
            Some(tenant) => Ok(tenant),
            None => {
                self.door
                    .ask(|reply| NodeMsg::Start { tenant: id, reply })
                    .await
            }
        }
    }

    /// The log of a tenant.
    ///
    /// # Errors
    ///
    /// As [`Self::awake`].
    pub async fn log_of(&self, id: TenantId) -> Result<LogHandle, CommandError> {
        self.awake(id).await?.log()
    }

    /// A device of a tenant.
    ///
    /// # Errors
    ///
    /// `NotFound` where the tenant has no such device.
    pub async fn device(
        &self,
        tenant: TenantId,
        device: DeviceId,
    ) -> Result<DeviceHandle, CommandError> {
        self.awake(tenant)
            .await?
            .device(device)
            .ok_or(CommandError::NotFound)
    }

    /// What is stored of a tenant that lives.
    #[must_use]
    pub fn record(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.known(id).filter(|it| it.removal.is_none())
    }

    fn known(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.tenant(id)
            .map(|it| it.record())
            .or_else(|| self.shared.records.get(&id).map(|it| Arc::clone(&it)))
    }

    /// All tenants that live, oldest first.
    #[must_use]
    pub fn tenants(&self) -> Vec<Tenant> {
        self.all(Tenant::is_alive)
    }

    /// The tenants whose removal was begun and is not through.
    #[must_use]
    pub fn leaving(&self) -> Vec<TenantId> {
        let leaving = self.all(|it| !it.is_alive());
        leaving.into_iter().map(|it| it.id).collect()
    }

    fn all(&self, fits: impl Fn(&Tenant) -> bool) -> Vec<Tenant> {
        let ids: Vec<TenantId> = self.shared.records.iter().map(|it| *it.key()).collect();
        let known = ids.into_iter().filter_map(|it| self.known(it));
        let mut tenants: Vec<Tenant> = known
            .filter(|it| fits(it))
            .map(|it| (*it).clone())
            .collect();
        tenants.sort_by_key(|it| it.id);
        tenants
    }

    /// Begins the removal of a tenant: from here on it is listed no more, also after a restart. Who came in before goes on
    /// until his credential ends.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what keeps it from being stored.
    pub async fn begin_removal(&self, id: TenantId) -> Result<(), CommandError> {
        let tenant = self.awake(id).await?;
        tenant.set_removal(Removal::Begun).await.map(drop)
    }

    /// Removes all that a tenant owns, and the tenant: its devices with their messages, its consumers, its log, and what
    /// its networks have kept. Kept answers to its calls go with their time. It may be repeated.
    ///
    /// # Errors
    ///
    /// What keeps it from being removed now.
    pub async fn finish_removal(&self, id: TenantId) -> Result<(), CommandError> {
        let tenant = self.awake(id).await?;
        loop {
            let devices = tenant.devices();
            if devices.is_empty() {
                break;
            }
            let remove = |it: &DeviceHandle| {
                let (tenant, device) = (tenant.clone(), it.id());
                async move { tenant.remove_device(device).await }
            };
            let removals: Vec<_> = devices.iter().map(remove).collect();
            let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_MAX);
            while let Some(removed) = removals.next().await {
                match removed {
                    Ok(()) | Err(CommandError::NotFound) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let log = tenant.log()?;
        for consumer in log.consumers().await? {
            log.delete(consumer.name).await?;
        }
        for connector in self.shared.base.connectors.iter() {
            if let Err(error) = connector.forget_tenant(id).await {
                tracing::warn!(tenant = %id, %error, "a network could not forget a tenant");
                return Err(CommandError::Unavailable);
            }
        }
        log.clear().await?;
        tenant.set_removal(Removal::Done).await?;
        log.log().close();
        drop(self.door.push(NodeMsg::Forget(id)));
        Ok(())
    }

    /// Makes a tenant.
    ///
    /// # Errors
    ///
    /// `Invalid` for its name, or what keeps it from being stored.
    pub async fn create_tenant(
        &self,
        name: String,
        limits: TenantLimits,
    ) -> Result<Tenant, CommandError> {
        let mut faults = crate::model::Faults::default();
        let fits = !name.trim().is_empty() && name.chars().count() <= NAME_CHARS_MAX;
        faults.check(fits, "/name", "must have 1 to 100 characters");
        faults.into_result().map_err(CommandError::Invalid)?;
        self.door
            .ask(|reply| NodeMsg::CreateTenant {
                name,
                limits,
                reply,
            })
            .await
    }

    /// Changes what a tenant may use.
    ///
    /// # Errors
    ///
    /// `NotFound`, or what keeps it from being stored.
    pub async fn set_limits(
        &self,
        id: TenantId,
        limits: TenantLimits,
    ) -> Result<Tenant, CommandError> {
        self.awake(id)
            .await?
            .set_limits(limits)
            .await
            .map(|it| (*it).clone())
    }

    /// The supervision tree, for the operator.
    #[must_use]
    pub fn supervision(&self) -> serde_json::Value {
        let now = self.shared.base.clock.now();
        let asleep = |id: TenantId| {
            let vitals = self.shared.vitals.get(&id).map(|it| it.to_json(now));
            serde_json::json!({"actor": "tenant", "name": id, "status": "asleep", "vitals": vitals})
        };
        let tenants: Vec<_> = self
            .tenants()
            .iter()
            .map(|it| {
                self.tenant(it.id)
                    .map_or_else(|| asleep(it.id), |it| it.supervision(DEVICES_SHOWN))
            })
            .collect();
        serde_json::json!({
            "actor": "node",
            "status": format!("{:?}", self.door.actor().get_status()),
            "queue": self.door.depth(),
            "chats_resident": self.shared.base.chats.resident(),
            "children": tenants,
        })
    }

    pub(super) const fn door(&self) -> &Door<NodeMsg> {
        &self.door
    }

    pub(super) fn chats(&self) -> &Chats {
        &self.shared.base.chats
    }

    /// The tenants that are awake.
    pub(super) fn running(&self) -> Vec<TenantHandle> {
        self.shared.running.iter().map(|it| it.clone()).collect()
    }

    /// Ends all readers of all logs; what is durable stays readable.
    pub fn close_logs(&self) {
        for tenant in &self.shared.running {
            if let Ok(log) = tenant.log() {
                log.log().close();
            }
        }
    }

    /// Stops everything below, then the node.
    pub async fn stop(&self) {
        if let Err(error) = self
            .door
            .actor()
            .stop_and_wait(
                Some("stop".to_owned()),
                Some(std::time::Duration::from_secs(10)),
            )
            .await
        {
            tracing::warn!(%error, "node did not stop in time");
        }
    }
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle")
            .field("running", &self.shared.running.len())
            .finish_non_exhaustive()
    }
}
