//! Black-box tests of the gateway: over HTTP, WebSocket and the real binary, from the published contract alone.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on shall fail loudly"
)]

mod house;

mod batch;
mod chats;
mod conventions;
mod credentials;
mod devices;
mod events;
mod fuzz;
mod idempotency;
mod isolation;
mod keys;
mod me;
mod messages;
mod operations;
mod paging;
mod process;
mod proxy;
mod queries;
mod sessions;
mod simulations;
mod streams;
mod supervision;
mod ws;

use std::process::ExitCode;
use std::thread;

use libtest_mimic::{Arguments, Trial, run};

use house::{Case, Store, say};

/// The suites: a case that stands in none of them is dead code, which clippy refuses.
const SUITES: &[&[&[Case]]] = &[
    &[
        batch::CASES,
        chats::CASES,
        conventions::CASES,
        credentials::CASES,
        devices::CASES,
        events::CASES,
        fuzz::CASES,
        idempotency::CASES,
        isolation::CASES,
        keys::CASES,
        me::CASES,
        messages::CASES,
        operations::CASES,
        paging::CASES,
        proxy::CASES,
        queries::CASES,
        sessions::CASES,
        simulations::CASES,
        streams::CASES,
        supervision::CASES,
    ],
    process::CASES,
    ws::CASES,
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Most of the time a case waits: for a disk, a server, or the clock.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    let mut trials = Vec::new();
    let mut absences = Vec::new();
    for store in Store::ALL {
        let cases = SUITES.iter().copied().flatten().copied().flatten();
        let of_store: Vec<_> = cases.filter_map(|case| case.trial(store)).collect();
        let is_wanted = |trial| !arguments.list && !arguments.is_filtered_out(trial);
        let absence = of_store.iter().any(is_wanted).then(|| store.absence());
        let absence = absence.flatten();
        let ignoring = |trial: Trial| trial.with_ignored_flag(absence.is_some());
        trials.extend(of_store.into_iter().map(ignoring));
        absences.extend(absence.map(|reason| format!("cases on `{store}` were ignored: {reason}")));
    }
    let conclusion = run(&arguments, trials);
    absences.iter().for_each(|line| say(line));
    conclusion.exit_code()
}
