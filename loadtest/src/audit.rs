//! Was everything delivered, once, in order? Pure book-keeping, so that it can be tested without a server.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How far below the first sequence number seen later ones may still be told apart.
const BEFORE_FIRST: u64 = 4_096;
/// How many sequence numbers one audit covers (2 MiB of bits at most).
const SPAN: u64 = 1 << 24;

/// What one subscriber saw of a log, by sequence number.
#[derive(Debug, Default)]
pub(crate) struct SequenceAudit {
    base: Option<u64>,
    seen: Vec<u64>,
    last: Option<u64>,
    /// Entries that came.
    pub(crate) arrived: u64,
    /// Entries that came again.
    pub(crate) doubled: u64,
    /// Entries that came after a later one.
    pub(crate) disordered: u64,
    /// Entries too far from the first to be told apart.
    pub(crate) outside: u64,
}

impl SequenceAudit {
    /// Notes one entry.
    pub(crate) fn note(&mut self, seq: u64) {
        self.arrived += 1;
        match self.last {
            Some(last) if seq < last => self.disordered += 1,
            Some(_) | None => self.last = Some(seq),
        }
        let base = *self.base.get_or_insert(seq.saturating_sub(BEFORE_FIRST));
        let Some((word, bit)) = place(base, seq) else {
            self.outside += 1;
            return;
        };
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if let Some(bits) = self.seen.get_mut(word) {
            if *bits & bit != 0 {
                self.doubled += 1;
            }
            *bits |= bit;
        }
    }

    /// Whether this entry came.
    fn has(&self, seq: u64) -> bool {
        self.base
            .and_then(|base| place(base, seq))
            .is_some_and(|(word, bit)| self.seen.get(word).is_some_and(|bits| bits & bit != 0))
    }

    /// How many of the expected entries never came.
    pub(crate) fn lost(&self, expected: &[u64]) -> u64 {
        count(expected.iter().filter(|seq| !self.has(**seq)))
    }

    /// How many entries came that nobody expected: stored, and never acknowledged. Each counts once.
    pub(crate) fn unexpected(&self, expected: &[u64]) -> u64 {
        let expected: HashSet<_> = expected.iter().collect();
        let there = count(expected.iter().filter(|seq| self.has(***seq)));
        (self.arrived - self.doubled - self.outside).saturating_sub(there)
    }
}

/// Word and bit of a sequence number, if it lies in the span.
fn place(base: u64, seq: u64) -> Option<(usize, u64)> {
    let offset = seq.checked_sub(base).filter(|offset| *offset < SPAN)?;
    Some((usize::try_from(offset / 64).ok()?, 1 << (offset % 64)))
}

/// Order of a log seen in full: it rises, and without a filter it rises by one.
#[derive(Debug, Default)]
pub(crate) struct OrderAudit {
    last: Option<u64>,
    /// Entries that did not come after their predecessor.
    pub(crate) disordered: u64,
    /// Sequence numbers that were jumped over.
    pub(crate) missing: u64,
}

impl OrderAudit {
    /// Notes the next entry.
    pub(crate) fn note(&mut self, seq: u64) {
        if let Some(last) = self.last {
            if seq <= last {
                self.disordered += 1;
                return;
            }
            self.missing += seq - last - 1;
        }
        self.last = Some(seq);
    }
}

/// A send that the server acknowledged. Times are since the start of the run.
#[derive(Debug, Clone)]
pub(crate) struct Acknowledged {
    /// The message's id.
    pub(crate) id: String,
    /// The place of its event, as the acknowledgement said.
    pub(crate) seq: Option<u64>,
    /// When it was due.
    pub(crate) due: Duration,
}

/// An event that came for a message.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The message's id.
    pub(crate) id: String,
    /// The place of the event in the log.
    pub(crate) seq: u64,
    /// When it came.
    pub(crate) at: Duration,
}

/// What comparing sends with arrivals showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Acknowledged and never seen.
    pub(crate) lost: u64,
    /// Seen again.
    pub(crate) doubled: u64,
    /// Seen at another place than the acknowledgement said.
    pub(crate) misplaced: u64,
    /// Seen without an acknowledgement: sends whose outcome the caller does not know, or messages that were stored twice.
    pub(crate) unacknowledged: u64,
    /// When it was due, and due → event, of those due at or after the end of the warm-up.
    pub(crate) delays: Vec<(Duration, Duration)>,
}

impl Findings {
    /// Messages that came again, or that there are too many of for the sends whose outcome is not known.
    pub(crate) fn doubled(&self, unknown: u64) -> u64 {
        self.doubled + self.unacknowledged.saturating_sub(unknown)
    }
}

