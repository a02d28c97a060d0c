//! Close codes: the range tells a client what to do.

use crate::problem::Code;

/// Why the server ends a connection. The range tells a client what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// Something failed on our side: come back at once.
    Unknown,
    /// The gateway stops.
    Stopping,
    /// The consumer was moved: come back to its new place.
    Moved,
    /// Nothing was heard for too long.
    Silent,
    /// Too many events behind.
    LaggedOut,
    /// A write made no progress.
    Stalled,
    /// No ack in time.
    AckTimeout,
    /// Too many frames.
    Rate,
    /// Too many connections.
    TooMany,
    /// The gateway has too much work.
    Overload,
    /// The credential has ended by itself.
    Expired,
    /// The credential may do less than before.
    ScopesChanged,
    /// A cursor of the wrong form.
    BadCursor,
    /// Not a frame.
    BadFrame,
    /// No credential, a wrong one, or a revoked one.
    Unauthenticated,
    /// A credential that may not be used here.
    Forbidden,
    /// None of the client's subprotocols is known.
    NotAcceptable,
    /// No credential in time.
    AuthTimeout,
    /// A newer connection has taken the consumer's name.
    Replaced,
    /// A message was too large.
    TooLarge,
    /// RFC 6455: the protocol itself was broken.
    Protocol,
    /// RFC 6455: a text that is not UTF-8.
    NotUtf8,
}

impl Close {
    /// Its number on the wire.
    pub(super) const fn code(self) -> u16 {
        match self {
            Self::Unknown => 4000,
            Self::Stopping => 4001,
            Self::Moved => 4002,
            Self::Silent => 4003,
            Self::LaggedOut => 4004,
            Self::Stalled => 4005,
            Self::AckTimeout => 4006,
            Self::Rate => 4100,
            Self::TooMany => 4102,
            Self::Overload => 4103,
            Self::Expired => 4200,
            Self::ScopesChanged => 4201,
            Self::BadCursor => 4300,
            Self::BadFrame => 4400,
            Self::Unauthenticated => 4401,
            Self::Forbidden => 4403,
            Self::NotAcceptable => 4406,
            Self::AuthTimeout => 4408,
            Self::Replaced => 4409,
            Self::TooLarge => 4413,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
        }
    }

    /// Its reason on the wire.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Stopping => "shutting down",
            Self::Moved => "moved",
            Self::Silent => "heartbeat missed",
            Self::LaggedOut => "lagged out",
            Self::Stalled => "write stalled",
            Self::AckTimeout => "ack timeout",
            Self::Rate => "rate",
            Self::TooMany => "too many connections",
            Self::Overload => "overload",
            Self::Expired => "expired",
            Self::ScopesChanged => "scopes changed",
            Self::BadCursor => "cursor not valid",
            Self::BadFrame => "bad frame",
            Self::Unauthenticated => "not authenticated",
            Self::Forbidden => "forbidden",
            Self::NotAcceptable => "no known subprotocol",
            Self::AuthTimeout => "no auth in time",
            Self::Replaced => "replaced",
            Self::TooLarge => "too large",
            Self::Protocol => "protocol error",
            Self::NotUtf8 => "not UTF-8",
        }
    }

    /// What a credential that was turned down in band means for the connection.
    pub(super) const fn for_code(code: Code) -> Self {
        match code {
            Code::ScopeMissing | Code::IpNotAllowed | Code::OriginNotAllowed | Code::Forbidden => {
                Self::Forbidden
            }
            Code::RateLimited | Code::LimitReached => Self::Rate,
            Code::Internal
            | Code::Unavailable
            | Code::Busy
            | Code::StoreFailed
            | Code::OutcomeUnknown
            | Code::StorageFull => Self::Overload,
            Code::Unauthenticated
            | Code::InvalidJson
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::NotAcceptable
            | Code::StateConflict
            | Code::NumberTaken
            | Code::IdempotencyMismatch
            | Code::IdempotencyInProgress
            | Code::CursorGone
            | Code::BodyTooLarge
            | Code::UnsupportedMediaType
            | Code::Invalid
            | Code::InvalidCursor
            | Code::UnsupportedByConnector => Self::Unauthenticated,
        }
    }
}
