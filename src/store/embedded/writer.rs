//! The writer: one thread that commits for all tenants, with one sync for all that waits.
//!
//! Where anybody waits it never waits for more to come: while it syncs, the next commit gathers by itself.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use actors::log::RingBudget;
use actors::ports::{Clock, Outcome, StoreError};
use tokio::time::Instant;

use super::cycle::{Built, Cycle, Effect, Ledger, Settle, Touched, settle};
use super::engine::Engine;
use super::erasure::Task;
use super::generation::{Generations, is_want_of_room};
use super::load;
use super::measures::{Commit, Measures};
use super::queue::{Found, Patience, Queue, Queued};
use super::space::FreeSpace;
use super::tenants::Tenants;

/// Bytes that may wait in memory to be flushed. The engine itself has no such bound: beyond it the writer waits, and so
/// do those who write.
const BUFFER_BYTES_MAX: u64 = 192 << 20;
/// How long the writer waits for room in memory at a time: an engine whose threads have ended shall be met, not waited
/// for.
const GIVE_WAY_MAX: Duration = Duration::from_secs(1);
const GIVE_WAY_LOOK: Duration = Duration::from_millis(2);
/// The pause before it is looked again whether a full disk has room.
const FULL_LOOK: Duration = Duration::from_millis(100);

/// What the writer shares with the rest of the store.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    pub(super) tenants: Arc<Tenants>,
    pub(super) space: Arc<FreeSpace>,
    pub(super) measures: Arc<Measures>,
    pub(super) budget: Arc<RingBudget>,
    pub(super) clock: Arc<dyn Clock>,
}

/// The writer's thread. It dies with the first write that fails for another reason than a full disk.
pub(super) struct Writer {
    generations: Generations,
    /// Whether the engine was opened on a full disk, and may have met it again since.
    is_doubtful: bool,
    shared: Shared,
    ledger: Ledger,
    jobs: VecDeque<Queued>,
    settles: Vec<Settle>,
}

/// A write failed, or the thread did.
#[derive(Debug)]
struct Failed;

impl Writer {
    pub(super) fn new(generations: Generations, shared: Shared, ledger: Ledger) -> Self {
        Self {
            generations,
            is_doubtful: false,
            shared,
            ledger,
            jobs: VecDeque::new(),
            settles: Vec::new(),
        }
    }

    /// Serves until the queue ends. Gives the number of the last commit if all that was taken is durable.
    pub(super) fn run(mut self) -> Option<u64> {
        let ended = catch_unwind(AssertUnwindSafe(|| self.serve()));
        if let Ok(Ok(())) = ended {
            return Some(self.ledger.commits);
        }
        tracing::error!("the store takes no more writes until it is opened again");
        let waiting = self.shared.queue.fail();
        self.count_settled(self.settles.len() + self.jobs.len() + waiting.len());
        self.settles
            .drain(..)
            .for_each(|it| it.tell(Err(StoreError::Failed)));
        for Queued {
            slot, ticket, done, ..
        } in self.jobs.drain(..).chain(waiting)
        {
            settle(&slot, ticket, done, Outcome::Failed(StoreError::Failed));
        }
        // Tickets that were lost in a panic must not hold anybody.
        self.shared
            .tenants
            .all()
            .iter()
            .for_each(|it| it.settle(u64::MAX));
        None
    }

    fn serve(&mut self) -> Result<(), Failed> {
        loop {
            let patience = if self.ledger.erasures.is_empty() {
                Patience::Wait
            } else {
                Patience::Look
            };
            match self.shared.queue.take(patience, &mut self.jobs) {
                Found::Work => self.commit()?,
                Found::End => break,
            }
        }
        self.engine()?.sync().map_err(|error| fatal(&error))
    }

    /// The engine, for one commit: nobody may hold one that is to be closed.
    fn engine(&self) -> Result<Arc<Engine>, Failed> {
        self.generations.held.read().clone().ok_or(Failed)
    }

    fn commit(&mut self) -> Result<(), Failed> {
        self.give_way()?;
        if self.shared.space.is_full() {
            self.refuse();
            if self.is_doubtful {
                std::thread::sleep(FULL_LOOK);
                return Ok(());
            }
        } else if self.is_doubtful {
            self.prove()?;
        }
        let engine = self.engine()?;
        let jobs = self.jobs.len();
        let mut cycle = Cycle::new(&engine, &mut self.ledger, self.shared.clock.now(), jobs);
        while let Some(queued) = self.jobs.pop_front() {
            cycle.add(queued, &mut self.settles);
        }
        cycle.erase();
        let Built {
            batch,
            records,
            bytes,
            touched,
            effects,
        } = cycle.build();
        if 0 < records {
            let started = Instant::now();
            let written = batch.commit();
            drop(engine);
            if let Err(error) = written
                && !self.survives(&error)?
            {
                let full = || Err(StoreError::Full);
                self.count_settled(self.settles.len());
                self.settles.drain(..).for_each(|it| it.tell(full()));
                return Ok(());
            }
            self.ledger.commits += 1;
            self.shared.space.wrote(bytes);
            let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
            self.shared.measures.committed(Commit {
                jobs,
                records,
                bytes,
                took: started.elapsed(),
            });
        }
        effects.into_iter().for_each(|it| self.apply(it));
        touched.into_values().for_each(|it| self.show(it));
        self.count_settled(self.settles.len());
        self.settles.drain(..).for_each(|it| it.tell(Ok(())));
        Ok(())
    }

