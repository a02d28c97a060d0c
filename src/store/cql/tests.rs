//! The contract on a real server, and what only tables on servers can do.
//!
//! `BUHO_TEST_CQL` names the servers (`host:port`, between commas); without it each case says so and passes.

use std::sync::Arc;

use super::{CqlOptions, CqlStore};
use crate::config::Config;
use crate::store::contract::{ManualClock, Opener, store_contract};

/// A cluster of its own in the keyspace of this run.
struct Servers {
    options: CqlOptions,
}

/// The servers to test on.
fn servers() -> Option<Servers> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where the servers are, only the environment of the tests knows"
    )]
    let points = std::env::var("BUHO_TEST_CQL").ok();
    let Some(points) = points else {
        eprintln!("not run: BUHO_TEST_CQL names no server");
        return None;
    };
    let mut config = Config::from_toml("").unwrap().store.cql;
    config.contact_points = points.split(',').map(str::to_owned).collect();
    config.keyspace = format!("buho_test_{}", std::process::id());
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
