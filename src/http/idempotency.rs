//! Retries of calls. Where the effect takes the claim to the key into its own commit, the answer is kept with it; where
//! there is no such commit, or to do it twice is to do it once, the answer is kept in one of its own, right after the
//! effect. A send is not among them: the writer alone settles its claim.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actors::model::TenantId;
use actors::ports::{Claim, KeptAnswer, Outcome, Store, commit};
use axum::response::Response;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::ApiState;
use super::call::Call;
use super::reply::Reply;
use crate::problem::{ApiError, Code};

/// How long a twin waits for the first call.
const TWIN_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the keeping of an answer may take.
const KEEP_TIME_MAX: Duration = Duration::from_secs(10);
/// Calls with a key that run at once; more are `busy`.
const RUNNING_MAX: usize = 4_096;

type Place = (TenantId, &'static str, Arc<str>);

/// The calls with a key that run now.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight(Arc<Running>);

#[derive(Debug, Default)]
struct Running {
    calls: DashMap<Place, First>,
    /// As many as connections have calls with a key under way, or had before their client went.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct First {
    fingerprint: [u8; 32],
    /// Closed when the call has ended.
    ended: watch::Receiver<()>,
}

/// The right to be the first; given back when dropped.
pub(crate) struct Turn {
    running: Arc<Running>,
    place: Place,
    _ends: watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.running.calls.remove(&self.place);
    }
}

impl InFlight {
    /// Waits until every call with a key has ended.
    pub(crate) async fn drained(&self) {
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }

    /// The turn of a call, once no other with the same key runs.
    async fn turn(
        &self,
        tenant: TenantId,
        claim: &Claim,
        patience: Duration,
    ) -> Result<Turn, ApiError> {
        let deadline = tokio::time::Instant::now() + patience;
        let place = (tenant, claim.operation, Arc::clone(&claim.key));
        loop {
            let mut first = match self.enter(&place, claim.fingerprint)? {
                Ok(turn) => return Ok(turn),
                Err(ended) => ended,
            };
            // Nothing is ever sent: it ends with an error when the first call has ended.
            let waited = tokio::time::timeout_at(deadline, first.changed()).await;
            if waited.is_err() {
                return Err(ApiError::new(Code::IdempotencyInProgress));
            }
        }
    }

    /// Either the turn, or what closes when the first call has ended.
    fn enter(
        &self,
        place: &Place,
        fingerprint: [u8; 32],
    ) -> Result<Result<Turn, watch::Receiver<()>>, ApiError> {
        let is_full = RUNNING_MAX <= self.0.calls.len();
        match self.0.calls.entry(place.clone()) {
            Entry::Occupied(it) if it.get().fingerprint != fingerprint => {
                Err(ApiError::new(Code::IdempotencyMismatch))
            }
            Entry::Occupied(it) => Ok(Err(it.get().ended.clone())),
            Entry::Vacant(_) if is_full => Err(ApiError::new(Code::Busy)),
            Entry::Vacant(it) => {
                let (ends, ended) = watch::channel(());
                it.insert(First { fingerprint, ended });
                Ok(Ok(Turn {
                    running: Arc::clone(&self.0),
                    place: place.clone(),
                    _ends: ends,
                }))
            }
        }
    }

    /// Runs a call with a key to its end, also when its client has gone: else its answer would not be kept. `None` where
    /// it panicked.
    pub(crate) async fn to_the_end(
        &self,
        call: impl Future<Output = Response> + Send + 'static,
    ) -> Option<Response> {
        let (told, answer) = oneshot::channel();
        {
            let mut tasks = self.0.tasks.lock();
            while tasks.try_join_next().is_some() {}
            // Nobody may be there to be told.
            tasks.spawn(async move { drop(told.send(call.await)) });
        }
        answer.await.ok()
    }
}

/// Does the work once for an idempotency key, and gives its first answer to every retry within a day. Only a success
/// is kept, and only where it says so. Without a key it is just done.
///
/// # Errors
///
/// What the work says; `idempotency_mismatch` for another call with the key; `idempotency_in_progress` where the first
/// call takes longer than a twin waits.
pub(crate) async fn once<S>(
    api: &ApiState,
    call: &Call<S>,
    operation: &'static str,
    work: impl AsyncFnOnce() -> Result<Reply, ApiError>,
) -> Result<Reply, ApiError> {
    once_with_effect(api, call, operation, async |claim| {
        let reply = work().await?;
        match claim.filter(|_| reply.is_kept()) {
            Some(claim) => keep(&*api.store, call.tenant(), claim, reply).await,
            None => Ok(reply),
        }
    })
    .await
}

