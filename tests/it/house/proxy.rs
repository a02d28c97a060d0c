//! A TCP line between a client and a server that can be slow, silent or cut.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What one piece of data is at most.
const PIECE: usize = 16 * 1_024;
/// Pieces that are on their way on a slow line; more wait at their sender.
const PIECES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    Slow(Duration),
    Withheld,
    Silent,
    Cut,
}

/// Passes connections on until it is dropped.
///
/// A CQL driver goes to the addresses that the nodes name, at the port of its contact points: a proxy before a node
/// listens at the node's own address, and proxies of one cluster at the same port.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    _passing: JoinSet<()>,
}

impl Proxy {
    /// Listens at an address, port 0 for any free one, and passes on to a server.
    pub(crate) async fn open(listen: SocketAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind(listen).await.expect("a free address");
        let (line, watched) = watch::channel(Line::Open);
        let address = listener.local_addr().unwrap();
        let mut passing = JoinSet::new();
        passing.spawn(listen_on(listener, server, watched));
        Self {
            address,
            line,
            _passing: passing,
        }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything comes so much later, in both directions.
    pub(crate) fn delay(&self, by: Duration) {
        self.line.send_replace(Line::Slow(by));
    }

    /// What the client says comes through, and no answer to it.
    pub(crate) fn withhold_answers(&self) {
        self.line.send_replace(Line::Withheld);
    }

    /// Nothing comes through any more, and nobody is told.
    pub(crate) fn silence(&self) {
        self.line.send_replace(Line::Silent);
    }

    /// All connections end, and new ones end at once.
    pub(crate) fn cut(&self) {
        self.line.send_replace(Line::Cut);
    }

    /// All is as it was; what was held up by silence comes through.
    pub(crate) fn heal(&self) {
        self.line.send_replace(Line::Open);
    }
}

async fn listen_on(listener: TcpListener, server: SocketAddr, line: watch::Receiver<Line>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(pass(client, server, line.clone()));
    }
}

async fn pass(client: TcpStream, server: SocketAddr, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let both = client.set_nodelay(true).and(server.set_nodelay(true));
    both.expect("a TCP socket");
    let ((from_client, to_client), (from_server, to_server)) =
        (client.into_split(), server.into_split());
    let there = carry(from_client, to_server, line.clone(), &[Line::Silent]);
    let held = &[Line::Silent, Line::Withheld];
    let back = carry(from_server, to_client, line.clone(), held);
    tokio::select! {
        // An end on either side is told to the other one.
        _ = async { tokio::join!(there, back) } => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

/// Carries one direction to its end; some lines hold it up. What is slow holds nothing behind it up any longer.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    held: &[Line],
) -> io::Result<()> {
    let (send, mut coming) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let now = line.clone();
    let reads = async move {
        loop {
            let mut piece = vec![0; PIECE];
            let length = from.read(&mut piece).await?;
            piece.truncate(length);
            let delay = match *now.borrow() {
                Line::Slow(by) => by,
                Line::Open | Line::Withheld | Line::Silent | Line::Cut => Duration::ZERO,
            };
            if send.send((Instant::now() + delay, piece)).await.is_err() || length == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let writes = async move {
        while let Some((due, piece)) = coming.recv().await {
            sleep_until(due).await;
            // An error means that the proxy is gone, which ends this task too.
            let _ = line.wait_for(|line| !held.contains(line)).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reads, writes).map(|_| ())
}
