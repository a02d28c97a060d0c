//! Logs and metrics.
//!
//! Logs go to stderr and never hold a secret, the text of a message or a full number: our types mask themselves where
//! they are printed for debugging, other crates are heard only from `warn` on (their traces print what passes through
//! them), and of a panic only a literal message is told.

use std::error::Error;
use std::fmt;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tikv_jemalloc_ctl::{epoch, stats};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt as lines};

use crate::config::{Log, LogFormat, LogLevel};

/// Our own crates, as the targets of log lines name them.
const OWN: [&str; 3] = ["gateway", "actors", "buho"];

/// Upper bounds of the buckets of each histogram of seconds: from one request in memory to one that hangs.
const SECONDS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// What each counter counts.
const COUNTERS: [(&str, &str); 15] = [
    ("buho_actor_crashes_total", "Actors that failed, by kind."),
    (
        "buho_deliveries_total",
        "Messages handed to a network, by outcome; what is to come later is handed over again.",
    ),
    ("buho_http_requests_total", "HTTP calls that were answered."),
    (
        "buho_simulator_messages_total",
        "Messages that the simulated network was given, by outcome.",
    ),
    (
        "buho_simulator_receipts_total",
        "Receipts that the simulated network has told.",
    ),
    ("buho_store_commits_total", "Commits that succeeded."),
    (
        "buho_store_opened_again_total",
        "Times that the embedded store was opened anew after it had met a full disk.",
    ),
    (
        "buho_store_record_bytes_total",
        "Bytes of the rows that commits wrote.",
    ),
    (
        "buho_store_records_total",
        "Rows that commits wrote or removed.",
    ),
    ("buho_store_syncs_total", "Syncs to disk."),
    (
        "buho_store_write_failures_total",
        "Writes that the servers of the store did not confirm, by the harm done.",
    ),
    (
        "buho_store_write_retries_total",
        "Writes that were tried again.",
    ),
    (
        "buho_ws_closed_total",
        "WebSockets that we ended, by close code.",
    ),
    ("buho_ws_frames_total", "WebSocket messages, by direction."),
    (
        "buho_ws_requests_total",
        "Requests over WebSockets, by operation.",
    ),
];

/// What each gauge shows.
const GAUGES: [(&str, &str); 18] = [
    ("buho_actors", "Actors in memory, by kind."),
    (
        "buho_actor_queue",
        "Messages that wait at the doors of actors or are under way, by kind.",
    ),
    (
        "buho_actor_queue_max",
        "The longest of the queues of a kind of actor.",
    ),
    (
        "buho_event_readers",
        "Readers of event logs over HTTP, by transport.",
    ),
    ("buho_log_readers", "All readers of event logs."),
    ("buho_log_ring_bytes", "Bytes of events kept in memory."),
    (
        "buho_memory_allocated_bytes",
        "Bytes that are allocated: what is resident is more by what the allocator keeps.",
    ),
    (
        "buho_outbox_messages",
        "Messages in memory that wait for their network.",
    ),
    (
        "buho_outbox_overflowing_devices",
        "Devices of whose messages more may wait in the store.",
    ),
    (
        "buho_simulator_kept",
        "What the simulated network keeps for devices that are away.",
    ),
    (
        "buho_simulator_timers",
        "Receipts under way in the simulated network.",
    ),
    (
        "buho_store_calls_under_way",
        "Calls of the store's servers under way.",
    ),
    (
        "buho_store_buffer_bytes",
        "Bytes of the embedded store's tables in memory, which its threads flush.",
    ),
    (
        "buho_store_cache_bytes",
        "Bytes of blocks that the embedded store has read and keeps, up to store.cache_bytes.",
    ),
    ("buho_store_queue_bytes", "Bytes that wait to be committed."),
    (
        "buho_store_queue_jobs",
        "Jobs that wait to be committed or are being committed.",
    ),
    ("buho_tasks", "Tasks of the runtime that are alive."),
    ("buho_ws_connections", "Open WebSockets."),
];

/// What each histogram measures.
const HISTOGRAMS: [(&str, &str); 5] = [
    (
        "buho_handover_seconds",
        "How long a network took for a batch of messages.",
    ),
    (
        "buho_http_request_seconds",
        "How long an HTTP call took, by route.",
    ),
    ("buho_store_commit_jobs", "Jobs of one commit."),
    (
        "buho_store_commit_seconds",
        "How long a commit took, its sync included.",
    ),
    (
        "buho_store_read_seconds",
        "How long a read took, by operation.",
    ),
];

