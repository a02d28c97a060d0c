//! Who owns a cluster, and which timestamps its writes carry.
//!
//! An owner renews `holder`, which dies with its TTL by the servers' time; each owner has a higher `fence` than the one
//! before. It writes only while its lease surely lasts by its own clock. What it sent before and arrives late does no
//! harm either: no timestamp of its writes is as great as `stamp`, and its successor begins there, so whatever the
//! successor has written stands. A lease that ran out while the servers were away is taken up again unless somebody
//! else came in between, which the fence tells.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use actors::model::EventId;
use scylla::client::session::Session;
use scylla::cluster::Node;
use scylla::errors::PrepareError;
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::OpenError;
use super::connect::{patient, serial};
use super::database::{Database, qualified};
use super::schema::{Fault, transact};
use crate::config::Cql;

/// How much longer than the lease timestamps are reserved for: about as long as its row lives, so that owners that come
/// and go, and give nothing back, do not run ahead of the time. (ScyllaDB takes no timestamp that is three days ahead.)
const RESERVE_SLACK: Duration = Duration::from_secs(5);
/// How long one renewal may take, at least: there must be time to ask a second server where the first stands still.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// The pause after a renewal that failed, and the shortest between any two.
const RETRY: Duration = Duration::from_millis(400);
/// The pause between two looks at another owner's row. Each is a round of its own, which that owner's renewals meet.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How many renewals of another owner show that it is alive: one may have been under way when it ended.
const RENEWALS_SEEN: u32 = 2;
/// How much longer the row lives than its owner relies on it. A renewal that was slow may overtake the next one and put
/// the end back to its own; servers give one up after two seconds, unless they are told otherwise.
const TTL_SLACK: Duration = Duration::from_secs(4);
/// How long giving the lease back may take.
const RELEASE_MAX: Duration = Duration::from_secs(3);

/// What time it is by the servers.
const NOW: &str = "SELECT toTimestamp(now()) FROM system.local";
const SELECT: &str = "SELECT holder, fence, stamp, WRITETIME(holder) FROM owners WHERE cluster = ?";
const MAKE: &str = "INSERT INTO owners (cluster, fence, stamp) VALUES (?, 0, 0) IF NOT EXISTS";
const TAKE: &str =
    "UPDATE owners USING TTL ? SET holder = ? WHERE cluster = ? IF holder = null AND fence = ?";
const BEGIN: &str = "UPDATE owners SET fence = ?, stamp = ? WHERE cluster = ? IF holder = ? AND fence = ? AND stamp = ?";
const RENEW: &str = "UPDATE owners USING TTL ? SET holder = ? WHERE cluster = ? IF fence = ?";
const RESERVE_MORE: &str =
    "UPDATE owners SET stamp = ? WHERE cluster = ? IF fence = ? AND stamp <= ?";
const RELEASE: &str = "UPDATE owners SET holder = null, stamp = ? WHERE cluster = ? IF fence = ?";

/// Another owner has come: this one must not write any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

#[derive(Clone, Copy, Debug)]
struct Term {
    until: Instant,
    lost: bool,
}

/// The statements, prepared once: the driver prepares at all servers, and one that stands still keeps it waiting.
#[derive(Clone, Debug)]
struct Statements {
    now: PreparedStatement,
    select: PreparedStatement,
    make: PreparedStatement,
    take: PreparedStatement,
    begin: PreparedStatement,
    renew: PreparedStatement,
    reserve_more: PreparedStatement,
    release: PreparedStatement,
}

impl Statements {
    async fn prepare(session: &Session, cql: &Cql) -> Result<Self, PrepareError> {
        let prepare = |statement| session.prepare(qualified(statement, &cql.keyspace));
        let patient = patient(session);
        let repeatable = |mut prepared: PreparedStatement| {
            prepared.set_is_idempotent(true);
            prepared.set_execution_profile_handle(Some(patient.clone()));
            prepared
        };
        let mut select = repeatable(prepare(SELECT).await?);
        select.set_consistency(serial(cql));
        Ok(Self {
            now: repeatable(session.prepare(NOW).await?),
            select,
            make: prepare(MAKE).await?,
            take: prepare(TAKE).await?,
            begin: prepare(BEGIN).await?,
            renew: repeatable(prepare(RENEW).await?),
            reserve_more: repeatable(prepare(RESERVE_MORE).await?),
            release: repeatable(prepare(RELEASE).await?),
        })
    }
}

/// The right to write into a cluster.
pub(super) struct Lease {
    statements: Statements,
    cluster: String,
    holder: String,
    fence: i64,
    length: Duration,
    term: watch::Sender<Term>,
    /// What time it was by the servers, in microseconds, and when that was. Timestamps follow that and no clock that can
    /// jump: servers may refuse what is far ahead of theirs.
    began: (i64, Instant),
    last: AtomicI64,
    reserved: AtomicI64,
    /// The most that was ever asked for: what the row has may be as much, answered or not.
    asked: AtomicI64,
}

