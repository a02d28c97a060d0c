//! Yardsticks: the least that could do a part of the gateway's work, on the same machine, under the same load.
//!
//! Only here are axum and the storage engine known. The servers run in a child process of this program, so that
//! their CPU and memory can be read apart from the client's.

pub(crate) mod append;
pub(crate) mod committer;
pub(crate) mod http;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod ws;
