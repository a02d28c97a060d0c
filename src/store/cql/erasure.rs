//! Rows that nobody sees any more go away in the background: a partition at a time, which leaves one tombstone each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use actors::model::{DeviceId, TenantId};
use actors::ports::StoreError;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::change::{Cell, Change, Kind};
use super::commit::{OnRefusal, Shared};
use super::job::{UPSTREAM_SHARDS, small};
use super::look::Look;

/// The pause after an erasure that got no answer.
const PAUSE: Duration = Duration::from_secs(5);

/// A removed device whose rows are to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Erasure {
    /// Whose.
    pub(super) tenant: TenantId,
    /// Which.
    pub(super) device: DeviceId,
}

/// Erases one device after the other. What is cut off begins again after the next start.
pub(super) async fn serve(shared: Arc<Shared>, mut erasures: mpsc::Receiver<Erasure>) {
    while let Some(erasure) = erasures.recv().await {
        while let Err(error) = Box::pin(erase(&shared, erasure)).await {
            if shared.lease.is_lost() {
                return;
            }
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "rows of a removed device are erased a little later"
            );
            sleep(PAUSE).await;
        }
    }
}

async fn erase(shared: &Shared, erasure: Erasure) -> Result<(), StoreError> {
    let Some(slot) = shared.tenants.slot(erasure.tenant) else {
        return Ok(());
    };
    let scope = [slot.key(), Cell::id(erasure.device.to_bytes())];
    let of_device = |kind, rest: &[Cell]| {
        let cells = scope.iter().chain(rest).cloned().collect();
        Change::new(kind, cells)
    };
    let [tenant, device] = &scope;
    let db = &shared.db;
    let buckets: Vec<(String, i32)> = db.rows(Look::AllChatBuckets, (tenant, device)).await?;
    let days: Vec<(i32,)> = db.rows(Look::DeviceBuckets, (tenant, device)).await?;
    let mut rows = Vec::new();
    let mut chats = HashSet::new();
    for (chat, bucket) in &buckets {
        let chat = Cell::text(chat);
        rows.push(of_device(
            Kind::EraseMessages,
            &[chat.clone(), Cell::int(*bucket)],
        ));
        if chats.insert(chat.clone()) {
            rows.extend(
                (0..UPSTREAM_SHARDS)
                    .map(|it| of_device(Kind::EraseUpstream, &[chat.clone(), small(it)])),
            );
        }
    }
    rows.extend(
        days.into_iter()
            .map(|(day,)| of_device(Kind::EraseDeviceMessages, &[Cell::int(day)])),
    );
    let lists = [
        Kind::EraseChats,
        Kind::EraseOutbox,
        Kind::EraseSessionChanges,
        Kind::EraseDeviceBuckets,
        Kind::EraseChatBuckets,
    ];
    // What tells where the rows are goes behind them, and the device itself last.
    let lists = lists.map(|kind| of_device(kind, &[])).to_vec();
    let end = vec![of_device(Kind::RemoveDevice, &[])];
    for mut changes in [rows, lists, end] {
        let first = shared.lease.stamps(changes.len());
        for (stamp, change) in (first..).zip(&mut changes) {
            change.stamp = stamp;
        }
        shared
            .apply(changes, OnRefusal::GiveUp)
            .await
            .map_err(|_| StoreError::Failed)?;
    }
    Ok(())
}
