//! Mail: what the network keeps for accounts that are away, in the store and in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actors::model::{Status, Timestamp};
use actors::ports::Write;
use actors::ports::connector::{Incoming, Sink, SinkError, Taken};
use bytes::Bytes;
use parking_lot::Mutex;

use super::Node;
use super::digits::Digits;
use super::line::{Line, Reach};
use super::network::{Network, Trouble};
use super::record::{self, Kept, SPACE};

/// How many pieces are read, offered and written at once.
const PAGE: usize = 128;
/// How many bytes are written at once; one larger piece always passes.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// How often something is offered at once before it is kept.
const OFFERS_MAX: u32 = 3;

#[derive(Debug, Default)]
struct Count {
    stored: u64,
    /// On its way into the store.
    coming: u64,
}

#[derive(Debug, Default)]
struct Counts {
    by_number: HashMap<Digits, Count>,
    total: u64,
}

/// How much mail there is, and its order. The store has the mail itself.
#[derive(Debug, Default)]
pub(super) struct Mail {
    counts: Mutex<Counts>,
    order: AtomicU64,
}

impl Mail {
    /// Counts mail that was there at the start.
    pub(super) fn found(&self, number: Digits, order: u64) {
        let mut counts = self.counts.lock();
        counts.by_number.entry(number).or_default().stored += 1;
        counts.total += 1;
        drop(counts);
        self.order
            .fetch_max(order.saturating_add(1), Ordering::Relaxed);
        metrics::gauge!("buho_simulator_kept").increment(1.0);
    }

    /// Whether something is kept for an account, or about to be.
    pub(super) fn waits_for(&self, number: Digits) -> bool {
        self.counts.lock().by_number.contains_key(&number)
    }

    fn begin(&self, number: Digits, pieces: u64, max: u64) -> bool {
        let mut counts = self.counts.lock();
        if max < counts.total.saturating_add(pieces) {
            return false;
        }
        counts.total += pieces;
        counts.by_number.entry(number).or_default().coming += pieces;
        drop(counts);
        metrics::gauge!("buho_simulator_kept").increment(gauge_step(pieces));
        true
    }

    /// What was on its way is stored, or may be; the next look into the store sets it right.
    fn end(&self, number: Digits, pieces: u64) {
        let mut counts = self.counts.lock();
        let count = counts.by_number.entry(number).or_default();
        count.coming = count.coming.saturating_sub(pieces);
        count.stored += pieces;
    }

    fn erased(&self, number: Digits, pieces: u64) {
        self.shrink(number, |count| {
            count.stored = count.stored.saturating_sub(pieces);
        });
    }

    /// The store has nothing for an account.
    pub(super) fn emptied(&self, number: Digits) {
        self.shrink(number, |count| count.stored = 0);
    }

    fn shrink(&self, number: Digits, change: impl FnOnce(&mut Count)) {
        let mut counts = self.counts.lock();
        let Some(count) = counts.by_number.get_mut(&number) else {
            return;
        };
        let before = count.stored;
        change(count);
        let gone = before.saturating_sub(count.stored);
        if count.stored == 0 && count.coming == 0 {
            counts.by_number.remove(&number);
        }
        counts.total = counts.total.saturating_sub(gone);
        drop(counts);
        metrics::gauge!("buho_simulator_kept").decrement(gauge_step(gone));
    }

    fn next_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::Relaxed)
    }
}

fn gauge_step(pieces: u64) -> f64 {
    u32::try_from(pieces).map_or(f64::from(u32::MAX), f64::from)
}

/// What became of something for a device.
pub(super) enum Fate {
    /// The device has it.
    Given(Vec<Taken>),
    /// The network keeps it.
    Kept,
    /// Neither: it is to be offered again.
    NotNow,
    /// There is no such account.
    Nobody,
}

/// What to do where the gateway is too busy to take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenBusy {
    /// Whoever brings it comes again.
    PutOff,
    /// The network keeps it.
    Keep,
}

