//! `yardstick`: what a bare server and the bare store can do here, under the same client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tempfile::TempDir;

use super::closed_loop::{Judge, Outcome, Plan, Window, run};
use super::echo;
use super::fanout::{self, Stage, Style};
use super::idle;
use super::storm;
use crate::client::Endpoint;
use crate::client::sends::{singles, text};
use crate::client::ws::Dialect;
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::metrics::StoreWork;
use crate::report::Report;
use crate::server::ChildServer;
use crate::yardstick::append::Append;
use crate::yardstick::committer::{self, Callers};
use crate::yardstick::serve;
use crate::yardstick::store::{Shape, Store};
use crate::yardstick::ws;

/// The parts of the yardstick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// A bare axum handler.
    Http,
    /// A bare axum WebSocket broadcast.
    Ws,
    /// The storage engine alone.
    Store,
    /// A plain file.
    Append,
    /// One record alone, with its sync.
    Record,
}

/// Where the yardstick's files go.
#[derive(Debug, Clone, Args)]
pub(crate) struct Scratch {
    /// Folder for the yardstick's files; it should be on the gateway's disk. They are removed at the end.
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl Scratch {
    fn base(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Remarks what makes figures of the store worthless.
    pub(crate) fn remark(&self, report: &mut Report) {
        let base = self.base();
        if in_memory(&base) {
            report.note(format!(
                "{} is in memory, where a sync costs nothing: name a folder on a disk by --scratch",
                base.display()
            ));
        }
    }

    fn folder(&self) -> Result<TempDir, LoadError> {
        let base = self.base();
        TempDir::new_in(&base).map_err(LoadError::io(format!(
            "making a folder in {}",
            base.display()
        )))
    }
}

/// The records that stand for a message.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Records {
    /// Records of a message. Take the figures from the gateway's own metrics, as `ratios` does.
    #[arg(long, default_value_t = 6.0)]
    records: f64,
    /// Bytes of a record, key and value together.
    #[arg(long, default_value_t = 180)]
    record_bytes: usize,
    /// Messages that share a sync, at most.
    #[arg(long, default_value_t = 1_024)]
    per_sync: usize,
}

impl Records {
    /// What the gateway's store did for each message.
    pub(crate) fn measured(work: StoreWork) -> Self {
        Self {
            records: work.records,
            record_bytes: whole(work.bytes / work.records),
            per_sync: whole(work.per_sync),
        }
    }

    /// The same as one record alone, that nothing shares its sync with.
    pub(crate) fn single(self) -> Self {
        Self {
            records: 1.0,
            per_sync: 1,
            ..self
        }
    }

    /// Messages that share a sync, at most.
    pub(crate) fn per_sync(self) -> usize {
        self.per_sync
    }

    /// The figures, for a person.
    pub(crate) fn text(self) -> String {
        format!(
            "{:.2} records of {} bytes a message, at most {} messages a sync",
            self.records, self.record_bytes, self.per_sync
        )
    }

    fn shape(self) -> Shape {
        let thousand = whole(self.records * 1_000.0).clamp(1_000, 100_000);
        Shape {
            records_per_thousand: u64::try_from(thousand).unwrap_or(1_000),
            bytes: self.record_bytes.clamp(32, 1 << 20),
        }
    }
}

/// The nearest whole number that is at least 1.
fn whole(value: f64) -> usize {
    // By way of text: there is no conversion that can't cut silently.
    format!("{:.0}", value.max(1.0)).parse().unwrap_or(1)
}

/// Options of `yardstick`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    fanout: fanout::Load,
    #[command(flatten)]
    records: Records,
    #[command(flatten)]
    scratch: Scratch,
    /// Only these parts.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "http,ws,store,append,record"
    )]
    parts: Vec<Part>,
    /// Connections of the HTTP part, one number after another.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    connections: Vec<usize>,
    /// Callers that wait for the store, one number after another.
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    callers: Vec<u64>,
    /// Idle sockets whose memory is read; 0 leaves this out.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(0..=50_000))]
    sockets: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
    /// Seconds of measuring HTTP and the store, for each number.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    store_seconds: u64,
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options) -> Result<Report, LoadError> {
    let mut report = Report::new("yardstick");
    options.scratch.remark(&mut report);
    let window = Window {
        warm_up: Duration::from_secs(options.warm_up),
        measured: Duration::from_secs(options.store_seconds),
    };
    for part in &options.parts {
        match part {
            Part::Http => {
                for connections in &options.connections {
                    http(*connections, options.fanout.payload, window)
                        .await?
                        .tell(
                            &format!("bare axum, {connections} connections"),
                            &mut report,
                        );
                }
            }
            Part::Ws => web_socket(options, &mut report).await?,
            Part::Store => {
                for count in &options.callers {
                    let callers = Callers {
                        count: *count,
                        group: options.records.per_sync,
                        rate: None,
                        window,
                    };
                    let outcome = store(options.records, &options.scratch, callers).await?;
                    tell(&outcome, &format!("store, {count} callers"), &mut report);
                }
            }
            Part::Append => {
                for count in &options.callers {
                    let callers = Callers {
                        count: *count,
                        group: options.records.per_sync,
                        rate: None,
                        window,
                    };
                    let outcome = append(options.records, &options.scratch, callers).await?;
                    tell(&outcome, &format!("append, {count} callers"), &mut report);
                }
            }
            Part::Record => {
                let outcome = record(options.records, &options.scratch, window).await?;
                tell(&outcome, "one record alone", &mut report);
            }
        }
    }
    Ok(report)
}

