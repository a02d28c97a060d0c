//! One device: its session, and the queue of what waits for its network.
//!
//! - **Owns:** the state of the session (what is wanted is durable, what is observed is reported), the outbox, typing.
//! - **Supervised by:** its tenant. **Supervises:** its chats.
//! - **On a crash:** started again from the store, under a restart budget; its chats go with it and load again. What was
//!   accepted and not handed over is read from the outbox in the store.
//! - **Stops** when it is removed, or with its tenant.

mod actor;
mod changes;
mod handle;
mod message;
mod outbox;
mod shared;
mod sink;
mod state;
mod work;

pub use handle::DeviceHandle;
pub(crate) use message::check_description;
pub use message::{DevicePatch, MetadataPatch};
pub(crate) use shared::OutboxView;
