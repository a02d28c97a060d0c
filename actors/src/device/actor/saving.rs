//! A device's record on its way to the store: one save at a time, and what came meanwhile goes with the next.

use std::sync::Arc;

use super::{SAVE_AGAIN, Working};
use crate::CommandError;
use crate::device::handle::DeviceHandle;
use crate::device::message::DeviceMsg;
use crate::door::report;
use crate::ports::{Done, Job, Outcome, StoreError, Urgency};

impl Working {
    pub(super) fn save(&mut self) {
        if self.removing {
            return;
        }
        self.note_times();
        let Some((writes, entries)) = self.changes.save(&self.record) else {
            return;
        };
        let record = Arc::new(self.record.clone());
        let (shared, myself) = (Arc::clone(&self.shared), self.myself.clone());
        let done: Done = Box::new(move |outcome| {
            if matches!(outcome, Outcome::Committed { .. }) {
                shared.show(record);
            }
            let _heard = report(&myself, DeviceMsg::Saved(outcome));
        });
        let job = Job {
            writes,
            entries,
            claim: None,
            urgency: Urgency::Now,
            is_baseless: None,
            done,
        };
        let _told = self.shared.store().submit(self.shared.tenant(), job);
    }

    /// When the network was last heard goes with the next save, or at the end: no message is worth one for that.
    fn note_times(&mut self) {
        let shown = DeviceHandle::from(Arc::clone(&self.shared)).session();
        self.record.last_inbound_at = shown.last_inbound_at;
        self.record.last_ack_at = shown.last_ack_at;
    }

    pub(super) fn save_times(&mut self) {
        self.note_times();
        if self.changes.is_durable() && self.record != *self.shared.record() {
            self.save();
        }
    }

    pub(super) fn save_again_soon(&mut self) {
        self.changes.failed();
        let myself = self.myself.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(SAVE_AGAIN).await;
            let _heard = report(&myself, DeviceMsg::SaveAgain);
        });
    }

    pub(super) fn saved(&mut self, outcome: Outcome) {
        let shown = self.shared.record();
        match outcome {
            Outcome::Committed { .. } | Outcome::Replayed(_) | Outcome::Mismatch => {
                self.changes.saved();
                if *shown == self.record && self.changes.is_durable() {
                    for reply in self.waiting.drain(..) {
                        reply.send(Ok(Arc::clone(&shown)));
                    }
                } else {
                    self.save();
                }
            }
            Outcome::Failed(StoreError::Refused(_)) => self.save_again_soon(),
            Outcome::Failed(error) => {
                tracing::error!(device = %self.shared.id(), %error, "state of the device could not be saved");
                for reply in self.waiting.drain(..) {
                    reply.send(Err(CommandError::OutcomeUnknown));
                }
                self.save_again_soon();
            }
        }
    }
}
