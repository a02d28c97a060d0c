//! API keys, access tokens, tickets: how a text becomes a [`Caller`], and how that ends.
//!
//! What was proved once is remembered by the SHA-256 of its text, so that a busy client costs one look-up in memory.
//! A revocation is durable first, then it drops what is remembered and tells everybody who still holds the caller.

mod attempts;
mod caller;
mod keys;
mod registry;
mod signing;
mod tickets;
mod tokens;
mod uses;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actors::CommandError;
use actors::model::{
    KeyRecord, Removal, SecretHash, Tenant, TenantId, TenantLimits, Timestamp, hash_secret,
    key_of_secret,
};
use actors::ports::{Answer, Claim, Clock, KeptAnswer, Outcome, Store, StoreError, Write, commit};
use dashmap::DashMap;
use parking_lot::RwLock;
use tokio::sync::Mutex;

pub(crate) use self::caller::{Caller, Ended, RateNow};
pub(crate) use self::keys::{NewKey, draw_secret};
pub(crate) use self::signing::TTL_MAX;
pub(crate) use self::tickets::Ticket;
pub(crate) use self::uses::Use;

use self::attempts::Attempts;
use self::caller::{Grant, TenantState};
use self::registry::Registry;
use self::signing::{KeyRing, TOKEN_BYTES_MAX};
use self::tickets::Tickets;
use self::tokens::RevokedTokens;
use self::uses::Uses;
use crate::config::Config;
use crate::problem::{ApiError, Code};

/// How often a credential is read again when keys change while it is read.
const READS_MAX: usize = 4;
/// How many keys can be changed at once. Two that share a place wait for each other.
const KEY_TURNS: usize = 64;
/// A write takes no longer than this, however long callers wait: a command of the operator makes two in thirty seconds.
const WRITE_TIME_MAX: Duration = Duration::from_secs(13);

