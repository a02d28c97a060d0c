//! The WebSocket protocol `buho.v1`.

mod auth;
mod codes;
mod consumer;
mod msgpack;
mod request;
mod resume;
mod slow;
mod subscribe;

use crate::house::Case;

pub(crate) const CASES: &[&[Case]] = &[
    auth::CASES,
    codes::CASES,
    consumer::CASES,
    msgpack::CASES,
    request::CASES,
    resume::CASES,
    slow::CASES,
    subscribe::CASES,
];
