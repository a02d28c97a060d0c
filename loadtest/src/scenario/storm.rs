//! `storm`: all sockets are cut at once, stay away for some messages, come back at once and resume, while traffic flows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::fanout::Stage;
use super::mebibytes;
use super::storm_news::{Published, Said, publish};
use super::subscribers::Seen;
use super::yardstick;
use crate::client::calls::Api;
use crate::client::payload::{Codec, Payload};
use crate::client::ws::{Dialect, Socket};
use crate::error::LoadError;
use crate::latency::Latencies;
use crate::progress;
use crate::report::{Aim, Ratio, Report, float};
use crate::server::usage;
use crate::target::{Gateway, TargetOptions};

/// How long coming back may take.
const BACK: Duration = Duration::from_mins(2);
/// The longest wait before a refused handshake is tried again.
const BACK_OFF: Duration = Duration::from_secs(2);
/// How long a socket may take to end.
const END: Duration = Duration::from_secs(20);
/// A name of a figure.
const SERVER_CPU: &str = "server CPU for a socket that comes back";
/// How long nothing may arrive before what is missing counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

/// The size of a storm.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Sockets.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    sockets: u64,
    /// How often all of them are cut.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    cuts: u32,
    /// Messages a second that flow meanwhile.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Messages that are published while the sockets are away.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=1_000))]
    missed: u64,
    /// Seconds of traffic before each cut, and after the last.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Handshakes at a time; without it there is no bound, as in a real storm.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    handshakes: Option<u64>,
    /// Bytes of text in a message.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// Encoding of the sockets.
    #[arg(long, value_enum, default_value_t = Codec::Json)]
    pub(crate) codec: Codec,
}

impl Load {
    /// The same storm with frames of so many bytes from a server that adds so many to the payload.
    pub(crate) fn as_long(&self, frame: u64, envelope: usize) -> Self {
        let payload = usize::try_from(frame).unwrap_or_default();
        Self {
            payload: payload.saturating_sub(envelope).max(self.payload),
            ..self.clone()
        }
    }

    /// A storm of so many sockets, the rest by default.
    pub(crate) fn of(sockets: u64, seconds: u64) -> Self {
        Self {
            sockets,
            cuts: 3,
            rate: 20,
            missed: 20,
            seconds,
            handshakes: None,
            payload: 128,
            codec: Codec::Json,
        }
    }
}

/// Options of `storm`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    load: Load,
    /// Leaves the bare server out.
    #[arg(long)]
    without_yardstick: bool,
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("storm");
    let api = Api::new(gateway.endpoint.clone());
    api.silence_phones(&gateway.device).await?;
    let stage = Stage::of(gateway, options.load.codec);
    let head = api.head().await?;
    let figure = run(&stage, &options.load, &head, &mut report).await?;
    if options.without_yardstick {
        return Ok(report);
    }
    let mut bare = Report::new("storm");
    let done = yardstick::storm(&options.load, figure.event_bytes, &mut bare).await;
    if let Some(yardstick) = report.part("the same over a bare server", done) {
        report.figure(
            "bare server: bytes an event",
            float(yardstick.event_bytes),
            "bytes",
        );
        let Load {
            sockets,
            payload,
            codec,
            ..
        } = &options.load;
        let size = format!("{payload} B, {}", codec.name());
        for (cut, ours, bare) in [
            ("median", figure.median, yardstick.median),
            ("slowest", figure.slowest, yardstick.slowest),
        ] {
            let name = format!("{sockets} sockets back and caught up, {size}, {cut} cut");
            let [ours, bare] = [ours, bare].map(|it| it.as_secs_f64());
            report.ratio(Ratio::new(&name, "s", ours, bare, Aim::AtMost(1.5)));
        }
        if 0.0 < figure.cpu {
            let name = format!("{SERVER_CPU}, {size}");
            report.ratio(Ratio::new(
                &name,
                "µs",
                figure.cpu,
                yardstick.cpu,
                Aim::None,
            ));
        }
    }
    Ok(report)
}

/// What a storm came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blown {
    /// From the call back until the last socket had caught up, in the middle one of the cuts.
    median: Duration,
    /// The same in the slowest cut.
    slowest: Duration,
    /// CPU of the server for a socket that comes back, in microseconds; 0 where its process is not known.
    cpu: f64,
    /// Bytes of an event, with what came in the same message.
    event_bytes: u64,
}

/// What tells the sockets what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Be connected and read.
    Read,
    /// Be gone, until told otherwise.
    Away,
    /// Say what was seen, and end.
    End,
}

