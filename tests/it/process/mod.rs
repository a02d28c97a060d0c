//! The real binary as a child process: how it starts, ends, is killed, and what it leaves behind.

mod auditor;
mod backup;
mod binary;
mod commands;
mod demo;
mod exits;
mod filesystem;
mod full_disk;
mod kill;
mod measures;
mod outage;
mod powercut;
mod readers;
mod secured;
mod slow;
mod strace;
mod termination;
mod trace;

use crate::house::Case;

pub(crate) const CASES: &[&[Case]] = &[
    backup::CASES,
    commands::CASES,
    demo::CASES,
    exits::CASES,
    full_disk::CASES,
    kill::CASES,
    measures::CASES,
    // Before `outage`, one of whose cases needs all the nodes that there may be.
    secured::CASES,
    outage::CASES,
    powercut::CASES,
    readers::CASES,
    slow::CASES,
    strace::CASES,
    termination::CASES,
];
