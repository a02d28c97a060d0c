//! Reads of messages and chats.

use std::collections::BTreeMap;

use actors::model::{
    Chat, DeviceId, Jid, Message, MessageBody, MessageId, MessageState, TenantId, Timestamp,
};
use actors::ports::{ChatQuery, History, MessagePage, MessageQuery, Order, StoreError};
use async_trait::async_trait;

use super::engine::{KeyValue, Space, View};
use super::keys::{self, Part, Place};
use super::{EmbeddedStore, rows};

/// Messages that one call looks at; a filter that finds little gives a page that says where to go on.
const LOOKED_AT_MAX: usize = 10_000;

/// A row's key behind the tenant and the device.
const BEHIND_SCOPE: usize = 8;

#[async_trait]
impl History for EmbeddedStore {
    async fn message(
        &self,
        tenant: TenantId,
        device: DeviceId,
        id: MessageId,
    ) -> Result<Option<Message>, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(None);
        };
        self.read("message", move |view| message_by_id(view, place, id))
            .await
    }

    async fn messages(
        &self,
        tenant: TenantId,
        device: DeviceId,
        query: MessageQuery,
    ) -> Result<MessagePage, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(MessagePage::default());
        };
        self.read("messages", move |view| match &query.chat {
            Some(chat) => page(&query, ids_of_chat(view, place, chat, &query), |id| {
                message(view, place, chat, id)
            }),
            None => page(&query, ids_of_device(view, place, &query), |id| {
                message_by_id(view, place, id)
            }),
        })
        .await
    }

    async fn chat(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
    ) -> Result<Option<Chat>, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(None);
        };
        let key = keys::chat(place, chat);
        self.read("chat", move |view| {
            view.get(Space::Chats, &key)?
                .map(|it| rows::unchat(&it))
                .transpose()
        })
        .await
    }

    async fn chats(
        &self,
        tenant: TenantId,
        device: DeviceId,
        query: ChatQuery,
    ) -> Result<Vec<Chat>, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(Vec::new());
        };
        self.read("chats", move |view| newest_chats(view, place, &query))
            .await
    }

    async fn by_upstream(
        &self,
        tenant: TenantId,
        device: DeviceId,
        chat: &Jid,
        from_me: bool,
        upstream_id: &str,
    ) -> Result<Option<MessageId>, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(None);
        };
        let key = keys::upstream(place, chat, from_me, upstream_id);
        let read = move |view: &View<'_>| {
            let Some(row) = view.get(Space::Upstream, &key)? else {
                return Ok(None);
            };
            let id = rows::unraw(&row, "upstream name")?.try_into();
            id.map(|it| Some(MessageId::from_bytes(it)))
                .map_err(|_| StoreError::Damaged {
                    what: "upstream name",
                })
        };
        self.read("by_upstream", read).await
    }

    async fn outbox(
        &self,
        tenant: TenantId,
        device: DeviceId,
        beyond: Option<(Jid, MessageId)>,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let Some(place) = self.place(tenant, device) else {
            return Ok(Vec::new());
        };
        self.read("outbox", move |view| waiting(view, place, beyond, limit))
            .await
    }
}

fn message(
    view: &View<'_>,
    place: Place,
    chat: &Jid,
    id: MessageId,
) -> Result<Option<Message>, StoreError> {
    let Some(body) = view.get(Space::Messages, &keys::message(place, chat, id, Part::Body))? else {
        return Ok(None);
    };
    let Some(state) = view.get(
        Space::Messages,
        &keys::message(place, chat, id, Part::State),
    )?
    else {
        return Ok(None);
    };
    join(&body, &state).map(Some)
}

fn join(body: &[u8], state: &[u8]) -> Result<Message, StoreError> {
    let body: MessageBody = rows::unpacked(body, "message")?;
    let state: MessageState = rows::unpacked(state, "message state")?;
    Ok(Message::new(body, state))
}

fn message_by_id(
    view: &View<'_>,
    place: Place,
    id: MessageId,
) -> Result<Option<Message>, StoreError> {
    let Some(chat) = view.get(Space::ByDevice, &keys::by_device(place, id))? else {
        return Ok(None);
    };
    message(view, place, &rows::unjid(&chat, "message index")?, id)
}

type Ids<'a> = Box<dyn Iterator<Item = Result<Found, StoreError>> + 'a>;

/// What a scan comes by: a message's name, and the message itself where its rows lie there.
struct Found {
    id: MessageId,
    message: Option<Message>,
}

/// The messages of a chat, in the order that is wanted. Body and state lie side by side: one scan gives both.
fn ids_of_chat<'a>(view: &View<'a>, place: Place, chat: &Jid, query: &MessageQuery) -> Ids<'a> {
    let prefix = keys::messages(place, chat);
    let at = prefix.len();
    let pairs = |rows: Rows<'a>| {
        Box::new(Pairs {
            rows: rows.peekable(),
            at,
        }) as Ids<'a>
    };
    match (query.order, query.beyond) {
        (Order::Newest, None) => pairs(Box::new(view.prefix(Space::Messages, &prefix).rev())),
        (Order::Newest, Some(id)) => pairs(Box::new(
            view.before(
                Space::Messages,
                &prefix,
                keys::message(place, chat, id, Part::Body),
            )
            .rev(),
        )),
        (Order::Oldest, None) => pairs(Box::new(view.prefix(Space::Messages, &prefix))),
        (Order::Oldest, Some(id)) => pairs(Box::new(view.after(
            Space::Messages,
            &prefix,
            keys::message(place, chat, id, Part::State),
        ))),
    }
}

