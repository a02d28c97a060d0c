//! The yardstick server: the child process of this program that is loaded like a gateway.
#![expect(
    clippy::print_stdout,
    reason = "the ready line is how the parent learns the port"
)]

use std::io;
use std::net::Ipv4Addr;

use clap::Args;
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::Command;

use super::{http, ws};
use crate::error::LoadError;
use crate::server::ChildServer;

/// The hidden sub-command that runs the server.
pub(crate) const COMMAND: &str = "serve-yardstick";

/// Connections that may wait to be accepted: as many as at the gateway, so that a storm finds the same door.
const BACKLOG: u32 = 4_096;

/// Options of the server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Frames in the broadcast ring.
    #[arg(long, default_value_t = 4_096)]
    ring: usize,
}

/// Starts the server as a child of this process.
pub(crate) async fn start(ring: u64) -> Result<ChildServer, LoadError> {
    let program =
        std::env::current_exe().map_err(LoadError::io("finding this program's own binary"))?;
    let mut command = Command::new(program);
    command.args([COMMAND, "--ring", &ring.to_string()]);
    ChildServer::start(command).await
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(BACKLOG)
}

/// Runs the server until the parent closes our stdin.
pub(crate) async fn run(options: &Options) -> Result<(), LoadError> {
    let doing = "serving the yardstick";
    let listener = listen().map_err(LoadError::io(doing))?;
    let address = listener.local_addr().map_err(LoadError::io(doing))?;
    let router = http::router().merge(ws::router(options.ring.clamp(1, 1 << 20)));
    println!("yardstick listening on http://{address}");
    let parent = tokio::task::spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink()));
    tokio::select! {
        served = axum::serve(ws::undelayed(listener), router).into_future() => {
            served.map_err(LoadError::io(doing))
        }
        // The parent has ended, or has let go.
        _ = parent => Ok(()),
    }
}
