//! What waits for the writer: a bounded queue a tenant, served in turn.
//!
//! One lock holds all of it: it is taken for moments only, and a job that was taken can never be forgotten between a
//! queue that closes and one that opens.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actors::ports::{Done, SubmitError, Ticket};
use parking_lot::{Condvar, Mutex};

use super::job::Encoded;
use super::tenants::Slot;

/// Jobs of one tenant that are served before the next one's.
const TURN_JOBS: usize = 16;
/// Jobs of one commit.
pub(super) const CYCLE_JOBS_MAX: usize = 1_024;
/// Bytes of one commit; one larger job always passes.
pub(super) const CYCLE_BYTES_MAX: usize = 4 << 20;

/// A job in its place.
pub(super) struct Queued {
    /// Whose it is.
    pub(super) slot: Arc<Slot>,
    /// Its place.
    pub(super) ticket: u64,
    /// What is to be written.
    pub(super) job: Encoded,
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
    fn take_turn(&mut self, bytes: &mut usize, jobs: &mut VecDeque<Queued>) -> Turn {
        for _ in 0..TURN_JOBS.min(CYCLE_JOBS_MAX.saturating_sub(jobs.len())) {
            let Some(next) = self.jobs.front().map(|it| it.job.weight()) else {
                break;
            };
            if 0 < *bytes && CYCLE_BYTES_MAX < *bytes + next {
                return Turn::TooLarge;
            }
            *bytes += next;
            self.bytes -= next;
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
}

impl Queue {
    pub(super) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            work: Condvar::new(),
            entries_max,
            bytes_max,
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
        done: &mut Option<Done>,
    ) -> Result<Ticket, SubmitError> {
        let tenant = slot.number();
        let mut inner = self.inner.lock();
        let Inner {
            fifos,
            ready,
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
        let ticket = fifo.tickets;
        fifo.jobs.extend(done.take().map(|done| Queued {
            slot,
            ticket,
            job,
            done,
        }));
        let first = fifo.jobs.len() == 1;
        if first {
            ready.push_back(tenant);
        }
        drop(inner);
        if first {
            self.work.notify_one();
        }
        Ok(Ticket(ticket))
    }

    /// Takes the jobs of one commit.
    pub(super) fn take(&self, patience: Patience, jobs: &mut VecDeque<Queued>) -> Found {
        let mut inner = self.inner.lock();
        while inner.ready.is_empty() {
            if inner.stopped.is_some() {
                return Found::End;
            }
            if patience == Patience::Look {
                return Found::Work;
            }
            self.work.wait(&mut inner);
        }
        let Inner {
            fifos,
            ready,
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
            let turn = fifo.take_turn(&mut bytes, jobs);
            if !fifo.jobs.is_empty() {
                ready.push_back(tenant);
            }
            if turn == Turn::TooLarge {
                break;
            }
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
        inner
            .fifos
            .values_mut()
            .flat_map(|it| std::mem::take(&mut it.jobs))
            .collect()
    }
}
