//! A job as the writer wants it: rows encoded by whoever submits.

use std::time::Duration;

use actors::model::{DeviceId, EntryDraft, Jid, MessageId, Timestamp};
use actors::ports::{Answer, Claim, Write};

use super::change::{Cell, Change, Kind};
use super::tenants::{Bucket, Slot};
use crate::store::rows::{self, EncodeError};

const DAY_MS: i64 = 24 * 3_600_000;
/// The time of one bucket of a chat's messages.
const CHAT_BUCKET_MS: i64 = 10 * DAY_MS;
/// The time of one bucket of a device's messages.
const DEVICE_BUCKET_MS: i64 = DAY_MS;
/// Entries of one bucket of a log.
pub(super) const LOG_BUCKET: u64 = 65_536;
/// Parts of a chat's upstream names.
pub(super) const UPSTREAM_SHARDS: u32 = 4;
/// How much longer a kept answer stays in its table than it counts: clocks differ.
const ANSWER_SLACK: Duration = Duration::from_secs(3_600);
/// The longest TTL that the servers take, 20 years, rounded down.
const TTL_MAX: u64 = 600_000_000;

/// The bucket of a chat that holds a message.
pub(super) fn chat_bucket(id: MessageId) -> i32 {
    i32::try_from(id.time().as_millis() / CHAT_BUCKET_MS).unwrap_or(i32::MAX)
}

/// The bucket of a device that holds a message.
pub(super) fn device_bucket(id: MessageId) -> i32 {
    i32::try_from(id.time().as_millis() / DEVICE_BUCKET_MS).unwrap_or(i32::MAX)
}

/// The part of a chat's upstream names that holds one.
pub(super) fn upstream_shard(upstream_id: &str) -> u32 {
    let mix = |sum: u32, byte: u8| sum.wrapping_mul(31).wrapping_add(u32::from(byte));
    upstream_id.bytes().fold(7, mix) % UPSTREAM_SHARDS
}

/// A shard or a bucket as a value.
pub(super) fn small(number: u32) -> Cell {
    Cell::int(i32::try_from(number).unwrap_or(i32::MAX))
}

/// A time to live as a value.
pub(super) fn ttl(span: Duration) -> Cell {
    let seconds = span.as_secs().clamp(1, TTL_MAX);
    Cell::int(i32::try_from(seconds).unwrap_or(i32::MAX))
}

/// One change, encoded.
#[derive(Debug)]
pub(super) enum Row {
    /// A row is written or goes.
    Put {
        /// Whose, where it belongs to a device.
        device: Option<DeviceId>,
        /// The change.
        change: Change,
    },
    /// A bucket has messages; it is left out where that is known.
    Bucket {
        /// Which.
        bucket: Bucket,
        /// The change.
        change: Change,
    },
    /// A message waits for the network.
    Outbox {
        /// Whose.
        device: DeviceId,
        /// Which.
        id: MessageId,
        /// The change.
        change: Change,
    },
    /// A device is made or changed.
    Device {
        /// Which.
        id: DeviceId,
        /// The change.
        change: Change,
    },
    /// A device goes.
    DeviceRemoved {
        /// Which.
        id: DeviceId,
        /// The change, which says that its rows are to be erased.
        change: Change,
    },
    /// A tenant is made or changed.
    Tenant(Change),
    /// The log's floor rises.
    Floor(u64),
}

impl Row {
    /// The device that has to live for it.
    pub(super) const fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Put { device, .. } => *device,
            Self::Bucket { bucket, .. } => Some(bucket.0),
            Self::Outbox { device, .. } => Some(*device),
            Self::Device { .. } | Self::DeviceRemoved { .. } | Self::Tenant(_) | Self::Floor(_) => {
                None
            }
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Put { change, .. }
            | Self::Bucket { change, .. }
            | Self::Outbox { change, .. }
            | Self::Device { change, .. }
            | Self::DeviceRemoved { change, .. }
            | Self::Tenant(change) => change.weight(),
            Self::Floor(_) => 32,
        }
    }
}

/// A claim with the row that keeps its answer.
pub(super) struct Claimed {
    /// The claim.
    pub(super) claim: Claim,
    /// The row, but for the place.
    pub(super) row: Vec<u8>,
    /// The answer.
    pub(super) answer: Answer,
}

