//! Handing messages over: where each goes, and what follows.

use std::sync::Arc;
use std::time::Duration;

use actors::model::{Jid, MessageBody, MessageId, Status, Timestamp};
use actors::ports::connector::{Handed, Note, Typing};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Node;
use super::digits::Digits;
use super::line::{Account, Line};
use super::mail::{Fate, WhenBusy};
use super::marks::Owed;
use super::network::{Network, Route};
use super::phones::Promise;
use super::record::Kept;
use super::timers::{Due, DueStep, Room};

/// The most items that reach a device at once.
pub(super) const BATCH_MAX: usize = 512;
/// When a phone that confirms nothing answers.
pub(super) const REPLY_AFTER: Duration = Duration::from_millis(50);
/// When what could not be taken is to be handed over again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Who hands messages over.
pub(super) struct Sender<'a> {
    /// The network.
    pub(super) network: &'a Arc<Network>,
    /// The line.
    pub(super) line: &'a Arc<Line>,
    /// The account.
    pub(super) own: &'a Account,
}

/// Messages for one device, by their place in the batch.
struct Parcel {
    to: Arc<Line>,
    places: Vec<usize>,
}

/// What is to happen with a batch.
#[derive(Default)]
struct Plan {
    handed: Vec<Handed>,
    /// Steps that are due, so much later.
    due: Vec<(usize, Duration, DueStep)>,
    /// Messages for offline phones.
    held: Vec<usize>,
    parcels: Vec<Parcel>,
}

impl Plan {
    fn new(
        from: &Sender<'_>,
        batch: &[Arc<MessageBody>],
        transit: Duration,
        at: Timestamp,
    ) -> Self {
        let routes = from
            .network
            .routes(from.own.digits, batch.iter().map(|it| &it.chat));
        let mut plan = Self {
            handed: Vec::with_capacity(batch.len()),
            ..Self::default()
        };
        let phones = from.network.phones.read();
        for (place, route) in routes.into_iter().enumerate() {
            let promise = match route {
                Route::Nowhere => Promise::NotThere,
                Route::Phone(number) => phones.promise(number),
                Route::Own => {
                    plan.due
                        .push((place, transit, DueStep::Delivered { read_ms: Some(0) }));
                    Promise::Nothing
                }
                Route::Device(to) => {
                    plan.add_to_parcel(to, place);
                    Promise::Nothing
                }
            };
            match promise {
                Promise::NotThere | Promise::Nothing => {}
                Promise::Offline => plan.held.push(place),
                Promise::Reply => plan.due.push((place, REPLY_AFTER, DueStep::Reply)),
                Promise::Receipts(receipts) => {
                    let after = Duration::from_millis(u64::from(receipts.deliver_ms));
                    plan.due.push((
                        place,
                        after,
                        DueStep::Delivered {
                            read_ms: receipts.read_ms,
                        },
                    ));
                }
            }
            plan.handed.push(if promise == Promise::NotThere {
                not_on_network()
            } else {
                Handed::Taken { at }
            });
        }
        plan
    }

    fn add_to_parcel(&mut self, to: Arc<Line>, place: usize) {
        match self
            .parcels
            .iter_mut()
            .rev()
            .find(|it| Arc::ptr_eq(&it.to, &to))
        {
            Some(parcel) => parcel.places.push(place),
            None => self.parcels.push(Parcel {
                to,
                places: vec![place],
            }),
        }
    }

    /// The places of messages that something follows for.
    fn owing(&self) -> Vec<usize> {
        let due = self.due.iter().map(|(place, _after, _step)| *place);
        let parcels = self.parcels.iter().flat_map(|it| it.places.iter().copied());
        due.chain(self.held.iter().copied())
            .chain(parcels)
            .collect()
    }

    /// How many places they take in the timers.
    fn timers(&self) -> usize {
        self.due.len() + self.parcels.iter().map(|it| it.places.len()).sum::<usize>()
    }

    fn put_off(&mut self, places: &[usize]) {
        for place in places {
            if let Some(handed) = self.handed.get_mut(*place) {
                *handed = Handed::Later(AGAIN_AFTER);
            }
        }
    }
}

fn not_on_network() -> Handed {
    Handed::Refused {
        code: "not_on_network",
        detail: "The address is not on the network.".to_owned(),
    }
}

impl Node {
    /// Hands messages over, in order; one answer a message.
    pub(super) async fn hand_over(
        &self,
        from: &Sender<'_>,
        batch: &[Arc<MessageBody>],
    ) -> Vec<Handed> {
        let mut handed = Vec::with_capacity(batch.len());
        for part in batch.chunks(BATCH_MAX) {
            let mut plan = Plan::new(from, part, self.options.transit, self.clock.now());
            self.carry_out(from, part, &mut plan).await;
            count(&plan.handed);
            handed.append(&mut plan.handed);
        }
        handed
    }

