//! `latency`: open loop from the send to the event; every acknowledged message arrives, once and in order.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::closed_loop::Window;
use super::listener::{Heard, Listener, Wanted};
use super::open_loop::{Call, Calls, Expects, Schedule};
use super::pace::Pace;
use super::yardstick::{self, Records, Scratch};
use crate::audit::reconcile;
use crate::client::calls::Api;
use crate::client::payload::Codec;
use crate::client::sends::{CHATS, singles, text};
use crate::error::LoadError;
use crate::latency::{Latencies, Timeline};
use crate::metrics::{Metrics, StoreWork};
use crate::progress;
use crate::report::{Aim, Ratio, Report, Series, float, per_second};
use crate::target::{Gateway, TargetOptions};
use crate::yardstick::committer::Callers;

/// The kind of the calls.
const SEND: &str = "send";

/// Options of `latency`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Sends a second, all connections together; one rate after another.
    #[arg(long, value_delimiter = ',', default_value = "500", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Vec<u32>,
    /// Connections that send.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    senders: u64,
    /// Seconds of measuring, for each rate.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
    /// Numbers that messages go to, in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=CHATS))]
    chats: u64,
    /// Bytes of text in a message, one size after another.
    #[arg(long, value_delimiter = ',', default_value = "128")]
    payload: Vec<usize>,
    /// Encodings of the subscriber, one after another.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "json")]
    codec: Vec<Codec>,
    /// Subscribes to everything, so that a hole in `seq` shows.
    #[arg(long)]
    unfiltered: bool,
    #[command(flatten)]
    scratch: Scratch,
    /// Leaves the engine alone and the bare echo out.
    #[arg(long)]
    without_yardstick: bool,
    /// Leaves virtual phones as they are; otherwise they are told to send no receipts.
    #[arg(long)]
    receipts: bool,
}

/// One run of the scenario.
#[derive(Debug, Clone, Copy)]
struct Leg {
    rate: u32,
    payload: usize,
    codec: Codec,
}

impl Leg {
    fn name(self) -> String {
        let encoding = match self.codec {
            Codec::Json => "JSON",
            Codec::Msgpack => "MessagePack",
        };
        format!("{}/s, {} B, {encoding}", self.rate, self.payload)
    }
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    if !options.receipts {
        Api::new(gateway.endpoint.clone())
            .silence_phones(&gateway.device)
            .await?;
    }
    let mut report = Report::new("latency");
    for rate in &options.rate {
        for payload in &options.payload {
            for codec in &options.codec {
                let leg = Leg {
                    rate: *rate,
                    payload: *payload,
                    codec: *codec,
                };
                let done = run(options, gateway, leg, &mut report).await;
                report.part(&leg.name(), done);
            }
        }
    }
    Ok(report)
}

async fn run(
    options: &Options,
    gateway: &Gateway,
    leg: Leg,
    report: &mut Report,
) -> Result<(), LoadError> {
    let wanted = if options.unfiltered {
        Wanted::All
    } else {
        Wanted::Created
    };
    let api = Api::new(gateway.endpoint.clone());
    let before = Metrics::read(&api).await.ok();
    let start = Instant::now();
    let listener = Listener::open(&gateway.endpoint, leg.codec, wanted, start).await?;
    let calls = send(options, gateway, leg, start).await;
    let heard = listener.finish(calls.acknowledged.len(), 0).await?;
    let after = Metrics::read(&api).await.ok();
    let sent = float(u64::try_from(calls.acknowledged.len()).unwrap_or(u64::MAX));
    let work = before
        .zip(after)
        .and_then(|(before, after)| StoreWork::between(&before, &after, sent));
    let delays = tell(options, leg, calls, heard, report);
    // The yardsticks speak JSON. A gateway that does not tell what a message costs its store has none.
    match (leg.codec, work.filter(|_| !options.without_yardstick)) {
        (Codec::Json, Some(work)) => beside(options, leg, &delays, work, report).await,
        (Codec::Json | Codec::Msgpack, _) => Ok(()),
    }
}

