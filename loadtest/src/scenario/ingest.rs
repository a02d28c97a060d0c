//! `ingest`: how many sends a second become durable, closed loop.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep_until};

use super::closed_loop::{Judge, Outcome, Plan, Window, run};
use super::pipeline::Pipeline;
use super::read_back::ReadBack;
use crate::client::calls::Api;
use crate::client::payload::Codec;
use crate::client::sends::{CHATS, batches, singles, text};
use crate::error::LoadError;
use crate::metrics::{Metrics, StoreWork};
use crate::report::{Report, float};
use crate::server::{quiet, usage};
use crate::target::{Gateway, TargetOptions};

/// How long the gateway may take to finish what it began.
const SETTLE: Duration = Duration::from_mins(2);
/// The share of a run's messages that may wait for the network at its end without a remark.
const OUTBOX_GREW: f64 = 0.05;

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
        ingested.tell(&name, report);
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
    read_back: ReadBack,
    /// What the store did for each message by the end of the window, if the gateway tells.
    pub(crate) work: Option<StoreWork>,
    /// The same until the gateway was quiet, so with the message's whole way to the network.
    whole: Option<StoreWork>,
    /// Messages that were acknowledged and not handed over at the end of the window, if the gateway tells.
    waiting: Option<f64>,
    /// What came after the window, where the gateway's process is known.
    after: Option<After>,
}

/// The gateway after the window.
#[derive(Debug, Clone, Copy)]
struct After {
    /// From the end of the window until it was quiet; `None` where it never was.
    quiet: Option<Duration>,
    /// Its memory then.
    rss: u64,
}

impl Ingested {
    /// Puts what was found into a report.
    pub(crate) fn tell(self, name: &str, report: &mut Report) {
        if let Some(work) = self.work {
            let figures = [
                ("records a message", work.records, "records"),
                ("record bytes a message", work.bytes, "bytes"),
                ("messages a sync", work.per_sync, "messages"),
            ];
            for (what, value, unit) in figures {
                report.figure(format!("{name}: {what}"), value, unit);
            }
        }
        if let Some(work) = self.whole {
            let name = format!("{name}: records a message, until quiet");
            report.figure(name, work.records, "records");
        }
        if let Some(waiting) = self.waiting {
            let what = "waiting for the network when the window ended";
            report.figure(format!("{name}: {what}"), waiting, "messages");
            let sent = float(count(&self.outcome.tally.seqs));
            if waiting > sent * OUTBOX_GREW {
                report.note(format!(
                    "{name}: the outbox grew: {waiting:.0} of {sent:.0} messages waited when the window ended"
                ));
            }
        }
        match self.after.map(|after| (after.quiet, after.rss)) {
            Some((Some(quiet), rss)) => {
                let what = format!("{name}: window → quiet");
                report.figure(what, quiet.as_secs_f64(), "s");
                let what = format!("{name}: server memory once quiet");
                report.figure(what, super::mebibytes(rss), "MiB");
            }
            Some((None, _)) => report.note(format!(
                "{name}: the gateway was not quiet {SETTLE:?} after the window: what it wrote later is not known"
            )),
            None => {}
        }
        self.read_back.tell(name, report);
        self.outcome.tell(name, report);
    }
}

fn count(seqs: &[u64]) -> u64 {
    u64::try_from(seqs.len()).unwrap_or(u64::MAX)
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
    let window = load.window();
    let ended = Instant::now() + window.warm_up + window.measured;
    let at_the_end = async {
        sleep_until(ended).await;
        Metrics::read(&api).await.ok()
    };
    let (outcome, at_end) = tokio::join!(run_door(load, gateway, door), at_the_end);
    let outcome = outcome?;
    let after = match gateway.pid {
        Some(pid) => {
            // What a message costs is known when the gateway has done all of it, its way to the network too.
            let is_quiet = quiet(pid, SETTLE).await?;
            Some(After {
                quiet: is_quiet.then(|| ended.elapsed()),
                rss: usage(pid)?.rss,
            })
        }
        None => None,
    };
    let is_done = after.is_none_or(|after| after.quiet.is_some());
    let last = Metrics::read(&api).await.ok().filter(|_| is_done);
    let sent = float(count(&outcome.tally.seqs));
    let since = |now: &Option<Metrics>| StoreWork::between(before.as_ref()?, now.as_ref()?, sent);
    let handed_over = before
        .as_ref()
        .zip(at_end.as_ref())
        .and_then(|(before, now)| now.handed_over(before));
    let tally = &outcome.tally;
    let read_back = ReadBack::read(&api, &head, &tally.seqs, tally.unknown).await?;
    Ok(Ingested {
        work: since(&at_end),
        whole: since(&last),
        waiting: handed_over.map(|handed_over| (sent - handed_over).max(0.0)),
        after,
        outcome,
        read_back,
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
            Judge::Batch(load.batch),
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