/// As [`once`], for work that itself writes the answer, in one commit with its effect, under the claim that it is given.
///
/// # Errors
///
/// As [`once`].
pub(crate) async fn once_with_effect<S>(
    api: &ApiState,
    call: &Call<S>,
    operation: &'static str,
    work: impl AsyncFnOnce(Option<Claim>) -> Result<Reply, ApiError>,
) -> Result<Reply, ApiError> {
    let Some(claim) = call.claim(operation)? else {
        return work(None).await;
    };
    let tenant = call.tenant();
    let _turn = api.idempotency.turn(tenant, &claim, TWIN_TIME_MAX).await?;
    match api.store.kept_answer(tenant, operation, &claim.key).await? {
        Some(kept) => replay(kept, &claim.fingerprint),
        None => work(Some(claim)).await,
    }
}

/// The turn of a call whose claim is written with its effect; none without a claim. Held until the effect is there.
///
/// # Errors
///
/// As [`once`], of the key alone.
pub(crate) async fn turn_of(
    api: &ApiState,
    tenant: TenantId,
    claim: Option<&Claim>,
) -> Result<Option<Turn>, ApiError> {
    match claim {
        Some(claim) => {
            let turn = api.idempotency.turn(tenant, claim, TWIN_TIME_MAX).await?;
            Ok(Some(turn))
        }
        None => Ok(None),
    }
}

/// The first answer, where a call that breaks a rule is a retry of one that broke none: since then its time may have
/// passed, or what it names may have gone.
///
/// # Errors
///
/// `refused` where it is no such retry.
pub(crate) async fn or_kept(
    api: &ApiState,
    tenant: TenantId,
    claim: Option<Claim>,
    refused: ApiError,
) -> Result<KeptAnswer, ApiError> {
    let Some(claim) = claim.filter(|_| refused.code() == Code::Invalid) else {
        return Err(refused);
    };
    let kept = api
        .store
        .kept_answer(tenant, claim.operation, &claim.key)
        .await?;
    kept.filter(|it| it.fingerprint == claim.fingerprint)
        .ok_or(refused)
}

async fn keep(
    store: &dyn Store,
    tenant: TenantId,
    claim: Claim,
    reply: Reply,
) -> Result<Reply, ApiError> {
    let fingerprint = claim.fingerprint;
    let answer = reply.to_answer();
    let kept = commit(store, tenant, Vec::new(), Vec::new(), Some((claim, answer)));
    match tokio::time::timeout(KEEP_TIME_MAX, kept).await {
        Ok(Ok(Outcome::Committed { cursor: _ })) => Ok(reply),
        Ok(Ok(Outcome::Replayed(kept))) => replay(kept, &fingerprint),
        Ok(Ok(Outcome::Mismatch)) => Err(ApiError::new(Code::IdempotencyMismatch)),
        // The work is done, but a retry would not know it: so the outcome counts as unknown.
        Ok(Ok(Outcome::Failed(_)) | Err(_)) | Err(_) => Err(ApiError::new(Code::OutcomeUnknown)),
    }
}

fn replay(kept: KeptAnswer, fingerprint: &[u8; 32]) -> Result<Reply, ApiError> {
    if kept.fingerprint == *fingerprint {
        Ok(kept.into())
    } else {
        Err(ApiError::new(Code::IdempotencyMismatch))
    }
}

#[cfg(test)]
mod tests {
    use actors::model::Timestamp;

    use super::*;

    fn claim(fingerprint: u8) -> Claim {
        Claim {
            operation: "create_thing",
            key: "k".into(),
            fingerprint: [fingerprint; 32],
            expires_at: Timestamp::from_millis(0),
        }
    }

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_twin_waits_for_the_first_and_another_call_does_not() {
        let (running, tenant) = (InFlight::default(), TenantId::generate());
        let first = running.turn(tenant, &claim(1), PATIENCE).await.unwrap();
        let other = running
            .turn(tenant, &claim(2), PATIENCE)
            .await
            .err()
            .unwrap();
        assert_eq!(other.code(), Code::IdempotencyMismatch);
        let late = running
            .turn(tenant, &claim(1), PATIENCE)
            .await
            .err()
            .unwrap();
        assert_eq!(late.code(), Code::IdempotencyInProgress);
        assert!(
            running
                .turn(TenantId::generate(), &claim(1), PATIENCE)
                .await
                .is_ok()
        );
        let claim = claim(1);
        let (twin, ()) = tokio::join!(running.turn(tenant, &claim, TWIN_TIME_MAX), async {
            tokio::time::sleep(PATIENCE).await;
            drop(first);
        });
        drop(twin.unwrap());
        assert!(running.0.calls.is_empty());
    }

    #[tokio::test]
    async fn calls_with_a_key_are_bounded() {
        let running = InFlight::default();
        let mut turns = Vec::new();
        for _ in 0..RUNNING_MAX {
            turns.push(
                running
                    .turn(TenantId::generate(), &claim(1), PATIENCE)
                    .await
                    .unwrap(),
            );
        }
        let refused = running
            .turn(TenantId::generate(), &claim(1), PATIENCE)
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code(), Code::Busy);
    }
}