/// What the store alone and a bare echo take at the same rate, one after the other.
async fn beside(
    options: &Options,
    leg: Leg,
    delays: &Latencies,
    work: StoreWork,
    report: &mut Report,
) -> Result<(), LoadError> {
    let window = Window {
        warm_up: Duration::from_secs(options.warm_up),
        measured: Duration::from_secs(options.seconds),
    };
    let callers = Callers {
        count: 256,
        group: 1_024,
        rate: Some(leg.rate),
        window,
    };
    let store = yardstick::store(Records::measured(work), &options.scratch, callers).await?;
    let echo = yardstick::echo(leg.rate, leg.payload, window).await?;
    let slow = |latencies: &Latencies| latencies.quantile(0.99).as_secs_f64() * 1_000.0;
    let name = leg.name();
    report.ratio(Ratio::new(
        &format!("{name}: due → event p99{}", work.engine.besides()),
        "ms",
        slow(delays),
        slow(&store.latencies) + slow(&echo),
        work.engine.aim(Aim::AtMost(2.0)),
    ));
    report.latency(format!("{name}: the store alone"), &store.latencies);
    report.latency(format!("{name}: a bare echo"), &echo);
    Ok(())
}

async fn send(options: &Options, gateway: &Gateway, leg: Leg, start: Instant) -> Calls {
    let warm_up = Duration::from_secs(options.warm_up);
    let total = warm_up + Duration::from_secs(options.seconds);
    let text = text(leg.payload);
    let requests = singles(&gateway.endpoint, &gateway.device, options.chats, &text);
    let call = |request: &bytes::Bytes| Call {
        kind: SEND,
        request: request.clone(),
        expects: Expects::Sent,
    };
    let schedule = Schedule {
        address: gateway.endpoint.address,
        calls: requests.iter().map(call).collect(),
        connections: usize::try_from(options.senders).unwrap_or(1),
        pace: Arc::new(Pace::constant(leg.rate, total)),
        start,
        warm_up,
    };
    let label = format!("latency, {}", leg.name());
    let ((calls, _), ()) = tokio::join!(schedule.run(), progress::wait(start + total, &label));
    calls
}

fn tell(options: &Options, leg: Leg, calls: Calls, heard: Heard, report: &mut Report) -> Latencies {
    let name = leg.name();
    let warm_up = Duration::from_secs(options.warm_up);
    let findings = reconcile(&calls.acknowledged, &heard.arrivals, warm_up);
    let mut delays = Latencies::new();
    let measured = Duration::from_secs(options.seconds);
    let mut timeline = Timeline::over(warm_up + measured);
    for (due, delay) in &findings.delays {
        delays.record(*delay);
        timeline.record(*due, *delay);
    }
    if let Some(sends) = calls.kind(SEND) {
        report.figure(
            format!("{name}: acknowledged"),
            per_second(sends.latencies.count(), measured),
            "/s",
        );
        report.latency(format!("{name}: due → acknowledged"), &sends.latencies);
    }
    report.latency(format!("{name}: due → event"), &delays);
    report.figure(
        format!("{name}: acknowledged, with warm-up"),
        float(u64::try_from(calls.acknowledged.len()).unwrap_or(u64::MAX)),
        "messages",
    );
    let counts = [
        ("lost", findings.lost),
        ("doubled", findings.doubled(calls.unknown)),
        ("disordered", heard.order.disordered),
        ("not where the acknowledgement said", findings.misplaced),
    ];
    report.must_be_zero(&name, "messages", &counts);
    if options.unfiltered {
        report.must_be_zero(&name, "entries", &[("holes in seq", heard.order.missing)]);
    }
    report.figure(
        format!("{name}: arrived without an acknowledgement"),
        float(findings.unacknowledged),
        "messages",
    );
    report.series(Series {
        plot: "due → event, 99 of 100, ms".to_owned(),
        name: name.clone(),
        axis: "s".into(),
        points: timeline.quantile(0.99),
    });
    if calls.acknowledged.is_empty() {
        report.fault(format!("{name}: nothing was acknowledged"));
    }
    if let Some(error) = heard.ended {
        report.fault(format!("{name}: the subscriber ended: {error}"));
    }
    report.errors(calls.errors);
    report.errors(heard.errors);
    delays
}
