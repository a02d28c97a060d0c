//! `soak`: steady traffic for a long time, and whether anything grows.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::pace::Pace;
use super::traffic::{Churn, Traffic};
use super::{MEBIBYTE, mebibytes};
use crate::client::calls::Api;
use crate::error::LoadError;
use crate::metrics::Metrics;
use crate::monitor::{means, slope, without};
use crate::report::{Report, Series, float};
use crate::server::{quiet, usage};
use crate::target::{Gateway, TargetOptions};

/// Readings of a run.
const READINGS: u32 = 600;
/// How long the gateway may take to become quiet at the end.
const SETTLE: Duration = Duration::from_mins(2);
/// Gauges that are kept.
const GAUGES: usize = 64;
/// What the process holds in memory.
const MEMORY: &str = "memory";
/// The same without the embedded store's tables and cache, which fill up to bounds of their own over minutes or hours.
const MEMORY_BESIDE: &str = "memory beside the store's tables and cache";
/// As much of it as is in use: what the allocator has given out, without the pages that it keeps.
const ALLOCATED_BESIDE: &str = "memory in use beside the store's tables and cache";
/// The gauges of the tables and the cache.
const BOUNDED: [&str; 2] = ["buho_store_buffer_bytes", "buho_store_cache_bytes"];
/// The gauge of what the allocator has given out.
const ALLOCATED: &str = "buho_memory_allocated_bytes";
/// A line is laid through the means of so many parts of what was read: readings that lie close together tell of the same
/// table that fills or the same merge, and would make its standard error too small.
const PARTS: usize = 24;

/// Options of `soak`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Minutes of traffic.
    #[arg(long, default_value_t = 20.0, value_parser = minutes)]
    minutes: f64,
    /// Calls a second.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    rate: u32,
    /// Connections that share the calls.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Subscribers that read and audit along.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    subscribers: u64,
    /// Sockets that come and go together, over and over.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    churn: u64,
    /// Share of the run, in hundredths, that is not part of the slopes: caches fill, memory finds its place.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(0..=90))]
    settle_percent: u32,
    /// The most that memory in use, without the tables and the cache of the embedded store, may grow in an hour, by the lower
    /// end of the slope's confidence (two standard errors). Resident memory, where the gateway does not tell what is in use.
    #[arg(long, default_value_t = 1.0, value_name = "MIB")]
    memory_growth_max: f64,
    /// Seconds that whatever was opened may take to be gone after the run: chats leave some time after their last use.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    cool_down: u64,
    /// How many descriptors (but for files), threads, or anything that a gauge counts, may be more at the end than at the start.
    #[arg(long, default_value_t = 5.0, value_name = "COUNT")]
    left_over_max: f64,
}

fn minutes(text: &str) -> Result<f64, String> {
    let value: f64 = text
        .parse()
        .map_err(|_| format!("{text} is not a number"))?;
    let allowed = 0.01..=1_440.0;
    let wrong = || format!("{text} is not between 0.01 and 1440");
    allowed.contains(&value).then_some(value).ok_or_else(wrong)
}

/// What was watched, each over time.
type Readings = Vec<Series>;
/// What was watched, at one time.
type Snapshot = Vec<(String, f64)>;

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let pid = gateway.pid.ok_or_else(|| {
        LoadError::Target("soak reads the server's process: name it by --start or --pid".to_owned())
    })?;
    let mut report = Report::new("soak");
    let api = Api::new(gateway.endpoint.clone());
    let total = Duration::from_secs_f64(options.minutes * 60.0);
    quiet(pid, SETTLE).await?;
    let before = snapshot(pid, &api).await?;
    let readings = Arc::new(Mutex::new(Readings::new()));
    let mut looking = JoinSet::new();
    looking.spawn(look(
        pid,
        api.clone(),
        total / READINGS,
        Arc::clone(&readings),
    ));
    let traffic = Traffic {
        pace: Pace::constant(options.rate, total),
        warm_up: total / 10,
        connections: options.connections,
        subscribers: options.subscribers,
        churn: match options.churn {
            0 => Churn::No,
            count => Churn::Sockets(count),
        },
    };
    traffic.run(gateway, "soak", &mut report).await?;
    looking.shutdown().await;
    if !quiet(pid, SETTLE).await? {
        report.note("the gateway was not quiet after the run");
    }
    let after = cool_down(options, pid, &api, &before).await?;
    let readings = std::mem::take(&mut *readings.lock().unwrap_or_else(PoisonError::into_inner));
    slopes(options, total, &readings, &mut report);
    left_over(options, &before, &after, &mut report);
    readings
        .into_iter()
        .for_each(|series| report.series(series));
    Ok(report)
}

