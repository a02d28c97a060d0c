//! The whole of a cluster, while no gateway runs on it.
//!
//! A store that is opened for this is open like any other: it holds the lease, and what a crash has left in a journal is
//! in its rows. Nobody submits jobs to it, so every row stays as it is, and rows are written past the journal: each names
//! its whole key, and what is written twice is written once.

use std::collections::HashSet;
use std::time::Duration;

use actors::log::Sequencer;
use actors::model::{TenantId, Timestamp};
use actors::ports::StoreError;
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::CqlStore;
use super::change::{Cell, Change, Kind};
use super::commit::OnRefusal;
use super::directory::BEHIND_ALL;
use super::job::{LOG_BUCKET, chat_bucket, device_bucket, small, ttl, upstream_shard};
use super::journal::{self, read_mark};
use super::load::taken;
use super::look::Look;
use super::tenants::Ledger;
use super::walk::{self, NOTE_SPACE};
use crate::store::rows;
use crate::store::transfer::record::Record;
use crate::store::transfer::{Archive, Chunk, Mark};

const NOTE_KEY: &[u8] = b"note";
/// How much longer a copied row that ages stays than it needs to: it must be there when the copy is read back.
const AGE_SLACK: Duration = Duration::from_secs(24 * 3_600);

#[async_trait]
impl Archive for CqlStore {
    async fn export(
        &self,
        as_of: Timestamp,
        from: Option<Mark>,
        out: mpsc::Sender<Chunk>,
    ) -> Result<(), StoreError> {
        Box::pin(walk::export(self, as_of, from, out)).await
    }

    async fn import(&self, records: Vec<Record>) -> Result<(), StoreError> {
        let mut changes = Vec::with_capacity(records.len() * 2);
        for record in &records {
            if let Record::Tenant { tenant, .. } = record {
                // It comes before what is its own, which lies under its id alone.
                let slot = self.shared.tenants.slot_or_new(*tenant);
                let mark = read_mark(&self.shared.db, &slot.key()).await?;
                if let Some(mark) = mark.filter(|it| it.cluster != self.shared.cluster) {
                    return Err(taken(*tenant, mark.cluster));
                }
            }
            changes.extend(self.changes(record)?);
        }
        // Messages side by side name the same buckets.
        let mut buckets = HashSet::new();
        changes.retain(|it| {
            let names_bucket = matches!(it.kind, Kind::PutChatBucket | Kind::PutDeviceBucket);
            !names_bucket || buckets.insert((it.kind, it.cells.clone()))
        });
        self.write(changes).await
    }

    async fn version(&self) -> Result<String, StoreError> {
        let mut commits = 0;
        for slot in self.shared.tenants.all() {
            commits += slot.ledger.lock().await.committed;
        }
        let (keyspace, cluster) = (&self.shared.keyspace, &self.shared.cluster);
        Ok(format!(
            "cluster {cluster} of keyspace {keyspace} at commit {commits}"
        ))
    }

    fn estimate(&self) -> u64 {
        0
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        let slots = self.shared.tenants.all();
        if slots.iter().any(|it| it.id() != TenantId::GATEWAY) {
            return Ok(false);
        }
        Ok(read_mark(&self.shared.db, &self.gateway()).await?.is_none())
    }

    async fn note(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let (from, to) = (Cell::blob(NOTE_KEY), Cell::blob(BEHIND_ALL));
        let span = (self.gateway(), NOTE_SPACE, from, to, 1_i32);
        let found = self.shared.db.row::<(Vec<u8>, Vec<u8>)>(Look::Values, span);
        let Some((_, row)) = found.await? else {
            return Ok(None);
        };
        Ok(Some(rows::unraw(&row, "note of a copy")?.to_vec()))
    }

    async fn set_note(&self, note: Option<Vec<u8>>) -> Result<(), StoreError> {
        let mut cells = vec![self.gateway(), Cell::text(NOTE_SPACE), Cell::blob(NOTE_KEY)];
        let kind = match note {
            Some(note) => {
                cells.push(Cell::blob(rows::raw(&note)));
                Kind::PutValue
            }
            None => Kind::RemoveValue,
        };
        self.write(vec![Change::new(kind, cells)]).await
    }

    async fn held(&self) -> Result<(), StoreError> {
        let held = self.shared.lease.held().await;
        held.map_err(|_| StoreError::Failed)
    }

    async fn close(&self) {
        actors::ports::Writer::close(self).await;
    }
}

impl CqlStore {
    /// What the gateway's own rows lie under.
    fn gateway(&self) -> Cell {
        self.shared.tenants.slot_or_new(TenantId::GATEWAY).key()
    }

    /// Writes changes, each as often as it takes.
    async fn write(&self, mut changes: Vec<Change>) -> Result<(), StoreError> {
        let first = self.shared.lease.stamps(changes.len());
        for (stamp, change) in (first..).zip(&mut changes) {
            change.stamp = stamp;
        }
        let written = Box::pin(self.shared.apply(changes, OnRefusal::GiveUp)).await;
        written.map_err(|_| StoreError::Failed)
    }

