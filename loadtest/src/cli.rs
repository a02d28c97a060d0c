//! The command line: which scenario, against which gateway, and what becomes of its report.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;
use tokio::signal::ctrl_c;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::LoadError;
use crate::monitor::Monitor;
use crate::report::surroundings::Watch;
use crate::report::threshold::Threshold;
use crate::report::{Report, aims, markdown};
use crate::scenario::{
    fanout, history, idle, ingest, latency, mix, peer, ratios, soak, start, storm,
    yardstick as bare,
};
use crate::server::usage;
use crate::target::{Gateway, TargetOptions};
use crate::yardstick::serve;

/// Something was lost, doubled or disordered, or a part could not be run.
const FAULTY: u8 = 1;
/// Nothing was wrong, and a threshold was not kept.
const MISSED: u8 = 3;

/// Load test of the gateway and its yardsticks.
#[derive(Debug, Parser)]
#[command(name = "buho-loadtest", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    output: Output,
    /// Threads of the client. It shares the machine with the server.
    #[arg(long, global = true, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    client_threads: u64,
}

/// What becomes of a report.
#[derive(Debug, Args)]
#[command(next_help_heading = "Report")]
struct Output {
    /// Writes the report as JSON too.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the report as a page with plots too, all in one file.
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A bound for a figure, or for a latency's percentile in milliseconds: 'NAME<=VALUE', 'NAME p99>=VALUE'.
    #[arg(long, global = true, value_name = "BOUND")]
    threshold: Vec<Threshold>,
    /// Makes a threshold of the aim of each ratio.
    #[arg(long, global = true)]
    judge_aims: bool,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// How many sends a second become durable: REST, batches, WebSocket.
    Ingest(Box<ingest::Options>),
    /// Open loop from the send to the event; every acknowledged message arrives, once and in order.
    Latency(Box<latency::Options>),
    /// What a delivery to one of many subscribers costs.
    Fanout(Box<fanout::Options>),
    /// Memory of an idle socket and of an idle device.
    Idle(Box<idle::Options>),
    /// All sockets are cut at once, come back and resume.
    Storm(Box<storm::Options>),
    /// How long pages take as the store grows.
    History(Box<history::Options>),
    /// Many devices connect after a restart.
    Start(Box<start::Options>),
    /// A day of traffic, pressed together.
    Mix(Box<mix::Options>),
    /// Steady traffic for a long time, and whether anything grows.
    Soak(Box<soak::Options>),
    /// What a bare server and the bare store can do here.
    Yardstick(Box<bare::Options>),
    /// Figures beside their yardsticks, in one run.
    Ratios(Box<ratios::Options>),
    /// Another server under the same load.
    Peer(Box<peer::Options>),
    /// Prints reports that were written as JSON as one Markdown page.
    Render(Render),
    /// The yardstick's server, started by the other commands.
    #[command(name = serve::COMMAND, hide = true)]
    ServeYardstick(serve::Options),
}

/// Options of `render`.
#[derive(Debug, Args)]
struct Render {
    /// The reports, in the order of the page.
    #[arg(required = true)]
    reports: Vec<PathBuf>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Verdict {
    /// 0: nothing wrong. 1: something was lost, doubled or disordered, or could not be run. 2: wrong arguments.
    /// 3: a threshold was not kept.
    pub exit_code: u8,
    /// The report, where there is one.
    pub report: Option<serde_json::Value>,
    /// What ended the run early.
    pub error: Option<String>,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let threads = usize::try_from(cli.client_threads).unwrap_or(1);
    let runtime = if threads == 1 {
        Builder::new_current_thread().enable_all().build()
    } else {
        Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
    };
    let verdict = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(until_ended(&cli))),
        Err(error) => Verdict::failed(&LoadError::io("starting the runtime")(error)),
    };
    if let Some(error) = &verdict.error {
        // With stderr gone there is nobody left to tell.
        writeln!(std::io::stderr(), "error: {error}").ok();
    }
    ExitCode::from(verdict.exit_code)
}

/// Runs a command; where this program is told to end, the servers that it started are ended too.
async fn until_ended(cli: &Cli) -> Verdict {
    let mut told = match signal(SignalKind::terminate()) {
        Ok(told) => told,
        Err(error) => return Verdict::failed(&LoadError::io("listening for signals")(error)),
    };
    let interrupted = || Verdict::failed(&LoadError::Target("told to end".to_owned()));
    tokio::select! {
        verdict = execute(cli) => verdict,
        _ = told.recv() => interrupted(),
        _ = ctrl_c() => interrupted(),
    }
}

