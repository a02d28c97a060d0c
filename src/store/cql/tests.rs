//! The contract on a real server, and what only tables on servers can do.
//!
//! The server is that of the black-box tests; where there is none and none is required, each case says so and passes.

use std::sync::Arc;

#[path = "../../../tests/cql/server.rs"]
mod server;

use super::{CqlOptions, CqlStore};
use crate::config::Config;
use crate::store::contract::{ManualClock, Opener, store_contract};

/// A cluster of its own in the keyspace of this run.
struct Servers {
    options: CqlOptions,
}

/// The servers to test on.
#[expect(clippy::print_stderr, reason = "a test's output is its standard error")]
fn servers() -> Option<Servers> {
    if let Some(reason) = server::absence() {
        eprintln!("not run: {reason}");
        return None;
    }
    let mut config = Config::from_toml("").unwrap().store.cql;
    config.contact_points = server::contact_points().to_vec();
    // That of the black-box tests too: making tables is slow.
    config.keyspace = "buho_test".to_owned();
    config.cluster = actors::model::EventId::generate().to_string();
    config.replication = "1".parse().unwrap();
    // The machine may be busy with many cases at once.
    config.request_time_max_ms = 10_000;
    config.commit_time_max_ms = 30_000;
    config.lease_ms = 20_000;
    let options = CqlOptions::new(config);
    Some(Servers { options })
}

impl Opener for Servers {
    type Backend = CqlStore;

    async fn open(&self, clock: Arc<ManualClock>) -> Arc<CqlStore> {
        let opened = Box::pin(CqlStore::open(self.options.clone(), clock)).await;
        opened.unwrap_or_else(|error| panic!("{}", crate::telemetry::Chain(&error)))
    }
}

store_contract!(match crate::store::cql::tests::servers() {
    Some(servers) => servers,
    None => return,
});
