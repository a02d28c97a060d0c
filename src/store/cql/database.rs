//! The way to the servers: one session, every statement prepared once, a deadline on each call, a bound on how many are
//! under way.
//!
//! The driver routes by token and shard, and asks a second server where the first is slow over a read. It never repeats
//! a write: who writes repeats it, since he has to know whether one that failed may have happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actors::ports::StoreError;
use arc_swap::ArcSwap;
use scylla::client::session::Session;
use scylla::deserialize::row::DeserializeRow;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::PagingState;
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::Statement;
use scylla::statement::batch::{Batch, BatchType};
use scylla::statement::prepared::PreparedStatement;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::OpenError;
use super::change::{Cell, Change, Kind};
use super::connect::{CONNECT_MAX, connect, patient};
use super::look::Look;
use super::measures::{self, Measures};
use crate::config::{Consistency, Cql};

/// How long a new link may take: each of two servers may have to be waited for.
const RELINK_MAX: Duration = CONNECT_MAX.saturating_mul(3);
/// How often is looked whether one is needed, and the pause after the first that failed: it doubles up to the last.
const RELINK_FIRST: Duration = Duration::from_millis(500);
const RELINK_LAST: Duration = Duration::from_secs(2);
/// The pause after a read that failed: it doubles each time.
const READ_PAUSE: Duration = Duration::from_millis(20);
/// Statements prepared at the same time.
const PREPARES_MAX: usize = 16;
/// Rows that one answer of a server holds.
const PAGE_ROWS: i32 = 2_000;
/// Bytes of one batch.
pub(super) const BATCH_BYTES_MAX: usize = 36 << 10;
/// Changes of one batch.
const BATCH_CHANGES_MAX: usize = 256;

/// What a write that failed may have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    /// The servers refuse it for what it says; nothing was written.
    Refused,
    /// No server has taken it; nothing was written.
    Unwritten,
    /// It may be written.
    Unknown,
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("a write has failed")]
pub(super) struct WriteError {
    /// What it may have done.
    pub(super) harm: Harm,
    /// What the driver says.
    #[source]
    pub(super) source: Box<ExecutionError>,
}

impl From<ExecutionError> for WriteError {
    fn from(source: ExecutionError) -> Self {
        let harm = harm(&source);
        let source = Box::new(source);
        Self { harm, source }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the driver's errors are open lists; what is not known may have happened"
)]
fn harm(error: &ExecutionError) -> Harm {
    match error {
        ExecutionError::BadQuery(_) => Harm::Refused,
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => Harm::Unwritten,
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => match error {
            DbError::SyntaxError | DbError::Invalid | DbError::FunctionFailure { .. } => {
                Harm::Refused
            }
            DbError::Unavailable { .. }
            | DbError::Overloaded
            | DbError::IsBootstrapping
            | DbError::Unauthorized => Harm::Unwritten,
            _ => Harm::Unknown,
        },
        _ => Harm::Unknown,
    }
}

/// Whether the servers answer, as the writes and the lease see it.
#[derive(Debug)]
pub(super) struct Presence {
    started: Instant,
    /// How long failures must last before the servers count as away.
    silence_max: Duration,
    /// Milliseconds from the start to the first failure that no success has followed, and 1; 0 while all is well.
    failing_since: AtomicU64,
    /// Told at that failure.
    doubted: Notify,
    /// Milliseconds from the start to when a renewal last made good for failures, and 1.
    vouched_at: AtomicU64,
    /// Whether it was said that they are away.
    said: AtomicBool,
}

