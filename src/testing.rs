//! Tests that look inside the stores and yet belong into the harness of the black-box tests, which names the store of each
//! case and tells of servers that are not there.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on shall fail loudly"
)]

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use tempfile::TempDir;

use crate::store::contract::{ManualClock, Opener, store_contract};
use crate::store::{EmbeddedOptions, EmbeddedStore, cql, transfer};

#[path = "../tests/cql/server.rs"]
pub mod server;

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    /// `contract::writer::places_have_no_hole_whoever_submits`.
    pub name: &'static str,
    /// Runs it; it panics where it fails.
    pub body: fn() -> LocalBoxFuture<'static, ()>,
    /// It takes minutes, and is run when it is asked for.
    pub takes_minutes: bool,
}

impl Inside {
    pub(crate) const fn new(name: &'static str, body: fn() -> LocalBoxFuture<'static, ()>) -> Self {
        Self {
            name,
            body,
            takes_minutes: false,
        }
    }

    pub(crate) const fn of_minutes(mut self) -> Self {
        self.takes_minutes = true;
        self
    }
}

/// The tests of a module, by the names of their functions.
macro_rules! inside {
    ($($case:ident $(.$setting:ident())*),+ $(,)?) => {
        &[$($crate::testing::Inside::new(
            concat!("inside::", stringify!($case)),
            || Box::pin($case()),
        )$(.$setting())*),+]
    };
}
pub(crate) use inside;

/// Those on the embedded store.
pub const EMBEDDED: &[Inside] =
    store_contract!(crate::testing::Folder(tempfile::tempdir().unwrap()));

/// Those on CQL servers, at [`server::contact_points`].
pub const CQL: &[&[Inside]] = &[
    cql::tests::CONTRACT,
    cql::tests::CASES,
    transfer::tests::CQL_CASES,
];

/// Runs a statement on the servers of this run.
pub async fn on_servers(statement: &str) {
    cql::tests::run(statement).await;
}

struct Folder(TempDir);

impl Opener for Folder {
    type Backend = EmbeddedStore;

    async fn open(&self, clock: Arc<ManualClock>) -> Arc<EmbeddedStore> {
        EmbeddedStore::open(EmbeddedOptions::new(self.0.path().to_owned()), clock).unwrap()
    }
}
