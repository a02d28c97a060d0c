//! `send-receive`: every acknowledged send arrives at a subscriber, once and in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::closed_loop::mebibytes;
use super::open_loop::{Schedule, Sends};
use crate::audit::{Arrival, OrderAudit, reconcile};
use crate::client::calls::Api;
use crate::client::frame::Frame;
use crate::client::sends::{singles, text};
use crate::client::ws::{Dialect, Socket, read};
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::progress;
use crate::report::{ErrorCounts, Report, float, per_second};
use crate::target::{Gateway, TargetOptions};

/// How long nothing may arrive before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Options of `send-receive`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Sends a second, all senders together.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Connections that send.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    senders: u64,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    warm_up: u64,
    /// Numbers that messages go to, in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=crate::client::sends::CHATS))]
    chats: u64,
    /// Bytes of text in a message.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Subscribes to everything, so that a hole in `seq` shows.
    #[arg(long)]
    unfiltered: bool,
    /// Leaves virtual phones as they are; otherwise they are told to send no receipts.
    #[arg(long)]
    receipts: bool,
}

/// What the subscriber saw.
#[derive(Debug, Default)]
struct Seen {
    /// Bounded by the sends of the run, and by `ARRIVALS` where a server repeats itself.
    arrivals: Vec<Arrival>,
    order: OrderAudit,
    errors: ErrorCounts,
    ended: Option<LoadError>,
}

/// The most arrivals that are kept.
const ARRIVALS: usize = 20_000_000;

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    if !options.receipts {
        Api::new(gateway.endpoint.clone())
            .silence_phones(&gateway.device)
            .await?;
    }
    let mut socket = Socket::open(&gateway.endpoint, Dialect::Gateway).await?;
    let filter = if options.unfiltered {
        json!({})
    } else {
        json!({"types": ["message.created"]})
    };
    socket.subscribe(&filter).await?;
    let start = Instant::now();
    let arrived = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut subscriber = JoinSet::new();
    subscriber.spawn(listen(socket, start, Arc::clone(&arrived), stopped));

    let before = gateway.usage()?;
    let sends = send(options, gateway, start).await;
    wait_for(&arrived, sends.acknowledged.len()).await;
    let after = gateway.usage()?;
    // The subscriber may have ended by itself, with its reason in what it saw.
    stop.send(true).ok();
    let seen = match subscriber.join_next().await {
        Some(Ok(seen)) => seen,
        Some(Err(error)) => return Err(LoadError::Protocol(format!("the subscriber: {error}"))),
        None => return Err(LoadError::Protocol("no subscriber".to_owned())),
    };
    let mut report = tell(options, sends, seen);
    if let Some((before, after)) = before.zip(after) {
        let cpu = after.cpu.saturating_sub(before.cpu);
        report.figure("server CPU, with warm-up", cpu.as_secs_f64(), "s");
        report.figure("server memory", mebibytes(after.rss), "MiB");
    }
    Ok(report)
}

async fn send(options: &Options, gateway: &Gateway, start: Instant) -> Sends {
    let warm_up = Duration::from_secs(options.warm_up);
    let total = warm_up + Duration::from_secs(options.seconds);
    let schedule = Schedule {
        endpoint: gateway.endpoint.clone(),
        requests: singles(
            &gateway.endpoint,
            &gateway.device,
            options.chats,
            &text(options.payload),
        ),
        senders: usize::try_from(options.senders).unwrap_or(1),
        rate: options.rate,
        start,
        warm_up,
        count: total.as_secs() * u64::from(options.rate),
    };
    let (sends, ()) = tokio::join!(
        schedule.run(),
        progress::wait(start + total, "send-receive")
    );
    sends
}

/// Waits until as many have arrived, or none has for some time.
async fn wait_for(arrived: &AtomicU64, wanted: usize) {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = arrived.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        // A moment longer than needed, so that a doubled last one is seen too.
        let patience = if now >= wanted {
            Duration::from_millis(300)
        } else {
            SILENCE
        };
        if since.elapsed() >= patience {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn listen(
    mut socket: Socket,
    start: Instant,
    arrived: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Seen {
    let mut seen = Seen::default();
    loop {
        let text = tokio::select! {
            biased;
            text = socket.text() => text,
            _ = stopped.changed() => return seen,
        };
        let taken = text.and_then(|text| {
            let at = start.elapsed();
            for frame in read(&text)? {
                seen.take(frame, at);
            }
            Ok(())
        });
        if let Err(error) = taken {
            seen.ended = Some(error);
            return seen;
        }
        let count = u64::try_from(seen.arrivals.len()).unwrap_or(u64::MAX);
        arrived.store(count, Ordering::Relaxed);
    }
}

impl Seen {
    fn take(&mut self, frame: Frame<'_>, at: Duration) {
        match &*frame.op {
            "event" => {}
            "reset" | "lag" | "notice" => {
                let word = frame.reason.or(frame.mode).unwrap_or_default();
                self.errors.count(format!("{} {word}", frame.op));
                return;
            }
            _ => return,
        }
        let Some(entry) = frame.event else {
            self.errors.count("event without an entry".to_owned());
            return;
        };
        self.order.note(entry.seq);
        let Some(data) = entry.data.filter(|_| entry.kind == "message.created") else {
            return;
        };
        if self.arrivals.len() < ARRIVALS {
            self.arrivals.push(Arrival {
                id: data.id.into_owned(),
                seq: entry.seq,
                at,
            });
        }
    }
}

fn tell(options: &Options, sends: Sends, seen: Seen) -> Report {
    let mut report = Report::new("send-receive");
    let warm_up = Duration::from_secs(options.warm_up);
    let findings = reconcile(&sends.acknowledged, &seen.arrivals, warm_up);
    let mut delays = Latencies::new();
    findings
        .delays
        .iter()
        .for_each(|delay| delays.record(*delay));
    let counts = [
        ("lost", findings.lost),
        ("doubled", findings.doubled),
        ("disordered", seen.order.disordered),
        ("not where the acknowledgement said", findings.misplaced),
    ];
    report.figure("asked rate", f64::from(options.rate), "/s");
    report.figure(
        "acknowledged after the warm-up",
        per_second(
            sends.latencies.count(),
            Duration::from_secs(options.seconds),
        ),
        "/s",
    );
    report.figure(
        "acknowledged",
        float(u64::try_from(sends.acknowledged.len()).unwrap_or(u64::MAX)),
        "messages",
    );
    for (name, count) in counts {
        report.figure(name, float(count), "messages");
        report.fault_if(count, name);
    }
    report.figure(
        "arrived without an acknowledgement",
        float(findings.unacknowledged),
        "messages",
    );
    if options.unfiltered {
        report.figure("holes in seq", float(seen.order.missing), "entries");
        report.fault_if(seen.order.missing, "holes in seq");
    }
    report.latency("due → acknowledged", &sends.latencies);
    report.latency("due → event", &delays);
    if sends.acknowledged.is_empty() {
        report.fault("nothing was acknowledged");
    }
    if let Some(error) = seen.ended {
        report.fault(format!("the subscriber ended: {error}"));
    }
    report.errors(sends.errors);
    report.errors(seen.errors);
    report
}
