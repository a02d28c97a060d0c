//! The one queue of all that comes later: receipts, the next QR, another try.
//!
//! Receipts hold a place in a bounded room until the gateway has taken them: who hands a message over waits for room,
//! so that the network gets slow and loses nothing. Everything else has at most one timer a line.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use actors::model::{DeviceId, Jid, MessageId};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::line::Line;

/// How long a hand-over waits for room before it is put off.
const ROOM_WAIT: Duration = Duration::from_secs(10);

/// Which step of a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DueStep {
    /// It arrives, and is read so many milliseconds later.
    Delivered { read_ms: Option<u32> },
    /// It is read.
    Read,
    /// Its phone answers and confirms nothing.
    Reply,
}

/// A step of a message that is due.
#[derive(Debug)]
pub(super) struct Due {
    /// Whose message.
    pub(super) line: Arc<Line>,
    /// Its name.
    pub(super) id: MessageId,
    /// Its chat.
    pub(super) chat: Jid,
    /// The network's name for it.
    pub(super) upstream_id: Box<str>,
    /// The step.
    pub(super) step: DueStep,
}

/// What happens when a timer goes off.
#[derive(Debug)]
pub(super) enum What {
    /// A receipt is due.
    Due(Due),
    /// A QR's time is over.
    Qr(Arc<Line>),
    /// A restriction may have ended.
    Health(Arc<Line>),
    /// A line's mail is tried again.
    Drain(Arc<Line>),
    /// Missed receipts are looked for again.
    Search(Arc<Line>),
    /// A device's receipts are offered again.
    Offer(DeviceId),
}

#[derive(Debug)]
struct Timer {
    at: Instant,
    order: u64,
    what: What,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    /// Turned round, because the heap gives the greatest first; what is due at once keeps its order.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

#[derive(Debug, Default)]
struct Heap {
    timers: BinaryHeap<Timer>,
    order: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Timers {
    heap: Mutex<Heap>,
    room: Semaphore,
    size: usize,
    /// Wakes the task that serves the queue.
    pub(super) wake: Notify,
}

/// Room for receipts that are not set yet. What is not used is given back, also by a hand-over that is dropped half-way.
#[derive(Debug)]
pub(super) struct Room<'a> {
    timers: &'a Timers,
    places: usize,
}

impl<'a> Room<'a> {
    /// Sets receipts, each in a place of it.
    pub(super) fn set(&mut self, dues: impl IntoIterator<Item = (Instant, Due)>) {
        let mut count = 0;
        let dues = dues.into_iter().inspect(|_| count += 1);
        self.timers.set(dues.map(|(at, due)| (at, What::Due(due))));
        self.places = self.places.saturating_sub(count);
    }

    /// A part of it.
    pub(super) fn split(&mut self, places: usize) -> Self {
        let places = places.min(self.places);
        self.places -= places;
        Self {
            timers: self.timers,
            places,
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.places != 0 {
            self.timers.release(self.places);
        }
    }
}

impl Timers {
    /// A queue with room for so many receipts.
    pub(super) fn new(size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self {
            heap: Mutex::default(),
            room: Semaphore::new(size),
            size,
            wake: Notify::new(),
        }
    }

    /// Waits for room for so many receipts; `None` where there is none for too long.
    pub(super) async fn reserve(&self, count: usize) -> Option<Room<'_>> {
        let places = u32::try_from(count).ok()?;
        if places != 0 {
            if self.size < count {
                return None;
            }
            let permit = tokio::time::timeout(ROOM_WAIT, self.room.acquire_many(places)).await;
            permit.ok()?.ok()?.forget();
        }
        Some(Room {
            timers: self,
            places: count,
        })
    }

    /// Gives room back.
    pub(super) fn release(&self, count: usize) {
        self.room.add_permits(count);
    }

    /// Ends all waiting for room.
    pub(super) fn close(&self) {
        self.room.close();
    }

    /// How many receipts are on their way.
    pub(super) fn used(&self) -> usize {
        self.size.saturating_sub(self.room.available_permits())
    }

    /// Sets timers.
    pub(super) fn set(&self, timers: impl IntoIterator<Item = (Instant, What)>) {
        let mut heap = self.heap.lock();
        let before = heap.timers.peek().map(|it| it.at);
        for (at, what) in timers {
            let order = heap.order;
            heap.order += 1;
            heap.timers.push(Timer { at, order, what });
        }
        let first = heap.timers.peek().map(|it| it.at);
        drop(heap);
        if first != before {
            self.wake.notify_one();
        }
    }

    /// Takes up to `max` of what is due into `out`; gives the time of the next.
    pub(super) fn take(&self, now: Instant, max: usize, out: &mut Vec<What>) -> Option<Instant> {
        let mut heap = self.heap.lock();
        while out.len() < max
            && let Some(first) = heap.timers.peek()
            && first.at <= now
            && let Some(timer) = heap.timers.pop()
        {
            out.push(timer.what);
        }
        heap.timers.peek().map(|it| it.at)
    }
}
