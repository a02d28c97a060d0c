//! A job as the writer wants it: rows encoded by whoever submits, so that the writer's one thread only places and writes.

use actors::model::{DeviceId, EntryDraft, Timestamp};
use actors::ports::{Answer, Claim, Write};

use super::engine::Space;
use super::keys::{self, Part, Place};
use super::rows::{self, EncodeError};
use super::tenants::{Slot, Tenants};

/// The device of rows that belong to the tenant itself.
pub(super) const NO_DEVICE: u32 = 0;

/// One change, encoded.
pub(super) enum Row {
    /// A row is written.
    Put {
        /// Where.
        space: Space,
        /// Whose, or [`NO_DEVICE`].
        device: u32,
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// A row goes.
    Remove {
        /// Where.
        space: Space,
        /// Its key.
        key: Vec<u8>,
    },
    /// The row of a chat: the last of a commit is written.
    Chat {
        /// Whose.
        device: u32,
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// A device is made or changed.
    Device {
        /// Its id.
        id: DeviceId,
        /// Its number.
        number: u32,
        /// The key of its record.
        key: Vec<u8>,
        /// Its record.
        value: Vec<u8>,
    },
    /// A device goes.
    DeviceRemoved {
        /// Its id.
        id: DeviceId,
        /// Where its rows lie.
        place: Place,
    },
    /// A tenant is made or changed.
    Tenant {
        /// The key of its record.
        key: Vec<u8>,
        /// Its record.
        value: Vec<u8>,
    },
    /// The log's floor rises.
    Floor(u64),
}

impl Row {
    /// The device that has to live for it.
    pub(super) const fn device(&self) -> u32 {
        match self {
            Self::Put { device, .. } | Self::Chat { device, .. } => *device,
            Self::Remove { .. }
            | Self::Device { .. }
            | Self::DeviceRemoved { .. }
            | Self::Tenant { .. }
            | Self::Floor(_) => NO_DEVICE,
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Put { key, value, .. }
            | Self::Chat { key, value, .. }
            | Self::Device { key, value, .. }
            | Self::Tenant { key, value } => key.len() + value.len(),
            Self::Remove { key, .. } => key.len(),
            Self::DeviceRemoved { .. } | Self::Floor(_) => 32,
        }
    }
}

/// A claim with the row that keeps its answer.
pub(super) struct Claimed {
    /// The row's key.
    pub(super) key: Vec<u8>,
    /// The row, but for the place.
    pub(super) row: Vec<u8>,
    /// What was asked.
    pub(super) fingerprint: [u8; 32],
    /// When the answer is forgotten.
    pub(super) expires_at: Timestamp,
    /// The answer.
    pub(super) answer: Answer,
}

/// A job, encoded.
pub(super) struct Encoded {
    /// The rows, in order.
    pub(super) rows: Vec<Row>,
    /// The entries and their rows, which lack place and name.
    pub(super) entries: Vec<(EntryDraft, Vec<u8>)>,
    /// The claim.
    pub(super) claim: Option<Claimed>,
    /// Whether a row belongs to a device that is not known.
    pub(super) is_orphan: bool,
    weight: usize,
}

impl Encoded {
    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Encodes a job of a tenant.
    pub(super) fn of(
        tenants: &Tenants,
        slot: &Slot,
        writes: Vec<Write>,
        entries: Vec<EntryDraft>,
        claim: Option<(Claim, Answer)>,
    ) -> Result<Self, EncodeError> {
        let mut rows = Rows {
            tenants,
            slot,
            rows: Vec::with_capacity(writes.len() + 4),
            is_orphan: false,
        };
        for write in writes {
            rows.add(write)?;
        }
        let Rows {
            rows, is_orphan, ..
        } = rows;
        let entries: Vec<_> = entries
            .into_iter()
            .map(|it| (rows::entry(&it), it))
            .map(|(row, draft)| (draft, row))
            .collect();
        let keep = |(claim, answer): (Claim, Answer)| -> Result<Claimed, EncodeError> {
            let row = rows::kept_answer(&answer, claim.fingerprint, claim.expires_at)?;
            let key = keys::idempotency(slot.number(), claim.operation, &claim.key);
            Ok(Claimed {
                key,
                row,
                fingerprint: claim.fingerprint,
                expires_at: claim.expires_at,
                answer,
            })
        };
        let claim = claim.map(keep).transpose()?;
        let of_rows: usize = rows.iter().map(Row::weight).sum();
        let of_entries: usize = entries
            .iter()
            .map(|(draft, row)| draft.data.len() + row.len())
            .sum();
        let of_claim = claim.as_ref().map_or(0, |it| it.key.len() + it.row.len());
        let weight = size_of::<Self>() + of_rows + of_entries + of_claim;
        Ok(Self {
            rows,
            entries,
            claim,
            is_orphan,
            weight,
        })
    }

    /// Whether it makes or changes its tenant.
    pub(super) fn makes_tenant(writes: &[Write]) -> bool {
        writes.iter().any(|it| matches!(it, Write::Tenant(_)))
    }
}

struct Rows<'a> {
    tenants: &'a Tenants,
    slot: &'a Slot,
    rows: Vec<Row>,
    is_orphan: bool,
}

impl Rows<'_> {
    fn put(&mut self, space: Space, device: u32, key: Vec<u8>, value: Vec<u8>) {
        self.rows.push(Row::Put {
            space,
            device,
            key,
            value,
        });
    }

    fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.rows.push(Row::Remove { space, key });
    }

    /// A row of a device that is not known: nobody could read it, so its job is turned down.
    fn orphan(&mut self) -> Result<(), EncodeError> {
        self.is_orphan = true;
        Ok(())
    }

    fn add(&mut self, write: Write) -> Result<(), EncodeError> {
        let tenant = self.slot.number();
        match write {
            Write::Message { body, state } => {
                let Some(place) = self.slot.place(body.device) else {
                    return self.orphan();
                };
                let value = rows::packed(&body, 512)?;
                self.put(
                    Space::Messages,
                    place.device,
                    keys::message(place, &body.chat, body.id, Part::Body),
                    value,
                );
                let value = rows::packed(&state, 64)?;
                self.put(
                    Space::Messages,
                    place.device,
                    keys::message(place, &body.chat, body.id, Part::State),
                    value,
                );
                self.put(
                    Space::ByDevice,
                    place.device,
                    keys::by_device(place, body.id),
                    rows::jid(&body.chat),
                );
            }
            Write::MessageState {
                device,
                chat,
                id,
                state,
            } => {
                let Some(place) = self.slot.place(device) else {
                    return self.orphan();
                };
                let value = rows::packed(&state, 64)?;
                self.put(
                    Space::Messages,
                    place.device,
                    keys::message(place, &chat, id, Part::State),
                    value,
                );
            }
            Write::OutboxAdd { device, chat, id } => {
                let Some(place) = self.slot.place(device) else {
                    return self.orphan();
                };
                self.put(
                    Space::Outbox,
                    place.device,
                    keys::outbox(place, &chat, id),
                    rows::raw(&[]),
                );
            }
            Write::OutboxRemove { device, chat, id } => {
                let Some(place) = self.slot.place(device) else {
                    return Ok(());
                };
                self.remove(Space::Outbox, keys::outbox(place, &chat, id));
            }
            Write::Upstream {
                device,
                chat,
                from_me,
                upstream_id,
                id,
            } => {
                let Some(place) = self.slot.place(device) else {
                    return self.orphan();
                };
                let key = keys::upstream(place, &chat, from_me, &upstream_id);
                self.put(
                    Space::Upstream,
                    place.device,
                    key,
                    rows::raw(&id.to_bytes()),
                );
            }
            Write::Chat(chat) => {
                let Some(place) = self.slot.place(chat.device) else {
                    return self.orphan();
                };
                self.rows.push(Row::Chat {
                    device: place.device,
                    key: keys::chat(place, &chat.jid),
                    value: rows::chat(&chat)?,
                });
            }
            Write::Device(record) => {
                let number = self.tenants.place_or_new(self.slot, record.id).device;
                let (key, value) = (
                    keys::device(tenant, record.id),
                    rows::numbered(number, &record)?,
                );
                self.rows.push(Row::Device {
                    id: record.id,
                    number,
                    key,
                    value,
                });
            }
            Write::DeviceRemoved(id) => self.rows.extend(
                self.slot
                    .place(id)
                    .map(|place| Row::DeviceRemoved { id, place }),
            ),
            Write::SessionChange { device, id, change } => {
                let Some(place) = self.slot.place(device) else {
                    return self.orphan();
                };
                self.put(
                    Space::Directory,
                    place.device,
                    keys::session_change(place, id),
                    rows::packed(&change, 100)?,
                );
            }
            Write::Tenant(record) => {
                self.rows.push(Row::Tenant {
                    key: keys::tenant(self.slot.id()),
                    value: rows::numbered(tenant, &record)?,
                });
            }
            Write::Key(record) => {
                self.put(
                    Space::Directory,
                    NO_DEVICE,
                    keys::key(tenant, record.id),
                    rows::packed(&record, 300)?,
                );
                self.put(
                    Space::Directory,
                    NO_DEVICE,
                    keys::key_owner(record.id, tenant),
                    rows::raw(&[]),
                );
            }
            Write::KeyRemoved(id) => {
                self.remove(Space::Directory, keys::key(tenant, id));
                self.remove(Space::Directory, keys::key_owner(id, tenant));
            }
            Write::Consumer { name, cursor } => self.put(
                Space::Directory,
                NO_DEVICE,
                keys::consumer(tenant, &name),
                rows::cursor(cursor),
            ),
            Write::ConsumerRemoved(name) => {
                self.remove(Space::Directory, keys::consumer(tenant, &name));
            }
            Write::LogFloor(seq) => self.rows.push(Row::Floor(seq)),
            Write::Value { space, key, value } => {
                let key = keys::value(tenant, space, &key);
                match value {
                    Some(value) => self.put(Space::Directory, NO_DEVICE, key, rows::raw(&value)),
                    None => self.remove(Space::Directory, key),
                }
            }
        }
        Ok(())
    }
}
