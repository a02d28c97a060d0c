//! The store in tables of ScyllaDB or Apache Cassandra; `schema.cql` holds them.
//!
//! One gateway owns a cluster (`lease`). Whoever submits a job encodes its rows (`job`) and puts it into its tenant's
//! queue (`queue`). A tenant's jobs are committed in groups, one group at a time, those of other tenants beside it
//! (`writer`, `commit`): answers that are kept are looked up, entries get their places (`plan`), all of it goes into
//! the tenant's journal with one write (`journal`), then into its rows, which lie in many partitions, and then it is
//! shown and told. Why a journal: a CQL server writes one partition at once or not at all, and no more than that.
//!
//! Every change names its whole row and carries a timestamp of its own (`change`), so that it may be written again: after
//! a timeout, and after a crash, when the next start brings what the journal holds into its rows (`load`). So an
//! acknowledged job is in a quorum twice over, and a job is never half there. A write that timed out may have happened;
//! it is tried until it is through, and the tenant waits, since its order may have no hole.
//!
//! Reads go past the writer (`history`, `log`, `directory`); each looks into one partition at a time (`look`). Rows of a
//! job are in their tables a moment before its entries are shown; a read that may have found such rows waits for that.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors::log::{Log, RingBudget};
use actors::model::{DeviceId, EntryDraft, TenantId, Timestamp};
use actors::ports::{
    Answer, Claim, Clock, Done, Job, Outcome, StoreError, StoreHealth, SubmitError, Ticket, Write,
};
use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use parking_lot::Mutex;
use scylla::client::session::Session;
use scylla::cluster::metadata::Strategy;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::commit::Shared;
use self::database::{Database, Link};
use self::flights::Flights;
use self::job::Encoded;
use self::lease::Lease;
use self::queue::Queue;
use self::schema::Schema;
use self::tenants::{Slot, Tenants};
use crate::config::{self, Cql};
use crate::store::transfer::Archive;

mod archive;
mod change;
mod commit;
mod connect;
mod database;
mod directory;
mod erasure;
mod flights;
mod history;
mod job;
mod journal;
mod lease;
mod load;
mod log;
mod look;
mod measures;
mod plan;
mod queue;
pub(super) mod schema;
mod tenants;
mod walk;
mod writer;

#[cfg(feature = "testing")]
pub(crate) mod tests;

use schema::{SchemaError, SchemaFound};

/// Removed devices that wait to be erased; what is beyond it is erased after the next start.
const ERASURES_MAX: usize = 1_024;
/// How much longer an entry stays in its table than the log is kept.
const ENTRY_SLACK: Duration = Duration::from_secs(24 * 3_600);
/// Copies with which a quorum outlives the loss of one.
const SAFE_COPIES: usize = 3;
/// How long a close waits, beyond what a commit may take, for commits that the servers do not confirm; and how long it
/// spares the next start writing them again.
const CLOSE_SLACK: Duration = Duration::from_secs(2);
/// Marks that are written at the same time when the store is closed.
const MARKS_MAX: usize = 32;

/// How a store is opened.
#[derive(Clone, Debug)]
pub(crate) struct CqlOptions {
    /// The servers, and where in them.
    pub(crate) cql: Cql,
    /// How long the log is kept.
    pub(crate) retention: Duration,
    /// Bytes that the live ends of all logs may take.
    pub(crate) ring_bytes_max: usize,
    /// Jobs that may wait, of one tenant.
    pub(crate) queue_entries_max: usize,
    /// Bytes that may wait, of one tenant; one larger job always passes.
    pub(crate) queue_bytes_max: usize,
}

impl CqlOptions {
    /// The usual ones.
    pub(crate) fn new(cql: Cql) -> Self {
        Self {
            cql,
            retention: Duration::from_secs(7 * 24 * 3_600),
            ring_bytes_max: 256 << 20,
            queue_entries_max: 4_096,
            queue_bytes_max: 4 << 20,
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No server answers, or none lets us in.
    #[error("no CQL server at {points} lets the gateway in: start it, or correct [cql]")]
    Unreachable {
        /// Where was asked.
        points: String,
        /// What the driver says.
        #[source]
        source: Box<scylla::errors::NewSessionError>,
    },
    /// A file of the configuration can't be used.
    #[error("the file {} of [cql] can't be used", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tables are not there, and can't be.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Another gateway has the cluster.
    #[error(
        "the cluster {cluster} is in use: stop the gateway that has it, or choose another name with cql.cluster"
    )]
    InUse {
        /// Which.
        cluster: String,
    },
    /// The lease can't be read or written.
    #[error("the cluster {cluster} can't be taken")]
    Lease {
        /// Which.
        cluster: String,
        /// What the driver says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The servers do not take a statement.
    #[error("the database refuses a statement")]
    Statements(#[source] Box<scylla::errors::PrepareError>),
    /// A copy into it has not come to its end.
    #[error(
        "the cluster {cluster} is not whole: a copy into it was interrupted. Run `buho store copy` again"
    )]
    Unfinished {
        /// Which.
        cluster: String,
    },
    /// What is there can't be read.
    #[error("what is stored can't be read")]
    Load(#[source] StoreError),
}

/// A store in the tables of a CQL server.
pub(crate) struct CqlStore {
    shared: Arc<Shared>,
    flights: Flights,
    closed: AtomicBool,
    running: Mutex<Option<Running>>,
}

/// The tasks of an open store; they end with it.
struct Running {
    writer: JoinSet<()>,
    beside: JoinSet<()>,
}

impl CqlStore {
    /// Opens the store of a cluster, or makes it.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; each says what to do.
    pub(crate) async fn open(
        options: CqlOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let store = Box::pin(Self::open_unfinished(options, clock)).await?;
        let note = Archive::note(&*store).await.map_err(OpenError::Load)?;
        if note.is_some() {
            let cluster = store.cluster().to_owned();
            Box::pin(actors::ports::Writer::close(&*store)).await;
            return Err(OpenError::Unfinished { cluster });
        }
        Ok(store)
    }

