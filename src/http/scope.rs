//! The right that a call needs, as a type: a handler that names one can't be reached without it.

use actors::model::Scope;

use super::call::accept::{EVENT_STREAM, JSON, QR};

/// What a caller must hold.
pub(crate) trait Permission: Send + Sync + 'static {
    /// The right; `None` where any credential of a tenant will do.
    const SCOPE: Option<Scope>;
    /// The media types in which the handler can answer.
    const FORMS: &'static [&'static str] = JSON;
    /// Whether the body may be a form too.
    const TAKES_FORM: bool = false;
}

macro_rules! permissions {
    ($($name:ident,)*) => {
        $(
            #[doc = concat!("Needs [`Scope::", stringify!($name), "`].")]
            #[derive(Debug)]
            pub(crate) enum $name {}

            impl Permission for $name {
                const SCOPE: Option<Scope> = Some(Scope::$name);
            }
        )*
    };
}

permissions! {
    DevicesRead,
    DevicesWrite,
    MessagesRead,
    MessagesWrite,
    ChatsRead,
    ChatsWrite,
    EventsRead,
    KeysWrite,
    PresenceWrite,
    SimulationsWrite,
}

/// Any credential of a tenant.
#[derive(Debug)]
pub(crate) enum Any {}

impl Permission for Any {
    const SCOPE: Option<Scope> = None;
}

/// Any credential of a tenant; the body may be a form.
#[derive(Debug)]
pub(crate) enum AnyWithForm {}

impl Permission for AnyWithForm {
    const SCOPE: Option<Scope> = None;
    const TAKES_FORM: bool = true;
}

/// [`DevicesRead`], for a QR that may be a picture.
#[derive(Debug)]
pub(crate) enum DevicesReadQr {}

impl Permission for DevicesReadQr {
    const SCOPE: Option<Scope> = Some(Scope::DevicesRead);
    const FORMS: &'static [&'static str] = QR;
}

/// [`EventsRead`], for a stream of server-sent events.
#[derive(Debug)]
pub(crate) enum EventsReadStream {}

impl Permission for EventsReadStream {
    const SCOPE: Option<Scope> = Some(Scope::EventsRead);
    const FORMS: &'static [&'static str] = EVENT_STREAM;
}
