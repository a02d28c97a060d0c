//! `/v1/devices/{device}/messages`: send one or many, list, read, receipts.

use std::time::Duration;

use actors::CommandError;
use actors::chat::{Draft, SentMessage};
use actors::device::DeviceHandle;
use actors::model::{
    Content, ContentKind, Cursor, DeviceId, Direction, Faults, Jid, Message, MessageId, Metadata,
    Status, Timestamp,
};
use actors::ports::{MessageFilter, MessageQuery, Order};
use axum::extract::State;
use futures_util::future::{Either, Ready, join_all, ready};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::{Call, Limit, claim_of, typed};
use super::idempotency::{once, or_kept};
use super::paging::{LIMIT_DEFAULT, Page, PageQuery, Walk};
use super::reply::Reply;
use super::scope::{MessagesRead, MessagesWrite};
use crate::problem::{ApiError, Code, Problem, Problems};

const BATCH_MAX: usize = 1_000;
/// How long a batch may wait for places in the queues of its chats; beyond it the rest is `busy`.
const PLACING_TIME_MAX: Duration = Duration::from_secs(10);
const SEND: &str = "send_message";

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(send_message, list_messages))
        .routes(routes!(send_message_batch))
        .routes(routes!(read_message))
        .routes(routes!(list_message_receipts))
}

/// A message that is to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendMessage {
    /// Whom to: a JID, or a phone number with its country code.
    to: Jid,
    /// What it carries.
    content: Content,
    /// A message of the same device that it answers.
    #[serde(default)]
    reply_to: Option<MessageId>,
    /// Who is named in it; in groups only.
    #[serde(default)]
    mentions: Option<Vec<Jid>>,
    /// Whether it names everyone; in groups only.
    #[serde(default)]
    mention_all: Option<bool>,
    /// Milliseconds to hold it back, at most 60,000; those behind it in its chat wait too.
    #[serde(default)]
    delay_ms: Option<u32>,
    /// When to hand it to the network, within a year; nothing waits behind it.
    #[serde(default)]
    send_at: Option<Timestamp>,
    /// When it stops waiting for its device; a day after it could be sent when nothing is said.
    #[serde(default)]
    expires_at: Option<Timestamp>,
    /// Your own pairs: at most 50, keys of 1 to 64 and values of at most 500 characters.
    #[serde(default)]
    metadata: Option<Metadata>,
}

impl SendMessage {
    /// Checks everything but what needs a look-up.
    fn into_draft(self, now: Timestamp) -> Result<(Jid, Draft), Faults> {
        let draft = Draft {
            content: self.content,
            reply_to: self.reply_to,
            mentions: self.mentions,
            mention_all: self.mention_all.unwrap_or(false),
            metadata: self.metadata,
            delay_ms: self.delay_ms,
            send_at: self.send_at,
            expires_at: self.expires_at,
        };
        draft.check(&self.to, now)?;
        Ok((self.to, draft))
    }
}

/// A message that was taken: it is durable.
#[derive(Debug, Serialize, ToSchema)]
struct Taken {
    /// Its name.
    id: MessageId,
    /// Its chat.
    chat: Jid,
    /// `queued`, or `scheduled` with `send_at`.
    status: Status,
    /// When it was taken.
    created_at: Timestamp,
    /// The place of its `message.created` in the event log.
    event_cursor: Cursor,
}

impl From<SentMessage> for Taken {
    fn from(sent: SentMessage) -> Self {
        Self {
            id: sent.id,
            chat: sent.chat,
            status: sent.status,
            created_at: sent.created_at,
            event_cursor: sent.cursor,
        }
    }
}

