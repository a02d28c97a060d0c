//! The scenarios: each one is a set of options, a measurement, and a report.

pub(crate) mod closed_loop;
pub(crate) mod device_fleet;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod history;
pub(crate) mod idle;
pub(crate) mod ingest;
pub(crate) mod latency;
pub(crate) mod listener;
pub(crate) mod mix;
pub(crate) mod open_loop;
pub(crate) mod pace;
pub(crate) mod peer;
pub(crate) mod pipeline;
pub(crate) mod publisher;
pub(crate) mod ratios;
pub(crate) mod read_back;
pub(crate) mod sleeping_chats;
pub(crate) mod soak;
pub(crate) mod start;
pub(crate) mod storm;
mod storm_news;
pub(crate) mod subscribers;
pub(crate) mod traffic;
pub(crate) mod yardstick;

/// Bytes of a MiB.
pub(crate) const MEBIBYTE: f64 = 1_048_576.0;

/// Bytes as MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    crate::report::float(bytes) / MEBIBYTE
}
