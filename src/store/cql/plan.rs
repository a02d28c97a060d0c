//! One commit in the making: jobs are admitted, their entries get their places, their rows become changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actors::log::Entry;
use actors::model::{DeviceId, MessageId, Timestamp};
use actors::ports::{Done, KeptAnswer, Outcome, StoreError};

use super::change::{Cell, Change, Kind};
use super::job::{Encoded, LOG_BUCKET, Row};
use super::queue::Queued;
use super::tenants::{Bucket, Ledger, Slot};
use crate::store::rows;

/// A client's key, and the operation that it belongs to.
pub(super) type ClaimKey = (&'static str, Arc<str>);

/// Who waits for the commit.
pub(super) struct Told {
    pub(super) done: Done,
    pub(super) outcome: Outcome,
    /// Whether the outcome is true only with the commit.
    pub(super) needs_commit: bool,
}

impl Told {
    /// Tells another outcome than its own.
    pub(super) fn tell(self, outcome: Outcome) {
        tell(self.done, outcome);
    }

    /// Tells the outcome that it has.
    pub(super) fn tell_own(self) {
        tell(self.done, self.outcome);
    }
}

/// Tells an outcome; a listener that panics hurts nobody else.
pub(super) fn tell(done: Done, outcome: Outcome) {
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(outcome)));
    if told.is_err() {
        tracing::error!("a listener to the store's writer has panicked");
    }
}

/// What changes beside the rows.
pub(super) enum Effect {
    /// A device exists.
    Made(DeviceId),
    /// A device is no more.
    Removed(DeviceId),
}

/// A commit in the making.
pub(super) struct Plan<'a> {
    slot: &'a Slot,
    now: Timestamp,
    entry_ttl: Cell,
    answers: HashMap<ClaimKey, KeptAnswer>,
    /// Keys whose answers this commit keeps.
    fresh: HashSet<ClaimKey>,
    made: HashSet<DeviceId>,
    removed: HashSet<DeviceId>,
    /// Where the tenant will stand.
    pub(super) ledger: Ledger,
    /// What is to be written, in order.
    pub(super) changes: Vec<Change>,
    /// What is to be shown.
    pub(super) entries: Vec<Arc<Entry>>,
    /// Who is to be told.
    pub(super) told: Vec<Told>,
    /// What else is to be done.
    pub(super) effects: Vec<Effect>,
    /// Outbox rows that must not be seen before the commit is through.
    pub(super) hidden: Vec<(DeviceId, MessageId)>,
    /// Buckets that are written down with it.
    pub(super) buckets: Vec<Bucket>,
    /// Whether the tenant's log changes.
    pub(super) touches_log: bool,
}

impl<'a> Plan<'a> {
    /// Begins a commit; `answers` are those that are kept for the keys of its jobs.
    pub(super) fn new(
        slot: &'a Slot,
        ledger: Ledger,
        now: Timestamp,
        entry_ttl: Cell,
        answers: HashMap<ClaimKey, KeptAnswer>,
    ) -> Self {
        Self {
            slot,
            now,
            entry_ttl,
            answers,
            fresh: HashSet::new(),
            made: HashSet::new(),
            removed: HashSet::new(),
            ledger,
            changes: Vec::new(),
            entries: Vec::new(),
            told: Vec::new(),
            effects: Vec::new(),
            hidden: Vec::new(),
            buckets: Vec::new(),
            touches_log: false,
        }
    }

