//! Load test of the gateway: a client that shares no type with it and speaks only the public wire, and the
//! yardsticks that its figures are measured by. `README.md` beside this crate says what each figure means.

mod audit;
mod client;
mod error;
mod latency;
mod progress;
mod report;
mod scenario;
mod server;
mod target;
mod yardstick;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;

use crate::error::LoadError;
use crate::report::Report;
use crate::scenario::{fanout, idle, ingest, ratios, send_receive, yardstick as bare};
use crate::target::{Gateway, TargetOptions};
use crate::yardstick::serve;

/// Load test of the gateway and its yardsticks.
#[derive(Debug, Parser)]
#[command(name = "buho-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    /// Writes the report as JSON too.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Threads of the client. It shares the machine with the server.
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    client_threads: u64,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Every acknowledged send arrives at a subscriber, once and in order.
    SendReceive(send_receive::Options),
    /// How many sends a second become durable.
    Ingest(ingest::Options),
    /// What a delivery to one of many subscribers costs.
    Fanout(fanout::Options),
    /// Memory of an idle socket and of an idle device.
    Idle(idle::Options),
    /// What a bare server and the bare store can do here.
    Yardstick(bare::Options),
    /// Figures beside their yardsticks, in one run.
    Ratios(ratios::Options),
    /// The yardstick's server, started by the other commands.
    #[command(name = serve::COMMAND, hide = true)]
    ServeYardstick(serve::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    allow_many_sockets();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // With stderr gone there is nobody left to tell.
            writeln!(std::io::stderr(), "error: {}", error.chain()).ok();
            ExitCode::FAILURE
        }
    }
}

/// Answers whether nothing was wrong.
fn run(cli: &Cli) -> Result<bool, LoadError> {
    let threads = usize::try_from(cli.client_threads).unwrap_or(1);
    let runtime = if threads == 1 {
        Builder::new_current_thread().enable_all().build()
    } else {
        Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
    }
    .map_err(LoadError::io("starting the runtime"))?;
    let Some(report) = runtime.block_on(Box::pin(report(&cli.scenario)))? else {
        return Ok(true);
    };
    report.print();
    if let Some(path) = &cli.json {
        report.write_json(path)?;
    }
    Ok(report.clean())
}

async fn report(scenario: &Scenario) -> Result<Option<Report>, LoadError> {
    let report = match scenario {
        Scenario::SendReceive(options) => {
            against(&options.target, async |gateway| {
                send_receive::report(options, gateway).await
            })
            .await
        }
        Scenario::Ingest(options) => {
            against(&options.target, async |gateway| {
                ingest::report(options, gateway).await
            })
            .await
        }
        Scenario::Fanout(options) => {
            against(&options.target, async |gateway| {
                fanout::report(options, gateway).await
            })
            .await
        }
        Scenario::Idle(options) => {
            against(&options.target, async |gateway| {
                idle::report(options, gateway).await
            })
            .await
        }
        Scenario::Ratios(options) => {
            against(&options.target, async |gateway| {
                ratios::report(options, gateway).await
            })
            .await
        }
        Scenario::Yardstick(options) => bare::report(options).await,
        Scenario::ServeYardstick(options) => {
            serve::run(options).await?;
            return Ok(None);
        }
    };
    report.map(Some)
}

/// Runs a scenario against a gateway, and ends the gateway if it was started here, whatever came of it.
async fn against(
    options: &TargetOptions,
    scenario: impl AsyncFnOnce(&Gateway) -> Result<Report, LoadError>,
) -> Result<Report, LoadError> {
    let gateway = Gateway::reach(options).await?;
    let report = scenario(&gateway).await;
    let finished = gateway.finish().await;
    let report = report?;
    finished?;
    Ok(report)
}

/// Thousands of sockets need as many file descriptors; a server that is started here inherits the limit.
fn allow_many_sockets() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Where it is not allowed, a run that needs more says so when it connects.
    setrlimit(Resource::Nofile, raised).ok();
}
