//! Access tokens and tickets: traded for a credential, looked at, ended before their time; and the keys that sign.

use std::sync::Arc;
use std::time::Duration;

use actors::CommandError;
use actors::model::{DeviceId, KeyId, ScopeSet, TenantId, Timestamp};
use actors::ports::{SigningKey, Store, StoreError, Write};
use bytes::Bytes;
use dashmap::DashMap;
use jsonwebtoken::jwk::Jwk;

use super::caller::Grant;
use super::keys::narrow;
use super::signing::{Access, KeyRing, SigningError, TokenId};
use super::{Caller, Credentials, Ticket};
use crate::problem::{ApiError, Code};

/// Where the signing keys are kept.
const SIGNING_SPACE: &str = "signing";
/// Where the ids of revoked tokens are kept, until the tokens would have ended by themselves.
const REVOKED_SPACE: &str = "revoked_tokens";
/// Keys that may verify at once; a rotation beyond it has to wait until the oldest is through.
const SIGNING_KEYS_MAX: usize = 16;
/// Revoked tokens that are remembered; more are `busy` until the first of them have ended.
const REVOKED_MAX: usize = 65_536;
const PAGE: usize = 1_000;

/// An access token, in the one moment when its text is known.
pub(crate) struct IssuedToken {
    /// Its text.
    pub(crate) text: String,
    /// What it may do.
    pub(crate) scopes: ScopeSet,
    /// When it ends.
    pub(crate) expires_at: Timestamp,
}

/// What a valid token of a tenant is.
pub(crate) struct Introspection {
    /// What it may do.
    pub(crate) scopes: ScopeSet,
    /// When it ends.
    pub(crate) expires_at: Timestamp,
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// The key behind it.
    pub(crate) key: KeyId,
}

impl Credentials {
    /// Trades an API key for an access token with the same rights or less.
    ///
    /// # Errors
    ///
    /// `forbidden` for a token, `scope_missing` for wider rights, or what the store says.
    pub(crate) async fn issue_token(
        &self,
        caller: &Caller,
        scopes: Option<ScopeSet>,
        devices: Option<Vec<DeviceId>>,
        ttl: Duration,
    ) -> Result<IssuedToken, ApiError> {
        let (scopes, devices) = narrow(caller, scopes, devices)?;
        self.ensure_signing_key().await?;
        let issued_at = self.clock.now();
        let end = issued_at.plus(ttl);
        let access = Access {
            id: TokenId::draw(),
            key: caller.key(),
            tenant: caller.tenant(),
            scopes,
            devices,
            issued_at,
            expires_at: caller.expires_at().map_or(end, |it| it.min(end)),
        };
        let signed = self
            .ring
            .read()
            .sign(&access)
            .ok_or_else(|| ApiError::new(Code::Unavailable))?;
        let text = signed.map_err(|error| ApiError::new(Code::Internal).because(error))?;
        // The token itself tells whole seconds.
        let expires_at = Timestamp::from_millis(
            access
                .expires_at
                .as_millis()
                .div_euclid(1_000)
                .saturating_mul(1_000),
        );
        Ok(IssuedToken {
            text,
            scopes,
            expires_at,
        })
    }

    /// Gives a ticket with the same rights or less, good for one WebSocket.
    ///
    /// # Errors
    ///
    /// `scope_missing` for wider rights, `busy` where too many wait to be used.
    pub(crate) fn issue_ticket(
        &self,
        caller: &Caller,
        scopes: Option<ScopeSet>,
        devices: Option<Vec<DeviceId>>,
        origin: Option<String>,
    ) -> Result<Ticket, ApiError> {
        let (scopes, devices) = narrow(caller, scopes, devices)?;
        let of = &caller.0.grant;
        let narrowed = self.registry.enter(Grant {
            tenant: Arc::clone(&of.tenant),
            key: Arc::clone(&of.key),
            scopes,
            devices,
            expires_at: caller.expires_at(),
            secret: of.secret,
            token: of.token,
        });
        let now = self.clock.now();
        // A revocation between the proof and the entry above has not reached the entry.
        if caller.is_over(now) {
            return Err(ApiError::new(Code::Unauthenticated));
        }
        self.tickets.issue(narrowed, origin, now)
    }

