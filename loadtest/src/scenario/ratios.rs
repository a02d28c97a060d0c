//! `ratios`: figures of the gateway beside their yardsticks, on the same machine, in the same run.

use std::time::Duration;

use clap::Args;

use super::fanout::{self, Stage, Style};
use super::idle;
use super::ingest::{self, Door, Ingested, Via};
use super::yardstick::{self, Records, Scratch};
use crate::client::calls::Api;
use crate::client::payload::Codec;
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::metrics::Engine;
use crate::report::{Aim, Ratio, Report, float};
use crate::server::quiet;
use crate::target::{Gateway, TargetOptions};
use crate::yardstick::committer::Callers;

/// How long the gateway may take to finish what a part left to it.
const SETTLE: Duration = Duration::from_mins(2);

/// Bursts of which the middle one counts.
const BURSTS: usize = 3;

/// Options of `ratios`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    fanout: fanout::Load,
    #[command(flatten)]
    idle: idle::Load,
    #[command(flatten)]
    scratch: Scratch,
    #[command(flatten)]
    records: Records,
    /// Takes --records, --record-bytes and --per-sync as given, and not from the gateway's own metrics.
    #[arg(long)]
    records_as_given: bool,
    /// Seconds of measuring REST sends, for each number of connections.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    rest_seconds: u64,
    /// Seconds of measuring other sends, and the store.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    ingest_seconds: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
}

impl Options {
    fn load(&self) -> ingest::Load {
        ingest::Load {
            chats: 1_000,
            batch: self.fanout.batch,
            in_flight: 64,
            warm_up: self.warm_up,
            seconds: self.ingest_seconds,
        }
    }

    fn rest_load(&self) -> ingest::Load {
        ingest::Load {
            seconds: self.rest_seconds,
            ..self.load()
        }
    }

    fn door(&self, via: Via, connections: usize) -> Door {
        Door {
            via,
            codec: Codec::Json,
            payload: self.fanout.payload,
            connections,
        }
    }
}

/// Runs the scenario. Memory comes first, before load has grown the server.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    if gateway.pid.is_none() {
        return Err(LoadError::Target(
            "ratios reads the server's CPU and memory: name it by --start or --pid".to_owned(),
        ));
    }
    let mut report = Report::new("ratios");
    options.scratch.remark(&mut report);
    // A part that fails is a fault of its own: the others still say something.
    let api = Api::new(gateway.endpoint.clone());
    let done = api.silence_phones(&gateway.device).await;
    report.part("virtual phones without receipts", done);
    settle(gateway, "memory", &mut report).await?;
    let done = memory(options, gateway, &mut report).await;
    report.part("memory", done);
    for (style, name, aim) in [
        (Style::Paced, "fan-out, paced", 0.85),
        (Style::Burst, "fan-out, burst", 0.5),
    ] {
        settle(gateway, name, &mut report).await?;
        let done = fan_out(options, gateway, (style, name, aim), &mut report).await;
        report.part(name, done);
    }
    let mut bare = 0.0;
    for connections in [64, 256] {
        let name = format!("REST sends, {connections} connections");
        settle(gateway, &name, &mut report).await?;
        let done = sends(options, gateway, (connections, &name), &mut report).await;
        bare = report.part(&name, done).unwrap_or_default();
    }
    let name = "REST sends with receipts, 256 connections";
    settle(gateway, name, &mut report).await?;
    let done = with_receipts(options, gateway, (bare, name), &mut report).await;
    report.part(name, done);
    settle(gateway, "one send alone", &mut report).await?;
    let done = single(options, gateway, &mut report).await;
    report.part("one send alone", done);
    for (via, name) in [(Via::Batch, "batch sends"), (Via::Ws, "WebSocket sends")] {
        settle(gateway, name, &mut report).await?;
        let done = stored(options, gateway, (via, name), &mut report).await;
        report.part(name, done);
    }
    Ok(report)
}