    async fn carry_out(&self, from: &Sender<'_>, batch: &[Arc<MessageBody>], plan: &mut Plan) {
        let owing = plan.owing();
        if owing.is_empty() {
            return;
        }
        let timers = plan.timers();
        let Some(mut room) = self.timers.reserve(timers).await else {
            return plan.put_off(&owing);
        };
        let ids = |places: &[usize]| -> Vec<MessageId> {
            let named = places.iter().filter_map(|place| batch.get(*place));
            named.map(|it| it.id).collect()
        };
        let Ok(mut owed) = self.cover(from.line, ids(&owing)).await else {
            return plan.put_off(&owing);
        };
        let now = Instant::now();
        room.set(plan.due.iter().filter_map(|(place, after, step)| {
            let due = Due::new(from.line, batch.get(*place)?, *step);
            Some((now + *after, due))
        }));
        for message in plan.held.iter().filter_map(|place| batch.get(*place)) {
            self.hold(
                from.network,
                Due::new(from.line, message, DueStep::Delivered { read_ms: None }),
            );
        }
        let parcels = std::mem::take(&mut plan.parcels);
        let brought: Vec<_> = parcels
            .iter()
            .map(|parcel| {
                let room = room.split(parcel.places.len());
                let owed = owed.split(ids(&parcel.places));
                self.bring(from, batch, parcel, room, owed)
            })
            .collect();
        // The rest waits in the timers, or for its phone.
        owed.stay();
        for (parcel, taken) in parcels.iter().zip(join_all(brought).await) {
            if !taken {
                plan.put_off(&parcel.places);
            }
        }
    }

    /// A message waits for its phone, whose number is its chat.
    pub(super) fn hold(&self, network: &Network, due: Due) {
        let full = match Digits::of(&due.chat) {
            Some(number) => network
                .held
                .lock()
                .hold(number, due, self.options.held_max)
                .err(),
            None => Some(due),
        };
        if let Some(due) = full
            && due.line.dues.lock().miss(due.id)
        {
            self.watch_mark(&due.line);
        }
    }

    /// Brings a parcel to its device; says whether the network has it now.
    async fn bring(
        &self,
        from: &Sender<'_>,
        batch: &[Arc<MessageBody>],
        parcel: &Parcel,
        mut room: Room<'_>,
        owed: Owed<'_>,
    ) -> bool {
        let messages = || parcel.places.iter().filter_map(|place| batch.get(*place));
        let at = self.clock.now();
        let items = messages().map(|message| Kept::Message {
            chat: from.own.jid.clone(),
            from: from.own.jid.clone(),
            participant: None,
            upstream_id: message.upstream_id.clone(),
            content: message.content.clone(),
            at,
            id: Some(message.id),
        });
        let fate = self
            .deliver(from.network, &parcel.to, items.collect(), WhenBusy::PutOff)
            .await;
        if let Fate::Given(_names) = fate {
            let at = Instant::now() + self.options.transit;
            let step = DueStep::Delivered { read_ms: None };
            room.set(messages().map(|it| (at, Due::new(from.line, it, step))));
            owed.stay();
            return true;
        }
        // No receipt comes by a timer: from the mail it comes with the delivery.
        matches!(fate, Fate::Kept)
    }

    /// Tells another simulated device that its messages were read.
    pub(super) async fn mark_read(
        &self,
        network: &Network,
        own: &Account,
        chat: &Jid,
        upstream_ids: &[String],
    ) {
        let Some(other) = Digits::of(chat)
            .filter(|it| *it != own.digits)
            .and_then(|it| network.line_of(it))
        else {
            return;
        };
        let at = self.clock.now();
        for part in upstream_ids.chunks(BATCH_MAX) {
            let receipt = |upstream_id: &String| Kept::Receipt {
                chat: own.jid.clone(),
                id: None,
                upstream_id: upstream_id.clone(),
                status: Status::Read,
                at,
            };
            match self
                .deliver(
                    network,
                    &other,
                    part.iter().map(receipt).collect(),
                    WhenBusy::Keep,
                )
                .await
            {
                Fate::Given(_) | Fate::Kept | Fate::Nobody => {}
                Fate::NotNow => {
                    tracing::debug!(tenant = %other.tenant, device = %other.device, "read receipts found no room");
                }
            }
        }
    }

    /// Tells another simulated device that somebody types.
    pub(super) fn type_to(&self, network: &Network, own: &Account, chat: &Jid, typing: Typing) {
        if let Some(other) = Digits::of(chat)
            .filter(|it| *it != own.digits)
            .and_then(|it| network.line_of(it))
        {
            other.note(Note::Typing {
                chat: own.jid.clone(),
                participant: own.jid.clone(),
                typing,
            });
        }
    }
}

fn count(handed: &[Handed]) {
    let (mut taken, mut refused, mut later) = (0u64, 0u64, 0u64);
    for it in handed {
        match it {
            Handed::Taken { at: _ } => taken += 1,
            Handed::Refused { .. } => refused += 1,
            Handed::Later(_) => later += 1,
        }
    }
    for (outcome, count) in [("taken", taken), ("refused", refused), ("later", later)] {
        if count != 0 {
            metrics::counter!("buho_simulator_messages_total", "outcome" => outcome)
                .increment(count);
        }
    }
}
