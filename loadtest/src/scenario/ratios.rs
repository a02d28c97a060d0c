//! `ratios`: figures of the gateway beside their yardsticks, on the same machine, in the same run.

use std::time::Duration;

use clap::Args;

use super::fanout::{self, Pace, Stage};
use super::idle;
use super::ingest::{self, Via};
use super::yardstick::{self, Records};
use crate::client::calls::Api;
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::report::{Aim, Ratio, Report, float};
use crate::target::{Gateway, TargetOptions};
use crate::yardstick::committer::Callers;

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
    records: Records,
    /// Seconds of measuring sends and the store, for each number of connections.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    ingest_seconds: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
}

impl Options {
    fn load(&self) -> ingest::Load {
        ingest::Load {
            payload: self.fanout.payload,
            chats: 1_000,
            batch: self.fanout.batch,
            in_flight: 64,
            warm_up: self.warm_up,
            seconds: self.ingest_seconds,
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
    options.records.remark(&mut report);
    // A part that fails is a fault of its own: the others still say something.
    let api = Api::new(gateway.endpoint.clone());
    let done = api.silence_phones(&gateway.device).await;
    report.part("virtual phones without receipts", done);
    let done = memory(options, gateway, &mut report).await;
    report.part("memory", done);
    for (pace, name, aim) in [
        (Pace::Paced, "fan-out, paced", 0.85),
        (Pace::Burst, "fan-out, burst", 0.5),
    ] {
        let done = fan_out(options, gateway, (pace, name, aim), &mut report).await;
        report.part(name, done);
    }
    for connections in [64, 256] {
        let name = format!("REST sends, {connections} connections");
        let done = sends(options, gateway, (connections, &name), &mut report).await;
        report.part(&name, done);
    }
    let done = single(options, gateway, &mut report).await;
    report.part("one send alone", done);
    let done = stored(options, gateway, &mut report).await;
    report.part("the store alone", done);
    Ok(report)
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
    (pace, name, aim): (Pace, &str, f64),
    report: &mut Report,
) -> Result<(), LoadError> {
    let figure = fanout::measure(&Stage::of(gateway), &options.fanout, pace).await?;
    let bare = yardstick::broadcast(&options.fanout, pace).await?;
    report.ratio(Ratio::new(
        name,
        "deliveries/CPU-s",
        figure.per_cpu_second().unwrap_or_default(),
        bare.per_cpu_second().unwrap_or_default(),
        Aim::AtLeast(aim),
    ));
    figure.tell(name, report);
    bare.tell(&format!("{name}, bare"), report);
    Ok(())
}

async fn sends(
    options: &Options,
    gateway: &Gateway,
    (connections, name): (usize, &str),
    report: &mut Report,
) -> Result<(), LoadError> {
    let load = options.load();
    let figure = ingest::measure(&load, gateway, Via::Rest, connections).await?;
    let bare = yardstick::http(connections, load.payload, load.window()).await?;
    let (rate, yardstick) = (figure.rate(), bare.rate());
    report.ratio(Ratio::new(name, "/s", rate, yardstick, Aim::AtLeast(0.35)));
    figure.tell(name, report);
    bare.tell(&format!("{name}, bare"), report);
    Ok(())
}

async fn single(
    options: &Options,
    gateway: &Gateway,
    report: &mut Report,
) -> Result<(), LoadError> {
    let load = options.load();
    let median = |latencies: &Latencies| latencies.quantile(0.5);
    let figure = ingest::measure(&load, gateway, Via::Rest, 1).await?;
    let bare = yardstick::http(1, load.payload, load.window()).await?;
    let record = yardstick::record(&options.records, load.window()).await?;
    report.latency("one record alone", &record.latencies);
    report.ratio(Ratio::new(
        "one send alone, p50",
        "µs",
        microseconds(median(&figure.tally.latencies)),
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
    report: &mut Report,
) -> Result<(), LoadError> {
    let load = options.load();
    let callers = Callers {
        count: 256,
        window: load.window(),
    };
    let batches = ingest::measure(&load, gateway, Via::Batch, 8).await;
    let store = yardstick::store(&options.records, callers).await?;
    let sockets = ingest::measure(&load, gateway, Via::Ws, 8).await;
    report.figure("store, 256 callers: messages", store.rate(), "/s");
    report.latency("store, 256 callers", &store.latencies);
    report.note(format!(
        "the store alone wrote {} records of {} bytes a message; take both from the gateway's metrics",
        options.records.records, options.records.record_bytes
    ));
    for (name, found) in [("batch sends", batches), ("WebSocket sends", sockets)] {
        let Some(figure) = report.part(name, found) else {
            continue;
        };
        let aim = Aim::AtLeast(0.7);
        report.ratio(Ratio::new(name, "/s", figure.rate(), store.rate(), aim));
        figure.tell(&format!("{name}, 8 connections"), report);
    }
    Ok(())
}

fn microseconds(duration: Duration) -> f64 {
    float(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}
