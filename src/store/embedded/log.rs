//! Reads of the log.

use std::sync::Arc;

use actors::log::Entry;
use actors::model::{TenantId, Timestamp};
use actors::ports::{LogReader, StoreError};
use async_trait::async_trait;

use super::engine::{Space, View};
use super::{EmbeddedStore, keys, rows};

#[async_trait]
impl LogReader for EmbeddedStore {
    async fn entries(
        &self,
        tenant: TenantId,
        after: u64,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let Some(log) = slot.log() else {
            return Ok(Vec::new());
        };
        let after = after.max(log.oldest().seq);
        let number = slot.number();
        let read = move |view: &View<'_>| {
            let mut found: Vec<Arc<Entry>> = Vec::new();
            let mut bytes = 0;
            for row in view
                .after(Space::Log, &number.to_be_bytes(), keys::log(number, after))
                .take(entries_max)
            {
                let entry = rows::unentry(tenant, &row?.1)?;
                bytes += entry.weight();
                if bytes_max < bytes && !found.is_empty() {
                    break;
                }
                found.push(Arc::new(entry));
            }
            Ok(found)
        };
        self.read("entries", read).await
    }

    async fn seq_before(&self, tenant: TenantId, time: Timestamp) -> Result<u64, StoreError> {
        let Some(slot) = self.existing(tenant) else {
            return Ok(0);
        };
        let Some(log) = slot.log() else { return Ok(0) };
        let (floor, head, number) = (log.oldest().seq, log.head().seq, slot.number());
        self.read("seq_before", move |view| {
            last_before(view, number, (floor, head), time)
        })
        .await
    }
}

/// Halves the log by the times of the entries' names, which do not go back where the clock does.
fn last_before(
    view: &View<'_>,
    tenant: u32,
    (floor, head): (u64, u64),
    time: Timestamp,
) -> Result<u64, StoreError> {
    let (mut low, mut high) = (floor, head);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        // An entry that is not there was erased meanwhile, and so lies before.
        let row = view.get(Space::Log, &keys::log(tenant, middle))?;
        let before = row
            .map(|it| rows::entry_time(&it))
            .transpose()?
            .is_none_or(|it| it < time);
        if before {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}
