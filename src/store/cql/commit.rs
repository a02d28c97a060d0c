//! A commit of one tenant: admit, journal, apply, show, tell.
//!
//! Until the journal's mark is sent nothing has happened: whoever waits past the deadline, or meets a refusal of the
//! servers, hears that nothing is written, and the commit is dropped, with all that waits behind it. From then on it is
//! tried until it is through, and the tenant's next commit waits, so that the order of a tenant has no hole; memory stays
//! bounded by its queue. Nobody is told before the outcome is known: who asked has a deadline of its own, and an actor that
//! took a commit for lost would not do what follows from it, such as handing a message to the network.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors::log::RingBudget;
use actors::model::Timestamp;
use actors::ports::{Clock, KeptAnswer, Outcome, StoreError, SubmitError};
use futures_util::stream::{self, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::change::Change;
use super::database::{Database, Harm, Permit, batches};
use super::directory::kept_answer;
use super::erasure::Erasure;
use super::job::ttl;
use super::journal::{self, Owner, Written};
use super::lease::{Lease, Lost};
use super::measures::Commit;
use super::plan::{ClaimKey, Effect, Plan, Told, tell};
use super::queue::{Queue, Queued};
use super::tenants::{Slot, Tenants};

/// Reads of kept answers under way at the same time, for one commit.
const LOOKS_MAX: usize = 32;
/// Batches under way at the same time, for one commit.
const BATCHES_MAX: usize = 32;
/// The pause after a write that failed: it doubles from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_millis(800);

/// What all who commit share.
pub(super) struct Shared {
    pub(super) db: Database,
    pub(super) lease: Lease,
    pub(super) queue: Queue,
    pub(super) tenants: Tenants,
    pub(super) budget: Arc<RingBudget>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) cluster: String,
    pub(super) keyspace: String,
    pub(super) commit_time_max: Duration,
    /// How long an entry stays in its table: the log's floor hides it earlier.
    pub(super) entry_ttl: Duration,
    /// Devices whose rows are to be erased. The queue is as long as a tenant's removals between two erasures.
    pub(super) erasures: mpsc::Sender<Erasure>,
}

/// What becomes of a write that the servers refuse although they are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnRefusal {
    /// Nothing hangs on it.
    GiveUp,
    /// It decides, so that it must not be given up once it may be written.
    GiveUpUnlessWritten,
    /// It belongs to a commit that counts. A refusal may pass, such as that of a server whose disk is full.
    TryOn,
}

/// Why a write is not tried any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// Another owner has come.
    Lost,
    /// The servers refuse it.
    Refused,
}

impl From<Lost> for Given {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

impl Shared {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Who writes a tenant's journal.
    pub(super) fn owner(&self, slot: &Slot) -> Owner<'_> {
        Owner {
            tenant: slot.key(),
            cluster: &self.cluster,
            fence: self.lease.fence(),
        }
    }

