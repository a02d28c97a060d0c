//! Reads of the small things.

use actors::model::{
    Cursor, DeviceId, DeviceRecord, EventId, KeyId, KeyRecord, SessionChange, Tenant, TenantId,
};
use actors::ports::{Directory, KeptAnswer, StoreError};
use async_trait::async_trait;
use bytes::Bytes;

use super::CqlStore;
use super::change::Cell;
use super::database::Database;
use super::look::Look;
use super::tenants::Slot;
use crate::store::rows;

/// Greater than every id, and than every key of a value.
pub(super) const BEHIND_ALL: [u8; 257] = [u8::MAX; 257];

/// A row with nothing but a body.
type Body = (Vec<u8>,);

#[async_trait]
impl Directory for CqlStore {
    async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        let found: Vec<Body> = self.db()?.rows(Look::Tenants, (self.cluster(),)).await?;
        let mut tenants: Vec<Tenant> = found
            .into_iter()
            .map(|(it,)| rows::unpacked(&it, "tenant"))
            .collect::<Result<_, _>>()?;
        // A tenant whose making is still under way is not there.
        tenants.retain(|it| self.existing(it.id).is_some());
        tenants.sort_by_key(|it| it.id);
        Ok(tenants)
    }

    async fn devices(&self, tenant: TenantId) -> Result<Vec<DeviceRecord>, StoreError> {
        let db = self.db()?;
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let found: Vec<(Vec<u8>, Vec<u8>)> = db.rows(Look::Devices, (slot.key(),)).await?;
        let bodies = found.into_iter().filter(|(_, body)| !body.is_empty());
        let devices: Result<Vec<DeviceRecord>, _> = bodies
            .map(|(_, body)| rows::unpacked(&body, "device"))
            .collect();
        Ok(devices?.into_iter().filter(|it| slot.has(it.id)).collect())
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let (db, id) = (self.db()?, Cell::id(id.to_bytes()));
        let Some((owner,)) = db
            .row::<Body>(Look::KeyOwner, (self.cluster(), &id))
            .await?
        else {
            return Ok(None);
        };
        let found = db.row::<Body>(Look::Key, (Cell::blob(owner), id)).await?;
        found.map(|(it,)| rows::unpacked(&it, "key")).transpose()
    }

    async fn keys(&self, tenant: TenantId) -> Result<Vec<KeyRecord>, StoreError> {
        let db = self.db()?;
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let found: Vec<Body> = db.rows(Look::Keys, (slot.key(),)).await?;
        found
            .into_iter()
            .map(|(it,)| rows::unpacked(&it, "key"))
            .collect()
    }

    async fn consumers(&self, tenant: TenantId) -> Result<Vec<(String, Cursor)>, StoreError> {
        let db = self.db()?;
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let found: Vec<(String, Vec<u8>)> = db.rows(Look::Consumers, (slot.key(),)).await?;
        found
            .into_iter()
            .map(|(name, body)| Ok((name, rows::uncursor(&body, "consumer")?)))
            .collect()
    }

    async fn session_changes(
        &self,
        tenant: TenantId,
        device: DeviceId,
        beyond: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<(EventId, SessionChange)>, StoreError> {
        let db = self.db()?;
        let Some(slot) = self.owner(tenant, device) else {
            return Ok(Vec::new());
        };
        let before = beyond.map_or_else(|| Cell::blob(BEHIND_ALL), |it| Cell::id(it.to_bytes()));
        let span = (
            slot.key(),
            Cell::id(device.to_bytes()),
            before,
            count(limit),
        );
        let found: Vec<(Vec<u8>, Vec<u8>)> = db.rows(Look::SessionChanges, span).await?;
        let change = |(id, body): (Vec<u8>, Vec<u8>)| {
            let id = id.try_into().map_err(|_| StoreError::Damaged {
                what: "session change key",
            })?;
            let change = rows::unpacked(&body, "session change")?;
            Ok((EventId::from_bytes(id), change))
        };
        found.into_iter().map(change).collect()
    }

    async fn kept_answer(
        &self,
        tenant: TenantId,
        operation: &str,
        key: &str,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let db = self.db()?;
        let Some(slot) = self.existing(tenant) else {
            return Ok(None);
        };
        let kept = kept_answer(db, &slot, operation, key).await?;
        Ok(kept.filter(|it| self.now() < it.expires_at))
    }

    async fn values(
        &self,
        tenant: TenantId,
        space: &'static str,
        prefix: &[u8],
        beyond: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let db = self.db()?;
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        // The least key behind one is that key and a zero. What lies before the prefix does not narrow it.
        let behind = beyond.map(|it| [it, &[0]].concat());
        let from = behind.map_or_else(|| prefix.to_vec(), |it| it.max(prefix.to_vec()));
        let to = end_of(prefix);
        if to <= from {
            return Ok(Vec::new());
        }
        let (from, to) = (Cell::blob(from), Cell::blob(to));
        let span = (slot.key(), space, from, to, count(limit));
        let found: Vec<(Vec<u8>, Vec<u8>)> = db.rows(Look::Values, span).await?;
        found
            .into_iter()
            .map(|(key, body)| {
                let value = rows::unraw(&body, "value")?;
                Ok((key, Bytes::copy_from_slice(value)))
            })
            .collect()
    }
}

/// A limit as the servers take it.
pub(super) fn count(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

/// The first key behind all that start with `prefix`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    BEHIND_ALL.to_vec()
}

/// The answer kept for a key, whether its time is over or not.
pub(super) async fn kept_answer(
    db: &Database,
    slot: &Slot,
    operation: &str,
    key: &str,
) -> Result<Option<KeptAnswer>, StoreError> {
    let found = db
        .row::<Body>(Look::Answer, (slot.key(), operation, key))
        .await?;
    found.map(|(it,)| rows::unkept(&it)).transpose()
}
