//! Reads of one and the same page at the same time are done once.

use std::sync::Arc;

use actors::ports::{MessagePage, StoreError};
use dashmap::DashMap;
use tokio::sync::OnceCell;

/// A page that is being read. An error is told to whoever reads, the others hear that the servers are away.
type Flight = Arc<OnceCell<Option<MessagePage>>>;

/// The pages that are being read; each is forgotten with its last reader.
#[derive(Debug, Default)]
pub(super) struct Flights(DashMap<String, Flight>);

impl Flights {
    /// Reads a page, or waits for who reads it. A reader that goes away is followed by the next one.
    pub(super) async fn once(
        &self,
        name: String,
        read: impl Future<Output = Result<MessagePage, StoreError>> + Send,
    ) -> Result<MessagePage, StoreError> {
        let flight = Arc::clone(&self.0.entry(name.clone()).or_default());
        let _landing = Landing {
            flights: self,
            name,
        };
        let mut failed = None;
        let page = flight
            .get_or_init(async || match read.await {
                Ok(page) => Some(page),
                Err(error) => {
                    failed = Some(error);
                    None
                }
            })
            .await;
        page.clone()
            .ok_or_else(|| failed.unwrap_or(StoreError::Away))
    }
}

/// Forgets a flight: who comes later begins a new one.
struct Landing<'a> {
    flights: &'a Flights,
    name: String,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        // The map's own handle, and that of who leaves.
        let alone = |flight: &Flight| flight.initialized() || Arc::strong_count(flight) <= 2;
        self.flights
            .0
            .remove_if(&self.name, |_, flight| alone(flight));
    }
}
