//! The `buho` program: arguments → configuration → gateway → wait → stop, and the back office's commands.

mod cli;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
