//! The `buho` program: arguments → configuration → gateway → wait → stop, and the back office's commands.

mod cli;
mod demo;

use std::process::ExitCode;

/// Under load the system's allocator was at the top of the profile, with the merging of free pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
