//! The real binary as a child process: how it starts, ends, is killed, and what it leaves behind.

mod auditor;
mod binary;
mod commands;
mod demo;
mod exits;
mod filesystem;
mod kill;
mod powercut;
mod slow;
mod strace;
mod termination;
mod trace;
