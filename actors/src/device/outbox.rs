//! What of a device waits for the network: in order per chat, bounded in memory, the store behind it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Jid, MessageBody, MessageId, Timestamp};

type Body = Arc<MessageBody>;

/// Messages that are held back in memory, in windows; beyond them the store is not read on until some are let go.
const HELD_WINDOWS: usize = 4;

/// Messages of one chat that are held back, in order.
#[derive(Debug)]
struct Held {
    until: Timestamp,
    queue: VecDeque<Body>,
}

/// The queue of one device.
///
/// As long as everything fits, a fresh message goes from its chat straight into `ready`. Once something did not fit, the
/// store is the queue: fresh messages are left there, and pages are read from it whenever memory has run dry, until a
/// whole pass found nothing that was left out.
#[derive(Debug)]
pub(super) struct Outbox {
    window: usize,
    ready: VecDeque<Body>,
    held: HashMap<Jid, Held>,
    scheduled: BTreeMap<(Timestamp, MessageId), Body>,
    /// Everything in memory, also what is being handed over.
    present: HashSet<MessageId>,
    /// The store has more than memory.
    behind: bool,
    /// Something was left in the store since the present pass over it began.
    missed: bool,
    /// Where the present pass goes on.
    mark: Option<(Jid, MessageId)>,
    /// When a scheduled message that did not fit into memory is due.
    beyond_due: Option<Timestamp>,
    next_expiry: Option<Timestamp>,
}

impl Outbox {
    /// Starts behind: what waited before a start is in the store.
    pub(super) fn new(window: usize) -> Self {
        Self {
            window: window.max(1),
            ready: VecDeque::new(),
            held: HashMap::new(),
            scheduled: BTreeMap::new(),
            present: HashSet::new(),
            behind: true,
            missed: false,
            mark: None,
            beyond_due: None,
            next_expiry: None,
        }
    }

    /// Messages in memory, also those that are being handed over.
    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    /// Whether more waits in the store, or may.
    pub(super) const fn is_behind(&self) -> bool {
        self.behind
    }

    /// Takes a fresh message, or leaves it in the store.
    pub(super) fn offer(&mut self, body: Body, now: Timestamp) {
        // Scheduled messages have a window of their own: they hold nobody up.
        let waiting = self.present.len().saturating_sub(self.scheduled.len());
        if self.behind || self.window <= waiting {
            self.behind = true;
            self.missed = true;
            return;
        }
        self.enqueue(body, now);
    }

    /// A fresh message was left in the store before it came here.
    pub(super) fn overlooked(&mut self) {
        self.behind = true;
        self.missed = true;
    }

    fn enqueue(&mut self, body: Body, now: Timestamp) {
        if !self.present.insert(body.id) {
            return;
        }
        if let Some(expires_at) = body.expires_at {
            self.next_expiry = Some(self.next_expiry.map_or(expires_at, |it| it.min(expires_at)));
        }
        if let Some(due) = body.send_at.filter(|it| now < *it) {
            if self.window <= self.scheduled.len() {
                self.present.remove(&body.id);
                self.beyond_due = Some(self.beyond_due.map_or(due, |it| it.min(due)));
                return;
            }
            self.scheduled.insert((due, body.id), body);
            return;
        }
        if let Some(held) = self.held.get_mut(&body.chat) {
            held.queue.push_back(body);
            return;
        }
        match held_until(&body).filter(|it| now < *it) {
            Some(until) => {
                let chat = body.chat.clone();
                self.held.insert(
                    chat,
                    Held {
                        until,
                        queue: VecDeque::from([body]),
                    },
                );
            }
            None => self.ready.push_back(body),
        }
    }

    /// Whether a page is to be read from the store, and beyond which message. Only when nothing is being handed over:
    /// what is would be seen a second time; and only while what is held back leaves room.
    pub(super) fn wants_page(&mut self) -> Option<Option<(Jid, MessageId)>> {
        if !self.behind || !self.ready.is_empty() {
            return None;
        }
        let held: usize = self.held.values().map(|it| it.queue.len()).sum();
        let under_way = held + self.scheduled.len() < self.present.len();
        if under_way || self.window.saturating_mul(HELD_WINDOWS) <= held {
            return None;
        }
        if self.mark.is_none() {
            self.missed = false;
        }
        Some(self.mark.clone())
    }