impl Presence {
    fn new(silence_max: Duration) -> Self {
        Self {
            started: Instant::now(),
            silence_max,
            failing_since: AtomicU64::new(0),
            doubted: Notify::new(),
            vouched_at: AtomicU64::new(0),
            said: AtomicBool::new(false),
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Whether so much time has passed since a reading of [`Self::millis`].
    fn is_past(&self, since: u64, span: Duration) -> bool {
        span <= Duration::from_millis(self.millis().saturating_sub(since))
    }

    pub(super) fn succeeded(&self) {
        self.failing_since.store(0, Ordering::Release);
        if self.said.swap(false, Ordering::AcqRel) {
            tracing::info!("the database answers again");
        }
    }

    pub(super) fn failed(&self) {
        let first = self.failing_since.compare_exchange(
            0,
            self.millis(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if first.is_ok() {
            self.doubted.notify_one();
        }
    }

    /// The lease was renewed: that makes good for calls that failed, once in so much time. Renewals touch one row, and other
    /// rows may lie on servers that are away.
    pub(super) fn vouched(&self, once_in: Duration) {
        let before = self.vouched_at.load(Ordering::Acquire);
        if before == 0 || self.is_past(before, once_in) {
            self.vouched_at.store(self.millis(), Ordering::Release);
            self.succeeded();
        }
    }

    /// Waits for a failure. Whoever asks more than one server then finds out whether it was only one of them.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Whether it has failed for so long that it is better to refuse than to wait.
    pub(super) fn is_away(&self) -> bool {
        let since = self.failing_since.load(Ordering::Acquire);
        let is_away = since != 0 && self.is_past(since, self.silence_max);
        if is_away && !self.said.swap(true, Ordering::AcqRel) {
            tracing::warn!("the database does not answer as it should");
        }
        is_away
    }
}

/// A session and what is prepared on it.
pub(super) struct Link {
    pub(super) session: Session,
    writes: HashMap<Kind, PreparedStatement>,
    reads: HashMap<Look, PreparedStatement>,
}

/// A place among the calls under way.
pub(super) struct Permit<'a>(
    #[expect(dead_code, reason = "held until the call is through")] Option<SemaphorePermit<'a>>,
);

/// The servers.
pub(super) struct Database {
    link: ArcSwap<Link>,
    cql: Cql,
    permits: Semaphore,
    request_time_max: Duration,
    pub(super) presence: Presence,
    pub(super) measures: Measures,
}

impl Link {
    /// Prepares everything.
    pub(super) async fn prepare(session: Session, cql: &Cql) -> Result<Self, OpenError> {
        let (mut writes, mut reads) = (HashMap::new(), HashMap::new());
        {
            use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
            let (session, keyspace) = (&session, &*cql.keyspace);
            let write = |kind: &Kind| {
                let kind = *kind;
                async move {
                    let prepared = session.prepare(idempotent(kind.cql(), keyspace)).await;
                    prepared.map(|it| (kind, it))
                }
            };
            let patient = patient(session);
            let read = |look: &Look| {
                let (look, patient) = (*look, patient.clone());
                async move {
                    let mut prepared = session.prepare(idempotent(look.cql(), keyspace)).await?;
                    prepared.set_execution_profile_handle(Some(patient));
                    prepared.set_page_size(PAGE_ROWS);
                    Ok::<_, scylla::errors::PrepareError>((look, prepared))
                }
            };
            let unprepared = |source| OpenError::Statements(Box::new(source));
            let prepares: Vec<_> = Kind::ALL.iter().map(write).collect();
            let mut prepares = stream::iter(prepares).buffer_unordered(PREPARES_MAX);
            while let Some((kind, statement)) = prepares.try_next().await.map_err(unprepared)? {
                writes.insert(kind, statement);
            }
            let prepares: Vec<_> = Look::ALL.iter().map(read).collect();
            let mut prepares = stream::iter(prepares).buffer_unordered(PREPARES_MAX);
            while let Some((look, statement)) = prepares.try_next().await.map_err(unprepared)? {
                reads.insert(look, statement);
            }
        }
        Ok(Self {
            session,
            writes,
            reads,
        })
    }
}

impl Database {
    /// Works over a link.
    pub(super) fn new(link: Link, cql: &Cql) -> Self {
        Self {
            link: ArcSwap::from_pointee(link),
            cql: cql.clone(),
            permits: Semaphore::new(cql.concurrency),
            request_time_max: cql.request_time_max(),
            presence: Presence::new(cql.silence_max()),
            measures: Measures::new(),
        }
    }

    /// The longest that one call may take.
    pub(super) const fn request_time_max(&self) -> Duration {
        self.request_time_max
    }

    /// The link, for what is not a row of the store.
    pub(super) fn link(&self) -> Arc<Link> {
        self.link.load_full()
    }

    /// Whether a read finds all that was acknowledged.
    pub(super) fn reads_all(&self) -> bool {
        self.cql.consistency != Consistency::One
    }

    /// Tries new links as long as the servers are away: the driver waits up to ten seconds between its own attempts.
    pub(super) async fn keep_linked(&self) {
        let mut pause = RELINK_FIRST;
        loop {
            sleep(pause).await;
            if !self.presence.is_away() {
                pause = RELINK_FIRST;
                continue;
            }
            pause = (pause * 2).min(RELINK_LAST);
            let link = async {
                let session = connect(&self.cql).await?;
                Link::prepare(session, &self.cql).await
            };
            let link = timeout(RELINK_MAX, Box::pin(link)).await;
            // The old one may be well again meanwhile, and has calls under way.
            if let Ok(Ok(link)) = link
                && self.presence.is_away()
            {
                self.link.store(Arc::new(link));
            }
        }
    }

    /// A place among the calls under way. Whether a write may still be made is looked at after it, for it may take long.
    pub(super) async fn permit(&self) -> Permit<'_> {
        // The semaphore is never closed.
        Permit(self.permits.acquire().await.ok())
    }

    /// Writes changes of one partition, all or nothing.
    pub(super) async fn write(
        &self,
        _permit: Permit<'_>,
        changes: &[Change],
    ) -> Result<(), WriteError> {
        let _under_way = self.measures.under_way();
        let written = Box::pin(self.send(changes)).await;
        match &written {
            Ok(()) => self.presence.succeeded(),
            Err(error) => {
                self.measures.failed(error.harm);
                if error.harm != Harm::Refused {
                    self.presence.failed();
                }
            }
        }
        written
    }

    async fn send(&self, changes: &[Change]) -> Result<(), WriteError> {
        let link = self.link.load_full();
        let sent: QueryResult = match changes {
            [] => return Ok(()),
            [change] => {
                let statement = link.writes.get(&change.kind);
                let statement = statement.ok_or(ExecutionError::EmptyPlan)?;
                let values = change.values();
                link.session.execute_unpaged(statement, values).await?
            }
            _ => {
                let mut batch = Batch::new(BatchType::Unlogged);
                batch.set_is_idempotent(true);
                for change in changes {
                    let statement = link.writes.get(&change.kind);
                    batch.append_statement(statement.ok_or(ExecutionError::EmptyPlan)?.clone());
                }
                let values: Vec<Vec<Cell>> = changes.iter().map(Change::values).collect();
                link.session.batch(&batch, values).await?
            }
        };
        drop(sent);
        Ok(())
    }

    /// The rows of one partition that a read asks for.
    pub(super) async fn rows<T>(
        &self,
        look: Look,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Vec<T>, StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f> + Send,
    {
        let mut found = Vec::new();
        self.each(look, values, |row| match row {
            Some(row) => found.push(row),
            None => found.clear(),
        })
        .await?;
        Ok(found)
    }

    /// Hands on the rows of one partition that a read asks for, one by one, so that they need not all be in memory. `None`
    /// says that they come from the first one on.
    pub(super) async fn each<T>(
        &self,
        look: Look,
        values: impl SerializeRow + Send + Sync,
        take: impl FnMut(Option<T>) + Send,
    ) -> Result<(), StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f> + Send,
    {
        let started = Instant::now();
        let read = Box::pin(self.read(look, values, take)).await;
        measures::read(look.name(), started.elapsed());
        read
    }

    /// Reads, and reads again while there is time: servers that have just lost one of them fail a few reads.
    async fn read<T>(
        &self,
        look: Look,
        values: impl SerializeRow + Send + Sync,
        mut take: impl FnMut(Option<T>) + Send,
    ) -> Result<(), StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f> + Send,
    {
        let deadline = Instant::now() + self.request_time_max;
        let permit = timeout_at(deadline, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| StoreError::Away)?;
        let _under_way = self.measures.under_way();
        let mut pause = READ_PAUSE;
        loop {
            take(None);
            let read = self.read_once(look, &values, &mut take, deadline).await;
            let again = matches!(read, Err(StoreError::Away))
                && Instant::now() + pause < deadline
                && !self.presence.is_away();
            if !again {
                return read;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn read_once<T>(
        &self,
        look: Look,
        values: &(impl SerializeRow + Send + Sync),
        take: &mut (impl FnMut(Option<T>) + Send),
        mut deadline: Instant,
    ) -> Result<(), StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f> + Send,
    {
        let link = self.link.load_full();
        let statement = link.reads.get(&look).ok_or(StoreError::Away)?;
        let mut place = PagingState::start();
        loop {
            let page = link.session.execute_single_page(statement, values, place);
            let page = timeout_at(deadline, Box::pin(page)).await;
            let page = page.map_err(|_| StoreError::Away)?;
            let (page, more) = page.map_err(|error| unread(look, error))?;
            // As long as it gets on, it may take as many pages as it has.
            deadline = Instant::now() + self.request_time_max;
            let page = page
                .into_rows_result()
                .map_err(|error| broken(look, error))?;
            let rows = page.rows::<T>().map_err(|error| broken(look, error))?;
            for row in rows {
                take(Some(row.map_err(|error| broken(look, error))?));
            }
            match more.into_paging_control_flow() {
                std::ops::ControlFlow::Continue(next) => place = next,
                std::ops::ControlFlow::Break(()) => return Ok(()),
            }
        }
    }

    /// The one row that a read asks for.
    pub(super) async fn row<T>(
        &self,
        look: Look,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Option<T>, StoreError>
    where
        T: for<'f> DeserializeRow<'f, 'f> + Send,
    {
        Ok(self.rows(look, values).await?.into_iter().next())
    }
}

/// A table, and the cells that name a partition of it.
type Partition = (&'static str, Vec<Cell>);

/// Splits changes into batches: each of one partition, none too large.
pub(super) fn batches(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut open: HashMap<Partition, (usize, Vec<Change>)> = HashMap::new();
    let mut full = Vec::new();
    for change in changes {
        let (table, partition) = change.partition();
        let weight = change.weight();
        let (bytes, batch) = open.entry((table, partition.to_vec())).or_default();
        if !batch.is_empty()
            && (BATCH_BYTES_MAX < *bytes + weight || BATCH_CHANGES_MAX <= batch.len())
        {
            full.push(std::mem::take(batch));
            *bytes = 0;
        }
        *bytes += weight;
        batch.push(change);
    }
    full.extend(open.into_values().map(|(_, batch)| batch));
    full
}

/// A statement with the keyspace before its table: the servers do not like a session that has one.
pub(super) fn qualified(cql: &str, keyspace: &str) -> String {
    let table = ["INTO ", "FROM ", "UPDATE "]
        .into_iter()
        .find_map(|it| Some(cql.find(it)? + it.len()));
    let (before, behind) = cql.split_at(table.unwrap_or(0));
    format!("{before}{keyspace}.{behind}")
}

fn idempotent(cql: &str, keyspace: &str) -> Statement {
    let mut statement = Statement::new(qualified(cql, keyspace));
    statement.set_is_idempotent(true);
    statement
}

/// A read that got no answer. What the servers refuse is told, what passes is not: the caller hears that they are away.
fn unread(look: Look, error: ExecutionError) -> StoreError {
    if harm(&error) == Harm::Refused {
        return broken(look, error);
    }
    tracing::debug!(
        error = &error as &dyn std::error::Error,
        look = look.name(),
        "a read got no answer"
    );
    StoreError::Away
}

fn broken(look: Look, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Engine {
        operation: look.name(),
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes of some partitions, of any size, numbered in their order.
    fn changes(count: u8, weight: impl Fn(u8) -> usize) -> Vec<Change> {
        let change = |number: u8| {
            let partition = Cell::id([number % 3; 16]);
            let body = Cell::blob(vec![number; weight(number)]);
            let cells = vec![partition, Cell::id([number; 16]), body];
            Change::new(Kind::PutDevice, cells)
        };
        (0..count).map(change).collect()
    }

    #[test]
    fn a_batch_is_of_one_partition_and_not_too_large() {
        let all = changes(200, |number| usize::from(number) * 97 % 9_000);
        let batches = batches(all.clone());
        assert!(batches.len() < all.len());
        for batch in &batches {
            let partition = batch[0].partition();
            assert!(batch.iter().all(|it| it.partition() == partition));
            let bytes: usize = batch.iter().map(Change::weight).sum();
            assert!(bytes <= BATCH_BYTES_MAX, "{bytes}");
        }
        let of = |changes: &[Change], partition: u8| -> Vec<Vec<Cell>> {
            let key = [Cell::id([partition; 16])];
            let same = changes.iter().filter(|it| it.partition().1 == key);
            same.map(Change::values).collect()
        };
        for partition in 0..3 {
            let wanted = of(&all, partition);
            assert_eq!(of(&batches.concat(), partition), wanted, "in their order");
        }
    }

    #[test]
    fn what_is_too_large_for_a_batch_goes_alone() {
        let all = changes(6, |number| if number == 3 { 100_000 } else { 10 });
        let batches = batches(all);
        let alone = batches.iter().find(|it| BATCH_BYTES_MAX < it[0].weight());
        assert_eq!(alone.unwrap().len(), 1);
    }

    #[test]
    fn a_batch_has_so_many_changes_at_most() {
        let all: Vec<Change> = (0..5).flat_map(|_| changes(255, |_| 1)).collect();
        for batch in batches(all) {
            assert!(batch.len() <= BATCH_CHANGES_MAX);
        }
    }
}
