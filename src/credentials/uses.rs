//! When keys were last used, and from where: to the second in memory, to the minute in the store.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::model::{KeyId, TenantId, Timestamp};
use actors::ports::{Job, Store, StoreError, Urgency, Write};
use dashmap::DashMap;
use serde::{Deserialize, Serialize};

use super::caller::Caller;

/// Where the last uses are kept, by key.
const SPACE: &str = "key_uses";
/// How exactly a use is known.
const NOTED_EVERY: Duration = Duration::from_secs(1);
/// How much of it a crash may take.
const STORED_EVERY: Duration = Duration::from_secs(60);

/// The last use of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// When.
    pub(crate) at: Timestamp,
    /// From where.
    pub(crate) ip: IpAddr,
}

#[derive(Clone, Copy)]
struct Mark {
    last: Use,
    stored: Timestamp,
}

/// The last uses since the start. As many as there are keys: only a proved one enters.
#[derive(Default)]
pub(super) struct Uses(DashMap<KeyId, Mark>);

impl Uses {
    /// Notes that a credential of a key was used.
    pub(super) fn note(&self, store: &dyn Store, caller: &Caller, ip: IpAddr, now: Timestamp) {
        let noted = &caller.0.used;
        let due = Timestamp::from_millis(noted.load(Ordering::Relaxed)).plus(NOTED_EVERY) <= now;
        if !due || !caller.may_come_from(ip) {
            return;
        }
        noted.store(now.as_millis(), Ordering::Relaxed);
        let last = Use { at: now, ip };
        let mut is_due = false;
        self.0
            .entry(caller.key())
            .and_modify(|it| {
                it.last = last;
                is_due = it.stored.plus(STORED_EVERY) <= now;
                it.stored = if is_due { now } else { it.stored };
            })
            .or_insert_with(|| {
                is_due = true;
                Mark { last, stored: now }
            });
        if is_due {
            let job = Job {
                writes: vec![value_of(caller.key(), Some(last))],
                entries: Vec::new(),
                claim: None,
                urgency: Urgency::Soon,
                is_baseless: None,
                done: Box::new(drop),
            };
            // A store that takes nothing now may miss a use: the next one is told.
            let _taken = store.submit(caller.tenant(), job);
        }
    }

    /// The last use of a key; `None` where it was never used.
    pub(super) async fn last(
        &self,
        store: &dyn Store,
        tenant: TenantId,
        key: KeyId,
    ) -> Result<Option<Use>, StoreError> {
        if let Some(mark) = self.0.get(&key) {
            return Ok(Some(mark.last));
        }
        let found = store
            .values(tenant, SPACE, &key.to_bytes(), None, 1)
            .await?;
        let read = |(_, value): &(Vec<u8>, bytes::Bytes)| {
            rmp_serde::from_slice(value).map_err(|_| StoreError::Damaged {
                what: "last use of a key",
            })
        };
        found.first().map(read).transpose()
    }

    pub(super) fn forget(&self, key: KeyId) {
        self.0.remove(&key);
    }
}

/// The row of a key's last use.
pub(super) fn value_of(key: KeyId, last: Option<Use>) -> Write {
    // A number and an address can always be written.
    let value = last.map(|it| rmp_serde::to_vec(&it).unwrap_or_default().into());
    Write::Value {
        space: SPACE,
        key: key.to_bytes().to_vec(),
        value,
    }
}
