//! The mind of the gateway: the actors and the words they speak.
//!
//! Reading order: [`model`] (nouns), [`ports`] (what we need from outside), [`door`] (how anybody may talk to an
//! actor), [`log`] (the event log), then one folder per actor.

pub mod chat;
pub mod device;
pub mod door;
pub mod error;
mod limits;
pub mod log;
pub mod model;
pub mod node;
pub mod ports;
pub mod supervise;
pub mod tenant;
#[cfg(feature = "testing")]
pub mod testing;

pub use error::{CommandError, StartError};
pub use limits::Limits;
