//! `ingest`: how many sends a second become durable, closed loop.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::closed_loop::{Judge, Outcome, Plan, Window, run};
use super::pipeline::Pipeline;
use crate::client::calls::Api;
use crate::client::sends::{CHATS, batches, singles, text};
use crate::error::LoadError;
use crate::report::Report;
use crate::target::{Gateway, TargetOptions};

/// The door that sends go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Via {
    /// One message a call: POST /messages.
    Rest,
    /// Many messages a call: POST /messages/batch.
    Batch,
    /// WebSocket requests, pipelined.
    Ws,
}

/// What a send looks like, and how many there are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Load {
    /// Bytes of text in a message.
    #[arg(long, default_value_t = 128)]
    pub(crate) payload: usize,
    /// Numbers that messages go to, in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=CHATS))]
    pub(crate) chats: u64,
    /// Messages in a batch.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) batch: u64,
    /// Requests unanswered at a time on a socket.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) in_flight: u64,
    /// Seconds of load before measuring.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=60))]
    pub(crate) warm_up: u64,
    /// Seconds of measuring, for each number of connections.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
}

impl Load {
    /// When to measure.
    pub(crate) fn window(&self) -> Window {
        Window {
            warm_up: Duration::from_secs(self.warm_up),
            measured: Duration::from_secs(self.seconds),
        }
    }
}

/// Options of `ingest`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    #[command(flatten)]
    load: Load,
    /// Connections (or sockets), one number after another.
    #[arg(long, value_delimiter = ',', default_value = "1,64,256")]
    connections: Vec<usize>,
    /// The door.
    #[arg(long, value_enum, default_value_t = Via::Rest)]
    via: Via,
    /// Leaves virtual phones as they are; otherwise they are told to send no receipts.
    #[arg(long)]
    receipts: bool,
}

/// Runs the scenario.
pub(crate) async fn report(options: &Options, gateway: &Gateway) -> Result<Report, LoadError> {
    let mut report = Report::new("ingest");
    if !options.receipts {
        Api::new(gateway.endpoint.clone())
            .silence_phones(&gateway.device)
            .await?;
    }
    for connections in &options.connections {
        let name = match options.via {
            Via::Rest => format!("REST, {connections} connections"),
            Via::Batch => format!(
                "batches of {}, {connections} connections",
                options.load.batch
            ),
            Via::Ws => format!("WebSocket, {connections} sockets"),
        };
        let found = measure(&options.load, gateway, options.via, *connections).await;
        if let Some(outcome) = report.part(&name, found) {
            outcome.tell(&name, &mut report);
        }
    }
    Ok(report)
}

/// Measures one door with one number of connections.
pub(crate) async fn measure(
    load: &Load,
    gateway: &Gateway,
    via: Via,
    connections: usize,
) -> Result<Outcome, LoadError> {
    let label = format!("ingest, {connections} connections");
    let connections = connections.clamp(1, 10_000);
    let (endpoint, device) = (&gateway.endpoint, &gateway.device);
    let text = text(load.payload);
    let (requests, judge) = match via {
        Via::Rest => (singles(endpoint, device, load.chats, &text), Judge::Single),
        Via::Batch => (
            batches(endpoint, device, load.chats, load.batch, &text),
            Judge::Batch,
        ),
        Via::Ws => {
            let pipeline = Pipeline {
                endpoint: endpoint.clone(),
                pid: gateway.pid,
                device: device.clone(),
                chats: load.chats,
                text,
                sockets: connections,
                in_flight: load.in_flight,
                window: load.window(),
            };
            return pipeline.run(&label).await;
        }
    };
    let plan = Plan {
        endpoint: endpoint.clone(),
        pid: gateway.pid,
        requests,
        judge,
        connections,
        window: load.window(),
    };
    run(&plan, &label).await
}
