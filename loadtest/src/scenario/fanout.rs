//! `fanout`: what a delivery to one of many subscribers costs, paced and in a burst.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::pace::Pace;
use super::publisher::{Publication, Publisher};
use super::subscribers::{Seen, Subscribers};
use crate::alarm::until;
use crate::client::Endpoint;
use crate::client::calls::Api;
use crate::client::payload::Codec;
use crate::client::ws::Dialect;
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::progress;
use crate::report::{ErrorCounts, Report, float, per_second};
use crate::server::usage;
use crate::target::{Gateway, TargetOptions};

/// Longer than any run.
const A_DAY: Duration = Duration::from_hours(24);

/// The size of a fan-out.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Subscribers.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    pub(crate) subscribers: u64,
    /// Messages a second while paced.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// Seconds of the paced part.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Messages of the burst.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) burst: u64,
    /// Messages in one call of the burst.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) batch: u64,
    /// Bytes of text in a message.
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,
    /// Encoding of the gateway's subscribers; yardsticks speak JSON.
    #[arg(long, value_enum, default_value_t = Codec::Json)]
    pub(crate) codec: Codec,
}

/// Options of `fanout`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    load: Load,
    /// Leaves virtual phones as they are; otherwise they are told to send no receipts.
    #[arg(long)]
    receipts: bool,
}

/// Where to publish and subscribe.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    /// The server.
    pub(crate) endpoint: Endpoint,
    /// Which one it is.
    pub(crate) dialect: Dialect,
    /// Its process, if known.
    pub(crate) pid: Option<u32>,
    /// The device to send from; the bare yardstick has none.
    pub(crate) device: String,
}

impl Stage {
    /// The stage that a gateway is.
    pub(crate) fn of(gateway: &Gateway, codec: Codec) -> Self {
        Self {
            endpoint: gateway.endpoint.clone(),
            dialect: Dialect::Gateway(codec),
            pid: gateway.pid,
            device: gateway.device.clone(),
        }
    }
}

/// How messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// At a rate, one by one.
    Paced,
    /// As fast as they are acknowledged, in batches.
    Burst,
}

impl Style {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Paced => "paced",
            Self::Burst => "burst",
        }
    }
}

/// What a fan-out did.
#[derive(Debug)]
pub(crate) struct Outcome {
    deliveries: u64,
    bytes: u64,
    elapsed: Duration,
    cpu: Option<Duration>,
    latencies: Latencies,
    lost: u64,
    doubled: u64,
    disordered: u64,
    ended_early: u64,
    errors: ErrorCounts,
}

impl Outcome {
    /// Deliveries for each second of CPU that the server's process used.
    pub(crate) fn per_cpu_second(&self) -> Option<f64> {
        self.cpu.map(|cpu| per_second(self.deliveries, cpu))
    }

    /// Bytes of a delivery.
    pub(crate) fn delivery_bytes(&self) -> u64 {
        self.bytes / self.deliveries.max(1)
    }

    /// Puts the run into a report.
    pub(crate) fn tell(self, name: &str, report: &mut Report) {
        report.figure(
            format!("{name}: deliveries"),
            per_second(self.deliveries, self.elapsed),
            "/s",
        );
        report.figure(
            format!("{name}: bytes a delivery"),
            float(self.delivery_bytes()),
            "bytes",
        );
        if let (Some(cpu), Some(rate)) = (self.cpu, self.per_cpu_second()) {
            report.figure(
                format!("{name}: deliveries per server CPU-second"),
                rate,
                "/CPU-s",
            );
            report.figure(format!("{name}: server CPU"), cpu.as_secs_f64(), "s");
        }
        report.latency(format!("{name}: published → delivered"), &self.latencies);
        let counts = [
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("disordered", self.disordered),
        ];
        report.must_be_zero(name, "deliveries", &counts);
        report.fault_if(
            self.ended_early,
            &format!("subscribers ended early ({name})"),
        );
        report.errors(self.errors);
    }
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("fanout");
    if !options.receipts {
        Api::new(gateway.endpoint.clone())
            .silence_phones(&gateway.device)
            .await?;
    }
    let stage = Stage::of(gateway, options.load.codec);
    for style in [Style::Paced, Style::Burst] {
        let name = format!("{} to {}", style.name(), options.load.subscribers);
        let found = measure(&stage, &options.load, style).await;
        if let Some(outcome) = report.part(&name, found) {
            outcome.tell(&name, &mut report);
        }
    }
    Ok(report)
}

