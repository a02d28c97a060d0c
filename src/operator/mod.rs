//! The back office: what the owner of the machine may do that no API key can.
//!
//! One Unix socket that only the gateway's own user can open. A connection carries one JSON line each way:
//! `{"command":"tenant_create","name":"Acme"}` is answered by `{"tenant":{…}}`, or by
//! `{"error":{"code":"invalid","detail":"…"}}`. The words are in [`mod@line`]; `buho tenant`, `buho key` and the like are
//! clients of it ([`client`]).

pub mod client;
mod desk;
pub mod line;
mod removals;
mod socket;

pub(crate) use desk::OperatorDesk;
pub(crate) use removals::Removals;
pub(crate) use socket::OperatorSocket;
pub use socket::SocketError;
