//! What waits to be committed: a bounded queue a tenant, served in turn, one commit of a tenant at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actors::model::TenantId;
use actors::ports::{Done, SubmitError, Ticket};
use metrics::{Gauge, gauge};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::job::Encoded;
use super::tenants::Slot;

/// Jobs of one commit.
const COMMIT_JOBS_MAX: usize = 512;
/// Bytes of one commit; one larger job always passes.
const COMMIT_BYTES_MAX: usize = 256 << 10;

/// A job in its place.
pub(super) struct Queued {
    /// Its place.
    pub(super) ticket: u64,
    /// What is to be written.
    pub(super) job: Encoded,
    /// Told what became of it.
    pub(super) done: Done,
}

struct Fifo {
    slot: Arc<Slot>,
    jobs: VecDeque<Queued>,
    bytes: usize,
    tickets: u64,
    /// Whether a commit of the tenant is under way.
    busy: bool,
    /// The last job that was thrown out while one was.
    thrown_out: u64,
}

impl Fifo {
    fn take(&mut self) -> Vec<Queued> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.jobs.front().map(|it| it.job.weight()) {
            let full = COMMIT_JOBS_MAX <= taken.len() || COMMIT_BYTES_MAX < bytes + next;
            if full && !taken.is_empty() {
                break;
            }
            bytes += next;
            self.bytes -= next;
            taken.extend(self.jobs.pop_front());
        }
        taken
    }
}

#[derive(Default)]
struct Inner {
    fifos: HashMap<TenantId, Fifo>,
    /// Tenants with jobs and without a commit under way, in the order they are served.
    ready: VecDeque<TenantId>,
    stopped: Option<SubmitError>,
}

/// What is to be committed next.
pub(super) enum Next {
    /// These, of this tenant. [`Queue::through`] must follow.
    Jobs(Arc<Slot>, Vec<Queued>),
    /// Nothing now.
    Nothing,
    /// Nothing, and nothing will come but what waits behind a commit under way.
    End,
}

/// All queues.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    /// Rung when there may be something to do.
    pub(super) work: Notify,
    entries_max: usize,
    bytes_max: usize,
    /// Bytes that wait, for whoever measures.
    waiting: Gauge,
}