    /// Takes a page that was read.
    pub(super) fn refill(&mut self, page: Vec<Body>, page_max: usize, now: Timestamp) {
        let full = page_max <= page.len();
        self.mark = page
            .last()
            .filter(|_| full)
            .map(|it| (it.chat.clone(), it.id));
        if !full {
            self.behind = self.missed;
        }
        for body in page {
            self.enqueue(body, now);
        }
    }

    /// What is due: held chats go on, scheduled messages come up. Gives the scheduled ones.
    pub(super) fn release(&mut self, now: Timestamp) -> Vec<Body> {
        if self.beyond_due.is_some_and(|it| it <= now) {
            // A pass under way may be past it: only a new one surely finds it.
            self.beyond_due = None;
            self.behind = true;
            self.missed = true;
        }
        let due: Vec<Jid> = self
            .held
            .iter()
            .filter(|(_, it)| it.until <= now)
            .map(|(chat, _)| chat.clone())
            .collect();
        for chat in due {
            let Some(mut held) = self.held.remove(&chat) else {
                continue;
            };
            while let Some(body) = held.queue.pop_front() {
                self.ready.push_back(body);
                if let Some(until) = held
                    .queue
                    .front()
                    .and_then(|it| held_until(it))
                    .filter(|it| now < *it)
                {
                    held.until = until;
                    self.held.insert(chat, held);
                    break;
                }
            }
        }
        let mut came_up = Vec::new();
        while let Some(first) = self.scheduled.first_entry().filter(|it| it.key().0 <= now) {
            let body = first.remove();
            came_up.push(Arc::clone(&body));
            match self.held.get_mut(&body.chat) {
                Some(held) => held.queue.push_back(body),
                None => self.ready.push_back(body),
            }
        }
        came_up
    }

    /// The next messages for the network, in order.
    pub(super) fn take(&mut self, max: usize) -> Vec<Body> {
        let count = self.ready.len().min(max);
        self.ready.drain(..count).collect()
    }

    /// Messages that were handed over, or ended, are gone.
    pub(super) fn settled(&mut self, id: MessageId) {
        self.present.remove(&id);
    }

    /// Messages that the network did not take, in their order: back to the front, and their chats held for `wait`.
    pub(super) fn put_back(&mut self, bodies: Vec<(Body, Duration)>, now: Timestamp) {
        let expiries = bodies.iter().filter_map(|(body, _)| body.expires_at);
        self.next_expiry = expiries.chain(self.next_expiry).min();
        let mut waits: HashMap<Jid, Duration> = HashMap::new();
        for (body, wait) in &bodies {
            let longest = waits.entry(body.chat.clone()).or_default();
            *longest = (*longest).max(*wait);
        }
        let (behind, rest): (Vec<Body>, Vec<Body>) = self
            .ready
            .drain(..)
            .partition(|it| waits.contains_key(&it.chat));
        self.ready = rest.into();
        let mut queues: HashMap<Jid, VecDeque<Body>> = HashMap::new();
        for body in bodies.into_iter().map(|(body, _)| body).chain(behind) {
            queues.entry(body.chat.clone()).or_default().push_back(body);
        }
        for (chat, mut queue) in queues {
            let until = now.plus(waits.get(&chat).copied().unwrap_or_default());
            match self.held.get_mut(&chat) {
                Some(held) => {
                    queue.append(&mut held.queue);
                    held.queue = queue;
                    held.until = held.until.max(until);
                }
                None => {
                    self.held.insert(chat, Held { until, queue });
                }
            }
        }
    }