/// The names of a device's messages, in the order that is wanted.
fn ids_of_device<'a>(view: &View<'a>, place: Place, query: &MessageQuery) -> Ids<'a> {
    let prefix = keys::scope(place);
    let ids = |rows: Rows<'a>| {
        let read = |row: Result<KeyValue, StoreError>| {
            Ok(Found {
                id: id_of(&row?.0, BEHIND_SCOPE)?,
                message: None,
            })
        };
        Box::new(rows.map(read)) as Ids<'a>
    };
    match (query.order, query.beyond) {
        (Order::Newest, None) => ids(Box::new(view.prefix(Space::ByDevice, &prefix).rev())),
        (Order::Newest, Some(id)) => ids(Box::new(
            view.before(Space::ByDevice, &prefix, keys::by_device(place, id))
                .rev(),
        )),
        (Order::Oldest, None) => ids(Box::new(view.prefix(Space::ByDevice, &prefix))),
        (Order::Oldest, Some(id)) => ids(Box::new(view.after(
            Space::ByDevice,
            &prefix,
            keys::by_device(place, id),
        ))),
    }
}

fn id_of(key: &[u8], at: usize) -> Result<MessageId, StoreError> {
    keys::id_at(key, at)
        .map(MessageId::from_bytes)
        .ok_or(StoreError::Damaged {
            what: "message key",
        })
}

type Rows<'a> = Box<dyn Iterator<Item = Result<KeyValue, StoreError>> + 'a>;

/// Joins the two rows of each message, whichever comes first. A row without its other half is nobody's message.
struct Pairs<'a> {
    rows: std::iter::Peekable<Rows<'a>>,
    at: usize,
}

impl Pairs<'_> {
    fn next_pair(&mut self) -> Result<Option<Found>, StoreError> {
        while let Some(row) = self.rows.next() {
            let (key, value) = row?;
            let id = id_of(&key, self.at)?;
            let name = Some(id.to_bytes());
            let of_row = |key: &[u8]| keys::id_at(key, self.at) == name;
            let same =
                |it: &Result<KeyValue, StoreError>| !matches!(it, Ok((key, _)) if !of_row(key));
            let Some(other) = self.rows.next_if(same) else {
                continue;
            };
            let (other_key, other_value) = other?;
            let message = if key < other_key {
                join(&value, &other_value)?
            } else {
                join(&other_value, &value)?
            };
            return Ok(Some(Found {
                id,
                message: Some(message),
            }));
        }
        Ok(None)
    }
}

impl Iterator for Pairs<'_> {
    type Item = Result<Found, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_pair().transpose()
    }
}

fn page(
    query: &MessageQuery,
    ids: Ids<'_>,
    look: impl Fn(MessageId) -> Result<Option<Message>, StoreError>,
) -> Result<MessagePage, StoreError> {
    let mut page = MessagePage::default();
    let mut last = query.beyond;
    for (looked_at, found) in ids.enumerate() {
        let Found { id, message } = found?;
        if query.limit <= page.items.len() || LOOKED_AT_MAX <= looked_at {
            page.next = last;
            break;
        }
        last = Some(id);
        let message = match message {
            Some(message) => Some(message),
            None => look(id)?,
        };
        page.items
            .extend(message.filter(|it| query.filter.matches(it)));
    }
    Ok(page)
}

/// The last active chats, without an index: one scan over small rows, of which only the page is kept.
fn newest_chats(view: &View<'_>, place: Place, query: &ChatQuery) -> Result<Vec<Chat>, StoreError> {
    let mut best: BTreeMap<(Timestamp, Jid), fjall::UserValue> = BTreeMap::new();
    for row in view.prefix(Space::Chats, &keys::scope(place)) {
        let (key, value) = row?;
        let (active_at, unread) = rows::chat_face(&value)?;
        let enough = query.limit <= best.len();
        let too_old = enough
            && best
                .first_key_value()
                .is_none_or(|((oldest, _), _)| active_at < *oldest);
        if too_old || query.unread.is_some_and(|it| it != (0 < unread)) {
            continue;
        }
        let (jid, _) = key
            .get(BEHIND_SCOPE..)
            .and_then(keys::split_jid)
            .ok_or(StoreError::Damaged { what: "chat key" })?;
        let named = query
            .text
            .as_ref()
            .is_none_or(|it| jid.as_str().contains(it.as_str()));
        let face = (active_at, jid);
        if named && query.beyond.as_ref().is_none_or(|it| face < *it) {
            best.insert(face, value);
            if query.limit < best.len() {
                best.pop_first();
            }
        }
    }
    best.into_values()
        .rev()
        .map(|it| rows::unchat(&it))
        .collect()
}

fn waiting(
    view: &View<'_>,
    place: Place,
    beyond: Option<(Jid, MessageId)>,
    limit: usize,
) -> Result<Vec<Message>, StoreError> {
    let prefix = keys::scope(place);
    let rows: Rows<'_> = match beyond {
        Some((chat, id)) => {
            Box::new(view.after(Space::Outbox, &prefix, keys::outbox(place, &chat, id)))
        }
        None => Box::new(view.prefix(Space::Outbox, &prefix)),
    };
    let mut found = Vec::new();
    for row in rows {
        if limit <= found.len() {
            break;
        }
        let key = row?.0;
        let (chat, id) = key
            .get(BEHIND_SCOPE..)
            .and_then(keys::split_jid)
            .ok_or(StoreError::Damaged { what: "outbox key" })?;
        found.extend(message(view, place, &chat, id_of(id, 0)?)?);
    }
    Ok(found)
}
