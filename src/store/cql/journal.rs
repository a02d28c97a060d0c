//! A tenant's journal: what makes a commit that touches many partitions one.
//!
//! A commit is first written into the journal's one partition: its changes in parts, the last part in one row with the
//! mark that says where the tenant then stands. The mark decides: without it nothing has happened, with it everything
//! has, and whoever opens the store next brings it into its rows. Only then are the rows written, and only then follows
//! the tenant's next commit, whose mark takes the place of this one's.
//!
//! Mark and last part are one row because what one server alone has taken, and nobody has been told, may still be read,
//! and is then given to the others: it must not be half of it. All other parts are in a quorum before the mark is sent.

use actors::model::Cursor;
use actors::ports::StoreError;

use super::change::{Cell, Change, Kind};
use super::database::{BATCH_BYTES_MAX, Database};
use super::look::Look;
use super::tenants::Ledger;

/// Who writes a tenant's journal.
pub(super) struct Owner<'a> {
    /// What the tenant's rows lie under.
    pub(super) tenant: Cell,
    /// The cluster that the tenant belongs to.
    pub(super) cluster: &'a str,
    /// The lease of the gateway that has the cluster.
    pub(super) fence: i64,
}

/// A commit as the journal takes it.
pub(super) struct Written {
    /// All parts but the last; harmless without the mark.
    pub(super) parts: Vec<Change>,
    /// The mark with the last part, and what may go: written at once.
    pub(super) mark: Vec<Change>,
}

/// Makes the rows of a commit that takes the tenant to `ledger`.
pub(super) fn encode(
    owner: &Owner<'_>,
    ledger: &Ledger,
    changes: &[Change],
    stamps: impl FnOnce(usize) -> i64,
) -> Written {
    let tenant = &owner.tenant;
    let mut bytes = Vec::new();
    changes.iter().for_each(|it| it.encode(&mut bytes));
    let mut chunks: Vec<&[u8]> = bytes.chunks(BATCH_BYTES_MAX).collect();
    let tail = chunks.pop().unwrap_or_default();
    let part = |(place, chunk): (usize, &[u8])| {
        let cells = vec![
            tenant.clone(),
            Cell::count(ledger.committed),
            Cell::int(narrow(place)),
            Cell::blob(chunk),
        ];
        Change::new(Kind::PutPart, cells)
    };
    let mut parts: Vec<Change> = chunks.into_iter().enumerate().map(part).collect();
    let mut mark = vec![mark_with(owner, ledger, parts.len(), tail)];
    if ledger.has_parts {
        let cells = vec![tenant.clone(), Cell::count(ledger.applied)];
        mark.push(Change::new(Kind::DropCommits, cells));
    }
    let first = stamps(parts.len() + mark.len());
    for (stamp, change) in (first..).zip(parts.iter_mut().chain(&mut mark)) {
        change.stamp = stamp;
    }
    Written { parts, mark }
}

/// The row that says where a tenant stands, all of which is in its rows.
pub(super) fn mark(owner: &Owner<'_>, ledger: &Ledger) -> Change {
    mark_with(owner, ledger, 0, &[])
}

fn mark_with(owner: &Owner<'_>, ledger: &Ledger, parts: usize, tail: &[u8]) -> Change {
    let Cursor { epoch, seq } = ledger.sequencer.head();
    let cells = vec![
        owner.tenant.clone(),
        Cell::text(owner.cluster),
        Cell::int(i32::try_from(epoch).unwrap_or(i32::MAX)),
        Cell::count(seq),
        Cell::count(ledger.floor),
        Cell::count(ledger.committed),
        Cell::count(ledger.applied),
        Cell::big(owner.fence),
        Cell::int(narrow(parts)),
        Cell::blob(tail),
    ];
    Change::new(Kind::PutMark, cells)
}

