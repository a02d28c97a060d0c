//! Bugs on demand: an actor of a house, which runs in this process, panics as no caller could make it.

pub(crate) use actors::testing::{Moment, panic_in};
