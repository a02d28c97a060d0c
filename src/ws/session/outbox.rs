//! What waits for the socket, counted.

use std::collections::VecDeque;

use axum::extract::ws::Message;

use crate::ws::socket::length;

/// Bytes that wait before nothing more is taken from the client, and nothing under way goes on.
const BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Outbox {
    pub(super) fn push_back(&mut self, message: Message) {
        self.bytes = self.bytes.saturating_add(length(&message));
        self.messages.push_back(message);
    }

    pub(super) fn pop_front(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(length(&message));
        Some(message)
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether more waits than shall.
    pub(super) const fn is_full(&self) -> bool {
        BYTES_MAX < self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_by_bytes_until_enough_has_left() {
        let mut outbox = Outbox::default();
        let message = || Message::text("x".repeat(BYTES_MAX / 2));
        outbox.push_back(message());
        outbox.push_back(message());
        assert!(!outbox.is_full());
        outbox.push_back(Message::text("x"));
        assert!(outbox.is_full() && outbox.len() == 3);
        outbox.pop_front().unwrap();
        assert!(!outbox.is_full());
        while outbox.pop_front().is_some() {}
        assert!(outbox.is_empty() && outbox.bytes == 0);
    }
}
