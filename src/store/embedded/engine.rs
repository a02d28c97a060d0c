//! The engine under the store: one fjall database and its keyspaces.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actors::ports::{Clock, StoreError};
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::config::{PartitioningPolicy, PinningPolicy};
use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable as _,
    Snapshot, UserValue,
};
use parking_lot::RwLock;

use super::{keys, rows};

/// Small memtables keep the tail short: a flush holds up commits in proportion to its size.
const MEMTABLE_BYTES_MAX: u64 = 8 << 20;
const JOURNALS_BYTES_MAX: u64 = 128 << 20;
/// The first flushes tables, the others merge them too: were there one alone, a table in memory would grow for as long
/// as a merge takes.
const WORKERS: usize = 2;
/// How often it is looked whether a flush is through.
const FLUSH_LOOK: Duration = Duration::from_millis(10);
const IDEMPOTENCY: &str = "idempotency";

/// A table of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Tenants, keys, devices, consumers, values, heads and floors.
    Directory,
    /// Messages: body and state side by side, by chat.
    Messages,
    /// Which chat a device's message is in.
    ByDevice,
    /// Entries of the logs.
    Log,
    /// What waits for the network.
    Outbox,
    /// Kept answers.
    Idempotency,
    /// The network's names of messages.
    Upstream,
    /// Chats.
    Chats,
}

impl Space {
    const ALL: [Self; 8] = [
        Self::Directory,
        Self::Messages,
        Self::ByDevice,
        Self::Log,
        Self::Outbox,
        Self::Idempotency,
        Self::Upstream,
        Self::Chats,
    ];
}

/// The open database.
pub(super) struct Engine {
    db: Database,
    directory: Keyspace,
    messages: Keyspace,
    by_device: Keyspace,
    log: Keyspace,
    outbox: Keyspace,
    idempotency: Keyspace,
    upstream: Keyspace,
    chats: Keyspace,
}

impl Engine {
    /// Opens the database in a folder, or makes it.
    pub(super) fn open(
        path: &Path,
        cache_bytes: u64,
        clock: Arc<dyn Clock>,
    ) -> fjall::Result<Self> {
        let forgetting: Arc<dyn Factory> = Arc::new(ForgetExpired(Now(clock)));
        let filters = move |name: &str| (name == IDEMPOTENCY).then(|| Arc::clone(&forgetting));
        let db = Database::builder(path)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .worker_threads(WORKERS)
            .with_compaction_filter_factories(Arc::new(filters))
            .open()?;
        // Indexes and filters lie in blocks of their own, which come through the cache as all do: so memory does not grow with
        // the store. Those of the newest tables too, for a table that moves down the levels unchanged keeps what it had
        // pinned, and most tables of rows in the order of time do move so.
        let table = |name| {
            db.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES_MAX)
                    .index_block_partitioning_policy(PartitioningPolicy::all(true))
                    .index_block_pinning_policy(PinningPolicy::all(false))
                    .filter_block_partitioning_policy(PartitioningPolicy::all(true))
                    .filter_block_pinning_policy(PinningPolicy::all(false))
            })
        };
        Ok(Self {
            directory: table("directory")?,
            messages: table("messages")?,
            by_device: table("by_device")?,
            log: table("log")?,
            outbox: table("outbox")?,
            idempotency: table(IDEMPOTENCY)?,
            upstream: table("upstream")?,
            chats: table("chats")?,
            db,
        })
    }

    pub(super) fn table(&self, space: Space) -> &Keyspace {
        match space {
            Space::Directory => &self.directory,
            Space::Messages => &self.messages,
            Space::ByDevice => &self.by_device,
            Space::Log => &self.log,
            Space::Outbox => &self.outbox,
            Space::Idempotency => &self.idempotency,
            Space::Upstream => &self.upstream,
            Space::Chats => &self.chats,
        }
    }

    /// A batch that is synced before its commit returns.
    pub(super) fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), capacity)
            .durability(Some(PersistMode::SyncData))
    }

    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.db.persist(PersistMode::SyncAll)
    }

    /// Bytes of all tables on the disk.
    pub(super) fn table_bytes(&self) -> u64 {
        let tables = Space::ALL.into_iter().map(|it| self.table(it));
        tables.map(Keyspace::disk_space).sum()
    }

    /// Writes what is in memory into tables, and each table's rows anew, without those that nobody can see any more. Tells
    /// how many tables of how many are done.
    pub(super) fn compact(&self, mut told: impl FnMut(usize, usize)) -> fjall::Result<()> {
        for space in Space::ALL {
            self.table(space).rotate_memtable()?;
        }
        while 0 < self.buffered() {
            // An engine whose threads have ended flushes nothing more, and says so here.
            self.sync()?;
            std::thread::sleep(FLUSH_LOOK);
        }
        for (done, space) in Space::ALL.into_iter().enumerate() {
            told(done, Space::ALL.len());
            self.table(space).major_compact()?;
        }
        Ok(())
    }

    /// Bytes of the tables in memory, those included that are being flushed.
    pub(super) fn buffered(&self) -> u64 {
        self.db.write_buffer_size()
    }

    /// Bytes of the blocks that were read and are kept.
    pub(super) fn cached(&self) -> u64 {
        self.db.cache_size()
    }

    /// What is committed now. Reads without one could see half a batch.
    pub(super) fn view(&self) -> View<'_> {
        View {
            engine: self,
            snapshot: self.db.snapshot(),
        }
    }

    /// A moment that can be looked at again and again.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    /// What was committed at that moment.
    pub(super) fn view_at(&self, snapshot: &Snapshot) -> View<'_> {
        View {
            engine: self,
            snapshot: snapshot.clone(),
        }
    }

    /// About how many rows a table has.
    pub(super) fn about(&self, space: Space) -> u64 {
        u64::try_from(self.table(space).approximate_len()).unwrap_or(u64::MAX)
    }

    /// The number of the last commit.
    pub(super) fn commits(&self, store: [u8; 16]) -> Result<u64, StoreError> {
        let row = self.view().get(Space::Directory, &keys::commit(store))?;
        row.map_or(Some(0), |it| rows::uncount(&it))
            .ok_or(StoreError::Damaged {
                what: "commit number",
            })
    }
}

