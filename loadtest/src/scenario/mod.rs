//! The scenarios: each one is a set of options, a measurement, and a report.

pub(crate) mod closed_loop;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod ingest;
pub(crate) mod open_loop;
pub(crate) mod pipeline;
pub(crate) mod publisher;
pub(crate) mod ratios;
pub(crate) mod send_receive;
pub(crate) mod subscribers;
pub(crate) mod yardstick;
