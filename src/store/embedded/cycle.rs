//! One commit in the making: jobs are admitted, their entries get their places, their rows go into one batch.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actors::log::{Entry, Sequencer};
use actors::model::{Cursor, DeviceId, Timestamp};
use actors::ports::{Done, KeptAnswer, Outcome, StoreError, SubmitError};
use fjall::OwnedWriteBatch;

use super::engine::{Engine, Space, View};
use super::erasure::{self, Erasures, Piece, Task};
use super::job::{Claimed, Encoded, NO_DEVICE, Row};
use super::keys::{self, Place};
use super::queue::Queued;
use super::rows;
use super::tenants::Slot;

/// The epoch of a log that was never repaired.
pub(super) const FIRST_EPOCH: u32 = 1;

/// Where a tenant's log stands.
pub(super) struct TenantState {
    /// Gives the places.
    pub(super) sequencer: Sequencer,
    /// Entries up to here are gone for readers.
    pub(super) floor: u64,
    /// Entries up to here are gone from the disk.
    pub(super) erased: u64,
}

/// What the writer knows and nobody else changes.
pub(super) struct Ledger {
    /// The store's own id.
    pub(super) store: [u8; 16],
    /// The number of the last commit.
    pub(super) commits: u64,
    /// Every tenant's log.
    pub(super) tenants: HashMap<u32, TenantState>,
    /// Devices that exist.
    pub(super) live: HashSet<u32>,
    /// Devices that were removed since the store was opened.
    pub(super) gone: HashSet<u32>,
    /// What is to be erased.
    pub(super) erasures: Erasures,
}

/// A job that waits for the commit.
pub(super) struct Settle {
    slot: Arc<Slot>,
    ticket: u64,
    done: Done,
    outcome: Outcome,
    needs_commit: bool,
}

impl Settle {
    /// Tells what became of the job. Without a commit only what was durable before is true.
    pub(super) fn tell(self, committed: Result<(), StoreError>) {
        let outcome = match committed {
            Err(error) if self.needs_commit => Outcome::Failed(error),
            Ok(()) | Err(_) => self.outcome,
        };
        settle(&self.slot, self.ticket, self.done, outcome);
    }
}

/// Tells the outcome of a job; a listener that panics hurts nobody else.
pub(super) fn settle(slot: &Slot, ticket: u64, done: Done, outcome: Outcome) {
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(outcome)));
    if told.is_err() {
        tracing::error!("a listener to the store's writer has panicked");
    }
    slot.settle(ticket);
}

/// What a commit changes for one tenant's readers.
pub(super) struct Touched {
    /// The tenant.
    pub(super) slot: Arc<Slot>,
    /// Where its log stood before.
    pub(super) before: Cursor,
    /// What is to be shown.
    pub(super) entries: Vec<Arc<Entry>>,
    /// The floor, where it rose.
    pub(super) floor: Option<u64>,
}

/// What a commit changes beside the log.
pub(super) enum Effect {
    /// A device exists.
    Made(Arc<Slot>, DeviceId, u32),
    /// A device is no more.
    Removed(Arc<Slot>, DeviceId, Place),
}

/// A batch that is ready, and what follows from it.
pub(super) struct Built {
    /// The rows.
    pub(super) batch: OwnedWriteBatch,
    /// How many; 0 for a batch that is not worth writing.
    pub(super) records: u64,
    /// Bytes of keys and values.
    pub(super) bytes: u64,
    /// What to show.
    pub(super) touched: HashMap<u32, Touched>,
    /// What to change, in order.
    pub(super) effects: Vec<Effect>,
}

enum Admission {
    Write,
    Turned {
        outcome: Outcome,
        needs_commit: bool,
    },
}

/// The commit in the making.
pub(super) struct Cycle<'a> {
    engine: &'a Engine,
    view: View<'a>,
    ledger: &'a mut Ledger,
    now: Timestamp,
    batch: OwnedWriteBatch,
    records: u64,
    bytes: u64,
    chats: HashMap<Vec<u8>, Vec<u8>>,
    claims: HashMap<Vec<u8>, KeptAnswer>,
    touched: HashMap<u32, Touched>,
    effects: Vec<Effect>,
    last_live: u32,
}

impl<'a> Cycle<'a> {
    /// Begins a commit, which gets the next number.
    pub(super) fn new(
        engine: &'a Engine,
        ledger: &'a mut Ledger,
        now: Timestamp,
        jobs: usize,
    ) -> Self {
        let mut batch = engine.batch(16 + jobs * 10);
        let number = rows::count(ledger.commits + 1);
        batch.insert(
            engine.table(Space::Directory),
            keys::commit(ledger.store),
            number,
        );
        Self {
            engine,
            view: engine.view(),
            ledger,
            now,
            batch,
            records: 0,
            bytes: 0,
            chats: HashMap::new(),
            claims: HashMap::new(),
            touched: HashMap::new(),
            effects: Vec::new(),
            last_live: NO_DEVICE,
        }
    }