/// How coming back went, for one socket and one cut.
#[derive(Debug, Clone, Copy)]
struct Back {
    /// From the call back to the subscription.
    subscribed: Duration,
    /// From the call back until everything that was published before the subscription was read.
    caught_up: Duration,
}

#[derive(Debug, Clone)]
struct Shared {
    stage: Stage,
    orders: watch::Receiver<Order>,
    handshakes: Arc<Semaphore>,
    published: Arc<Published>,
    origin: Instant,
    /// One answer for each socket and order.
    back: mpsc::Sender<Option<Back>>,
}

/// Cuts and resumes. Where the server can't resume, what was missed is not judged.
pub(crate) async fn run(
    stage: &Stage,
    load: &Load,
    after: &str,
    report: &mut Report,
) -> Result<Blown, LoadError> {
    let origin = Instant::now();
    let published = Arc::<Published>::default();
    let (order, orders) = watch::channel(Order::Read);
    let count = usize::try_from(load.sockets).unwrap_or(1);
    let (back, mut backs) = mpsc::channel(count);
    let shared = Shared {
        stage: stage.clone(),
        orders,
        handshakes: Arc::new(Semaphore::new(
            usize::try_from(load.handshakes.unwrap_or(load.sockets)).unwrap_or(1),
        )),
        published: Arc::clone(&published),
        origin,
        back,
    };
    let mut sockets = JoinSet::new();
    for index in 0..count {
        let client = Client::new(shared.clone(), after, index % 16 == 0);
        sockets.spawn(client.run());
    }
    drop(shared);
    gather(&mut backs, count, "opening sockets").await?;
    let before = stage.pid.map(usage).transpose()?;
    let mut publishing = JoinSet::new();
    let (enough, stopped) = watch::channel(false);
    let progress = Arc::clone(&published);
    publishing.spawn(publish(
        stage.clone(),
        (load.rate, load.payload),
        origin,
        progress,
        stopped,
    ));
    let (mut subscribed, mut caught_up) = (Latencies::new(), Latencies::new());
    let mut cuts = Vec::new();
    let mut cpu = Duration::ZERO;
    let mut highest = before.map_or(0, |usage| usage.rss);
    for cut in 1..=load.cuts {
        let name = format!("storm, cut {cut}");
        progress::wait(Instant::now() + Duration::from_secs(load.seconds), &name).await;
        // With all sockets ended, `gather` says so.
        order.send(Order::Away).ok();
        gather(&mut backs, count, &name).await?;
        published.more(load.missed).await?;
        let used = stage.pid.map(usage).transpose()?;
        let began = Instant::now();
        order.send(Order::Read).ok();
        for back in gather(&mut backs, count, &name)
            .await?
            .into_iter()
            .flatten()
        {
            subscribed.record(back.subscribed);
            caught_up.record(back.caught_up);
        }
        cuts.push(began.elapsed());
        let now = stage.pid.map(usage).transpose()?;
        cpu += now.zip(used).map_or(Duration::ZERO, |(now, used)| {
            now.cpu.saturating_sub(used.cpu)
        });
        highest = highest.max(now.map_or(0, |usage| usage.rss));
    }
    progress::wait(Instant::now() + Duration::from_secs(load.seconds), "storm").await;
    // The publisher first: a socket ends when it has read all that was published.
    enough.send(true).ok();
    let said = match publishing.join_next().await {
        Some(joined) => {
            joined.map_err(|error| LoadError::Protocol(format!("the publisher: {error}")))?
        }
        None => Said::default(),
    };
    order.send(Order::End).ok();
    report.figure(
        "published",
        float(u64::try_from(said.seqs.len()).unwrap_or(0)),
        "messages",
    );
    cuts.sort_unstable();
    let of = |index: usize| cuts.get(index).copied().unwrap_or_default();
    let (median, slowest) = (of(cuts.len() / 2), of(cuts.len().saturating_sub(1)));
    for (cut, time) in [("median", median), ("slowest", slowest)] {
        let name = format!("all back and caught up, {cut} cut");
        report.figure(name, time.as_secs_f64(), "s");
    }
    report.latency("called back → subscribed again", &subscribed);
    report.latency("called back → caught up", &caught_up);
    let cpu = cpu.as_secs_f64() * 1e6 / (float(load.sockets) * f64::from(load.cuts));
    if let Some(before) = before {
        report.figure(SERVER_CPU, cpu, "µs");
        report.figure(
            "server memory before the first cut",
            mebibytes(before.rss),
            "MiB",
        );
        report.figure(
            "server memory after a cut, at most",
            mebibytes(highest),
            "MiB",
        );
    }
    if said.seqs.is_empty() {
        report.fault("nothing was published");
    }
    let event_bytes = audit(stage, sockets, count, &said, report).await?;
    report.figure("bytes an event", float(event_bytes), "bytes");
    report.errors(said.errors);
    Ok(Blown {
        median,
        slowest,
        cpu,
        event_bytes,
    })
}

