//! A bare axum WebSocket broadcast: one ring for all, frames that wait are written together. Who names a place is sent
//! first what the ring still has behind it; who says something hears it again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Json, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, serve::ListenerExt as _};
use futures_util::SinkExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender};

/// Frames written with one flush.
const TOGETHER: usize = 64;
/// Socket read buffer: the default of 128 KiB would be most of a socket's memory and of its CPU.
const READ_BYTES: usize = 4 * 1024;
const WRITE_BYTES: usize = 16 * 1024;

#[derive(Debug, Deserialize)]
struct Publish {
    first: u64,
    count: u64,
    text: String,
}

#[derive(Debug, Deserialize)]
struct Place {
    after: Option<u64>,
}

#[derive(Debug)]
struct Ring {
    live: Sender<Utf8Bytes>,
    past: Mutex<VecDeque<(u64, Utf8Bytes)>>,
    room: usize,
}

impl Ring {
    fn publish(&self, seq: u64, frame: Utf8Bytes) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if self.room <= past.len() {
            past.pop_front();
        }
        past.push_back((seq, frame.clone()));
        // Without a subscriber there is nobody to miss it.
        self.live.send(frame).ok();
    }

    /// What lies behind a place, and what comes after that.
    fn subscribe(&self, after: Option<u64>) -> (Vec<Utf8Bytes>, Receiver<Utf8Bytes>) {
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |seq: u64| after.is_some_and(|after| after < seq);
        let missed = past.iter().rev().take_while(|(seq, _)| newer(*seq));
        let missed: Vec<_> = missed.map(|(_, frame)| frame.clone()).collect();
        (missed.into_iter().rev().collect(), self.live.subscribe())
    }
}

/// The routes, over a ring of so many frames.
pub(super) fn router(ring: usize) -> Router {
    Router::new()
        .route("/ws", get(subscribe))
        .route("/publish", post(publish))
        .with_state(Arc::new(Ring {
            live: Sender::new(ring),
            past: Mutex::default(),
            room: ring,
        }))
}

/// A listener without Nagle's delay.
pub(super) fn undelayed(
    listener: tokio::net::TcpListener,
) -> impl axum::serve::Listener<Addr = std::net::SocketAddr> {
    listener.tap_io(|stream| {
        // A peer that is gone already is found out by the first read.
        stream.set_nodelay(true).ok();
    })
}

async fn publish(State(ring): State<Arc<Ring>>, Json(publish): Json<Publish>) -> StatusCode {
    for seq in publish.first..publish.first.saturating_add(publish.count) {
        ring.publish(seq, frame(seq, &publish.text).into());
    }
    StatusCode::NO_CONTENT
}

/// The smallest frame that the load test reads as an event.
fn frame(seq: u64, text: &str) -> String {
    let data = json!({"content": {"text": text}});
    json!({"op": "event", "event": {"seq": seq, "data": data}}).to_string()
}

/// Bytes of a frame that are not its payload, with a place of a few digits.
pub(crate) fn envelope() -> usize {
    frame(1_000, "").len()
}

async fn subscribe(
    State(ring): State<Arc<Ring>>,
    Query(place): Query<Place>,
    upgrade: WebSocketUpgrade,
) -> Response {
    // Before the upgrade is answered, so that the client is subscribed when it hears of it.
    let (missed, place) = ring.subscribe(place.after);
    drop(ring);
    upgrade
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .on_upgrade(move |socket| feed(socket, missed, place))
}

async fn feed(mut socket: WebSocket, missed: Vec<Utf8Bytes>, mut place: Receiver<Utf8Bytes>) {
    for frame in missed {
        if socket.feed(Message::Text(frame)).await.is_err() {
            return;
        }
    }
    if socket.flush().await.is_err() {
        return;
    }
    loop {
        let fed = tokio::select! {
            frame = place.recv() => write(&mut socket, &mut place, frame).await,
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => socket.send(Message::Text(text)).await.is_ok(),
                message => matches!(message, Some(Ok(_))),
            },
        };
        if !fed {
            return;
        }
    }
}

/// Writes a frame and those that wait behind it, with one flush. A subscriber that fell out of the ring is cut off.
async fn write(
    socket: &mut WebSocket,
    place: &mut Receiver<Utf8Bytes>,
    first: Result<Utf8Bytes, RecvError>,
) -> bool {
    let Ok(first) = first else {
        return false;
    };
    if socket.feed(Message::Text(first)).await.is_err() {
        return false;
    }
    for _ in 1..TOGETHER {
        match place.try_recv() {
            Ok(frame) => {
                if socket.feed(Message::Text(frame)).await.is_err() {
                    return false;
                }
            }
            Err(TryRecvError::Empty) => break,
            Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return false,
        }
    }
    socket.flush().await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_back_gets_what_was_missed_once_and_then_what_comes() {
        let ring = Ring {
            live: Sender::new(8),
            past: Mutex::default(),
            room: 3,
        };
        let publish = |seq: u64| ring.publish(seq, seq.to_string().into());
        (1..=5).for_each(publish);
        let (missed, mut live) = ring.subscribe(Some(3));
        publish(6);
        assert_eq!(missed, ["4", "5"]);
        assert_eq!(live.recv().await.unwrap(), "6");
        assert_eq!(
            ring.subscribe(Some(0)).0.len(),
            3,
            "no more than there is room for"
        );
        assert!(ring.subscribe(None).0.is_empty());
    }
}
