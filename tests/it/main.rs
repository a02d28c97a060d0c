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
mod messages;
mod operations;
mod paging;
mod process;
mod sessions;
mod simulations;
mod streams;
mod ws;

use std::process::ExitCode;

use libtest_mimic::{Arguments, run};

use house::{Case, Store};

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
        messages::CASES,
        operations::CASES,
        paging::CASES,
        sessions::CASES,
        simulations::CASES,
        streams::CASES,
    ],
    process::CASES,
    ws::CASES,
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = SUITES.iter().copied().flatten().copied().flatten();
    let on = |store: Store| cases.clone().filter_map(move |case| case.trial(store));
    let trials = Store::ALL.into_iter().flat_map(on).collect();
    run(&arguments, trials).exit_code()
}
