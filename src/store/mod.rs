//! Where everything durable is kept: the backends of [`actors::ports::Store`].
//!
//! Each backend is a folder and runs the same contract (`contract.rs`), which is what the rest of the gateway may rely
//! on: [`embedded`], a store in a folder of this machine, and [`cql`], tables of a ScyllaDB or Cassandra. Both write
//! values in the same form (`rows`), so that a store can move from one to the other ([`transfer`]).

#[cfg(feature = "testing")]
pub(crate) mod contract;
pub(crate) mod cql;
mod embedded;
mod rows;
pub mod transfer;

pub(crate) use cql::{CqlOptions, CqlStore};
/// The tables of the CQL store.
pub mod schema {
    pub use super::cql::OpenError;
    pub use super::cql::schema::{SchemaError, SchemaFound, apply, check, text};
}

pub(crate) use embedded::{EmbeddedOptions, EmbeddedStore, OpenError};