/// Sends a message.
///
/// The answer comes when the message is durable. It then waits in its device's queue, in the order of its chat, until
/// the network takes it; how it fares is told by `message.status` events.
#[utoipa::path(
    post, path = "/v1/devices/{device}/messages", operation_id = "send_message", tag = "messages",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body send one message, however often they are sent."),
    ),
    request_body = SendMessage,
    responses((status = 202, description = "Taken, and durable.", body = Taken), Problems),
)]
async fn send_message(
    State(api): State<ApiState>,
    call: Call<MessagesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let body: SendMessage = call.body()?;
    let claim = call.claim(SEND)?;
    let sent = match draft_of(&api, &device, body, "").await {
        Ok((to, draft)) => call.enters(device.send(to, draft, claim)).await?,
        Err(refused) => or_kept(&api, device.tenant(), claim, refused)
            .await?
            .try_into()?,
    };
    let replayed = sent.replayed;
    let reply = Reply::accepted(&Taken::from(sent))?;
    Ok(if replayed { reply.replayed() } else { reply })
}

/// The message that a body asks for, and whom to. One that is answered must be the device's own.
async fn draft_of(
    api: &ApiState,
    device: &DeviceHandle,
    body: SendMessage,
    prefix: &str,
) -> Result<(Jid, Draft), ApiError> {
    let checked = body.into_draft(api.clock.now());
    let (to, draft) = checked.map_err(|faults| ApiError::invalid(faults.under(prefix)))?;
    let Some(answered) = draft.reply_to else {
        return Ok((to, draft));
    };
    match api
        .store
        .message(device.tenant(), device.id(), answered)
        .await?
    {
        Some(_) => Ok((to, draft)),
        None => Err(ApiError::invalid(Faults::one(
            format!("{prefix}/reply_to"),
            "there is no such message on this device",
        ))),
    }
}

/// Messages that are to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SendMessageBatch {
    /// One to 1,000 messages, each as for a single send, and each with an `idempotency_key` of its own if you like.
    #[schema(value_type = Vec<BatchItem>)]
    messages: Vec<Value>,
}

/// A message of a batch.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the items for the documentation; they are read one by one"
)]
struct BatchItem {
    #[schema(inline)]
    #[serde(flatten)]
    message: SendMessage,
    /// As the header of a single send: the two share one space of keys.
    idempotency_key: Option<String>,
}

/// What became of one message of a batch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BatchAnswer {
    /// It was taken.
    Ok(Taken),
    /// It was not.
    Error(Problem),
}

/// One answer of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct BatchLine {
    #[serde(flatten)]
    answer: BatchAnswer,
    /// Whether it is the answer of an earlier call with the same key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

/// The answers of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct BatchAnswers {
    /// One answer a message, in the order of the request.
    items: Vec<BatchLine>,
    /// Always `null`.
    next_cursor: Option<String>,
    /// The head of the event log after the last of them.
    event_cursor: Cursor,
}

