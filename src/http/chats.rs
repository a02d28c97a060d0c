//! `/v1/devices/{device}/chats`: list, read, history, mark as read, typing.

use std::time::Duration;

use actors::model::{Chat, Cursor, DeviceId, Faults, Jid, Message, MessageId, Timestamp};
use actors::ports::connector::Typing;
use actors::ports::{ChatQuery, MessageFilter, MessageQuery, Order};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::{Call, Limit};
use super::idempotency::once_with_effect;
use super::paging::{LIMIT_DEFAULT, Page, Walk, cut};
use super::reply::Reply;
use super::scope::{ChatsRead, ChatsWrite, MessagesRead, PresenceWrite};
use crate::problem::{ApiError, Code, Problems};

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(list_chats))
        .routes(routes!(read_chat))
        .routes(routes!(list_chat_messages))
        .routes(routes!(mark_chat_read))
        .routes(routes!(update_chat_presence))
}

/// Which chats.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListChats {
    /// Only with, or only without, unread messages.
    unread: Option<bool>,
    /// With this text in the address.
    q: Option<String>,
    /// Items of a page, 1 to 200.
    #[param(inline)]
    limit: Option<Limit>,
    /// Where the last page ended.
    cursor: Option<String>,
}

/// Lists the chats of a device, the last active first.
#[utoipa::path(
    get, path = "/v1/devices/{device}/chats", operation_id = "list_chats", tag = "chats",
    params(("device" = DeviceId, Path, description = "The device."), ListChats),
    responses((status = 200, description = "A page of chats.", body = Page<Chat>), Problems),
)]
async fn list_chats(State(api): State<ApiState>, call: Call<ChatsRead>) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let query: ListChats = call.query()?;
    let list = format!("list_chats {}", device.id());
    let (walk, beyond) = Walk::start::<(Timestamp, Jid)>(
        &api,
        call.tenant(),
        &list,
        &(query.unread, &query.q),
        query.cursor.as_deref(),
    )?;
    let limit: usize = query.limit.map_or(LIMIT_DEFAULT, |it| it.0).into();
    let wanted = ChatQuery {
        beyond,
        unread: query.unread,
        text: query.q,
        limit: limit + 1,
    };
    let found = api.store.chats(call.tenant(), device.id(), wanted).await?;
    let (items, next) = cut(found, limit, |it| (it.active_at, it.jid.clone()));
    Reply::ok(&walk.page(items, next))
}

/// Reads a chat.
#[utoipa::path(
    get, path = "/v1/devices/{device}/chats/{chat}", operation_id = "read_chat", tag = "chats",
    params(("device" = DeviceId, Path, description = "The device."), ("chat" = Jid, Path, description = "The chat: a JID or a number.")),
    responses((status = 200, description = "The chat.", body = Chat), Problems),
)]
async fn read_chat(State(api): State<ApiState>, call: Call<ChatsRead>) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let chat = find(&api, &call, device.id()).await?;
    call.no_query()?;
    Reply::ok(&chat)
}

async fn find<S>(api: &ApiState, call: &Call<S>, device: DeviceId) -> Result<Chat, ApiError> {
    let chat: Jid = call.path("chat")?;
    let found = api.store.chat(call.tenant(), device, &chat).await?;
    found.ok_or_else(|| ApiError::new(Code::NotFound))
}

/// Which way a history runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum HistoryOrder {
    /// Newest first.
    #[default]
    Desc,
    /// Oldest first.
    Asc,
}

/// Which part of a history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListChatMessages {
    /// Which way it runs; newest first when nothing is said.
    #[param(inline)]
    order: Option<HistoryOrder>,
    /// Around this message: `next_cursor` then leads to older, `prev_cursor` to newer ones.
    around: Option<MessageId>,
    /// Items of a page, 1 to 200.
    #[param(inline)]
    limit: Option<Limit>,
    /// Where another page ended.
    cursor: Option<String>,
}

/// A page of a history.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryPage {
    /// The messages.
    items: Vec<Message>,
    /// Goes on in the same direction; `null` at the end.
    next_cursor: Option<String>,
    /// With `around`: leads to newer messages; `null` where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_cursor: Option<Option<String>>,
    /// The position in the event log that the page stands for.
    event_cursor: Cursor,
}

