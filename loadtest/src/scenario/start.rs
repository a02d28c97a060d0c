//! `start`: many linked devices, a restart, and the time until all are connected again.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep};

use super::device_fleet::link;
use super::mebibytes;
use super::read_back::ReadBack;
use crate::client::calls::Api;
use crate::client::sends::{body, number, text};
use crate::error::LoadError;
use crate::monitor::Monitor;
use crate::progress;
use crate::report::{Aim, Ratio, Report, float};
use crate::server::{settled_rss, usage};
use crate::target::{Gateway, TargetOptions};

/// Messages that must be there after the restart.
const MESSAGES: u64 = 200;
/// The aim for all devices together, in seconds.
const ALL_CONNECTED: f64 = 10.0;

/// Options of `start`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Devices. With --data, those that an earlier run made count.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    devices: u64,
    /// The longest that the devices may take to connect after the restart, in seconds.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    patience: u64,
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &mut Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("start");
    let api = Api::new(gateway.endpoint.clone());
    api.silence_phones(&gateway.device).await?;
    let there = api.connected().await?;
    let began = Instant::now();
    link(&api, options.devices.saturating_sub(there)).await?;
    let wanted = api.connected().await?;
    report.figure("devices", float(wanted), "devices");
    report.figure(
        "making and linking them",
        began.elapsed().as_secs_f64(),
        "s",
    );
    report.fault_if(
        options.devices.saturating_sub(wanted),
        "devices never connected",
    );
    let head = api.head().await?;
    let mut sent = Vec::new();
    for chat in 0..MESSAGES {
        let message = body(&number(chat), &text(128));
        sent.push(api.send(&gateway.device, &message).await?);
    }
    if let Some(pid) = gateway.pid {
        report.figure(
            "memory before the restart",
            mebibytes(settled_rss(pid).await?),
            "MiB",
        );
    }
    let restart = gateway.restart().await?;
    let api = Api::new(gateway.endpoint.clone());
    let monitor = gateway.pid.map(Monitor::start);
    report.figure(
        "restart: until the old process had ended",
        restart.stopped.as_secs_f64(),
        "s",
    );
    report.figure(
        "restart: until it listened",
        restart.ready.as_secs_f64(),
        "s",
    );
    connect(options, &api, wanted, restart.began, &mut report).await?;
    if let Some(pid) = gateway.pid {
        report.figure(
            "restart: CPU until all were connected",
            usage(pid)?.cpu.as_secs_f64(),
            "s",
        );
        let memory = settled_rss(pid).await?;
        report.figure("memory after the restart", mebibytes(memory), "MiB");
        report.figure(
            "memory after the restart, for each device",
            float(memory) / 1_024.0 / float(wanted.max(1)),
            "KiB",
        );
    }
    let read_back = ReadBack::read(&api, &head, &sent, 0).await?;
    read_back.tell("messages sent before the restart", &mut report);
    if let Some(monitor) = monitor {
        monitor.tell("server after the restart", &mut report).await;
    }
    Ok(report)
}

async fn connect(
    options: &Options,
    api: &Api,
    wanted: u64,
    began: Instant,
    report: &mut Report,
) -> Result<(), LoadError> {
    let bar = progress::bar(wanted, "connecting again");
    let deadline = began + Duration::from_secs(options.patience);
    let mut half = None;
    loop {
        let connected = api.connected().await?;
        bar.set_position(connected);
        if connected * 2 >= wanted {
            half.get_or_insert(began.elapsed());
        }
        if connected >= wanted {
            let all = began.elapsed().as_secs_f64();
            report.figure("restart: until all were connected", all, "s");
            report.figure("restart: connected a second", float(wanted) / all, "/s");
            // Nothing comparable stands beside it: the aim does.
            report.ratio(Ratio::new(
                "all devices connected after a restart",
                "s",
                all,
                ALL_CONNECTED,
                Aim::FigureAtMost(ALL_CONNECTED),
            ));
            break;
        }
        if Instant::now() >= deadline {
            report.fault(format!(
                "of {wanted} devices {connected} were connected after {} s",
                options.patience
            ));
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    bar.finish_and_clear();
    if let Some(half) = half {
        report.figure(
            "restart: until half were connected",
            half.as_secs_f64(),
            "s",
        );
    }
    Ok(())
}
