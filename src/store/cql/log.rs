//! Reads of the log.

use std::sync::Arc;

use actors::log::{Entry, Log};
use actors::model::{TenantId, Timestamp};
use actors::ports::{LogReader, StoreError};
use async_trait::async_trait;

use super::CqlStore;
use super::change::Cell;
use super::job::LOG_BUCKET;
use super::look::Look;
use crate::store::rows;

/// Entries of one read.
const READ_MAX: usize = 256;

impl CqlStore {
    /// Entries behind `after`, up to `last`, are not where they should be: they have aged away before the floor rose over
    /// them. The time that they are kept was made longer after they were written, or nobody has trimmed for long.
    fn aged(&self, log: &Log, after: u64, last: u64) {
        if after < last && self.shared.db.reads_all() {
            log.raise_floor(last);
        }
    }
}

#[async_trait]
impl LogReader for CqlStore {
    async fn entries(
        &self,
        tenant: TenantId,
        after: u64,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        let db = self.db()?;
        let Some((slot, log)) = self.logged(tenant) else {
            return Ok(Vec::new());
        };
        // What lies behind the head is in the table before its rows are.
        let (before, head) = (after.max(log.oldest().seq), log.head().seq);
        let (mut after, mut found, mut bytes) = (before, Vec::new(), 0);
        while after < head && found.len() < entries_max {
            let bucket = (after + 1) / LOG_BUCKET;
            let bucket_end = (bucket + 1) * LOG_BUCKET - 1;
            let limit = READ_MAX.min(entries_max - found.len());
            let span = (
                slot.key(),
                Cell::count(bucket),
                Cell::count(after),
                Cell::count(head.min(bucket_end)),
                i32::try_from(limit).unwrap_or(i32::MAX),
            );
            let rows: Vec<(Vec<u8>,)> = db.rows(Look::Entries, span).await?;
            let ends = rows.len() < limit;
            for (row,) in rows {
                let entry = rows::unentry(tenant, &row)?;
                if found.is_empty() {
                    self.aged(&log, before, entry.cursor().seq - 1);
                }
                bytes += entry.weight();
                if bytes_max < bytes && !found.is_empty() {
                    return Ok(found);
                }
                after = entry.cursor().seq;
                found.push(Arc::new(entry));
            }
            if ends {
                after = bucket_end;
            }
        }
        if found.is_empty() {
            self.aged(&log, before, head);
        }
        Ok(found)
    }

    /// Halves the log by the times of the entries' names, which do not go back where the clock does.
    async fn seq_before(&self, tenant: TenantId, time: Timestamp) -> Result<u64, StoreError> {
        let db = self.db()?;
        let Some((slot, log)) = self.logged(tenant) else {
            return Ok(0);
        };
        let (mut low, mut high) = (log.oldest().seq, log.head().seq);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let place = (
                slot.key(),
                Cell::count(middle / LOG_BUCKET),
                Cell::count(middle),
            );
            // An entry that is not there has aged away meanwhile, and so lies before.
            let row = db.row::<(Vec<u8>,)>(Look::Entry, place).await?;
            let before = row
                .map(|(it,)| rows::entry_time(&it))
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
}
