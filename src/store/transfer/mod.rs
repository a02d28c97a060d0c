//! Whole stores on the move: a backup while the gateway runs, its restore, and the copy from one backend to the other.
//!
//! All three are one mechanism. A store is read as `Record`s, which carry the very rows that all backends
//! share (`rows`) under the ids of their owners, and not under what one backend makes of them, such as the embedded
//! store's numbers. Each backend is an `Archive`: it gives its records in chunks, and takes them. A record counts into
//! a [`Tally`] with a checksum that does not depend on the order, since backends differ in theirs; what has been written
//! is read back and compared.
//!
//! - `backup`: one snapshot of the embedded store goes into files with checksums (`files`), the manifest last.
//! - [`restore()`]: files that hold what their manifest says go into a new folder.
//! - [`copy()`]: a stopped store goes into an empty one of the other kind. The destination keeps a note of how far it
//!   came; with that note no gateway starts on it, and the next run goes on from there. Writing a record twice is
//!   writing it once.
//!
//! Whatever was moved gives its logs a new epoch: clients may have seen what was acknowledged behind the backup, or may
//! still talk to the source. An epoch is not the old one and 1, since the same backup may be restored twice: it is taken
//! from the clock.

use std::io;
use std::path::PathBuf;

use actors::model::{Cursor, Timestamp};
use actors::ports::StoreError;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use self::compact::compact;
pub use self::copy::{Place, PlaceError, copy};
use self::record::Record;
pub use self::record::{Difference, Sum, Tally};
pub use self::restore::{Restored, restore};

pub(crate) mod backup;
mod compact;
mod copy;
mod files;
pub(super) mod record;
mod restore;

#[cfg(feature = "testing")]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        unused_imports,
        reason = "all but what needs servers is run by the usual harness"
    )
)]
pub(crate) mod tests;

/// Records of one chunk.
pub(super) const CHUNK_RECORDS_MAX: usize = 1_000;
/// About how many bytes the records of one chunk have.
pub(super) const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Chunks that are read ahead.
const CHUNKS_AHEAD: usize = 4;
/// Epochs count from here: 2026-01-01, in seconds.
const EPOCHS_SINCE: i64 = 1_767_225_600;

/// How far an export came, in its backend's own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark(#[serde(with = "hex")] pub(super) Vec<u8>);

/// Records in a row.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The records.
    pub(super) records: Vec<Record>,
    /// An export from here gives what follows them; `None` where it can't go on from here.
    pub(super) mark: Option<Mark>,
}

/// A store that nobody serves, from which records come and into which they go.
#[async_trait]
pub(super) trait Archive: Send + Sync {
    /// Sends all records behind a mark, in the same order each time, without kept answers whose time is over at `as_of`.
    /// A receiver that went away ends it.
    async fn export(
        &self,
        as_of: Timestamp,
        from: Option<Mark>,
        out: mpsc::Sender<Chunk>,
    ) -> Result<(), StoreError>;

    /// Makes records durable. A tenant comes before what is its own, a device before its rows.
    async fn import(&self, records: Vec<Record>) -> Result<(), StoreError>;

    /// Which store it is, and at which commit: another word after every change.
    async fn version(&self) -> Result<String, StoreError>;

    /// About how many records it has; 0 where that is not known.
    fn estimate(&self) -> u64;

    /// Whether it has nothing at all.
    async fn is_empty(&self) -> Result<bool, StoreError>;

    /// The note of an unfinished copy.
    async fn note(&self) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes or removes the note.
    async fn set_note(&self, note: Option<Vec<u8>>) -> Result<(), StoreError>;

    /// Whether nobody else can have used it since it was opened.
    async fn held(&self) -> Result<(), StoreError>;

    /// Gives the store free, in good order.
    async fn close(&self);
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Records are read and checked before anything is written.
    Check,
    /// Records are written.
    Write,
    /// What was written is read back.
    Verify,
}

/// How far something came: the phase, the records so far and about how many there are.
pub type Progress<'a> = &'a (dyn Fn(Phase, u64, u64) + Send + Sync);

