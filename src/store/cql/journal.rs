//! A tenant's journal: what makes a commit that touches many partitions one.
//!
//! A commit is first written into the journal's one partition: its changes in parts, the last part together with the
//! mark that says where the tenant then stands. The mark decides: without it nothing has happened, with it everything
//! has, and whoever opens the store next brings it into its rows. Only then are the rows written.

use actors::model::Cursor;
use actors::ports::StoreError;

use super::change::{Cell, Change, Kind};
use super::database::{BATCH_BYTES_MAX, Database};
use super::look::Look;
use super::tenants::Ledger;

/// Commits after which those that are in their rows are dropped.
const DROP_EVERY: u64 = 64;

/// A commit as the journal takes it.
pub(super) struct Written {
    /// All parts but the last; harmless without the mark.
    pub(super) parts: Vec<Change>,
    /// The last part, the mark, and what may go: written at once.
    pub(super) mark: Vec<Change>,
}

/// Makes the rows of a commit that takes the tenant to `ledger`.
pub(super) fn encode(
    tenant: &Cell,
    ledger: &Ledger,
    fence: i64,
    changes: &[Change],
    stamps: impl FnOnce(usize) -> i64,
) -> Written {
    let mut bytes = Vec::new();
    changes.iter().for_each(|it| it.encode(&mut bytes));
    let count = bytes.len().div_ceil(BATCH_BYTES_MAX);
    let number = |it: usize| Cell::int(i32::try_from(it).unwrap_or(i32::MAX));
    let mut parts: Vec<Change> = bytes
        .chunks(BATCH_BYTES_MAX)
        .enumerate()
        .map(|(place, chunk)| {
            let cells = vec![
                tenant.clone(),
                Cell::count(ledger.committed),
                number(place),
                number(count),
                Cell::blob(chunk),
            ];
            Change::new(Kind::PutPart, cells)
        })
        .collect();
    let mut mark: Vec<Change> = parts.pop().into_iter().collect();
    mark.push(self::mark(tenant, ledger, fence));
    if ledger.committed.is_multiple_of(DROP_EVERY) {
        let cells = vec![tenant.clone(), Cell::count(ledger.applied)];
        mark.push(Change::new(Kind::DropCommits, cells));
    }
    let first = stamps(parts.len() + mark.len());
    for (stamp, change) in (first..).zip(parts.iter_mut().chain(&mut mark)) {
        change.stamp = stamp;
    }
    Written { parts, mark }
}

/// The row that says where a tenant stands.
pub(super) fn mark(tenant: &Cell, ledger: &Ledger, fence: i64) -> Change {
    let Cursor { epoch, seq } = ledger.sequencer.head();
    let cells = vec![
        tenant.clone(),
        Cell::int(i32::try_from(epoch).unwrap_or(i32::MAX)),
        Cell::count(seq),
        Cell::count(ledger.floor),
        Cell::count(ledger.committed),
        Cell::count(ledger.applied),
        Cell::big(fence),
    ];
    Change::new(Kind::PutMark, cells)
}

/// The mark as it is read: tenant, epoch, head, floor, committed, applied.
type MarkRow = (
    scylla::value::CqlValue,
    Option<i32>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// Where a tenant stands by its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) head: Cursor,
    pub(super) floor: u64,
    pub(super) committed: u64,
    pub(super) applied: u64,
}

/// Reads the mark; `None` for a tenant that has committed nothing.
pub(super) async fn read_mark(db: &Database, tenant: &Cell) -> Result<Option<Mark>, StoreError> {
    let Some(row) = db.row::<MarkRow>(Look::Mark, (tenant,)).await? else {
        return Ok(None);
    };
    let (_, Some(epoch), Some(head), floor, Some(committed), applied) = row else {
        return Ok(None);
    };
    let count = |it: i64| u64::try_from(it).map_err(|_| DAMAGED);
    Ok(Some(Mark {
        head: Cursor {
            epoch: u32::try_from(epoch).map_err(|_| DAMAGED)?,
            seq: count(head)?,
        },
        floor: count(floor.unwrap_or_default())?,
        committed: count(committed)?,
        applied: count(applied.unwrap_or_default())?,
    }))
}

const DAMAGED: StoreError = StoreError::Damaged { what: "journal" };

/// The changes of commits that may not be in their rows.
pub(super) async fn read_changes(
    db: &Database,
    tenant: &Cell,
    mark: Mark,
) -> Result<Vec<Change>, StoreError> {
    let span = (
        tenant,
        Cell::count(mark.applied),
        Cell::count(mark.committed),
    );
    let rows = db
        .rows::<(i64, i32, Option<i32>, Option<Vec<u8>>)>(Look::Parts, span)
        .await?;
    let (mut changes, mut bytes, mut count) = (Vec::new(), Vec::new(), 0);
    for (_, part, parts, body) in rows {
        let (Some(parts), Some(body)) = (parts, body) else {
            return Err(DAMAGED);
        };
        if part == 0 {
            count = parts;
        }
        // A part behind the last one is what a commit left that did not come to its mark.
        if count <= part {
            continue;
        }
        bytes.extend_from_slice(&body);
        if part + 1 < count {
            continue;
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (change, behind) = Change::decode(rest).ok_or(DAMAGED)?;
            changes.push(change);
            rest = behind;
        }
        bytes.clear();
    }
    if bytes.is_empty() {
        Ok(changes)
    } else {
        Err(DAMAGED)
    }
}

#[cfg(test)]
mod tests {
    use actors::model::TenantId;

    use super::*;

    #[test]
    fn a_commit_of_any_size_is_in_its_journal_by_small_batches_of_one_partition() {
        let tenant = Cell::id([7; 16]);
        let mut ledger = Ledger::new(TenantId::generate());
        ledger.committed = DROP_EVERY;
        let most = BATCH_BYTES_MAX;
        for size in [0, 1, most - 100, most - 1, most, most + 1, 5 * most] {
            let cells = vec![Cell::text("c"), tenant.clone(), Cell::blob(vec![1; size])];
            let change = Change::new(Kind::PutTenant, cells);
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            let Written { parts, mark } = encode(&tenant, &ledger, 3, &[change], |_| 1_000);
            assert_eq!(parts.len() + 1, bytes.len().div_ceil(most), "{size}");
            let kinds: Vec<Kind> = mark.iter().map(|it| it.kind).collect();
            assert_eq!(kinds, [Kind::PutPart, Kind::PutMark, Kind::DropCommits]);
            let bytes: usize = mark.iter().map(Change::weight).sum();
            assert!(bytes < 40 << 10, "{size}: {bytes}");
            let all = || parts.iter().chain(&mark);
            assert!(all().all(|it| it.weight() < 40 << 10));
            assert!(all().all(|it| it.partition() == ("journal", &[tenant.clone()][..])));
            let stamps: Vec<i64> = all().map(|it| it.stamp).collect();
            assert!((1_000..).zip(&stamps).all(|(wanted, it)| wanted == *it));
        }
    }
}
