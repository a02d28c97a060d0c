//! Which store the gateways of a case stand on.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::LazyLock;

use gateway::testing::server;
use tokio::task_local;

task_local! {
    static CURRENT: Store;
}

/// Makes names that no other test run has.
static RUN: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A kind of store that the suites run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Embedded,
    Cql,
}

impl Store {
    pub(crate) const ALL: [Self; 2] = [Self::Embedded, Self::Cql];

    /// The store of the case that runs.
    pub(crate) fn current() -> Self {
        CURRENT.get()
    }

    /// Whether the case that runs stands on CQL servers, as far as its own task can tell.
    pub(crate) fn is_on_servers() -> bool {
        CURRENT.try_with(|it| *it == Self::Cql).unwrap_or(false)
    }

    /// Why its cases cannot run here and need not.
    pub(crate) fn absence(self) -> Option<&'static str> {
        match self {
            Self::Embedded => None,
            Self::Cql => server::absence(),
        }
    }

    /// Runs a case on this store.
    pub(super) async fn during(self, case: impl Future<Output = ()>) {
        CURRENT.scope(self, case).await;
    }

    /// The lines of the configuration that put a gateway with this data folder on this store. It may be killed.
    pub(crate) fn settings(self, data: &Path) -> String {
        self.settings_with(data, Lease::Short)
    }

    /// As [`Self::settings`], with the lease that suits its end.
    pub(crate) fn settings_with(self, data: &Path, lease: Lease) -> String {
        match self {
            Self::Embedded => format!("store.path = \"{}\"\n", data.display()),
            Self::Cql => {
                let settings = cql_settings(data, server::contact_points(), 1, lease);
                // Nothing is wrong with these servers, but the machine may be busy with many cases at once.
                settings
                    + "cql.request_time_max_ms = 20000\ncql.commit_time_max_ms = 20000\n\
                       chats.command_time_max_ms = 25000\n"
            }
        }
    }
}

/// How long a gateway owns its cluster on CQL servers when it is heard of no more. It renews that three times as often, and
/// writes nothing while it could not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lease {
    /// For gateways that are killed.
    Short,
    /// For those that end in good order, however slow the servers may be.
    Long,
}

/// A CQL store at these servers, with so many copies of each row. All gateways share a keyspace, since making tables is
/// slow; each data folder stands for a cluster of its own in it.
pub(crate) fn cql_settings(
    data: &Path,
    contact_points: &[String],
    copies: usize,
    lease: Lease,
) -> String {
    let cluster = RUN.hash_one(data);
    let lease_ms = match lease {
        Lease::Short => 5_000,
        Lease::Long => 30_000,
    };
    format!(
        "store.path = \"{}\"\nstore.kind = \"cql\"\ncql.contact_points = {contact_points:?}\n\
         cql.keyspace = \"buho_test\"\ncql.replication = \"{copies}\"\n\
         cql.cluster = \"test-{cluster:016x}\"\ncql.lease_ms = {lease_ms}\n",
        data.display()
    )
}

impl fmt::Display for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Embedded => "embedded",
            Self::Cql => "cql",
        })
    }
}