/// Why a store could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// A store can't be opened.
    #[error(transparent)]
    Open(Box<dyn std::error::Error + Send + Sync>),
    /// There is no store to copy.
    #[error("there is no store in {}: name the folder that the gateway was started with", .0.display())]
    NoStore(PathBuf),
    /// There is nothing to copy.
    #[error(
        "there is nothing in the cluster {cluster} of the keyspace {keyspace}: correct [cql] so that it names what the gateway was started with"
    )]
    Nothing {
        /// The cluster.
        cluster: String,
        /// The keyspace.
        keyspace: String,
    },
    /// What is to be copied is a part of another store.
    #[error("{0} is not whole: the copy or the restore into it was interrupted")]
    NotWhole(String),
    /// A gateway has started on an end meanwhile.
    #[error("another gateway has taken {0} meanwhile: stop it, and begin again")]
    Overtaken(String),
    /// There is something already.
    #[error("{0} is not empty: choose another one")]
    NotEmpty(String),
    /// What is there was begun by another.
    #[error(
        "{destination} holds an unfinished copy of another store, or its source has changed since: empty it and begin again"
    )]
    OtherCopy {
        /// Where.
        destination: String,
    },
    /// Source and destination are the same.
    #[error("a store can't be copied into itself: --from and --to name the same")]
    Same,
    /// A file can't be read or written.
    #[error("{} can't be read or written: look at its owner, its permissions and the room on its disk", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The disk has no more room than the gateway itself needs.
    #[error("the disk of {} has no room for the backup: choose another one", .0.display())]
    Full(PathBuf),
    /// A backup is not whole.
    #[error("the backup in {} is damaged, {what}: take another one", path.display())]
    Damaged {
        /// Where.
        path: PathBuf,
        /// What is the matter.
        what: String,
    },
    /// A newer version has written it.
    #[error("the backup in {} has format {found}, and this version knows no more than {known}: restore it with the newer version", path.display())]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest that we know.
        known: u32,
    },
    /// What was written is not what was read.
    #[error("what was written reads otherwise, {0}: it must not be used")]
    Differs(Difference),
    /// A store does not do as asked.
    #[error("a store can't be read or written")]
    Store(#[from] StoreError),
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
}

impl TransferError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// Whether a store could not even be opened.
    #[must_use]
    pub const fn is_of_opening(&self) -> bool {
        match self {
            Self::Open(_) | Self::NoStore(_) | Self::Nothing { .. } | Self::NotWhole(_) => true,
            Self::NotEmpty(_)
            | Self::OtherCopy { .. }
            | Self::Overtaken(_)
            | Self::Same
            | Self::Io { .. }
            | Self::Full(_)
            | Self::Damaged { .. }
            | Self::Newer { .. }
            | Self::Differs(_)
            | Self::Store(_)
            | Self::Stopped => false,
        }
    }
}

/// A record of a place in `rows` could not be written in its form: that can only be a fault of this program.
fn unwritable(source: rmp_serde::encode::Error) -> StoreError {
    StoreError::Engine {
        operation: "encode a record",
        source: Box::new(source),
    }
}

/// The records as they are written where a store moves at `now`: every log begins a new epoch.
fn moved(records: &mut [Record], now: Timestamp) {
    let since = now.as_millis() / 1_000 - EPOCHS_SINCE;
    let fresh = u32::try_from(since).unwrap_or(0);
    for record in records {
        if let Record::Tenant { head, .. } = record {
            *head = Cursor {
                epoch: fresh.max(head.epoch.saturating_add(1)),
                seq: head.seq,
            };
        }
    }
}

/// Counts records.
fn count(tally: &mut Tally, records: &[Record]) -> Result<(), StoreError> {
    for record in records {
        tally.add(record.kind(), &record.to_bytes().map_err(unwritable)?);
    }
    Ok(())
}

/// Reads a whole store, as of the moment at which what went into it was read, and compares it with what it should have.
async fn verify(
    archive: &dyn Archive,
    as_of: Timestamp,
    expected: &Tally,
    progress: Progress<'_>,
) -> Result<(), TransferError> {
    let (out, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
    let total = expected.records();
    let counting = async move {
        let mut tally = Tally::default();
        while let Some(chunk) = chunks.recv().await {
            count(&mut tally, &chunk.records)?;
            progress(Phase::Verify, tally.records(), total);
        }
        Ok::<_, StoreError>(tally)
    };
    let (exported, tally) = tokio::join!(archive.export(as_of, None, out), counting);
    exported?;
    let tally = tally?;
    expected
        .difference(&tally)
        .map_or(Ok(()), |it| Err(TransferError::Differs(it)))
}

/// Bytes as text in JSON.
mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|it| format!("{it:02x}")).collect();
        out.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        };
        digits
            .map(|it| byte(it).ok_or_else(|| D::Error::custom("not a mark")))
            .collect()
    }
}
