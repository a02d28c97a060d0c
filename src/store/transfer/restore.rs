//! A backup becomes a store again: read once to be checked, once to be written, and what was written once more.

use std::io;
use std::path::Path;

use actors::model::Timestamp;
use tokio::sync::mpsc;

use super::files::{self, Backup};
use super::record::{Record, Tally};
use super::{Archive as _, CHUNKS_AHEAD, Phase, Progress, TransferError, count, moved, verify};
use crate::store::embedded::Offline;

/// What came out of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The moment that the backup shows.
    pub made_at: Timestamp,
    /// What is in the store.
    pub tally: Tally,
}

/// Makes a store out of the backup in `from`, in a folder that is empty or absent. Every log begins a new epoch.
///
/// # Errors
///
/// [`TransferError`]; a store that is begun and not whole is one that no gateway starts on.
pub async fn restore(
    from: &Path,
    into: &Path,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Restored, TransferError> {
    match files::is_empty(into) {
        Ok(true) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(false) => return Err(TransferError::NotEmpty(into.display().to_string())),
        Err(error) => return Err(TransferError::io(into)(error)),
    }
    let backup = Backup::open(from)?;
    let total = backup.manifest.tally.records();
    let mut tally = Tally::default();
    each(&backup, async |records| {
        count(&mut tally, &records)?;
        progress(Phase::Check, tally.records(), total);
        Ok(())
    })
    .await?;
    if let Some(difference) = backup.manifest.tally.difference(&tally) {
        return Err(backup.damaged(format!("it has {difference}")));
    }
    let made_at = backup.manifest.made_at;
    let note = format!("restore of {}\n", from.display());
    let made = Offline::make(into, note.as_bytes());
    let made = made.map_err(|it| TransferError::Open(Box::new(it)))?;
    // Somebody may have come while the backup was read.
    let store = made.ok_or_else(|| TransferError::NotEmpty(into.display().to_string()))?;
    let filled = async {
        let mut tally = Tally::default();
        each(&backup, async |mut records| {
            moved(&mut records, now);
            count(&mut tally, &records)?;
            store.import(records).await?;
            progress(Phase::Write, tally.records(), total);
            Ok(())
        })
        .await?;
        verify(&store, made_at, &tally, progress).await?;
        store.set_note(None).await?;
        Ok::<_, TransferError>(tally)
    };
    let filled = Box::pin(filled).await;
    store.close().await;
    Ok(Restored {
        made_at,
        tally: filled?,
    })
}

/// Reads a backup on a thread that may wait for the disk, and hands on what it reads.
async fn each(
    backup: &Backup,
    mut take: impl AsyncFnMut(Vec<Record>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let (out, mut read) = mpsc::channel(CHUNKS_AHEAD);
    let backup = backup.clone();
    let reading = tokio::task::spawn_blocking(move || {
        backup.read(|records| {
            out.blocking_send(records)
                .map_err(|_| TransferError::Stopped)
        })
    });
    while let Some(records) = read.recv().await {
        take(records).await?;
    }
    reading.await.unwrap_or(Err(TransferError::Stopped))
}
