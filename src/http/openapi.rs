//! The description of the API, made from the handlers themselves, and its interactive page.

use axum::response::{IntoResponse, Response};
use axum::{Router, middleware};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::ApiState;
use crate::problem::{ApiError, Code, Problem};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Buho",
        description = "A self-hosted, multi-tenant gateway for WhatsApp-type messaging.\n\n\
            Send an API key or an access token as `Authorization: Bearer …`. Errors are problems (RFC 9457) with a \
            stable `code`; the list of codes, like every other list of words here, may grow. Retry what failed with \
            the same `Idempotency-Key`: it happens once.",
    ),
    components(schemas(Problem)),
    modifiers(&Credentials),
    security(("bearer" = []), ("apikey" = [])),
    tags(
        (name = "auth", description = "Access tokens and tickets."),
        (name = "keys", description = "API keys."),
        (name = "me", description = "What a credential may do."),
        (name = "devices", description = "Devices: made, linked, removed."),
        (name = "sessions", description = "The states of devices."),
        (name = "messages", description = "Messages: sent, listed, followed."),
        (name = "chats", description = "Chats and their history."),
        (name = "simulations", description = "The simulated network's other side."),
        (name = "events", description = "The event log and its readers."),
        (name = "operations", description = "Health, metrics, and the pages of the problems."),
    ),
)]
struct Base;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let description = "An API key (`buho_…`) or an access token (a JWT).";
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(description))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
        let alias = ApiKeyValue::with_description("apikey", "The same, in a header of its own.");
        components.add_security_scheme("apikey", SecurityScheme::ApiKey(ApiKey::Header(alias)));
    }
}

/// What the description of each operation is added to.
pub(super) fn base() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Base::openapi())
}

/// `/openapi.json`, and `/docs`, whose files are part of the binary.
pub(super) fn router(description: utoipa::openapi::OpenApi) -> Router<ApiState> {
    // Without a validator nothing is told to anybody else.
    let config = Config::default()
        .validator_url("none")
        .persist_authorization(false);
    let pages: Router<ApiState> = SwaggerUi::new("/docs")
        .config(config)
        .url("/openapi.json", description)
        .into();
    pages.layer(middleware::map_response(with_problem))
}

/// What is no page there is a problem, as everywhere.
async fn with_problem(response: Response) -> Response {
    if response.status().is_client_error() {
        ApiError::new(Code::NotFound).into_response()
    } else {
        response
    }
}