    /// Takes a job in, or turns it down.
    pub(super) fn add(&mut self, queued: Queued) {
        let Queued {
            ticket: _,
            job,
            done,
        } = queued;
        let Encoded {
            rows,
            entries,
            claim,
            ..
        } = job;
        if !self.all_live(&rows) {
            self.told.push(Told {
                done,
                outcome: Outcome::Failed(StoreError::Gone),
                needs_commit: true,
            });
            return;
        }
        let key = claim
            .as_ref()
            .map(|it| (it.claim.operation, Arc::clone(&it.claim.key)));
        let kept = key.as_ref().and_then(|it| self.answers.get(it));
        let kept = kept.filter(|it| self.now < it.expires_at);
        let (outcome, needs_commit) = match (kept, claim.as_ref()) {
            (Some(kept), Some(claimed)) => {
                let same = kept.fingerprint == claimed.claim.fingerprint;
                let outcome = if same {
                    Outcome::Replayed(kept.clone())
                } else {
                    Outcome::Mismatch
                };
                (outcome, key.is_some_and(|it| self.fresh.contains(&it)))
            }
            (Some(_) | None, _) => {
                for row in rows {
                    self.add_row(row);
                }
                for (draft, row) in entries {
                    self.place(draft, row);
                }
                let cursor = self.ledger.sequencer.head();
                if let (Some(mut claimed), Some(key)) = (claim, key) {
                    let mut row = std::mem::take(&mut claimed.row);
                    rows::splice(&mut row, cursor);
                    self.changes
                        .push(claimed.change(self.slot.key(), row, self.now));
                    let kept = KeptAnswer {
                        answer: claimed.answer,
                        cursor,
                        fingerprint: claimed.claim.fingerprint,
                        expires_at: claimed.claim.expires_at,
                    };
                    self.answers.insert(key.clone(), kept);
                    self.fresh.insert(key);
                }
                (Outcome::Committed { cursor }, true)
            }
        };
        self.told.push(Told {
            done,
            outcome,
            needs_commit,
        });
    }

    fn place(&mut self, draft: actors::model::EntryDraft, mut row: Vec<u8>) {
        let entry = self.ledger.sequencer.place(draft);
        rows::place_entry(&mut row, entry.header());
        let seq = entry.cursor().seq;
        let cells = vec![
            self.slot.key(),
            Cell::count(seq / LOG_BUCKET),
            Cell::count(seq),
            Cell::blob(row),
            self.entry_ttl.clone(),
        ];
        self.changes.push(Change::new(Kind::PutEntry, cells));
        self.entries.push(entry);
        self.touches_log = true;
    }

    /// Whether every row has a device that lives or is made by the same job.
    fn all_live(&self, rows: &[Row]) -> bool {
        let mut made = None;
        rows.iter().all(|row| {
            if let Row::Device { id, .. } = row {
                made = Some(*id);
                return !self.removed.contains(id) && !self.slot.is_gone(*id);
            }
            row.device()
                .is_none_or(|it| made == Some(it) || self.lives(it))
        })
    }

    fn lives(&self, device: DeviceId) -> bool {
        !self.removed.contains(&device) && (self.made.contains(&device) || self.slot.has(device))
    }

    fn add_row(&mut self, row: Row) {
        match row {
            Row::Put { change, .. } => self.changes.push(change),
            Row::Bucket { bucket, change } => {
                if !self.slot.knows_bucket(&bucket) {
                    self.changes.push(change);
                    self.buckets.push(bucket);
                }
            }
            Row::Outbox { device, id, change } => {
                self.changes.push(change);
                self.hidden.push((device, id));
            }
            Row::Device { id, change } => {
                self.made.insert(id);
                self.changes.push(change);
                self.effects.push(Effect::Made(id));
            }
            Row::DeviceRemoved { id, change } => {
                if self.lives(id) {
                    self.removed.insert(id);
                    self.changes.push(change);
                    self.effects.push(Effect::Removed(id));
                }
            }
            Row::Tenant(change) => {
                self.changes.push(change);
                self.touches_log = true;
            }
            Row::Floor(seq) => {
                let head = self.ledger.sequencer.head().seq;
                self.ledger.floor = self.ledger.floor.max(seq.min(head));
                self.touches_log = true;
            }
        }
    }

    /// Ends the making: what is overwritten in the same commit goes, the rest gets its timestamps from `first` on.
    pub(super) fn seal(&mut self, first: impl FnOnce(usize) -> i64) {
        let mut later: HashSet<(Kind, Vec<Cell>)> = HashSet::new();
        let mut kept: Vec<Change> = Vec::with_capacity(self.changes.len());
        for change in std::mem::take(&mut self.changes).into_iter().rev() {
            let (kind, key) = change.target();
            if later.insert((kind, key.to_vec())) {
                kept.push(change);
            }
        }
        kept.reverse();
        let first = first(kept.len());
        for (stamp, change) in (first..).zip(&mut kept) {
            change.stamp = stamp;
        }
        self.changes = kept;
    }

    /// Tells everybody that the commit has failed.
    pub(super) fn tell_all(&mut self, error: impl Fn() -> StoreError) {
        std::mem::take(&mut self.told)
            .into_iter()
            .for_each(|it| it.tell(Outcome::Failed(error())));
    }
}