/// Lists the messages of a chat, both ways, or around one of them.
#[utoipa::path(
    get, path = "/v1/devices/{device}/chats/{chat}/messages", operation_id = "list_chat_messages", tag = "chats",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("chat" = Jid, Path, description = "The chat: a JID or a number."),
        ListChatMessages,
    ),
    responses((status = 200, description = "A page of messages.", body = HistoryPage), Problems),
)]
async fn list_chat_messages(
    State(api): State<ApiState>,
    call: Call<MessagesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?.id();
    let chat = find(&api, &call, device).await?.jid;
    let query: ListChatMessages = call.query()?;
    let mut faults = Faults::default();
    faults.check(
        query.around.is_none() || query.cursor.is_none(),
        "?around",
        "goes without a cursor",
    );
    faults.check(
        query.around.is_none() || query.order.is_none(),
        "?around",
        "goes without an order",
    );
    faults.into_result().map_err(ApiError::invalid)?;
    let list = format!("list_chat_messages {device} {chat}");
    let start = |order: HistoryOrder, cursor: Option<&str>| {
        Walk::start::<MessageId>(&api, call.tenant(), &list, &order, cursor)
    };
    let limit: usize = query.limit.map_or(LIMIT_DEFAULT, |it| it.0).into();
    let read = async |beyond: Option<MessageId>, order: Order, limit: usize| {
        let wanted = MessageQuery {
            chat: Some(chat.clone()),
            beyond,
            order,
            filter: MessageFilter::default(),
            limit,
        };
        api.store.messages(call.tenant(), device, wanted).await
    };
    let Some(around) = query.around else {
        // Without an order, the cursor's own direction counts: it leads on from where it came from.
        let order = query.order.unwrap_or_default();
        let (walk, beyond, order) = match start(order, query.cursor.as_deref()) {
            Ok((walk, beyond)) => (walk, beyond, order),
            Err(_) if query.order.is_none() => {
                let (walk, beyond) = start(HistoryOrder::Asc, query.cursor.as_deref())?;
                (walk, beyond, HistoryOrder::Asc)
            }
            Err(error) => return Err(error),
        };
        let order = if order == HistoryOrder::Desc {
            Order::Newest
        } else {
            Order::Oldest
        };
        let page = read(beyond, order, limit).await?;
        let next_cursor = page.next.map(|it| walk.cursor(it));
        return Reply::ok(&HistoryPage {
            items: page.items,
            next_cursor,
            prev_cursor: None,
            event_cursor: walk.event_cursor,
        });
    };
    let middle = api
        .store
        .message(call.tenant(), device, around)
        .await?
        .filter(|it| it.body.chat == chat);
    let middle = middle.ok_or_else(|| {
        ApiError::invalid(Faults::one(
            "?around",
            "there is no such message in this chat",
        ))
    })?;
    let (older_walk, _) = start(HistoryOrder::Desc, None)?;
    let (newer_walk, _) = start(HistoryOrder::Asc, None)?;
    let newer = read(Some(around), Order::Oldest, limit / 2).await?;
    let older = read(
        Some(around),
        Order::Newest,
        limit.saturating_sub(newer.items.len() + 1),
    )
    .await?;
    let prev_cursor = if limit < 2 {
        Some(newer_walk.cursor(around))
    } else {
        newer.next.map(|it| newer_walk.cursor(it))
    };
    let next_cursor = match older.items.last() {
        Some(_) => older.next.map(|it| older_walk.cursor(it)),
        None => Some(older_walk.cursor(around)),
    };
    let mut items = newer.items;
    items.reverse();
    items.push(middle);
    items.extend(older.items);
    Reply::ok(&HistoryPage {
        items,
        next_cursor,
        prev_cursor: Some(prev_cursor),
        event_cursor: older_walk.event_cursor,
    })
}

/// How far a chat was read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct MarkChatRead {
    /// Up to and with this message; all of them when nothing is said.
    up_to: Option<MessageId>,
}

/// Marks a chat as read, and tells the network so.
#[utoipa::path(
    post, path = "/v1/devices/{device}/chats/{chat}/read", operation_id = "mark_chat_read", tag = "chats",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("chat" = Jid, Path, description = "The chat: a JID or a number."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body mark once."),
    ),
    request_body = MarkChatRead,
    responses((status = 200, description = "The chat as it is now.", body = Chat), Problems),
)]
async fn mark_chat_read(
    State(api): State<ApiState>,
    call: Call<ChatsWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let chat = find(&api, &call, device.id()).await?.jid;
    let body: MarkChatRead = call.body()?;
    if let Some(up_to) = body.up_to {
        let found = api.store.message(call.tenant(), device.id(), up_to).await?;
        if found.is_none_or(|it| it.body.chat != chat) {
            return Err(ApiError::invalid(Faults::one(
                "/up_to",
                "there is no such message in this chat",
            )));
        }
    }
    once_with_effect(&api, &call, "mark_chat_read", async |claim| {
        let chat = device.mark_read(chat, body.up_to, claim).await?;
        Reply::ok(&chat)
    })
    .await
}

/// What is done in a chat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateChatPresence {
    /// What is done.
    presence: Typing,
    /// Milliseconds after which it is over, at most 60,000.
    #[schema(minimum = 1, maximum = 60_000)]
    for_ms: Option<u32>,
}

/// Shows in a chat that somebody types or records.
#[utoipa::path(
    put, path = "/v1/devices/{device}/chats/{chat}/presence", operation_id = "update_chat_presence", tag = "chats",
    params(("device" = DeviceId, Path, description = "The device."), ("chat" = Jid, Path, description = "The chat: a JID or a number.")),
    request_body = UpdateChatPresence,
    responses((status = 204, description = "The network was told."), Problems),
)]
async fn update_chat_presence(
    State(api): State<ApiState>,
    call: Call<PresenceWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let chat = find(&api, &call, device.id()).await?.jid;
    let body: UpdateChatPresence = call.body()?;
    let in_bounds = body.for_ms.is_none_or(|it| (1..=60_000).contains(&it));
    if !in_bounds {
        return Err(ApiError::invalid(Faults::one(
            "/for_ms",
            "must be within 1 and 60,000",
        )));
    }
    let span = body.for_ms.map(|it| Duration::from_millis(it.into()));
    call.enters(device.type_for(chat, body.presence, span))
        .await?;
    Ok(Reply::no_content())
}
