//! `ingest`: how many sends a second become durable, closed loop.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::closed_loop::{Judge, Outcome, Plan, Window, run};
use super::pipeline::Pipeline;
use super::read_back::ReadBack;
use crate::client::calls::Api;
use crate::client::payload::Codec;
use crate::client::sends::{CHATS, batches, singles, text};
use crate::error::LoadError;
use crate::metrics::{Metrics, StoreWork};
use crate::report::{Report, float};
use crate::server::quiet;
use crate::target::{Gateway, TargetOptions};

/// How long the gateway may take to finish what it began.
const SETTLE: Duration = Duration::from_mins(2);

/// The door that sends go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// One message a call: POST /messages.
    Rest,
    /// Many messages a call: POST /messages/batch.
    Batch,
    /// WebSocket requests, pipelined.
    Ws,
}

/// What a send looks like, and how many there are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Numbers that messages go to, in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=CHATS))]
    pub(crate) chats: u64,
    /// Messages in a batch.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) batch: u64,
    /// Requests unanswered at a time on a socket.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) in_flight: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub(crate) warm_up: u64,
    /// Seconds of measuring, for each number of connections.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
}

impl Load {
    /// When to measure.
    pub(crate) fn window(&self) -> Window {
        Window {
            warm_up: Duration::from_secs(self.warm_up),
            measured: Duration::from_secs(self.seconds),
        }
    }
}

/// Options of `ingest`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    load: Load,
    /// Connections (or sockets), one number after another.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    connections: Vec<usize>,
    /// The doors, one after another.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rest")]
    via: Vec<Via>,
    /// Bytes of text in a message, one size after another.
    #[arg(long, value_delimiter = ',', default_value = "128")]
    payload: Vec<usize>,
    /// Encodings of WebSocket frames, one after another; HTTP is JSON.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "json")]
    codec: Vec<Codec>,
    /// Leaves virtual phones as they are; otherwise they are told to send no receipts.
    #[arg(long)]
    receipts: bool,
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("ingest");
    if !options.receipts {
        Api::new(gateway.endpoint.clone())
            .silence_phones(&gateway.device)
            .await?;
    }
    for via in &options.via {
        for payload in &options.payload {
            for connections in &options.connections {
                let codecs = match via {
                    Via::Rest | Via::Batch => &[Codec::Json][..],
                    Via::Ws => &options.codec,
                };
                for codec in codecs {
                    let door = Door {
                        via: *via,
                        codec: *codec,
                        payload: *payload,
                        connections: (*connections).clamp(1, 10_000),
                    };
                    one(options, gateway, door, &mut report).await;
                }
            }
        }
    }
    Ok(report)
}

async fn one(options: &Options, gateway: &Gateway, door: Door, report: &mut Report) {
    let name = door.name(&options.load);
    let found = measure(&options.load, gateway, door).await;
    if let Some(ingested) = report.part(&name, found) {
        if let Some(work) = ingested.work {
            let figures = [
                ("records a message", work.records, "records"),
                ("record bytes a message", work.bytes, "bytes"),
                ("messages a sync", work.per_sync, "messages"),
            ];
            for (what, value, unit) in figures {
                report.figure(format!("{name}: {what}"), value, unit);
            }
        }
        ingested.read_back.tell(&name, report);
        ingested.outcome.tell(&name, report);
    }
}

/// One way of sending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Door {
    /// Which door.
    pub(crate) via: Via,
    /// The encoding, where there is a choice.
    pub(crate) codec: Codec,
    /// Bytes of text in a message.
    pub(crate) payload: usize,
    /// Connections, or sockets.
    pub(crate) connections: usize,
}

impl Door {
    fn name(self, load: &Load) -> String {
        let connections = self.connections;
        let bytes = self.payload;
        match (self.via, self.codec) {
            (Via::Rest, _) => format!("REST, {bytes} B, {connections} connections"),
            (Via::Batch, _) => format!(
                "batches of {}, {bytes} B, {connections} connections",
                load.batch
            ),
            (Via::Ws, Codec::Json) => format!("WebSocket, {bytes} B, {connections} sockets"),
            (Via::Ws, Codec::Msgpack) => {
                format!("WebSocket in MessagePack, {bytes} B, {connections} sockets")
            }
        }
    }
}

/// What sending through a door came to.
#[derive(Debug)]
pub(crate) struct Ingested {
    /// Rates and latencies.
    pub(crate) outcome: Outcome,
    /// What the log said afterwards.
    pub(crate) read_back: ReadBack,
    /// What the store did for each message, if the gateway tells.
    pub(crate) work: Option<StoreWork>,
}

/// Measures one door, then reads the log.
pub(crate) async fn measure(
    load: &Load,
    gateway: &Gateway,
    door: Door,
) -> Result<Ingested, LoadError> {
    let api = Api::new(gateway.endpoint.clone());
    let head = api.head().await?;
    // A gateway without metrics is loaded all the same.
    let before = Metrics::read(&api).await.ok();
    let outcome = run_door(load, gateway, door).await?;
    if let Some(pid) = gateway.pid {
        // What a message costs is known when the gateway has done all of it, its way to the network too.
        quiet(pid, SETTLE).await?;
    }
    let after = Metrics::read(&api).await.ok();
    let count = u64::try_from(outcome.tally.seqs.len()).unwrap_or(u64::MAX);
    let work = before
        .zip(after)
        .and_then(|(before, after)| StoreWork::between(&before, &after, float(count)));
    let read_back = ReadBack::read(&api, &head, &outcome.tally.seqs).await?;
    Ok(Ingested {
        outcome,
        read_back,
        work,
    })
}

async fn run_door(load: &Load, gateway: &Gateway, door: Door) -> Result<Outcome, LoadError> {
    let label = door.name(load);
    let connections = door.connections;
    let (endpoint, device) = (&gateway.endpoint, &gateway.device);
    let text = text(door.payload);
    let (requests, judge) = match door.via {
        Via::Rest => (singles(endpoint, device, load.chats, &text), Judge::Single),
        Via::Batch => (
            batches(endpoint, device, load.chats, load.batch, &text),
            Judge::Batch,
        ),
        Via::Ws => {
            let pipeline = Pipeline {
                endpoint: endpoint.clone(),
                pid: gateway.pid,
                device: device.clone(),
                chats: load.chats,
                text,
                codec: door.codec,
                sockets: connections,
                in_flight: load.in_flight,
                window: load.window(),
            };
            return pipeline.run(&label).await;
        }
    };
    let plan = Plan {
        endpoint: endpoint.clone(),
        pid: gateway.pid,
        requests,
        judge,
        connections,
        window: load.window(),
    };
    run(&plan, &label).await
}