/// Compares what was acknowledged with what arrived.
pub(crate) fn reconcile(
    acknowledged: &[Acknowledged],
    arrivals: &[Arrival],
    warm_up: Duration,
) -> Findings {
    let mut findings = Findings::default();
    let mut first: HashMap<&str, &Arrival> = HashMap::with_capacity(arrivals.len());
    for arrival in arrivals {
        if first.contains_key(arrival.id.as_str()) {
            findings.doubled += 1;
        } else {
            first.insert(&arrival.id, arrival);
        }
    }
    let mut known = HashSet::with_capacity(acknowledged.len());
    for sent in acknowledged {
        known.insert(sent.id.as_str());
        let Some(arrival) = first.get(sent.id.as_str()) else {
            findings.lost += 1;
            continue;
        };
        if sent.seq.is_some_and(|seq| seq != arrival.seq) {
            findings.misplaced += 1;
        }
        if sent.due >= warm_up {
            let delay = arrival.at.saturating_sub(sent.due);
            findings.delays.push((sent.due, delay));
        }
    }
    findings.unacknowledged = count(first.keys().filter(|id| !known.contains(**id)));
    findings
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    items.fold(0, |sum, _| sum + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(id: &str, seq: u64, due_ms: u64) -> Acknowledged {
        Acknowledged {
            id: id.to_owned(),
            seq: Some(seq),
            due: Duration::from_millis(due_ms),
        }
    }

    fn came(id: &str, seq: u64, at_ms: u64) -> Arrival {
        Arrival {
            id: id.to_owned(),
            seq,
            at: Duration::from_millis(at_ms),
        }
    }

    fn audit(seqs: &[u64]) -> SequenceAudit {
        let mut audit = SequenceAudit::default();
        seqs.iter().for_each(|seq| audit.note(*seq));
        audit
    }

    #[test]
    fn a_clean_log_has_no_fault() {
        let found = audit(&[100, 103, 107]);
        assert_eq!(found.lost(&[100, 103, 107]), 0);
        assert_eq!((found.doubled, found.disordered, found.outside), (0, 0, 0));
    }

    #[test]
    fn a_repeat_is_doubled_and_a_gap_is_lost() {
        let found = audit(&[1, 2, 2, 5]);
        assert_eq!(found.doubled, 1);
        assert_eq!(found.disordered, 0);
        assert_eq!(found.lost(&[1, 2, 3, 4, 5]), 2);
    }

    #[test]
    fn a_late_entry_is_disordered_and_not_lost() {
        let found = audit(&[64, 66, 65, 67]);
        assert_eq!(found.disordered, 1);
        assert_eq!(found.doubled, 0);
        assert_eq!(found.lost(&[64, 65, 66, 67]), 0);
    }

    #[test]
    fn an_entry_that_nobody_expected_is_told_apart_from_a_repeat() {
        let found = audit(&[5, 6, 7, 7, 9]);
        assert_eq!((found.unexpected(&[5, 7, 7, 8]), found.doubled), (2, 1));
        assert_eq!(found.unexpected(&[5, 6, 7, 9]), 0);
        assert_eq!(audit(&[]).unexpected(&[1]), 0);
    }

    #[test]
    fn what_never_came_is_lost_also_when_nothing_came() {
        assert_eq!(audit(&[]).lost(&[7, 8]), 2);
    }

    #[test]
    fn an_entry_far_off_does_not_cost_memory() {
        let found = audit(&[1, u64::MAX]);
        assert_eq!(found.outside, 1);
        assert!(found.seen.len() < 100);
    }

    #[test]
    fn order_counts_holes_and_steps_back() {
        let mut order = OrderAudit::default();
        for seq in [5, 6, 9, 8, 10] {
            order.note(seq);
        }
        assert_eq!((order.missing, order.disordered), (2, 1));
    }

    #[test]
    fn sends_and_arrivals_are_reconciled() {
        let sends = [sent("a", 1, 0), sent("b", 2, 20), sent("c", 3, 30)];
        let arrivals = [
            came("a", 1, 5),
            came("b", 4, 27),
            came("b", 5, 28),
            came("x", 6, 40),
        ];
        let findings = reconcile(&sends, &arrivals, Duration::from_millis(10));
        assert_eq!(
            findings,
            Findings {
                lost: 1,
                doubled: 1,
                misplaced: 1,
                unacknowledged: 1,
                delays: vec![(Duration::from_millis(20), Duration::from_millis(7))],
            }
        );
        assert_eq!((findings.doubled(1), findings.doubled(0)), (1, 2));
    }
}
