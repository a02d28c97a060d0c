//! The node: the root of the tree.
//!
//! - **Owns:** which tenants are awake, and the sweep that lets idle chats leave.
//! - **Supervised by:** the process. **Supervises:** its tenants.
//! - **On a crash of a tenant:** starts it again from the store, under a restart budget.
//! - **Stops** with the process.

mod actor;
mod handle;
mod measures;
mod message;

pub use handle::{Base, NodeHandle};
