//! Bugs on demand: an actor of a house, which runs in this process, panics as no caller could make it.

use std::panic::{set_hook, take_hook};

pub(crate) use actors::testing::{Moment, WANTED, panic_in};

/// Says nothing of panics that are wanted. To find out where one came from takes seconds in a program of this size on a busy
/// machine, and who counts restarts counts those within some seconds.
pub(crate) fn hush_wanted_panics() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(WANTED) {
            usual(panic);
        }
    }));
}