impl Queue {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            work: Notify::new(),
            entries_max,
            bytes_max,
            waiting: gauge!("buho_store_queue_bytes"),
        }
    }

    /// Whether a tenant's queue is full: worth a look before a job is encoded for nothing.
    pub(super) fn check(&self, tenant: TenantId) -> Result<(), SubmitError> {
        let inner = self.inner.lock();
        match (inner.stopped, inner.fifos.get(&tenant)) {
            (Some(reason), _) => Err(reason),
            (None, Some(fifo)) if self.entries_max <= fifo.jobs.len() => Err(SubmitError::Busy),
            (None, Some(_) | None) => Ok(()),
        }
    }

    /// Puts a job at the end of its tenant's queue. `done` is taken only with it. What it builds on is looked at behind the
    /// lock, so that it is either thrown out with that or not taken.
    pub(super) fn push(
        &self,
        slot: Arc<Slot>,
        job: Encoded,
        is_baseless: Option<&AtomicBool>,
        done: &mut Option<Done>,
    ) -> Result<Ticket, SubmitError> {
        let tenant = slot.id();
        let mut inner = self.inner.lock();
        let Inner {
            fifos,
            ready,
            stopped,
        } = &mut *inner;
        if let Some(reason) = stopped {
            return Err(*reason);
        }
        if is_baseless.is_some_and(|it| it.load(Ordering::Acquire)) {
            return Err(SubmitError::Busy);
        }
        let fifo = fifos.entry(tenant).or_insert_with(|| Fifo {
            slot,
            jobs: VecDeque::new(),
            bytes: 0,
            tickets: 0,
            busy: false,
            thrown_out: 0,
        });
        let too_much = self.entries_max <= fifo.jobs.len()
            || self.bytes_max < fifo.bytes.saturating_add(job.weight());
        if too_much && !fifo.jobs.is_empty() {
            return Err(SubmitError::Busy);
        }
        let Some(done) = done.take() else {
            return Err(SubmitError::Closing);
        };
        fifo.tickets += 1;
        fifo.bytes += job.weight();
        self.waiting.increment(narrow(job.weight()));
        let ticket = fifo.tickets;
        fifo.jobs.push_back(Queued { ticket, job, done });
        let first = fifo.jobs.len() == 1 && !fifo.busy;
        if first {
            ready.push_back(tenant);
        }
        drop(inner);
        if first {
            self.work.notify_one();
        }
        Ok(Ticket(ticket))
    }

    /// Takes the jobs of the next commit.
    pub(super) fn next(&self) -> Next {
        let mut inner = self.inner.lock();
        while let Some(tenant) = inner.ready.pop_front() {
            let Some(fifo) = inner.fifos.get_mut(&tenant) else {
                continue;
            };
            let before = fifo.bytes;
            let jobs = fifo.take();
            self.waiting.decrement(narrow(before - fifo.bytes));
            if !jobs.is_empty() {
                fifo.busy = true;
                return Next::Jobs(Arc::clone(&fifo.slot), jobs);
            }
        }
        if inner.stopped.is_some() {
            Next::End
        } else {
            Next::Nothing
        }
    }

    /// Says that the commit of a tenant is through.
    pub(super) fn through(&self, slot: &Slot) {
        let mut inner = self.inner.lock();
        let Inner { fifos, ready, .. } = &mut *inner;
        if let Some(fifo) = fifos.get_mut(&slot.id()) {
            fifo.busy = false;
            slot.settle(fifo.thrown_out);
            if !fifo.jobs.is_empty() {
                ready.push_back(slot.id());
            }
        }
    }

    /// Hands out everything that waits and is not written: nobody shall wait for servers that are away. A ticket counts
    /// as settled once the commit before it is.
    pub(super) fn throw_out(&self) -> Vec<Queued> {
        let mut inner = self.inner.lock();
        let Inner { fifos, ready, .. } = &mut *inner;
        ready.clear();
        let fifos = fifos.values_mut();
        fifos.flat_map(|it| self.empty(it)).collect()
    }

    /// Hands out what of a tenant waits behind its commit under way, which was not taken: it may build on that.
    pub(super) fn throw_out_of(&self, tenant: TenantId) -> Vec<Queued> {
        let mut inner = self.inner.lock();
        let fifo = inner.fifos.get_mut(&tenant);
        fifo.map(|it| self.empty(it)).unwrap_or_default()
    }

    fn empty(&self, fifo: &mut Fifo) -> Vec<Queued> {
        self.waiting
            .decrement(narrow(std::mem::take(&mut fifo.bytes)));
        if let Some(last) = fifo.jobs.back().map(|it| it.ticket) {
            fifo.thrown_out = last;
            if !fifo.busy {
                fifo.slot.settle(last);
            }
        }
        fifo.jobs.drain(..).collect()
    }

    /// Why no more jobs are taken.
    pub(super) fn stopped(&self) -> Option<SubmitError> {
        self.inner.lock().stopped
    }

    /// Takes no more jobs; what is there is still served. The first reason stays.
    pub(super) fn stop(&self, reason: SubmitError) {
        self.inner.lock().stopped.get_or_insert(reason);
        self.work.notify_one();
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::tenants::Tenants;
    use super::*;

    fn pushed(queue: &Queue, slot: &Arc<Slot>, base: &AtomicBool) -> Result<Ticket, SubmitError> {
        let job = Encoded::of("c", slot, Vec::new(), Vec::new(), None).unwrap();
        let mut done: Option<Done> = Some(Box::new(drop));
        let pushed = queue.push(Arc::clone(slot), job, Some(base), &mut done);
        assert_eq!(pushed.is_ok(), done.is_none(), "who is refused is told so");
        pushed
    }

    fn taken(queue: &Queue) -> Arc<Slot> {
        match queue.next() {
            Next::Jobs(slot, _) => slot,
            Next::Nothing | Next::End => panic!("nothing waits"),
        }
    }

    #[test]
    fn what_builds_on_a_job_that_was_not_taken_is_not_taken() {
        let (queue, tenants) = (Queue::new(9, 1 << 20), Tenants::new("c"));
        let [one, other] = [0; 2].map(|_| tenants.slot_or_new(TenantId::generate()));
        let (base, others) = (AtomicBool::new(false), AtomicBool::new(false));
        pushed(&queue, &one, &base).unwrap();
        assert_eq!(taken(&queue).id(), one.id());
        // It waits behind the commit that will be dropped.
        let waiting = pushed(&queue, &one, &base).unwrap();
        pushed(&queue, &other, &others).unwrap();
        base.store(true, Ordering::Release);
        let thrown_out = queue.throw_out_of(one.id());
        let tickets: Vec<u64> = thrown_out.iter().map(|it| it.ticket).collect();
        assert_eq!(tickets, [waiting.0]);
        // This one was decided before its chat heard of it.
        assert_eq!(pushed(&queue, &one, &base), Err(SubmitError::Busy));
        // Whoever loads anew goes on, behind what was thrown out.
        let next = pushed(&queue, &one, &AtomicBool::new(false)).unwrap();
        assert!(waiting < next);
        queue.through(&one);
        assert_eq!(taken(&queue).id(), other.id(), "others lose nothing");
        assert_eq!(taken(&queue).id(), one.id());
    }
}