impl Claimed {
    /// The change that keeps the answer.
    pub(super) fn change(&self, tenant: Cell, row: Vec<u8>, now: Timestamp) -> Change {
        let lives = self.claim.expires_at.since(now) + ANSWER_SLACK;
        let (operation, key) = (
            Cell::text(self.claim.operation),
            Cell::text(&self.claim.key),
        );
        let cells = vec![tenant, operation, key, Cell::blob(row), ttl(lives)];
        Change::new(Kind::PutAnswer, cells)
    }
}

/// A job, encoded.
pub(super) struct Encoded {
    /// The rows, in order.
    pub(super) rows: Vec<Row>,
    /// The entries and their rows, which lack place and name.
    pub(super) entries: Vec<(EntryDraft, Vec<u8>)>,
    /// The claim.
    pub(super) claim: Option<Claimed>,
    weight: usize,
}

impl Encoded {
    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Encodes a job of a tenant.
    pub(super) fn of(
        cluster: &str,
        slot: &Slot,
        writes: Vec<Write>,
        entries: Vec<EntryDraft>,
        claim: Option<(Claim, Answer)>,
    ) -> Result<Self, EncodeError> {
        let mut rows = Rows {
            cluster,
            slot,
            rows: Vec::with_capacity(writes.len() + 4),
        };
        for write in writes {
            rows.add(write)?;
        }
        let rows = rows.rows;
        let entries: Vec<_> = entries
            .into_iter()
            .map(|it| (rows::entry(&it), it))
            .map(|(row, draft)| (draft, row))
            .collect();
        let keep = |(claim, answer): (Claim, Answer)| -> Result<Claimed, EncodeError> {
            let row = rows::kept_answer(&answer, claim.fingerprint, claim.expires_at)?;
            Ok(Claimed { claim, row, answer })
        };
        let claim = claim.map(keep).transpose()?;
        let of_rows: usize = rows.iter().map(Row::weight).sum();
        let of_entries: usize = entries
            .iter()
            .map(|(draft, row)| draft.data.len() + row.len())
            .sum();
        let of_claim = claim
            .as_ref()
            .map_or(0, |it| it.claim.key.len() + it.row.len());
        let weight = size_of::<Self>() + of_rows + of_entries + of_claim;
        Ok(Self {
            rows,
            entries,
            claim,
            weight,
        })
    }

    /// Whether it makes or changes its tenant.
    pub(super) fn makes_tenant(writes: &[Write]) -> bool {
        writes.iter().any(|it| matches!(it, Write::Tenant(_)))
    }
}

struct Rows<'a> {
    cluster: &'a str,
    slot: &'a Slot,
    rows: Vec<Row>,
}

