//! A stopped store goes into an empty one, and goes on where it was interrupted.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use actors::model::Timestamp;
use actors::ports::{Clock, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use super::record::Tally;
use super::{Archive, CHUNKS_AHEAD, Mark, Phase, Progress, TransferError, count, moved, verify};
use crate::config::Config;
use crate::store::cql::schema::{self, SchemaFound};
use crate::store::cql::{CqlOptions, CqlStore};
use crate::store::embedded::Offline;

/// How often is noted how far the copy came.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// For how long after its beginning a copy goes on where it was interrupted; a later run begins again. Rows of a CQL
/// store that age stay a day longer than they are needed.
const GOES_ON_MAX: Duration = Duration::from_secs(12 * 3_600);

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a folder of this machine.
    Embedded(PathBuf),
    /// In the tables of `[cql]`.
    Cql,
}

/// Why a text names no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be `cql` or `embedded:FOLDER`")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        match text.split_once(':') {
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            None if text == "cql" => Ok(Self::Cql),
            Some(_) | None => Err(PlaceError),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "embedded:{}", path.display()),
            Self::Cql => f.write_str("cql"),
        }
    }
}

/// What stands in the destination until the copy is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// Of which store, and of which of its commits.
    source: String,
    /// When the copy began. The epochs follow from it, and it is the moment as of which both ends are read.
    began_at: Timestamp,
    /// Everything up to here is in the destination.
    mark: Option<Mark>,
    /// What that is.
    tally: Tally,
}

impl Note {
    fn to_bytes(&self) -> Result<Vec<u8>, TransferError> {
        let unwritable = |source| TransferError::Io {
            path: PathBuf::from("note"),
            source: std::io::Error::other::<serde_json::Error>(source),
        };
        serde_json::to_vec(self).map_err(unwritable)
    }
}

/// Copies a stopped store into an empty one, or goes on with it; gives what is in it then. Every log begins a new epoch.
///
/// # Errors
///
/// [`TransferError`]; run again, it goes on where it was interrupted.
pub async fn copy(
    config: &Config,
    from: &Place,
    to: &Place,
    clock: Arc<dyn Clock>,
    progress: Progress<'_>,
) -> Result<Tally, TransferError> {
    if from == to {
        return Err(TransferError::Same);
    }
    match from {
        Place::Embedded(path) if !Offline::is_there(path) => {
            return Err(TransferError::NoStore(path.clone()));
        }
        Place::Embedded(_) => {}
        Place::Cql => {
            let found = Box::pin(schema::check(&config.cql)).await;
            let found = found.map_err(|it| TransferError::Open(Box::new(it)))?;
            if found == SchemaFound::Absent {
                return Err(nothing(config));
            }
        }
    }
    let source = Box::pin(open(config, from, &clock)).await?;
    let destination = match Box::pin(worth_copying(config, from, &*source)).await {
        Ok(()) => Box::pin(open(config, to, &clock)).await,
        Err(error) => Err(error),
    };
    let copied = match destination {
        Ok(destination) => {
            let task = Copy {
                called: from.to_string(),
                source: Arc::clone(&source),
                destination: Arc::clone(&destination),
                named: to.to_string(),
                progress,
                note_every: NOTE_EVERY,
            };
            let copied = Box::pin(task.run(clock.now())).await;
            destination.close().await;
            copied
        }
        Err(error) => Err(error),
    };
    source.close().await;
    copied
}

/// Whether a source is a whole store: a copy of anything else would look like one.
async fn worth_copying(
    config: &Config,
    from: &Place,
    source: &dyn Archive,
) -> Result<(), TransferError> {
    if source.note().await?.is_some() {
        return Err(TransferError::NotWhole(from.to_string()));
    }
    if *from == Place::Cql && source.is_empty().await? {
        return Err(nothing(config));
    }
    Ok(())
}

fn nothing(config: &Config) -> TransferError {
    TransferError::Nothing {
        cluster: config.cql.cluster.clone(),
        keyspace: config.cql.keyspace.clone(),
    }
}

async fn open(
    config: &Config,
    place: &Place,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Archive>, TransferError> {
    match place {
        Place::Embedded(path) => {
            let path = path.clone();
            // Opening may replay a journal: that blocks.
            let opened = tokio::task::spawn_blocking(move || Offline::open(&path)).await;
            let store = opened
                .map_err(|it| TransferError::Open(Box::new(it)))?
                .map_err(|it| TransferError::Open(Box::new(it)))?;
            Ok(Arc::new(store))
        }
        Place::Cql => {
            let options = CqlOptions {
                retention: config.streams.retention(),
                ..CqlOptions::new(config.cql.clone())
            };
            let opened = Box::pin(CqlStore::open_unfinished(options, Arc::clone(clock))).await;
            Ok(opened.map_err(|it| TransferError::Open(Box::new(it)))?)
        }
    }
}

/// A copy with both of its ends open.
pub(super) struct Copy<'a> {
    pub(super) source: Arc<dyn Archive>,
    pub(super) destination: Arc<dyn Archive>,
    /// What the source is called.
    pub(super) called: String,
    /// What the destination is called.
    pub(super) named: String,
    pub(super) progress: Progress<'a>,
    pub(super) note_every: Duration,
}

impl Copy<'_> {
    /// Copies, verifies, and gives the destination free for a gateway.
    pub(super) async fn run(&self, now: Timestamp) -> Result<Tally, TransferError> {
        let mut note = self.begin(now).await?;
        let about = self.source.estimate();
        let (out, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
        let (source, as_of, from) = (Arc::clone(&self.source), note.began_at, note.mark.clone());
        let mut reading = JoinSet::new();
        reading.spawn(async move { source.export(as_of, from, out).await });
        let mut noted_at = Instant::now();
        while let Some(chunk) = chunks.recv().await {
            let mut records = chunk.records;
            moved(&mut records, note.began_at);
            count(&mut note.tally, &records)?;
            self.destination.import(records).await?;
            (self.progress)(Phase::Write, note.tally.records(), about);
            if let Some(mark) = chunk.mark {
                note.mark = Some(mark);
                if self.note_every <= noted_at.elapsed() {
                    self.destination.set_note(Some(note.to_bytes()?)).await?;
                    noted_at = Instant::now();
                }
            }
        }
        let read = reading.join_next().await;
        read.and_then(Result::ok).ok_or(StoreError::Failed)??;
        verify(&*self.destination, as_of, &note.tally, self.progress).await?;
        // A gateway that came in between has changed what was read, or what was written.
        for (archive, named) in [
            (&self.source, &self.called),
            (&self.destination, &self.named),
        ] {
            let held = archive.held().await;
            held.map_err(|_| TransferError::Overtaken(named.clone()))?;
        }
        self.destination.set_note(None).await?;
        Ok(note.tally)
    }

    /// Where the copy begins, or goes on.
    async fn begin(&self, now: Timestamp) -> Result<Note, TransferError> {
        let source = self.source.version().await?;
        if let Some(note) = self.destination.note().await? {
            let other = || TransferError::OtherCopy {
                destination: self.named.clone(),
            };
            let note: Note = serde_json::from_slice(&note).map_err(|_| other())?;
            if note.source != source {
                return Err(other());
            }
            if now.since(note.began_at) < GOES_ON_MAX {
                return Ok(note);
            }
        } else if !self.destination.is_empty().await? {
            return Err(TransferError::NotEmpty(self.named.clone()));
        }
        let note = Note {
            source,
            began_at: now,
            mark: None,
            tally: Tally::default(),
        };
        self.destination.set_note(Some(note.to_bytes()?)).await?;
        Ok(note)
    }
}