    /// Takes out what has waited for too long.
    pub(super) fn expire(&mut self, now: Timestamp) -> Vec<Body> {
        if self.next_expiry.is_none_or(|it| now < it) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut next: Option<Timestamp> = None;
        let mut keep = |body: &Body| match body.expires_at {
            Some(at) if at <= now => {
                expired.push(Arc::clone(body));
                false
            }
            Some(at) => {
                next = Some(next.map_or(at, |it| it.min(at)));
                true
            }
            None => true,
        };
        self.ready.retain(&mut keep);
        for held in self.held.values_mut() {
            held.queue.retain(&mut keep);
        }
        self.scheduled.retain(|_, body| keep(body));
        self.held.retain(|_, it| !it.queue.is_empty());
        self.next_expiry = next;
        expired
    }

    /// When there is something to do without anything else happening.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let held = self.held.values().map(|it| it.until).min();
        let scheduled = self.scheduled.keys().next().map(|(due, _)| *due);
        [held, scheduled, self.beyond_due, self.next_expiry]
            .into_iter()
            .flatten()
            .min()
    }
}

fn held_until(body: &MessageBody) -> Option<Timestamp> {
    body.delay_ms
        .map(|it| body.created_at.plus(Duration::from_millis(it.into())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Content, ContentKind, DeviceId, Direction};

    fn body(chat: u8, id: u128, change: impl FnOnce(&mut MessageBody)) -> Body {
        let jid: Jid = format!("5199900000{chat}").parse().unwrap();
        let mut body = MessageBody {
            id: MessageId::from_u128(id),
            device: DeviceId::from_u128(1),
            chat: jid.clone(),
            direction: Direction::Out,
            from: None,
            to: Some(jid),
            participant: None,
            kind: ContentKind::Text,
            content: Content::Text {
                text: "x".to_owned(),
                preview_url: None,
            },
            reply_to: None,
            mentions: None,
            mention_all: false,
            metadata: None,
            upstream_id: String::new(),
            created_at: Timestamp::from_millis(0),
            send_at: None,
            delay_ms: None,
            expires_at: None,
        };
        change(&mut body);
        Arc::new(body)
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn caught_up(window: usize) -> Outbox {
        let mut outbox = Outbox::new(window);
        assert!(
            outbox.wants_page().is_some(),
            "what waited before a start is in the store"
        );
        outbox.refill(Vec::new(), 10, at(0));
        assert!(outbox.wants_page().is_none());
        outbox
    }

    fn ids(bodies: &[Body]) -> Vec<u128> {
        bodies.iter().map(|it| it.id.as_u128()).collect()
    }

    #[test]
    fn a_delay_holds_those_behind_it_in_its_chat_and_nobody_else() {
        let mut outbox = caught_up(100);
        outbox.offer(body(1, 1, |it| it.delay_ms = Some(50)), at(0));
        outbox.offer(body(1, 2, |_| ()), at(0));
        outbox.offer(body(2, 3, |_| ()), at(0));
        assert_eq!(ids(&outbox.take(10)), [3]);
        assert_eq!(outbox.next_due(), Some(at(50)));
        outbox.release(at(50));
        assert_eq!(ids(&outbox.take(10)), [1, 2]);
    }

    #[test]
    fn a_schedule_holds_nobody() {
        let mut outbox = caught_up(100);
        outbox.offer(body(1, 1, |it| it.send_at = Some(at(90))), at(0));
        outbox.offer(body(1, 2, |_| ()), at(0));
        assert_eq!(ids(&outbox.take(10)), [2]);
        assert_eq!(ids(&outbox.release(at(90))), [1]);
        assert_eq!(ids(&outbox.take(10)), [1]);
    }

    #[test]
    fn what_the_network_did_not_take_comes_again_before_what_is_behind_it() {
        let mut outbox = caught_up(100);
        for id in 1..=4 {
            outbox.offer(body(u8::from(id == 3), id, |_| ()), at(0));
        }
        let mut batch = outbox.take(2);
        outbox.put_back(
            batch
                .drain(..)
                .map(|it| (it, Duration::from_millis(10)))
                .collect(),
            at(0),
        );
        assert_eq!(ids(&outbox.take(10)), [3]);
        outbox.release(at(10));
        assert_eq!(ids(&outbox.take(10)), [1, 2, 4]);
    }

    #[test]
    fn what_waited_for_too_long_expires() {
        let mut outbox = caught_up(100);
        outbox.offer(body(1, 1, |it| it.expires_at = Some(at(10))), at(0));
        outbox.offer(body(1, 2, |it| it.expires_at = Some(at(20))), at(0));
        assert_eq!(ids(&outbox.expire(at(10))), [1]);
        assert_eq!(outbox.next_due(), Some(at(20)));
        assert_eq!(ids(&outbox.take(10)), [2]);
    }

    #[test]
    fn scheduled_messages_do_not_push_fresh_ones_into_the_store() {
        let mut outbox = caught_up(2);
        for id in 1..=3 {
            outbox.offer(body(1, id, |it| it.send_at = Some(at(90))), at(0));
        }
        outbox.offer(body(1, 4, |_| ()), at(0));
        assert_eq!(ids(&outbox.take(10)), [4]);
        outbox.settled(MessageId::from_u128(4));
        assert!(
            outbox.wants_page().is_none(),
            "the store has nothing that is due"
        );
        assert_eq!(ids(&outbox.release(at(90))), [1, 2]);
        assert_eq!(ids(&outbox.take(10)), [1, 2]);
        for id in 1..=2 {
            outbox.settled(MessageId::from_u128(id));
        }
        assert!(
            outbox.wants_page().is_some(),
            "the third did not fit and is due"
        );
    }

    #[test]
    fn what_is_held_back_is_bounded_in_memory() {
        let (window, mut next) = (2, 0);
        let mut outbox = Outbox::new(window);
        while outbox.wants_page().is_some() {
            let page = [next + 1, next + 2].map(|id| body(1, id, |it| it.delay_ms = Some(50)));
            next += 2;
            outbox.refill(page.into(), window, at(0));
            assert!(next < 100, "it never has enough");
        }
        assert_eq!(outbox.len(), window * HELD_WINDOWS);
        outbox.release(at(50));
        assert_eq!(outbox.take(100).len(), window * HELD_WINDOWS);
        (1..=next).for_each(|id| outbox.settled(MessageId::from_u128(id)));
        assert!(outbox.wants_page().is_some(), "it reads on");
    }

    proptest! {
        /// A store that holds what was offered and not settled; the outbox must hand over everything, in order per
        /// chat, whatever fits into memory.
        #[test]
        fn nothing_is_left_behind_and_no_chat_is_turned(
            window in 1usize..6, chats in prop::collection::vec(0u8..4, 1..60), batch in 1usize..5, pace in 1usize..8,
        ) {
            let mut store: BTreeMap<(Jid, MessageId), Body> = BTreeMap::new();
            let mut outbox = Outbox::new(window);
            let mut handed: Vec<Body> = Vec::new();
            let mut fresh = chats.iter().enumerate().map(|(id, chat)| body(*chat, id as u128 + 1, |_| ()));
            let page_max = window;
            for _ in 0..1000 {
                for body in fresh.by_ref().take(pace) {
                    store.insert((body.chat.clone(), body.id), Arc::clone(&body));
                    outbox.offer(body, at(0));
                }
                for body in outbox.take(batch) {
                    store.remove(&(body.chat.clone(), body.id));
                    outbox.settled(body.id);
                    handed.push(body);
                }
                if let Some(beyond) = outbox.wants_page() {
                    let page = store.iter().filter(|(key, _)| beyond.as_ref().is_none_or(|it| it < key)).take(page_max).map(|(_, it)| Arc::clone(it)).collect();
                    outbox.refill(page, page_max, at(0));
                }
                prop_assert!(outbox.len() <= window.max(page_max));
            }
            prop_assert!(store.is_empty());
            prop_assert_eq!(handed.len(), chats.len());
            for chat in 0u8..4 {
                let jid: Jid = format!("5199900000{chat}").parse().unwrap();
                let of_chat: Vec<u128> = handed.iter().filter(|it| it.chat == jid).map(|it| it.id.as_u128()).collect();
                prop_assert!(of_chat.is_sorted());
            }
        }
    }
}
