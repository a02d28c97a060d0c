//! The one place where the parts are put together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actors::door::DoorLimits;
use actors::log::LogOptions;
use actors::model::Timestamp;
use actors::node::{Base, NodeHandle};
use actors::ports::connector::{Connector, ConnectorBase};
use actors::ports::simulation::Simulation;
use actors::ports::{Clock, Store};
use actors::{CommandError, Limits};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::Config;
use crate::config::StoreKind;
use crate::connector::simulator::{Simulator, SimulatorOptions};
use crate::credentials::Credentials;
use crate::http::{self, Api, ApiState, ServeLimits};
use crate::operator::{OperatorDesk, OperatorSocket, Removals, SocketError};
use crate::store::transfer::backup::Backups;
use crate::store::{CqlOptions, CqlStore, EmbeddedOptions, EmbeddedStore, OpenError, schema};
use crate::telemetry::Metrics;
use crate::ws::Sockets;

/// How long what is under way may take when the gateway stops, of the whole time that a stop may take.
const GRACE_SHARE: f64 = 0.4;

/// How long sockets may take to say goodbye.
const SOCKETS_END_MAX: Duration = Duration::from_secs(6);

/// A running gateway. Tests and `main` start it in the same way.
pub struct Gateway {
    address: SocketAddr,
    api: ApiState,
    node: NodeHandle,
    store: Arc<dyn Store>,
    cql: Option<Arc<CqlStore>>,
    simulator: Arc<Simulator>,
    operator: OperatorSocket,
    backups: Arc<Backups>,
    removals: Arc<Removals>,
    stopping: watch::Sender<bool>,
    sockets: Arc<Sockets>,
    tasks: JoinSet<()>,
}

/// Why a gateway could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store can't be opened.
    #[error("{0}")]
    Store(StoreTrouble),
    /// The database can't be used.
    #[error(transparent)]
    Database(#[from] schema::OpenError),
    /// The address is taken or not ours.
    #[error("can't listen on {address}: free the address, or choose another with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The operator's socket can't be opened.
    #[error("the operator's socket can't be opened")]
    Operator(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What is stored can't be read.
    #[error("what is stored can't be read")]
    Credentials(#[source] CommandError),
    /// The actors did not start.
    #[error("the actors did not start")]
    Actors(#[source] actors::StartError),
}

/// Why the store can't be opened, and what to do about it.
#[derive(Debug)]
pub struct StoreTrouble(OpenError);

impl std::fmt::Display for StoreTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StartError {
    /// The exit code that stands for it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Store(_) | Self::Database(_) => 3,
            Self::Listen { .. } | Self::Operator(_) | Self::Credentials(_) | Self::Actors(_) => 1,
        }
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the clock that others take"
    )]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts every part; returns when the API and the operator's socket answer. Devices follow.
    ///
    /// # Errors
    ///
    /// When a part does not start.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let metrics = Metrics::install();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let address = config.server.listen;
        let listen = |source| StartError::Listen { address, source };
        let listener = http::listen(address).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;

        let Stored {
            store,
            embedded,
            cql,
        } = open_store(&config, &clock).await?;
        let base = ConnectorBase {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
        };
        let simulator = Simulator::new(base, simulator_options(&config));
        let connectors: Vec<Arc<dyn Connector>> =
            vec![Arc::clone(&simulator) as Arc<dyn Connector>];
        let base = Base::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            connectors,
            limits(&config),
        );
        let node = NodeHandle::start(base).await.map_err(StartError::Actors)?;
        let credentials = Credentials::new(Arc::clone(&store), Arc::clone(&clock), &config).await;
        let credentials = Arc::new(credentials.map_err(StartError::Credentials)?);

        let (stopping, stopped) = watch::channel(false);
        let api = ApiState::from(Api {
            node: node.clone(),
            store: Arc::clone(&store),
            credentials: Arc::clone(&credentials),
            simulation: Arc::clone(&simulator) as Arc<dyn Simulation>,
            clock: Arc::clone(&clock),
            config: Arc::clone(&config),
            stopping: stopped.clone(),
            metrics: metrics.clone(),
            idempotency: http::idempotency::InFlight::default(),
        });
        let backups = Backups::new(embedded, config.store.min_free, Arc::clone(&clock));
        let backups = Arc::new(backups);
        let removals = Removals::resume(node.clone(), Arc::clone(&credentials));
        let removals = Arc::new(removals);
        let desk = OperatorDesk {
            node: node.clone(),
            credentials,
            store: Arc::clone(&store),
            backups: Arc::clone(&backups),
            removals: Arc::clone(&removals),
        };
        let operator = OperatorSocket::open(&config.operator_socket(), Arc::new(desk));
        let operator =
            operator.map_err(|error: SocketError| StartError::Operator(Box::new(error)))?;
        let serve_limits = ServeLimits {
            connections: config.server.connections_max,
            head_time: config.server.header_time_max(),
            // A socket that stalls is told so first, by its own session.
            write_stall: config.streams.write_stall() + SOCKETS_END_MAX,
            grace: config.server.stop_time_max().mul_f64(GRACE_SHARE),
        };
        let (routes, sockets) = http::router(api.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(http::serve(listener, routes, stopped, serve_limits));
        tasks.spawn(metrics.keep_up());
        Ok(Self {
            address,
            api,
            node,
            store,
            cql,
            simulator,
            operator,
            backups,
            removals,
            stopping,
            sockets,
            tasks,
        })
    }

    /// Where the gateway listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until another gateway has taken over what this one had in its database. Since this one then knows no more what
    /// is so, it has to stop.
    pub async fn overtaken(&self) {
        match &self.cql {
            Some(store) => store.overtaken().await,
            None => std::future::pending().await,
        }
    }

    /// Takes no more requests, ends those under way, lets the actors finish, and closes the store.
    pub async fn stop(mut self) {
        self.stopping.send_replace(true);
        self.node.close_logs();
        // The first task is the listener; the other only keeps the metrics tidy and has no end of its own.
        drop(self.tasks.join_next().await);
        // Each socket tells its peer and ends within seconds; one that does not is cut off with the process.
        drop(tokio::time::timeout(SOCKETS_END_MAX, self.sockets.settled()).await);
        self.tasks.shutdown().await;
        self.api.idempotency.drained().await;
        self.operator.close().await;
        self.backups.stop().await;
        self.removals.stop().await;
        self.node.stop().await;
        self.simulator.close().await;
        self.store.close().await;
    }
}

