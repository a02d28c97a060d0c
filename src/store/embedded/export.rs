//! Everything that a store has at one moment, as records: a walk along its tables, a bounded piece at a time.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use actors::model::{Cursor, DeviceId, EventId, KeyId, MessageId, TenantId, Timestamp};
use actors::ports::{StoreError, SubmitError};
use bytes::Bytes;
use fjall::{Snapshot, UserValue};

use super::cycle::FIRST_EPOCH;
use super::engine::{Engine, Held, Space, View};
use super::tenants::GATEWAY;
use super::{keys, rows};
use crate::store::transfer::record::Record;
use crate::store::transfer::{CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, Chunk, Mark};

/// What is walked along, in order: whoever owns something comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Tenants,
    Devices,
    Keys,
    Consumers,
    Values,
    SessionChanges,
    Messages,
    Chats,
    Outbox,
    Upstream,
    Log,
    Answers,
}

const STEPS: [Step; 12] = [
    Step::Tenants,
    Step::Devices,
    Step::Keys,
    Step::Consumers,
    Step::Values,
    Step::SessionChanges,
    Step::Messages,
    Step::Chats,
    Step::Outbox,
    Step::Upstream,
    Step::Log,
    Step::Answers,
];

impl Step {
    /// The table, and what its keys start with.
    fn rows(self) -> (Space, Vec<u8>) {
        match self {
            Self::Tenants => (Space::Directory, keys::tenants()),
            Self::Devices => (Space::Directory, keys::all_devices()),
            Self::Keys => (Space::Directory, keys::all_keys()),
            Self::Consumers => (Space::Directory, keys::all_consumers()),
            Self::Values => (Space::Directory, keys::all_values()),
            Self::SessionChanges => (Space::Directory, keys::all_session_changes()),
            Self::Messages => (Space::Messages, Vec::new()),
            Self::Chats => (Space::Chats, Vec::new()),
            Self::Outbox => (Space::Outbox, Vec::new()),
            Self::Upstream => (Space::Upstream, Vec::new()),
            Self::Log => (Space::Log, Vec::new()),
            Self::Answers => (Space::Idempotency, Vec::new()),
        }
    }
}

/// One moment of a store, ready to be read. It does not keep the store from being closed, and ends where it is.
pub(in crate::store) struct Export {
    engine: Weak<Engine>,
    snapshot: Snapshot,
    owners: Owners,
    as_of: Timestamp,
}

/// The ids behind the store's numbers.
struct Owners {
    tenants: HashMap<u32, TenantId>,
    devices: HashMap<u32, DeviceId>,
    floors: HashMap<u32, u64>,
}

impl Export {
    /// Takes the moment that is now. Answers that are forgotten at `as_of` are left out.
    pub(super) fn new(held: &Held, as_of: Timestamp) -> Result<Self, StoreError> {
        let engine = held.read().clone().ok_or(CLOSED)?;
        let snapshot = engine.snapshot();
        let owners = Owners::read(&engine.view_at(&snapshot))?;
        Ok(Self {
            engine: Arc::downgrade(&engine),
            snapshot,
            owners,
            as_of,
        })
    }

    /// About how many records there are.
    pub(in crate::store) fn estimate(&self) -> u64 {
        self.engine.upgrade().map_or(0, |it| estimate(&it))
    }

    /// The records behind a mark; `None` at the end.
    pub(in crate::store) fn next(&self, from: Option<&Mark>) -> Result<Option<Chunk>, StoreError> {
        let engine = self.engine.upgrade().ok_or(CLOSED)?;
        let view = engine.view_at(&self.snapshot);
        let place = from.and_then(|Mark(it)| it.split_first());
        let (mut step, mut beyond) = match place {
            Some((step, key)) => (
                usize::from(*step),
                Some(key.to_vec()).filter(|it| !it.is_empty()),
            ),
            None => (0, None),
        };
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(walked) = STEPS.get(step).copied() {
            if walked == Step::Tenants && beyond.is_none() {
                records.push(self.owners.gateway(&view)?);
            }
            let (space, prefix) = walked.rows();
            let mut body = None;
            for row in view.onward(space, &prefix, beyond.take()) {
                let (key, value) = row?;
                let read = self
                    .owners
                    .record(&view, walked, &key, &value, &mut body, self.as_of)?;
                let Some(record) = read else { continue };
                bytes += record.weight();
                records.push(record);
                if CHUNK_RECORDS_MAX <= records.len() || CHUNK_BYTES_MAX <= bytes {
                    return Ok(Some(chunk(records, step, &key)));
                }
            }
            step += 1;
        }
        Ok((!records.is_empty()).then(|| chunk(records, step, &[])))
    }
}

