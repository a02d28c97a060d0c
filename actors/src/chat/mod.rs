//! One chat: gives its messages their order and keeps the ladder of their receipts.
//!
//! - **Owns:** the ids of a chat's messages, the state of the recent ones, the chat's row.
//! - **Supervised by:** its device.
//! - **On a crash:** whoever waits is told that the outcome is unknown; the next call starts a successor, which waits
//!   until the writer has passed the last job of its predecessor and then loads. One that crashes again and again rests.
//! - **Stops** when nothing was asked of it for a while, or when the writer turned one of its jobs down.

mod actor;
mod handle;
mod message;
mod state;

pub use handle::{ChatHome, ChatKey, ChatOwner, Chats, Draft, SentMessage, StepOf};
pub use message::ReadMark;
pub(crate) use state::{id_of_upstream, to_json};
