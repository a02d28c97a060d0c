//! API keys: made, changed, ended.

use std::time::Duration;

use actors::CommandError;
use actors::model::{
    DeviceId, KeyId, KeyKind, KeyRecord, Scope, ScopeSet, Secret, SecretHash, TenantId, Timestamp,
    hash_secret,
};
use actors::ports::{Answer, Claim, KeptAnswer, StoreError, Write};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::MutexGuard;

use super::caller::Ended;
use super::{Caller, Credentials, KEY_TURNS, is_same, uses};
use crate::problem::{ApiError, Code};

/// Where the secrets before the present ones are kept, by key.
const PREVIOUS_SPACE: &str = "previous_secrets";

/// What a key shall be.
#[derive(Clone, Debug)]
pub(crate) struct NewKey {
    /// Whose it is; [`TenantId::GATEWAY`] for an admin key.
    pub(crate) tenant: TenantId,
    /// Its name, for people.
    pub(crate) name: String,
    /// What it may do.
    pub(crate) scopes: ScopeSet,
    /// The devices it is bound to; empty for all.
    pub(crate) devices: Vec<DeviceId>,
    /// Where it may be used from; empty for everywhere.
    pub(crate) allowed_ips: Vec<IpNet>,
    /// When it ends by itself.
    pub(crate) expires_at: Option<Timestamp>,
}

/// A key with a new secret, which [`Credentials::rotate_key`] makes count.
pub(crate) fn draw_secret(of: &KeyRecord) -> (KeyRecord, Secret) {
    let secret = Secret::draw(of.kind, of.id);
    let record = KeyRecord {
        hash: hash_secret(secret.expose()),
        ..of.clone()
    };
    (record, secret)
}

impl NewKey {
    const fn kind(&self) -> KeyKind {
        if self.scopes.has(Scope::AdminTenants) {
            KeyKind::Admin
        } else if self.devices.is_empty() {
            KeyKind::Tenant
        } else {
            KeyKind::Device
        }
    }
}

impl Credentials {
    /// Draws a key; this is the only moment in which its secret is known. [`Self::create_key`] makes it count.
    pub(crate) fn draw_key(&self, wanted: NewKey) -> (KeyRecord, Secret) {
        let (id, now) = (KeyId::generate(), self.clock.now());
        let secret = Secret::draw(wanted.kind(), id);
        let record = KeyRecord {
            id,
            tenant: wanted.tenant,
            kind: wanted.kind(),
            name: wanted.name,
            scopes: wanted.scopes,
            devices: wanted.devices,
            allowed_ips: wanted.allowed_ips,
            expires_at: wanted.expires_at,
            hash: hash_secret(secret.expose()),
            created_at: now,
        };
        (record, secret)
    }

    /// Makes a key that was drawn, and keeps the answer to its call; tells what was kept for the same call before, where
    /// it makes none.
    ///
    /// # Errors
    ///
    /// `IdempotencyMismatch`, or what the store says.
    pub(crate) async fn create_key(
        &self,
        record: KeyRecord,
        kept: Option<(Claim, Answer)>,
    ) -> Result<Option<KeptAnswer>, CommandError> {
        let tenant = record.tenant;
        self.write_once(tenant, vec![Write::Key(Box::new(record))], kept)
            .await
    }