/// Everything that is watched, now: memory in MiB, descriptors, threads, and the gateway's gauges.
async fn snapshot(pid: u32, api: &Api) -> Result<Snapshot, LoadError> {
    let usage = usage(pid)?;
    let mut found = vec![
        (MEMORY.to_owned(), mebibytes(usage.rss)),
        (
            "sockets and other descriptors".to_owned(),
            float(usage.descriptors - usage.files),
        ),
        (
            "files, of which the store caches some".to_owned(),
            float(usage.files),
        ),
        ("threads".to_owned(), float(usage.threads)),
    ];
    // A gateway without metrics is watched all the same.
    if let Ok(metrics) = Metrics::read(api).await {
        let gauges = metrics.gauges().take(GAUGES);
        found.extend(gauges.map(|(name, value)| (name.to_owned(), value)));
    }
    let bounded = found
        .iter()
        .filter(|(name, _)| BOUNDED.contains(&name.as_str()));
    let bounded: Vec<f64> = bounded.map(|(_, bytes)| *bytes).collect();
    if !bounded.is_empty() {
        let bounded = bounded.iter().sum::<f64>() / MEBIBYTE;
        let allocated = found.iter().find(|(name, _)| name == ALLOCATED);
        let allocated = allocated.map(|(_, bytes)| bytes / MEBIBYTE - bounded);
        found.push((MEMORY_BESIDE.to_owned(), mebibytes(usage.rss) - bounded));
        found.extend(allocated.map(|beside| (ALLOCATED_BESIDE.to_owned(), beside)));
    }
    Ok(found)
}

async fn look(pid: u32, api: Api, every: Duration, readings: Arc<Mutex<Readings>>) {
    let began = Instant::now();
    let mut ticks = interval(every.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(found) = snapshot(pid, &api).await else {
            return;
        };
        let at = began.elapsed().as_secs_f64();
        let mut readings = readings.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in found {
            if let Some(series) = readings.iter_mut().find(|series| series.name == name) {
                series.points.push((at, value));
            } else {
                readings.push(Series {
                    plot: format!("soak: {name}"),
                    name,
                    axis: "s".into(),
                    points: vec![(at, value)],
                });
            }
        }
    }
}

fn slopes(options: &Options, total: Duration, readings: &Readings, report: &mut Report) {
    let from = total.as_secs_f64() * f64::from(options.settle_percent) / 100.0;
    let known = |name: &&str| readings.iter().any(|it| it.name == *name);
    let judged = [ALLOCATED_BESIDE, MEMORY_BESIDE].into_iter().find(known);
    let judged = judged.unwrap_or(MEMORY);
    let parts = |series: &Series| {
        let points = series.points.iter().copied();
        let settled: Vec<_> = points.filter(|(at, _)| *at >= from).collect();
        means(&settled, PARTS)
    };
    let tables = readings.iter().find(|it| it.name == BOUNDED[0]);
    let tables: Vec<_> = tables
        .map(parts)
        .into_iter()
        .flatten()
        .map(|(_, bytes)| bytes)
        .collect();
    for series in readings {
        let mut line = parts(series);
        // Tables take more than the bytes that are in them.
        if series.name == ALLOCATED_BESIDE {
            line = without(&line, &tables);
        }
        let Some(found) = slope(&line) else {
            continue;
        };
        let (hourly, error) = (found.slope * 3_600.0, found.error * 3_600.0);
        let unit = if series.name.starts_with(MEMORY) {
            "MiB/h"
        } else {
            "/h"
        };
        report.figure(format!("{}: slope", series.name), hourly, unit);
        report.figure(
            format!("{}: slope, standard error", series.name),
            error,
            unit,
        );
        if series.name == judged {
            let hours = (total.as_secs_f64() - from) / 3_600.0;
            let most = (hourly + 2.0 * error) * hours;
            report.figure(
                format!("{judged}: growth along the line, at most"),
                most,
                "MiB",
            );
        }
        if series.name == judged && hourly - 2.0 * error > options.memory_growth_max {
            report.missed(format!(
                "{judged} grows by {hourly:.2} ± {error:.2} MiB/h, wanted at most {}",
                options.memory_growth_max
            ));
        }
    }
}

/// Waits until nothing is left over, or the time is up.
async fn cool_down(
    options: &Options,
    pid: u32,
    api: &Api,
    before: &Snapshot,
) -> Result<Snapshot, LoadError> {
    let until = Instant::now() + Duration::from_secs(options.cool_down);
    loop {
        let after = snapshot(pid, api).await?;
        let mut grown = after
            .iter()
            .map(|(name, now)| (name, *now - value(before, name)));
        let left = grown.any(|(name, more)| is_counted(name) && more > options.left_over_max);
        if !left || Instant::now() >= until {
            return Ok(after);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn value(snapshot: &Snapshot, name: &str) -> f64 {
    let found = snapshot.iter().find(|(other, _)| other == name);
    found.map_or(0.0, |(_, value)| *value)
}

fn left_over(options: &Options, before: &Snapshot, after: &Snapshot, report: &mut Report) {
    for (name, now) in after {
        let first = value(before, name);
        report.figure(format!("{name}: before"), first, "");
        report.figure(format!("{name}: after"), *now, "");
        if is_counted(name) && now - first > options.left_over_max {
            report.missed(format!(
                "{name}: {now} after the run, {first} before, wanted at most {} more",
                options.left_over_max
            ));
        }
    }
}

/// Gauges of bytes, and of what is kept on purpose, are told and not judged.
fn is_counted(name: &str) -> bool {
    !["memory", "bytes", "ring", "cache"]
        .iter()
        .any(|word| name.contains(word))
}
