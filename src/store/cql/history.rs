//! Reads of messages and chats.

use std::collections::BTreeSet;
use std::time::Duration;

use actors::model::{
    Chat, DeviceId, Jid, Message, MessageBody, MessageId, MessageState, Status, TenantId, Timestamp,
};
use actors::ports::{
    ChatQuery, History, MessageFilter, MessagePage, MessageQuery, Order, StoreError,
};
use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::{Instant, timeout};

use super::CqlStore;
use super::change::Cell;
use super::database::Database;
use super::directory::{BEHIND_ALL, count};
use super::job::{chat_bucket, device_bucket, small, upstream_shard};
use super::look::Look;
use crate::store::rows;

/// Messages that one call looks at; a filter that finds little gives a page that says where to go on.
const LOOKED_AT_MAX: usize = 10_000;
/// Messages of one read where a filter may pass most of them over.
const FILTERED_READ: usize = 500;
/// Single messages and chats that are read at the same time.
const SIDE_BY_SIDE: usize = 16;
/// How long a filtered page goes on looking; then it says where to go on.
const LOOKING_MAX: Duration = Duration::from_secs(3);
/// How long a call may read, all its reads together: so many times as long as one of them, and this at least. Servers that
/// take longer count as away.
const READING_CALLS: u32 = 5;
const READING_MIN: Duration = Duration::from_secs(10);
/// Less than every id.
const BEFORE_ALL: [u8; 1] = [0];

/// A device whose rows are read.
struct Reader<'a> {
    db: &'a Database,
    tenant: Cell,
    device: Cell,
}

/// What a list comes by: a message's name, and the message unless it has no body.
type Found = (MessageId, Option<Message>);

#[async_trait]
impl History for CqlStore {
    async fn message(
        &self,
        tenant: TenantId,
        device: DeviceId,
        id: MessageId,
    ) -> Result<Option<Message>, StoreError> {
        match self.reader(tenant, device)? {
            Some(reader) => self.shown(tenant, reader.message_by_id(id)).await,
            None => Ok(None),
        }
    }

    async fn messages(
        &self,
        tenant: TenantId,
        device: DeviceId,
        query: MessageQuery,
    ) -> Result<MessagePage, StoreError> {
        let Some(reader) = self.reader(tenant, device)? else {
            return Ok(MessagePage::default());
        };
        // Who asks the same while nothing was committed in between gets the same.
        let shown = self.existing(tenant).map_or(0, |it| it.shown());
        let name = format!("{tenant} {device} {shown} {query:?}");
        let page = self.flights.once(name, Box::pin(reader.page(&query)));
        self.shown(tenant, page).await
    }

    async fn chat(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
    ) -> Result<Option<Chat>, StoreError> {
        match self.reader(tenant, device)? {
            Some(reader) => self.shown(tenant, reader.chat(chat)).await,
            None => Ok(None),
        }
    }

    async fn chats(
        &self,
        tenant: TenantId,
        device: DeviceId,
        query: ChatQuery,
    ) -> Result<Vec<Chat>, StoreError> {
        match self.reader(tenant, device)? {
            Some(reader) => self.shown(tenant, reader.newest_chats(&query)).await,
            None => Ok(Vec::new()),
        }
    }

    async fn by_upstream(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
        from_me: bool,
        upstream_id: &str,
    ) -> Result<Option<MessageId>, StoreError> {
        let Some(reader) = self.reader(tenant, device)? else {
            return Ok(None);
        };
        let shard = small(upstream_shard(upstream_id));
        let key = (
            &reader.tenant,
            &reader.device,
            chat.as_str(),
            shard,
            from_me,
            upstream_id,
        );
        let found: Option<(Vec<u8>,)> = reader.db.row(Look::Upstream, key).await?;
        found.map(|(id,)| message_id(id)).transpose()
    }

    async fn outbox(
        &self,
        tenant: TenantId,
        device: DeviceId,
        mut beyond: Option<(Jid, MessageId)>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let (Some(reader), Some(slot)) = (self.reader(tenant, device)?, self.existing(tenant))
        else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let rows = reader.waiting(beyond.as_ref(), wanted).await?;
            let ends = rows.len() < wanted;
            beyond = rows.last().cloned().or(beyond);
            let reads: Vec<_> = rows
                .iter()
                .map(|(chat, id)| reader.message(chat, *id))
                .collect();
            let messages: Vec<Option<Message>> = stream::iter(reads)
                .buffered(SIDE_BY_SIDE)
                .try_collect()
                .await?;
            let waits = |it: &Message| {
                // The row of a message that was sent has come back from a server that slept through its removal.
                matches!(it.state.status, Status::Scheduled | Status::Queued)
                    && !slot.is_hidden(device, it.body.id)
            };
            found.extend(messages.into_iter().flatten().filter(waits));
            if ends {
                break;
            }
        }
        Ok(found)
    }
}

