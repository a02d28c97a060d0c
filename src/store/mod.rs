//! Where everything durable is kept: the backends of [`actors::ports::Store`].
//!
//! Each backend is a folder and runs the same contract (`contract.rs`), which is what the rest of the gateway may rely
//! on. Today there is one: [`embedded`], a store in a folder of this machine.

#[cfg(test)]
mod contract;
mod embedded;

pub(crate) use embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
