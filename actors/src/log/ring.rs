//! The live end of a tenant's log, in memory: a ring of the newest entries that every listener reads by position.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::Entry;
use crate::model::{Cursor, DeviceId, EventType, Jid, TenantId};

/// The most entries a ring holds.
pub const RING_ENTRIES_MAX: usize = 4_096;
/// The most bytes a ring holds; one larger entry always passes.
pub const RING_BYTES_MAX: usize = 4 << 20;
/// The most ephemeral events a ring holds; older ones are lost, which is what ephemeral means.
const EPHEMERALS_MAX: usize = 1_024;

/// The memory that all rings of a node share: above it, the ring that grows gives up its oldest entries.
#[derive(Debug)]
pub struct RingBudget {
    used: AtomicUsize,
    bytes_max: usize,
}

impl RingBudget {
    /// A budget of so many bytes.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            bytes_max,
        }
    }

    /// Bytes that all rings hold now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// An event that is shown but never stored.
#[derive(Debug)]
pub struct Ephemeral {
    /// What happens.
    pub kind: EventType,
    /// On which device.
    pub device: DeviceId,
    /// In which chat.
    pub chat: Option<Jid>,
    /// The `ephemeral` frame, as JSON.
    pub frame: Bytes,
}

/// How far the live end has moved; a change of it wakes every listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// The newest entry.
    pub head: u64,
    /// How many ephemeral events there have been.
    pub ephemerals: u64,
    /// Whether the log has closed.
    pub closed: bool,
}

#[derive(Debug)]
struct Inner {
    epoch: u32,
    head: u64,
    floor: u64,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    ephemerals: VecDeque<Arc<Ephemeral>>,
    ephemeral_count: u64,
}

/// The live end of one tenant's log. The writer publishes, listeners read.
pub struct Log {
    tenant: TenantId,
    budget: Arc<RingBudget>,
    inner: RwLock<Inner>,
    pulse: watch::Sender<Pulse>,
}

/// What a read at a position found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingRead {
    /// Everything asked for; nothing where the position is the head.
    Read,
    /// The ring no longer reaches back to the position: read the store.
    Behind,
}

impl Log {
    /// A log whose newest entry is `head` and whose entries up to `floor` are gone.
    #[must_use]
    pub fn new(tenant: TenantId, head: Cursor, floor: u64, budget: Arc<RingBudget>) -> Self {
        let inner = Inner {
            epoch: head.epoch,
            head: head.seq,
            floor,
            entries: VecDeque::new(),
            bytes: 0,
            ephemerals: VecDeque::new(),
            ephemeral_count: 0,
        };
        let pulse = watch::Sender::new(Pulse {
            head: head.seq,
            ephemerals: 0,
            closed: false,
        });
        Self {
            tenant,
            budget,
            inner: RwLock::new(inner),
            pulse,
        }
    }

    /// Whose log it is.
    #[must_use]
    pub const fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// The newest place.
    #[must_use]
    pub fn head(&self) -> Cursor {
        let inner = self.inner.read();
        Cursor {
            epoch: inner.epoch,
            seq: inner.head,
        }
    }

    /// The cursor from which a reader gets every entry that is kept.
    #[must_use]
    pub fn oldest(&self) -> Cursor {
        let inner = self.inner.read();
        Cursor {
            epoch: inner.epoch,
            seq: inner.floor,
        }
    }

    /// Shows entries that are durable now. They follow the head without a hole.
    pub fn publish(&self, entries: &[Arc<Entry>]) {
        let Some(last) = entries.last() else { return };
        {
            let mut inner = self.inner.write();
            for entry in entries {
                debug_assert_eq!(entry.cursor().seq, inner.head + 1, "the log has no hole");
                inner.head = entry.cursor().seq;
                inner.bytes += entry.weight();
                self.budget
                    .used
                    .fetch_add(entry.weight(), Ordering::Relaxed);
                inner.entries.push_back(Arc::clone(entry));
            }
            self.shrink(&mut inner);
        }
        let head = last.cursor().seq;
        self.pulse.send_modify(|pulse| pulse.head = head);
    }

    fn shrink(&self, inner: &mut Inner) {
        let too_much = |inner: &Inner| {
            1 < inner.entries.len()
                && (RING_ENTRIES_MAX < inner.entries.len()
                    || RING_BYTES_MAX < inner.bytes
                    || self.budget.bytes_max < self.budget.used())
        };
        while too_much(inner) {
            if let Some(gone) = inner.entries.pop_front() {
                inner.bytes -= gone.weight();
                self.budget.used.fetch_sub(gone.weight(), Ordering::Relaxed);
            }
        }
    }

    /// Entries up to and with `seq` are gone; a floor never sinks.
    pub fn raise_floor(&self, seq: u64) {
        let mut inner = self.inner.write();
        inner.floor = inner.floor.max(seq.min(inner.head));
    }

    /// Shows an ephemeral event.
    pub fn ring_ephemeral(&self, event: Ephemeral) {
        let count = {
            let mut inner = self.inner.write();
            if EPHEMERALS_MAX <= inner.ephemerals.len() {
                inner.ephemerals.pop_front();
            }
            inner.ephemerals.push_back(Arc::new(event));
            inner.ephemeral_count += 1;
            inner.ephemeral_count
        };
        self.pulse.send_modify(|pulse| pulse.ephemerals = count);
    }

    /// Copies up to `max` entries after `seq` into `out`.
    pub fn read_after(&self, seq: u64, max: usize, out: &mut Vec<Arc<Entry>>) -> RingRead {
        let inner = self.inner.read();
        if inner.head <= seq {
            return RingRead::Read;
        }
        let first = inner.entries.front().map_or(u64::MAX, |it| it.cursor().seq);
        if seq + 1 < first {
            return RingRead::Behind;
        }
        let skip = usize::try_from(seq + 1 - first).unwrap_or(usize::MAX);
        out.extend(inner.entries.iter().skip(skip).take(max).cloned());
        RingRead::Read
    }

    /// Copies the ephemeral events after the `seen`-th into `out`; says how many there have been.
    pub fn ephemerals_after(&self, seen: u64, out: &mut Vec<Arc<Ephemeral>>) -> u64 {
        let inner = self.inner.read();
        let fresh =
            usize::try_from(inner.ephemeral_count.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skip = inner.ephemerals.len().saturating_sub(fresh);
        out.extend(inner.ephemerals.iter().skip(skip).cloned());
        inner.ephemeral_count
    }

    /// Wakes whenever the live end moves.
    #[must_use]
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// Bytes that the ring holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.read().bytes
    }

    /// How many listen.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.pulse.receiver_count()
    }

    /// Ends all listening; what is in the ring can still be read.
    pub fn close(&self) {
        self.pulse.send_modify(|pulse| pulse.closed = true);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.budget
            .used
            .fetch_sub(self.inner.get_mut().bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("tenant", &self.tenant)
            .field("head", &self.head())
            .finish_non_exhaustive()
    }
}