impl CqlStore {
    /// Reads, and waits until what was read is shown in the log too, but no longer than a call may take.
    async fn shown<T>(
        &self,
        tenant: TenantId,
        read: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let call_max = self.shared.db.request_time_max();
        let reading_max = READING_MIN.max(call_max * READING_CALLS);
        let found = timeout(reading_max, read).await;
        let found = found.map_err(|_late| StoreError::Away)??;
        if let Some(slot) = self.existing(tenant) {
            drop(timeout(call_max, slot.caught_up()).await);
        }
        Ok(found)
    }

    /// Reads of a device; `None` where there is no such device.
    fn reader(&self, tenant: TenantId, device: DeviceId) -> Result<Option<Reader<'_>>, StoreError> {
        let db = self.db()?;
        Ok(self.owner(tenant, device).map(|slot| Reader {
            db,
            tenant: slot.key(),
            device: Cell::id(device.to_bytes()),
        }))
    }
}

fn message_id(bytes: Vec<u8>) -> Result<MessageId, StoreError> {
    let id = bytes.try_into();
    id.map(MessageId::from_bytes)
        .map_err(|_| StoreError::Damaged {
            what: "message key",
        })
}

fn jid(text: &str) -> Result<Jid, StoreError> {
    text.parse()
        .map_err(|_| StoreError::Damaged { what: "chat key" })
}

/// A message of its two columns. Without a body it is none: its state came too late.
fn join(body: Option<&[u8]>, state: Option<&[u8]>) -> Result<Option<Message>, StoreError> {
    let (Some(body), Some(state)) = (body, state) else {
        return Ok(None);
    };
    let body: MessageBody = rows::unpacked(body, "message")?;
    let state: MessageState = rows::unpacked(state, "message state")?;
    Ok(Some(Message::new(body, state)))
}

