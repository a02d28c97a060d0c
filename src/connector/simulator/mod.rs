//! The built-in simulated network: one a tenant, deterministic, and as durable as the gateway itself.
//!
//! Simulated devices of a tenant reach each other; every other number is a virtual phone. What must survive a restart
//! (links, phones' settings, mail for accounts that are away, marks) lies in the connector's values of the store.
//!
//! - `network` a tenant's lines, numbers and phones · `line` one device: account, session, lane
//! - `session`, `pairing`, `play` what the gateway asks · `handover` where a message goes
//! - `mail` what is kept for who is away · `dues`, `marks` which receipts are owed, over restarts
//! - `timers`, `dispatch`, `chores` two tasks a node: what comes later, and slow work for single lines

mod chance;
mod chores;
mod digits;
mod dispatch;
mod dues;
mod handover;
mod line;
mod mail;
mod marks;
mod network;
mod options;
mod pairing;
mod phones;
mod play;
mod record;
mod session;
#[cfg(test)]
mod tests;
mod timers;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actors::model::{ConnectorKind, ContentKind, DeviceId, TenantId};
use actors::ports::connector::{
    Capabilities, Connector, ConnectorBase, ConnectorError, Deps, DeviceLink, Session,
};
use actors::ports::{Clock, Store, Write};
use async_trait::async_trait;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};
use tokio::task::JoinSet;

use self::chores::Chores;
use self::digits::Digits;
use self::line::{Line, back_off};
use self::network::{Network, Trouble};
pub(crate) use self::options::SimulatorOptions;
use self::record::SPACE;
use self::session::SimulatedSession;
use self::timers::Timers;

/// How many values of a deleted device are erased at once.
const ERASED_AT_ONCE: usize = 512;
/// How often the erasure of a deleted device is tried.
const ERASURES_MAX: u32 = 6;

static CAPABILITIES: Capabilities = Capabilities {
    contents: &[
        ContentKind::Text,
        ContentKind::Location,
        ContentKind::Contacts,
    ],
    batch_max: handover::BATCH_MAX,
    command_time_max: Duration::from_secs(30),
};

/// What sessions, tasks and levers share.
struct Node {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    options: SimulatorOptions,
    networks: DashMap<TenantId, Arc<OnceCell<Arc<Network>>>>,
    sessions: AtomicU64,
    timers: Timers,
    chores: Chores,
    /// Lines whose mark may have moved; each is in it at most once.
    moved_marks: Mutex<Vec<Arc<Line>>>,
}

/// The simulated network of a node: a connector, and the levers that play what a network does.
pub(crate) struct Simulator {
    node: Arc<Node>,
    closing: watch::Sender<bool>,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Simulator {
    /// Starts the network and its two tasks; must be called within a tokio runtime. End it with [`Self::close`].
    #[must_use]
    pub(crate) fn new(base: ConnectorBase, options: SimulatorOptions) -> Arc<Self> {
        let node = Arc::new(Node {
            store: base.store,
            clock: base.clock,
            timers: Timers::new(options.timers_max),
            options,
            networks: DashMap::new(),
            sessions: AtomicU64::new(0),
            chores: Chores::default(),
            moved_marks: Mutex::default(),
        });
        let (closing, heard) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(dispatch::run(Arc::clone(&node), heard.clone()));
        tasks.spawn(chores::run(Arc::clone(&node), heard));
        Arc::new(Self {
            node,
            closing,
            tasks: tokio::sync::Mutex::new(tasks),
        })
    }

    /// Ends the tasks and writes the marks down. What was on its way is found again after the next start. To be
    /// called after the sessions have stopped and before the store closes.
    pub(crate) async fn close(&self) {
        self.closing.send_replace(true);
        self.node.timers.close();
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
        self.node.write_marks();
    }
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("networks", &self.node.networks.len())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Connector for Simulator {
    fn kind(&self) -> ConnectorKind {
        ConnectorKind::Simulator
    }

    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn open(&self, link: DeviceLink, deps: Deps) -> Result<Arc<dyn Session>, ConnectorError> {
        let network =
            self.node
                .network(link.tenant)
                .await
                .map_err(|error| ConnectorError::Failed {
                    reason: error.to_string(),
                })?;
        let line = network.line(link.device);
        line.set_own_number(link.number);
        let id = self.node.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Arc::new(SimulatedSession::new(
            Arc::clone(&self.node),
            network,
            line,
            deps.sink,
            id,
        )))
    }

    async fn forget(&self, tenant: TenantId, device: DeviceId) {
        let mut tries = 0;
        while self.node.forget(tenant, device).await.is_err() {
            if ERASURES_MAX <= tries {
                tracing::warn!(%tenant, %device, "a deleted simulated device could not be erased");
                return;
            }
            tokio::time::sleep(back_off(tries)).await;
            tries += 1;
        }
    }

    async fn forget_tenant(&self, tenant: TenantId) -> Result<(), ConnectorError> {
        self.node.networks.remove(&tenant);
        let erased = self.node.erase_all(tenant, &[]).await;
        erased.map_err(|trouble| ConnectorError::Failed {
            reason: trouble.to_string(),
        })
    }
}

impl Node {
    async fn forget(&self, tenant: TenantId, device: DeviceId) -> Result<(), Trouble> {
        let network = self.network(tenant).await?;
        let line = network.line(device);
        let _lane = line.lane.lock().await;
        // The mail of an account that has passed to another device is that device's.
        if let Some(number) = line.number().filter(|it| {
            network
                .line_of(*it)
                .is_none_or(|other| other.device == device)
        }) {
            self.erase_mail(&network, number).await?;
        }
        let erase = |key| Write::Value {
            space: SPACE,
            key,
            value: None,
        };
        self.write(
            tenant,
            vec![
                erase(record::link_key(device)),
                erase(record::mark_key(device)),
            ],
        )
        .await?;
        if let Some(account) = line.unlink(None) {
            network.release(&line, account.digits);
        }
        drop(network.held.lock().forget(device));
        network.remove(device);
        Ok(())
    }

    async fn erase_mail(&self, network: &Network, number: Digits) -> Result<(), Trouble> {
        let prefix = record::mail_prefix(number);
        self.erase_all(network.tenant, &prefix).await?;
        network.mail.emptied(number);
        Ok(())
    }

    /// Erases all values with this prefix.
    async fn erase_all(&self, tenant: TenantId, prefix: &[u8]) -> Result<(), Trouble> {
        let mut beyond: Option<Vec<u8>> = None;
        loop {
            let from = beyond.as_deref();
            let values = self
                .store
                .values(tenant, SPACE, prefix, from, ERASED_AT_ONCE);
            let page = values.await?;
            if page.is_empty() {
                // What came meanwhile may lie before what went: there is a last look.
                match beyond.take() {
                    Some(_) => continue,
                    None => return Ok(()),
                }
            }
            beyond = page.last().map(|(key, _value)| key.clone());
            let erase = |(key, _value)| Write::Value {
                space: SPACE,
                key,
                value: None,
            };
            self.write(tenant, page.into_iter().map(erase).collect())
                .await?;
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}
