//! What the store tells about itself. No tenant is named: their number has no bound.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::database::Harm;

/// The instruments, looked up once. Those that the embedded store has too have the same names.
#[derive(Debug)]
pub(super) struct Measures {
    commits: Counter,
    commit_seconds: Histogram,
    commit_jobs: Histogram,
    records: Counter,
    record_bytes: Counter,
    queue_jobs: Gauge,
    calls: Gauge,
    unknown: Counter,
    unwritten: Counter,
    retries: Counter,
}

/// One commit that succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    /// Jobs in it.
    pub(super) jobs: usize,
    /// Rows written or removed.
    pub(super) records: usize,
    /// Bytes of their keys and values.
    pub(super) bytes: usize,
    /// How long it took, from its first write to its last.
    pub(super) took: Duration,
}

/// Counts a call of the servers until it ends.
pub(super) struct UnderWay<'a>(&'a Gauge);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl Measures {
    pub(super) fn new() -> Self {
        Self {
            commits: counter!("buho_store_commits_total"),
            commit_seconds: histogram!("buho_store_commit_seconds"),
            commit_jobs: histogram!("buho_store_commit_jobs"),
            records: counter!("buho_store_records_total"),
            record_bytes: counter!("buho_store_record_bytes_total"),
            queue_jobs: gauge!("buho_store_queue_jobs"),
            calls: gauge!("buho_store_calls_under_way"),
            unknown: counter!("buho_store_write_failures_total", "harm" => "unknown"),
            unwritten: counter!("buho_store_write_failures_total", "harm" => "none"),
            retries: counter!("buho_store_write_retries_total"),
        }
    }

    pub(super) fn committed(&self, commit: Commit) {
        self.commits.increment(1);
        self.commit_seconds.record(commit.took);
        self.commit_jobs.record(narrow(commit.jobs));
        self.records.increment(wide(commit.records));
        self.record_bytes.increment(wide(commit.bytes));
    }

    pub(super) fn queued(&self) {
        self.queue_jobs.increment(1);
    }

    pub(super) fn settled(&self, jobs: usize) {
        self.queue_jobs.decrement(narrow(jobs));
    }

    pub(super) fn failed(&self, harm: Harm) {
        match harm {
            Harm::Unknown => self.unknown.increment(1),
            Harm::Refused | Harm::Unwritten => self.unwritten.increment(1),
        }
    }

    pub(super) fn retried(&self) {
        self.retries.increment(1);
    }

    pub(super) fn under_way(&self) -> UnderWay<'_> {
        self.calls.increment(1);
        UnderWay(&self.calls)
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Says how long a read took.
pub(super) fn read(operation: &'static str, took: Duration) {
    histogram!("buho_store_read_seconds", "operation" => operation).record(took);
}