/// The engine of a store, while there is one: it may be closed, and opened again.
pub(super) type Held = Arc<RwLock<Option<Arc<Engine>>>>;

/// A look at the store at one moment.
pub(super) struct View<'a> {
    engine: &'a Engine,
    snapshot: Snapshot,
}

/// A row: its key and its value.
pub(super) type KeyValue = (fjall::UserKey, UserValue);

impl View<'_> {
    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<UserValue>, StoreError> {
        self.snapshot
            .get(self.engine.table(space), key)
            .map_err(|it| failed("get", it))
    }

    /// Every row whose key starts with `prefix`; both ways.
    pub(super) fn prefix(
        &self,
        space: Space,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> + use<> {
        let found = self.snapshot.prefix(self.engine.table(space), prefix);
        found.map(|it| it.into_inner().map_err(|it| failed("scan", it)))
    }

    /// Every row whose key starts with `prefix` and lies beyond `beyond`, upwards.
    pub(super) fn after(
        &self,
        space: Space,
        prefix: &[u8],
        beyond: Vec<u8>,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> + use<> {
        self.within(space, prefix, Some(beyond), None)
    }

    /// Every row whose key starts with `prefix` and lies below `below`; both ways.
    pub(super) fn before(
        &self,
        space: Space,
        prefix: &[u8],
        below: Vec<u8>,
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> + use<> {
        self.within(space, prefix, None, Some(below))
    }

    /// Every row whose key starts with `prefix`, beyond `beyond` where one is named; upwards.
    pub(super) fn onward(
        &self,
        space: Space,
        prefix: &[u8],
        beyond: Option<Vec<u8>>,
    ) -> impl Iterator<Item = Result<KeyValue, StoreError>> + use<> {
        self.within(space, prefix, beyond, None)
    }

    fn within(
        &self,
        space: Space,
        prefix: &[u8],
        beyond: Option<Vec<u8>>,
        below: Option<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<KeyValue, StoreError>> + use<> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let from = beyond.map_or_else(|| Included(prefix.to_vec()), Excluded);
        let to = below.or_else(|| end_of(prefix)).map_or(Unbounded, Excluded);
        // A range that is turned round has nothing, and the engine need not be asked what it makes of it.
        let turned = match (&from, &to) {
            (Included(from) | Excluded(from), Included(to) | Excluded(to)) => to <= from,
            (Unbounded, _) | (_, Unbounded) => false,
        };
        let found = (!turned).then(|| self.snapshot.range(self.engine.table(space), (from, to)));
        found
            .into_iter()
            .flatten()
            .map(|it| it.into_inner().map_err(|it| failed("scan", it)))
    }
}

/// The first key behind all that start with `prefix`.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

pub(super) fn failed(operation: &'static str, source: fjall::Error) -> StoreError {
    StoreError::Engine {
        operation,
        source: Box::new(source),
    }
}

/// Drops kept answers whose time is over, whenever the engine compacts them. Nobody can tell: such an answer counts as
/// absent already, and an older one under the same key is over as well.
struct ForgetExpired(Now);

/// The clock, as something that a panic can't leave half changed: it is only read.
struct Now(Arc<dyn Clock>);

impl std::panic::RefUnwindSafe for Now {}

struct Expired(actors::model::Timestamp);

impl Factory for ForgetExpired {
    fn name(&self) -> &'static str {
        "forget_expired"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Expired(self.0.0.now()))
    }
}

impl CompactionFilter for Expired {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let over = rows::kept_until(&item.value()?).is_some_and(|it| it <= self.0);
        Ok(if over {
            Verdict::Destroy
        } else {
            Verdict::Keep
        })
    }
}