/// Sends up to 1,000 messages.
///
/// Messages of one chat are taken in their order. Each has an answer of its own; after a crash what is there is the
/// first part of each chat. With an `Idempotency-Key` `K` messages without a key of their own have `K#0`, `K#1` …, and the
/// whole answer is kept, unless a message in it may fare better at a retry (5xx, 429): then only those that were taken
/// are kept.
#[utoipa::path(
    post, path = "/v1/devices/{device}/messages/batch", operation_id = "send_message_batch", tag = "messages",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("Idempotency-Key" = Option<String>, Header, description = "See the description."),
    ),
    request_body = SendMessageBatch,
    responses((status = 202, description = "An answer a message.", body = BatchAnswers), Problems),
)]
async fn send_message_batch(
    State(api): State<ApiState>,
    call: Call<MessagesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let body: SendMessageBatch = call.body()?;
    if !(1..=BATCH_MAX).contains(&body.messages.len()) {
        return Err(ApiError::invalid(Faults::one(
            "/messages",
            "must have 1 to 1,000 entries",
        )));
    }
    let key = call.claim("send_message_batch")?.map(|it| it.key);
    let tenant = call.tenant();
    once(&api, &call, "send_message_batch", async || {
        let deadline = Instant::now() + PLACING_TIME_MAX;
        let mut waiting = Vec::with_capacity(body.messages.len());
        for (place, item) in body.messages.into_iter().enumerate() {
            let prefix = format!("/messages/{place}");
            let implied = key.as_ref().map(|it| format!("{it}#{place}"));
            waiting.push(place_item(&api, &device, item, implied, &prefix, deadline).await);
        }
        call.entered();
        let sent = join_all(
            waiting
                .into_iter()
                .map(async |coming| coming?.await.map_err(ApiError::from)),
        )
        .await;
        let mut items = Vec::with_capacity(sent.len());
        let mut may_change = false;
        for sent in sent {
            let replayed = sent.as_ref().is_ok_and(|it| it.replayed);
            may_change |= sent.as_ref().is_err_and(ApiError::may_change);
            let answer = match sent {
                Ok(sent) => BatchAnswer::Ok(Taken::from(sent)),
                Err(error) => BatchAnswer::Error(error.to_problem()),
            };
            items.push(BatchLine { answer, replayed });
        }
        let log = api
            .store
            .log(tenant)
            .ok_or_else(|| ApiError::new(Code::Unavailable))?;
        let reply = Reply::accepted(&BatchAnswers {
            items,
            next_cursor: None,
            event_cursor: log.head(),
        })?;
        Ok(if may_change { reply.not_kept() } else { reply })
    })
    .await
}

type Placed = Result<SentMessage, CommandError>;

/// Puts one message of a batch into its chat's queue; a retry may have its answer at once.
async fn place_item(
    api: &ApiState,
    device: &DeviceHandle,
    mut item: Value,
    of_batch: Option<String>,
    prefix: &str,
    deadline: Instant,
) -> Result<Either<impl Future<Output = Placed> + use<>, Ready<Placed>>, ApiError> {
    let own = item
        .as_object_mut()
        .and_then(|it| it.remove("idempotency_key"))
        .filter(|it| !it.is_null());
    let pointer = format!("{prefix}/idempotency_key");
    let key = match own {
        Some(Value::String(key)) => Some(key),
        Some(_) => return Err(ApiError::invalid(Faults::one(pointer, "must be a text"))),
        None => of_batch,
    };
    // The same claim as that of a single send: a retry may come through either door.
    let now = api.clock.now();
    let path = format!("/v1/devices/{}/messages", device.id());
    let claim = key
        .map(|key| claim_of(SEND, &path, &item, &key, &pointer, now))
        .transpose()?;
    let body: SendMessage =
        typed(item).map_err(|faults| ApiError::invalid(faults.under(prefix)))?;
    match draft_of(api, device, body, prefix).await {
        Ok((to, draft)) => {
            let sent = device.send_in_order(to, draft, claim, deadline).await?;
            Ok(Either::Left(sent))
        }
        Err(refused) => {
            let kept = or_kept(api, device.tenant(), claim, refused).await?;
            Ok(Either::Right(ready(kept.try_into())))
        }
    }
}

/// Which messages.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListMessages {
    /// Of this chat.
    chat: Option<Jid>,
    /// Taken at or after this time.
    from: Option<Timestamp>,
    /// Taken before this time.
    to: Option<Timestamp>,
    /// In or out.
    direction: Option<Direction>,
    /// With this type of content.
    #[serde(rename = "type")]
    #[param(rename = "type")]
    kind: Option<ContentKind>,
    /// With this status.
    status: Option<Status>,
    /// With this text.
    q: Option<String>,
    /// Items of a page, 1 to 200.
    #[param(inline)]
    limit: Option<Limit>,
    /// Where the last page ended.
    cursor: Option<String>,
}

