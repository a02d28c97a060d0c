//! `history`: how long pages take as the store grows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::open_loop::{Call, Expects, Schedule};
use super::pace::Pace;
use crate::client::calls::Api;
use crate::client::http::{Connection, request};
use crate::client::sends::{batch_body, body, number, path, read_batch, text};
use crate::error::LoadError;
use crate::latency::Percentiles;
use crate::progress;
use crate::report::{Aim, Ratio, Report, Series, float, per_second};
use crate::server::quiet;
use crate::target::{Gateway, TargetOptions};

/// Chats that the messages are spread over: few, so that their histories are deep.
const CHATS: u64 = 100;
/// Messages of a batch, as many to each chat.
const BATCH: u64 = 5 * CHATS;
/// Chats from one batch's first one to the next's.
const STEP: u64 = 7;
/// Batches between two notes of how far the filling is.
const NOTE: u64 = 20;
/// Samples of messages that are kept, for pages from the middle.
const SAMPLES: u64 = 1_000;
/// How long the gateway may take to finish what filling began.
const SETTLE: Duration = Duration::from_mins(10);
/// Chats whose whole history is walked at each level.
const WALKED: u64 = 3;
/// Pages of a walk at most.
const PAGES: u64 = 10_000;

/// Options of `history`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Messages in the store at which pages are timed. With --data an interrupted run goes on where it was.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "10000,100000,1000000",
        value_parser = clap::value_parser!(u64).range(1..=20_000_000)
    )]
    levels: Vec<u64>,
    /// Pages a second, open loop, of each kind.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds of measuring each kind, at each level.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Messages of a page.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// Bytes of text in a message.
    #[arg(long, default_value_t = 128)]
    payload: usize,
}

/// How far the filling is; kept beside the data folder.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Filled {
    /// Messages that were acknowledged.
    messages: u64,
    /// Chat and message, evenly over all that was sent.
    samples: Vec<(u64, String)>,
    /// Messages that may be there beyond those: sent by a run that was cut short before it could note them.
    #[serde(default)]
    unknown: u64,
    /// Whether a run is at it, or was cut short.
    #[serde(default)]
    filling: bool,
    /// Messages that the walked chats held before.
    #[serde(default)]
    before: Vec<u64>,
    /// What was found at each level.
    levels: BTreeMap<u64, BTreeMap<String, Percentiles>>,
}

impl Filled {
    fn read(path: &Path) -> Result<Self, LoadError> {
        let Ok(bytes) = std::fs::read(path) else {
            return Ok(Self::default());
        };
        serde_json::from_slice(&bytes).map_err(|source| LoadError::Body {
            call: format!("reading {}", path.display()),
            source,
        })
    }

    fn write(&self, path: Option<&Path>) -> Result<(), LoadError> {
        let Some(path) = path else { return Ok(()) };
        let doing = || LoadError::io(format!("writing {}", path.display()));
        let bytes = serde_json::to_vec(self).map_err(|error| doing()(error.into()))?;
        // In one step, so that a kill leaves the old or the new.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, bytes).map_err(doing())?;
        std::fs::rename(&fresh, path).map_err(doing())
    }
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &mut Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("history");
    let api = Api::new(gateway.endpoint.clone());
    api.silence_phones(&gateway.device).await?;
    let note: Option<PathBuf> = gateway
        .data()
        .map(|data| data.with_extension("filled.json"));
    let mut filled = match &note {
        Some(path) => Filled::read(path)?,
        None => Filled::default(),
    };
    if filled.filling {
        filled.unknown += BATCH * NOTE;
    }
    if filled.messages == 0 && filled.unknown == 0 {
        filled.before.clear();
        for chat in 0..WALKED {
            let found = walk(&api, &gateway.device, chat).await?;
            filled.before.push(found.count);
        }
    }
    let walked = usize::try_from(WALKED).unwrap_or_default();
    filled.before.resize(walked, 0);
    let mut levels = options.levels.clone();
    levels.sort_unstable();
    for level in levels {
        if filled.levels.contains_key(&level) {
            report.note(format!(
                "{level} messages: taken from the earlier run of this folder"
            ));
            for (kind, found) in filled.levels.get(&level).into_iter().flatten() {
                report.percentiles(format!("{level} messages: {kind}"), *found);
            }
            continue;
        }
        if filled.messages > level + BATCH * NOTE {
            report.note(format!("{level} messages: the folder holds more already"));
            continue;
        }
        let began = Instant::now();
        let before = filled.messages;
        fill(options, gateway, level, &mut filled, note.as_deref()).await?;
        if filled.messages > before {
            let name = format!("filling to {level}");
            let rate = per_second(filled.messages - before, began.elapsed());
            report.figure(name, rate, "messages/s");
        }
        if let Some(pid) = gateway.pid
            && !quiet(pid, SETTLE).await?
        {
            report.note(format!("{level} messages: the gateway was not quiet yet"));
        }
        if gateway.data().is_some() {
            // Each level begins with nothing read yet and nothing in memory, and with tables as good as they get.
            if !gateway.restart_compacted().await? {
                report.note(format!("{level} messages: neither flushed nor compacted"));
            }
        }
        let found = time_pages(options, gateway, &filled, level, &mut report).await?;
        let api = Api::new(gateway.endpoint.clone());
        audit(&api, &gateway.device, (level, &filled), &mut report).await?;
        filled.levels.insert(level, found);
        filled.write(note.as_deref())?;
    }
    tell(&filled, &mut report);
    Ok(report)
}

