//! What the store keeps in memory, read once when it is opened; what was begun is brought to its end first.

use std::sync::Arc;

use actors::log::Sequencer;
use actors::model::{DeviceId, Tenant, TenantId};
use actors::ports::StoreError;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::change::Cell;
use super::commit::{OnRefusal, Shared};
use super::erasure::Erasure;
use super::job::LOG_BUCKET;
use super::journal::{read_changes, read_mark};
use super::look::Look;
use super::tenants::{Ledger, Slot};
use crate::store::rows;

/// Tenants that are read at the same time.
const TENANTS_MAX: usize = 64;

/// Reads all tenants; gives the devices whose rows are still to be erased.
pub(super) async fn load(shared: &Shared) -> Result<Vec<Erasure>, StoreError> {
    let tenants: Vec<(Vec<u8>,)> = shared.db.rows(Look::Tenants, (&shared.cluster,)).await?;
    for (body,) in tenants {
        let tenant: Tenant = rows::unpacked(&body, "tenant")?;
        shared.tenants.slot_or_new(tenant.id);
    }
    let slots = shared.tenants.all();
    let loads: Vec<_> = slots
        .iter()
        .map(|it| Box::pin(load_tenant(shared, it)))
        .collect();
    let erasures: Vec<Vec<Erasure>> = stream::iter(loads)
        .buffer_unordered(TENANTS_MAX)
        .try_collect()
        .await?;
    Ok(erasures.concat())
}

async fn load_tenant(shared: &Shared, slot: &Arc<Slot>) -> Result<Vec<Erasure>, StoreError> {
    let db = &shared.db;
    let mut ledger = Ledger::new(slot.id());
    if let Some(mark) = read_mark(db, &slot.key()).await? {
        if mark.cluster != shared.cluster {
            return Err(taken(slot.id(), mark.cluster));
        }
        let changes = read_changes(db, &slot.key(), &mark).await?;
        shared
            .apply(changes, OnRefusal::GiveUp)
            .await
            .map_err(|_| {
                tracing::error!(tenant = %slot.id(), "its last commit could not be completed");
                StoreError::Failed
            })?;
        ledger = Ledger {
            sequencer: Sequencer::new(slot.id(), mark.head),
            floor: first_entry(shared, slot, mark.floor, mark.head.seq).await?,
            committed: mark.committed,
            applied: mark.committed,
            has_parts: true,
        };
        let seq = mark.head.seq;
        let place = (slot.key(), Cell::count(seq / LOG_BUCKET), Cell::count(seq));
        if let Some((row,)) = db.row::<(Vec<u8>,)>(Look::Entry, place).await? {
            let last = rows::unentry(slot.id(), &row)?;
            ledger.sequencer = ledger.sequencer.behind(&last);
        }
    }
    let mut erasures = Vec::new();
    let devices: Vec<(Vec<u8>, Vec<u8>)> = db.rows(Look::Devices, (slot.key(),)).await?;
    for (id, body) in devices {
        let id = id
            .try_into()
            .map_err(|_| StoreError::Damaged { what: "device key" })?;
        let device = DeviceId::from_bytes(id);
        if body.is_empty() {
            slot.forget_device(device);
            let tenant = slot.id();
            erasures.push(Erasure { tenant, device });
        } else {
            slot.add_device(device);
        }
    }
    slot.start_log(ledger.sequencer.head(), ledger.floor, &shared.budget);
    *slot.ledger.lock().await = ledger;
    Ok(erasures)
}

/// A tenant belongs to another cluster of the keyspace, into which the same store was copied.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tenant {tenant} is in the cluster {cluster} of the same keyspace: name another keyspace with cql.keyspace"
)]
struct Taken {
    tenant: TenantId,
    cluster: String,
}

pub(super) fn taken(tenant: TenantId, cluster: String) -> StoreError {
    StoreError::Engine {
        operation: "take a tenant",
        source: Box::new(Taken { tenant, cluster }),
    }
}

/// The floor: entries behind it may have aged away while nobody was there to raise it.
pub(super) async fn first_entry(
    shared: &Shared,
    slot: &Slot,
    floor: u64,
    head: u64,
) -> Result<u64, StoreError> {
    let mut after = floor;
    while after < head {
        let bucket = (after + 1) / LOG_BUCKET;
        let span = (
            slot.key(),
            Cell::count(bucket),
            Cell::count(after),
            Cell::count(head),
            1_i32,
        );
        if let Some((row,)) = shared.db.row::<(Vec<u8>,)>(Look::Entries, span).await? {
            let first = rows::unentry(slot.id(), &row)?;
            return Ok(first.cursor().seq.saturating_sub(1));
        }
        after = ((bucket + 1) * LOG_BUCKET - 1).min(head);
    }
    Ok(head)
}
