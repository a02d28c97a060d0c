//! What can end a run early. Errors of single requests are counted, not raised.

use std::error::Error as _;
use std::fmt;

use thiserror::Error;
use tokio_tungstenite::tungstenite;

use crate::client::response::ResponseError;

/// Why a run could not be made or finished.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    /// The operating system refused something.
    #[error("{doing} failed")]
    Io {
        /// What was being done.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The server answered a call with a status that the scenario can't go on with.
    #[error("{call} was answered with {problem}")]
    Refused {
        /// Method and path.
        call: String,
        /// Status and problem code.
        problem: Problem,
    },
    /// A success whose body is not what the contract says.
    #[error("the body of the answer to {call} is not what the contract says")]
    Body {
        /// Method and path, or the frame's operation.
        call: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// Bytes that are not an HTTP answer this client reads.
    #[error("the answer is not readable")]
    Response(#[from] ResponseError),
    /// The WebSocket failed below the protocol.
    #[error("the WebSocket failed while {doing}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        source: Box<tungstenite::Error>,
    },
    /// The server closed the WebSocket.
    #[error("the server closed the WebSocket with {code} ({reason})")]
    Closed {
        /// The close code, 1005 where none was given.
        code: u16,
        /// The text beside it.
        reason: String,
    },
    /// The peer did something that the protocol does not allow here.
    #[error("{0}")]
    Protocol(String),
    /// Arguments that lead nowhere.
    #[error("{0}")]
    Target(String),
    /// A yardstick failed.
    #[error("the yardstick failed while {doing}")]
    Yardstick {
        /// What was being done.
        doing: &'static str,
        /// The engine's or the system's cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl LoadError {
    /// An operating-system error with what was being done.
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// The error with all its causes.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(inner) = cause {
            text.push_str(" · because: ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        text
    }

    /// Whether what was asked for may have happened all the same.
    pub(crate) fn leaves_open(&self) -> bool {
        match self {
            // No answer, an error inside, or one of something in between.
            Self::Refused { problem, .. } => matches!(problem.status, 0 | 500 | 502 | 504),
            Self::Io { .. }
            | Self::Body { .. }
            | Self::Response(_)
            | Self::Socket { .. }
            | Self::Closed { .. }
            | Self::Protocol(_) => true,
            Self::Target(_) | Self::Yardstick { .. } => false,
        }
    }

    /// The short word under which errors of this kind are counted.
    pub(crate) fn tally_name(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("connection: {}", source.kind()),
            Self::Refused { problem, .. } => problem.tally_name(),
            Self::Body { .. } => "unreadable body".to_owned(),
            Self::Response(error) => format!("unreadable answer: {error}"),
            Self::Socket { source, .. } => format!("socket: {source}"),
            Self::Closed { code, .. } => format!("closed {code}"),
            Self::Protocol(text) | Self::Target(text) => text.clone(),
            Self::Yardstick { doing, .. } => (*doing).to_owned(),
        }
    }
}

/// The part of a problem document that a load test needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// HTTP status.
    pub(crate) status: u16,
    /// Problem code, or why there is none.
    pub(crate) code: String,
    /// The explanation for people.
    pub(crate) detail: String,
}

impl Problem {
    /// Status and code, the unit in which refusals are counted.
    pub(crate) fn tally_name(&self) -> String {
        format!("{} {}", self.status, self.code)
    }
}

/// Whether an item or a reply with this problem code may have been stored all the same.
pub(crate) fn code_leaves_open(code: &str) -> bool {
    matches!(code, "internal" | "outcome_unknown")
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}: {}", self.status, self.code, self.detail)
    }
}
