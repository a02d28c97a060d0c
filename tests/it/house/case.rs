//! A case: one test, run once for each store in a runtime and on a thread of its own.

use std::any::Any;
use std::mem::take;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use gateway::testing::Inside;
use libtest_mimic::{Failed, Trial};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::{Store, cluster};

/// What the path of a case in this crate begins with.
const OWN_CRATE: &str = concat!(env!("CARGO_CRATE_NAME"), "::");

/// What failed so far, a line each.
static FAILED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// How long each took that has ended since it was asked last.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());
/// How long a case may take: one that waits for what never comes shall be named, not cut off with the whole run.
const CASE_MAX: Duration = Duration::from_secs(30 * 60);
/// How many of the slowest are named.
const SLOWEST: usize = 10;

/// One test of a suite; [`cases!`] makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Its path in the suites: `messages::a_sent_message_is_told`.
    path: &'static str,
    body: fn() -> LocalBoxFuture<'static, ()>,
    is_threaded: bool,
    /// Why what it needs beside the store is not here and need not be.
    lacks: Option<fn() -> Option<&'static str>>,
    takes_minutes: bool,
    stores: &'static [Store],
}

/// The cases of a module, by the names of their functions: `cases![one, another.threaded()]`.
macro_rules! cases {
    ($($case:ident $(.$setting:ident($($value:expr)?))*),+ $(,)?) => {
        &[$($crate::house::Case::new(
            concat!(module_path!(), "::", stringify!($case)),
            || Box::pin($case()),
        )$(.$setting($($value)?))*),+]
    };
}
pub(crate) use cases;

impl Case {
    pub(crate) const fn new(path: &'static str, body: fn() -> LocalBoxFuture<'static, ()>) -> Self {
        Self {
            path,
            body,
            is_threaded: false,
            lacks: None,
            takes_minutes: false,
            stores: &Store::ALL,
        }
    }

    /// Its tasks run on two threads, as those of the real gateway do.
    pub(crate) const fn threaded(mut self) -> Self {
        self.is_threaded = true;
        self
    }

    /// A test that looks inside the store.
    pub(crate) const fn inside(inside: Inside, store: &'static [Store]) -> Self {
        Self {
            path: inside.name,
            body: inside.body,
            is_threaded: true,
            lacks: None,
            takes_minutes: inside.takes_minutes,
            stores: store,
        }
    }

    /// It is about the folder of the embedded store and what a disk does to it, or about no store at all.
    pub(crate) const fn embedded(mut self) -> Self {
        self.stores = &[Store::Embedded];
        self
    }

    /// It is about the CQL store alone.
    pub(crate) const fn cql(mut self) -> Self {
        self.stores = &[Store::Cql];
        self
    }

    /// It starts servers of its own, so that an address of running ones is not enough.
    pub(crate) const fn own_servers(self) -> Self {
        self.needing(cluster::absence).cql()
    }

    /// It needs something that may not be here: then this says what.
    pub(crate) const fn needing(mut self, lack: fn() -> Option<&'static str>) -> Self {
        self.lacks = Some(lack);
        self
    }

    /// Whether it needs something beside the store.
    pub(crate) const fn needs_more(self) -> bool {
        self.lacks.is_some()
    }

    /// Why it cannot run here on this store and need not.
    pub(crate) fn absence(self, store: Store) -> Option<&'static str> {
        store
            .absence()
            .or_else(|| self.lacks.and_then(|lack| lack()))
    }

    /// The case on one store, where that makes sense: `embedded::messages::a_sent_message_is_told`.
    pub(crate) fn trial(self, store: Store) -> Option<Trial> {
        let path = self.path.strip_prefix(OWN_CRATE).unwrap_or(self.path);
        let name = format!("{store}::{path}");
        let trial = Trial::test(name.clone(), move || self.run(&name, store));
        let trial = trial.with_ignored_flag(self.takes_minutes);
        self.stores.contains(&store).then_some(trial)
    }

    /// Runs on a thread with the case's name, so that a panic says whose it is.
    fn run(self, name: &str, store: Store) -> Result<(), Failed> {
        let mut runtime = if self.is_threaded {
            Builder::new_multi_thread()
        } else {
            Builder::new_current_thread()
        };
        let runtime = runtime.worker_threads(2).enable_all().build()?;
        let body = move || {
            let body = async { timeout(CASE_MAX, store.during((self.body)())).await };
            runtime.block_on(body).expect("the case ends");
        };
        let begun = Instant::now();
        let thread = thread::Builder::new().name(name.into()).spawn(body)?;
        let ended = thread.join();
        locked(&TIMES).push((begun.elapsed(), name.into()));
        ended.unwrap_or_else(|panic| {
            let line = format!("{name} failed: {}", reason(&*panic));
            locked(&FAILED).push(line);
            resume_unwind(panic)
        });
        Ok(())
    }

    /// The cases that failed since it was asked last, each with its reason.
    pub(crate) fn failed() -> Vec<String> {
        take(&mut *locked(&FAILED))
    }

    /// The slowest cases since it was asked last: what to look at where the suites take too long.
    pub(crate) fn slowest() -> Vec<String> {
        let mut times = take(&mut *locked(&TIMES));
        times.sort_by(|one, other| other.cmp(one));
        times.truncate(SLOWEST);
        let line = |(took, name): (Duration, String)| format!("{name} took {} s", took.as_secs());
        times.into_iter().map(line).collect()
    }
}

fn locked<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said.
fn reason(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    let said = panic.downcast_ref::<&str>().copied().or_else(owned);
    said.unwrap_or("a panic without words")
}
