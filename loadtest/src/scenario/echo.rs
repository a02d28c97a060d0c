//! A bare echo: frames at a rate over one WebSocket, and when each came back.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::closed_loop::Window;
use super::pace::Pace;
use super::subscribers::{Seen, stamped};
use crate::alarm;
use crate::client::Endpoint;
use crate::client::ws::{Dialect, Socket};
use crate::error::LoadError;
use crate::latency::Latencies;

/// How long the last echoes may take.
const LAST: Duration = Duration::from_secs(5);

/// Due → echo, of frames as a bare server would broadcast them. Open loop: one that goes out late counts its wait.
pub(crate) async fn measure(
    endpoint: &Endpoint,
    rate: u32,
    payload: usize,
    window: Window,
) -> Result<Latencies, LoadError> {
    let mut socket = Socket::open(endpoint, Dialect::Bare(None)).await?;
    let pace = Pace::constant(rate, window.warm_up + window.measured);
    let start = Instant::now();
    // Latencies count from when the first measured one was due.
    let mut seen = (Seen::new(false), Seen::new(true));
    let (mut next, mut heard) = (0, 0);
    let until = start + pace.length() + LAST;
    while heard < pace.count() {
        let due = pace.due(next);
        let message = tokio::select! {
            biased;
            message = socket.message() => message?,
            () = alarm::until(start + due.unwrap_or_default()), if due.is_some() => {
                let text = stamped(due.unwrap_or_default(), payload);
                let event = json!({"seq": next + 1, "data": {"content": {"text": text}}});
                socket.feed(&json!({"op": "event", "event": event})).await?;
                socket.flush().await?;
                next += 1;
                continue;
            }
            () = sleep_until(until) => {
                let text = format!("of {} echoes {heard} came", pace.count());
                return Err(LoadError::Protocol(text));
            }
        };
        let is_warm = pace.due(heard).is_some_and(|due| due >= window.warm_up);
        let seen = if is_warm { &mut seen.1 } else { &mut seen.0 };
        heard += seen.take(&message, start.elapsed())?;
    }
    Ok(seen.1.latencies.unwrap_or_else(Latencies::new))
}