/// Waits until the gateway has done what the part before left to it.
async fn settle(gateway: &Gateway, name: &str, report: &mut Report) -> Result<(), LoadError> {
    if let Some(pid) = gateway.pid
        && !quiet(pid, SETTLE).await?
    {
        report.note(format!("{name}: the gateway was not quiet before"));
    }
    Ok(())
}

async fn memory(
    options: &Options,
    gateway: &Gateway,
    report: &mut Report,
) -> Result<(), LoadError> {
    const KIB: f64 = 1_024.0;
    let found = idle::measure(&options.idle, gateway).await?;
    if let Some(socket) = found.socket {
        let bare = yardstick::idle_socket(options.idle.sockets).await?;
        report.ratio(Ratio::new(
            "memory of an idle subscribed socket",
            "KiB",
            socket / KIB,
            bare / KIB,
            Aim::FigureAtMost(12.0),
        ));
    }
    if let Some(device) = found.device {
        report.ratio(Ratio::new(
            "memory of an idle linked device",
            "KiB",
            device / KIB,
            25.0,
            Aim::FigureAtMost(25.0),
        ));
    }
    found.tell("gateway", report);
    Ok(())
}

async fn fan_out(
    options: &Options,
    gateway: &Gateway,
    (style, name, aim): (Style, &str, f64),
    report: &mut Report,
) -> Result<(), LoadError> {
    let stage = Stage::of(gateway, options.fanout.codec);
    let figure = middle(style, || fanout::measure(&stage, &options.fanout, style)).await?;
    let bare = middle(style, || yardstick::broadcast(&options.fanout, style)).await?;
    // What the contract says of a message makes an event several times as long as its payload.
    let envelope = figure
        .delivery_bytes()
        .saturating_sub(bare.delivery_bytes());
    let mut as_long = options.fanout.clone();
    as_long.payload += usize::try_from(envelope).unwrap_or_default();
    let bare_as_long = middle(style, || yardstick::broadcast(&as_long, style)).await?;
    let as_long = format!("{name}, beside frames of the same length");
    for (name, bare) in [(name, &bare), (&as_long, &bare_as_long)] {
        report.ratio(Ratio::new(
            name,
            "deliveries/CPU-s",
            figure.per_cpu_second().unwrap_or_default(),
            bare.per_cpu_second().unwrap_or_default(),
            Aim::AtLeast(aim),
        ));
    }
    figure.tell(name, report);
    bare.tell(&format!("{name}, bare"), report);
    bare_as_long.tell(&format!("{name}, bare, as long"), report);
    Ok(())
}

/// The middle one of some bursts, each of which is over too soon to tell; of what goes on at a pace one is enough.
async fn middle<F>(style: Style, measure: impl Fn() -> F) -> Result<fanout::Outcome, LoadError>
where
    F: Future<Output = Result<fanout::Outcome, LoadError>>,
{
    let count = match style {
        Style::Paced => 1,
        Style::Burst => BURSTS,
    };
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(measure().await?);
    }
    let rate = |it: &fanout::Outcome| it.per_cpu_second().unwrap_or_default();
    found.sort_by(|one, other| rate(one).total_cmp(&rate(other)));
    let mut middle = found.swap_remove(count / 2);
    found.into_iter().for_each(|it| middle.bear(it));
    Ok(middle)
}

/// Answers the rate of the bare handler.
async fn sends(
    options: &Options,
    gateway: &Gateway,
    (connections, name): (usize, &str),
    report: &mut Report,
) -> Result<f64, LoadError> {
    let load = options.rest_load();
    let door = options.door(Via::Rest, connections);
    let figure = ingest::measure(&load, gateway, door).await?;
    let bare = yardstick::http(connections, door.payload, load.window()).await?;
    let (rate, yardstick) = (figure.outcome.rate(), bare.rate());
    report.ratio(Ratio::new(name, "/s", rate, yardstick, Aim::AtLeast(0.35)));
    beside_store(options, &figure, name, report).await?;
    figure.tell(name, report);
    bare.tell(&format!("{name}, bare"), report);
    Ok(yardstick)
}

