//! One reader's place in the log: from the ring while it can, from the store when it must.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Entry, Ephemeral, Log, Pulse, RingRead};
use crate::model::{Cursor, CursorError, Timestamp};
use crate::ports::{LogReader, StoreError};

/// The most entries that are read from the store at once.
const CHUNK_ENTRIES_MAX: usize = 512;
/// The most bytes that are read from the store at once.
const CHUNK_BYTES_MAX: usize = 1 << 20;

type Chunk = Pin<Box<dyn Future<Output = Result<Vec<Arc<Entry>>, StoreError>> + Send>>;

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what happens next.
    Now,
    /// With the oldest entry that is kept.
    Oldest,
    /// With the first entry at or after this time.
    Time(Timestamp),
    /// Behind this one.
    After(Cursor),
}

impl FromStr for Start {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        match text {
            "now" => Ok(Self::Now),
            "oldest" => Ok(Self::Oldest),
            other => {
                let time = || other.parse().map(Self::Time).map_err(|_| CursorError);
                other.parse().map(Self::After).or_else(|_| time())
            }
        }
    }
}

/// Why a cursor can't be gone on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// It belongs to another life of the log.
    Epoch,
    /// What follows it is no longer kept.
    Trimmed,
    /// It lies ahead of the log.
    Diverged,
    /// More follows it than may be resumed over.
    TooFar,
}

impl Lost {
    /// Its word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Trimmed => "trimmed",
            Self::Diverged => "diverged",
            Self::TooFar => "too_far",
        }
    }
}

/// Continuity is lost: the reader must take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Why.
    pub reason: Lost,
    /// From here a reader gets everything that is kept.
    pub oldest: Cursor,
    /// The newest place.
    pub head: Cursor,
}

/// Judges a cursor against the log.
///
/// # Errors
///
/// [`Reset`] where it can't be gone on from.
pub fn judge(log: &Log, cursor: Cursor, max_resume: Option<u64>) -> Result<u64, Reset> {
    // The floor first: it only rises, so a head that is read later is never below it.
    let oldest = log.oldest();
    let head = log.head();
    let lost = |reason| {
        Err(Reset {
            reason,
            oldest,
            head,
        })
    };
    if cursor.epoch != head.epoch {
        return lost(Lost::Epoch);
    }
    if head.seq < cursor.seq {
        return lost(Lost::Diverged);
    }
    if cursor.seq < oldest.seq {
        return lost(Lost::Trimmed);
    }
    if max_resume.is_some_and(|max| max < head.seq - cursor.seq) {
        return lost(Lost::TooFar);
    }
    Ok(cursor.seq)
}

/// What [`Listener::next`] came back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Entries were added to the buffer.
    Entries {
        /// Whether they are older than the ring: the reader is behind.
        from_store: bool,
    },
    /// There are ephemeral events to take.
    Ephemerals,
    /// What follows the reader's place is no longer kept: it must jump.
    Trimmed {
        /// From here a reader gets everything that is kept.
        oldest: Cursor,
        /// The newest place.
        head: Cursor,
    },
    /// The log is closed, and nothing is left to read.
    Closed,
}

/// A reader's place in a log. It costs a few words and, while it reads the store, one chunk.
pub struct Listener {
    log: Arc<Log>,
    store: Arc<dyn LogReader>,
    pulse: watch::Receiver<Pulse>,
    epoch: u32,
    position: u64,
    ephemerals_seen: u64,
    reading: Option<Chunk>,
}

impl Listener {
    /// A reader behind whom everything up to and with `position` lies.
    #[must_use]
    pub fn new(log: Arc<Log>, store: Arc<dyn LogReader>, position: u64) -> Self {
        let pulse = log.pulse();
        let ephemerals_seen = pulse.borrow().ephemerals;
        let epoch = log.head().epoch;
        metrics::gauge!("buho_log_readers").increment(1.0);
        Self {
            log,
            store,
            pulse,
            epoch,
            position,
            ephemerals_seen,
            reading: None,
        }
    }

