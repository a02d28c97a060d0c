//! Backups of the running gateway, one at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actors::model::Timestamp;
use actors::ports::Clock;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::TransferError;
use super::files::Draft;
use super::record::Tally;
use crate::store::embedded::{EmbeddedStore, Export, has_room};
use crate::telemetry::Chain;

/// How the last backup stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Standing {
    /// There was none since the gateway was started.
    #[default]
    None,
    /// It is being written.
    Running {
        /// Where.
        path: PathBuf,
        /// Records so far.
        records: u64,
        /// About how many there are.
        about: u64,
    },
    /// It is whole.
    Done {
        /// Where.
        path: PathBuf,
        /// The moment that it shows.
        made_at: Timestamp,
        /// What is in it.
        tally: Tally,
    },
    /// It has come to nothing.
    Failed {
        /// Where it should have been.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why a backup does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// The store is on servers.
    #[error(
        "a backup shows one moment, and tables on several servers give none: use the servers' own snapshots (`nodetool snapshot` on each), or stop the gateway and copy the store into a folder with `buho store copy`"
    )]
    NotEmbedded,
    /// There is one under way.
    #[error("a backup to {} is being written: wait for it", .0.display())]
    Busy(PathBuf),
    /// The path means another folder here than where it was said.
    #[error("name the folder with its whole path")]
    Relative,
    /// It can't be begun.
    #[error(transparent)]
    Begin(#[from] TransferError),
}

/// Makes backups.
pub(crate) struct Backups {
    store: Option<Arc<EmbeddedStore>>,
    min_free: Option<u64>,
    clock: Arc<dyn Clock>,
    standing: Arc<Mutex<Standing>>,
    stop: Arc<AtomicBool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Backups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backups").finish_non_exhaustive()
    }
}

impl Backups {
    /// Of a store; `None` where there is nothing that could be backed up from here. `min_free` is how much room the
    /// store's own disk must keep.
    pub(crate) fn new(
        store: Option<Arc<EmbeddedStore>>,
        min_free: Option<u64>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            min_free,
            clock,
            standing: Arc::default(),
            stop: Arc::default(),
            task: Mutex::new(None),
        }
    }

    /// How the last one stands.
    pub(crate) fn standing(&self) -> Standing {
        self.standing.lock().clone()
    }

    /// Begins a backup into a folder that is empty or absent.
    pub(crate) async fn begin(&self, path: PathBuf) -> Result<(), BackupError> {
        let store = self.store.clone().ok_or(BackupError::NotEmbedded)?;
        if !path.is_absolute() {
            return Err(BackupError::Relative);
        }
        let before = self.start(&path)?;
        let work = Work {
            path,
            made_at: self.clock.now(),
            min_free: self.min_free,
            standing: Arc::clone(&self.standing),
            stop: Arc::clone(&self.stop),
        };
        let (tell, begun) = oneshot::channel();
        // Whoever asked may go before it has begun: it goes on then.
        *self.task.lock() = Some(tokio::task::spawn_blocking(move || {
            match work.begin(&store) {
                Ok((draft, export)) => {
                    let _heard = tell.send(Ok(()));
                    work.run(draft, &export);
                }
                Err(error) => {
                    *work.standing.lock() = before;
                    // Else whoever asked logs it.
                    if let Err(Err(error)) = tell.send(Err(error)) {
                        tracing::error!(error = %Chain(&error), "a backup can't be begun");
                    }
                }
            }
        }));
        Ok(begun.await.unwrap_or(Err(TransferError::Stopped))?)
    }

    /// Takes the one place that there is; gives what stood there before.
    fn start(&self, path: &std::path::Path) -> Result<Standing, BackupError> {
        let mut standing = self.standing.lock();
        if let Standing::Running { path, .. } = &*standing {
            return Err(BackupError::Busy(path.clone()));
        }
        let running = Standing::Running {
            path: path.to_owned(),
            records: 0,
            about: 0,
        };
        Ok(std::mem::replace(&mut *standing, running))
    }

    /// Ends the one that is under way.
    pub(crate) async fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let task = self.task.lock().take();
        if let Some(task) = task {
            // A panic in it was told where it happened.
            let _ended = task.await;
        }
    }
}

/// A backup under way.
struct Work {
    path: PathBuf,
    made_at: Timestamp,
    min_free: Option<u64>,
    standing: Arc<Mutex<Standing>>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn begin(&self, store: &EmbeddedStore) -> Result<(Draft, Export), TransferError> {
        let draft = Draft::begin(&self.path)?;
        match store.export(self.made_at) {
            Ok(export) => Ok((draft, export)),
            Err(error) => {
                draft.abandon();
                Err(error.into())
            }
        }
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn run(self, mut draft: Draft, export: &Export) {
        let written = self.write(&mut draft, export);
        let ended = match written {
            Ok(()) => draft.end(self.made_at, || self.stops()),
            Err(error) => {
                draft.abandon();
                Err(error)
            }
        };
        let path = self.path;
        *self.standing.lock() = match ended {
            Ok(manifest) => {
                let records = manifest.tally.records();
                tracing::info!(path = %path.display(), records, "a backup was made");
                Standing::Done {
                    path,
                    made_at: manifest.made_at,
                    tally: manifest.tally,
                }
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), path = %path.display(), "a backup has failed");
                let reason = Chain(&error).to_string();
                Standing::Failed { path, reason }
            }
        };
    }

    fn write(&self, draft: &mut Draft, export: &Export) -> Result<(), TransferError> {
        let (mut mark, about) = (None, export.estimate());
        while let Some(chunk) = export.next(mark.as_ref())? {
            if self.stops() {
                return Err(TransferError::Stopped);
            }
            // A disk that is full of backup would stop the gateway.
            if !has_room(&self.path, self.min_free).map_err(TransferError::io(&self.path))? {
                return Err(TransferError::Full(self.path.clone()));
            }
            draft.add(&chunk.records)?;
            *self.standing.lock() = Standing::Running {
                path: self.path.clone(),
                records: draft.tally().records(),
                about,
            };
            mark = chunk.mark;
        }
        Ok(())
    }
}