const CLOSED: StoreError = StoreError::Refused(SubmitError::Closing);

fn chunk(records: Vec<Record>, step: usize, key: &[u8]) -> Chunk {
    let mut mark = vec![u8::try_from(step).unwrap_or(u8::MAX)];
    mark.extend_from_slice(key);
    Chunk {
        records,
        mark: Some(Mark(mark)),
    }
}

/// About how many records a database has: what is counted twice or was removed is not told apart.
pub(super) fn estimate(engine: &Engine) -> u64 {
    let spaces = [
        Space::ByDevice,
        Space::Log,
        Space::Outbox,
        Space::Idempotency,
        Space::Upstream,
        Space::Chats,
    ];
    spaces.into_iter().map(|it| engine.about(it)).sum()
}

impl Owners {
    fn read(view: &View<'_>) -> Result<Self, StoreError> {
        let (mut tenants, mut devices) = (
            HashMap::from([(GATEWAY, TenantId::GATEWAY)]),
            HashMap::new(),
        );
        for row in view.prefix(Space::Directory, &keys::tenants()) {
            let (key, row) = row?;
            let id = keys::id_at(&key, 1).ok_or(DAMAGED)?;
            tenants.insert(rows::number(&row, "tenant")?, TenantId::from_bytes(id));
        }
        for row in view.prefix(Space::Directory, &keys::all_devices()) {
            let (key, row) = row?;
            let id = keys::id_at(&key, 5).ok_or(DAMAGED)?;
            devices.insert(rows::number(&row, "device")?, DeviceId::from_bytes(id));
        }
        let mut floors = HashMap::new();
        for number in tenants.keys() {
            let floor = view.get(Space::Directory, &keys::floor(*number))?;
            let floor = floor.map(|it| rows::unpair(&it, "floor")).transpose()?;
            floors.insert(*number, floor.unwrap_or_default().0);
        }
        Ok(Self {
            tenants,
            devices,
            floors,
        })
    }

    fn gateway(&self, view: &View<'_>) -> Result<Record, StoreError> {
        self.tenant(view, TenantId::GATEWAY, GATEWAY, None)
    }

    fn tenant(
        &self,
        view: &View<'_>,
        tenant: TenantId,
        number: u32,
        row: Option<Bytes>,
    ) -> Result<Record, StoreError> {
        let head = view.get(Space::Directory, &keys::head(number))?;
        let head = head.map(|it| rows::uncursor(&it, "head")).transpose()?;
        Ok(Record::Tenant {
            tenant,
            row,
            head: head.unwrap_or(Cursor {
                epoch: FIRST_EPOCH,
                seq: 0,
            }),
            floor: self.floors.get(&number).copied().unwrap_or_default(),
        })
    }