fn describe() {
    for (name, sense) in COUNTERS {
        metrics::describe_counter!(name, sense);
    }
    for (name, sense) in GAUGES {
        metrics::describe_gauge!(name, sense);
    }
    for (name, sense) in HISTOGRAMS {
        metrics::describe_histogram!(name, sense);
    }
}

/// How often what was measured is folded into the buckets, so that no measurement waits in memory for a reader.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts the log of the process, panics included. A second call changes nothing.
pub fn start_log(log: &Log) {
    let format = match log.format {
        LogFormat::Text => lines::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .log_internal_errors(false)
            .boxed(),
        LogFormat::Json => lines::layer()
            .json()
            .flatten_event(true)
            .with_writer(std::io::stderr)
            .log_internal_errors(false)
            .boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(format.with_filter(targets(log.level)))
        .try_init();
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // The driver tells of every attempt at a server that is away; the store tells once.
    let driver = if level == LogLevel::Trace {
        LevelFilter::WARN
    } else {
        LevelFilter::OFF
    };
    Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target("scylla", driver)
        .with_targets(OWN.map(|target| (target, own)))
}

/// Tells where a panic was. A formatted message may quote what was being worked on, so only a literal one is told.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let literal = panic.payload().downcast_ref::<&'static str>().copied();
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    tracing::error!(
        place,
        message = literal.unwrap_or("(the message is not told)"),
        "panic"
    );
}

/// Prints an error and everything below it, on one line.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut below = self.0.source();
        while let Some(error) = below {
            write!(f, ": {error}")?;
            below = error.source();
        }
        Ok(())
    }
}

/// What the process has measured, for `/metrics`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Makes `metrics`' macros count here. There is one recorder a process, so that several gateways in it share one.
    #[must_use]
    pub fn install() -> Self {
        static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = RECORDER.get_or_init(|| {
            let buckets = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS);
            let recorder = buckets
                .unwrap_or_else(|_| PrometheusBuilder::new())
                .build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder was there first: /metrics stays empty");
            }
            describe();
            handle
        });
        Self(handle.clone())
    }

    /// Everything measured so far, in Prometheus' text format; memory and the runtime's tasks as they are now.
    #[must_use]
    pub fn render(&self) -> String {
        if let Some(bytes) = allocated() {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a gauge is a float, and so many bytes fit into it"
            )]
            metrics::gauge!("buho_memory_allocated_bytes").set(bytes as f64);
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let tasks = runtime.metrics().num_alive_tasks();
            metrics::gauge!("buho_tasks").set(f64::from(u32::try_from(tasks).unwrap_or(u32::MAX)));
        }
        self.0.render()
    }

    /// Keeps the memory for measurements small, for as long as it is polled. One task of the process has to.
    pub async fn keep_up(self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            self.0.run_upkeep();
        }
    }
}

/// Bytes that are allocated, where the program runs on the allocator that can tell.
fn allocated() -> Option<usize> {
    epoch::advance().ok()?;
    stats::allocated::read().ok()
}

#[cfg(test)]
mod tests {
    use actors::CommandError;
    use actors::ports::StoreError;
    use tracing::Level;

    use super::*;

    #[test]
    fn the_whole_story_is_told_once() {
        let error = CommandError::Store(StoreError::Damaged { what: "chat" });
        assert_eq!(
            Chain(&error).to_string(),
            "store could not be read: stored data is damaged: chat"
        );
    }

    #[test]
    fn the_traces_of_other_crates_are_not_heard() {
        let targets = targets(LogLevel::Trace);
        assert!(targets.would_enable("gateway::ws", &Level::TRACE));
        assert!(targets.would_enable("actors::chat", &Level::TRACE));
        assert!(!targets.would_enable("tungstenite::protocol", &Level::INFO));
        assert!(targets.would_enable("fjall", &Level::WARN));
    }

    #[test]
    fn seconds_are_kept_in_buckets_by_every_gateway_of_the_process() {
        let (one, other) = (Metrics::install(), Metrics::install());
        metrics::histogram!("telemetry_test_seconds").record(0.003);
        for text in [one.render(), other.render()] {
            assert!(
                text.contains("telemetry_test_seconds_bucket{le=\"0.005\"} 1"),
                "{text}"
            );
        }
    }
}
