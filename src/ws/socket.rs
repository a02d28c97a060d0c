//! The WebSocket as the session sees it: messages are put into one write buffer and written together; reading and
//! writing go on side by side.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::{Sink, Stream};
use tokio::time::Instant;

use super::close::Close;
use super::gate::Gate;
use crate::http::Written;

/// Bytes that are put into the write buffer before they are written out. Few, so that a slow reader is seen to move.
const BATCH_BYTES: usize = 16 << 10;
/// After saying goodbye the client's goodbye is waited for: closing at once would reset the connection under our code.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(5);
/// The same where the client's bytes can no longer be read.
const BROKEN_TIME_MAX: Duration = Duration::from_secs(1);

/// What came from the socket.
#[derive(Debug)]
pub(super) enum Io {
    /// Everything is written.
    Flushed,
    /// A message.
    Message(Message),
    /// The client broke the protocol; it can no longer be read.
    Broken(Close),
    /// The connection is gone.
    Gone,
}

/// The connection is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

#[derive(Debug)]
pub(super) struct Socket {
    /// Writing goes by the gate: it calls the session itself.
    inner: Gate<WebSocket>,
    /// Bytes in the write buffer, about.
    fed: usize,
    written: Written,
    stall: Stall,
}

/// Whether a write makes progress.
#[derive(Debug, Default)]
struct Stall {
    /// Since when it makes none.
    since: Option<Instant>,
    /// What the connection had taken then.
    written: u64,
}

impl Stall {
    /// The write is not through, and the connection has taken so many bytes.
    fn goes_on(&mut self, written: u64, now: Instant) {
        if self.since.is_none() || self.written != written {
            *self = Self {
                since: Some(now),
                written,
            };
        }
    }
}

impl Socket {
    pub(super) fn new(inner: WebSocket, written: Written) -> Self {
        Self {
            inner: Gate::new(inner),
            fed: 0,
            written,
            stall: Stall::default(),
        }
    }

    /// Whether another message may be put into the write buffer.
    pub(super) const fn has_room(&self) -> bool {
        self.fed < BATCH_BYTES && self.stall.since.is_none()
    }

    /// Since when a write makes no progress.
    pub(super) const fn blocked(&self) -> Option<Instant> {
        self.stall.since
    }

    /// Puts a message into the write buffer.
    pub(super) fn feed(&mut self, message: Message) -> Result<(), Gone> {
        self.fed += length(&message).saturating_add(4);
        Pin::new(self.inner.part())
            .start_send(message)
            .map_err(|_| Gone)
    }

    /// Writes what is in the write buffer, as far as the peer takes it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        if self.fed == 0 {
            return Poll::Ready(Ok(()));
        }
        match Pin::new(self.inner.part()).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.fed = 0;
                self.stall.since = None;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(_)) => Poll::Ready(Err(Gone)),
            Poll::Pending => {
                self.stall.goes_on(self.written.bytes(), Instant::now());
                Poll::Pending
            }
        }
    }

    /// Writes what waits, and reads where `reads` says so.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, reads: bool) -> Poll<Io> {
        if 0 < self.fed {
            match self.poll_flush(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Io::Flushed),
                Poll::Ready(Err(Gone)) => return Poll::Ready(Io::Gone),
                Poll::Pending => {}
            }
        }
        if !reads {
            return Poll::Pending;
        }
        match self.inner.poll(cx, |it, cx| Pin::new(it).poll_next(cx)) {
            Poll::Ready(Some(Ok(message))) => {
                if matches!(message, Message::Ping(_) | Message::Close(_)) {
                    // Its answer lies in the write buffer.
                    self.fed = self.fed.max(1);
                }
                Poll::Ready(Io::Message(message))
            }
            Poll::Ready(Some(Err(error))) => {
                Poll::Ready(broken(&error).map_or(Io::Gone, Io::Broken))
            }
            Poll::Ready(None) => Poll::Ready(Io::Gone),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Says goodbye, and waits for the client's.
    pub(super) async fn close(mut self, why: Close) {
        let frame = CloseFrame {
            code: why.code(),
            reason: why.reason().into(),
        };
        if self.feed(Message::Close(Some(frame))).is_err() {
            return;
        }
        let reads = !matches!(why, Close::TooLarge | Close::Protocol | Close::NotUtf8);
        let patience = if matches!(why, Close::Protocol | Close::NotUtf8) {
            BROKEN_TIME_MAX
        } else {
            GOODBYE_TIME_MAX
        };
        self.drain(reads, patience).await;
    }

    /// Writes the answer to the client's goodbye.
    pub(super) async fn farewell(mut self) {
        let written = std::future::poll_fn(|cx| self.poll_flush(cx));
        // Whoever does not take it has said goodbye all the same.
        drop(tokio::time::timeout(BROKEN_TIME_MAX, written).await);
    }

    /// Writes what waits. Where it can be read, what comes is passed over until the client says goodbye; where not, its
    /// bytes are left time to arrive.
    async fn drain(&mut self, reads: bool, patience: Duration) {
        let over = async {
            loop {
                match std::future::poll_fn(|cx| self.poll(cx, reads)).await {
                    Io::Gone | Io::Broken(_) | Io::Message(Message::Close(_)) => return,
                    Io::Flushed
                    | Io::Message(
                        Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_),
                    ) => {}
                }
            }
        };
        // Whoever takes longer loses the code.
        drop(tokio::time::timeout(patience, over).await);
    }
}

pub(super) fn length(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) | Message::Pong(bytes) => bytes.len(),
        Message::Close(_) => 128,
    }
}

/// What an error of the library means. It does not show its own types through axum, so its words are read; a test
/// watches over them.
fn broken(error: &axum::Error) -> Option<Close> {
    let text = error.to_string();
    if text.starts_with("Space limit exceeded") {
        Some(Close::TooLarge)
    } else if text.starts_with("UTF-8 encoding error") {
        Some(Close::NotUtf8)
    } else if text.starts_with("WebSocket protocol error")
        && !text.contains("without closing handshake")
    {
        Some(Close::Protocol)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
    use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

    use super::*;

    #[test]
    fn a_write_that_moves_does_not_stand_still() {
        let (mut stall, begun) = (Stall::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        for (written, second, since) in [(5, 0, 0), (5, 9, 0), (6, 20, 20), (6, 40, 20)] {
            stall.goes_on(written, at(second));
            assert_eq!(stall.since, Some(at(since)), "at {second}");
        }
        stall.since = None;
        stall.goes_on(6, at(50));
        assert_eq!(stall.since, Some(at(50)));
    }

    #[test]
    fn the_librarys_words_are_understood() {
        let meaning = |error: Error| broken(&axum::Error::new(error));
        let too_long = CapacityError::MessageTooLong {
            size: 2,
            max_size: 1,
        };
        assert_eq!(meaning(Error::Capacity(too_long)), Some(Close::TooLarge));
        assert_eq!(
            meaning(Error::Protocol(ProtocolError::NonZeroReservedBits)),
            Some(Close::Protocol)
        );
        assert_eq!(
            meaning(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)),
            None
        );
        let wrong = Utf8Bytes::try_from(vec![0xff]).unwrap_err();
        assert_eq!(
            meaning(Error::Utf8(wrong.to_string())),
            Some(Close::NotUtf8)
        );
        assert_eq!(
            meaning(Error::Io(std::io::ErrorKind::BrokenPipe.into())),
            None
        );
    }
}
