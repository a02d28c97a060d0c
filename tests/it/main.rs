//! Black-box tests of the gateway: over HTTP, WebSocket and the real binary, from the published contract alone. Beside
//! them the contract of the stores.

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
use std::time::Instant;

use gateway::testing::{self, Inside};
use libtest_mimic::{Arguments, run};

use house::{Case, Cluster, Store, hush_wanted_panics, say};

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

/// The contract of the stores, and what else is tested from their inside.
fn inside(store: Store) -> impl Iterator<Item = Case> {
    let (suites, stores): (&[&[Inside]], &[Store]) = match store {
        Store::Embedded => (&[testing::EMBEDDED], &[Store::Embedded]),
        Store::Cql => (testing::CQL, &[Store::Cql]),
    };
    let cases = suites.iter().copied().flatten();
    cases.map(|it| Case::inside(*it, stores))
}

fn main() -> ExitCode {
    hush_wanted_panics();
    let mut arguments = Arguments::from_args();
    // Most of the time a case waits: for a disk, a server, or the clock.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    let mut absences = Vec::new();
    let mut has_failed = false;
    // One store after the other, so that each has its figures.
    for store in Store::ALL {
        let suites = SUITES.iter().copied().flatten().copied().flatten().copied();
        let mut cases: Vec<Case> = suites.chain(inside(store)).collect();
        // They take longest, and wait for each other: at the end there would be nothing to do beside them.
        cases.sort_by_key(|it| !it.needs_more());
        let mut trials = Vec::new();
        for case in cases {
            let Some(trial) = case.trial(store) else {
                continue;
            };
            let is_wanted = !arguments.list && !arguments.is_filtered_out(&trial);
            let absence = is_wanted.then(|| case.absence(store)).flatten();
            let is_ignored = trial.has_ignored_flag() || absence.is_some();
            trials.push(trial.with_ignored_flag(is_ignored));
            let line = absence.map(|it| format!("cases on `{store}` were ignored: {it}"));
            absences.extend(line.filter(|it| !absences.contains(it)));
        }
        let begun = Instant::now();
        let done = run(&arguments, trials);
        Cluster::stop_spare();
        has_failed |= done.has_failed();
        if !arguments.list {
            let passed = done.num_passed;
            let took = begun.elapsed().as_secs();
            say(&format!("`{store}`: {passed} cases passed in {took} s"));
            Case::slowest().iter().for_each(|line| say(line));
        }
    }
    absences.iter().for_each(|line| say(line));
    // Once more, where they are found although thousands of lines came after them.
    Case::failed().iter().for_each(|line| say(line));
    if has_failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
