//! The store in a folder of this machine, on fjall.
//!
//! Whoever submits a job encodes its rows (`job`) and puts it into its tenant's queue (`queue`). One thread (`writer`)
//! takes what waits, gives entries their places (`cycle`), writes one batch, syncs once, shows the entries to the
//! readers and tells everybody. Reads look at a snapshot on a few threads of their own (`reader`, `history`, `log`,
//! `directory`). What a crash may leave behind is looked at before the engine opens (`folder`, `journal`, `repair`). An
//! engine that has met a full disk is closed, and another one takes its place (`generation`).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use actors::log::{Log, RingBudget};
use actors::model::{DeviceId, EntryDraft, TenantId, Timestamp};
use actors::ports::{
    Answer, Claim, Clock, Done, Job, Outcome, StoreError, StoreHealth, SubmitError, Ticket, Write,
};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};

use self::engine::{Held, View};
use self::folder::Folder;
use self::generation::Generations;
use self::job::Encoded;
use self::keys::Place;
use self::measures::Measures;
use self::queue::{Queue, Terms};
use self::reader::Readers;
use self::repair::{Opened, Opening};
use self::space::FreeSpace;
use self::tenants::{Slot, Tenants};
use self::writer::{Shared, Writer};
use super::rows;

pub(super) use self::keys::{push_jid, split_jid};

mod cycle;
mod directory;
mod engine;
mod erasure;
mod export;
mod folder;
mod generation;
mod history;
mod job;
mod journal;
mod keys;
mod load;
mod log;
mod measures;
mod offline;
mod queue;
mod reader;
mod repair;
mod space;
mod tenants;
mod writer;

pub(super) use self::export::Export;
pub(super) use self::folder::{sync_folder, write_whole};
pub(super) use self::offline::Offline;
pub(super) use self::space::has_room;

#[cfg(test)]
mod tests;

/// How a store is opened.
#[derive(Clone, Debug)]
pub(crate) struct EmbeddedOptions {
    /// The folder.
    pub(crate) path: PathBuf,
    /// Writes stop below so many free bytes; `None` is the smaller of 256 MiB and 10 % of the file system, but at least
    /// 32 MiB.
    pub(crate) min_free: Option<u64>,
    /// Bytes of the database that are kept in memory.
    pub(crate) cache_bytes: u64,
    /// Bytes that the live ends of all logs may take.
    pub(crate) ring_bytes_max: usize,
    /// Threads that read.
    pub(crate) reader_threads: usize,
    /// Jobs that may wait, of one tenant.
    pub(crate) queue_entries_max: usize,
    /// Bytes that may wait, of one tenant; one larger job always passes.
    pub(crate) queue_bytes_max: usize,
}

impl EmbeddedOptions {
    /// The usual ones.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            min_free: None,
            cache_bytes: 64 << 20,
            ring_bytes_max: 256 << 20,
            reader_threads: 2,
            queue_entries_max: 4_096,
            queue_bytes_max: 4 << 20,
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another process has it.
    #[error("the store in {} is in use: stop the process that has it, or choose another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer version has written it.
    #[error("the store in {} has format {found}, and this version knows no more than {known}: start the newer version again", path.display())]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that we know.
        known: u32,
    },
    /// A restore or a copy into it has not come to its end.
    #[error("the store in {} is not whole: its restore or copy was interrupted. Run `buho store copy` again; after a restore, remove the folder and restore again", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
    },
    /// What is there can't be read, and more than an unacknowledged end is concerned.
    #[error("the store in {} is damaged, {what}: restore a backup, or move the folder away to start empty", path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is the matter.
        what: &'static str,
        /// What the engine says.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The folder can't be used.
    #[error("the store's folder {} can't be used: look at its owner, its permissions and the room on its disk", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}

/// The threads of an open store, and what they work on.
struct Running {
    writer: JoinHandle<Option<u64>>,
    readers: Vec<JoinHandle<()>>,
    folder: Arc<Folder>,
}

/// A store in a folder of this machine.
pub(crate) struct EmbeddedStore {
    shared: Shared,
    readers: Arc<Readers>,
    engine: Held,
    running: Mutex<Option<Running>>,
}

