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
            flight: &flight,
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
    flight: &'a Flight,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        // The map's own handle, and that of who leaves. Under the same name there may be a newer flight by now.
        let ends = |flight: &Flight| {
            Arc::ptr_eq(flight, self.flight)
                && (flight.initialized() || Arc::strong_count(flight) <= 2)
        };
        self.flights
            .0
            .remove_if(&self.name, |_, flight| ends(flight));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use actors::model::MessageId;
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    fn page() -> MessagePage {
        MessagePage {
            items: Vec::new(),
            next: Some(MessageId::generate()),
        }
    }

    #[tokio::test]
    async fn a_page_that_many_want_at_once_is_read_once() {
        let (flights, reads) = (Flights::default(), AtomicUsize::new(0));
        let gate = Semaphore::new(0);
        let read = || async {
            reads.fetch_add(1, Ordering::Relaxed);
            drop(gate.acquire().await);
            Ok(page())
        };
        let all = join_all((0..20).map(|_| flights.once("page".to_owned(), read())));
        let other = flights.once("other".to_owned(), read());
        let open = async {
            tokio::task::yield_now().await;
            gate.close();
        };
        let (pages, other, ()) = tokio::join!(all, other, open);
        assert!(pages.into_iter().all(|it| it.unwrap().next.is_some()));
        assert!(other.unwrap().next.is_some());
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        // Nothing is kept: the next one reads what there is then.
        flights.once("page".to_owned(), read()).await.unwrap();
        assert_eq!(reads.load(Ordering::Relaxed), 3);
        assert!(flights.0.is_empty());
    }

    #[tokio::test]
    async fn an_error_is_told_once_and_the_others_hear_that_the_servers_are_away() {
        let flights = Flights::default();
        let read = || async {
            tokio::task::yield_now().await;
            Err(StoreError::Damaged { what: "page" })
        };
        let told = join_all((0..5).map(|_| flights.once("page".to_owned(), read()))).await;
        let count = |wanted: fn(&StoreError) -> bool| {
            let errors = told.iter().filter_map(|it| it.as_ref().err());
            errors.filter(|it| wanted(it)).count()
        };
        assert_eq!(count(|it| matches!(it, StoreError::Damaged { .. })), 1);
        assert_eq!(count(|it| matches!(it, StoreError::Away)), 4);
        assert!(flights.0.is_empty());
    }

    #[tokio::test]
    async fn who_goes_away_while_reading_is_followed_by_who_waits() {
        let flights = Flights::default();
        let endless = flights.once("page".to_owned(), std::future::pending());
        let next = flights.once("page".to_owned(), async { Ok(page()) });
        let leaving = async {
            tokio::select! {
                biased;
                _ = endless => {}
                () = tokio::task::yield_now() => {}
            }
        };
        let ((), page) = tokio::join!(leaving, next);
        assert!(page.unwrap().next.is_some());
        assert!(flights.0.is_empty());
    }
}
