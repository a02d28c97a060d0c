//! The `buho` program: arguments → configuration → gateway → wait → stop, and the back office's commands.

mod cli;
mod demo;

use std::process::ExitCode;

use tikv_jemalloc_ctl::background_thread;
use tikv_jemallocator::Jemalloc;

/// It keeps little of what was given back, and gives it to the system while nobody allocates: the system's allocator was
/// at the top of the profile under load, another one held more after each larger merge of the store's tables.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // Where it is refused, pages are given back later.
    let _granted = background_thread::write(true);
    cli::run()
}