    /// The record of a row, if it is one of its own: rows of a removed device, and those behind a floor, are none. The
    /// `body` of a message waits for its state, which is the next row.
    fn record(
        &self,
        view: &View<'_>,
        step: Step,
        key: &[u8],
        value: &UserValue,
        body: &mut Option<Bytes>,
        as_of: Timestamp,
    ) -> Result<Option<Record>, StoreError> {
        let tag = match step {
            Step::Tenants => {
                let number = rows::number(value, "tenant")?;
                let id = keys::id_at(key, 1).ok_or(DAMAGED)?;
                let row = rows::without_number(value, "tenant")?;
                let row = Some(Bytes::from(row));
                return self
                    .tenant(view, TenantId::from_bytes(id), number, row)
                    .map(Some);
            }
            Step::Devices | Step::Keys | Step::Consumers | Step::Values | Step::SessionChanges => 1,
            Step::Messages
            | Step::Chats
            | Step::Outbox
            | Step::Upstream
            | Step::Log
            | Step::Answers => 0,
        };
        let number = keys::number_at(key, tag).ok_or(DAMAGED)?;
        let Some(tenant) = self.tenants.get(&number).copied() else {
            return Ok(None);
        };
        let rest = key.get(tag + 4..).ok_or(DAMAGED)?;
        let row = || Bytes::from(value.to_vec());
        let id = || keys::id_at(rest, 0).ok_or(DAMAGED);
        let text = |it: &[u8]| String::from_utf8(it.to_vec()).map_err(|_| DAMAGED);
        let record = match step {
            Step::Tenants => return Ok(None),
            Step::Devices => Record::Device {
                tenant,
                device: DeviceId::from_bytes(id()?),
                row: rows::without_number(value, "device")?.into(),
            },
            Step::Keys => Record::Key {
                tenant,
                id: KeyId::from_bytes(id()?),
                row: row(),
            },
            Step::Consumers => Record::Consumer {
                tenant,
                name: text(rest)?,
                row: row(),
            },
            Step::Values => {
                let (space, key) = named(rest)?;
                Record::Value {
                    tenant,
                    space: text(space)?,
                    key: Bytes::copy_from_slice(key),
                    row: row(),
                }
            }
            Step::Log => {
                let seq = rest
                    .try_into()
                    .map(u64::from_be_bytes)
                    .map_err(|_| DAMAGED)?;
                if seq <= self.floors.get(&number).copied().unwrap_or_default() {
                    return Ok(None);
                }
                Record::Entry {
                    tenant,
                    seq,
                    row: row(),
                }
            }
            Step::Answers => {
                if rows::kept_until(value).is_none_or(|it| it <= as_of) {
                    return Ok(None);
                }
                let (operation, key) = named(rest)?;
                Record::Answer {
                    tenant,
                    operation: text(operation)?,
                    key: text(key)?,
                    row: row(),
                }
            }
            Step::SessionChanges | Step::Messages | Step::Chats | Step::Outbox | Step::Upstream => {
                let number = keys::number_at(rest, 0).ok_or(DAMAGED)?;
                let rest = rest.get(4..).ok_or(DAMAGED)?;
                let Some(device) = self.devices.get(&number).copied() else {
                    return Ok(None);
                };
                return of_device(step, tenant, device, rest, row(), body);
            }
        };
        Ok(Some(record))
    }
}

/// The record of a row of a device; `rest` is what its key has behind the device.
fn of_device(
    step: Step,
    tenant: TenantId,
    device: DeviceId,
    rest: &[u8],
    row: Bytes,
    body: &mut Option<Bytes>,
) -> Result<Option<Record>, StoreError> {
    if step == Step::SessionChanges {
        let id = EventId::from_bytes(keys::id_at(rest, 0).ok_or(DAMAGED)?);
        return Ok(Some(Record::SessionChange {
            tenant,
            device,
            id,
            row,
        }));
    }
    let (chat, rest) = keys::split_jid(rest).ok_or(DAMAGED)?;
    let id = |it: &[u8]| keys::id_at(it, 0).map(MessageId::from_bytes).ok_or(DAMAGED);
    Ok(match step {
        Step::Messages => {
            let id = id(rest)?;
            match rest.get(16) {
                Some(0) => {
                    *body = Some(row);
                    None
                }
                // A state without a body is no message.
                Some(1) => body.take().map(|body| Record::Message {
                    tenant,
                    device,
                    chat,
                    id,
                    body,
                    state: row,
                }),
                Some(_) | None => return Err(DAMAGED),
            }
        }
        Step::Chats => Some(Record::Chat {
            tenant,
            device,
            chat,
            row,
        }),
        Step::Outbox => Some(Record::Outbox {
            tenant,
            device,
            chat,
            id: id(rest)?,
        }),
        Step::Upstream => {
            let (from_me, name) = rest.split_first().ok_or(DAMAGED)?;
            Some(Record::Upstream {
                tenant,
                device,
                chat,
                from_me: *from_me == 1,
                upstream_id: String::from_utf8(name.to_vec()).map_err(|_| DAMAGED)?,
                id: id(rows::unraw(&row, "upstream id")?)?,
            })
        }
        Step::Tenants
        | Step::Devices
        | Step::Keys
        | Step::Consumers
        | Step::Values
        | Step::SessionChanges
        | Step::Log
        | Step::Answers => None,
    })
}

const DAMAGED: StoreError = StoreError::Damaged { what: "key" };

/// A name that ends with a zero, and what follows it.
fn named(bytes: &[u8]) -> Result<(&[u8], &[u8]), StoreError> {
    let at = bytes.iter().position(|it| *it == 0).ok_or(DAMAGED)?;
    let (name, rest) = bytes.split_at_checked(at).ok_or(DAMAGED)?;
    Ok((name, rest.get(1..).ok_or(DAMAGED)?))
}
