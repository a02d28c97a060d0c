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
            match self.log.read_after(self.position, max, out) {
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
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::super::{RING_ENTRIES_MAX, RingBudget, Sequencer};
    use super::*;
    use crate::model::{EntryDraft, EventType, TenantId};

    /// Keeps every entry, as the store does; what is erased is at or below the floor.
    #[derive(Default)]
    struct Kept {
        entries: Mutex<Vec<Arc<Entry>>>,
        floor: Mutex<u64>,
    }

    #[async_trait]
    impl LogReader for Kept {
        async fn entries(
            &self,
            _: TenantId,
            after: u64,
            entries_max: usize,
            _: usize,
        ) -> Result<Vec<Arc<Entry>>, StoreError> {
            tokio::task::yield_now().await;
            let after = after.max(*self.floor.lock());
            let entries = self.entries.lock();
            Ok(entries
                .iter()
                .filter(|it| after < it.cursor().seq)
                .take(entries_max)
                .cloned()
                .collect())
        }

        async fn seq_before(&self, _: TenantId, _: Timestamp) -> Result<u64, StoreError> {
            Ok(0)
        }
    }

    struct House {
        kept: Arc<Kept>,
        log: Arc<Log>,
        sequencer: Sequencer,
    }

    impl House {
        fn new(ring_bytes: usize) -> Self {
            let (tenant, head) = (TenantId::generate(), Cursor { epoch: 3, seq: 0 });
            let log = Arc::new(Log::new(
                tenant,
                head,
                0,
                Arc::new(RingBudget::new(ring_bytes)),
            ));
            Self {
                kept: Arc::default(),
                log,
                sequencer: Sequencer::new(tenant, head),
            }
        }

        /// Stores entries that are not shown yet.
        fn write(&mut self, count: usize) -> Vec<Arc<Entry>> {
            let draft = EntryDraft {
                kind: EventType::DeviceState,
                time: Timestamp::from_millis(1000),
                device: None,
                chat: None,
                direction: None,
                data: Bytes::from_static(b"{}"),
            };
            let entries: Vec<_> = (0..count)
                .map(|_| self.sequencer.place(draft.clone()))
                .collect();
            self.kept.entries.lock().extend(entries.iter().cloned());
            entries
        }

        fn listener(&self, position: u64) -> Listener {
            let store: Arc<dyn LogReader> = Arc::<Kept>::clone(&self.kept);
            Listener::new(Arc::clone(&self.log), store, position)
        }
    }

    /// What is there to read now.
    async fn drain(listener: &mut Listener, heard: &mut Vec<u64>, max: usize) -> Option<Heard> {
        let mut out = Vec::new();
        loop {
            let next = listener.next(&mut out, max);
            let next = tokio::time::timeout(std::time::Duration::from_millis(1), next)
                .await
                .ok()?
                .unwrap();
            heard.extend(out.drain(..).map(|it| it.cursor().seq));
            if !matches!(next, Heard::Entries { .. }) {
                return Some(next);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Show,
        Read(usize),
        Cancel,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1usize..700).prop_map(Step::Write),
            Just(Step::Show),
            (1usize..300).prop_map(Step::Read),
            Just(Step::Cancel),
        ];
        prop::collection::vec(step, 1..40)
    }

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever the ring still holds, and whenever the store is ahead of it: no gap, no repeat.
        #[test]
        fn between_store_and_ring_nothing_is_lost_or_doubled(steps in steps(), from in 0u64..300, ring_bytes in 2_000usize..2_000_000) {
            paused().block_on(async {
                let mut house = House::new(ring_bytes);
                let first = house.write(400);
                house.log.publish(&first);
                let mut listener = house.listener(from);
                let (mut hidden, mut heard) = (Vec::new(), Vec::new());
                for step in steps {
                    match step {
                        Step::Write(count) => hidden.extend(house.write(count)),
                        Step::Show => house.log.publish(&std::mem::take(&mut hidden)),
                        Step::Read(max) => _ = drain(&mut listener, &mut heard, max).await,
                        Step::Cancel => {
                            let mut out = Vec::new();
                            let once = futures_once(listener.next(&mut out, 50)).await;
                            let told = out.len();
                            heard.extend(out.into_iter().map(|it| it.cursor().seq));
                            assert!(once || told == 0, "a dropped wait takes nothing");
                        }
                    }
                    let shown = house.log.head().seq;
                    assert!(heard.last().is_none_or(|it| *it <= shown), "nothing is given before it is shown");
                }
                house.log.publish(&hidden);
                let _end = drain(&mut listener, &mut heard, 256).await;
                let expected: Vec<u64> = (from + 1..=house.log.head().seq).collect();
                assert_eq!(heard, expected);
            });
        }
    }

    /// Polls once and drops; whether it was ready.
    async fn futures_once<F: Future>(future: F) -> bool {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn who_falls_below_the_floor_is_told() {
        let mut house = House::new(10_000);
        let entries = house.write(RING_ENTRIES_MAX);
        house.log.publish(&entries);
        *house.kept.floor.lock() = 100;
        house.log.raise_floor(100);
        let (mut listener, mut heard) = (house.listener(50), Vec::new());
        let told = drain(&mut listener, &mut heard, 10).await;
        let (oldest, head) = (Cursor { epoch: 3, seq: 100 }, house.log.head());
        assert_eq!(told, Some(Heard::Trimmed { oldest, head }));
        assert_eq!(heard, [0u64; 0]);
        listener.jump(100);
        assert_eq!(drain(&mut listener, &mut heard, 10).await, None);
        assert_eq!(heard.first(), Some(&101));
        assert_eq!(heard.len(), RING_ENTRIES_MAX - 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_log_ends_its_readers_after_the_last_entry() {
        let mut house = House::new(1 << 20);
        let (mut listener, mut heard) = (house.listener(0), Vec::new());
        let entries = house.write(3);
        house.log.publish(&entries);
        house.log.close();
        assert_eq!(
            drain(&mut listener, &mut heard, 10).await,
            Some(Heard::Closed)
        );
        assert_eq!(heard, [1, 2, 3]);
    }

    #[test]
    fn a_cursor_is_judged() {
        let house = {
            let mut house = House::new(1 << 20);
            let entries = house.write(20);
            house.log.publish(&entries);
            house.log.raise_floor(5);
            house
        };
        let reason =
            |epoch, seq, max| judge(&house.log, Cursor { epoch, seq }, max).map_err(|it| it.reason);
        assert_eq!(reason(3, 20, None), Ok(20));
        assert_eq!(
            reason(3, 5, None),
            Ok(5),
            "the oldest place is itself a cursor"
        );
        assert_eq!(reason(3, 4, None), Err(Lost::Trimmed));
        assert_eq!(reason(3, 21, None), Err(Lost::Diverged));
        assert_eq!(reason(2, 10, None), Err(Lost::Epoch));
        assert_eq!(reason(3, 9, Some(10)), Err(Lost::TooFar));
        assert_eq!(reason(3, 10, Some(10)), Ok(10));
    }

    #[test]
    fn places_to_begin_are_words_cursors_or_times() {
        assert_eq!("now".parse(), Ok(Start::Now));
        assert_eq!("oldest".parse(), Ok(Start::Oldest));
        assert_eq!(
            "7-12".parse(),
            Ok(Start::After(Cursor { epoch: 7, seq: 12 }))
        );
        assert_eq!(
            "1970-01-01T00:00:01Z".parse(),
            Ok(Start::Time(Timestamp::from_millis(1000)))
        );
        for wrong in ["", "x", "1", "-1", "1-", "1-x", " 1-1", "1-1-1", "Now"] {
            assert_eq!(wrong.parse::<Start>(), Err(CursorError), "{wrong}");
        }
    }
}