impl EmbeddedStore {
    /// Opens the store in a folder, or makes it. Blocks while the engine replays its journal.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; each says what to do.
    pub(crate) fn open(
        options: EmbeddedOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, OpenError> {
        let EmbeddedOptions {
            path,
            min_free,
            cache_bytes,
            ring_bytes_max,
            reader_threads,
            queue_entries_max,
            queue_bytes_max,
        } = options;
        let folder = Folder::hold(&path)?;
        let note = folder.note().map_err(|source| OpenError::Io {
            path: path.clone(),
            source,
        })?;
        if note.is_some() {
            return Err(OpenError::Unfinished { path });
        }
        let opening = Opening {
            folder: &folder,
            cache_bytes,
            clock: Arc::clone(&clock),
        };
        let Opened {
            engine,
            store,
            commits,
        } = opening.open()?;
        let shared = Shared {
            queue: Arc::new(Queue::new(queue_entries_max, queue_bytes_max)),
            tenants: Arc::new(Tenants::new()),
            space: Arc::new(FreeSpace::of(path.clone(), min_free)),
            measures: Arc::new(Measures::new()),
            budget: Arc::new(RingBudget::new(ring_bytes_max)),
            clock,
        };
        let damaged = |source: StoreError| {
            let what = "its directory can't be read";
            OpenError::Damaged {
                path: path.clone(),
                what,
                source: Some(Box::new(source)),
            }
        };
        let ledger = load::ledger(&engine, &shared, store, commits).map_err(damaged)?;
        let engine: Held = Arc::new(RwLock::new(Some(Arc::new(engine))));
        let readers = Arc::<Readers>::default();
        let io = |source| OpenError::Io {
            path: path.clone(),
            source,
        };
        let reader_threads = readers.start(&engine, reader_threads).map_err(io)?;
        let folder = Arc::new(folder);
        let generations = Generations {
            held: Arc::clone(&engine),
            folder: Arc::clone(&folder),
            cache_bytes,
            clock: Arc::clone(&shared.clock),
        };
        let writer = Writer::new(generations, shared.clone(), ledger);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(io)?;
        let running = Mutex::new(Some(Running {
            writer,
            readers: reader_threads,
            folder,
        }));
        Ok(Arc::new(Self {
            shared,
            readers,
            engine,
            running,
        }))
    }

    /// Everything that the store has now, without answers that are forgotten at `as_of`. The gateway goes on.
    pub(super) fn export(&self, as_of: Timestamp) -> Result<Export, StoreError> {
        Export::new(&self.engine, as_of)
    }

    fn existing(&self, tenant: TenantId) -> Option<Arc<Slot>> {
        self.shared.tenants.existing(tenant)
    }

    fn place(&self, tenant: TenantId, device: DeviceId) -> Option<Place> {
        self.existing(tenant)?.place(device)
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&View<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.read(operation, read).await
    }

    /// Takes a job in, or leaves `done` where it is.
    fn take(
        &self,
        tenant: TenantId,
        writes: Vec<Write>,
        entries: Vec<EntryDraft>,
        claim: Option<(Claim, Answer)>,
        terms: Terms,
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
        self.shared.queue.check(slot.number())?;
        if self.shared.space.is_full() {
            return Err(SubmitError::Full);
        }
        if terms.is_baseless() {
            return Err(SubmitError::Busy);
        }
        let tenants = &self.shared.tenants;
        let encoded = Encoded::of(tenants, &slot, writes, entries, claim).map_err(|error| {
            tracing::error!(%error, "a row could not be encoded");
            SubmitError::Failed
        })?;
        let ticket = self.shared.queue.push(slot, encoded, terms, done)?;
        self.shared.measures.queued();
        Ok(ticket)
    }

    /// What ends the store's threads; `None` where that was done before.
    fn ending(&self) -> Option<impl FnOnce() -> Ended + Send + use<>> {
        let Running {
            writer,
            readers: threads,
            folder,
        } = self.running.lock().take()?;
        let (shared, readers, engine) = (
            self.shared.clone(),
            Arc::clone(&self.readers),
            Arc::clone(&self.engine),
        );
        Some(move || {
            shared.queue.stop(SubmitError::Closing);
            let commits = writer.join().unwrap_or(None);
            readers.stop();
            for thread in threads {
                // A panic in a read was told where it happened.
                let _ended = thread.join();
            }
            shared
                .tenants
                .all()
                .iter()
                .filter_map(|it| it.log())
                .for_each(|it| it.close());
            // The last handle: the engine ends its own threads and syncs before it goes.
            drop(engine.write().take());
            Ended { commits, folder }
        })
    }
}

/// A store whose threads have ended. Its folder is free once this is dropped.
struct Ended {
    commits: Option<u64>,
    folder: Arc<Folder>,
}

impl Drop for EmbeddedStore {
    /// Ends the threads, and leaves the store as a crash would: a clean stop is [`actors::ports::Writer::close`].
    fn drop(&mut self) {
        if let Some(end) = self.ending() {
            drop(end());
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedStore").finish_non_exhaustive()
    }
}

#[async_trait]
impl actors::ports::Writer for EmbeddedStore {
    fn submit(&self, tenant: TenantId, job: Job) -> Result<Ticket, SubmitError> {
        let Job {
            writes,
            entries,
            claim,
            urgency,
            is_baseless,
            done,
        } = job;
        let mut done = Some(done);
        let terms = Terms {
            urgency,
            is_baseless,
        };
        let taken = self.take(tenant, writes, entries, claim, terms, &mut done);
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
        match self.shared.queue.stopped() {
            Some(SubmitError::Failed) => StoreHealth::Failed,
            Some(
                SubmitError::Busy | SubmitError::Full | SubmitError::Closing | SubmitError::Away,
            )
            | None
                if self.shared.space.is_full() =>
            {
                StoreHealth::Full
            }
            Some(
                SubmitError::Busy | SubmitError::Full | SubmitError::Closing | SubmitError::Away,
            )
            | None => StoreHealth::Ready,
        }
    }

    fn durability(&self) -> &'static str {
        "fsync"
    }

    async fn close(&self) {
        let Some(end) = self.ending() else { return };
        let end = move || {
            let Ended { commits, folder } = end();
            if let Some(error) = commits.and_then(|it| folder.mark_clean(it).err()) {
                tracing::warn!(%error, "the store could not be marked as stopped in order");
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(end).await {
            tracing::error!(%error, "the store could not be closed in order");
        }
    }
}
