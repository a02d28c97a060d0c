//! The WebSocket protocol `buho.v1`.

mod auth;
mod codes;
mod consumer;
mod msgpack;
mod request;
mod resume;
mod slow;
mod subscribe;
