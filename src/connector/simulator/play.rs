//! The levers of the simulated network.

use std::sync::Arc;
use std::time::Duration;

use actors::model::{DeviceId, Direction, Jid, MessageId, PhoneNumber, Status, TenantId};
use actors::ports::connector::{Availability, Note, Taken, Typing};
use actors::ports::simulation::{
    ConnectionEvent, Phone, PhoneChoice, PlayedMessage, Simulation, SimulationError,
};
use async_trait::async_trait;
use tokio::time::Instant;

use super::digits::Digits;
use super::handover::{BATCH_MAX, REPLY_AFTER};
use super::line::Line;
use super::mail::{Fate, WhenBusy};
use super::network::{Network, Trouble};
use super::phones::Promise;
use super::record::{self, Kept, Restriction};
use super::timers::{Due, DueStep};
use super::{Node, Simulator, chance};

/// How long an account stays limited.
const RESTRICTED_FOR: Duration = Duration::from_hours(24);

#[async_trait]
impl Simulation for Simulator {
    async fn scan(
        &self,
        tenant: TenantId,
        device: DeviceId,
        number: Option<PhoneNumber>,
    ) -> Result<(), SimulationError> {
        let network = self.node.network(tenant).await?;
        let line = network.line(device);
        self.node.scan(&network, &line, number.as_ref()).await
    }

    async fn play_messages(
        &self,
        tenant: TenantId,
        device: DeviceId,
        message: PlayedMessage,
    ) -> Result<Option<Vec<MessageId>>, SimulationError> {
        let (network, line) = self.linked(tenant, device).await?;
        let items = self.node.played(&message);
        let mut names = Some(Vec::with_capacity(items.len()));
        for part in items.chunks(BATCH_MAX) {
            match self
                .node
                .deliver(&network, &line, part.to_vec(), WhenBusy::Keep)
                .await
            {
                Fate::Given(taken) => {
                    if let Some(names) = names.as_mut() {
                        names.extend(taken.into_iter().filter_map(name_of));
                    }
                }
                Fate::Kept => names = None,
                Fate::NotNow => return Err(SimulationError::Busy),
                Fate::Nobody => return Err(SimulationError::NotLinked),
            }
        }
        Ok(names)
    }

    async fn play_receipt(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: Jid,
        message: MessageId,
        status: Status,
    ) -> Result<(), SimulationError> {
        let (network, line) = self.linked(tenant, device).await?;
        let found = self
            .node
            .store
            .message(tenant, device, message)
            .await
            .map_err(Trouble::from)?;
        let handed = found.filter(|it| {
            let known = !matches!(
                it.state.status,
                Status::Scheduled | Status::Queued | Status::Failed | Status::Expired
            );
            known && it.body.direction == Direction::Out && it.body.chat == chat
        });
        let upstream_id = handed
            .ok_or(SimulationError::UnknownMessage)?
            .body
            .upstream_id;
        let receipt = Kept::Receipt {
            chat,
            id: Some(message),
            upstream_id,
            status,
            at: self.node.clock.now(),
        };
        match self
            .node
            .deliver(&network, &line, vec![receipt], WhenBusy::Keep)
            .await
        {
            Fate::Given(_) | Fate::Kept => Ok(()),
            Fate::NotNow => Err(SimulationError::Busy),
            Fate::Nobody => Err(SimulationError::NotLinked),
        }
    }

    async fn play_presence(
        &self,
        tenant: TenantId,
        device: DeviceId,
        from: Jid,
        availability: Availability,
    ) -> Result<(), SimulationError> {
        let last_seen = match availability {
            Availability::Available => None,
            Availability::Unavailable => Some(self.node.clock.now()),
        };
        self.play_note(
            tenant,
            device,
            Note::Presence {
                contact: from,
                availability,
                last_seen,
            },
        )
        .await
    }

    async fn play_typing(
        &self,
        tenant: TenantId,
        device: DeviceId,
        from: Jid,
        chat: Jid,
        typing: Typing,
    ) -> Result<(), SimulationError> {
        self.play_note(
            tenant,
            device,
            Note::Typing {
                chat,
                participant: from,
                typing,
            },
        )
        .await
    }

    async fn play_connection(
        &self,
        tenant: TenantId,
        device: DeviceId,
        event: ConnectionEvent,
    ) -> Result<(), SimulationError> {
        let (network, line) = self.linked(tenant, device).await?;
        match event {
            ConnectionEvent::Drop => line.drop_session(),
            ConnectionEvent::Logout => {
                self.node
                    .give_up_link(&network, &line, Some(Note::LoggedOut))
                    .await;
            }
            ConnectionEvent::Ban | ConnectionEvent::Restrict => {
                self.node.judge(&line, event).await?;
            }
        }
        Ok(())
    }

    async fn phone(&self, tenant: TenantId, choice: PhoneChoice) -> Result<Phone, SimulationError> {
        let network = self.node.network(tenant).await?;
        let phone = network.phones.read().of(number_of(&choice)).clone();
        Ok(phone)
    }

    async fn set_phone(
        &self,
        tenant: TenantId,
        choice: PhoneChoice,
        phone: Phone,
    ) -> Result<(), SimulationError> {
        let network = self.node.network(tenant).await?;
        let number = number_of(&choice);
        let _one_at_a_time = network.setting.lock().await;
        if !network
            .phones
            .read()
            .has_room(number, self.node.options.phones_max)
        {
            return Err(SimulationError::Busy);
        }
        let value = record::encode(&phone).map_err(Trouble::from)?;
        self.node
            .write_value(tenant, record::phone_key(number), Some(value))
            .await?;
        network.phones.write().set(number, phone);
        self.node.release_held(&network).await;
        Ok(())
    }
}