/// Proves credentials, makes them and ends them.
pub(crate) struct Credentials {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    ring: RwLock<KeyRing>,
    /// Held while the ring changes, so that two rotations do not cross.
    changing_ring: Mutex<()>,
    /// Each held from the reading of a key to the writing of what it becomes.
    key_turns: [Mutex<()>; KEY_TURNS],
    registry: Arc<Registry>,
    /// As many as there are tenants.
    tenants: DashMap<TenantId, Arc<TenantState>>,
    attempts: Attempts,
    tickets: Tickets,
    revoked_tokens: RevokedTokens,
    uses: Uses,
    /// What a tenant may use that has no limit of its own.
    defaults: TenantLimits,
    /// How long a write may take before its outcome counts as unknown.
    write_time_max: Duration,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the signing keys, and makes the first one. Without room on the disk it starts without: the first token
    /// makes up for it.
    ///
    /// # Errors
    ///
    /// When the store can't be read, or holds a signing key that is none.
    pub(crate) async fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        config: &Config,
    ) -> Result<Self, CommandError> {
        let server = &config.server;
        let issuer = server
            .public_url
            .clone()
            .unwrap_or_else(|| format!("http://{}", server.listen));
        let records = tokens::load_signing_keys(&*store).await?;
        let ring = KeyRing::new(issuer, records).map_err(tokens::damaged_key)?;
        let revoked_tokens = RevokedTokens::load(&*store, clock.now()).await?;
        let credentials = Self {
            store,
            clock,
            ring: RwLock::new(ring),
            changing_ring: Mutex::default(),
            key_turns: std::array::from_fn(|_| Mutex::default()),
            registry: Arc::default(),
            tenants: DashMap::new(),
            attempts: Attempts::default(),
            tickets: Tickets::default(),
            revoked_tokens,
            uses: Uses::default(),
            defaults: config.limits.into(),
            write_time_max: config.chats.command_time_max().min(WRITE_TIME_MAX),
        };
        match credentials.ensure_signing_key().await {
            Ok(())
            | Err(CommandError::StorageFull | CommandError::StoreFailed | CommandError::Busy) => {
                Ok(credentials)
            }
            Err(error) => Err(error),
        }
    }

    /// Proves a credential that comes from an address.
    ///
    /// # Errors
    ///
    /// `unauthenticated`, `ip_not_allowed`, `rate_limited` after too many failures, or what the store says.
    pub(crate) async fn verify(&self, token: &str, address: IpAddr) -> Result<Caller, ApiError> {
        let caller = self.authenticate(token, address).await?;
        if caller.may_come_from(address) {
            Ok(caller)
        } else {
            Err(ApiError::new(Code::IpNotAllowed))
        }
    }

    /// As [`Self::verify`], but leaves the key's allowed addresses to the caller.
    pub(crate) async fn authenticate(
        &self,
        token: &str,
        address: IpAddr,
    ) -> Result<Caller, ApiError> {
        let now = self.clock.now();
        if TOKEN_BYTES_MAX < token.len() {
            return Err(ApiError::new(Code::Unauthenticated));
        }
        let hash = hash_secret(token);
        if let Some(caller) = self.registry.cached(&hash, now) {
            self.uses.note(&*self.store, &caller, address, now);
            return Ok(caller);
        }
        self.attempts.check(address, now)?;
        let proved = self.prove(token, hash, now).await;
        if proved
            .as_ref()
            .is_err_and(|error| error.code() == Code::Unauthenticated)
        {
            self.attempts.failed(address, now);
        }
        if let Ok(caller) = &proved {
            self.uses.note(&*self.store, caller, address, now);
        }
        proved
    }

    /// When and from where a key was last used, itself or through one of its tokens.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub(crate) async fn last_use(&self, key: &KeyRecord) -> Result<Option<Use>, StoreError> {
        self.uses.last(&*self.store, key.tenant, key.id).await
    }

    /// Takes over what has changed about a tenant: its name and limits count from now on.
    pub(crate) fn tenant_changed(&self, tenant: &Tenant) {
        if let Some(state) = self.tenants.get(&tenant.id) {
            state.change(&self.limited(tenant.clone()));
        }
    }

    /// A tenant with the limits that count: its own, and the configured ones where it has none.
    pub(crate) fn limited(&self, tenant: Tenant) -> Tenant {
        Tenant {
            limits: tenant.limits.or(self.defaults),
            ..tenant
        }
    }

    async fn prove(
        &self,
        token: &str,
        hash: SecretHash,
        now: Timestamp,
    ) -> Result<Caller, ApiError> {
        for _ in 0..READS_MAX {
            let changes = self.registry.changes();
            let grant = match key_of_secret(token) {
                Some(id) => {
                    self.grant_of_key(self.store.key(id).await?, hash, now)
                        .await?
                }
                None => self.grant_of_token(token, now).await?,
            };
            let caller = self.registry.enter(grant);
            self.registry.keep(hash, caller.clone());
            // A key that changed meanwhile may have been read as it was before.
            if self.registry.changes() == changes {
                return Ok(caller);
            }
            self.registry.forget(&hash);
        }
        Err(ApiError::new(Code::Busy))
    }

    async fn grant_of_key(
        &self,
        record: Option<KeyRecord>,
        hash: SecretHash,
        now: Timestamp,
    ) -> Result<Grant, ApiError> {
        let refused = || ApiError::new(Code::Unauthenticated);
        let record = record.ok_or_else(refused)?;
        let secret_ends = if is_same(&record.hash, &hash) {
            None
        } else {
            Some(
                self.previous_until(&record, &hash)
                    .await?
                    .ok_or_else(refused)?,
            )
        };
        let expires_at = record.expires_at.into_iter().chain(secret_ends).min();
        if expires_at.is_some_and(|it| it <= now) {
            return Err(refused());
        }
        Ok(Grant {
            tenant: self.tenant(record.tenant).await?,
            scopes: record.scopes,
            devices: record.devices.clone(),
            expires_at,
            key: Arc::new(record),
            secret: Some(hash),
            token: None,
        })
    }

    async fn tenant(&self, id: TenantId) -> Result<Arc<TenantState>, ApiError> {
        if let Some(state) = self.tenants.get(&id) {
            return Ok(Arc::clone(&state));
        }
        let found = if id == TenantId::GATEWAY {
            Some(gateway())
        } else {
            self.store
                .tenants()
                .await?
                .into_iter()
                .find(|it| it.id == id && it.is_alive())
                .map(|it| self.limited(it))
        };
        let tenant = found.ok_or_else(|| ApiError::new(Code::Unauthenticated))?;
        let state = self
            .tenants
            .entry(id)
            .or_insert_with(|| Arc::new(TenantState::new(&tenant)));
        Ok(Arc::clone(&state))
    }

    async fn write(&self, tenant: TenantId, writes: Vec<Write>) -> Result<(), CommandError> {
        self.write_once(tenant, writes, None).await.map(drop)
    }

    /// Writes, together with the answer that is kept for a claim; what was kept for it before, where nothing is written.
    async fn write_once(
        &self,
        tenant: TenantId,
        writes: Vec<Write>,
        claim: Option<(Claim, Answer)>,
    ) -> Result<Option<KeptAnswer>, CommandError> {
        let written = commit(&*self.store, tenant, writes, Vec::new(), claim);
        match tokio::time::timeout(self.write_time_max, written).await {
            Ok(Ok(Outcome::Committed { cursor: _ })) => Ok(None),
            Ok(Ok(Outcome::Replayed(kept))) => Ok(Some(kept)),
            Ok(Ok(Outcome::Mismatch)) => Err(CommandError::IdempotencyMismatch),
            Ok(Ok(Outcome::Failed(error))) => Err(CommandError::of_commit(&error)),
            Err(_late) => Err(CommandError::OutcomeUnknown),
            Ok(Err(refused)) => Err(refused.into()),
        }
    }
}

/// What stands for a tenant where an admin key calls.
fn gateway() -> Tenant {
    Tenant {
        id: TenantId::GATEWAY,
        name: "gateway".to_owned(),
        limits: TenantLimits::default(),
        created_at: Timestamp::from_millis(0),
        removal: Removal::None,
    }
}

/// Compares in a time that does not depend on where two hashes differ.
fn is_same(one: &SecretHash, other: &SecretHash) -> bool {
    let difference = one
        .iter()
        .zip(other)
        .fold(0_u8, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hashes_are_the_same_in_every_byte_or_differ() {
        let hash = hash_secret("one");
        assert!(is_same(&hash, &hash));
        for place in 0..hash.len() {
            let mut other = hash;
            other[place] ^= 1;
            assert!(!is_same(&hash, &other));
        }
    }
}