/// The row of a cluster.
type Owner = (Option<String>, Option<i64>, Option<i64>, Option<i64>);

impl Lease {
    /// Takes a cluster; waits for the lease of an owner that is heard of no more.
    pub(super) async fn take(session: &Session, cql: &Cql) -> Result<Self, OpenError> {
        let (cluster, length) = (&*cql.cluster, cql.lease());
        let failed = |source| OpenError::Lease {
            cluster: cluster.to_owned(),
            source,
        };
        let in_use = || OpenError::InUse {
            cluster: cluster.to_owned(),
        };
        let holder = EventId::generate().to_string();
        let statements = Box::pin(Statements::prepare(session, cql)).await;
        let statements = statements.map_err(|it| failed(it.into()))?;
        let now = now(session, &statements.now).await.map_err(failed)?;
        let began = (now, Instant::now());
        let (mut renewed, mut renewals) = (None, 0);
        // A renewal may still have been under way when the owner ended.
        let give_up = Instant::now() + length * 2 + TTL_SLACK + cql.request_time_max();
        loop {
            let owner = owner(session, &statements.select, cluster).await;
            let owner = owner.map_err(failed)?;
            let Some((held_by, fence, stamp, renewed_at)) = owner else {
                transact(session, &statements.make, (cluster,))
                    .await
                    .map_err(failed)?;
                continue;
            };
            let (fence, stamp) = (fence.unwrap_or_default(), stamp.unwrap_or_default());
            if held_by.is_some() {
                if renewed
                    .replace(renewed_at)
                    .is_some_and(|it| it != renewed_at)
                {
                    renewals += 1;
                }
                if RENEWALS_SEEN <= renewals || give_up < Instant::now() {
                    return Err(in_use());
                }
                sleep(LOOK_AGAIN).await;
                continue;
            }
            let reserved = stamp.max(since(began)) + reserve(length);
            let lease = Self {
                statements: statements.clone(),
                cluster: cluster.to_owned(),
                holder: holder.clone(),
                fence: fence + 1,
                length,
                term: watch::Sender::new(Term {
                    until: Instant::now() + length.mul_f64(0.9),
                    lost: false,
                }),
                last: AtomicI64::new(stamp),
                reserved: AtomicI64::new(reserved),
                asked: AtomicI64::new(reserved),
                began,
            };
            let take = (lease.seconds(), &holder, cluster, fence);
            if transact(session, &statements.take, take)
                .await
                .map_err(failed)?
            {
                // The one before may have come back in between and reserved more.
                let begin = (lease.fence, reserved, cluster, &holder, fence, stamp);
                if transact(session, &statements.begin, begin)
                    .await
                    .map_err(failed)?
                {
                    return Ok(lease);
                }
            }
            if give_up < Instant::now() {
                return Err(in_use());
            }
        }
    }

    /// The TTL of the row: longer than the owner relies on it.
    fn seconds(&self) -> i32 {
        i32::try_from((self.length + TTL_SLACK).as_secs()).unwrap_or(i32::MAX - 1) + 1
    }

    /// How long one renewal may take: another fits before the lease ends.
    fn renewal_max(&self) -> Duration {
        (self.length / 6).max(RENEWAL_MIN)
    }

    pub(super) fn fence(&self) -> i64 {
        self.fence
    }

    /// The first of so many timestamps: greater than all that were given before, by whatever owner.
    pub(super) fn stamps(&self, count: usize) -> i64 {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        // What is reserved must not be used up by time alone.
        let reserved = self.reserved.load(Ordering::Acquire) - reserve(self.length) / 4;
        let now = since(self.began).min(reserved);
        let next = |last: i64| Some((last + 1).max(now) + count - 1);
        let before = self
            .last
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        (before.unwrap_or_else(|last| last) + 1).max(now)
    }

    /// Waits until writing is safe.
    pub(super) async fn held(&self) -> Result<(), Lost> {
        let mut term = self.term.subscribe();
        let safe = |it: &Term| it.lost || Instant::now() < it.until;
        // The sender lives as long as `self`.
        let held = term.wait_for(safe).await.map(|it| it.lost);
        if held.unwrap_or(true) {
            Err(Lost)
        } else {
            Ok(())
        }
    }

    /// Whether writing is safe now.
    pub(super) fn is_held(&self) -> bool {
        let term = self.term.borrow();
        !term.lost && Instant::now() < term.until
    }

    pub(super) fn is_lost(&self) -> bool {
        self.term.borrow().lost
    }

    /// Waits until it is lost.
    pub(super) async fn lost(&self) {
        // The sender lives as long as `self`.
        let mut term = self.term.subscribe();
        let _lost = term.wait_for(|it| it.lost).await;
    }

