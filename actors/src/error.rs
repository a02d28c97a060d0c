//! Why a command was not carried out. One closed list for every frontend.

use crate::model::Faults;
use crate::ports::{StoreError, SubmitError};

/// The answer to a command that failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such thing, or it is another tenant's: nobody can tell which.
    #[error("not found")]
    NotFound,
    /// The request breaks rules.
    #[error("request breaks a rule")]
    Invalid(Faults),
    /// The device's network can't do this; names the member that asks for it.
    #[error("not supported by the connector")]
    Unsupported(Faults),
    /// It clashes with the present state; says how.
    #[error("clashes with the present state: {0}")]
    StateConflict(&'static str),
    /// The number is another device's.
    #[error("number is taken")]
    NumberTaken,
    /// The same key was used for another call.
    #[error("idempotency key was used for another call")]
    IdempotencyMismatch,
    /// The caller has reached a limit of its own; names it.
    #[error("limit reached: {0}")]
    LimitReached(&'static str),
    /// The gateway has as much work as it may hold; nothing was stored.
    #[error("too much work is waiting")]
    Busy,
    /// A part is away; nothing was stored.
    #[error("a part is away")]
    Unavailable,
    /// The store takes no writes until it is opened again; nothing was stored.
    #[error("store has failed")]
    StoreFailed,
    /// The disk is full; nothing was stored.
    #[error("storage is full")]
    StorageFull,
    /// No answer came in time: it may have happened.
    #[error("outcome is unknown")]
    OutcomeUnknown,
    /// A read failed.
    #[error("store could not be read")]
    Store(#[from] StoreError),
}

impl From<SubmitError> for CommandError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy => Self::Busy,
            SubmitError::Full => Self::StorageFull,
            SubmitError::Failed => Self::StoreFailed,
            SubmitError::Closing | SubmitError::Away => Self::Unavailable,
        }
    }
}

impl CommandError {
    /// What a caller hears of a job that was taken and failed.
    #[must_use]
    pub fn of_commit(error: &StoreError) -> Self {
        match error {
            StoreError::Refused(refused) => (*refused).into(),
            StoreError::Gone => Self::NotFound,
            StoreError::Full => Self::StorageFull,
            StoreError::Failed
            | StoreError::Away
            | StoreError::Damaged { .. }
            | StoreError::Engine { .. } => Self::OutcomeUnknown,
        }
    }
}

/// Why an actor did not start.
#[derive(Debug, thiserror::Error)]
#[error("{actor} did not start")]
pub struct StartError {
    /// Which kind of actor.
    pub actor: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
