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