    /// The rows of a record.
    fn changes(&self, record: &Record) -> Result<Vec<Change>, StoreError> {
        let shared = &self.shared;
        let owner = shared.tenants.slot_or_new(record.tenant()).key();
        let cluster = || Cell::text(&shared.cluster);
        let own = |kind, cells: &[Cell]| {
            let key = std::iter::once(owner.clone());
            Change::new(kind, key.chain(cells.iter().cloned()).collect())
        };
        Ok(match record {
            Record::Tenant {
                tenant,
                row,
                head,
                floor,
            } => {
                let ledger = Ledger {
                    sequencer: Sequencer::new(*tenant, *head),
                    floor: *floor,
                    ..Ledger::new(*tenant)
                };
                let slot = shared.tenants.slot_or_new(*tenant);
                let mark = journal::mark(&shared.owner(&slot), &ledger);
                let record = row.iter().map(|row| {
                    let cells = vec![cluster(), owner.clone(), Cell::blob(row.as_ref())];
                    Change::new(Kind::PutTenant, cells)
                });
                record.chain([mark]).collect()
            }
            Record::Device { device, row, .. } => {
                let cells = [Cell::id(device.to_bytes()), Cell::blob(row.as_ref())];
                vec![own(Kind::PutDevice, &cells)]
            }
            Record::Key { id, row, .. } => {
                let id = Cell::id(id.to_bytes());
                let cells = vec![cluster(), id.clone(), owner.clone(), owner.clone()];
                vec![
                    own(Kind::PutKey, &[id, Cell::blob(row.as_ref())]),
                    Change::new(Kind::PutKeyOwner, cells),
                ]
            }
            Record::Consumer { name, row, .. } => {
                let cells = [Cell::text(name), Cell::blob(row.as_ref())];
                vec![own(Kind::PutConsumer, &cells)]
            }
            Record::SessionChange {
                device, id, row, ..
            } => {
                let (device, id) = (Cell::id(device.to_bytes()), Cell::id(id.to_bytes()));
                let cells = [device, id, Cell::blob(row.as_ref())];
                vec![own(Kind::PutSessionChange, &cells)]
            }
            Record::Value {
                space, key, row, ..
            } => {
                let (key, row) = (Cell::blob(key.as_ref()), Cell::blob(row.as_ref()));
                vec![own(Kind::PutValue, &[Cell::text(space), key, row])]
            }
            Record::Message {
                device,
                chat,
                id,
                body,
                state,
                ..
            } => {
                let device = Cell::id(device.to_bytes());
                let chat = Cell::text(chat.as_str());
                let (of_chat, of_device) =
                    (Cell::int(chat_bucket(*id)), Cell::int(device_bucket(*id)));
                let id = Cell::id(id.to_bytes());
                let message = [
                    device.clone(),
                    chat.clone(),
                    of_chat.clone(),
                    id.clone(),
                    Cell::blob(body.as_ref()),
                    Cell::blob(state.as_ref()),
                ];
                let index = [device.clone(), of_device.clone(), id, chat.clone()];
                vec![
                    own(Kind::PutMessage, &message),
                    own(Kind::PutDeviceMessage, &index),
                    own(Kind::PutChatBucket, &[device.clone(), chat, of_chat]),
                    own(Kind::PutDeviceBucket, &[device, of_device]),
                ]
            }
            Record::Chat {
                device, chat, row, ..
            } => {
                let (active_at, unread) = rows::chat_face(row)?;
                let cells = [
                    Cell::id(device.to_bytes()),
                    Cell::text(chat.as_str()),
                    Cell::big(active_at.as_millis()),
                    small(unread),
                    Cell::blob(row.as_ref()),
                ];
                vec![own(Kind::PutChat, &cells)]
            }
            Record::Outbox {
                device, chat, id, ..
            } => {
                let device = Cell::id(device.to_bytes());
                let cells = [device, Cell::text(chat.as_str()), Cell::id(id.to_bytes())];
                vec![own(Kind::PutOutbox, &cells)]
            }
            Record::Upstream {
                device,
                chat,
                from_me,
                upstream_id,
                id,
                ..
            } => {
                let cells = [
                    Cell::id(device.to_bytes()),
                    Cell::text(chat.as_str()),
                    small(upstream_shard(upstream_id)),
                    Cell::flag(*from_me),
                    Cell::text(upstream_id),
                    Cell::id(id.to_bytes()),
                ];
                vec![own(Kind::PutUpstream, &cells)]
            }
            Record::Entry { seq, row, .. } => {
                let cells = [
                    Cell::count(seq / LOG_BUCKET),
                    Cell::count(*seq),
                    Cell::blob(row.as_ref()),
                    ttl(shared.entry_ttl),
                ];
                vec![own(Kind::PutEntry, &cells)]
            }
            Record::Answer {
                operation,
                key,
                row,
                ..
            } => {
                let until = rows::kept_until(row).ok_or(StoreError::Damaged {
                    what: "kept answer",
                })?;
                let cells = [
                    Cell::text(operation),
                    Cell::text(key),
                    Cell::blob(row.as_ref()),
                    ttl(until.since(self.now()) + AGE_SLACK),
                ];
                vec![own(Kind::PutAnswer, &cells)]
            }
        })
    }
}