async fn gather(
    backs: &mut mpsc::Receiver<Option<Back>>,
    count: usize,
    label: &str,
) -> Result<Vec<Option<Back>>, LoadError> {
    let bar = progress::bar(u64::try_from(count).unwrap_or(u64::MAX), label);
    let mut found = Vec::with_capacity(count);
    let all = async {
        while found.len() < count {
            let Some(back) = backs.recv().await else {
                break;
            };
            bar.inc(1);
            found.push(back);
        }
    };
    let late = timeout(BACK, all).await.is_err();
    bar.finish_and_clear();
    if late || found.len() < count {
        let back = found.len();
        return Err(LoadError::Protocol(format!(
            "{label}: of {count} sockets {back} were there after {BACK:?}"
        )));
    }
    Ok(found)
}

/// Holds what the sockets saw against what was published; answers the bytes of an event.
async fn audit(
    stage: &Stage,
    mut sockets: JoinSet<Result<(Seen, Volume), LoadError>>,
    count: usize,
    said: &Said,
    report: &mut Report,
) -> Result<u64, LoadError> {
    let (seqs, mut volume) = (&said.seqs, Volume::default());
    let (mut lost, mut doubled, mut disordered, mut ended) = (0, 0, 0, 0);
    let mut delays = Latencies::new();
    let mut closed = 0;
    while let Ok(Some(joined)) = timeout(END, sockets.join_next()).await {
        let (seen, read) =
            joined.map_err(|error| LoadError::Protocol(format!("a socket: {error}")))??;
        closed += 1;
        volume.events += read.events;
        volume.bytes += read.bytes;
        lost += seen.audit.lost(seqs);
        let more = seen.audit.unexpected(seqs);
        doubled += seen.audit.doubled + more.saturating_sub(said.unknown);
        disordered += seen.audit.disordered + seen.audit.outside;
        ended += u64::from(!seen.stayed);
        if let Some(latencies) = &seen.latencies {
            delays.merge(latencies);
        }
        report.errors(seen.errors);
    }
    report.fault_if(ended, "sockets ended by themselves");
    report.fault_if(
        u64::try_from(count.saturating_sub(closed)).unwrap_or(u64::MAX),
        "sockets did not say what they saw",
    );
    report.latency("due → delivered, resumed ones too", &delays);
    match stage.dialect {
        Dialect::Gateway(_) | Dialect::Bare(_) => {
            let counts = [
                ("lost", lost),
                ("doubled", doubled),
                ("disordered", disordered),
            ];
            report.must_be_zero("all sockets together", "deliveries", &counts);
        }
        Dialect::Nats | Dialect::Centrifuge => {
            report.figure(
                "missed while away (there is no resume)",
                float(lost),
                "deliveries",
            );
            report.must_be_zero(
                "all sockets together",
                "deliveries",
                &[("doubled", doubled)],
            );
        }
    }
    Ok(volume.bytes / volume.events.max(1))
}

/// How much a socket read.
#[derive(Debug, Clone, Copy, Default)]
struct Volume {
    events: u64,
    /// Bytes of the messages that held them.
    bytes: u64,
}

/// A client that keeps its cursor, and nothing else, over its connections.
struct Client {
    shared: Shared,
    cursor: String,
    last: u64,
    seen: Seen,
    read: Volume,
}

impl Client {
    fn new(shared: Shared, after: &str, sampled: bool) -> Self {
        Self {
            shared,
            cursor: after.to_owned(),
            last: 0,
            seen: Seen::new(sampled),
            read: Volume::default(),
        }
    }

