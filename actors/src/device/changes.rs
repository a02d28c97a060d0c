use std::collections::VecDeque;

use crate::model::{DeviceRecord, EntryDraft, EventId, SessionChange};
use crate::ports::Write;

/// Changes that wait behind the save under way; a session that changes faster than the store writes keeps the newest.
const WAITING_MAX: usize = 64;

/// What a device has to tell and to note that is not durable yet. One save at a time: what changes meanwhile goes
/// with the next.
#[derive(Default)]
pub(super) struct Changes {
    waiting: VecDeque<(Option<SessionChange>, EntryDraft)>,
    /// How many of them, from the front, the save under way holds.
    in_save: usize,
    saving: bool,
    last: Option<EventId>,
}

impl Changes {
    /// Gives back the change that had to make room.
    pub(super) fn push(
        &mut self,
        change: Option<SessionChange>,
        entry: EntryDraft,
    ) -> Option<(Option<SessionChange>, EntryDraft)> {
        let is_crowded = WAITING_MAX <= self.waiting.len().saturating_sub(self.in_save);
        let overtaken = is_crowded.then(|| self.waiting.remove(self.in_save));
        self.waiting.push_back((change, entry));
        overtaken.flatten()
    }

    pub(super) fn is_durable(&self) -> bool {
        self.waiting.is_empty() && !self.saving
    }

    /// All that waits, as a job of the store; nothing while a save is under way.
    pub(super) fn save(&mut self, record: &DeviceRecord) -> Option<(Vec<Write>, Vec<EntryDraft>)> {
        if self.saving {
            return None;
        }
        let (changes, entries): (Vec<_>, Vec<_>) = self.waiting.iter().cloned().unzip();
        let mut writes = vec![Write::Device(Box::new(record.clone()))];
        for change in changes.into_iter().flatten() {
            let id = EventId::after(self.last, change.at);
            self.last = Some(id);
            writes.push(Write::SessionChange {
                device: record.id,
                id,
                change,
            });
        }
        self.saving = true;
        self.in_save = self.waiting.len();
        Some((writes, entries))
    }

    /// The save is through.
    pub(super) fn saved(&mut self) {
        self.saving = false;
        self.waiting.drain(..self.in_save.min(self.waiting.len()));
        self.in_save = 0;
    }

    /// The save did not come through: all of it waits on, and no other one starts before `again`.
    pub(super) fn failed(&mut self) {
        self.in_save = 0;
    }

    pub(super) fn again(&mut self) {
        self.saving = false;
    }
}
