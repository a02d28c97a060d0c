//! Black-box tests of the gateway: over HTTP, WebSocket and the real binary, from the published contract alone.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on shall fail loudly"
)]

mod house;

mod batch;
mod chats;
mod conventions;
mod credentials;
mod devices;
mod events;
mod fuzz;
mod idempotency;
mod isolation;
mod messages;
mod operations;
mod paging;
mod process;
mod sessions;
mod simulations;
mod streams;
mod ws;
