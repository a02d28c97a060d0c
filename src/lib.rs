#![doc = include_str!("ARCHITECTURE.md")]

mod connector;
mod credentials;
mod gateway;
mod http;
mod problem;
mod store;
mod ws;

pub mod config;
pub mod operator;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;

pub use gateway::{Gateway, StartError, StoreTrouble, SystemClock};
pub use store::{schema, transfer};