    /// Opens the store of a cluster although a copy into it may be under way.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; each says what to do.
    pub(super) async fn open_unfinished(
        options: CqlOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let CqlOptions {
            cql,
            retention,
            ring_bytes_max,
            queue_entries_max,
            queue_bytes_max,
        } = options;
        let session = Box::pin(connect::connect(&cql)).await?;
        if Box::pin(Schema::new(&session, &cql).apply()).await? == SchemaFound::Absent {
            tracing::info!(keyspace = cql.keyspace, "the schema was applied");
        }
        warn_of_loss(&session, &cql).await;
        let link = Box::pin(Link::prepare(session, &cql)).await?;
        let lease = Box::pin(Lease::take(&link.session, &cql)).await?;
        let db = Database::new(link, &cql);
        let (erasures, to_erase) = mpsc::channel(ERASURES_MAX);
        let shared = Arc::new(Shared {
            db,
            lease,
            queue: Queue::new(queue_entries_max, queue_bytes_max),
            tenants: Tenants::new(&cql.cluster),
            budget: Arc::new(RingBudget::new(ring_bytes_max)),
            clock,
            commit_time_max: cql.commit_time_max(),
            cluster: cql.cluster,
            keyspace: cql.keyspace,
            entry_ttl: retention + ENTRY_SLACK,
            erasures,
        });
        let (mut writer, mut beside) = (JoinSet::new(), JoinSet::new());
        beside.spawn(keep_lease(Arc::clone(&shared)));
        beside.spawn(keep_linked(Arc::clone(&shared)));
        let left = match Box::pin(load::load(&shared)).await {
            Ok(left) => left,
            Err(error) => {
                beside.shutdown().await;
                // Whoever tries again need not wait for its end.
                let session = &shared.db.link().session;
                Box::pin(shared.lease.release(session)).await;
                return Err(OpenError::Load(error));
            }
        };
        for erasure in left {
            if shared.erasures.try_send(erasure).is_err() {
                tracing::info!("rows of a removed device are erased after the next start");
            }
        }
        beside.spawn(erasure::serve(Arc::clone(&shared), to_erase));
        writer.spawn(writer::serve(Arc::clone(&shared)));
        Ok(Arc::new(Self {
            shared,
            flights: Flights::default(),
            closed: AtomicBool::new(false),
            running: Mutex::new(Some(Running { writer, beside })),
        }))
    }

    /// Takes a job; `done` is taken with it.
    fn take(
        &self,
        tenant: TenantId,
        writes: Vec<Write>,
        entries: Vec<EntryDraft>,
        claim: Option<(Claim, Answer)>,
        is_baseless: Option<&AtomicBool>,
        done: &mut Option<Done>,
    ) -> Result<Ticket, SubmitError> {
        let slot = match self.existing(tenant) {
            Some(slot) => slot,
            None if Encoded::makes_tenant(&writes) => self.shared.tenants.slot_or_new(tenant),
            None => {
                tracing::error!(%tenant, "a job for a tenant that does not exist was refused");
                return Err(SubmitError::Closing);
            }
        };
        self.shared.queue.check(tenant)?;
        if self.shared.db.presence.is_away() {
            return Err(SubmitError::Away);
        }
        let encoded = Encoded::of(&self.shared.cluster, &slot, writes, entries, claim);
        let encoded = encoded.map_err(|error| {
            tracing::error!(%error, "a row could not be encoded");
            SubmitError::Failed
        })?;
        let ticket = self.shared.queue.push(slot, encoded, is_baseless, done)?;
        self.shared.db.measures.queued();
        Ok(ticket)
    }

    /// Waits until another gateway has the cluster: then this one may neither write nor be believed.
    pub(crate) async fn overtaken(&self) {
        self.shared.lease.lost().await;
    }