fn narrow(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The mark as it is read: cluster, epoch, head, floor, committed, applied, parts, tail.
type MarkRow = (
    Option<String>,
    Option<i32>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i32>,
    Option<Vec<u8>>,
);

/// Where a tenant stands by its journal.
pub(super) struct Mark {
    /// Whose the tenant is.
    pub(super) cluster: String,
    pub(super) head: Cursor,
    pub(super) floor: u64,
    pub(super) committed: u64,
    applied: u64,
    /// How many parts of the last commit lie beside its last one.
    parts: i32,
    tail: Vec<u8>,
}

/// Reads the mark; `None` for a tenant that has committed nothing.
pub(super) async fn read_mark(db: &Database, tenant: &Cell) -> Result<Option<Mark>, StoreError> {
    let Some(row) = db.row::<MarkRow>(Look::Mark, (tenant,)).await? else {
        return Ok(None);
    };
    let (cluster, Some(epoch), Some(head), floor, Some(committed), applied, parts, tail) = row
    else {
        return Ok(None);
    };
    let count = |it: i64| u64::try_from(it).map_err(|_| DAMAGED);
    Ok(Some(Mark {
        cluster: cluster.unwrap_or_default(),
        head: Cursor {
            epoch: u32::try_from(epoch).map_err(|_| DAMAGED)?,
            seq: count(head)?,
        },
        floor: count(floor.unwrap_or_default())?,
        committed: count(committed)?,
        applied: count(applied.unwrap_or_default())?,
        parts: parts.unwrap_or_default(),
        tail: tail.unwrap_or_default(),
    }))
}

const DAMAGED: StoreError = StoreError::Damaged { what: "journal" };

/// The changes of the last commit, where they may not be in their rows.
pub(super) async fn read_changes(
    db: &Database,
    tenant: &Cell,
    mark: &Mark,
) -> Result<Vec<Change>, StoreError> {
    if mark.committed <= mark.applied {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    if 0 < mark.parts {
        // A part behind the last one is what a commit left that did not come to its mark.
        let wanted = (tenant, Cell::count(mark.committed), Cell::int(mark.parts));
        let parts: Vec<(Vec<u8>,)> = db.rows(Look::Parts, wanted).await?;
        if narrow(parts.len()) != mark.parts {
            return Err(DAMAGED);
        }
        bytes = parts.into_iter().flat_map(|(it,)| it).collect();
    }
    bytes.extend_from_slice(&mark.tail);
    let (mut changes, mut rest) = (Vec::new(), &bytes[..]);
    while !rest.is_empty() {
        let (change, behind) = Change::decode(rest).ok_or(DAMAGED)?;
        changes.push(change);
        rest = behind;
    }
    if changes.is_empty() {
        return Err(DAMAGED);
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use actors::model::TenantId;

    use super::*;

    fn owner() -> Owner<'static> {
        Owner {
            tenant: Cell::id([7; 16]),
            cluster: "c",
            fence: 3,
        }
    }

    #[test]
    fn a_commit_of_any_size_is_in_its_journal_by_small_batches_of_one_partition() {
        let owner = owner();
        let tenant = owner.tenant.clone();
        let mut ledger = Ledger::new(TenantId::generate());
        (ledger.committed, ledger.has_parts) = (64, true);
        let most = BATCH_BYTES_MAX;
        for size in [0, 1, most - 100, most - 1, most, most + 1, 5 * most] {
            let cells = vec![Cell::text("c"), tenant.clone(), Cell::blob(vec![1; size])];
            let change = Change::new(Kind::PutTenant, cells);
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            let Written { parts, mark } = encode(&owner, &ledger, &[change], |_| 1_000);
            assert_eq!(parts.len() + 1, bytes.len().div_ceil(most), "{size}");
            // The last part is in the row of the mark.
            let kinds: Vec<Kind> = mark.iter().map(|it| it.kind).collect();
            assert_eq!(kinds, [Kind::PutMark, Kind::DropCommits]);
            let tail = &bytes[parts.len() * most..];
            assert_eq!(mark[0], {
                let count = parts.len();
                let mut wanted = mark_with(&owner, &ledger, count, tail);
                wanted.stamp = mark[0].stamp;
                wanted
            });
            let bytes: usize = mark.iter().map(Change::weight).sum();
            assert!(bytes < 40 << 10, "{size}: {bytes}");
            let all = || parts.iter().chain(&mark);
            assert!(all().all(|it| it.weight() < 40 << 10));
            assert!(all().all(|it| it.partition() == ("journal", &[tenant.clone()][..])));
            let stamps: Vec<i64> = all().map(|it| it.stamp).collect();
            assert!((1_000..).zip(&stamps).all(|(wanted, it)| wanted == *it));
        }
    }

    #[test]
    fn parts_go_only_where_there_may_be_some() {
        let ledger = Ledger::new(TenantId::generate());
        let Written { parts, mark } = encode(&owner(), &ledger, &[], |_| 1_000);
        assert_eq!((parts.len(), mark.len()), (0, 1));
    }
}
