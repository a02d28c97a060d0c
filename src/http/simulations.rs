//! `/v1/devices/{device}/simulations`: the levers of the simulated network.

use actors::device::DeviceHandle;
use actors::model::{
    ConnectorKind, Content, DeviceId, Faults, Jid, JidKind, MessageId, PhoneNumber, SimulationId,
    Status, Timestamp,
};
use actors::ports::connector::{Availability, Typing};
use actors::ports::simulation::{
    AutoReceipts, ConnectionEvent, Phone, PhoneChoice, PlayedMessage, SimulationError,
};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::ApiState;
use super::call::{Call, present};
use super::idempotency::once;
use super::reply::Reply;
use super::scope::SimulationsWrite;
use crate::problem::{ApiError, Code, Problems};

const COUNT_MAX: u32 = 1_000;
const RECEIPT_MS_MAX: u32 = 86_400_000;

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(simulate_scan))
        .routes(routes!(simulate_messages))
        .routes(routes!(simulate_receipt))
        .routes(routes!(simulate_presence))
        .routes(routes!(simulate_connection))
        .routes(routes!(update_simulated_phone))
}

/// Something that the simulated network plays.
#[derive(Debug, Serialize, ToSchema)]
struct Played {
    /// Its name.
    id: SimulationId,
    /// The messages that came of it, where the device took them at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<MessageId>>,
}

impl Played {
    fn reply(messages: Option<Vec<MessageId>>) -> Result<Reply, ApiError> {
        Reply::accepted(&Self {
            id: SimulationId::generate(),
            messages,
        })
    }
}

impl From<SimulationError> for ApiError {
    fn from(error: SimulationError) -> Self {
        let code = match error {
            SimulationError::NoQr | SimulationError::NotLinked => Code::StateConflict,
            SimulationError::NumberTaken => Code::NumberTaken,
            SimulationError::UnknownMessage => Code::Invalid,
            SimulationError::Busy => Code::Busy,
            SimulationError::Away => Code::Unavailable,
            SimulationError::Full => Code::StorageFull,
            SimulationError::Failed => Code::StoreFailed,
            SimulationError::Unknown => Code::OutcomeUnknown,
        };
        match error {
            SimulationError::UnknownMessage => {
                Self::invalid(Faults::one("/message", error.to_string()))
            }
            SimulationError::NoQr
            | SimulationError::NotLinked
            | SimulationError::NumberTaken
            | SimulationError::Busy
            | SimulationError::Away
            | SimulationError::Full
            | SimulationError::Failed
            | SimulationError::Unknown => Self::new(code).detail(error.to_string()),
        }
    }
}

async fn simulated(
    api: &ApiState,
    call: &Call<SimulationsWrite>,
) -> Result<DeviceHandle, ApiError> {
    let device = api.device(call).await?;
    match device.record().connector.kind() {
        ConnectorKind::Simulator => Ok(device),
    }
}

/// Which phone scans.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SimulateScan {
    /// Its number; the device's own, or one that is made up, when nothing is said.
    number: Option<PhoneNumber>,
}

/// Plays the phone that scans the QR; waits up to 5 s for one.
#[utoipa::path(
    post, path = "/v1/devices/{device}/simulations/scan", operation_id = "simulate_scan", tag = "simulations",
    params(
        ("device" = DeviceId, Path, description = "A simulated device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body scan once."),
    ),
    request_body = SimulateScan,
    responses((status = 202, description = "Scanned.", body = Played), (status = 200, description = "It was linked already.", body = Played), Problems),
)]
async fn simulate_scan(
    State(api): State<ApiState>,
    call: Call<SimulationsWrite>,
) -> Result<Reply, ApiError> {
    let device = simulated(&api, &call).await?;
    let body: SimulateScan = call.body()?;
    let others = api.node.awake(call.tenant()).await?.devices();
    let tenant = call.tenant();
    once(&api, &call, "simulate_scan", async || {
        let was_linked = device.record().linked;
        if let Some(number) = &body.number
            && others
                .iter()
                .any(|it| it.id() != device.id() && it.record().number.as_ref() == Some(number))
        {
            return Err(SimulationError::NumberTaken.into());
        }
        // It waits for a QR, which a call behind it may bring about.
        call.entered();
        api.simulation
            .scan(tenant, device.id(), body.number)
            .await?;
        let played = Played {
            id: SimulationId::generate(),
            messages: None,
        };
        if was_linked {
            Reply::ok(&played)
        } else {
            Reply::accepted(&played)
        }
    })
    .await
}

/// Inbound messages.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SimulateMessages {
    /// Who writes.
    from: Jid,
    /// What the messages carry.
    content: Content,
    /// The group they are written in.
    group: Option<Jid>,
    /// When they were written; now when nothing is said.
    timestamp: Option<Timestamp>,
    /// How many, 1 to 1,000; one when nothing is said.
    #[schema(minimum = 1, maximum = 1_000)]
    count: Option<u32>,
}