/// The same where phones confirm, beside the bare handler's rate; then they confirm no more.
async fn with_receipts(
    options: &Options,
    gateway: &Gateway,
    (bare, name): (f64, &str),
    report: &mut Report,
) -> Result<(), LoadError> {
    let api = Api::new(gateway.endpoint.clone());
    api.let_phones_confirm(&gateway.device).await?;
    let door = options.door(Via::Rest, 256);
    let figure = ingest::measure(&options.rest_load(), gateway, door).await;
    api.silence_phones(&gateway.device).await?;
    let figure = figure?;
    let rate = figure.outcome.rate();
    report.ratio(Ratio::new(name, "/s", rate, bare, Aim::None));
    figure.tell(name, report);
    Ok(())
}

/// The engine alone with what the gateway's own metrics said of a message, beside the gateway's rate.
async fn beside_store(
    options: &Options,
    figure: &Ingested,
    name: &str,
    report: &mut Report,
) -> Result<(), LoadError> {
    let load = options.load();
    let measured = figure.work.filter(|_| !options.records_as_given);
    let records = measured.map_or(options.records, Records::measured);
    let origin = if measured.is_some() {
        "as the gateway's metrics say"
    } else {
        "as given"
    };
    report.note(format!(
        "the store beside {name}: {}, {origin}",
        records.text()
    ));
    let callers = Callers {
        count: 256,
        group: records.per_sync(),
        rate: None,
        window: load.window(),
    };
    let store = yardstick::store(records, &options.scratch, callers).await?;
    report.figure(
        format!("the store beside {name}: messages"),
        store.rate(),
        "/s",
    );
    report.latency(format!("the store beside {name}"), &store.latencies);
    // What REST is to reach is reckoned from the bare handler.
    let aim = if name.starts_with("REST") {
        Aim::None
    } else {
        Aim::AtLeast(0.7)
    };
    let (beside, aim) = match figure.work.map(|work| work.engine) {
        Some(Engine::Embedded) | None => ("the store alone", aim),
        Some(Engine::Other) => ("the embedded engine alone", Aim::None),
    };
    report.ratio(Ratio::new(
        &format!("{name}, beside {beside}"),
        "/s",
        figure.outcome.rate(),
        store.rate(),
        aim,
    ));
    Ok(())
}

async fn single(
    options: &Options,
    gateway: &Gateway,
    report: &mut Report,
) -> Result<(), LoadError> {
    let load = options.load();
    let median = |latencies: &Latencies| latencies.quantile(0.5);
    let door = options.door(Via::Rest, 1);
    let figure = ingest::measure(&load, gateway, door).await?;
    let bare = yardstick::http(1, door.payload, load.window()).await?;
    let measured = figure.work.filter(|_| !options.records_as_given);
    let records = measured.map_or(options.records, Records::measured);
    let record = yardstick::record(records, &options.scratch, load.window()).await?;
    report.latency("one record alone", &record.latencies);
    report.ratio(Ratio::new(
        "one send alone, p50",
        "µs",
        microseconds(median(&figure.outcome.tally.latencies)),
        microseconds(median(&record.latencies) + median(&bare.tally.latencies)),
        Aim::AtMost(1.5),
    ));
    figure.tell("one send alone", report);
    bare.tell("one send alone, bare", report);
    Ok(())
}

async fn stored(
    options: &Options,
    gateway: &Gateway,
    (via, name): (Via, &str),
    report: &mut Report,
) -> Result<(), LoadError> {
    let figure = ingest::measure(&options.load(), gateway, options.door(via, 8)).await?;
    beside_store(options, &figure, name, report).await?;
    figure.tell(&format!("{name}, 8 connections"), report);
    Ok(())
}

fn microseconds(duration: Duration) -> f64 {
    float(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