/// Sends batches until so many messages are stored.
async fn fill(
    options: &Options,
    gateway: &Gateway,
    level: u64,
    filled: &mut Filled,
    note: Option<&Path>,
) -> Result<(), LoadError> {
    let text = text(options.payload);
    let requests: Vec<_> = (0..CHATS)
        .map(|turn| batch(gateway, turn * STEP, &text))
        .collect();
    let goal = options.levels.iter().copied().max().unwrap_or(level);
    let every = (goal / SAMPLES).max(1);
    let mut connection = Connection::new(gateway.endpoint.address);
    let bar = progress::bar(level, &format!("filling to {level}"));
    let mut since_note = 0;
    filled.filling = true;
    filled.write(note)?;
    while filled.messages < level {
        bar.set_position(filled.messages);
        let index = (filled.messages / BATCH) % CHATS;
        let Some(request) = usize::try_from(index).ok().and_then(|it| requests.get(it)) else {
            break;
        };
        let outcome = read_batch(&connection.exchange(request).await?)?;
        if outcome.accepted != BATCH {
            return Err(LoadError::Protocol(format!(
                "of a batch of {BATCH} only {} were accepted: {:?}",
                outcome.accepted, outcome.errors
            )));
        }
        let is_due = filled.messages / every >= u64::try_from(filled.samples.len()).unwrap_or(0);
        if let (true, Some(id)) = (is_due, outcome.first) {
            filled.samples.push((index * STEP % CHATS, id));
        }
        filled.messages += BATCH;
        since_note += 1;
        if since_note >= NOTE {
            since_note = 0;
            filled.write(note)?;
        }
    }
    bar.finish_and_clear();
    filled.filling = false;
    filled.write(note)
}

/// A batch that begins at a chat and goes through all of them.
fn batch(gateway: &Gateway, first: u64, text: &str) -> Bytes {
    let messages: Vec<_> = (first..first + BATCH)
        .map(|chat| body(&number(chat % CHATS), text))
        .collect();
    let body = batch_body(&messages).to_string();
    let path = format!("{}/batch", path(&gateway.device));
    request(&gateway.endpoint, "POST", &path, Some(body.as_bytes()))
}

/// The pages of one kind.
struct Kind {
    name: &'static str,
    paths: Vec<String>,
}

async fn kinds(
    options: &Options,
    gateway: &Gateway,
    filled: &Filled,
) -> Result<Vec<Kind>, LoadError> {
    let (device, limit) = (&gateway.device, options.limit);
    let chat = |chat: u64| {
        format!(
            "/v1/devices/{device}/chats/{}/messages?limit={limit}",
            number(chat)
        )
    };
    let chats = || 0..CHATS;
    let whole = format!("/v1/devices/{device}/messages?limit={limit}");
    let middle = filled.samples.iter().skip(filled.samples.len() / 3);
    let middle: Vec<_> = middle.take(filled.samples.len() / 3 + 1).collect();
    let mut cursors = Vec::new();
    let api = Api::new(gateway.endpoint.clone());
    for index in chats().take(20) {
        let page = api.messages(&chat(index)).await?;
        let next = page.next_cursor;
        cursors.extend(next.map(|cursor| format!("{}&cursor={cursor}", chat(index))));
    }
    let mut wide = Vec::new();
    let mut next = api.messages(&whole).await?.next_cursor;
    // Twenty pages down the list of the whole device.
    while let (Some(cursor), true) = (next.take(), wide.len() < 20) {
        let path = format!("{whole}&cursor={cursor}");
        next = api.messages(&path).await?.next_cursor;
        wide.push(path);
    }
    let around = |(index, id): &&(u64, String)| format!("{}&around={id}", chat(*index));
    let one = |(_, id): &&(u64, String)| format!("/v1/devices/{device}/messages/{id}");
    let kinds = [
        ("newest page of a chat", chats().map(chat).collect()),
        (
            "oldest page of a chat",
            chats().map(|index| chat(index) + "&order=asc").collect(),
        ),
        ("page by cursor", cursors),
        (
            "page around a message in the middle",
            middle.iter().map(around).collect(),
        ),
        (
            "one message of the middle",
            middle.iter().map(one).collect(),
        ),
        ("newest page of the device", vec![whole]),
        ("page of the device by cursor", wide),
        (
            "list of chats",
            vec![format!("/v1/devices/{device}/chats?limit={limit}")],
        ),
    ];
    let kinds = kinds
        .into_iter()
        .map(|(name, paths): (_, Vec<String>)| Kind { name, paths });
    Ok(kinds.filter(|kind| !kind.paths.is_empty()).collect())
}