fn tell(outcome: &committer::Outcome, name: &str, report: &mut Report) {
    report.figure(format!("{name}: messages"), outcome.rate(), "/s");
    report.latency(name, &outcome.latencies);
}

async fn web_socket(options: &Options, report: &mut Report) -> Result<(), LoadError> {
    for style in [Style::Paced, Style::Burst] {
        let name = match style {
            Style::Paced => "bare broadcast, paced",
            Style::Burst => "bare broadcast, burst",
        };
        broadcast(&options.fanout, style).await?.tell(name, report);
    }
    if options.sockets > 0 {
        let bytes = idle_socket(options.sockets).await?;
        report.figure(
            "bare broadcast: memory of an idle socket",
            bytes / 1_024.0,
            "KiB",
        );
    }
    Ok(())
}

/// Bare axum under the same requests as `ingest`.
pub(crate) async fn http(
    connections: usize,
    payload: usize,
    window: Window,
) -> Result<Outcome, LoadError> {
    let child = serve::start(1).await?;
    let endpoint = endpoint(
        &child,
        Some("buho_key_of_the_same_length_as_a_real_one_would_be_here"),
    );
    let plan = Plan {
        pid: Some(child.pid),
        requests: singles(
            &endpoint,
            "dev_01jd8zq4t1e6fva0b3c5d7e9fg",
            1_000,
            &text(payload),
        ),
        endpoint,
        judge: Judge::Single,
        connections: connections.clamp(1, 10_000),
        window,
    };
    let outcome = run(&plan, &format!("bare axum, {connections} connections")).await;
    child.stop().await?;
    outcome
}

/// Bare broadcast under the same subscribers and publisher as `fanout`.
pub(crate) async fn broadcast(
    load: &fanout::Load,
    style: Style,
) -> Result<fanout::Outcome, LoadError> {
    // The ring holds a whole burst: what a subscriber that falls behind costs is not asked here.
    let child = serve::start(load.burst.max(4_096)).await?;
    let stage = Stage {
        endpoint: endpoint(&child, None),
        dialect: Dialect::Bare(None),
        pid: Some(child.pid),
        device: String::new(),
    };
    let outcome = fanout::measure(&stage, load, style).await;
    child.stop().await?;
    outcome
}

/// A storm over the bare server, which replays what was missed from its ring, in frames of so many bytes.
pub(crate) async fn storm(
    load: &storm::Load,
    frame_bytes: u64,
    report: &mut Report,
) -> Result<storm::Blown, LoadError> {
    let load = load.as_long(frame_bytes, ws::envelope());
    let child = serve::start(1 << 16).await?;
    let stage = Stage {
        endpoint: endpoint(&child, None),
        dialect: Dialect::Bare(None),
        pid: Some(child.pid),
        device: String::new(),
    };
    let blown = storm::run(&stage, &load, "0-0", report).await;
    child.stop().await?;
    blown
}

/// A bare echo at a rate: due → echo.
pub(crate) async fn echo(
    rate: u32,
    payload: usize,
    window: Window,
) -> Result<Latencies, LoadError> {
    let child = serve::start(1).await?;
    let found = echo::measure(&endpoint(&child, None), rate, payload, window).await;
    child.stop().await?;
    found
}

/// Memory of an idle socket of the bare server, in bytes.
pub(crate) async fn idle_socket(sockets: u64) -> Result<f64, LoadError> {
    let child = serve::start(4_096).await?;
    let found = idle::sockets(
        &endpoint(&child, None),
        Dialect::Bare(None),
        child.pid,
        sockets,
    )
    .await;
    child.stop().await?;
    found.map(|(bytes, _)| bytes)
}

/// The engine alone.
pub(crate) async fn store(
    records: Records,
    scratch: &Scratch,
    callers: Callers,
) -> Result<committer::Outcome, LoadError> {
    let folder = scratch.folder()?;
    let store = Store::open(&folder.path().join("store"), records.shape())?;
    committer::run(store, callers, &format!("store, {} callers", callers.count)).await
}

/// A file alone.
async fn append(
    records: Records,
    scratch: &Scratch,
    callers: Callers,
) -> Result<committer::Outcome, LoadError> {
    let folder = scratch.folder()?;
    let append = Append::create(folder.path(), records.shape().message_bytes())?;
    committer::run(
        append,
        callers,
        &format!("append, {} callers", callers.count),
    )
    .await
}

/// One record with its sync, one caller.
pub(crate) async fn record(
    records: Records,
    scratch: &Scratch,
    window: Window,
) -> Result<committer::Outcome, LoadError> {
    let callers = Callers {
        count: 1,
        group: 1,
        rate: None,
        window,
    };
    store(records.single(), scratch, callers).await
}

fn endpoint(child: &ChildServer, credential: Option<&str>) -> Endpoint {
    Endpoint {
        address: child.address,
        credential: credential.map(str::to_owned),
    }
}

/// Whether a folder keeps its files in memory.
fn in_memory(folder: &Path) -> bool {
    /// `TMPFS_MAGIC` of statfs(2).
    const TMPFS: u64 = 0x0102_1994;
    rustix::fs::statfs(folder).is_ok_and(|found| u64::try_from(found.f_type) == Ok(TMPFS))
}
