//! Load test of the gateway: a client that shares no type with it and speaks only the public wire, and the
//! yardsticks that its figures are measured by. `README.md` beside this crate says what each figure means.

mod alarm;
mod audit;
mod cli;
mod client;
mod error;
mod latency;
mod metrics;
mod monitor;
mod progress;
mod report;
mod scenario;
mod server;
mod target;
mod yardstick;

pub use cli::{Verdict, main, run};