/// The open store, and once more as the one that it is.
struct Stored {
    store: Arc<dyn Store>,
    embedded: Option<Arc<EmbeddedStore>>,
    cql: Option<Arc<CqlStore>>,
}

async fn open_store(config: &Config, clock: &Arc<dyn Clock>) -> Result<Stored, StartError> {
    match config.store.kind {
        StoreKind::Embedded => {
            let store = open_embedded(config, clock).await?;
            Ok(Stored {
                store: Arc::<EmbeddedStore>::clone(&store),
                embedded: Some(store),
                cql: None,
            })
        }
        StoreKind::Cql => {
            // The operator's socket lies there.
            let folder = tokio::fs::create_dir_all(&config.store.path).await;
            folder.map_err(|error| StartError::Operator(Box::new(error)))?;
            let options = CqlOptions {
                retention: config.streams.retention(),
                ring_bytes_max: config.streams.ring_bytes_max,
                ..CqlOptions::new(config.cql.clone())
            };
            let store = Box::pin(CqlStore::open(options, Arc::clone(clock))).await?;
            Ok(Stored {
                store: Arc::<CqlStore>::clone(&store),
                embedded: None,
                cql: Some(store),
            })
        }
    }
}

async fn open_embedded(
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<EmbeddedStore>, StartError> {
    let options = EmbeddedOptions {
        min_free: config.store.min_free,
        cache_bytes: config.store.cache_bytes,
        ring_bytes_max: config.streams.ring_bytes_max,
        reader_threads: config.store.reader_threads,
        ..EmbeddedOptions::new(config.store.path.clone())
    };
    let clock = Arc::clone(clock);
    // Opening replays a journal: that blocks.
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(options, clock)).await;
    match opened {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error)) => Err(StartError::Store(StoreTrouble(error))),
        Err(panic) => Err(StartError::Operator(Box::new(panic))),
    }
}

fn simulator_options(config: &Config) -> SimulatorOptions {
    SimulatorOptions {
        seed: config.simulator.seed,
        first_qr: config.simulator.qr_first(),
        next_qr: config.simulator.qr_next(),
        ..SimulatorOptions::default()
    }
}

fn limits(config: &Config) -> Limits {
    let answer_max = config.chats.command_time_max();
    Limits {
        chat: DoorLimits {
            calls_max: config.chats.door,
            answer_max,
        },
        chat_idle: config.chats.idle(),
        chats_resident_max: config.chats.resident_max,
        device: DoorLimits {
            calls_max: 64,
            answer_max,
        },
        outbox_window: config.outbox.window,
        reconnect_min: config.devices.reconnect_first(),
        reconnect_max: config.devices.reconnect_max(),
        connects_max: config.devices.connects_max,
        tenant: DoorLimits {
            calls_max: 1_024,
            answer_max: answer_max.max(Duration::from_secs(10)),
        },
        tenant_defaults: config.limits.into(),
        log: LogOptions {
            retention: config.streams.retention(),
            max_resume: Some(config.streams.max_resume).filter(|it| 0 < *it),
            ..LogOptions::default()
        },
    }
}
