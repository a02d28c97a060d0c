//! A store in memory that holds what the simulated network asks for: values and messages.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actors::log::{Entry, Log};
use actors::model::{
    Chat, Cursor, DeviceId, DeviceRecord, EventId, Jid, KeyId, KeyRecord, Message, MessageId,
    SessionChange, Tenant, TenantId, Timestamp,
};
use actors::ports::{
    ChatQuery, Directory, Done, History, Job, KeptAnswer, LogReader, MessagePage, MessageQuery,
    Outcome, StoreError, StoreHealth, SubmitError, Ticket, Write, Writer,
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

const WRITTEN: Outcome = Outcome::Committed {
    cursor: Cursor { epoch: 1, seq: 0 },
};

/// The store.
#[derive(Default)]
pub(super) struct MemoryStore {
    values: Mutex<BTreeMap<(TenantId, Vec<u8>), Bytes>>,
    messages: Mutex<BTreeMap<(DeviceId, MessageId), Message>>,
    upstream: Mutex<BTreeMap<(DeviceId, Jid, bool, String), MessageId>>,
    /// Refuses every job.
    pub(super) is_full: AtomicBool,
    /// Writes jobs and says nothing of it, until they are asked for.
    pub(super) is_silent: AtomicBool,
    unsaid: Mutex<Vec<Done>>,
    /// How many jobs were written.
    pub(super) jobs: AtomicUsize,
}

impl MemoryStore {
    /// Puts a message in, as the gateway does.
    pub(super) fn put(&self, message: Message, from_me: bool) {
        let body = &message.body;
        self.upstream.lock().insert(
            (
                body.device,
                body.chat.clone(),
                from_me,
                body.upstream_id.clone(),
            ),
            body.id,
        );
        self.messages.lock().insert((body.device, body.id), message);
    }

    /// Says what was not said.
    pub(super) fn speak(&self) {
        self.is_silent.store(false, Ordering::Relaxed);
        let unsaid = std::mem::take(&mut *self.unsaid.lock());
        unsaid.into_iter().for_each(|done| done(WRITTEN));
    }

    /// The keys of a tenant that start so.
    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        let text = |(_tenant, key): &(TenantId, Vec<u8>)| String::from_utf8(key.clone()).unwrap();
        self.values
            .lock()
            .keys()
            .map(text)
            .filter(|it| it.starts_with(prefix))
            .collect()
    }
}

#[async_trait]
impl Writer for MemoryStore {
    fn submit(&self, tenant: TenantId, job: Job) -> Result<Ticket, SubmitError> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(SubmitError::Full);
        }
        self.jobs.fetch_add(1, Ordering::Relaxed);
        let mut values = self.values.lock();
        for write in job.writes {
            let Write::Value {
                space: "simulator",
                key,
                value,
            } = write
            else {
                panic!("the network writes only its values")
            };
            assert!(key.len() <= 256);
            match value {
                Some(value) => drop(values.insert((tenant, key), value)),
                None => drop(values.remove(&(tenant, key))),
            }
        }
        drop(values);
        if self.is_silent.load(Ordering::Relaxed) {
            self.unsaid.lock().push(job.done);
        } else {
            (job.done)(WRITTEN);
        }
        Ok(Ticket(0))
    }

    async fn passed(&self, _tenant: TenantId, _ticket: Ticket) {}

    fn log(&self, _tenant: TenantId) -> Option<Arc<Log>> {
        None
    }

    fn health(&self) -> StoreHealth {
        StoreHealth::Ready
    }

    fn durability(&self) -> &'static str {
        "none"
    }

    async fn close(&self) {}
}

#[async_trait]
impl History for MemoryStore {
    async fn message(
        &self,
        _tenant: TenantId,
        device: DeviceId,
        id: MessageId,
    ) -> Result<Option<Message>, StoreError> {
        Ok(self.messages.lock().get(&(device, id)).cloned())
    }

