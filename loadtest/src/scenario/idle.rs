//! `idle`: memory of a socket and of a device that do nothing, and of a chat that sleeps.

use clap::Args;
use tokio::time::Instant;

use super::device_fleet::{link, remove};
use super::sleeping_chats;
use super::subscribers::Subscribers;
use crate::client::Endpoint;
use crate::client::calls::Api;
use crate::client::payload::Codec;
use crate::client::ws::Dialect;
use crate::error::LoadError;
use crate::report::{ErrorCounts, Report, float};
use crate::server::settled_rss;
use crate::target::{Gateway, TargetOptions};

/// Sockets and devices that are opened before the first reading, so that one-off costs are not counted.
const WARM: u64 = 50;

/// How many to open.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Idle sockets; 0 leaves this part out.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(0..=50_000))]
    pub(crate) sockets: u64,
    /// Idle linked devices; 0 leaves this part out.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(0..=20_000))]
    pub(crate) devices: u64,
}

/// Options of `idle`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    load: Load,
    /// Chats that are woken by a message each and left to sleep; 0 leaves this part out. The gateway takes chats.idle_ms
    /// to let them: give it a short one.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(0..=200_000))]
    chats: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Bytes of one idle socket.
    pub(crate) socket: Option<f64>,
    /// Bytes of one idle device.
    pub(crate) device: Option<f64>,
    /// What was refused on the way.
    errors: ErrorCounts,
}

impl Outcome {
    /// Puts the measurement into a report.
    pub(crate) fn tell(self, name: &str, report: &mut Report) {
        if let Some(bytes) = self.socket {
            report.figure(
                format!("{name}: memory of an idle socket"),
                bytes / 1_024.0,
                "KiB",
            );
        }
        if let Some(bytes) = self.device {
            report.figure(
                format!("{name}: memory of an idle device"),
                bytes / 1_024.0,
                "KiB",
            );
        }
        report.errors(self.errors);
    }
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("idle");
    measure(&options.load, gateway)
        .await?
        .tell("gateway", &mut report);
    if options.chats > 0 {
        let found = sleeping_chats::measure(gateway, options.chats, &mut report).await;
        report.part("sleeping chats", found);
    }
    Ok(report)
}

/// Measures devices, then sockets, which leave more behind for what comes after them.
pub(crate) async fn measure(load: &Load, gateway: &Gateway) -> Result<Outcome, LoadError> {
    let pid = gateway.pid.ok_or_else(|| {
        LoadError::Target("idle reads the server's memory: name it by --start or --pid".to_owned())
    })?;
    let mut outcome = Outcome::default();
    if load.devices > 0 {
        outcome.device = Some(devices(gateway, pid, load.devices).await?);
    }
    if load.sockets > 0 {
        let (bytes, refused) = sockets(
            &gateway.endpoint,
            Dialect::Gateway(Codec::Json),
            pid,
            load.sockets,
        )
        .await?;
        outcome.socket = Some(bytes);
        outcome.errors.merge(refused);
    }
    Ok(outcome)
}

/// Memory of one idle socket in bytes.
pub(crate) async fn sockets(
    endpoint: &Endpoint,
    dialect: Dialect,
    pid: u32,
    count: u64,
) -> Result<(f64, ErrorCounts), LoadError> {
    let open = async |count: u64| {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Subscribers::open(endpoint, dialect, count, Instant::now()).await
    };
    let warm = open(WARM).await?;
    let before = settled_rss(pid).await?;
    let idle = open(count).await?;
    let after = settled_rss(pid).await?;
    let refused = idle.refused.clone();
    let mut ended = ErrorCounts::default();
    for seen in idle.close().await?.into_iter().chain(warm.close().await?) {
        if !seen.stayed {
            ended.merge(seen.errors);
        }
    }
    if ended.total() > 0 {
        return Err(LoadError::Protocol(format!(
            "idle sockets ended by themselves: {ended:?}"
        )));
    }
    Ok((each(before, after, count), refused))
}

async fn devices(gateway: &Gateway, pid: u32, count: u64) -> Result<f64, LoadError> {
    let api = Api::new(gateway.endpoint.clone());
    let mut made = link(&api, WARM).await?;
    let before = settled_rss(pid).await?;
    made.extend(link(&api, count).await?);
    let after = settled_rss(pid).await?;
    remove(&api, made).await?;
    Ok(each(before, after, count))
}

fn each(before: u64, after: u64, count: u64) -> f64 {
    float(after.saturating_sub(before)) / float(count)
}