/// Plays inbound messages through the normal path.
#[utoipa::path(
    post, path = "/v1/devices/{device}/simulations/messages", operation_id = "simulate_messages", tag = "simulations",
    params(
        ("device" = DeviceId, Path, description = "A simulated device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body play the messages once."),
    ),
    request_body = SimulateMessages,
    responses((status = 202, description = "Played, or kept by the network until the device is back.", body = Played), Problems),
)]
async fn simulate_messages(
    State(api): State<ApiState>,
    call: Call<SimulationsWrite>,
) -> Result<Reply, ApiError> {
    let device = simulated(&api, &call).await?;
    let body: SimulateMessages = call.body()?;
    let count = body.count.unwrap_or(1);
    let mut faults = Faults::default();
    if let Err(of_content) = body.content.check() {
        faults.extend(of_content.under("/content"));
    }
    let is_person = matches!(body.from.kind(), JidKind::Person | JidKind::Lid);
    faults.check(is_person, "/from", "must be a person");
    let is_group = body
        .group
        .as_ref()
        .is_none_or(|it| it.kind() == JidKind::Group);
    faults.check(is_group, "/group", "must be a group");
    faults.check(
        (1..=COUNT_MAX).contains(&count),
        "/count",
        "must be within 1 and 1,000",
    );
    faults.into_result().map_err(ApiError::invalid)?;
    // The same act, told twice, has the same names on the network and so makes no second message.
    let seed = match call.claim("simulate_messages")? {
        Some(claim) => {
            let mut hash = Sha256::new();
            hash.update(call.tenant().to_bytes());
            hash.update(device.id().to_bytes());
            hash.update(claim.key.as_bytes());
            hash.finalize()
                .iter()
                .take(16)
                .fold(0, |seed, byte| seed << 8 | u128::from(*byte))
        }
        None => SimulationId::generate().as_u128(),
    };
    let tenant = call.tenant();
    once(&api, &call, "simulate_messages", async || {
        let message = PlayedMessage {
            from: body.from,
            content: body.content,
            group: body.group,
            timestamp: body.timestamp,
            count,
            seed,
        };
        let messages = api
            .simulation
            .play_messages(tenant, device.id(), message)
            .await?;
        Played::reply(messages)
    })
    .await
}

/// A receipt.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SimulateReceipt {
    /// The message, one that the device has sent.
    message: MessageId,
    /// What is confirmed: `sent`, `delivered`, `read` or `played`.
    status: Status,
}

/// Plays a receipt for a message of the device.
#[utoipa::path(
    post, path = "/v1/devices/{device}/simulations/receipts", operation_id = "simulate_receipt", tag = "simulations",
    params(
        ("device" = DeviceId, Path, description = "A simulated device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body play one receipt."),
    ),
    request_body = SimulateReceipt,
    responses((status = 202, description = "Played.", body = Played), Problems),
)]
async fn simulate_receipt(
    State(api): State<ApiState>,
    call: Call<SimulationsWrite>,
) -> Result<Reply, ApiError> {
    let device = simulated(&api, &call).await?;
    let body: SimulateReceipt = call.body()?;
    if !matches!(
        body.status,
        Status::Sent | Status::Delivered | Status::Read | Status::Played
    ) {
        return Err(ApiError::invalid(Faults::one(
            "/status",
            "must be sent, delivered, read or played",
        )));
    }
    let message = api
        .store
        .message(call.tenant(), device.id(), body.message)
        .await?;
    let message = message.ok_or_else(|| {
        ApiError::invalid(Faults::one(
            "/message",
            "there is no such message on this device",
        ))
    })?;
    let tenant = call.tenant();
    once(&api, &call, "simulate_receipt", async || {
        api.simulation
            .play_receipt(
                tenant,
                device.id(),
                message.body.chat,
                body.message,
                body.status,
            )
            .await?;
        Played::reply(None)
    })
    .await
}

/// What somebody does: comes, goes, types.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PlayedPresence {
    /// Comes.
    Available,
    /// Goes.
    Unavailable,
    /// Writes.
    Composing,
    /// Records a voice message.
    Recording,
    /// Has stopped.
    Paused,
}

/// A presence.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SimulatePresence {
    /// Who.
    from: Jid,
    /// What is done.
    presence: PlayedPresence,
    /// In which chat somebody types; the one with `from` when nothing is said.
    chat: Option<Jid>,
}

/// Plays that somebody comes, goes or types.
#[utoipa::path(
    post, path = "/v1/devices/{device}/simulations/presence", operation_id = "simulate_presence", tag = "simulations",
    params(
        ("device" = DeviceId, Path, description = "A simulated device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body play once."),
    ),
    request_body = SimulatePresence,
    responses((status = 202, description = "Played.", body = Played), Problems),
)]
async fn simulate_presence(
    State(api): State<ApiState>,
    call: Call<SimulationsWrite>,
) -> Result<Reply, ApiError> {
    let device = simulated(&api, &call).await?;
    let body: SimulatePresence = call.body()?;
    let tenant = call.tenant();
    once(&api, &call, "simulate_presence", async || {
        let id = device.id();
        let typing = match body.presence {
            PlayedPresence::Available | PlayedPresence::Unavailable => None,
            PlayedPresence::Composing => Some(Typing::Composing),
            PlayedPresence::Recording => Some(Typing::Recording),
            PlayedPresence::Paused => Some(Typing::Paused),
        };
        if let Some(typing) = typing {
            let chat = body.chat.unwrap_or_else(|| body.from.clone());
            api.simulation
                .play_typing(tenant, id, body.from, chat, typing)
                .await?;
        } else {
            let here = matches!(body.presence, PlayedPresence::Available);
            let availability = if here {
                Availability::Available
            } else {
                Availability::Unavailable
            };
            api.simulation
                .play_presence(tenant, id, body.from, availability)
                .await?;
        }
        Played::reply(None)
    })
    .await
}

