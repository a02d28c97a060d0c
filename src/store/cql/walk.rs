//! The whole of a cluster as records: a walk from owner to owner.
//!
//! Most rows are found from what owns them, partition by partition. Kept answers and connectors' values are not: nothing
//! lists their partitions, so their tables are read by ranges of the ring, with the rows of other clusters passed over.
//! That is a scan, which the gateway itself never makes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use actors::model::{DeviceId, EventId, Jid, KeyRecord, MessageId, Tenant, TenantId, Timestamp};
use actors::ports::StoreError;
use bytes::Bytes;
use parking_lot::Mutex;
use scylla::deserialize::row::DeserializeRow;
use scylla::response::PagingState;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::mpsc;

use super::CqlStore;
use super::change::Cell;
use super::database::qualified;
use super::job::{LOG_BUCKET, UPSTREAM_SHARDS, small};
use super::journal::read_mark;
use super::load::first_entry;
use super::look::Look;
use super::tenants::Ledger;
use crate::store::rows;
use crate::store::transfer::record::Record;
use crate::store::transfer::{CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, Chunk, Mark};

/// The space of the note, which is no connector's.
pub(super) const NOTE_SPACE: &str = "unfinished copy";
/// Ranges of the ring that a table is read by.
const RANGES: u32 = 64;
/// Rows that are read at once.
const PAGE_ROWS: i32 = 500;
/// How often a read is tried that gets no answer, and the pause before the next.
const READS_MAX: u32 = 5;
const READ_AGAIN: Duration = Duration::from_secs(1);
/// Records for which a unit that ends sends a chunk of its own, so that a copy can go on behind it.
const UNIT_RECORDS_MIN: usize = 200;

const DAMAGED: StoreError = StoreError::Damaged { what: "key" };

/// The next piece of an export: the rows of one owner, or of one range. Their order is the same each time.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Unit {
    /// With its record, which the gateway has none of.
    Tenant(TenantId, Option<Bytes>),
    /// With its record.
    Device(TenantId, DeviceId, Bytes),
    Values(u32),
    Answers(u32),
}

/// An export under way.
struct Walk<'a> {
    store: &'a CqlStore,
    as_of: Timestamp,
    out: mpsc::Sender<Chunk>,
    statements: Statements,
    /// Less than a chunk.
    ready: Mutex<Vec<Record>>,
    /// Whose rows lie under an id.
    owners: HashMap<Cell, TenantId>,
}

/// The statements of an export, none of which a serving store has.
struct Statements {
    session_changes: PreparedStatement,
    messages: PreparedStatement,
    chats: PreparedStatement,
    outbox: PreparedStatement,
    upstream: PreparedStatement,
    entries: PreparedStatement,
    values: PreparedStatement,
    answers: PreparedStatement,
}

impl Statements {
    async fn prepare(store: &CqlStore) -> Result<Self, StoreError> {
        let of_device = "WHERE tenant = ? AND device = ?";
        let prepare = |cql: String| async move {
            let link = store.shared.db.link();
            let mut prepared = link
                .session
                .prepare(qualified(&cql, &store.shared.keyspace))
                .await
                .map_err(unread)?;
            prepared.set_page_size(PAGE_ROWS);
            prepared.set_is_idempotent(true);
            Ok::<_, StoreError>(prepared)
        };
        let range = |columns: &str, table: &str, key: &str| {
            format!("SELECT {columns} FROM {table} WHERE token({key}) > ? AND token({key}) <= ?")
        };
        Ok(Self {
            session_changes: prepare(format!("SELECT id, body FROM session_changes {of_device}")).await?,
            messages: prepare(format!(
                "SELECT id, body, state FROM messages {of_device} AND chat = ? AND bucket = ?"
            ))
            .await?,
            chats: prepare(format!("SELECT chat, body FROM chats {of_device}")).await?,
            outbox: prepare(format!("SELECT chat, id FROM outbox {of_device}")).await?,
            upstream: prepare(format!(
                "SELECT from_me, upstream_id, id FROM upstream {of_device} AND chat = ? AND shard = ?"
            ))
            .await?,
            entries: prepare(
                "SELECT seq, body FROM event_log WHERE tenant = ? AND bucket = ? AND seq > ? AND seq <= ?".to_owned(),
            )
            .await?,
            values: prepare(range(
                "tenant, space, key, body",
                "connector_values",
                "tenant, space",
            ))
            .await?,
            answers: prepare(range(
                "tenant, operation, key, body",
                "idempotency",
                "tenant, operation, key",
            ))
            .await?,
        })
    }
}