fn number_of(choice: &PhoneChoice) -> Option<Digits> {
    match choice {
        PhoneChoice::Number(number) => Digits::parse(number.digits()),
        PhoneChoice::Default => None,
    }
}

const fn name_of(taken: Taken) -> Option<MessageId> {
    match taken {
        Taken::New(id) | Taken::Repeat(id) => Some(id),
        Taken::Unknown => None,
    }
}

impl Simulator {
    async fn linked(
        &self,
        tenant: TenantId,
        device: DeviceId,
    ) -> Result<(Arc<Network>, Arc<Line>), SimulationError> {
        let network = self.node.network(tenant).await?;
        let line = network.line(device);
        if line.account().is_none() {
            return Err(SimulationError::NotLinked);
        }
        Ok((network, line))
    }

    async fn play_note(
        &self,
        tenant: TenantId,
        device: DeviceId,
        note: Note,
    ) -> Result<(), SimulationError> {
        let (_network, line) = self.linked(tenant, device).await?;
        if line.note(note) {
            Ok(())
        } else {
            Err(SimulationError::NotLinked)
        }
    }
}

impl Node {
    fn played(&self, message: &PlayedMessage) -> Vec<Kept> {
        let at = message.timestamp.unwrap_or_else(|| self.clock.now());
        let chat = message.group.as_ref().unwrap_or(&message.from);
        let one = |place: u32| Kept::Message {
            chat: chat.clone(),
            from: message.from.clone(),
            participant: message.group.as_ref().map(|_group| message.from.clone()),
            upstream_id: chance::upstream_id(
                self.options.seed,
                "played",
                &[&message.seed.to_be_bytes(), &place.to_be_bytes()],
            ),
            content: message.content.clone(),
            at,
            id: None,
        };
        (0..message.count).map(one).collect()
    }

    /// The network shuts an account out, or limits it; durable before it is told.
    async fn judge(&self, line: &Arc<Line>, event: ConnectionEvent) -> Result<(), SimulationError> {
        let _lane = line.lane.lock().await;
        let mut link = line.account().ok_or(SimulationError::NotLinked)?.link;
        match event {
            ConnectionEvent::Ban => link.banned = true,
            ConnectionEvent::Restrict => {
                let until = self.clock.now().plus(RESTRICTED_FOR);
                link.restricted = Some(Restriction {
                    reason: "restricted_by_network".to_owned(),
                    until,
                });
            }
            ConnectionEvent::Drop | ConnectionEvent::Logout => return Ok(()),
        }
        let value = record::encode(&link).map_err(Trouble::from)?;
        self.write_value(line.tenant, record::link_key(line.device), Some(value))
            .await?;
        let now = self.clock.now();
        line.judge(link, now);
        self.look_at_health(line, line.arm_health(now));
        Ok(())
    }

    /// Phones that came online get what waited for them.
    async fn release_held(&self, network: &Arc<Network>) {
        let (released, overflown) = {
            let phones = network.phones.read();
            let mut held = network.held.lock();
            (held.release(&phones), std::mem::take(&mut held.overflown))
        };
        let mut parts = Vec::new();
        let mut released = released.into_iter().peekable();
        while released.peek().is_some() {
            parts.push(self.unplaced(released.by_ref().take(BATCH_MAX)));
        }
        for mut part in parts {
            if let Some(mut room) = self.timers.reserve(part.timers.len()).await {
                room.set(std::mem::take(&mut part.timers));
            }
        }
        let lines = if overflown {
            network.all_lines()
        } else {
            Vec::new()
        };
        for line in lines
            .iter()
            .filter(|it| it.listens() && it.dues.lock().has_missed())
        {
            self.chores.search(line);
        }
    }

    fn unplaced(&self, part: impl Iterator<Item = (Promise, Due)>) -> Unplaced<'_> {
        let now = Instant::now();
        let mut timers = Vec::new();
        for (promise, due) in part {
            let (after, step) = match promise {
                Promise::Receipts(receipts) => {
                    let after = Duration::from_millis(u64::from(receipts.deliver_ms));
                    (
                        after,
                        DueStep::Delivered {
                            read_ms: receipts.read_ms,
                        },
                    )
                }
                Promise::Reply => (REPLY_AFTER, DueStep::Reply),
                Promise::NotThere | Promise::Nothing | Promise::Offline => {
                    self.forgive(&due.line, std::iter::once(due.id));
                    continue;
                }
            };
            timers.push((now + after, Due { step, ..due }));
        }
        Unplaced { node: self, timers }
    }
}

/// What phones get that came online, until it has room. Where it finds none, or whoever waits for that goes, it leaves memory:
/// the store still knows it.
struct Unplaced<'a> {
    node: &'a Node,
    timers: Vec<(Instant, Due)>,
}

impl Drop for Unplaced<'_> {
    fn drop(&mut self) {
        for (_at, due) in self.timers.drain(..) {
            if due.line.dues.lock().miss(due.id) {
                self.node.watch_mark(&due.line);
            }
            if due.line.listens() {
                self.node.search_later(&due.line);
            }
        }
    }
}
