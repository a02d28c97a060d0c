//! A gateway from its start to its end.

use std::time::Duration;

use gateway::Gateway;
use gateway::config::Config;
use gateway::telemetry::{Chain, start_log};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::{Failure, print};
use crate::demo;

/// How long the demonstration may take to be laid out.
const DEMO_TIME_MAX: Duration = Duration::from_secs(30);

/// What is said where a gateway that stood still for long finds that another one has come.
const TAKEN: &str =
    "another gateway has taken the cluster: one at a time may run on it; cql.cluster names another";

/// What is done before the gateway says that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// Nothing.
    Plain,
    /// A tenant, a key and two devices are laid out.
    Demo,
}

/// Runs a gateway until the process is told to end.
pub(super) fn serve(config: Config, opening: Opening) -> Result<(), Failure> {
    start_log(&config.log);
    let runtime = runtime(config.server.worker_threads)?;
    let ended = runtime.block_on(Box::pin(live(config, opening)));
    // What has not ended in time must not hold up the process: all that was acknowledged is durable.
    runtime.shutdown_background();
    ended
}

fn runtime(worker_threads: usize) -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    if 0 < worker_threads {
        builder.worker_threads(worker_threads);
    }
    builder
        .enable_all()
        .thread_name("buho")
        .build()
        .map_err(|error| Failure::failed(Chain(&error)))
}

async fn live(config: Config, opening: Opening) -> Result<(), Failure> {
    let mut ends = EndSignals::listen()?;
    let stop_time_max = config.server.stop_time_max();
    let gateway = tokio::select! {
        started = Box::pin(Gateway::start(config.clone())) => {
            started.map_err(|error| Failure { code: error.exit_code(), line: Chain(&error).to_string() })?
        }
        // Nothing has been acknowledged to anybody yet.
        () = ends.next() => return Ok(()),
    };
    let opened = tokio::select! {
        opened = open(&gateway, &config, opening) => Some(opened),
        () = ends.next() => None,
    };
    let outcome = match opened {
        Some(Ok(())) => tokio::select! {
            () = gateway.overtaken() => Err(Failure::failed(TAKEN)),
            () = ends.next() => Ok(()),
        },
        Some(Err(failure)) => Err(failure),
        None => Ok(()),
    };
    stop(gateway, &mut ends, stop_time_max).await;
    outcome
}

/// Lays out what shall be there from the first moment, then says that the gateway is ready.
async fn open(gateway: &Gateway, config: &Config, opening: Opening) -> Result<(), Failure> {
    let address = gateway.address();
    let ready = format!("buho listening on http://{address}");
    match opening {
        Opening::Plain => print::to_stdout(&ready),
        Opening::Demo => {
            let too_long =
                |_| Failure::failed("the demonstration was not laid out in time; its log says why");
            let sheet = timeout(DEMO_TIME_MAX, Box::pin(demo::lay_out(config, address)))
                .await
                .map_err(too_long)?;
            let sheet = sheet.map_err(|error| Failure::failed(Chain(&error)))?;
            print::to_stdout(&ready);
            print::to_stdout(&sheet.to_string());
        }
    }
    Ok(())
}

/// Stops in good order, but no longer than is allowed, and at once when asked again.
async fn stop(gateway: Gateway, ends: &mut EndSignals, time_max: Duration) {
    tracing::info!("stopping");
    tokio::select! {
        _ = Box::pin(gateway.stop()) => tracing::info!("stopped"),
        () = sleep(time_max) => tracing::warn!("the stop took too long and was cut off"),
        () = ends.next() => tracing::warn!("the stop was cut off, as asked"),
    }
}

/// The two ways in which a process is asked to end.
struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl EndSignals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(Chain(&error)));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
