//! From which message on a device is owed receipts: a lower bound that outlives a restart.
//!
//! Messages are counted by the second of their id, so that ten thousand of them cost one small entry. The bound may
//! be too low, never too high: a receipt that comes twice changes nothing, one that never comes is lost.

use std::collections::BTreeMap;

use actors::model::MessageId;

/// The second in which a message was named.
fn slot(id: MessageId) -> u64 {
    id.time().as_millis_u64() / 1_000
}

/// The first id of a second.
pub(super) fn first_id(slot: u64) -> MessageId {
    MessageId::from_u128(u128::from(slot.saturating_mul(1_000)) << 80)
}

/// What one device is owed.
#[derive(Debug, Default)]
pub(super) struct Dues {
    /// How many messages wait for receipts, by second.
    open: BTreeMap<u64, u32>,
    /// The newest second of a message that was ever counted.
    newest: Option<u64>,
    /// The oldest second of which something was let go from memory, to be found again in the store.
    missed: Option<u64>,
    /// The same, while the store is being searched.
    searching: Option<u64>,
    /// The highest bound that may be durable; `None` where there is none.
    written: Option<u64>,
    /// Whether the bound may have moved since it was last looked at.
    moved: bool,
}

impl Dues {
    /// The dues after a start: everything from the mark on is to be looked through.
    pub(super) fn from_mark(mark: MessageId) -> Self {
        let at = slot(mark);
        Self {
            newest: Some(at),
            missed: Some(at),
            written: Some(at),
            ..Self::default()
        }
    }

    /// Counts a message. True where somebody must look at the bound later and does not know it yet.
    pub(super) fn add(&mut self, id: MessageId) -> bool {
        let at = slot(id);
        *self.open.entry(at).or_default() += 1;
        self.newest = self.newest.max(Some(at));
        !std::mem::replace(&mut self.moved, true)
    }

    /// A message has all its receipts. True as for [`Self::add`].
    pub(super) fn settle(&mut self, id: MessageId) -> bool {
        let at = slot(id);
        if let Some(count) = self.open.get_mut(&at) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.open.remove(&at);
            }
        }
        !std::mem::replace(&mut self.moved, true)
    }

    /// A message leaves memory without its receipts.
    pub(super) fn miss(&mut self, id: MessageId) -> bool {
        let at = slot(id);
        self.missed = Some(self.missed.map_or(at, |it| it.min(at)));
        self.settle(id)
    }

    /// The second before which nothing is owed.
    fn low(&self) -> Option<u64> {
        let open = self.open.first_key_value().map(|(at, _count)| *at);
        [open, self.missed, self.searching]
            .into_iter()
            .flatten()
            .min()
            .or(self.newest)
    }

    /// The bound that must be durable before a message that was just counted is handed over, where it is not yet.
    pub(super) fn lowered(&mut self) -> Option<MessageId> {
        let low = self.low()?;
        if self.written.is_some_and(|it| it <= low) {
            return None;
        }
        self.written = Some(low);
        Some(first_id(low))
    }

    /// The bound as it is now, where it is not what was written. Where none may be durable, whoever counts a message next
    /// waits for the first.
    pub(super) fn changed(&mut self) -> Option<MessageId> {
        self.moved = false;
        let low = self.low()?;
        if self.written.is_none_or(|it| it == low) {
            return None;
        }
        self.written = Some(low);
        Some(first_id(low))
    }

    /// What was given out by [`Self::lowered`] or [`Self::changed`] did not become durable.
    pub(super) const fn not_written(&mut self) {
        self.written = None;
    }

    /// Whether something is to be found again in the store.
    pub(super) const fn has_missed(&self) -> bool {
        self.missed.is_some()
    }

    /// Starts to look for what was missed: from which message on.
    pub(super) fn search(&mut self) -> Option<MessageId> {
        let from = [self.missed.take(), self.searching]
            .into_iter()
            .flatten()
            .min()?;
        self.searching = Some(from);
        Some(first_id(from))
    }

    /// Everything that was missed before the search is in memory again.
    pub(super) fn found(&mut self) -> bool {
        self.searching = None;
        !std::mem::replace(&mut self.moved, true)
    }

    /// The search broke off.
    pub(super) fn search_failed(&mut self) {
        self.missed = [self.missed, self.searching.take()]
            .into_iter()
            .flatten()
            .min();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(second: u64, nth: u128) -> MessageId {
        MessageId::from_u128(first_id(second).as_u128() + nth)
    }

    #[test]
    fn the_bound_is_never_above_what_is_owed() {
        let mut dues = Dues::default();
        dues.add(id(10, 5));
        assert_eq!(
            dues.lowered(),
            Some(first_id(10)),
            "the first message is covered before it is handed over"
        );
        dues.add(id(12, 0));
        dues.add(id(10, 6));
        assert_eq!(dues.lowered(), None);
        dues.settle(id(10, 5));
        assert_eq!(dues.changed(), None);
        dues.settle(id(10, 6));
        assert_eq!(dues.changed(), Some(first_id(12)));
        dues.settle(id(12, 0));
        assert_eq!(dues.changed(), None, "idle, it stays at the newest");
        dues.add(id(9, 0));
        assert_eq!(
            dues.lowered(),
            Some(first_id(9)),
            "an old message that was scheduled pulls it down"
        );
    }

    #[test]
    fn what_was_missed_holds_the_bound_until_it_is_found() {
        let mut dues = Dues::default();
        dues.add(id(10, 0));
        dues.add(id(20, 0));
        assert_eq!(dues.lowered(), Some(first_id(10)));
        dues.miss(id(10, 0));
        dues.settle(id(20, 0));
        assert_eq!(dues.changed(), None);
        assert_eq!(dues.search(), Some(first_id(10)));
        dues.search_failed();
        assert!(dues.has_missed());
        assert_eq!(dues.search(), Some(first_id(10)));
        assert_eq!(dues.changed(), None);
        dues.found();
        assert_eq!(dues.changed(), Some(first_id(20)));
    }

    #[test]
    fn where_no_bound_may_be_durable_whoever_counts_a_message_waits_for_one() {
        let mut dues = Dues::default();
        dues.add(id(10, 0));
        assert_eq!(dues.lowered(), Some(first_id(10)));
        dues.not_written();
        dues.add(id(12, 0));
        assert_eq!(dues.changed(), None, "nobody would wait for it");
        assert_eq!(dues.lowered(), Some(first_id(10)));
    }

    #[test]
    fn after_a_start_everything_from_the_mark_on_is_looked_through() {
        let mut dues = Dues::from_mark(id(30, 4));
        assert_eq!(dues.search(), Some(first_id(30)));
    }
}