/// What happens to the connection.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SimulateConnection {
    /// What happens.
    event: ConnectionEvent,
}

/// Plays what happens to the connection of the device.
#[utoipa::path(
    post, path = "/v1/devices/{device}/simulations/connection", operation_id = "simulate_connection", tag = "simulations",
    params(
        ("device" = DeviceId, Path, description = "A simulated device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body play once."),
    ),
    request_body = SimulateConnection,
    responses((status = 202, description = "Played.", body = Played), Problems),
)]
async fn simulate_connection(
    State(api): State<ApiState>,
    call: Call<SimulationsWrite>,
) -> Result<Reply, ApiError> {
    let device = simulated(&api, &call).await?;
    let body: SimulateConnection = call.body()?;
    let tenant = call.tenant();
    once(&api, &call, "simulate_connection", async || {
        api.simulation
            .play_connection(tenant, device.id(), body.event)
            .await?;
        Played::reply(None)
    })
    .await
}

/// How a virtual phone is to behave; absent members stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdatePhone {
    /// Whether the number is on the network.
    exists: Option<bool>,
    /// The name it gives itself; `null` for none.
    #[serde(default, deserialize_with = "present")]
    name: Option<Option<String>>,
    /// Whether it is online.
    online: Option<bool>,
    /// When it confirms; `null` for never.
    #[serde(default, deserialize_with = "present")]
    auto_receipts: Option<Option<AutoReceipts>>,
    /// What it answers to each message; `null` for nothing.
    #[serde(default, deserialize_with = "present")]
    auto_reply: Option<Option<String>>,
    /// Whether it has blocked our devices.
    blocks_us: Option<bool>,
}

impl UpdatePhone {
    fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let short = |text: &Option<Option<String>>, max: usize| {
            text.iter()
                .flatten()
                .all(|it| (1..=max).contains(&it.chars().count()))
        };
        faults.check(
            short(&self.name, 100),
            "/name",
            "must have 1 to 100 characters",
        );
        faults.check(
            short(&self.auto_reply, 4_096),
            "/auto_reply",
            "must have 1 to 4,096 characters",
        );
        if let Some(Some(receipts)) = &self.auto_receipts {
            faults.check(
                receipts.deliver_ms <= RECEIPT_MS_MAX,
                "/auto_receipts/deliver_ms",
                "must be at most 86,400,000",
            );
            let read_ms = receipts.read_ms.unwrap_or(0);
            faults.check(
                read_ms <= RECEIPT_MS_MAX,
                "/auto_receipts/read_ms",
                "must be at most 86,400,000",
            );
        }
        faults.into_result()
    }

    fn over(self, phone: Phone) -> Phone {
        Phone {
            exists: self.exists.unwrap_or(phone.exists),
            name: self.name.unwrap_or(phone.name),
            online: self.online.unwrap_or(phone.online),
            auto_receipts: self.auto_receipts.unwrap_or(phone.auto_receipts),
            auto_reply: self.auto_reply.unwrap_or(phone.auto_reply),
            blocks_us: self.blocks_us.unwrap_or(phone.blocks_us),
        }
    }
}

/// Sets how a virtual phone behaves; `*` for every number without a setting of its own.
#[utoipa::path(
    put, path = "/v1/devices/{device}/simulations/phones/{number}", operation_id = "update_simulated_phone", tag = "simulations",
    params(
        ("device" = DeviceId, Path, description = "A simulated device."),
        ("number" = String, Path, description = "A phone number, or `*`."),
    ),
    request_body = UpdatePhone,
    responses((status = 200, description = "How it behaves now.", body = Phone), Problems),
)]
async fn update_simulated_phone(
    State(api): State<ApiState>,
    call: Call<SimulationsWrite>,
) -> Result<Reply, ApiError> {
    let _device = simulated(&api, &call).await?;
    let number: String = call.path("number")?;
    let choice = match number.as_str() {
        "*" => PhoneChoice::Default,
        text => PhoneChoice::Number(
            text.parse::<Jid>()
                .ok()
                .and_then(|it| it.number())
                .ok_or_else(|| ApiError::new(Code::NotFound))?,
        ),
    };
    let body: UpdatePhone = call.body()?;
    body.check().map_err(ApiError::invalid)?;
    let phone = body.over(api.simulation.phone(call.tenant(), choice.clone()).await?);
    api.simulation
        .set_phone(call.tenant(), choice, phone.clone())
        .await?;
    Reply::ok(&phone)
}
