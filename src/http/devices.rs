//! `/v1/devices`: make, list, read, change, remove; connect, show the QR, disconnect, restart, log out.

use std::collections::BTreeMap;
use std::time::Duration;

use actors::device::{DevicePatch, MetadataPatch};
use actors::model::{
    ConnectorChoice, ConnectorKind, Device, DeviceId, DeviceState, Faults, Metadata, PhoneNumber,
    Qr, Session,
};
use actors::tenant::{CreatedDevice, DeviceDraft};
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use qrcode::QrCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::call::accept::QR;
use super::call::{Call, Limit, present};
use super::idempotency::{once, turn_of};
use super::paging::{LIMIT_DEFAULT, Page, Walk, cut};
use super::reply::Reply;
use super::scope::{DevicesRead, DevicesReadQr, DevicesWrite};
use super::{ApiState, Nothing};
use crate::problem::{ApiError, Code, Problems};

/// How long `connect` waits for a QR.
const QR_WAIT_MAX: Duration = Duration::from_secs(2);

pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(create_device, list_devices))
        .routes(routes!(read_device, update_device, delete_device))
        .routes(routes!(connect_device))
        .routes(routes!(read_device_qr))
        .routes(routes!(disconnect_device))
        .routes(routes!(restart_device))
        .routes(routes!(logout_device))
}

/// A connector: its bare name, or an object with its settings.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum ConnectorForm {
    /// The bare name.
    Name(ConnectorKind),
    /// With its settings.
    Settings(ConnectorChoice),
}

/// A device that is to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateDevice {
    /// Its name, 1 to 100 characters.
    name: String,
    /// Its connector; `simulator` when nothing is said.
    connector: Option<ConnectorForm>,
    /// Its number, where the connector lets the owner choose it.
    number: Option<PhoneNumber>,
    /// Your own pairs: at most 50, keys of 1 to 64 and values of at most 500 characters.
    #[serde(default)]
    metadata: Metadata,
}

/// Makes a device.
#[utoipa::path(
    post, path = "/v1/devices", operation_id = "create_device", tag = "devices",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body make one device.")),
    request_body = CreateDevice,
    responses((status = 201, description = "Made.", body = Device), Problems),
)]
async fn create_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    if !call.caller().devices().is_empty() {
        return Err(ApiError::new(Code::Forbidden)
            .detail("a key that is bound to devices can't make another"));
    }
    let body: CreateDevice = call.body()?;
    let connector = match body.connector {
        None | Some(ConnectorForm::Name(ConnectorKind::Simulator)) => ConnectorChoice::Simulator {},
        Some(ConnectorForm::Settings(choice)) => choice,
    };
    let draft = DeviceDraft {
        name: body.name,
        connector,
        number: body.number,
        metadata: body.metadata,
    };
    draft.check().map_err(ApiError::invalid)?;
    let claim = call.claim("create_device")?;
    // A twin would meet the number, or the place, that the first call has taken for itself.
    let _turn = turn_of(&api, call.tenant(), claim.as_ref()).await?;
    let tenant = api.node.awake(call.tenant()).await?;
    match call.enters(tenant.create_device(draft, claim)).await? {
        CreatedDevice::Made(device) => {
            Reply::created(format!("/v1/devices/{}", device.id), &*device)
        }
        CreatedDevice::Replayed(kept) => Ok(Reply::from(kept)),
    }
}

/// Which devices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListDevices {
    /// In this state.
    state: Option<DeviceState>,
    /// With this connector.
    connector: Option<ConnectorKind>,
    /// With this text in the name or the number.
    q: Option<String>,
    /// Items of a page, 1 to 200.
    #[param(inline)]
    limit: Option<Limit>,
    /// Where the last page ended.
    cursor: Option<String>,
}

/// Lists the devices, newest first.
#[utoipa::path(
    get, path = "/v1/devices", operation_id = "list_devices", tag = "devices", params(ListDevices),
    responses((status = 200, description = "A page of devices.", body = Page<Device>), Problems),
)]
async fn list_devices(
    State(api): State<ApiState>,
    call: Call<DevicesRead>,
) -> Result<Reply, ApiError> {
    let query: ListDevices = call.query()?;
    let (walk, beyond) = Walk::start::<DeviceId>(
        &api,
        call.tenant(),
        "list_devices",
        &(query.state, query.connector, &query.q),
        query.cursor.as_deref(),
    )?;
    let limit = query.limit.map_or(LIMIT_DEFAULT, |it| it.0).into();
    let text = query.q.as_ref().map(|it| it.to_lowercase());
    let wanted = |it: &Device| {
        call.caller().sees(it.id)
            && beyond.is_none_or(|beyond| it.id < beyond)
            && query.state.is_none_or(|state| state == it.session.state)
            && query
                .connector
                .is_none_or(|kind| kind == it.connector.kind())
            && text.as_ref().is_none_or(|text| {
                it.name.to_lowercase().contains(text)
                    || it
                        .number
                        .as_ref()
                        .is_some_and(|number| number.digits().contains(text))
            })
    };
    let devices = api.node.awake(call.tenant()).await?.devices();
    let found: Vec<Device> = devices
        .iter()
        .map(|it| it.record().to_device())
        .filter(wanted)
        .take(limit + 1)
        .collect();
    let (items, next) = cut(found, limit, |it| it.id);
    Reply::ok(&walk.page(items, next))
}

