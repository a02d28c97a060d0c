//! The task that serves the timers: it gathers what is due by device and offers it to the gateway in batches.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actors::model::{Content, DeviceId, Direction, Status, Timestamp};
use actors::ports::connector::{Incoming, IncomingMessage, Sink, SinkError, Taken};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::digits::Digits;
use super::line::{Line, NextQr, Reach, back_off};
use super::timers::{Due, DueStep, What};
use super::{Node, chance};

/// The most items in one offer.
const OFFER_MAX: usize = 512;
/// How many offers are under way at once; never more than one a device.
const FLIGHTS_MAX: usize = 64;
/// How many timers are taken at once.
const TAKE_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// In the queue of those whose offer may start.
    Waiting,
    /// An offer is under way.
    Flying,
    /// The gateway was too busy.
    Pausing,
}

/// What is due for one device.
struct Lot {
    line: Arc<Line>,
    dues: VecDeque<Due>,
    turn: Turn,
    tries: u32,
}

impl Lot {
    /// Offers the gateway what fits into one batch.
    fn fly(
        &mut self,
        node: Arc<Node>,
        sink: Arc<dyn Sink>,
    ) -> impl Future<Output = Landed> + use<> {
        self.turn = Turn::Flying;
        let device = self.line.device;
        let (batch, items) = node.news(&self.line, &mut self.dues);
        async move {
            let result = node.offer(&*sink, items).await;
            Landed {
                device,
                batch,
                result,
            }
        }
    }
}

struct Landed {
    device: DeviceId,
    batch: Vec<Due>,
    result: Result<Vec<Taken>, SinkError>,
}

type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

/// Serves the timers until the network closes.
pub(super) async fn run(node: Arc<Node>, mut closing: watch::Receiver<bool>) {
    let mut desk = Desk {
        node: Arc::clone(&node),
        lots: HashMap::new(),
        ready: VecDeque::new(),
        flights: FuturesUnordered::new(),
    };
    let mut due = Vec::new();
    let mut marks_at: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let next = node.timers.take(now, TAKE_MAX, &mut due);
        for what in due.drain(..) {
            desk.take(what);
        }
        desk.launch();
        if marks_at.is_some_and(|at| at <= now) {
            node.write_marks();
            marks_at = None;
        }
        if marks_at.is_none() && node.marks_moved() {
            marks_at = Some(now + node.options.mark_every);
        }
        metrics::gauge!("buho_simulator_timers")
            .set(u32::try_from(node.timers.used()).map_or(f64::from(u32::MAX), f64::from));
        let next = [next, marks_at].into_iter().flatten().min();
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            Some(landed) = desk.flights.next(), if !desk.flights.is_empty() => desk.land(landed),
            () = node.timers.wake.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or(now)), if next.is_some() => {}
        }
    }
}

struct Desk {
    node: Arc<Node>,
    /// Bounded by the room of the timers: what lies here holds its place.
    lots: HashMap<DeviceId, Lot>,
    ready: VecDeque<DeviceId>,
    flights: FuturesUnordered<Flight>,
}

impl Desk {
    fn take(&mut self, what: What) {
        match what {
            What::Due(due) => {
                let device = due.line.device;
                let ready = &mut self.ready;
                let lot = self.lots.entry(device).or_insert_with(|| {
                    ready.push_back(device);
                    Lot {
                        line: Arc::clone(&due.line),
                        dues: VecDeque::new(),
                        turn: Turn::Waiting,
                        tries: 0,
                    }
                });
                lot.dues.push_back(due);
            }
            What::Qr(line) => self.node.next_qr(&line),
            What::Health(line) => self.node.next_health(&line),
            What::Drain(line) => self.node.chores.drain_again(&line),
            What::Search(line) => self.node.chores.search_again(&line),
            What::Offer(device) => self.again(device),
        }
    }

    /// A device's pause is over.
    fn again(&mut self, device: DeviceId) {
        if let Some(lot) = self.lots.get_mut(&device)
            && lot.turn == Turn::Pausing
        {
            lot.turn = Turn::Waiting;
            self.ready.push_back(device);
        }
    }

    fn launch(&mut self) {
        while self.flights.len() < FLIGHTS_MAX
            && let Some(device) = self.ready.pop_front()
        {
            let Some(lot) = self.lots.get_mut(&device) else {
                continue;
            };
            match lot.line.reach() {
                Reach::Online(sink) => self
                    .flights
                    .push(Box::pin(lot.fly(Arc::clone(&self.node), sink))),
                Reach::Away | Reach::Nobody => {
                    let lost = self.lots.remove(&device);
                    lost.into_iter()
                        .for_each(|lot| self.node.miss(&lot.line, &Vec::from(lot.dues)));
                }
            }
        }
    }

