//! Single-use tickets for browsers, which can't set headers on a WebSocket.

use std::collections::HashMap;
use std::time::Duration;

use actors::model::id::suffix;
use actors::model::{SecretHash, Timestamp, hash_secret};
use parking_lot::Mutex;

use super::Caller;
use crate::problem::{ApiError, Code};

/// How long a ticket is good.
const LIFE: Duration = Duration::from_secs(30);
/// Tickets that wait to be used; more are `busy`.
const WAITING_MAX: usize = 16_384;

struct Waiting {
    caller: Caller,
    origin: Option<String>,
    expires_at: Timestamp,
}

/// A ticket, in the one moment when its text is known.
pub(crate) struct Ticket {
    /// Its text.
    pub(crate) text: String,
    /// When it ends.
    pub(crate) expires_at: Timestamp,
}

#[derive(Default)]
pub(super) struct Tickets {
    waiting: Mutex<HashMap<SecretHash, Waiting>>,
}

impl Tickets {
    pub(super) fn issue(
        &self,
        caller: Caller,
        origin: Option<String>,
        now: Timestamp,
    ) -> Result<Ticket, ApiError> {
        let text = format!(
            "tkt_{}",
            std::str::from_utf8(&suffix(rand::random())).unwrap_or_default()
        );
        let expires_at = now.plus(LIFE);
        let mut waiting = self.waiting.lock();
        if WAITING_MAX <= waiting.len() {
            waiting.retain(|_, it| now < it.expires_at);
            if WAITING_MAX <= waiting.len() {
                return Err(ApiError::new(Code::Busy));
            }
        }
        waiting.insert(
            hash_secret(&text),
            Waiting {
                caller,
                origin,
                expires_at,
            },
        );
        Ok(Ticket { text, expires_at })
    }

    pub(super) fn redeem(&self, text: &str, now: Timestamp) -> Option<(Caller, Option<String>)> {
        let found = self.waiting.lock().remove(&hash_secret(text))?;
        (now < found.expires_at && !found.caller.is_over(now))
            .then_some((found.caller, found.origin))
    }
}