/// Lists messages of all chats of a device, newest first.
///
/// A search looks at a bounded number of messages at a time, so a page may hold fewer than were asked for, even none,
/// and still have a `next_cursor`.
#[utoipa::path(
    get, path = "/v1/devices/{device}/messages", operation_id = "list_messages", tag = "messages",
    params(("device" = DeviceId, Path, description = "The device."), ListMessages),
    responses((status = 200, description = "A page of messages.", body = Page<Message>), Problems),
)]
async fn list_messages(
    State(api): State<ApiState>,
    call: Call<MessagesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let query: ListMessages = call.query()?;
    let list = format!("list_messages {}", device.id());
    let filters = (
        &query.chat,
        (query.from, query.to),
        query.direction,
        query.kind,
        query.status,
        &query.q,
    );
    let (walk, beyond) = Walk::start::<MessageId>(
        &api,
        call.tenant(),
        &list,
        &filters,
        query.cursor.as_deref(),
    )?;
    let filter = MessageFilter {
        from: query.from,
        to: query.to,
        direction: query.direction,
        kind: query.kind,
        status: query.status,
        text: query.q.map(|it| it.to_lowercase()),
    };
    let limit = query.limit.map_or(LIMIT_DEFAULT, |it| it.0).into();
    let wanted = MessageQuery {
        chat: query.chat,
        beyond,
        order: Order::Newest,
        filter,
        limit,
    };
    let page = api
        .store
        .messages(call.tenant(), device.id(), wanted)
        .await?;
    Reply::ok(&walk.page(page.items, page.next))
}

/// Reads a message.
#[utoipa::path(
    get, path = "/v1/devices/{device}/messages/{message}", operation_id = "read_message", tag = "messages",
    params(("device" = DeviceId, Path, description = "The device."), ("message" = MessageId, Path, description = "The message.")),
    responses((status = 200, description = "The message.", body = Message), Problems),
)]
async fn read_message(
    State(api): State<ApiState>,
    call: Call<MessagesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let message = find(&api, &call, &device).await?;
    call.no_query()?;
    Reply::ok(&message)
}

async fn find(
    api: &ApiState,
    call: &Call<MessagesRead>,
    device: &DeviceHandle,
) -> Result<Message, ApiError> {
    let id = call.path("message")?;
    let found = api.store.message(call.tenant(), device.id(), id).await?;
    found.ok_or_else(|| ApiError::new(Code::NotFound))
}

/// How far a message got with one of its receivers.
#[derive(Debug, Serialize, ToSchema)]
struct Receipt {
    /// The receiver.
    participant: Option<Jid>,
    /// The last thing it confirmed.
    status: Status,
    /// When the network took the message.
    sent_at: Option<Timestamp>,
    /// When it arrived.
    delivered_at: Option<Timestamp>,
    /// When it was read.
    read_at: Option<Timestamp>,
    /// When it was played.
    played_at: Option<Timestamp>,
}

/// Lists how far a message got with each of its receivers.
#[utoipa::path(
    get, path = "/v1/devices/{device}/messages/{message}/receipts", operation_id = "list_message_receipts", tag = "messages",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("message" = MessageId, Path, description = "The message."),
        PageQuery,
    ),
    responses((status = 200, description = "One entry a receiver.", body = Page<Receipt>), Problems),
)]
async fn list_message_receipts(
    State(api): State<ApiState>,
    call: Call<MessagesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let Message { body, state, .. } = find(&api, &call, &device).await?;
    let query: PageQuery = call.query()?;
    // One page holds all there is, so that no cursor is ever given.
    let list = format!("list_message_receipts {}", body.id);
    let (walk, _) =
        Walk::start::<MessageId>(&api, call.tenant(), &list, &(), query.cursor.as_deref())?;
    let receipt = Receipt {
        participant: body.to,
        status: state.status,
        sent_at: state.sent_at,
        delivered_at: state.delivered_at,
        read_at: state.read_at,
        played_at: state.played_at,
    };
    Reply::ok(&walk.page(vec![receipt], None::<MessageId>))
}