    /// Takes a ticket, once: who it stands for and the origin it is for.
    pub(crate) fn redeem_ticket(&self, ticket: &str) -> Option<(Caller, Option<String>)> {
        self.tickets.redeem(ticket, self.clock.now())
    }

    /// What a token is, where it is valid and the caller's own tenant's.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn introspect(
        &self,
        caller: &Caller,
        token: &str,
    ) -> Result<Option<Introspection>, ApiError> {
        let grant = match self.grant_of_token(token, self.clock.now()).await {
            Ok(grant) => grant,
            Err(error) if error.code() == Code::Unauthenticated => return Ok(None),
            Err(error) => return Err(error),
        };
        let (tenant, key) = (grant.key.tenant, grant.key.id);
        let told = grant.expires_at.filter(|_| tenant == caller.tenant());
        Ok(told.map(|expires_at| Introspection {
            scopes: grant.scopes,
            expires_at,
            tenant,
            key,
        }))
    }

    /// Ends a token of the caller's tenant before its time; anything else stays as it is.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn revoke_token(
        &self,
        caller: &Caller,
        token: &str,
    ) -> Result<(), CommandError> {
        let now = self.clock.now();
        let Ok(access) = self.ring.read().read(token, now) else {
            return Ok(());
        };
        if access.tenant != caller.tenant() {
            return Ok(());
        }
        let forgotten = self.revoked_tokens.make_room(now)?;
        let mut writes: Vec<Write> = forgotten.into_iter().map(|it| revoked(it, None)).collect();
        writes.push(revoked(access.id, Some(access.expires_at)));
        self.write(TenantId::GATEWAY, writes).await?;
        self.revoked_tokens
            .until
            .insert(access.id, access.expires_at);
        self.registry.end_token(access.id);
        Ok(())
    }

    /// The public keys that verify tokens now.
    pub(crate) fn jwks(&self) -> Vec<Jwk> {
        self.ring.read().public(self.clock.now())
    }

    /// Puts another key in the place of the one that signs; the old one verifies on for a while. Tells the new `kid`.
    ///
    /// # Errors
    ///
    /// [`CommandError::StateConflict`] where too many still verify, or what the store says.
    pub(crate) async fn rotate_signing_key(&self) -> Result<String, CommandError> {
        let _alone = self.changing_ring.lock().await;
        self.change_ring().await
    }

    pub(super) async fn ensure_signing_key(&self) -> Result<(), CommandError> {
        if self.ring.read().signs() {
            return Ok(());
        }
        let _alone = self.changing_ring.lock().await;
        if self.ring.read().signs() {
            return Ok(());
        }
        self.change_ring().await.map(drop)
    }

    /// Only for who holds `changing_ring`.
    async fn change_ring(&self) -> Result<String, CommandError> {
        let now = self.clock.now();
        let (mut kept, gone) = self.ring.read().sort_out(now);
        if SIGNING_KEYS_MAX <= kept.len() {
            return Err(CommandError::StateConflict(
                "too many retired signing keys still verify",
            ));
        }
        let fresh = KeyRing::draw(now);
        for record in kept.iter_mut().filter(|it| it.retired_at.is_none()) {
            record.retired_at = Some(now);
        }
        let id = fresh.id.clone();
        kept.push(fresh);
        let ring = self.ring.read().with(kept.clone()).map_err(damaged_key)?;
        let mut writes = gone
            .into_iter()
            .map(|it| signing_value(&it.id, None))
            .collect::<Vec<_>>();
        for record in &kept {
            let bytes = rmp_serde::to_vec_named(record)
                .map_err(|source| engine("encode signing key", source))?;
            writes.push(signing_value(&record.id, Some(bytes.into())));
        }
        self.write(TenantId::GATEWAY, writes).await?;
        *self.ring.write() = ring;
        Ok(id)
    }

    pub(super) async fn grant_of_token(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Result<Grant, ApiError> {
        let refused = || ApiError::new(Code::Unauthenticated);
        let access = self.ring.read().read(token, now).map_err(|_| refused())?;
        if self.revoked_tokens.until.contains_key(&access.id) {
            return Err(refused());
        }
        let key = self.store.key(access.key).await?;
        let key = key
            .filter(|it| it.tenant == access.tenant && it.expires_at.is_none_or(|end| now < end))
            .ok_or_else(refused)?;
        // The key may have been narrowed since: a token never reaches further than its key.
        let devices = if key.devices.is_empty() {
            access.devices
        } else if access.devices.is_empty() {
            key.devices.clone()
        } else {
            let both: Vec<DeviceId> = access
                .devices
                .into_iter()
                .filter(|it| key.devices.contains(it))
                .collect();
            if both.is_empty() {
                return Err(refused());
            }
            both
        };
        Ok(Grant {
            tenant: self.tenant(key.tenant).await?,
            scopes: access.scopes.and(key.scopes),
            devices,
            expires_at: Some(
                key.expires_at
                    .map_or(access.expires_at, |it| it.min(access.expires_at)),
            ),
            key: Arc::new(key),
            secret: None,
            token: Some(access.id),
        })
    }
}

