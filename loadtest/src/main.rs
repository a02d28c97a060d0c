//! The load test's program. Everything is in the library, so that tests can run scenarios in their own process.

use std::process::ExitCode;

fn main() -> ExitCode {
    buho_loadtest::main()
}
