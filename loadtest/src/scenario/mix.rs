//! `mix`: a day of traffic, pressed together.

use std::time::Duration;

use clap::Args;

use super::pace::Pace;
use super::traffic::{Churn, Traffic};
use crate::error::LoadError;
use crate::report::{Report, float};
use crate::target::{Gateway, TargetOptions};

/// Options of `mix`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Calls a second in the busiest hour.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    peak: u32,
    /// Seconds that an hour of the day lasts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    hour_seconds: u64,
    /// Connections that share the calls.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Subscribers that read and audit along; half of them speak MessagePack.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    subscribers: u64,
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("mix");
    let hour = Duration::from_secs(options.hour_seconds);
    let pace = Pace::day(options.peak, hour);
    report.figure("calls of the day", float(pace.count()), "calls");
    let traffic = Traffic {
        pace,
        // The first hour is a quiet one.
        warm_up: hour,
        connections: options.connections,
        subscribers: options.subscribers,
        churn: Churn::No,
    };
    traffic.run(gateway, "mix", &mut report).await?;
    Ok(report)
}