fn unread(source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Engine {
        operation: "read a whole store",
        source: Box::new(source),
    }
}

/// Why a walk ends before its end.
enum Stop {
    /// Nobody takes what is read any more.
    Gone,
    /// It can't be read.
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Everything behind a mark, but no answer that is forgotten at `as_of`: all tenants, then all devices, then what is found by ranges. A mark is the number of the
/// unit to go on with, so a copy that was interrupted goes on with a whole owner.
pub(super) async fn export(
    store: &CqlStore,
    as_of: Timestamp,
    from: Option<Mark>,
    out: mpsc::Sender<Chunk>,
) -> Result<(), StoreError> {
    let walk = Walk {
        store,
        as_of,
        out,
        statements: Box::pin(Statements::prepare(store)).await?,
        ready: Mutex::default(),
        owners: HashMap::new(),
    };
    match Box::pin(walk.run(from)).await {
        Ok(()) | Err(Stop::Gone) => Ok(()),
        Err(Stop::Failed(error)) => Err(error),
    }
}

impl Walk<'_> {
    async fn run(mut self, from: Option<Mark>) -> Result<(), Stop> {
        let units = self.units().await?;
        let from = match from {
            Some(Mark(bytes)) => usize::from_be_bytes(bytes.try_into().map_err(|_| DAMAGED)?),
            None => 0,
        };
        let last = units.len().saturating_sub(1);
        for (number, unit) in units.into_iter().enumerate().skip(from) {
            self.unit(unit).await?;
            let records = {
                let mut ready = self.ready.lock();
                let due = UNIT_RECORDS_MIN <= ready.len() || number == last;
                due.then(|| std::mem::take(&mut *ready))
            };
            if let Some(records) = records {
                let mark = Mark((number + 1).to_be_bytes().to_vec());
                self.send_chunk(records, Some(mark)).await?;
            }
        }
        Ok(())
    }

    /// Everything that is walked along, in order.
    async fn units(&mut self) -> Result<Vec<Unit>, StoreError> {
        let shared = &self.store.shared;
        let bodies: Vec<(Vec<u8>,)> = shared.db.rows(Look::Tenants, (&shared.cluster,)).await?;
        let mut tenants = vec![(TenantId::GATEWAY, None)];
        for (body,) in bodies {
            let tenant: Tenant = rows::unpacked(&body, "tenant")?;
            tenants.push((tenant.id, Some(Bytes::from(body))));
        }
        tenants.sort_by_key(|(tenant, _)| *tenant);
        let mut devices = Vec::new();
        for (tenant, _) in &tenants {
            let key = shared.tenants.slot_or_new(*tenant).key();
            let bodies: Vec<(Vec<u8>, Vec<u8>)> = shared.db.rows(Look::Devices, (&key,)).await?;
            self.owners.insert(key, *tenant);
            // One without a body is removed, and its rows are nobody's.
            for (id, body) in bodies.into_iter().filter(|(_, body)| !body.is_empty()) {
                let device = DeviceId::from_bytes(named(&id)?);
                devices.push(Unit::Device(*tenant, device, body.into()));
            }
        }
        let tenants = tenants.into_iter().map(|(id, row)| Unit::Tenant(id, row));
        let ranges = (0..RANGES)
            .map(Unit::Values)
            .chain((0..RANGES).map(Unit::Answers));
        Ok(tenants.chain(devices).chain(ranges).collect())
    }