    async fn run(mut self) -> Result<(Seen, Volume), LoadError> {
        let mut socket = self.open().await?;
        self.told(None).await?;
        let mut orders = self.shared.orders.clone();
        loop {
            let message = tokio::select! {
                biased;
                changed = orders.changed() => {
                    let order = *orders.borrow_and_update();
                    match (order, changed) {
                        (Order::Away, Ok(())) => {
                            // No close frame: the connection is just gone.
                            drop(socket);
                            self.told(None).await?;
                            if orders.changed().await.is_err() {
                                return Ok((self.seen, self.read));
                            }
                            socket = self.come_back().await?;
                            continue;
                        }
                        // Only one that is away is called back.
                        (Order::Read | Order::End, _) | (Order::Away, Err(_)) => break,
                    }
                }
                message = socket.message() => message,
            };
            match message.and_then(|message| self.take(&message)) {
                Ok(()) => {}
                Err(error) => {
                    self.seen.errors.count(error.tally_name());
                    return Ok((self.seen, self.read));
                }
            }
        }
        // What was published last may still be on its way.
        let target = self.shared.published.head.load(Ordering::Acquire);
        while self.last < target {
            let Ok(message) = timeout(SILENCE, socket.message()).await else {
                break;
            };
            self.take(&message?)?;
        }
        self.seen.stayed = true;
        Ok((self.seen, self.read))
    }

    async fn come_back(&mut self) -> Result<Socket, LoadError> {
        let began = Instant::now();
        let mut socket = self.open().await?;
        let subscribed = began.elapsed();
        let target = self.shared.published.head.load(Ordering::Acquire);
        let resumes = matches!(
            self.shared.stage.dialect,
            Dialect::Gateway(_) | Dialect::Bare(_)
        );
        while resumes && self.last < target {
            let message = timeout(BACK, socket.message())
                .await
                .map_err(|_| LoadError::Protocol("resumed, and nothing came".to_owned()))??;
            self.take(&message)?;
        }
        let caught_up = began.elapsed();
        self.told(Some(Back {
            subscribed,
            caught_up,
        }))
        .await?;
        Ok(socket)
    }

    async fn told(&self, back: Option<Back>) -> Result<(), LoadError> {
        let gone = |_| LoadError::Protocol("the storm was given up".to_owned());
        self.shared.back.send(back).await.map_err(gone)
    }

    async fn open(&mut self) -> Result<Socket, LoadError> {
        let until = Instant::now() + BACK;
        let mut wait = Duration::from_millis(50);
        loop {
            let opened = self.try_open().await;
            match opened {
                Ok((socket, ready)) => {
                    if let Some(ready) = ready {
                        self.take(&ready)?;
                    }
                    return Ok(socket);
                }
                Err(error) if Instant::now() < until && is_load(&error) => {
                    let name = error.tally_name();
                    self.seen.errors.count(format!("handshake: {name}"));
                    sleep(wait).await;
                    wait = (wait * 2).min(BACK_OFF);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_open(&self) -> Result<(Socket, Option<Payload>), LoadError> {
        let _turn = self
            .shared
            .handshakes
            .acquire()
            .await
            .map_err(|_| LoadError::Protocol("the handshakes ended".to_owned()))?;
        let stage = &self.shared.stage;
        let dialect = match stage.dialect {
            Dialect::Bare(_) => Dialect::Bare(Some(self.last)),
            other @ (Dialect::Gateway(_) | Dialect::Nats | Dialect::Centrifuge) => other,
        };
        let mut socket = Socket::open(&stage.endpoint, dialect).await?;
        let filter = json!({"types": ["message.created"]});
        let ready = socket.subscribe(&filter, &self.cursor).await?;
        Ok((socket, ready))
    }

    fn take(&mut self, message: &Payload) -> Result<(), LoadError> {
        let frames = message.frames()?;
        let mut newest = frames.iter().rev();
        if let Some(entry) = newest.find_map(|frame| frame.event.as_ref()) {
            self.last = entry.seq;
            self.cursor = format!("{}-{}", entry.epoch, entry.seq);
        }
        let at = self.shared.origin.elapsed();
        let events = self.seen.take(message, at)?;
        if events > 0 {
            self.read.events += events;
            self.read.bytes += message.length();
        }
        Ok(())
    }
}

/// Whether a handshake failed because the server, or this machine, has too much to do.
fn is_load(error: &LoadError) -> bool {
    match error {
        LoadError::Refused { problem, .. } => matches!(problem.status, 429 | 503),
        LoadError::Io { .. } | LoadError::Socket { .. } => true,
        LoadError::Body { .. }
        | LoadError::Response(_)
        | LoadError::Closed { .. }
        | LoadError::Protocol(_)
        | LoadError::Target(_)
        | LoadError::Yardstick { .. } => false,
    }
}