impl Rows<'_> {
    /// A change of the tenant itself.
    fn own(&mut self, kind: Kind, cells: impl IntoIterator<Item = Cell>) {
        let cells = std::iter::once(self.slot.key()).chain(cells).collect();
        self.rows.push(Row::Put {
            device: None,
            change: Change::new(kind, cells),
        });
    }

    /// A change of one of the tenant's devices.
    fn change(
        &self,
        kind: Kind,
        device: DeviceId,
        cells: impl IntoIterator<Item = Cell>,
    ) -> Change {
        let key = [self.slot.key(), Cell::id(device.to_bytes())];
        Change::new(kind, key.into_iter().chain(cells).collect())
    }

    fn of_device(&mut self, kind: Kind, device: DeviceId, cells: impl IntoIterator<Item = Cell>) {
        let change = self.change(kind, device, cells);
        let device = Some(device);
        self.rows.push(Row::Put { device, change });
    }

    fn add(&mut self, write: Write) -> Result<(), EncodeError> {
        match write {
            Write::Message { body, state } => {
                let (device, id, chat) = (body.device, body.id, Cell::text(body.chat.as_str()));
                let named = Cell::id(id.to_bytes());
                let (of_chat, of_device) = (chat_bucket(id), device_bucket(id));
                let values = [
                    chat.clone(),
                    Cell::int(of_chat),
                    named.clone(),
                    Cell::blob(rows::packed(&body, 512)?),
                    Cell::blob(rows::packed(&state, 64)?),
                ];
                self.of_device(Kind::PutMessage, device, values);
                let index = [Cell::int(of_device), named, chat.clone()];
                self.of_device(Kind::PutDeviceMessage, device, index);
                let change = self.change(Kind::PutChatBucket, device, [chat, Cell::int(of_chat)]);
                let bucket = (device, Some(body.chat.clone()), of_chat);
                self.rows.push(Row::Bucket { bucket, change });
                let change = self.change(Kind::PutDeviceBucket, device, [Cell::int(of_device)]);
                let bucket = (device, None, of_device);
                self.rows.push(Row::Bucket { bucket, change });
            }
            Write::MessageState {
                device,
                chat,
                id,
                state,
            } => {
                let values = [
                    Cell::text(chat.as_str()),
                    Cell::int(chat_bucket(id)),
                    Cell::id(id.to_bytes()),
                    Cell::blob(rows::packed(&state, 64)?),
                ];
                self.of_device(Kind::PutMessageState, device, values);
            }
            Write::OutboxAdd { device, chat, id } => {
                let change = self.change(Kind::PutOutbox, device, waiting(&chat, id));
                self.rows.push(Row::Outbox { device, id, change });
            }
            Write::OutboxRemove { device, chat, id } => {
                let change = self.change(Kind::RemoveOutbox, device, waiting(&chat, id));
                // What goes needs no device.
                let device = None;
                self.rows.push(Row::Put { device, change });
            }
            Write::Upstream {
                device,
                chat,
                from_me,
                upstream_id,
                id,
            } => {
                let values = [
                    Cell::text(chat.as_str()),
                    small(upstream_shard(&upstream_id)),
                    Cell::flag(from_me),
                    Cell::text(&upstream_id),
                    Cell::id(id.to_bytes()),
                ];
                self.of_device(Kind::PutUpstream, device, values);
            }
            Write::Chat(chat) => {
                let values = [
                    Cell::text(chat.jid.as_str()),
                    Cell::big(chat.active_at.as_millis()),
                    small(chat.unread),
                    Cell::blob(rows::chat(&chat)?),
                ];
                self.of_device(Kind::PutChat, chat.device, values);
            }
            Write::Device(record) => {
                let body = Cell::blob(rows::packed(&record, 400)?);
                let cells = vec![self.slot.key(), Cell::id(record.id.to_bytes()), body];
                let change = Change::new(Kind::PutDevice, cells);
                let id = record.id;
                self.rows.push(Row::Device { id, change });
            }
            Write::DeviceRemoved(id) => {
                let cells = vec![self.slot.key(), Cell::id(id.to_bytes()), Cell::blob([])];
                let change = Change::new(Kind::PutDevice, cells);
                self.rows.push(Row::DeviceRemoved { id, change });
            }
            Write::SessionChange { device, id, change } => {
                let values = [
                    Cell::id(id.to_bytes()),
                    Cell::blob(rows::packed(&change, 100)?),
                ];
                self.of_device(Kind::PutSessionChange, device, values);
            }
            Write::Tenant(record) => {
                let body = Cell::blob(rows::packed(&record, 300)?);
                let cells = vec![Cell::text(self.cluster), self.slot.key(), body];
                let change = Change::new(Kind::PutTenant, cells);
                self.rows.push(Row::Tenant(change));
            }
            Write::Key(record) => {
                let id = Cell::id(record.id.to_bytes());
                let body = Cell::blob(rows::packed(&record, 300)?);
                self.own(Kind::PutKey, [id.clone(), body]);
                let cells = vec![
                    Cell::text(self.cluster),
                    id,
                    self.slot.key(),
                    self.slot.key(),
                ];
                self.rows.push(Row::Put {
                    device: None,
                    change: Change::new(Kind::PutKeyOwner, cells),
                });
            }
            Write::KeyRemoved(id) => {
                let id = Cell::id(id.to_bytes());
                self.own(Kind::RemoveKey, [id.clone()]);
                let cells = vec![Cell::text(self.cluster), id, self.slot.key()];
                self.rows.push(Row::Put {
                    device: None,
                    change: Change::new(Kind::RemoveKeyOwner, cells),
                });
            }
            Write::Consumer { name, cursor } => {
                let values = [Cell::text(&name), Cell::blob(rows::cursor(cursor))];
                self.own(Kind::PutConsumer, values);
            }
            Write::ConsumerRemoved(name) => self.own(Kind::RemoveConsumer, [Cell::text(&name)]),
            Write::LogFloor(seq) => self.rows.push(Row::Floor(seq)),
            Write::Value { space, key, value } => {
                let key = [Cell::text(space), Cell::blob(key)];
                match value {
                    Some(value) => {
                        let value = Cell::blob(rows::raw(&value));
                        self.own(Kind::PutValue, key.into_iter().chain([value]));
                    }
                    None => self.own(Kind::RemoveValue, key),
                }
            }
        }
        Ok(())
    }
}

fn waiting(chat: &Jid, id: MessageId) -> [Cell; 2] {
    [Cell::text(chat.as_str()), Cell::id(id.to_bytes())]
}