    /// The right to change a key. Take it before the key is read, and hold it until what the key becomes is written: then
    /// nobody's change is lost, and no change brings back a key that has ended.
    pub(crate) async fn turn(&self, id: KeyId) -> MutexGuard<'_, ()> {
        // The last byte of an id is random.
        let [.., last] = id.to_bytes();
        let place = usize::from(last) % KEY_TURNS;
        let turn = self.key_turns.get(place).unwrap_or(&self.changing_ring);
        turn.lock().await
    }

    /// Changes what a key may do, but not its secret, within a [`Self::turn`] of its own. Where that is less than before, whoever came in with the key has
    /// to prove it anew.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn change_key(
        &self,
        before: &KeyRecord,
        after: KeyRecord,
    ) -> Result<(), CommandError> {
        let how = if is_narrower(before, &after) {
            Ended::Narrowed
        } else {
            Ended::No
        };
        let id = after.id;
        self.write(after.tenant, vec![Write::Key(Box::new(after))])
            .await?;
        self.registry.end(id, how);
        Ok(())
    }

    /// Within a [`Self::turn`] puts the secret of `after` into the place of the one of `before`, which works for the `overlap`, an earlier one no
    /// longer; keeps the answer to the call. Tells what was kept for the same call before, where it changes nothing.
    ///
    /// # Errors
    ///
    /// `IdempotencyMismatch`, or what the store says.
    pub(crate) async fn rotate_key(
        &self,
        before: &KeyRecord,
        after: KeyRecord,
        overlap: Duration,
        kept: Option<(Claim, Answer)>,
    ) -> Result<Option<KeptAnswer>, CommandError> {
        let (id, tenant, present) = (after.id, after.tenant, after.hash);
        let previous = (!overlap.is_zero()).then(|| Previous {
            hash: before.hash,
            until: self.clock.now().plus(overlap),
        });
        let writes = vec![
            Write::Key(Box::new(after)),
            previous_value(id, previous.as_ref()),
        ];
        let replayed = self.write_once(tenant, writes, kept).await?;
        if replayed.is_none() {
            let last = previous.map(|it| (it.hash, it.until));
            self.registry.end_secrets(id, present, last);
        }
        Ok(replayed)
    }

    /// When the secret with this hash ends, where it is the one before the present one.
    pub(super) async fn previous_until(
        &self,
        record: &KeyRecord,
        hash: &SecretHash,
    ) -> Result<Option<Timestamp>, StoreError> {
        let key = record.id.to_bytes();
        let found = self
            .store
            .values(record.tenant, PREVIOUS_SPACE, &key, None, 1)
            .await?;
        let Some((_, value)) = found.first() else {
            return Ok(None);
        };
        let previous: Previous = rmp_serde::from_slice(value).map_err(|_| StoreError::Damaged {
            what: "previous secret",
        })?;
        Ok(is_same(&previous.hash, hash).then_some(previous.until))
    }

    /// Ends all keys of a tenant.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub(crate) async fn revoke_all(&self, tenant: TenantId) -> Result<(), CommandError> {
        for key in self.store.keys(tenant).await? {
            match self.revoke_key(key.id).await {
                Ok(()) | Err(CommandError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends a key, its tokens, its tickets and every connection that came in with one of them.
    ///
    /// # Errors
    ///
    /// [`CommandError::NotFound`], or what the store says.
    pub(crate) async fn revoke_key(&self, id: KeyId) -> Result<(), CommandError> {
        let _turn = self.turn(id).await;
        let record = self.store.key(id).await?.ok_or(CommandError::NotFound)?;
        self.write(
            record.tenant,
            vec![
                Write::KeyRemoved(id),
                previous_value(id, None),
                uses::value_of(id, None),
            ],
        )
        .await?;
        self.registry.end(id, Ended::Revoked);
        self.uses.forget(id);
        Ok(())
    }
}

/// The secret of a key before its present one.
#[derive(Serialize, Deserialize)]
struct Previous {
    hash: SecretHash,
    until: Timestamp,
}

fn previous_value(id: KeyId, previous: Option<&Previous>) -> Write {
    // An array and a number can always be written.
    let value = previous.map(|it| rmp_serde::to_vec(it).unwrap_or_default().into());
    Write::Value {
        space: PREVIOUS_SPACE,
        key: id.to_bytes().to_vec(),
        value,
    }
}

/// Whether a key may do less, or from fewer places, or not as long as before.
fn is_narrower(before: &KeyRecord, after: &KeyRecord) -> bool {
    let fewer_devices = !after.devices.is_empty()
        && (before.devices.is_empty()
            || before.devices.iter().any(|it| !after.devices.contains(it)));
    let fewer_places = !after.allowed_ips.is_empty() && after.allowed_ips != before.allowed_ips;
    let sooner = after
        .expires_at
        .is_some_and(|it| before.expires_at.is_none_or(|end| it < end));
    !after.scopes.covers(before.scopes) || fewer_devices || fewer_places || sooner
}

/// The rights that are asked for, or all that the caller has.
///
/// # Errors
///
/// `scope_missing` where they are wider: nothing is cut silently.
pub(super) fn narrow(
    caller: &Caller,
    scopes: Option<ScopeSet>,
    devices: Option<Vec<DeviceId>>,
) -> Result<(ScopeSet, Vec<DeviceId>), ApiError> {
    let scopes = scopes.unwrap_or(caller.scopes());
    if !caller.scopes().covers(scopes) {
        let missing: Vec<&str> = scopes
            .iter()
            .filter(|it| !caller.may(*it))
            .map(Scope::as_str)
            .collect();
        let detail = format!(
            "The credential does not hold what is asked for: {}.",
            missing.join(" ")
        );
        return Err(ApiError::new(Code::ScopeMissing).detail(detail));
    }
    let devices = devices.unwrap_or_else(|| caller.devices().to_vec());
    if devices.iter().all(|it| caller.sees(*it)) {
        Ok((scopes, devices))
    } else {
        Err(ApiError::new(Code::ScopeMissing).detail("The credential is bound to other devices."))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_kind_follows_from_what_a_key_is_for() {
        let mut wanted = NewKey {
            tenant: TenantId::generate(),
            name: "one".to_owned(),
            scopes: ScopeSet::tenant(),
            devices: Vec::new(),
            allowed_ips: vec![IpNet::from(IpAddr::from([192, 0, 2, 1]))],
            expires_at: None,
        };
        assert_eq!(wanted.kind(), KeyKind::Tenant);
        wanted.devices.push(DeviceId::generate());
        assert_eq!(wanted.kind(), KeyKind::Device);
        wanted.scopes = [Scope::AdminTenants].into_iter().collect();
        assert_eq!(wanted.kind(), KeyKind::Admin);
    }
}
