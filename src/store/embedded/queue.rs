//! What waits for the writer: a bounded queue a tenant, served in turn.
//!
//! What somebody waits for is served at once; what nobody does ([`Urgency::Soon`]) waits a moment for company, so that it
//! takes no sync for itself and no send waits behind such a sync.
//!
//! One lock holds all of it: it is taken for moments only, and a job that was taken can never be forgotten between a
//! queue that closes and one that opens.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actors::ports::{Done, SubmitError, Ticket, Urgency};
use metrics::{Gauge, gauge};
use parking_lot::{Condvar, Mutex};

use super::job::Encoded;
use super::tenants::Slot;

/// Jobs of one tenant that are served before the next one's.
const TURN_JOBS: usize = 16;
/// Jobs of one commit.
pub(super) const CYCLE_JOBS_MAX: usize = 1_024;
/// Bytes of one commit; one larger job always passes.
pub(super) const CYCLE_BYTES_MAX: usize = 4 << 20;

/// How long a commit may wait for a job that somebody waits for.
const SOON_MAX: Duration = Duration::from_millis(2);

/// How a job is taken.
#[derive(Debug)]
pub(super) struct Terms {
    /// Whether somebody waits for it.
    pub(super) urgency: Urgency,
    /// Set where an earlier job that it builds on was not taken.
    pub(super) is_baseless: Option<Arc<AtomicBool>>,
}

impl Terms {
    /// Whether it builds on what is not stored. A job before it is told of before it is looked at for its commit.
    pub(super) fn is_baseless(&self) -> bool {
        let told = self.is_baseless.as_ref();
        told.is_some_and(|it| it.load(Ordering::Acquire))
    }
}

/// A job in its place.
pub(super) struct Queued {
    /// Whose it is.
    pub(super) slot: Arc<Slot>,
    /// Its place.
    pub(super) ticket: u64,
    /// What is to be written.
    pub(super) job: Encoded,
    /// How it is taken.
    pub(super) terms: Terms,
    /// Told what became of it.
    pub(super) done: Done,
}

#[derive(Default)]
struct Fifo {
    jobs: VecDeque<Queued>,
    bytes: usize,
    tickets: u64,
}

/// How a tenant's turn ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It was served.
    Over,
    /// Its next job does not fit into this commit.
    TooLarge,
}

impl Fifo {
    fn take_turn(
        &mut self,
        bytes: &mut usize,
        urgent: &mut usize,
        jobs: &mut VecDeque<Queued>,
    ) -> Turn {
        for _ in 0..TURN_JOBS.min(CYCLE_JOBS_MAX.saturating_sub(jobs.len())) {
            let front = self.jobs.front();
            let Some((next, urgency)) = front.map(|it| (it.job.weight(), it.terms.urgency)) else {
                break;
            };
            if 0 < *bytes && CYCLE_BYTES_MAX < *bytes + next {
                return Turn::TooLarge;
            }
            *bytes += next;
            self.bytes -= next;
            *urgent -= usize::from(urgency == Urgency::Now);
            jobs.extend(self.jobs.pop_front());
        }
        Turn::Over
    }
}

#[derive(Default)]
struct Inner {
    fifos: HashMap<u32, Fifo>,
    /// Tenants with jobs, in the order they are served.
    ready: VecDeque<u32>,
    /// Jobs that somebody waits for.
    urgent: usize,
    /// Since when jobs wait.
    since: Option<Instant>,
    stopped: Option<SubmitError>,
}

/// What the writer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Jobs, or nothing where it did not want to wait.
    Work,
    /// Nothing, and nothing will come.
    End,
}

/// Whether the writer waits for jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// It has nothing else to do.
    Wait,
    /// It has.
    Look,
}

/// All queues.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    work: Condvar,
    entries_max: usize,
    bytes_max: usize,
    /// Bytes that wait, for whoever measures.
    waiting: Gauge,
}

