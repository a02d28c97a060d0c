//! Named consumers without their runtime: who holds a name, where it stands, what is still to be written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use super::handle::{AttachmentEnd, Consumer, ConsumerName};
use crate::CommandError;
use crate::model::Cursor;

/// A connection that holds a name.
#[derive(Debug)]
pub(super) struct Live {
    attachment: u64,
    /// The `seq` that it confirmed last.
    acked: Arc<AtomicU64>,
    /// How much of that is in the place.
    seen: u64,
    end: oneshot::Sender<AttachmentEnd>,
}

#[derive(Debug)]
struct Row {
    place: Cursor,
    /// What the store has, as far as we know.
    written: Option<Cursor>,
    live: Option<Live>,
    /// The store is asked to forget it: no place may be written behind that.
    leaving: bool,
}

/// All named consumers of a tenant.
#[derive(Debug)]
pub(super) struct Consumers {
    epoch: u32,
    rows: BTreeMap<ConsumerName, Row>,
    names_max: usize,
    attachments: u64,
}

/// Names are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoName;

/// A name that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) attachment: u64,
    pub(super) place: Cursor,
    pub(super) is_new: bool,
    pub(super) acked: Arc<AtomicU64>,
    pub(super) ended: oneshot::Receiver<AttachmentEnd>,
}

impl Consumers {
    pub(super) fn new(epoch: u32, names_max: usize, stored: Vec<(String, Cursor)>) -> Self {
        let row = |(name, place): (String, Cursor)| {
            let row = Row {
                place,
                written: Some(place),
                live: None,
                leaving: false,
            };
            name.parse::<ConsumerName>().ok().map(|name| (name, row))
        };
        Self {
            epoch,
            rows: stored.into_iter().filter_map(row).collect(),
            names_max,
            attachments: 0,
        }
    }

    /// Gives a name to a connection; one that held it before is told. A new name stands at `fresh`.
    pub(super) fn attach(&mut self, name: &ConsumerName, fresh: Cursor) -> Result<Taken, NoName> {
        self.observe();
        let is_new = !self.rows.contains_key(name);
        if is_new && self.names_max <= self.rows.len() {
            return Err(NoName);
        }
        self.attachments += 1;
        let attachment = self.attachments;
        let row = self.rows.entry(name.clone()).or_insert(Row {
            place: fresh,
            written: None,
            live: None,
            leaving: false,
        });
        let (end, ended) = oneshot::channel();
        let acked = Arc::new(AtomicU64::new(0));
        let live = Live {
            attachment,
            acked: Arc::clone(&acked),
            seen: 0,
            end,
        };
        if let Some(older) = row.live.replace(live) {
            // The older one may be gone already.
            let _gone = older.end.send(AttachmentEnd::Replaced);
        }
        Ok(Taken {
            attachment,
            place: row.place,
            is_new,
            acked,
            ended,
        })
    }

    /// Takes a name back from a connection, unless another holds it now.
    pub(super) fn detach(&mut self, name: &ConsumerName, attachment: u64) {
        self.observe();
        if let Some(row) = self.rows.get_mut(name) {
            row.live.take_if(|it| it.attachment == attachment);
        }
    }

    /// Moves places to what was confirmed, and lets go of connections that ended without a word.
    pub(super) fn observe(&mut self) {
        let epoch = self.epoch;
        for row in self.rows.values_mut() {
            let Some(live) = row.live.as_mut() else {
                continue;
            };
            let acked = live.acked.load(Ordering::Acquire);
            if live.seen < acked {
                live.seen = acked;
                row.place = Cursor { epoch, seq: acked };
            }
            row.live.take_if(|it| it.end.is_closed());
        }
    }

    /// What is to be written; from now on it counts as written.
    pub(super) fn take_unwritten(&mut self) -> Vec<(ConsumerName, Cursor)> {
        let mut unwritten = Vec::new();
        for (name, row) in &mut self.rows {
            if row.written != Some(row.place) && !row.leaving {
                row.written = Some(row.place);
                unwritten.push((name.clone(), row.place));
            }
        }
        unwritten
    }

    /// A write failed: nobody knows any more what the store has.
    pub(super) fn doubt(&mut self) {
        for row in self.rows.values_mut() {
            row.written = None;
        }
    }

    /// Sends away whoever holds a name, so that it comes again; whether there is such a name.
    pub(super) fn release(&mut self, name: &ConsumerName) -> bool {
        self.observe();
        let Some(row) = self.rows.get_mut(name) else {
            return false;
        };
        if let Some(live) = row.live.take() {
            let _gone = live.end.send(AttachmentEnd::Moved);
        }
        true
    }

    /// Moves a consumer; a connection that holds its name must come again. The store has the place already, unless an
    /// ack was written behind it: so it is written again.
    pub(super) fn seek(&mut self, name: &ConsumerName, to: Cursor) {
        if self.release(name)
            && let Some(row) = self.rows.get_mut(name)
        {
            row.place = to;
            row.written = None;
        }
    }