    /// Goes on after a commit that failed for want of room; says whether it is in the store all the same.
    fn survives(&mut self, error: &fjall::Error) -> Result<bool, Failed> {
        // The engine says no more than that an earlier write has failed: nothing of this one was written.
        let by_another = matches!(error, fjall::Error::Poisoned) && self.shared.space.is_short();
        if !by_another && !is_want_of_room(error) {
            return Err(fatal(error));
        }
        match self.open_again()?.checked_sub(self.ledger.commits) {
            Some(1) => Ok(true),
            Some(0) => {
                let gone = std::mem::take(&mut self.ledger.gone);
                let (store, commits) = (self.ledger.store, self.ledger.commits);
                let ledger = load::ledger(&*self.engine()?, &self.shared, store, commits);
                self.ledger = ledger.map_err(|error| lost(&error))?;
                let live = &self.ledger.live;
                let gone = gone.into_iter().filter(|it| !live.contains(it));
                self.ledger.gone.extend(gone);
                Ok(false)
            }
            Some(_) | None => {
                tracing::error!("the store does not have what was written");
                Err(Failed)
            }
        }
    }

    /// Sees whether the engine that was opened on a full disk still takes writes, and opens another one where not.
    fn prove(&mut self) -> Result<(), Failed> {
        if self.engine()?.sync().is_err() && self.open_again()? != self.ledger.commits {
            return Err(Failed);
        }
        self.is_doubtful = self.shared.space.is_full();
        Ok(())
    }

    /// Puts another engine in the place of one that has met a full disk; gives the number of the last commit that it has.
    /// Whatever is to be written meanwhile is turned down.
    fn open_again(&mut self) -> Result<u64, Failed> {
        tracing::warn!("the disk is full: the store is opened again");
        self.shared.space.met_full();
        self.is_doubtful = true;
        self.generations.put_away().map_err(|error| lost(&error))?;
        loop {
            match self.generations.open_again() {
                Ok(opened) => {
                    *self.generations.held.write() = Some(Arc::new(opened.engine));
                    self.shared.measures.opened_again();
                    return Ok(opened.commits);
                }
                Err(error) if !is_want_of_room(&error) => return Err(lost(&error)),
                Err(error) => tracing::debug!(%error, "the store is not open yet"),
            }
            self.shared.queue.take(Patience::Look, &mut self.jobs);
            self.refuse();
            if self.shared.queue.stopped().is_some() {
                return Err(Failed);
            }
            std::thread::sleep(FULL_LOOK);
        }
    }

    /// Lets the engine flush, where too much waits for it.
    fn give_way(&self) -> Result<(), Failed> {
        let (engine, started) = (self.engine()?, Instant::now());
        let mut buffered = engine.buffered();
        while BUFFER_BYTES_MAX < buffered && started.elapsed() < GIVE_WAY_MAX {
            std::thread::sleep(GIVE_WAY_LOOK);
            buffered = engine.buffered();
        }
        self.shared.measures.in_memory(buffered, engine.cached());
        Ok(())
    }

    /// Turns everything down that waits for this commit: there is no room for it.
    fn refuse(&mut self) {
        self.count_settled(self.jobs.len());
        for Queued {
            slot, ticket, done, ..
        } in self.jobs.drain(..)
        {
            settle(&slot, ticket, done, Outcome::Failed(StoreError::Full));
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Made(slot, id, number) => slot.set_device(id, number),
            Effect::Removed(slot, id, place) => {
                slot.forget_device(id);
                self.ledger.erasures.push_back(Task::device(place));
            }
        }
    }

    fn show(&self, touched: Touched) {
        let Touched {
            slot,
            before,
            entries,
            floor,
        } = touched;
        let log = slot.start_log(before, 0, &self.shared.budget);
        log.publish(&entries);
        if let Some(floor) = floor {
            log.raise_floor(floor);
        }
    }

    fn count_settled(&self, jobs: usize) {
        self.shared
            .measures
            .settled(u32::try_from(jobs).unwrap_or(u32::MAX));
    }
}

fn lost(error: &(dyn std::error::Error + 'static)) -> Failed {
    tracing::error!(error, "the store could not be opened again");
    Failed
}

fn fatal(error: &fjall::Error) -> Failed {
    tracing::error!(%error, "a write of the store has failed");
    Failed
}