/// The tokens that were ended before their time.
#[derive(Default)]
pub(super) struct RevokedTokens {
    until: DashMap<TokenId, Timestamp>,
}

impl RevokedTokens {
    pub(super) async fn load(store: &dyn Store, now: Timestamp) -> Result<Self, StoreError> {
        let loaded = Self::default();
        let mut beyond: Option<Vec<u8>> = None;
        while loaded.until.len() < REVOKED_MAX {
            let page = store
                .values(
                    TenantId::GATEWAY,
                    REVOKED_SPACE,
                    &[],
                    beyond.as_deref(),
                    PAGE,
                )
                .await?;
            let Some((last, _)) = page.last() else { break };
            beyond = Some(last.clone());
            for (id, until) in page
                .iter()
                .map(|(key, value)| read_revoked(key, value))
                .collect::<Result<Vec<_>, _>>()?
            {
                loaded.until.insert(id, until);
            }
        }
        loaded.until.retain(|_, until| now < *until);
        Ok(loaded)
    }

    /// Forgets what has ended by itself once there are many; tells what the store may forget too.
    fn make_room(&self, now: Timestamp) -> Result<Vec<TokenId>, CommandError> {
        if self.until.len() < REVOKED_MAX / 2 {
            return Ok(Vec::new());
        }
        let over: Vec<TokenId> = self
            .until
            .iter()
            .filter(|it| *it.value() <= now)
            .map(|it| *it.key())
            .take(PAGE)
            .collect();
        for id in &over {
            self.until.remove(id);
        }
        if REVOKED_MAX <= self.until.len() {
            Err(CommandError::Busy)
        } else {
            Ok(over)
        }
    }
}

fn read_revoked(key: &[u8], value: &[u8]) -> Result<(TokenId, Timestamp), StoreError> {
    let damaged = || StoreError::Damaged {
        what: "revoked token",
    };
    let id = key
        .try_into()
        .map(u128::from_be_bytes)
        .map_err(|_| damaged())?;
    let until = value
        .try_into()
        .map(i64::from_be_bytes)
        .map_err(|_| damaged())?;
    Ok((TokenId(id), Timestamp::from_millis(until)))
}

fn revoked(id: TokenId, until: Option<Timestamp>) -> Write {
    let value = until.map(|it| Bytes::copy_from_slice(&it.as_millis().to_be_bytes()));
    Write::Value {
        space: REVOKED_SPACE,
        key: id.0.to_be_bytes().to_vec(),
        value,
    }
}

fn signing_value(id: &str, value: Option<Bytes>) -> Write {
    Write::Value {
        space: SIGNING_SPACE,
        key: id.as_bytes().to_vec(),
        value,
    }
}

pub(super) async fn load_signing_keys(store: &dyn Store) -> Result<Vec<SigningKey>, StoreError> {
    let values = store
        .values(TenantId::GATEWAY, SIGNING_SPACE, &[], None, PAGE)
        .await?;
    let read = |(_, value): (Vec<u8>, Bytes)| rmp_serde::from_slice(&value);
    values
        .into_iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|_| StoreError::Damaged {
            what: "signing key",
        })
}

pub(super) fn damaged_key(error: SigningError) -> CommandError {
    engine("read signing key", error)
}

fn engine(
    operation: &'static str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> CommandError {
    CommandError::Store(StoreError::Engine {
        operation,
        source: Box::new(source),
    })
}
