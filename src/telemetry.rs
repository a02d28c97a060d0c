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
            handle
        });
        Self(handle.clone())
    }

    /// Everything measured so far, in Prometheus' text format; of the runtime's tasks those that are alive now.
    #[must_use]
    pub fn render(&self) -> String {
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