    /// Hands every page of a read on.
    async fn pages<T>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow + Send + Sync,
        mut record: impl FnMut(T) -> Result<Option<Record>, StoreError> + Send,
    ) -> Result<(), Stop>
    where
        T: for<'f> DeserializeRow<'f, 'f> + Send,
    {
        let (mut place, mut tries) = (PagingState::start(), 0);
        loop {
            let link = self.store.shared.db.link();
            let page = link
                .session
                .execute_single_page(statement, &values, place.clone());
            let (page, more) = match Box::pin(page).await {
                Ok(read) => read,
                Err(error) => {
                    tries += 1;
                    if READS_MAX <= tries {
                        return Err(unread(error).into());
                    }
                    tokio::time::sleep(READ_AGAIN).await;
                    continue;
                }
            };
            tries = 0;
            let records = {
                let page = page.into_rows_result().map_err(unread)?;
                let mut records = Vec::new();
                for row in page.rows::<T>().map_err(unread)? {
                    records.extend(record(row.map_err(unread)?)?);
                }
                records
            };
            self.send(records).await?;
            match more.into_paging_control_flow() {
                ControlFlow::Continue(next) => place = next,
                ControlFlow::Break(()) => return Ok(()),
            }
        }
    }

    /// Hands records on, once there are enough for a chunk.
    async fn send(&self, records: Vec<Record>) -> Result<(), Stop> {
        let enough = {
            let mut ready = self.ready.lock();
            ready.extend(records);
            let bytes: usize = ready.iter().map(Record::weight).sum();
            let enough = CHUNK_RECORDS_MAX <= ready.len() || CHUNK_BYTES_MAX <= bytes;
            enough.then(|| std::mem::take(&mut *ready))
        };
        match enough {
            Some(records) => self.send_chunk(records, None).await,
            None => Ok(()),
        }
    }

    async fn send_chunk(&self, records: Vec<Record>, mark: Option<Mark>) -> Result<(), Stop> {
        let sent = self.out.send(Chunk { records, mark }).await;
        sent.map_err(|_| Stop::Gone)
    }

    async fn unit(&self, unit: Unit) -> Result<(), Stop> {
        match unit {
            Unit::Tenant(tenant, row) => Box::pin(self.tenant(tenant, row)).await,
            Unit::Device(tenant, device, row) => Box::pin(self.device(tenant, device, row)).await,
            Unit::Values(range) => Box::pin(self.values(range)).await,
            Unit::Answers(range) => Box::pin(self.answers(range)).await,
        }
    }

    async fn tenant(&self, tenant: TenantId, row: Option<Bytes>) -> Result<(), Stop> {
        let shared = &self.store.shared;
        let db = &shared.db;
        let slot = shared.tenants.slot_or_new(tenant);
        // Not what is in memory, which an import does not change.
        let (head, floor) = match read_mark(db, &slot.key()).await? {
            Some(mark) => {
                let floor = first_entry(shared, &slot, mark.floor, mark.head.seq).await?;
                (mark.head, floor)
            }
            None => (Ledger::new(tenant).sequencer.head(), 0),
        };
        let mut records = vec![Record::Tenant {
            tenant,
            row,
            head,
            floor,
        }];
        let keys: Vec<(Vec<u8>,)> = db.rows(Look::Keys, (slot.key(),)).await?;
        for (body,) in keys {
            let key: KeyRecord = rows::unpacked(&body, "key")?;
            records.push(Record::Key {
                tenant,
                id: key.id,
                row: body.into(),
            });
        }
        let consumers: Vec<(String, Vec<u8>)> = db.rows(Look::Consumers, (slot.key(),)).await?;
        records.extend(consumers.into_iter().map(|(name, row)| Record::Consumer {
            tenant,
            name,
            row: row.into(),
        }));
        self.send(records).await?;
        for bucket in (floor + 1) / LOG_BUCKET..=head.seq / LOG_BUCKET {
            let span = (
                slot.key(),
                Cell::count(bucket),
                Cell::count(floor),
                Cell::count(head.seq),
            );
            let entry = |(seq, row): (i64, Vec<u8>)| {
                Ok(Some(Record::Entry {
                    tenant,
                    seq: u64::try_from(seq).map_err(|_| DAMAGED)?,
                    row: row.into(),
                }))
            };
            self.pages(&self.statements.entries, span, entry).await?;
        }
        Ok(())
    }

    async fn device(&self, tenant: TenantId, device: DeviceId, row: Bytes) -> Result<(), Stop> {
        let db = &self.store.shared.db;
        let slot = self.store.shared.tenants.slot_or_new(tenant);
        let scope = (slot.key(), Cell::id(device.to_bytes()));
        let record = Record::Device {
            tenant,
            device,
            row,
        };
        self.send(vec![record]).await?;
        let change = |(id, row): (Vec<u8>, Vec<u8>)| {
            Ok(Some(Record::SessionChange {
                tenant,
                device,
                id: EventId::from_bytes(named(&id)?),
                row: row.into(),
            }))
        };
        let chat = |(chat, row): (String, Vec<u8>)| {
            Ok(Some(Record::Chat {
                tenant,
                device,
                chat: address(&chat)?,
                row: row.into(),
            }))
        };
        let waiting = |(chat, id): (String, Vec<u8>)| {
            Ok(Some(Record::Outbox {
                tenant,
                device,
                chat: address(&chat)?,
                id: MessageId::from_bytes(named(&id)?),
            }))
        };
        let of = &self.statements;
        self.pages(&of.session_changes, &scope, change).await?;
        self.pages(&of.chats, &scope, chat).await?;
        self.pages(&of.outbox, &scope, waiting).await?;
        let buckets: Vec<(String, i32)> =
            db.rows(Look::AllChatBuckets, (&scope.0, &scope.1)).await?;
        let mut before = None;
        for (chat, bucket) in buckets {
            let jid = address(&chat)?;
            let message = |(id, body, state): (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>)| {
                let (Some(body), Some(state)) = (body, state) else {
                    return Ok(None);
                };
                Ok(Some(Record::Message {
                    tenant,
                    device,
                    chat: jid.clone(),
                    id: MessageId::from_bytes(named(&id)?),
                    body: body.into(),
                    state: state.into(),
                }))
            };
            let place = (&scope.0, &scope.1, &chat, bucket);
            self.pages(&of.messages, place, message).await?;
            // The chat's first bucket brings its upstream ids along.
            if before.as_ref() != Some(&chat) {
                for shard in 0..UPSTREAM_SHARDS {
                    self.upstream(tenant, device, &scope, &jid, shard).await?;
                }
                before = Some(chat);
            }
        }
        Ok(())
    }

    async fn upstream(
        &self,
        tenant: TenantId,
        device: DeviceId,
        scope: &(Cell, Cell),
        chat: &Jid,
        shard: u32,
    ) -> Result<(), Stop> {
        let named = |(from_me, upstream_id, id): (bool, String, Vec<u8>)| {
            Ok(Some(Record::Upstream {
                tenant,
                device,
                chat: chat.clone(),
                from_me,
                upstream_id,
                id: MessageId::from_bytes(named(&id)?),
            }))
        };
        let place = (&scope.0, &scope.1, Cell::text(chat.as_str()), small(shard));
        self.pages(&self.statements.upstream, place, named).await
    }

    async fn values(&self, range: u32) -> Result<(), Stop> {
        let value =
            |(owner, space, key, row): (scylla::value::CqlValue, String, Vec<u8>, Vec<u8>)| {
                let Some(tenant) = self.owner(&owner) else {
                    return Ok(None);
                };
                if space == NOTE_SPACE {
                    return Ok(None);
                }
                Ok(Some(Record::Value {
                    tenant,
                    space,
                    key: key.into(),
                    row: row.into(),
                }))
            };
        self.pages(&self.statements.values, ring(range), value)
            .await
    }

    async fn answers(&self, range: u32) -> Result<(), Stop> {
        let answer =
            |(owner, operation, key, row): (scylla::value::CqlValue, String, String, Vec<u8>)| {
                let kept = rows::kept_until(&row).is_some_and(|it| self.as_of < it);
                Ok(self
                    .owner(&owner)
                    .filter(|_| kept)
                    .map(|tenant| Record::Answer {
                        tenant,
                        operation,
                        key,
                        row: row.into(),
                    }))
            };
        self.pages(&self.statements.answers, ring(range), answer)
            .await
    }

    /// The tenant of this cluster whose rows lie under an id.
    fn owner(&self, key: &scylla::value::CqlValue) -> Option<TenantId> {
        let key = Cell::id(key.as_uuid()?.into_bytes());
        self.owners.get(&key).copied()
    }
}

/// One of the ranges of the ring: behind the first token, up to and with the second.
fn ring(range: u32) -> (i64, i64) {
    let width = (u64::MAX / u64::from(RANGES)) + 1;
    let at = |range: u32| {
        let behind = i128::from(width) * i128::from(range);
        i64::try_from(i128::from(i64::MIN) + behind).unwrap_or(i64::MAX)
    };
    (at(range), at(range + 1))
}

fn named(bytes: &[u8]) -> Result<[u8; 16], StoreError> {
    bytes.try_into().map_err(|_| DAMAGED)
}

fn address(text: &str) -> Result<Jid, StoreError> {
    text.parse().map_err(|_| DAMAGED)
}
