//! The slow steps of a conversation: proving a credential, opening a reader.

use std::net::IpAddr;

use actors::log::{Attachment, AttachmentWatch, Listener, Opened, Reset, Sight};
use actors::model::TenantId;
use axum::extract::ws::Message;
use serde_json::Value;
use tokio::time::Instant;

use super::frame::Refusal;
use super::request::Calling;
use super::state::Delivery;
use super::wish::{SubscribeWish, Wrong};
use crate::credentials::Caller;
use crate::http::ApiState;
use crate::problem::ApiError;

/// A step that has ended.
pub(super) enum Done {
    /// A request was carried out, or refused.
    Replied(Message),
    /// A request can no longer be overtaken.
    Entered(Calling),
    /// A request that only reads was carried out, or refused.
    Read(Message),
    /// Typing was told upwards, or not.
    Typed {
        id: Option<Value>,
        result: Result<(), Refusal>,
    },
    /// The first credential was proved, or not.
    Proved {
        id: Option<Value>,
        result: Result<Caller, ApiError>,
        wish: Result<Option<Box<SubscribeWish>>, Wrong>,
    },
    /// A later credential was proved, or not.
    Renewed {
        id: Option<Value>,
        result: Result<Caller, ApiError>,
    },
    /// A subscription stands, or not.
    Opened {
        id: Option<Value>,
        result: Result<Box<Opening>, Refusal>,
    },
}

/// A subscription that is wanted.
pub(super) struct Wanted {
    pub(super) wish: SubscribeWish,
    pub(super) sight: Sight,
}

/// A subscription that stands.
pub(super) struct Opening {
    pub(super) listener: Listener,
    pub(super) delivery: Delivery,
    pub(super) reset: Option<Reset>,
    pub(super) is_resumed: bool,
    pub(super) attachment: Option<Attachment>,
    pub(super) watch: Option<AttachmentWatch>,
}

/// Proves a credential that came in band.
pub(super) async fn prove(api: &ApiState, client: IpAddr, token: &str) -> Result<Caller, ApiError> {
    api.credentials.verify(token, client).await
}

/// Proves a credential that shall take the place of another.
pub(super) async fn renew(api: ApiState, client: IpAddr, token: String, id: Option<Value>) -> Done {
    Done::Renewed {
        id,
        result: prove(&api, client, &token).await,
    }
}

/// Opens a reader at its place.
pub(super) async fn open(
    api: &ApiState,
    tenant: TenantId,
    wanted: Wanted,
) -> Result<Box<Opening>, Refusal> {
    let SubscribeWish {
        filter,
        start,
        window,
        consumer,
    } = wanted.wish;
    let failed = |error| Refusal::from(ApiError::from(error));
    let log = api.node.log_of(tenant).await.map_err(failed)?;
    let (opened, attached) = match consumer {
        Some(name) => {
            let (attached, opened) = log.attach(name, start).await.map_err(failed)?;
            (opened, Some(attached))
        }
        None => (
            log.listen(start)
                .await
                .map_err(|error| Refusal::from(ApiError::from(error)))?,
            None,
        ),
    };
    let Opened {
        listener,
        reset,
        is_resumed,
    } = opened;
    let mut delivery = Delivery::new(
        filter,
        wanted.sight,
        listener.position(),
        log.log().head().seq,
    );
    if let Some(events_max) = window {
        delivery = delivery.with_window(events_max, Instant::now());
    }
    let (attachment, watch) = attached.map(|it| (it.attachment, it.watch)).unzip();
    Ok(Box::new(Opening {
        listener,
        delivery,
        reset,
        is_resumed,
        attachment,
        watch,
    }))
}