impl Node {
    /// Offers something to the gateway once.
    pub(super) async fn offer(
        &self,
        sink: &dyn Sink,
        batch: Vec<Incoming>,
    ) -> Result<Vec<Taken>, SinkError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::timeout(self.options.offer_time_max, sink.commit(batch))
            .await
            .unwrap_or(Err(SinkError::Away))
    }

    /// Brings something to a device, at most 512 items: directly where it is there and nothing older waits for it.
    pub(super) async fn deliver(
        &self,
        network: &Network,
        line: &Arc<Line>,
        items: Vec<Kept>,
        when_busy: WhenBusy,
    ) -> Fate {
        let _lane = line.lane.lock().await;
        let Some(account) = line.account() else {
            return Fate::Nobody;
        };
        let mut offers = match when_busy {
            WhenBusy::PutOff => 1,
            WhenBusy::Keep => OFFERS_MAX,
        };
        while let Reach::Online(sink) = line.reach() {
            if offers == 0 || network.mail.waits_for(account.digits) {
                break;
            }
            offers -= 1;
            let batch = items.iter().cloned().map(Incoming::from).collect();
            if let Ok(taken) = self.offer(&*sink, batch).await {
                line.taken();
                return Fate::Given(taken);
            }
            let pause = line.back_off();
            match when_busy {
                WhenBusy::PutOff => return Fate::NotNow,
                WhenBusy::Keep => tokio::time::sleep(pause).await,
            }
        }
        match self.keep(network, line, account.digits, &items).await {
            Ok(()) => Fate::Kept,
            Err(_busy_or_away) => Fate::NotNow,
        }
    }

    /// Keeps something for an account; durable when this returns.
    async fn keep(
        &self,
        network: &Network,
        line: &Arc<Line>,
        number: Digits,
        items: &[Kept],
    ) -> Result<(), Trouble> {
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            values.push(record::encode(item)?);
        }
        for piece in pieces(&values) {
            let count = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            if !network.mail.begin(number, count, self.options.kept_max) {
                return Err(Trouble::Busy);
            }
            let writes = piece
                .iter()
                .map(|value| post(network, number, value.clone()))
                .collect();
            let result = self.write(line.tenant, writes).await;
            network.mail.end(number, count);
            result?;
        }
        if line.listens() {
            self.chores.drain(line);
        }
        Ok(())
    }

    /// Brings an account its mail, oldest first, and then puts the session on the network.
    pub(super) async fn drain(&self, line: &Arc<Line>) {
        let Some(network) = line.network.upgrade() else {
            return;
        };
        let mut beyond = None;
        loop {
            match self.drain_page(&network, line, &mut beyond).await {
                Ok(true) => line.taken(),
                Ok(false) => return,
                Err(_busy_or_away) => return self.drain_later(line),
            }
        }
    }

    /// One page of it; says whether there may be more. Reads on beyond what went, which may still cost a store something.
    /// What came meanwhile may lie before that: there is a last look.
    async fn drain_page(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        beyond: &mut Option<Vec<u8>>,
    ) -> Result<bool, Trouble> {
        let _lane = line.lane.lock().await;
        let Some((number, sink, turn)) = line.mail_goes_to() else {
            return Ok(false);
        };
        let prefix = record::mail_prefix(number);
        let read = async |beyond: Option<&[u8]>| {
            let values = self.store.values(line.tenant, SPACE, &prefix, beyond, PAGE);
            values.await
        };
        let mut page = read(beyond.as_deref()).await?;
        if page.is_empty() && beyond.take().is_some() {
            page = read(None).await?;
        }
        if page.is_empty() {
            network.mail.emptied(number);
            self.arrive(line, turn);
            return Ok(false);
        }
        let count = u64::try_from(page.len()).unwrap_or(u64::MAX);
        let last = page.last().map(|(key, _value)| key.clone());
        let (mut writes, mut items) = (
            Vec::with_capacity(page.len()),
            Vec::with_capacity(page.len()),
        );
        for (key, value) in page {
            match record::decode::<Kept>(&value) {
                Some(item) => items.push(item),
                None => {
                    tracing::warn!(tenant = %line.tenant, device = %line.device, "a piece of kept mail is damaged, it is left out");
                }
            }
            writes.push(Write::Value {
                space: SPACE,
                key,
                value: None,
            });
        }
        let receipts = receipts_for(network, line, &items, self.clock.now());
        self.offer(&*sink, items.into_iter().map(Incoming::from).collect())
            .await
            .map_err(|_not_taken| Trouble::Busy)?;
        // The mail goes and its receipts come in one write: neither can be without the other.
        for (sender, receipt) in &receipts {
            let number = sender.account().map(|it| it.digits);
            let Some(number) = number.filter(|it| network.mail.begin(*it, 1, u64::MAX)) else {
                continue;
            };
            network.mail.end(number, 1);
            writes.push(post(network, number, record::encode(receipt)?));
        }
        self.write(line.tenant, writes).await?;
        network.mail.erased(number, count);
        *beyond = last;
        for (sender, _receipt) in receipts
            .iter()
            .filter(|(sender, _receipt)| sender.listens())
        {
            self.chores.drain(sender);
        }
        Ok(true)
    }

    /// The session has its mail: it is on the network.
    pub(super) fn arrive(&self, line: &Arc<Line>, turn: u64) {
        let now = self.clock.now();
        if line.arrive(turn, now) && line.dues.lock().has_missed() {
            self.chores.search(line);
        }
        self.look_at_health(line, line.arm_health(now));
    }
}