/// Measures one pace, with subscribers of its own.
pub(crate) async fn measure(
    stage: &Stage,
    load: &Load,
    style: Style,
) -> Result<Outcome, LoadError> {
    let origin = Instant::now();
    let count = usize::try_from(load.subscribers).unwrap_or(1);
    let subscribers = Subscribers::open(&stage.endpoint, stage.dialect, count, origin).await?;
    let publication = Publication {
        device: stage.device.clone(),
        chats: 100,
        payload: load.payload,
    };
    let mut publisher = Publisher::new(&stage.endpoint, stage.dialect, &publication, origin);
    // Warm-up: connections, caches and buffers are as they will be.
    publish(&mut publisher, load, style, warm_up(load, style)).await?;
    subscribers
        .wait_for(published(&publisher) * load.subscribers)
        .await;

    let (before, began) = (stage.pid.map(usage).transpose()?, Instant::now());
    let (first, first_byte) = (subscribers.deliveries(), subscribers.bytes());
    let messages = match style {
        Style::Paced => load.seconds * u64::from(load.rate),
        Style::Burst => load.burst,
    };
    publish(&mut publisher, load, style, messages).await?;
    let ended = subscribers
        .wait_for(published(&publisher) * load.subscribers)
        .await;
    let deliveries = subscribers.deliveries() - first;
    let after = stage.pid.map(usage).transpose()?;
    let mut outcome = Outcome {
        deliveries,
        bytes: subscribers.bytes() - first_byte,
        elapsed: ended.saturating_duration_since(began),
        cpu: before
            .zip(after)
            .map(|(before, after)| after.cpu.saturating_sub(before.cpu)),
        latencies: Latencies::new(),
        lost: 0,
        doubled: 0,
        disordered: 0,
        ended_early: 0,
        errors: subscribers.refused.clone(),
    };
    for one in subscribers.close().await? {
        outcome.audit(one, &publisher.seqs);
    }
    Ok(outcome)
}

impl Outcome {
    /// Bears what was wrong in a run that is not told of otherwise.
    pub(crate) fn bear(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.disordered += other.disordered;
        self.ended_early += other.ended_early;
        self.errors.merge(other.errors);
    }

    fn audit(&mut self, seen: Seen, expected: &[u64]) {
        self.lost += seen.audit.lost(expected);
        // What is published is acknowledged, or the run has ended: more can only be stored twice.
        self.doubled += seen.audit.doubled + seen.audit.unexpected(expected);
        self.disordered += seen.audit.disordered + seen.audit.outside;
        self.ended_early += u64::from(!seen.stayed);
        if let Some(latencies) = seen.latencies {
            self.latencies.merge(&latencies);
        }
        self.errors.merge(seen.errors);
    }
}

fn published(publisher: &Publisher) -> u64 {
    u64::try_from(publisher.seqs.len()).unwrap_or(u64::MAX)
}

fn warm_up(load: &Load, style: Style) -> u64 {
    match style {
        Style::Paced => u64::from(load.rate) * 2,
        Style::Burst => load.batch.max(load.burst / 10),
    }
}

async fn publish(
    publisher: &mut Publisher,
    load: &Load,
    style: Style,
    messages: u64,
) -> Result<(), LoadError> {
    let bar = progress::bar(messages, style.name());
    match style {
        Style::Paced => {
            // Open loop: a message that goes out late counts from when it was due.
            let (start, pace) = (Instant::now(), Pace::constant(load.rate, A_DAY));
            for due in (0..messages).map_while(|message| pace.due(message)) {
                until(start + due).await;
                publisher.one(start + due).await?;
                bar.inc(1);
            }
        }
        Style::Burst => {
            let mut left = messages;
            while left > 0 {
                let batch = left.min(load.batch.max(1));
                publisher.many(batch).await?;
                left -= batch;
                bar.inc(batch);
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}