/// Reads a device.
#[utoipa::path(
    get, path = "/v1/devices/{device}", operation_id = "read_device", tag = "devices",
    params(("device" = DeviceId, Path, description = "The device.")),
    responses((status = 200, description = "The device.", body = Device), Problems),
)]
async fn read_device(
    State(api): State<ApiState>,
    call: Call<DevicesRead>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    call.no_query()?;
    Reply::ok(&device.record().to_device())
}

/// What is to change (RFC 7396): absent members stay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateDevice {
    /// Its name, 1 to 100 characters.
    #[serde(default, deserialize_with = "present")]
    name: Option<Option<String>>,
    /// Your own pairs; `null` for a pair erases it, `null` for all of them erases all.
    #[serde(default, deserialize_with = "present")]
    metadata: Option<Option<BTreeMap<String, Option<String>>>>,
}

/// Renames a device or changes its metadata.
#[utoipa::path(
    patch, path = "/v1/devices/{device}", operation_id = "update_device", tag = "devices",
    params(("device" = DeviceId, Path, description = "The device.")),
    request_body(content((UpdateDevice = "application/json"), (UpdateDevice = "application/merge-patch+json"))),
    responses((status = 200, description = "The device as it is now.", body = Device), Problems),
)]
async fn update_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let body: UpdateDevice = call.body()?;
    let name = match body.name {
        Some(None) => return Err(ApiError::invalid(Faults::one("/name", "can't be erased"))),
        Some(Some(name)) => Some(name),
        None => None,
    };
    let metadata = match body.metadata {
        Some(None) => Some(MetadataPatch::Erase),
        Some(Some(change)) => Some(MetadataPatch::Merge(change)),
        None => None,
    };
    let patch = DevicePatch { name, metadata };
    let record = if patch.is_empty() {
        device.record()
    } else {
        call.enters(device.patch(patch)).await?
    };
    Reply::ok(&record.to_device())
}

/// Removes a device: logs out first, ends what waits as `failed`, erases its history.
#[utoipa::path(
    delete, path = "/v1/devices/{device}", operation_id = "delete_device", tag = "devices",
    params(("device" = DeviceId, Path, description = "The device.")),
    responses((status = 204, description = "Gone."), Problems),
)]
async fn delete_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    call.no_query()?;
    let tenant = api.node.awake(call.tenant()).await?;
    call.enters(tenant.remove_device(device.id())).await?;
    Ok(Reply::no_content())
}

/// How a device is to be linked.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum ConnectMethod {
    /// By a QR that a phone scans.
    #[default]
    Qr,
    /// By a code that is typed into the phone.
    Code,
}

/// How to connect.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConnectDevice {
    /// How the device is to be linked, where it is not linked yet.
    #[serde(default)]
    method: ConnectMethod,
    /// The number that types the code; goes with `code` alone.
    number: Option<PhoneNumber>,
}

/// A session that is on its way.
#[derive(Debug, Serialize, ToSchema)]
struct Connecting {
    #[serde(flatten)]
    session: Session,
    /// The QR to scan, where there is one already.
    #[serde(skip_serializing_if = "Option::is_none")]
    qr: Option<Qr>,
}

