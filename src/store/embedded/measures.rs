//! What the store tells about itself. No tenant is named: their number has no bound.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

/// The writer's instruments, looked up once.
pub(super) struct Measures {
    commits: Counter,
    commit_seconds: Histogram,
    commit_jobs: Histogram,
    records: Counter,
    record_bytes: Counter,
    syncs: Counter,
    queue_jobs: Gauge,
    buffered: Gauge,
    cached: Gauge,
    opened_again: Counter,
}

/// One commit that succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commit {
    /// Jobs in it.
    pub(super) jobs: u32,
    /// Rows written or removed.
    pub(super) records: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// How long write and sync took.
    pub(super) took: Duration,
}

impl Measures {
    pub(super) fn new() -> Self {
        Self {
            commits: counter!("buho_store_commits_total"),
            commit_seconds: histogram!("buho_store_commit_seconds"),
            commit_jobs: histogram!("buho_store_commit_jobs"),
            records: counter!("buho_store_records_total"),
            record_bytes: counter!("buho_store_record_bytes_total"),
            syncs: counter!("buho_store_syncs_total"),
            queue_jobs: gauge!("buho_store_queue_jobs"),
            buffered: gauge!("buho_store_buffer_bytes"),
            cached: gauge!("buho_store_cache_bytes"),
            opened_again: counter!("buho_store_opened_again_total"),
        }
    }

    pub(super) fn committed(&self, commit: Commit) {
        self.commits.increment(1);
        self.syncs.increment(1);
        self.commit_seconds.record(commit.took);
        self.commit_jobs.record(commit.jobs);
        self.records.increment(commit.records);
        self.record_bytes.increment(commit.bytes);
    }

    /// Bytes of the engine's tables in memory, and of its cache of blocks.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a gauge is a float, and so many bytes fit into it"
    )]
    pub(super) fn in_memory(&self, buffered: u64, cached: u64) {
        self.buffered.set(buffered as f64);
        self.cached.set(cached as f64);
    }

    /// Another engine took the place of one that had met a full disk.
    pub(super) fn opened_again(&self) {
        self.opened_again.increment(1);
    }

    pub(super) fn queued(&self) {
        self.queue_jobs.increment(1);
    }

    pub(super) fn settled(&self, jobs: u32) {
        self.queue_jobs.decrement(jobs);
    }
}

/// Says how long a read took, with its wait for a thread.
pub(super) fn read(operation: &'static str, took: Duration) {
    histogram!("buho_store_read_seconds", "operation" => operation).record(took);
}