impl Queue {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            work: Condvar::new(),
            entries_max,
            bytes_max,
            waiting: gauge!("buho_store_queue_bytes"),
        }
    }

    /// Whether a tenant's queue is full: worth a look before a job is encoded for nothing.
    pub(super) fn check(&self, tenant: u32) -> Result<(), SubmitError> {
        let inner = self.inner.lock();
        match (inner.stopped, inner.fifos.get(&tenant)) {
            (Some(reason), _) => Err(reason),
            (None, Some(fifo)) if self.entries_max <= fifo.jobs.len() => Err(SubmitError::Busy),
            (None, Some(_) | None) => Ok(()),
        }
    }

    /// Puts a job at the end of its tenant's queue; where it is refused, `done` stays where it is.
    pub(super) fn push(
        &self,
        slot: Arc<Slot>,
        job: Encoded,
        terms: Terms,
        done: &mut Option<Done>,
    ) -> Result<Ticket, SubmitError> {
        let (tenant, urgency) = (slot.number(), terms.urgency);
        let mut inner = self.inner.lock();
        let Inner {
            fifos,
            ready,
            urgent,
            since,
            stopped,
        } = &mut *inner;
        if let Some(reason) = stopped {
            return Err(*reason);
        }
        let fifo = fifos.entry(tenant).or_default();
        let too_much = self.entries_max <= fifo.jobs.len()
            || self.bytes_max < fifo.bytes.saturating_add(job.weight());
        if too_much && !fifo.jobs.is_empty() {
            return Err(SubmitError::Busy);
        }
        fifo.tickets += 1;
        fifo.bytes += job.weight();
        self.waiting.increment(narrow(job.weight()));
        let ticket = fifo.tickets;
        fifo.jobs.extend(done.take().map(|done| Queued {
            slot,
            ticket,
            job,
            terms,
            done,
        }));
        if fifo.jobs.len() == 1 {
            ready.push_back(tenant);
        }
        *urgent += usize::from(urgency == Urgency::Now);
        // It knows of the others already, and until when they wait.
        let is_news = since.is_none() || (urgency == Urgency::Now && *urgent == 1);
        since.get_or_insert_with(Instant::now);
        drop(inner);
        if is_news {
            self.work.notify_one();
        }
        Ok(Ticket(ticket))
    }

    /// Takes the jobs of one commit.
    pub(super) fn take(&self, patience: Patience, jobs: &mut VecDeque<Queued>) -> Found {
        let mut inner = self.inner.lock();
        while inner.urgent == 0 && patience == Patience::Wait {
            match inner.since.map(|it| it + SOON_MAX) {
                _ if inner.stopped.is_some() => break,
                Some(due) if due <= Instant::now() => break,
                Some(due) => _ = self.work.wait_until(&mut inner, due),
                None => self.work.wait(&mut inner),
            }
        }
        if inner.ready.is_empty() {
            return match inner.stopped {
                Some(_) => Found::End,
                None => Found::Work,
            };
        }
        let Inner {
            fifos,
            ready,
            urgent,
            since,
            stopped: _,
        } = &mut *inner;
        let mut bytes = 0;
        while jobs.len() < CYCLE_JOBS_MAX && bytes < CYCLE_BYTES_MAX {
            let Some(tenant) = ready.pop_front() else {
                break;
            };
            let Some(fifo) = fifos.get_mut(&tenant) else {
                continue;
            };
            let turn = fifo.take_turn(&mut bytes, urgent, jobs);
            if !fifo.jobs.is_empty() {
                ready.push_back(tenant);
            }
            if turn == Turn::TooLarge {
                break;
            }
        }
        self.waiting.decrement(narrow(bytes));
        if ready.is_empty() {
            *since = None;
        }
        Found::Work
    }

    /// Why no more jobs are taken.
    pub(super) fn stopped(&self) -> Option<SubmitError> {
        self.inner.lock().stopped
    }

    /// Takes no more jobs; what is there is still served.
    pub(super) fn stop(&self, reason: SubmitError) {
        self.inner.lock().stopped = Some(reason);
        self.work.notify_all();
    }

    /// Takes no more jobs and hands out those that wait.
    pub(super) fn fail(&self) -> Vec<Queued> {
        let mut inner = self.inner.lock();
        inner.stopped = Some(SubmitError::Failed);
        inner.ready.clear();
        (inner.urgent, inner.since) = (0, None);
        let mut waiting = Vec::new();
        for fifo in inner.fifos.values_mut() {
            self.waiting
                .decrement(narrow(std::mem::take(&mut fifo.bytes)));
            waiting.extend(fifo.jobs.drain(..));
        }
        waiting
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use actors::model::TenantId;

    use super::super::tenants::Tenants;
    use super::*;

    fn pushed(queue: &Queue, urgency: Urgency) {
        let tenants = Tenants::new();
        let slot = tenants.slot_or_new(TenantId::generate());
        let job = Encoded::of(&tenants, &slot, Vec::new(), Vec::new(), None).unwrap();
        let mut done: Option<Done> = Some(Box::new(drop));
        let terms = Terms {
            urgency,
            is_baseless: None,
        };
        queue.push(slot, job, terms, &mut done).unwrap();
    }

    fn taken(queue: &Queue) -> (usize, Duration) {
        let (begun, mut jobs) = (Instant::now(), VecDeque::new());
        assert_eq!(queue.take(Patience::Wait, &mut jobs), Found::Work);
        (jobs.len(), begun.elapsed())
    }

    #[test]
    fn what_nobody_waits_for_waits_for_company_and_not_for_ever() {
        let queue = Queue::new(10, 1 << 20);
        let begun = Instant::now();
        pushed(&queue, Urgency::Soon);
        let (jobs, _) = taken(&queue);
        assert_eq!(jobs, 1);
        assert!(SOON_MAX <= begun.elapsed());
    }

    #[test]
    fn company_takes_it_along() {
        let queue = Queue::new(10, 1 << 20);
        pushed(&queue, Urgency::Soon);
        pushed(&queue, Urgency::Now);
        pushed(&queue, Urgency::Soon);
        assert_eq!(taken(&queue).0, 3);
    }

    #[test]
    fn the_last_ones_do_not_wait_for_company() {
        let queue = Queue::new(10, 1 << 20);
        pushed(&queue, Urgency::Soon);
        queue.stop(SubmitError::Closing);
        let mut jobs = VecDeque::new();
        assert_eq!(queue.take(Patience::Wait, &mut jobs), Found::Work);
        assert_eq!(jobs.len(), 1);
        assert_eq!(queue.take(Patience::Wait, &mut jobs), Found::End);
    }
}