/// Runs one command within the caller's runtime, the program's name first, as on a command line.
pub async fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Verdict {
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Box::pin(execute(&cli)).await,
        Err(error) => Verdict {
            exit_code: 2,
            report: None,
            error: Some(error.to_string()),
        },
    }
}

impl Verdict {
    fn failed(error: &LoadError) -> Self {
        Self {
            exit_code: FAULTY,
            report: None,
            error: Some(error.chain()),
        }
    }
}

async fn execute(cli: &Cli) -> Verdict {
    allow_many_sockets();
    let finished = match report(&cli.scenario).await {
        Ok(Some(report)) => finish(report, &cli.output),
        Ok(None) => Ok(Verdict {
            exit_code: 0,
            report: None,
            error: None,
        }),
        Err(error) => Err(error),
    };
    finished.unwrap_or_else(|error| Verdict::failed(&error))
}

fn finish(mut report: Report, output: &Output) -> Result<Verdict, LoadError> {
    report.judge(&output.threshold);
    if output.judge_aims {
        report.judge_aims();
    }
    report.print();
    if let Some(path) = &output.json {
        report.write_json(path)?;
    }
    if let Some(path) = &output.html {
        report.write_html(path)?;
    }
    Ok(Verdict {
        exit_code: match (report.clean(), report.kept()) {
            (false, _) => FAULTY,
            (true, false) => MISSED,
            (true, true) => 0,
        },
        report: serde_json::to_value(&report).ok(),
        error: None,
    })
}

/// Runs a scenario by its name against the gateway of its options.
macro_rules! against {
    ($options:expr, $scenario:ident) => {
        against(&$options.target, async |gateway: &mut Gateway| {
            $scenario::report($options, gateway).await
        })
        .await
    };
}

async fn report(scenario: &Scenario) -> Result<Option<Report>, LoadError> {
    let report = match scenario {
        Scenario::Ingest(options) => against!(options, ingest),
        Scenario::Latency(options) => against!(options, latency),
        Scenario::Fanout(options) => against!(options, fanout),
        Scenario::Idle(options) => against!(options, idle),
        Scenario::Storm(options) => against!(options, storm),
        Scenario::History(options) => against!(options, history),
        Scenario::Start(options) => against!(options, start),
        Scenario::Mix(options) => against!(options, mix),
        Scenario::Soak(options) => against!(options, soak),
        Scenario::Ratios(options) => against!(options, ratios),
        Scenario::Yardstick(options) => {
            let watch = Watch::start();
            let mut report = bare::report(options).await?;
            // Its servers have all ended.
            let none = Some(std::time::Duration::ZERO);
            report.surrounded(watch.end(none, "yardsticks".to_owned()));
            Ok(report)
        }
        Scenario::Peer(options) => {
            let (watch, monitor) = (Watch::start(), Monitor::start(options.pid()));
            let mut report = peer::report(options).await?;
            let used = monitor.tell("server", &mut report).await;
            report.surrounded(watch.end(used, "a peer".to_owned()));
            Ok(report)
        }
        Scenario::Render(options) => {
            render(options)?;
            return Ok(None);
        }
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
    scenario: impl AsyncFnOnce(&mut Gateway) -> Result<Report, LoadError>,
) -> Result<Report, LoadError> {
    let mut gateway = Gateway::reach(options).await?;
    let version = gateway.version().await;
    let (watch, monitor) = (Watch::start(), gateway.watch());
    let began_with = gateway.pid;
    let before = began_with.and_then(|pid| usage(pid).ok());
    let report = scenario(&mut gateway).await;
    let report = match (report, monitor) {
        (Ok(mut report), Some(monitor)) => {
            let mut used = monitor.tell("server", &mut report).await;
            if gateway.pid != began_with {
                // After a restart the first process is among the ended children, from its own beginning on.
                let now = gateway.pid.and_then(|pid| usage(pid).ok());
                used = now
                    .zip(before)
                    .map(|(now, before)| now.cpu.saturating_sub(before.cpu));
            }
            report.surrounded(watch.end(used, version));
            Ok(report)
        }
        (Ok(mut report), None) => {
            report.surrounded(watch.end(None, version));
            Ok(report)
        }
        (Err(error), _) => Err(error),
    };
    let finished = gateway.finish().await;
    let report = report?;
    finished?;
    Ok(report)
}

fn render(options: &Render) -> Result<(), LoadError> {
    let reports = options.reports.iter().map(|path| Report::read_json(path));
    let reports = reports.collect::<Result<Vec<_>, _>>()?;
    let mut page = aims(&reports);
    reports.iter().for_each(|it| page.push_str(&markdown(it)));
    std::io::stdout()
        .write_all(page.as_bytes())
        .map_err(LoadError::io("printing the page"))
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
