//! A client of the public wire: HTTP/1.1 with keep-alive, and the WebSocket protocol `buho.v1`.
//!
//! It shares the machine with the server it measures, so it is made to be cheap: requests are built before the
//! run, and answers are parsed no further than a scenario needs.

pub(crate) mod calls;
pub(crate) mod frame;
pub(crate) mod http;
pub(crate) mod payload;
pub(crate) mod peer;
pub(crate) mod response;
pub(crate) mod sends;
pub(crate) mod ws;

use std::net::SocketAddr;

/// Where a server is, and with which right to speak to it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// The server's address.
    pub(crate) address: SocketAddr,
    /// The API key; bare yardstick servers take none.
    pub(crate) credential: Option<String>,
}