    /// The store is asked to forget a consumer: until it has, nothing is written of it.
    pub(super) fn leave(&mut self, name: &ConsumerName) -> Result<(), CommandError> {
        let row = self.rows.get_mut(name).ok_or(CommandError::NotFound)?;
        if row.leaving {
            return Err(CommandError::Busy);
        }
        row.leaving = true;
        Ok(())
    }

    /// A consumer was not forgotten after all, or perhaps it was: so it is written again.
    pub(super) fn keep(&mut self, name: &ConsumerName) {
        if let Some(row) = self.rows.get_mut(name) {
            row.leaving = false;
            row.written = None;
        }
    }

    /// Forgets a consumer, and sends away whoever holds its name.
    pub(super) fn delete(&mut self, name: &ConsumerName) {
        let row = self.rows.remove(name);
        if let Some(live) = row.and_then(|it| it.live) {
            let _gone = live.end.send(AttachmentEnd::Deleted);
        }
    }

    /// All consumers, by name.
    pub(super) fn list(&mut self) -> Vec<Consumer> {
        self.observe();
        let consumer = |(name, row): (&ConsumerName, &Row)| Consumer {
            name: name.clone(),
            cursor: row.place,
            is_connected: row.live.is_some(),
        };
        self.rows.iter().map(consumer).collect()
    }

    /// Whether anything may be to write soon.
    pub(super) fn is_busy(&self) -> bool {
        self.rows
            .values()
            .any(|row| row.live.is_some() || row.written != Some(row.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: u32 = 2;

    fn at(seq: u64) -> Cursor {
        Cursor { epoch: EPOCH, seq }
    }

    fn name(text: &str) -> ConsumerName {
        text.parse().unwrap()
    }

    fn consumers() -> Consumers {
        Consumers::new(EPOCH, 2, vec![("crm".into(), at(7))])
    }

    #[test]
    fn the_stored_place_wins_and_a_new_name_begins_where_it_says() {
        let mut consumers = consumers();
        let old = consumers.attach(&name("crm"), at(50)).unwrap();
        assert_eq!((old.place, old.is_new), (at(7), false));
        let new = consumers.attach(&name("bot"), at(50)).unwrap();
        assert_eq!((new.place, new.is_new), (at(50), true));
        assert_eq!(consumers.take_unwritten(), [(name("bot"), at(50))]);
        assert_eq!(consumers.attach(&name("third"), at(0)).err(), Some(NoName));
    }

    #[test]
    fn a_newer_connection_takes_over_and_the_older_can_do_no_harm() {
        let mut consumers = consumers();
        let mut older = consumers.attach(&name("crm"), at(0)).unwrap();
        let newer = consumers.attach(&name("crm"), at(0)).unwrap();
        assert_eq!(older.ended.try_recv(), Ok(AttachmentEnd::Replaced));
        older.acked.store(40, Ordering::Release);
        consumers.detach(&name("crm"), older.attachment);
        assert!(
            consumers.list()[0].is_connected,
            "the newer one holds the name"
        );
        newer.acked.store(9, Ordering::Release);
        assert_eq!(consumers.list()[0].cursor, at(9));
        consumers.detach(&name("crm"), newer.attachment);
        assert_eq!(consumers.take_unwritten(), [(name("crm"), at(9))]);
        assert!(!consumers.is_busy());
    }

    #[test]
    fn a_place_moves_with_acks_only_and_is_written_once() {
        let mut consumers = consumers();
        let taken = consumers.attach(&name("crm"), at(0)).unwrap();
        consumers.observe();
        assert!(consumers.take_unwritten().is_empty());
        taken.acked.store(11, Ordering::Release);
        consumers.observe();
        assert_eq!(consumers.take_unwritten(), [(name("crm"), at(11))]);
        consumers.observe();
        assert!(consumers.take_unwritten().is_empty());
        consumers.doubt();
        assert_eq!(
            consumers.take_unwritten(),
            [(name("crm"), at(11))],
            "a failed write is done again"
        );
    }

    #[test]
    fn a_connection_that_ended_without_a_word_lets_go() {
        let mut consumers = consumers();
        let taken = consumers.attach(&name("crm"), at(0)).unwrap();
        taken.acked.store(8, Ordering::Release);
        drop(taken.ended);
        consumers.observe();
        let listed = consumers.list();
        assert_eq!((listed[0].cursor, listed[0].is_connected), (at(8), false));
    }

    #[test]
    fn who_is_moved_or_deleted_must_come_again() {
        let mut consumers = consumers();
        let mut taken = consumers.attach(&name("crm"), at(0)).unwrap();
        taken.acked.store(30, Ordering::Release);
        consumers.seek(&name("crm"), at(3));
        assert_eq!(taken.ended.try_recv(), Ok(AttachmentEnd::Moved));
        assert_eq!(
            consumers.list()[0].cursor,
            at(3),
            "a late ack of the old connection counts no more"
        );
        let mut again = consumers.attach(&name("crm"), at(0)).unwrap();
        consumers.delete(&name("crm"));
        assert_eq!(again.ended.try_recv(), Ok(AttachmentEnd::Deleted));
        assert!(!consumers.release(&name("crm")));
    }
}
