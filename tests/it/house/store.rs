//! Which store the gateways of a case stand on.

use std::fmt;
use std::path::Path;

use tokio::task_local;

task_local! {
    static CURRENT: Store;
}

/// A kind of store that the suites run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Embedded,
}

impl Store {
    pub(crate) const ALL: [Self; 1] = [Self::Embedded];

    /// The store of the case that runs.
    pub(crate) fn current() -> Self {
        CURRENT.get()
    }

    /// Runs a case on this store.
    pub(super) async fn during(self, case: impl Future<Output = ()>) {
        CURRENT.scope(self, case).await;
    }

    /// The lines of the configuration that put a gateway on this store.
    pub(super) fn settings(self, data: &Path) -> String {
        match self {
            Self::Embedded => format!("store.path = \"{}\"\n", data.display()),
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Embedded => "embedded",
        })
    }
}