    /// Writes changes of one partition as often as it takes, as long as the lease is ours. `unknown` tells in between
    /// whether they may be written.
    pub(super) async fn write_until_done(
        &self,
        changes: &[Change],
        unknown: &AtomicBool,
        on_refusal: OnRefusal,
    ) -> Result<(), Given> {
        let (mut pause, mut is_refused) = (PAUSE_FIRST, false);
        loop {
            let permit = self.may_write().await?;
            let before = unknown.swap(true, Ordering::AcqRel);
            let Err(error) = self.db.write(permit, changes).await else {
                return Ok(());
            };
            match error.harm {
                Harm::Refused => {
                    unknown.store(before, Ordering::Release);
                    if !std::mem::replace(&mut is_refused, true) {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the database refuses a write"
                        );
                    }
                    match on_refusal {
                        OnRefusal::GiveUp => return Err(Given::Refused),
                        OnRefusal::GiveUpUnlessWritten if !before => return Err(Given::Refused),
                        OnRefusal::GiveUpUnlessWritten | OnRefusal::TryOn => {}
                    }
                }
                Harm::Unwritten => unknown.store(before, Ordering::Release),
                Harm::Unknown => {}
            }
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a write is tried again"
            );
            self.db.measures.retried();
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// A place among the calls under way, at a time when writing is safe. Who waits for that holds no place.
    async fn may_write(&self) -> Result<Permit<'_>, Lost> {
        loop {
            self.lease.held().await?;
            let permit = self.db.permit().await;
            if self.lease.is_held() {
                return Ok(permit);
            }
        }
    }

    /// Writes changes of any partitions, each as often as it takes.
    pub(super) async fn apply(
        &self,
        changes: Vec<Change>,
        on_refusal: OnRefusal,
    ) -> Result<(), Given> {
        self.write_all(batches(changes), on_refusal).await
    }

    /// Writes batches side by side.
    async fn write_all(
        &self,
        batches: Vec<Vec<Change>>,
        on_refusal: OnRefusal,
    ) -> Result<(), Given> {
        let write = |batch: Vec<Change>| async move {
            let unknown = AtomicBool::new(false);
            self.write_until_done(&batch, &unknown, on_refusal).await
        };
        let writes: Vec<_> = batches.into_iter().map(write).collect();
        let mut writes = stream::iter(writes).buffer_unordered(BATCHES_MAX);
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    /// Commits jobs of a tenant. Everybody is told, whatever happens, and every ticket is settled.
    pub(super) async fn commit(&self, slot: &Slot, jobs: Vec<Queued>) {
        let deadline = Instant::now() + self.commit_time_max;
        let last = jobs.last().map_or(0, |it| it.ticket);
        let count = jobs.len();
        if self.try_commit(slot, jobs, deadline).await.is_err() {
            // Nobody may write after a commit that is neither through nor dropped.
            self.queue.stop(SubmitError::Failed);
        }
        slot.settle(last);
        self.db.measures.settled(count);
    }

    async fn try_commit(
        &self,
        slot: &Slot,
        jobs: Vec<Queued>,
        deadline: Instant,
    ) -> Result<(), Given> {
        let mut ledger = slot.ledger.lock().await;
        let keys = claim_keys(&jobs);
        let ready = async {
            self.lease.held().await.map_err(|_| StoreError::Failed)?;
            self.answers(slot, keys).await
        };
        let answers = tokio::select! {
            answers = ready => answers,
            () = sleep_until(deadline) => Err(StoreError::Away),
        };
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                let refused = match error {
                    StoreError::Failed => SubmitError::Failed,
                    StoreError::Away
                    | StoreError::Full
                    | StoreError::Refused(_)
                    | StoreError::Gone
                    | StoreError::Damaged { .. }
                    | StoreError::Engine { .. } => SubmitError::Away,
                };
                refuse(jobs, refused);
                self.throw_out(slot, refused);
                return if refused == SubmitError::Failed {
                    Err(Given::Lost)
                } else {
                    Ok(())
                };
            }
        };
        let started = Instant::now();
        let count = jobs.len();
        let mut plan = Plan::new(
            slot,
            ledger.clone(),
            self.now(),
            ttl(self.entry_ttl),
            answers,
        );
        jobs.into_iter().for_each(|it| plan.add(it));
        plan.seal(|count| self.lease.stamps(count));
        // What was turned down for an earlier commit is true already.
        let (waiting, settled) = std::mem::take(&mut plan.told)
            .into_iter()
            .partition(|it| it.needs_commit);
        plan.told = waiting;
        settled.into_iter().for_each(Told::tell_own);
        let writes = !plan.changes.is_empty();
        if !writes && !plan.touches_log {
            plan.told.into_iter().for_each(Told::tell_own);
            return Ok(());
        }
        if writes {
            plan.ledger.committed += 1;
        }
        let stamps = |count| self.lease.stamps(count);
        let Written { parts, mark } =
            journal::encode(&self.owner(slot), &plan.ledger, &plan.changes, stamps);
        // Those of a commit that is dropped before its mark stay as well.
        ledger.has_parts |= !parts.is_empty();
        plan.ledger.has_parts = !parts.is_empty();
        let records = plan.changes.len();
        let bytes = plan.changes.iter().map(Change::weight).sum();
        slot.hide(&plan.hidden);
        let unknown = AtomicBool::new(false);
        let through = {
            let changes = plan.changes.clone();
            let work = async {
                let parts = parts.into_iter().map(|it| vec![it]).collect();
                self.write_all(parts, OnRefusal::GiveUp).await?;
                let on_refusal = OnRefusal::GiveUpUnlessWritten;
                self.write_until_done(&mark, &unknown, on_refusal).await?;
                unknown.store(true, Ordering::Release);
                slot.applies();
                self.apply(changes, OnRefusal::TryOn).await
            };
            let mut work = Box::pin(work);
            let early = tokio::select! {
                through = &mut work => Some(through),
                () = sleep_until(deadline) => None,
            };
            match early {
                Some(Ok(())) => Ok(()),
                Some(Err(Given::Lost)) => Err(Given::Lost),
                Some(Err(Given::Refused)) | None if !unknown.load(Ordering::Acquire) => {
                    // The mark was never taken: nothing has happened, and nothing will.
                    drop(work);
                    plan.tell_all(|| SubmitError::Away.into());
                    self.throw_out(slot, SubmitError::Away);
                    slot.show();
                    return Ok(());
                }
                Some(Err(Given::Refused)) => Err(Given::Refused),
                None => work.await,
            }
        };
        if let Err(given) = through {
            plan.tell_all(|| StoreError::Failed);
            return Err(given);
        }
        self.db.measures.committed(Commit {
            jobs: count,
            records,
            bytes,
            took: started.elapsed(),
        });
        let before = ledger.sequencer.head();
        *ledger = plan.ledger.clone();
        // It is in its rows; the next mark says so.
        ledger.applied = ledger.committed;
        drop(ledger);
        self.show(slot, before, &mut plan);
        plan.told.into_iter().for_each(Told::tell_own);
        Ok(())
    }

    /// What waits behind a commit that was dropped may build on it: whoever is told so begins anew.
    fn throw_out(&self, slot: &Slot, reason: SubmitError) {
        let waiting = self.queue.throw_out_of(slot.id());
        self.db.measures.settled(waiting.len());
        refuse(waiting, reason);
    }

    fn show(&self, slot: &Slot, before: actors::model::Cursor, plan: &mut Plan<'_>) {
        for effect in std::mem::take(&mut plan.effects) {
            match effect {
                Effect::Made(device) => slot.add_device(device),
                Effect::Removed(device) => {
                    slot.forget_device(device);
                    let erasure = Erasure {
                        tenant: slot.id(),
                        device,
                    };
                    if self.erasures.try_send(erasure).is_err() {
                        tracing::info!("rows of a removed device are erased after the next start");
                    }
                }
            }
        }
        slot.know_buckets(std::mem::take(&mut plan.buckets));
        if plan.touches_log {
            let log = slot.start_log(before, 0, &self.budget);
            log.publish(&plan.entries);
            log.raise_floor(plan.ledger.floor);
        }
        slot.show();
    }

    /// What is kept for keys.
    async fn answers(
        &self,
        slot: &Slot,
        keys: Vec<ClaimKey>,
    ) -> Result<HashMap<ClaimKey, KeptAnswer>, StoreError> {
        let mut found = HashMap::new();
        let look = |key: ClaimKey| async move {
            let kept = kept_answer(&self.db, slot, key.0, &key.1).await;
            kept.map(|it| (key, it))
        };
        let looks: Vec<_> = keys.into_iter().map(look).collect();
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_MAX);
        while let Some(look) = looks.next().await {
            let (key, kept) = look?;
            found.extend(kept.map(|it| (key, it)));
        }
        Ok(found)
    }
}

/// The keys of jobs, each once.
fn claim_keys(jobs: &[Queued]) -> Vec<ClaimKey> {
    let mut keys: Vec<ClaimKey> = jobs
        .iter()
        .filter_map(|it| it.job.claim.as_ref())
        .map(|it| (it.claim.operation, Arc::clone(&it.claim.key)))
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Tells everybody that nothing is written.
pub(super) fn refuse(jobs: Vec<Queued>, reason: SubmitError) {
    jobs.into_iter()
        .for_each(|it| tell(it.done, Outcome::Failed(reason.into())));
}