    async fn messages(
        &self,
        _tenant: TenantId,
        device: DeviceId,
        query: MessageQuery,
    ) -> Result<MessagePage, StoreError> {
        let from = Bound::Excluded((device, query.beyond.unwrap_or(MessageId::from_u128(0))));
        let all = self.messages.lock();
        let rows = all.range((
            from,
            Bound::Included((device, MessageId::from_u128(u128::MAX))),
        ));
        let page: Vec<&Message> = rows
            .map(|(_key, message)| message)
            .take(query.limit)
            .collect();
        let next = page
            .last()
            .filter(|_| page.len() == query.limit)
            .map(|it| it.body.id);
        Ok(MessagePage {
            items: page
                .into_iter()
                .filter(|it| query.filter.matches(it))
                .cloned()
                .collect(),
            next,
        })
    }

    async fn chat(
        &self,
        _tenant: TenantId,
        _device: DeviceId,
        _chat: &Jid,
    ) -> Result<Option<Chat>, StoreError> {
        Err(StoreError::Away)
    }

    async fn chats(
        &self,
        _tenant: TenantId,
        _device: DeviceId,
        _query: ChatQuery,
    ) -> Result<Vec<Chat>, StoreError> {
        Err(StoreError::Away)
    }

    async fn by_upstream(
        &self,
        _tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
        from_me: bool,
        upstream_id: &str,
    ) -> Result<Option<MessageId>, StoreError> {
        Ok(self
            .upstream
            .lock()
            .get(&(device, chat.clone(), from_me, upstream_id.to_owned()))
            .copied())
    }

    async fn outbox(
        &self,
        _tenant: TenantId,
        _device: DeviceId,
        _beyond: Option<(Jid, MessageId)>,
        _limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        Err(StoreError::Away)
    }
}

#[async_trait]
impl LogReader for MemoryStore {
    async fn entries(
        &self,
        _tenant: TenantId,
        _after: u64,
        _entries: usize,
        _bytes: usize,
    ) -> Result<Vec<Arc<Entry>>, StoreError> {
        Err(StoreError::Away)
    }

    async fn seq_before(&self, _tenant: TenantId, _time: Timestamp) -> Result<u64, StoreError> {
        Err(StoreError::Away)
    }
}

#[async_trait]
impl Directory for MemoryStore {
    async fn tenants(&self) -> Result<Vec<Tenant>, StoreError> {
        Err(StoreError::Away)
    }

    async fn devices(&self, _tenant: TenantId) -> Result<Vec<DeviceRecord>, StoreError> {
        Err(StoreError::Away)
    }

    async fn key(&self, _id: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        Err(StoreError::Away)
    }

    async fn keys(&self, _tenant: TenantId) -> Result<Vec<KeyRecord>, StoreError> {
        Err(StoreError::Away)
    }

    async fn consumers(&self, _tenant: TenantId) -> Result<Vec<(String, Cursor)>, StoreError> {
        Err(StoreError::Away)
    }

    async fn session_changes(
        &self,
        _tenant: TenantId,
        _device: DeviceId,
        _beyond: Option<EventId>,
        _limit: usize,
    ) -> Result<Vec<(EventId, SessionChange)>, StoreError> {
        Err(StoreError::Away)
    }

    async fn kept_answer(
        &self,
        _tenant: TenantId,
        _operation: &str,
        _key: &str,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        Err(StoreError::Away)
    }

    async fn values(
        &self,
        tenant: TenantId,
        _space: &'static str,
        prefix: &[u8],
        beyond: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        tokio::task::yield_now().await;
        let from = beyond.map_or_else(
            || Bound::Included((tenant, prefix.to_vec())),
            |key| Bound::Excluded((tenant, key.to_vec())),
        );
        let values = self.values.lock();
        let rows = values
            .range((from, Bound::Unbounded))
            .take_while(|((of, key), _)| *of == tenant && key.starts_with(prefix));
        Ok(rows
            .take(limit)
            .map(|((_tenant, key), value)| (key.clone(), value.clone()))
            .collect())
    }
}