    /// Renews the lease until it is lost, and so looks whether the servers answer: at once where a call has failed, since
    /// that may have been one server of many, and a renewal asks two.
    pub(super) async fn keep(&self, db: &Database) -> Lost {
        let mut renewed_at = Instant::now();
        loop {
            let doubted = async {
                db.presence.doubted().await;
                sleep_until(renewed_at + RETRY).await;
            };
            tokio::select! {
                () = sleep_until(renewed_at + self.length / 3) => {}
                () = doubted => {}
            }
            loop {
                let started = Instant::now();
                let link = db.link();
                let renewed = Box::pin(self.renew(&link.session));
                let renewed = match timeout(self.renewal_max(), renewed).await {
                    Ok(renewed) => renewed,
                    Err(late) => Err(late.into()),
                };
                match renewed {
                    Ok(true) => {
                        db.presence.vouched(self.length / 4);
                        renewed_at = started;
                        let until = started + self.length.mul_f64(0.9);
                        self.term.send_replace(Term { until, lost: false });
                        break;
                    }
                    Ok(false) => {
                        self.term.send_modify(|it| it.lost = true);
                        return Lost;
                    }
                    Err(error) => {
                        db.presence.failed();
                        tracing::debug!(
                            error = &*error as &dyn std::error::Error,
                            "the lease could not be renewed"
                        );
                        sleep(RETRY).await;
                    }
                }
            }
        }
    }

    async fn renew(&self, session: &Session) -> Result<bool, Fault> {
        let renew = (self.seconds(), &self.holder, &self.cluster, self.fence);
        if !transact(session, &self.statements.renew, renew).await? {
            return Ok(false);
        }
        let ahead = self.last.load(Ordering::Acquire).max(since(self.began));
        let reserved = self.reserved.load(Ordering::Acquire);
        if reserved - reserve(self.length) / 2 < ahead {
            let more = (ahead + reserve(self.length)).max(self.asked.load(Ordering::Acquire));
            self.asked.store(more, Ordering::Release);
            // An older one that comes late puts nothing back.
            let reserve = (more, &self.cluster, self.fence, more);
            if !transact(session, &self.statements.reserve_more, reserve).await? {
                return Ok(false);
            }
            self.reserved.store(more, Ordering::Release);
        }
        Ok(true)
    }

    /// Gives the cluster back at once.
    pub(super) async fn release(&self, session: &Session) {
        let stamp = self.last.load(Ordering::Acquire) + 1;
        let release = transact(
            session,
            &self.statements.release,
            (stamp, &self.cluster, self.fence),
        );
        if !matches!(timeout(RELEASE_MAX, release).await, Ok(Ok(_))) {
            tracing::info!("the lease could not be given back: it ends by itself");
        }
    }
}

async fn owner(
    session: &Session,
    select: &PreparedStatement,
    cluster: &str,
) -> Result<Option<Owner>, Fault> {
    let rows = session.execute_unpaged(select, (cluster,)).await?;
    Ok(rows.into_rows_result()?.maybe_first_row::<Owner>()?)
}

async fn now(session: &Session, now: &PreparedStatement) -> Result<i64, Fault> {
    let rows = session.execute_unpaged(now, ()).await?.into_rows_result()?;
    let (CqlTimestamp(millis),) = rows.first_row()?;
    Ok(millis.saturating_mul(1_000))
}

/// What time it is by now.
fn since((began, at): (i64, Instant)) -> i64 {
    began.saturating_add(micros(at.elapsed()))
}

/// Microseconds of timestamps that are reserved at a time.
fn reserve(length: Duration) -> i64 {
    micros(length + RESERVE_SLACK)
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Whether every server syncs before it answers; `false` where one does not say.
pub(super) async fn syncs_first(session: &Session) -> bool {
    let state = session.get_cluster_state();
    for node in state.get_nodes_info() {
        if !node_syncs_first(session, node).await {
            return false;
        }
    }
    true
}

async fn node_syncs_first(session: &Session, node: &Arc<Node>) -> bool {
    for cql in [
        "SELECT value FROM system_views.settings WHERE name = 'commitlog_sync'",
        "SELECT value FROM system.config WHERE name = 'commitlog_sync'",
    ] {
        let Ok(mut look) = session.prepare(cql).await else {
            continue;
        };
        let only = NodeIdentifier::Node(Arc::clone(node));
        look.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(only, None)));
        let Ok(found) = Box::pin(session.execute_unpaged(&look, ())).await else {
            continue;
        };
        let Ok(rows) = found.into_rows_result() else {
            continue;
        };
        if let Ok(Some((value,))) = rows.maybe_first_row::<(String,)>() {
            return value.contains("batch") || value.contains("group");
        }
    }
    false
}