impl Reader<'_> {
    async fn message(&self, chat: &Jid, id: MessageId) -> Result<Option<Message>, StoreError> {
        type Columns = (Option<Vec<u8>>, Option<Vec<u8>>);
        let key = (
            &self.tenant,
            &self.device,
            chat.as_str(),
            chat_bucket(id),
            Cell::id(id.to_bytes()),
        );
        match self.db.row::<Columns>(Look::Message, key).await? {
            Some((body, state)) => join(body.as_deref(), state.as_deref()),
            None => Ok(None),
        }
    }

    async fn message_by_id(&self, id: MessageId) -> Result<Option<Message>, StoreError> {
        let key = (
            &self.tenant,
            &self.device,
            device_bucket(id),
            Cell::id(id.to_bytes()),
        );
        match self.db.row::<(String,)>(Look::DeviceMessage, key).await? {
            Some((chat,)) => self.message(&jid(&chat)?, id).await,
            None => Ok(None),
        }
    }

    /// A page: the buckets that there are, in the order that is wanted, and in each of them one seek.
    async fn page(&self, query: &MessageQuery) -> Result<MessagePage, StoreError> {
        let mut buckets = self.buckets(query).await?;
        if query.order == Order::Newest {
            buckets.reverse();
        }
        let filtered = query.filter != MessageFilter::default();
        let (mut page, mut last, mut looked_at) = (MessagePage::default(), query.beyond, 0);
        let begun = Instant::now();
        for bucket in buckets {
            loop {
                let missing = query.limit.saturating_sub(page.items.len()) + 1;
                let wanted = if filtered { FILTERED_READ } else { missing };
                let found = self.some(query, bucket, last, wanted).await?;
                let ends = found.len() < wanted;
                for (id, message) in found {
                    let is_late = filtered && 0 < looked_at && LOOKING_MAX < begun.elapsed();
                    if query.limit <= page.items.len() || LOOKED_AT_MAX <= looked_at || is_late {
                        page.next = last;
                        return Ok(page);
                    }
                    looked_at += 1;
                    last = Some(id);
                    page.items
                        .extend(message.filter(|it| query.filter.matches(it)));
                }
                if ends {
                    break;
                }
            }
        }
        Ok(page)
    }

    /// The buckets in which a page may lie, oldest first.
    async fn buckets(&self, query: &MessageQuery) -> Result<Vec<i32>, StoreError> {
        let (found, beyond): (Vec<(i32,)>, _) = match &query.chat {
            Some(chat) => {
                let key = (&self.tenant, &self.device, chat.as_str());
                let found = self.db.rows(Look::ChatBuckets, key).await?;
                (found, query.beyond.map(chat_bucket))
            }
            None => {
                let key = (&self.tenant, &self.device);
                let found = self.db.rows(Look::DeviceBuckets, key).await?;
                (found, query.beyond.map(device_bucket))
            }
        };
        let within = |bucket: i32| match (beyond, query.order) {
            (None, Order::Newest | Order::Oldest) => true,
            (Some(beyond), Order::Newest) => bucket <= beyond,
            (Some(beyond), Order::Oldest) => beyond <= bucket,
        };
        let mut buckets: Vec<i32> = found.into_iter().map(|(it,)| it).collect();
        buckets.retain(|it| within(*it));
        buckets.sort_unstable();
        Ok(buckets)
    }

    /// Messages of one bucket beyond one, in the order that is wanted.
    async fn some(
        &self,
        query: &MessageQuery,
        bucket: i32,
        beyond: Option<MessageId>,
        limit: usize,
    ) -> Result<Vec<Found>, StoreError> {
        let bound = match (beyond, query.order) {
            (Some(id), Order::Newest | Order::Oldest) => Cell::id(id.to_bytes()),
            (None, Order::Newest) => Cell::blob(BEHIND_ALL),
            (None, Order::Oldest) => Cell::blob(BEFORE_ALL),
        };
        match &query.chat {
            Some(chat) => {
                type Columns = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);
                let look = match query.order {
                    Order::Newest => Look::MessagesBefore,
                    Order::Oldest => Look::MessagesAfter,
                };
                let (tenant, device) = (&self.tenant, &self.device);
                let span = (tenant, device, chat.as_str(), bucket, bound, count(limit));
                let found: Vec<Columns> = self.db.rows(look, span).await?;
                let read = |(id, body, state): Columns| {
                    let message = join(body.as_deref(), state.as_deref())?;
                    Ok((message_id(id)?, message))
                };
                found.into_iter().map(read).collect()
            }
            None => {
                let look = match query.order {
                    Order::Newest => Look::DeviceMessagesBefore,
                    Order::Oldest => Look::DeviceMessagesAfter,
                };
                let span = (&self.tenant, &self.device, bucket, bound, count(limit));
                let found: Vec<(Vec<u8>, String)> = self.db.rows(look, span).await?;
                let read = |(id, chat): (Vec<u8>, String)| async move {
                    let id = message_id(id)?;
                    Ok((id, self.message(&jid(&chat)?, id).await?))
                };
                let reads: Vec<_> = found.into_iter().map(read).collect();
                stream::iter(reads)
                    .buffered(SIDE_BY_SIDE)
                    .try_collect()
                    .await
            }
        }
    }

    async fn chat(&self, chat: &Jid) -> Result<Option<Chat>, StoreError> {
        let key = (&self.tenant, &self.device, chat.as_str());
        let found: Option<(Vec<u8>,)> = self.db.row(Look::Chat, key).await?;
        found.map(|(it,)| rows::unchat(&it)).transpose()
    }

    /// The last active chats: the small faces of all, of which only the page is kept, and then the chats of the page.
    async fn newest_chats(&self, query: &ChatQuery) -> Result<Vec<Chat>, StoreError> {
        let key = (&self.tenant, &self.device);
        let mut best: BTreeSet<(Timestamp, Jid)> = BTreeSet::new();
        let mut damaged = None;
        let weigh = |face: Option<(String, i64, i32)>| {
            let Some((chat, active_at, unread)) = face else {
                best.clear();
                return;
            };
            let named = |it: &String| chat.contains(it.as_str());
            let wanted = query.unread.is_none_or(|it| it == (0 < unread))
                && query.text.as_ref().is_none_or(named);
            if !wanted {
                return;
            }
            let face = match jid(&chat) {
                Ok(jid) => (Timestamp::from_millis(active_at), jid),
                Err(error) => {
                    damaged = Some(error);
                    return;
                }
            };
            if query.beyond.as_ref().is_none_or(|it| face < *it) {
                best.insert(face);
                if query.limit < best.len() {
                    best.pop_first();
                }
            }
        };
        self.db.each(Look::ChatFaces, key, weigh).await?;
        if let Some(error) = damaged {
            return Err(error);
        }
        let reads: Vec<_> = best.iter().rev().map(|(_, jid)| self.chat(jid)).collect();
        let chats: Vec<Option<Chat>> = stream::iter(reads)
            .buffered(SIDE_BY_SIDE)
            .try_collect()
            .await?;
        Ok(chats.into_iter().flatten().collect())
    }

    /// What waits for the network beyond one.
    async fn waiting(
        &self,
        beyond: Option<&(Jid, MessageId)>,
        limit: usize,
    ) -> Result<Vec<(Jid, MessageId)>, StoreError> {
        let (chat, id) = beyond.map_or_else(
            || ("", Cell::blob([])),
            |(chat, id)| (chat.as_str(), Cell::id(id.to_bytes())),
        );
        let span = (&self.tenant, &self.device, chat, id, count(limit));
        let found: Vec<(String, Vec<u8>)> = self.db.rows(Look::Outbox, span).await?;
        found
            .into_iter()
            .map(|(chat, id)| Ok((jid(&chat)?, message_id(id)?)))
            .collect()
    }
}