    fn put(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.count(key.len() + value.len());
        self.batch.insert(self.engine.table(space), key, value);
    }

    fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.count(key.len());
        self.batch.remove(self.engine.table(space), key);
    }

    fn count(&mut self, bytes: usize) {
        self.records += 1;
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }

    /// Takes a job in, or turns it down. It is told from `settles` once the commit is through.
    pub(super) fn add(&mut self, queued: Queued, settles: &mut Vec<Settle>) {
        let Queued {
            slot,
            ticket,
            job,
            done,
            terms,
        } = queued;
        if terms.is_baseless() {
            // In its turn, for a ticket counts for all before it.
            return settles.push(Settle {
                slot,
                ticket,
                done,
                outcome: Outcome::Failed(StoreError::Refused(SubmitError::Busy)),
                needs_commit: false,
            });
        }
        let Encoded {
            rows,
            entries,
            claim,
            is_orphan,
            ..
        } = job;
        let unknown = Outcome::Failed(StoreError::Failed);
        // From here on somebody waits: should the rest panic, this is what is told.
        settles.push(Settle {
            slot: Arc::clone(&slot),
            ticket,
            done,
            outcome: unknown,
            needs_commit: true,
        });
        let admission = if is_orphan || !self.all_live(&rows) {
            Admission::Turned {
                outcome: Outcome::Failed(StoreError::Gone),
                needs_commit: true,
            }
        } else {
            self.admit(claim.as_ref())
        };
        let (outcome, needs_commit) = match admission {
            Admission::Turned {
                outcome,
                needs_commit,
            } => (outcome, needs_commit),
            Admission::Write => {
                let before = self.state(slot.number(), &slot).sequencer.head();
                for row in rows {
                    self.add_row(&slot, row);
                }
                let cursor = self.place(&slot, before, entries);
                if let Some(claim) = claim {
                    self.keep(claim, cursor);
                }
                (Outcome::Committed { cursor }, true)
            }
        };
        if let Some(settle) = settles.last_mut() {
            (settle.outcome, settle.needs_commit) = (outcome, needs_commit);
        }
    }

    /// Looks whether the claim was made before: in this commit or in the store. An answer whose time is over is none.
    fn admit(&self, claim: Option<&Claimed>) -> Admission {
        let Some(claim) = claim else {
            return Admission::Write;
        };
        let (kept, needs_commit) = match self.claims.get(&claim.key) {
            Some(kept) => (Some(kept.clone()), true),
            None => match self
                .view
                .get(Space::Idempotency, &claim.key)
                .and_then(|it| it.map(|row| rows::unkept(&row)).transpose())
            {
                Ok(kept) => (kept, false),
                Err(error) => {
                    return Admission::Turned {
                        outcome: Outcome::Failed(error),
                        needs_commit: false,
                    };
                }
            },
        };
        match kept {
            Some(kept) if self.now < kept.expires_at => {
                let same = kept.fingerprint == claim.fingerprint;
                let outcome = if same {
                    Outcome::Replayed(kept)
                } else {
                    Outcome::Mismatch
                };
                Admission::Turned {
                    outcome,
                    needs_commit,
                }
            }
            Some(_) | None => Admission::Write,
        }
    }

    fn keep(&mut self, claim: Claimed, cursor: Cursor) {
        let Claimed {
            key,
            mut row,
            fingerprint,
            expires_at,
            answer,
        } = claim;
        rows::splice(&mut row, cursor);
        self.claims.insert(
            key.clone(),
            KeptAnswer {
                answer,
                cursor,
                fingerprint,
                expires_at,
            },
        );
        self.put(Space::Idempotency, key, row);
    }

    fn state(&mut self, tenant: u32, slot: &Slot) -> &mut TenantState {
        self.ledger.tenants.entry(tenant).or_insert_with(|| {
            let sequencer = Sequencer::new(
                slot.id(),
                Cursor {
                    epoch: FIRST_EPOCH,
                    seq: 0,
                },
            );
            TenantState {
                sequencer,
                floor: 0,
                erased: 0,
            }
        })
    }

    fn touch(&mut self, slot: &Arc<Slot>, before: Cursor) -> &mut Touched {
        let touched = || Touched {
            slot: Arc::clone(slot),
            before,
            entries: Vec::new(),
            floor: None,
        };
        self.touched.entry(slot.number()).or_insert_with(touched)
    }

    /// Gives the entries their places; says where the log then stands.
    fn place(
        &mut self,
        slot: &Arc<Slot>,
        before: Cursor,
        entries: Vec<(actors::model::EntryDraft, Vec<u8>)>,
    ) -> Cursor {
        for (draft, mut row) in entries {
            let entry = self.state(slot.number(), slot).sequencer.place(draft);
            rows::place_entry(&mut row, entry.header());
            self.put(
                Space::Log,
                keys::log(slot.number(), entry.cursor().seq),
                row,
            );
            self.touch(slot, before).entries.push(entry);
        }
        self.state(slot.number(), slot).sequencer.head()
    }

    /// Whether every row has a device that lives or is made by the same job.
    fn all_live(&mut self, rows: &[Row]) -> bool {
        let mut made = NO_DEVICE;
        rows.iter().all(|row| {
            if let Row::Device { number, .. } = row {
                made = *number;
                return !self.ledger.gone.contains(number);
            }
            row.device() == made || self.lives(row.device())
        })
    }

    fn lives(&mut self, device: u32) -> bool {
        let lives =
            device == NO_DEVICE || device == self.last_live || self.ledger.live.contains(&device);
        if lives {
            self.last_live = device;
        }
        lives
    }

    fn add_row(&mut self, slot: &Arc<Slot>, row: Row) {
        match row {
            Row::Put {
                space, key, value, ..
            } => self.put(space, key, value),
            Row::Remove { space, key } => self.remove(space, key),
            Row::Chat { key, value, .. } => {
                self.chats.insert(key, value);
            }
            Row::Device {
                id,
                number,
                key,
                value,
            } => {
                self.ledger.live.insert(number);
                self.put(Space::Directory, key, value);
                self.effects
                    .push(Effect::Made(Arc::clone(slot), id, number));
            }
            Row::DeviceRemoved { id, place } => {
                self.ledger.live.remove(&place.device);
                self.ledger.gone.insert(place.device);
                self.last_live = NO_DEVICE;
                self.remove(Space::Directory, keys::device(place.tenant, id));
                self.put(Space::Directory, keys::erasure(place), rows::raw(&[]));
                self.effects
                    .push(Effect::Removed(Arc::clone(slot), id, place));
            }
            Row::Tenant { key, value } => {
                self.put(Space::Directory, key, value);
                let before = self.state(slot.number(), slot).sequencer.head();
                self.touch(slot, before);
            }
            Row::Floor(seq) => self.raise_floor(slot, seq),
        }
    }

    fn raise_floor(&mut self, slot: &Arc<Slot>, seq: u64) {
        let tenant = slot.number();
        let state = self.state(tenant, slot);
        let head = state.sequencer.head();
        state.floor = state.floor.max(seq.min(head.seq));
        let (floor, erased) = (state.floor, state.erased);
        self.put(
            Space::Directory,
            keys::floor(tenant),
            rows::pair(floor, erased),
        );
        self.touch(slot, head).floor = Some(floor);
        let waits = self
            .ledger
            .erasures
            .iter()
            .any(|it| matches!(it, Task::Log { tenant: it } if *it == tenant));
        if erased < floor && !waits {
            self.ledger.erasures.push_back(Task::Log { tenant });
        }
    }

    /// Erases the next piece of what nobody sees any more.
    pub(super) fn erase(&mut self) {
        match self.ledger.erasures.pop_front() {
            Some(Task::Log { tenant }) => self.erase_log(tenant),
            Some(Task::Device {
                place,
                table,
                beyond,
            }) => match erasure::next_piece(&self.view, place, table, beyond) {
                Ok(Piece { rows, rest }) => {
                    rows.into_iter()
                        .for_each(|(space, key)| self.remove(space, key));
                    match rest {
                        Some(rest) => self.ledger.erasures.push_back(rest),
                        None => self.remove(Space::Directory, keys::erasure(place)),
                    }
                }
                // It is tried again when the store is opened.
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "rows of a removed device can't be erased"
                ),
            },
            None => {}
        }
    }

    fn erase_log(&mut self, tenant: u32) {
        let Some(state) = self.ledger.tenants.get_mut(&tenant) else {
            return;
        };
        let from = state.erased.saturating_add(1);
        let chunk = u64::try_from(erasure::CHUNK).unwrap_or(u64::MAX);
        state.erased = state.floor.min(state.erased.saturating_add(chunk));
        let (floor, erased) = (state.floor, state.erased);
        (from..=erased).for_each(|seq| self.remove(Space::Log, keys::log(tenant, seq)));
        self.put(
            Space::Directory,
            keys::floor(tenant),
            rows::pair(floor, erased),
        );
        if erased < floor {
            self.ledger.erasures.push_back(Task::Log { tenant });
        }
    }

    /// Ends the commit's making: the chats as they are last, the heads as they are now.
    pub(super) fn build(mut self) -> Built {
        for (key, value) in std::mem::take(&mut self.chats) {
            self.put(Space::Chats, key, value);
        }
        let numbers: Vec<u32> = self.touched.keys().copied().collect();
        for tenant in numbers {
            if let Some(state) = self.ledger.tenants.get(&tenant) {
                let head = state.sequencer.head();
                self.put(Space::Directory, keys::head(tenant), rows::cursor(head));
            }
        }
        let Self {
            batch,
            records,
            bytes,
            touched,
            effects,
            ..
        } = self;
        Built {
            batch,
            records,
            bytes,
            touched,
            effects,
        }
    }
}