    fn land(&mut self, landed: Landed) {
        let Some(lot) = self.lots.get_mut(&landed.device) else {
            return;
        };
        if landed.result.is_ok() {
            lot.tries = 0;
            self.node.settle(&lot.line, landed.batch);
            if lot.dues.is_empty() {
                self.lots.remove(&landed.device);
            } else {
                lot.turn = Turn::Waiting;
                self.ready.push_back(landed.device);
            }
            return;
        }
        let pause = back_off(lot.tries);
        lot.tries = lot.tries.saturating_add(1);
        lot.turn = Turn::Pausing;
        for due in landed.batch.into_iter().rev() {
            lot.dues.push_front(due);
        }
        self.node
            .timers
            .set([(Instant::now() + pause, What::Offer(landed.device))]);
    }
}

impl Node {
    /// Takes what is due for one offer, and what the gateway is told then.
    fn news(&self, line: &Line, dues: &mut VecDeque<Due>) -> (Vec<Due>, Vec<Incoming>) {
        let now = self.clock.now();
        let network = line.network.upgrade();
        let (mut batch, mut items) = (Vec::new(), Vec::with_capacity(dues.len().min(OFFER_MAX)));
        // One that is due makes two items at most: its receipt and an answer.
        while items.len() + 2 <= OFFER_MAX
            && batch.len() < OFFER_MAX
            && let Some(due) = dues.pop_front()
        {
            let status = match due.step {
                DueStep::Delivered { read_ms: _ } => Some(Status::Delivered),
                DueStep::Read => Some(Status::Read),
                DueStep::Reply => None,
            };
            items.extend(status.map(|status| due.receipt(status, now)));
            let number = Digits::of(&due.chat).filter(|_| status != Some(Status::Read));
            let said = network.as_ref().zip(number).and_then(|(network, number)| {
                let is_phone = network.line_of(number).is_none();
                network
                    .phones
                    .read()
                    .of(Some(number))
                    .auto_reply
                    .clone()
                    .filter(|_| is_phone)
            });
            items.extend(said.map(|text| due.reply(self.options.seed, text, now)));
            batch.push(due);
        }
        (batch, items)
    }

    /// The gateway has taken these: what follows them is due later, the rest has its receipts.
    fn settle(&self, line: &Arc<Line>, batch: Vec<Due>) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        metrics::counter!("buho_simulator_receipts_total").increment(count);
        let (mut done, mut moved, mut follows) = (0, false, Vec::new());
        let now = Instant::now();
        let mut dues = line.dues.lock();
        for due in batch {
            match due.step {
                DueStep::Delivered {
                    read_ms: Some(read_ms),
                } => {
                    let at = now + Duration::from_millis(u64::from(read_ms));
                    follows.push((
                        at,
                        What::Due(Due {
                            step: DueStep::Read,
                            ..due
                        }),
                    ));
                }
                DueStep::Delivered { read_ms: None } | DueStep::Read | DueStep::Reply => {
                    moved |= dues.settle(due.id);
                    done += 1;
                }
            }
        }
        drop(dues);
        self.timers.release(done);
        self.timers.set(follows);
        if moved {
            self.watch_mark(line);
        }
    }

    /// The device is away: these leave memory, and are found again in the store when it is back.
    pub(super) fn miss(&self, line: &Arc<Line>, batch: &[Due]) {
        let mut dues = line.dues.lock();
        let mut moved = false;
        for due in batch {
            moved |= dues.miss(due.id);
        }
        drop(dues);
        self.timers.release(batch.len());
        if moved {
            self.watch_mark(line);
        }
        if line.listens() {
            // It has come back while these were on their way out.
            self.chores.search(line);
        }
    }

    fn next_qr(&self, line: &Arc<Line>) {
        match self.with_qr_maker(line, |maker| line.next_qr(maker)) {
            NextQr::Until(at) => self.timers.set([(at, What::Qr(Arc::clone(line)))]),
            NextQr::Over => {}
        }
    }

    fn next_health(&self, line: &Arc<Line>) {
        self.look_at_health(line, line.next_health(self.clock.now()));
    }

    /// Looks after so long whether a restriction has ended.
    pub(super) fn look_at_health(&self, line: &Arc<Line>, after: Option<Duration>) {
        let at = after.map(|it| (Instant::now() + it, What::Health(Arc::clone(line))));
        self.timers.set(at);
    }
}

impl Due {
    fn receipt(&self, status: Status, at: Timestamp) -> Incoming {
        Incoming::Receipt {
            chat: self.chat.clone(),
            id: Some(self.id),
            upstream_id: String::from(&*self.upstream_id),
            status,
            at,
            participant: None,
        }
    }

    fn reply(&self, seed: u64, text: String, at: Timestamp) -> Incoming {
        Incoming::Message(Box::new(IncomingMessage {
            chat: self.chat.clone(),
            from: self.chat.clone(),
            participant: None,
            direction: Direction::In,
            upstream_id: chance::upstream_id(seed, "reply", &[self.upstream_id.as_bytes()]),
            content: Content::Text {
                text,
                preview_url: None,
            },
            at,
        }))
    }
}
