//! Reads of the small things.

use actors::model::{
    Cursor, DeviceId, DeviceRecord, EventId, KeyId, KeyRecord, SessionChange, Tenant, TenantId,
};
use actors::ports::{Directory, KeptAnswer, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::engine::{KeyValue, Space, View};
use super::{EmbeddedStore, keys, measures, rows};

/// A directory row's key behind its tag and the tenant.
const BEHIND_TENANT: usize = 5;
/// The same behind the device.
const BEHIND_DEVICE: usize = 9;

#[async_trait]
impl Directory for EmbeddedStore {
    async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        self.read("tenants", |view| {
            records(view, &keys::tenants(), |(_, row)| {
                rows::record(&row, "tenant")
            })
        })
        .await
    }

    async fn devices(&self, tenant: TenantId) -> Result<Vec<DeviceRecord>, StoreError> {
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let prefix = keys::devices(slot.number());
        self.read("devices", move |view| {
            records(view, &prefix, |(_, row)| rows::record(&row, "device"))
        })
        .await
    }

    async fn key(&self, id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let read = move |view: &View<'_>| {
            let prefix = keys::key_owners(id);
            let Some(owner) = view.prefix(Space::Directory, &prefix).next().transpose()? else {
                return Ok(None);
            };
            let tenant = keys::number_at(&owner.0, prefix.len())
                .ok_or(StoreError::Damaged { what: "key owner" })?;
            view.get(Space::Directory, &keys::key(tenant, id))?
                .map(|it| rows::unpacked(&it, "key"))
                .transpose()
        };
        self.read("key", read).await
    }

    async fn keys(&self, tenant: TenantId) -> Result<Vec<KeyRecord>, StoreError> {
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let prefix = keys::keys(slot.number());
        let read = move |view: &View<'_>| {
            let mut found = records(view, &prefix, |(_, row)| rows::unpacked(&row, "key"))?;
            found.reverse();
            Ok(found)
        };
        self.read("keys", read).await
    }

    async fn consumers(&self, tenant: TenantId) -> Result<Vec<(String, Cursor)>, StoreError> {
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let prefix = keys::consumers(slot.number());
        let named = |(key, row): KeyValue| {
            let name = key
                .get(BEHIND_TENANT..)
                .and_then(|it| std::str::from_utf8(it).ok());
            let name = name
                .ok_or(StoreError::Damaged {
                    what: "consumer key",
                })?
                .to_owned();
            Ok((name, rows::uncursor(&row, "consumer")?))
        };
        self.read("consumers", move |view| records(view, &prefix, named))
            .await
    }

    async fn session_changes(
        &self,
        tenant: TenantId,
        device: DeviceId,
        beyond: Option<EventId>,
        limit: usize,
    ) -> Result<Vec<(EventId, SessionChange)>, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(Vec::new());
        };
        let change = |row: Result<KeyValue, StoreError>| {
            let (key, row) = row?;
            let id = keys::id_at(&key, BEHIND_DEVICE).ok_or(StoreError::Damaged {
                what: "session change key",
            })?;
            Ok((
                EventId::from_bytes(id),
                rows::unpacked(&row, "session change")?,
            ))
        };
        let read = move |view: &View<'_>| {
            let prefix = keys::session_changes(place);
            match beyond {
                Some(id) => view
                    .before(Space::Directory, &prefix, keys::session_change(place, id))
                    .rev()
                    .take(limit)
                    .map(change)
                    .collect(),
                None => view
                    .prefix(Space::Directory, &prefix)
                    .rev()
                    .take(limit)
                    .map(change)
                    .collect(),
            }
        };
        self.read("session_changes", read).await
    }

    /// Runs where it is called: every call with a key makes this look-up, nearly always to find nothing, and the
    /// filters in memory know that in less time than a thread needs to wake.
    async fn kept_answer(
        &self,
        tenant: TenantId,
        operation: &str,
        key: &str,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        let started = Instant::now();
        let Some(slot) = self.existing(tenant) else {
            return Ok(None);
        };
        let key = keys::idempotency(slot.number(), operation, key);
        let engine = self.engine.read().clone().ok_or(StoreError::Away)?;
        let row = engine.view().get(Space::Idempotency, &key)?;
        let kept = row
            .map(|it| rows::unkept(&it))
            .transpose()?
            .filter(|it| self.now() < it.expires_at);
        measures::read("kept_answer", started.elapsed());
        Ok(kept)
    }

    async fn values(
        &self,
        tenant: TenantId,
        space: &'static str,
        prefix: &[u8],
        beyond: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let Some(slot) = self.existing(tenant) else {
            return Ok(Vec::new());
        };
        let number = slot.number();
        let at = keys::value(number, space, &[]).len();
        let prefix = keys::value(number, space, prefix);
        // What lies before the prefix does not narrow it.
        let beyond = beyond
            .map(|it| keys::value(number, space, it))
            .filter(|it| prefix <= *it);
        let value = move |row: Result<KeyValue, StoreError>| {
            let (key, row) = row?;
            let key = key.get(at..).unwrap_or_default().to_vec();
            Ok((key, Bytes::copy_from_slice(rows::unraw(&row, "value")?)))
        };
        let read = move |view: &View<'_>| match beyond {
            Some(beyond) => view
                .after(Space::Directory, &prefix, beyond)
                .take(limit)
                .map(value)
                .collect(),
            None => view
                .prefix(Space::Directory, &prefix)
                .take(limit)
                .map(value)
                .collect(),
        };
        self.read("values", read).await
    }
}

fn records<T>(
    view: &View<'_>,
    prefix: &[u8],
    read: impl Fn(KeyValue) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    view.prefix(Space::Directory, prefix)
        .map(|it| read(it?))
        .collect()
}
