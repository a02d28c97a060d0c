//! `peer`: fan-out, idle sockets and a storm against another server, under the same load.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use super::fanout::{self, Stage, Style};
use super::{idle, storm};
use crate::client::Endpoint;
use crate::client::ws::Dialect;
use crate::error::LoadError;
use crate::report::Report;

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// NATS with its WebSocket listener.
    Nats,
    /// The server in `peers/centrifuge`.
    Centrifuge,
}

/// Options of `peer`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Which server it is.
    #[arg(value_enum)]
    kind: Kind,
    /// Where it listens; loopback only.
    #[arg(long)]
    address: SocketAddr,
    /// Its process.
    #[arg(long)]
    pid: u32,
    #[command(flatten)]
    fanout: fanout::Load,
    /// Idle sockets whose memory is read.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=50_000))]
    idle_sockets: u64,
    /// Sockets of the storm.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    storm_sockets: u64,
    /// Seconds of traffic before each of the storm's cuts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    storm_seconds: u64,
}

impl Options {
    /// The peer's process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn stage(&self) -> Result<Stage, LoadError> {
        if !self.address.ip().is_loopback() {
            return Err(LoadError::Target("load goes to loopback only".to_owned()));
        }
        Ok(Stage {
            endpoint: Endpoint {
                address: self.address,
                credential: None,
            },
            dialect: match self.kind {
                Kind::Nats => Dialect::Nats,
                Kind::Centrifuge => Dialect::Centrifuge,
            },
            pid: Some(self.pid),
            device: String::new(),
        })
    }
}

/// Runs the scenario. Memory comes first, before load has grown the server.
pub(crate) async fn report(options: &Options) -> Result<Report, LoadError> {
    let stage = options.stage()?;
    let name = match options.kind {
        Kind::Nats => "NATS",
        Kind::Centrifuge => "centrifuge",
    };
    let mut report = Report::new(&format!("peer: {name}"));
    let found = idle::sockets(
        &stage.endpoint,
        stage.dialect,
        options.pid,
        options.idle_sockets,
    );
    if let Some((bytes, refused)) = report.part("idle sockets", found.await) {
        report.figure("memory of an idle socket", bytes / 1_024.0, "KiB");
        report.errors(refused);
    }
    for style in [Style::Paced, Style::Burst] {
        let part = format!("{} to {}", style.name(), options.fanout.subscribers);
        let found = fanout::measure(&stage, &options.fanout, style).await;
        if let Some(outcome) = report.part(&part, found) {
            outcome.tell(&part, &mut report);
        }
    }
    let load = storm::Load::of(options.storm_sockets, options.storm_seconds);
    let done = storm::run(&stage, &load, "now", &mut report).await;
    report.part("storm", done);
    Ok(report)
}