    /// The log that it reads.
    #[must_use]
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Everything up to here has been given out.
    #[must_use]
    pub const fn position(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            seq: self.position,
        }
    }

    /// How many entries lie ahead.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.log.head().seq.saturating_sub(self.position)
    }

    /// Goes on behind `position`, forwards or back.
    pub fn jump(&mut self, position: u64) {
        self.position = position;
        self.reading = None;
    }

    /// Waits for entries and adds up to `max` of them to `out` (a chunk from the store may hold more). Dropping the
    /// future loses nothing.
    ///
    /// # Errors
    ///
    /// When the store could not be read; the place is kept.
    pub async fn next(
        &mut self,
        out: &mut Vec<Arc<Entry>>,
        max: usize,
    ) -> Result<Heard, StoreError> {
        loop {
            if let Some(reading) = self.reading.as_mut() {
                let found = reading.await;
                self.reading = None;
                return self.take_chunk(found?, out);
            }
            // Before the ring is read, so that whatever comes after it wakes us.
            let pulse = *self.pulse.borrow_and_update();
            // What the pulse does not tell of yet wakes us later: the ring needs no look for it.
            let is_news = self.position < pulse.head;
            let news = is_news.then(|| self.log.read_after(self.position, max, out));
            match news.unwrap_or(RingRead::Read) {
                RingRead::Read => {
                    if let Some(last) = out
                        .last()
                        .map(|it| it.cursor().seq)
                        .filter(|it| self.position < *it)
                    {
                        self.position = last;
                        return Ok(Heard::Entries { from_store: false });
                    }
                }
                RingRead::Behind => {
                    if let Some(trimmed) = self.trimmed() {
                        return Ok(trimmed);
                    }
                    self.reading = Some(self.chunk());
                    continue;
                }
            }
            if self.ephemerals_seen < pulse.ephemerals {
                return Ok(Heard::Ephemerals);
            }
            if pulse.closed || self.pulse.changed().await.is_err() {
                return Ok(Heard::Closed);
            }
        }
    }

    /// Adds the ephemeral events since the last call to `out`.
    pub fn take_ephemerals(&mut self, out: &mut Vec<Arc<Ephemeral>>) {
        self.ephemerals_seen = self.log.ephemerals_after(self.ephemerals_seen, out);
    }

    fn trimmed(&self) -> Option<Heard> {
        let oldest = self.log.oldest();
        (self.position < oldest.seq).then(|| Heard::Trimmed {
            oldest,
            head: self.log.head(),
        })
    }

    fn chunk(&self) -> Chunk {
        let (store, tenant, after) = (Arc::clone(&self.store), self.log.tenant(), self.position);
        Box::pin(async move {
            store
                .entries(tenant, after, CHUNK_ENTRIES_MAX, CHUNK_BYTES_MAX)
                .await
        })
    }

    /// Takes what the store gave, as far as it is shown: it may know of entries that the ring does not.
    fn take_chunk(
        &mut self,
        entries: Vec<Arc<Entry>>,
        out: &mut Vec<Arc<Entry>>,
    ) -> Result<Heard, StoreError> {
        let head = self.log.head().seq;
        let mut position = self.position;
        for entry in entries {
            let seq = entry.cursor().seq;
            if head < seq {
                break;
            }
            if seq != position + 1 {
                return self
                    .trimmed()
                    .ok_or(StoreError::Damaged { what: "log entry" });
            }
            position = seq;
            out.push(entry);
        }
        if position == self.position {
            return self
                .trimmed()
                .ok_or(StoreError::Damaged { what: "log entry" });
        }
        self.position = position;
        Ok(Heard::Entries { from_store: true })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        metrics::gauge!("buho_log_readers").decrement(1.0);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("log", &self.log)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