async fn time_pages(
    options: &Options,
    gateway: &Gateway,
    filled: &Filled,
    level: u64,
    report: &mut Report,
) -> Result<BTreeMap<String, Percentiles>, LoadError> {
    let mut found = BTreeMap::new();
    for kind in kinds(options, gateway, filled).await? {
        let call = |path: &String| Call {
            kind: kind.name,
            request: request(&gateway.endpoint, "GET", path, None),
            expects: Expects::Success,
        };
        let (warm_up, start) = (Duration::from_secs(1), Instant::now());
        let total = warm_up + Duration::from_secs(options.seconds);
        let schedule = Schedule {
            address: gateway.endpoint.address,
            calls: kind.paths.iter().map(call).collect(),
            connections: 8,
            pace: Arc::new(Pace::constant(options.rate, total)),
            start,
            warm_up,
        };
        let label = format!("{level} messages: {}", kind.name);
        let ((calls, _), ()) = tokio::join!(schedule.run(), progress::wait(start + total, &label));
        if let Some(done) = calls.kind(kind.name) {
            report.latency(label.clone(), &done.latencies);
            report.fault_if(done.failed, &format!("pages were not answered ({label})"));
            found.insert(kind.name.to_owned(), done.latencies.percentiles());
        }
        report.errors(calls.errors);
    }
    Ok(found)
}

/// What a walk through a chat's history showed.
#[derive(Debug, Default)]
struct Walk {
    count: u64,
    doubled: u64,
    disordered: u64,
}

/// Walks the whole history of a chat, newest first. One that is not there is empty.
async fn walk(api: &Api, device: &str, chat: u64) -> Result<Walk, LoadError> {
    let number = number(chat);
    let first = format!("/v1/devices/{device}/chats/{number}/messages?limit=200");
    let (mut path, mut found, mut last) = (first.clone(), Walk::default(), None);
    for _ in 0..PAGES {
        let page = match api.messages(&path).await {
            Err(LoadError::Refused { problem, .. }) if problem.status == 404 => break,
            page => page?,
        };
        for message in page.items {
            // Ids rise with time, and the newest comes first.
            match &last {
                Some(last) if message.id == *last => found.doubled += 1,
                Some(last) if message.id > *last => found.disordered += 1,
                Some(_) | None => {}
            }
            last = Some(message.id);
            found.count += 1;
        }
        let Some(cursor) = page.next_cursor else {
            break;
        };
        path = format!("{first}&cursor={cursor}");
    }
    Ok(found)
}

/// Walks whole histories: every message of a chat is there, once, newest first.
async fn audit(
    api: &Api,
    device: &str,
    (level, filled): (u64, &Filled),
    report: &mut Report,
) -> Result<(), LoadError> {
    let (mut lost, mut doubled, mut disordered) = (0, 0, 0);
    for (chat, before) in (0..WALKED).zip(&filled.before) {
        let found = walk(api, device, chat).await?;
        let wanted = before + filled.messages / CHATS;
        lost += wanted.saturating_sub(found.count);
        // A message more than were sent is stored twice, in whatever order it came.
        let more = found.count.saturating_sub(wanted);
        doubled += found
            .doubled
            .max(more.saturating_sub(filled.unknown / CHATS));
        disordered += found.disordered;
    }
    let name = format!("{level} messages: histories of {WALKED} chats");
    let counts = [
        ("lost", lost),
        ("doubled", doubled),
        ("disordered", disordered),
    ];
    report.must_be_zero(&name, "messages", &counts);
    Ok(())
}

fn tell(filled: &Filled, report: &mut Report) {
    let (first, last) = (
        filled.levels.iter().next(),
        filled.levels.iter().next_back(),
    );
    let (Some((low, small)), Some((high, large))) = (first, last) else {
        return;
    };
    for (kind, before) in small {
        if let (true, Some(after)) = (low < high, large.get(kind)) {
            let of = |found: &Percentiles| [("p50", found.p50_us), ("p99", found.p99_us)];
            for ((percentile, after), (_, before)) in of(after).into_iter().zip(of(before)) {
                let name = format!("{kind}, {percentile}: at {high} messages beside {low}");
                let (figure, yardstick) = (milliseconds(after), milliseconds(before));
                report.ratio(Ratio::new(&name, "ms", figure, yardstick, Aim::AtMost(1.5)));
            }
        }
        for (plot, of) in [
            (
                "pages, half of them, ms",
                (|it| it.p50_us) as fn(&Percentiles) -> u64,
            ),
            ("pages, 99 of 100, ms", |it| it.p99_us),
        ] {
            let levels = filled.levels.iter();
            report.series(Series {
                plot: plot.to_owned(),
                name: kind.clone(),
                axis: "messages in the store".into(),
                points: levels
                    .filter_map(|(level, found)| {
                        Some((float(*level), milliseconds(of(found.get(kind)?))))
                    })
                    .collect(),
            });
        }
    }
}

fn milliseconds(microseconds: u64) -> f64 {
    float(microseconds) / 1_000.0
}