/// The write that keeps one piece.
fn post(network: &Network, number: Digits, value: Bytes) -> Write {
    Write::Value {
        space: SPACE,
        key: record::mail_key(number, network.mail.next_order()),
        value: Some(value),
    }
}

/// The receipts for messages that arrived out of the mail, with who gets them.
fn receipts_for(
    network: &Network,
    line: &Line,
    items: &[Kept],
    now: Timestamp,
) -> Vec<(Arc<Line>, Kept)> {
    let Some(account) = line.account() else {
        return Vec::new();
    };
    let receipt = |item: &Kept| match item {
        Kept::Message {
            from,
            id: Some(id),
            upstream_id,
            ..
        } => {
            let sender = network.line_of(Digits::of(from)?)?;
            let receipt = Kept::Receipt {
                chat: account.jid.clone(),
                id: Some(*id),
                upstream_id: upstream_id.clone(),
                status: Status::Delivered,
                at: now,
            };
            Some((sender, receipt))
        }
        Kept::Message { id: None, .. } | Kept::Receipt { .. } => None,
    };
    items.iter().filter_map(receipt).collect()
}

/// Cuts values into runs that fit into one write.
fn pieces(values: &[Bytes]) -> impl Iterator<Item = &[Bytes]> {
    let mut rest = values;
    std::iter::from_fn(move || {
        let mut bytes = 0usize;
        let fits = |value: &&Bytes| {
            bytes = bytes.saturating_add(value.len());
            bytes <= WRITE_BYTES_MAX
        };
        let count = rest.iter().take(PAGE).take_while(fits).count().max(1);
        let (piece, tail) = rest.split_at_checked(count)?;
        rest = tail;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_holds_a_bounded_piece() {
        let values = vec![Bytes::from(vec![0; WRITE_BYTES_MAX / 3]); 7];
        assert_eq!(
            pieces(&values).map(<[_]>::len).collect::<Vec<_>>(),
            [3, 3, 1]
        );
        let values = vec![Bytes::from(vec![0; WRITE_BYTES_MAX + 1]), Bytes::new()];
        assert_eq!(pieces(&values).map(<[_]>::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(
            pieces(&vec![Bytes::new(); PAGE + 1])
                .map(<[_]>::len)
                .collect::<Vec<_>>(),
            [PAGE, 1]
        );
        assert_eq!(pieces(&[]).count(), 0);
    }

    #[test]
    fn mail_is_counted_and_the_store_has_the_last_word() {
        let (mail, number) = (Mail::default(), Digits::parse("5199999").unwrap());
        assert!(mail.begin(number, 3, 4));
        assert!(!mail.begin(number, 2, 4), "full");
        assert!(mail.waits_for(number));
        mail.end(number, 3);
        mail.erased(number, 2);
        assert!(mail.waits_for(number));
        mail.emptied(number);
        assert!(!mail.waits_for(number));
        assert!(mail.begin(number, 4, 4));
    }
}
