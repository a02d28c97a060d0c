//! Virtual phones: how they behave, and what waits for those that are offline.

use std::collections::HashMap;

use actors::model::DeviceId;
use actors::ports::simulation::{AutoReceipts, Phone};

use super::digits::Digits;
use super::timers::Due;

/// What a phone does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// There is no such phone.
    NotThere,
    /// Nothing is heard of it again.
    Nothing,
    /// It gets it when it comes online.
    Offline,
    /// It confirms.
    Receipts(AutoReceipts),
    /// It answers, and does not confirm.
    Reply,
}

fn promise(phone: &Phone) -> Promise {
    match (phone.exists, phone.blocks_us, phone.auto_receipts) {
        (false, _, _) => Promise::NotThere,
        (true, true, _) => Promise::Nothing,
        (true, false, None) if phone.auto_reply.is_none() => Promise::Nothing,
        (true, false, Some(_) | None) if !phone.online => Promise::Offline,
        (true, false, Some(receipts)) => Promise::Receipts(receipts),
        (true, false, None) => Promise::Reply,
    }
}

/// The phones of a tenant.
#[derive(Debug, Default)]
pub(super) struct Phones {
    default: Phone,
    own: HashMap<Digits, Phone>,
}

impl Phones {
    /// How a phone behaves; the default of all where `None`.
    pub(super) fn of(&self, number: Option<Digits>) -> &Phone {
        number
            .and_then(|number| self.own.get(&number))
            .unwrap_or(&self.default)
    }

    /// What a phone does with a message.
    pub(super) fn promise(&self, number: Digits) -> Promise {
        promise(self.of(Some(number)))
    }

    /// Whether one more number can have settings of its own.
    pub(super) fn has_room(&self, number: Option<Digits>, max: usize) -> bool {
        number.is_none_or(|number| self.own.len() < max || self.own.contains_key(&number))
    }

    /// Sets how a phone behaves.
    pub(super) fn set(&mut self, number: Option<Digits>, phone: Phone) {
        match number {
            Some(number) => drop(self.own.insert(number, phone)),
            None => self.default = phone,
        }
    }
}

/// Messages that wait for an offline phone.
#[derive(Debug, Default)]
pub(super) struct Held {
    waiting: HashMap<Digits, Vec<Due>>,
    count: usize,
    /// Whether some found no room, and are to be found again in the store.
    pub(super) overflown: bool,
}

impl Held {
    /// Holds a message; gives it back where there is no room.
    pub(super) fn hold(&mut self, number: Digits, due: Due, max: usize) -> Result<(), Due> {
        if max <= self.count {
            self.overflown = true;
            return Err(due);
        }
        self.count += 1;
        self.waiting.entry(number).or_default().push(due);
        Ok(())
    }

    /// Takes what waits for phones that are not offline any more.
    pub(super) fn release(&mut self, phones: &Phones) -> Vec<(Promise, Due)> {
        let mut out = Vec::new();
        self.waiting
            .retain(|number, dues| match phones.promise(*number) {
                Promise::Offline => true,
                promise @ (Promise::NotThere
                | Promise::Nothing
                | Promise::Receipts(_)
                | Promise::Reply) => {
                    out.extend(dues.drain(..).map(|due| (promise, due)));
                    false
                }
            });
        self.count = self.count.saturating_sub(out.len());
        out
    }

    /// Takes what a device's messages wait for.
    pub(super) fn forget(&mut self, device: DeviceId) -> Vec<Due> {
        let mut out = Vec::new();
        self.waiting.retain(|_number, dues| {
            out.extend(dues.extract_if(.., |due| due.line.device == device));
            !dues.is_empty()
        });
        self.count = self.count.saturating_sub(out.len());
        out
    }
}