    fn db(&self) -> Result<&Database, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Away);
        }
        Ok(&self.shared.db)
    }

    fn cluster(&self) -> &str {
        &self.shared.cluster
    }

    fn now(&self) -> Timestamp {
        self.shared.now()
    }

    fn existing(&self, tenant: TenantId) -> Option<Arc<Slot>> {
        self.shared.tenants.existing(tenant)
    }

    /// The tenant of a device that exists.
    fn owner(&self, tenant: TenantId, device: DeviceId) -> Option<Arc<Slot>> {
        self.existing(tenant).filter(|it| it.has(device))
    }

    fn logged(&self, tenant: TenantId) -> Option<(Arc<Slot>, Arc<Log>)> {
        let slot = self.existing(tenant)?;
        let log = Arc::clone(slot.log()?);
        Some((slot, log))
    }
}

async fn keep_lease(shared: Arc<Shared>) {
    let lease::Lost = Box::pin(shared.lease.keep(&shared.db)).await;
    tracing::error!("another gateway has taken the cluster: the store takes no more writes");
    shared.queue.stop(SubmitError::Failed);
}

async fn keep_linked(shared: Arc<Shared>) {
    Box::pin(shared.db.keep_linked()).await;
}

/// Says where an acknowledged write could be lost.
async fn warn_of_loss(session: &Session, cql: &Cql) {
    let state = session.get_cluster_state();
    let copies = match state.get_keyspace(&cql.keyspace).map(|it| &it.strategy) {
        Some(Strategy::SimpleStrategy { replication_factor }) => *replication_factor,
        Some(Strategy::NetworkTopologyStrategy {
            datacenter_repfactors,
        }) => datacenter_repfactors.values().copied().min().unwrap_or(0),
        Some(_) | None => 0,
    };
    let quorum = cql.consistency != config::Consistency::One;
    if SAFE_COPIES <= copies && quorum || lease::syncs_first(session).await {
        return;
    }
    tracing::warn!(
        copies,
        consistency = ?cql.consistency,
        "what was acknowledged may be lost with a server: have 3 copies and a quorum, or let the servers sync first \
         (commitlog_sync: batch or group)"
    );
}

impl fmt::Debug for CqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CqlStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl actors::ports::Writer for CqlStore {
    fn submit(&self, tenant: TenantId, job: Job) -> Result<Ticket, SubmitError> {
        let Job {
            writes,
            entries,
            claim,
            // A commit takes what waits, and there is nothing to save by waiting for more.
            urgency: _,
            is_baseless,
            done,
        } = job;
        let mut done = Some(done);
        let taken = self.take(
            tenant,
            writes,
            entries,
            claim,
            is_baseless.as_deref(),
            &mut done,
        );
        if let (Err(refused), Some(done)) = (taken, done) {
            done(Outcome::Failed(refused.into()));
        }
        taken
    }

    async fn passed(&self, tenant: TenantId, ticket: Ticket) {
        if let Some(slot) = self.shared.tenants.slot(tenant) {
            slot.passed(ticket.0).await;
        }
    }

    fn log(&self, tenant: TenantId) -> Option<Arc<Log>> {
        self.existing(tenant)?.log().cloned()
    }

    fn health(&self) -> StoreHealth {
        if self.shared.queue.stopped() == Some(SubmitError::Failed) || self.shared.lease.is_lost() {
            StoreHealth::Failed
        } else if self.shared.db.presence.is_away() {
            StoreHealth::Away
        } else {
            StoreHealth::Ready
        }
    }

    fn durability(&self) -> &'static str {
        "quorum"
    }

    async fn close(&self) {
        let Some(mut running) = self.running.lock().take() else {
            return;
        };
        let shared = &self.shared;
        shared.queue.stop(SubmitError::Closing);
        let time_max = shared.commit_time_max + CLOSE_SLACK;
        let settled = timeout(time_max, running.writer.join_next()).await.is_ok();
        if !settled {
            tracing::warn!(
                "the database did not confirm all commits: the next start completes them"
            );
        }
        running.writer.shutdown().await;
        if settled && shared.queue.stopped() != Some(SubmitError::Failed) {
            // There may be many tenants, and servers that have just gone; the lease is to be given back in any case.
            let _late = timeout(CLOSE_SLACK, Box::pin(mark_applied(shared))).await;
        }
        self.closed.store(true, Ordering::Release);
        running.beside.shutdown().await;
        if !shared.lease.is_lost() {
            Box::pin(shared.lease.release(&shared.db.link().session)).await;
        }
        shared
            .tenants
            .all()
            .iter()
            .filter_map(|it| it.log())
            .for_each(|it| it.close());
    }
}

/// Says in the journals that everything is in its rows, so that the next start need not write it again.
async fn mark_applied(shared: &Shared) {
    let mut slots = shared.tenants.all();
    slots.retain(|it| 0 < it.shown());
    let mark = |slot: Arc<Slot>| async move {
        let ledger = slot.ledger.lock().await;
        let mut mark = journal::mark(&shared.owner(&slot), &ledger);
        mark.stamp = shared.lease.stamps(1);
        if let Err(error) = shared.db.write(shared.db.permit().await, &[mark]).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a mark was not written"
            );
        }
    };
    let marks: Vec<_> = slots.into_iter().map(mark).collect();
    stream::iter(marks)
        .for_each_concurrent(MARKS_MAX, |it| it)
        .await;
}