/// Starts the session.
///
/// A linked device goes straight to `connected`. Another one shows a QR, which is in the answer if it comes within two
/// seconds; after that `device.qr` events and the QR resource have it.
#[utoipa::path(
    post, path = "/v1/devices/{device}/connect", operation_id = "connect_device", tag = "devices",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body connect once."),
    ),
    request_body = ConnectDevice,
    responses(
        (status = 202, description = "On its way.", body = Connecting),
        (status = 200, description = "It is connected already.", body = Connecting),
        Problems,
    ),
)]
async fn connect_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let body: ConnectDevice = call.body()?;
    if let ConnectMethod::Code = body.method {
        let faults = Faults::one("/method", "this connector links by `qr` only");
        return Err(actors::CommandError::Unsupported(faults).into());
    }
    if body.number.is_some() {
        return Err(ApiError::invalid(Faults::one(
            "/number",
            "goes with the method `code`",
        )));
    }
    once(&api, &call, "connect_device", async || {
        let was_connected = device.record().session.state == DeviceState::Connected;
        let mut changes = device.changes();
        call.enters(device.connect()).await?;
        let settled = async {
            while device.qr().is_none()
                && device.record().session.state == DeviceState::Connecting
                && !device.record().linked
            {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Late is fine: then the answer has no QR.
        let _late = tokio::time::timeout(QR_WAIT_MAX, settled).await;
        let answer = Connecting {
            session: device.session(),
            qr: device.qr(),
        };
        if was_connected {
            Reply::ok(&answer)
        } else {
            Reply::accepted(&answer)
        }
    })
    .await
}

/// Shows the present QR: as PNG or SVG where `Accept` asks for it, else as JSON.
#[utoipa::path(
    get, path = "/v1/devices/{device}/qr", operation_id = "read_device_qr", tag = "devices",
    params(("device" = DeviceId, Path, description = "The device.")),
    responses(
        (status = 200, description = "The QR.", content((Qr = "application/json"), (Vec<u8> = "image/png"), (String = "image/svg+xml"))),
        Problems,
    ),
)]
async fn read_device_qr(
    State(api): State<ApiState>,
    call: Call<DevicesReadQr>,
) -> Result<Response, ApiError> {
    let device = api.device(&call).await?;
    call.no_query()?;
    let qr = device
        .qr()
        .ok_or_else(|| ApiError::new(Code::StateConflict).detail("no QR is being shown"))?;
    let wanted = call.prefers(QR);
    if wanted == "application/json" {
        return Ok(Reply::ok(&qr)?.into_response());
    }
    let code = QrCode::new(qr.code.as_bytes())
        .map_err(|error| ApiError::new(Code::Internal).because(error))?;
    let (kind, bytes) = if wanted == "image/png" {
        ("image/png", png_of(&code)?)
    } else {
        ("image/svg+xml", svg_of(&code))
    };
    let mut response = (StatusCode::OK, bytes).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Pixels of one module, and modules of the quiet zone around (four, as the standard asks).
const MODULE_PIXELS: u32 = 8;

fn svg_of(code: &QrCode) -> Vec<u8> {
    code.render::<qrcode::render::svg::Color<'_>>()
        .module_dimensions(MODULE_PIXELS, MODULE_PIXELS)
        .build()
        .into_bytes()
}

/// One byte a pixel, black on white.
fn png_of(code: &QrCode) -> Result<Vec<u8>, ApiError> {
    const QUIET: usize = 4;
    let scale = usize::try_from(MODULE_PIXELS).unwrap_or(1);
    let modules = code.width() + 2 * QUIET;
    let dark = code.to_colors();
    let pixel = |x: usize, y: usize| {
        let (column, row) = (
            (x / scale).checked_sub(QUIET),
            (y / scale).checked_sub(QUIET),
        );
        let inside = column
            .zip(row)
            .filter(|(column, row)| *column < code.width() && *row < code.width());
        let color = inside.and_then(|(column, row)| dark.get(row * code.width() + column));
        color.map_or(255, |it| it.select(0, 255))
    };
    let side = modules * scale;
    let pixels: Vec<u8> = (0..side)
        .flat_map(|y| (0..side).map(move |x| (x, y)))
        .map(|(x, y)| pixel(x, y))
        .collect();
    let side = u32::try_from(side).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder
        .write_header()
        .and_then(|mut it| it.write_image_data(&pixels));
    written.map_err(|error| ApiError::new(Code::Internal).because(error))?;
    Ok(out)
}

/// Leaves the network; the link stays.
#[utoipa::path(
    post, path = "/v1/devices/{device}/disconnect", operation_id = "disconnect_device", tag = "devices",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key disconnects once."),
    ),
    responses((status = 200, description = "The session as it is now.", body = Session), Problems),
)]
async fn disconnect_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let Nothing {} = call.body()?;
    once(&api, &call, "disconnect_device", async || {
        call.enters(device.disconnect()).await?;
        Reply::ok(&device.session())
    })
    .await
}

/// Leaves the network and comes back.
#[utoipa::path(
    post, path = "/v1/devices/{device}/restart", operation_id = "restart_device", tag = "devices",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key restarts once."),
    ),
    responses((status = 200, description = "The session as it is now.", body = Session), Problems),
)]
async fn restart_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let Nothing {} = call.body()?;
    once(&api, &call, "restart_device", async || {
        call.enters(device.restart()).await?;
        Reply::ok(&device.session())
    })
    .await
}

/// Gives up the link; connecting again pairs anew.
#[utoipa::path(
    post, path = "/v1/devices/{device}/logout", operation_id = "logout_device", tag = "devices",
    params(
        ("device" = DeviceId, Path, description = "The device."),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key logs out once."),
    ),
    responses((status = 200, description = "The session as it is now.", body = Session), Problems),
)]
async fn logout_device(
    State(api): State<ApiState>,
    call: Call<DevicesWrite>,
) -> Result<Reply, ApiError> {
    let device = api.device(&call).await?;
    let Nothing {} = call.body()?;
    once(&api, &call, "logout_device", async || {
        call.enters(device.logout()).await?;
        Reply::ok(&device.session())
    })
    .await
}
