//! The sections of the configuration. What each option means stands in `defaults.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actors::model::TenantLimits;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The HTTP listener and the process around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where to listen.
    pub listen: SocketAddr,
    /// How clients reach the gateway, without a slash at the end.
    pub public_url: Option<String>,
    /// Foreign web pages that may call, as `scheme://host[:port]`.
    pub allowed_origins: Vec<String>,
    /// Proxies whose word about the caller's address counts.
    #[serde(with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// See [`Server::header_time_max`].
    pub header_time_max_ms: u64,
    /// Open TCP connections.
    pub connections_max: usize,
    /// See [`Server::stop_time_max`].
    pub stop_time_max_ms: u64,
    /// Threads of the runtime; 0 for one per processor.
    pub worker_threads: usize,
}

impl Server {
    /// How long the head of a request may take.
    #[must_use]
    pub const fn header_time_max(&self) -> Duration {
        Duration::from_millis(self.header_time_max_ms)
    }

    /// How long an ordered stop may take.
    #[must_use]
    pub const fn stop_time_max(&self) -> Duration {
        Duration::from_millis(self.stop_time_max_ms)
    }
}

/// Which backend keeps the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A store of its own in a folder.
    Embedded,
    /// ScyllaDB or Apache Cassandra.
    Cql,
}

/// The store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Which backend.
    pub kind: StoreKind,
    /// Its folder.
    pub path: PathBuf,
    /// Bytes that must be free for writes; the store chooses where `None`.
    pub min_free: Option<u64>,
    /// Bytes of memory for blocks that were read.
    pub cache_bytes: u64,
    /// Threads that read.
    pub reader_threads: usize,
}

/// The event log and its readers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streams {
    /// See [`Streams::heartbeat`].
    pub heartbeat_ms: u64,
    /// See [`Streams::auth`].
    pub auth_ms: u64,
    /// See [`Streams::write_stall`].
    pub write_stall_ms: u64,
    /// Events that a connected reader may be behind.
    pub max_lag: u64,
    /// Events that a reader may resume over; 0 for all that are kept.
    pub max_resume: u64,
    /// See [`Streams::retention`].
    pub retention_seconds: u64,
    /// Requests under way on one WebSocket.
    pub in_flight: u32,
    /// Frames a second from one WebSocket; 0 for no limit.
    pub rate: u32,
    /// Frames at once on top of the rate.
    pub burst: u32,
    /// Bytes of memory for the newest events of all tenants.
    pub ring_bytes_max: usize,
}

impl Streams {
    /// How often a client shall let itself be heard.
    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// How long a client may stay without a credential.
    #[must_use]
    pub const fn auth(&self) -> Duration {
        Duration::from_millis(self.auth_ms)
    }

    /// How long a write may make no progress.
    #[must_use]
    pub const fn write_stall(&self) -> Duration {
        Duration::from_millis(self.write_stall_ms)
    }

    /// How long events are kept.
    #[must_use]
    pub const fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_seconds)
    }
}

/// What a tenant may use that has no limit of its own; 0 for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Devices.
    pub devices: u32,
    /// Open WebSocket and event stream connections.
    pub connections: u32,
    /// Calls a second.
    pub requests_per_second: u32,
}

impl From<Limits> for TenantLimits {
    fn from(limits: Limits) -> Self {
        Self {
            devices: limits.devices,
            connections: limits.connections,
            requests_per_second: limits.requests_per_second,
        }
    }
}

/// Chats in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chats {
    /// See [`Chats::idle`].
    pub idle_ms: u64,
    /// Chats in memory, all tenants together.
    pub resident_max: usize,
    /// Commands that wait at one chat.
    pub door: usize,
    /// See [`Chats::command_time_max`].
    pub command_time_max_ms: u64,
}

impl Chats {
    /// How long a chat stays after its last use.
    #[must_use]
    pub const fn idle(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// The longest a caller waits for one command.
    #[must_use]
    pub const fn command_time_max(&self) -> Duration {
        Duration::from_millis(self.command_time_max_ms)
    }
}

/// Devices and their way back to the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    /// See [`Devices::reconnect_first`].
    pub reconnect_first_ms: u64,
    /// See [`Devices::reconnect_max`].
    pub reconnect_max_ms: u64,
    /// Devices that connect at the same time.
    pub connects_max: usize,
}

impl Devices {
    /// The first wait before a device connects again; it doubles with each attempt.
    #[must_use]
    pub const fn reconnect_first(&self) -> Duration {
        Duration::from_millis(self.reconnect_first_ms)
    }

    /// The longest such wait.
    #[must_use]
    pub const fn reconnect_max(&self) -> Duration {
        Duration::from_millis(self.reconnect_max_ms)
    }
}

/// Messages on their way to the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbox {
    /// Messages of one device that wait in memory or are under way; the others wait in the store.
    pub window: usize,
}

/// The back office's way in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// The Unix socket, where it is not in the store's folder.
    pub socket: Option<PathBuf>,
}

/// The simulated network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulator {
    /// Where chance starts.
    pub seed: u64,
    /// See [`Simulator::qr_first`].
    pub qr_first_ms: u64,
    /// See [`Simulator::qr_next`].
    pub qr_next_ms: u64,
}

impl Simulator {
    /// How long the first QR of a pairing is shown.
    #[must_use]
    pub const fn qr_first(&self) -> Duration {
        Duration::from_millis(self.qr_first_ms)
    }

    /// How long each further QR is shown.
    #[must_use]
    pub const fn qr_next(&self) -> Duration {
        Duration::from_millis(self.qr_next_ms)
    }
}

/// Access tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// See [`Tokens::ttl_default`].
    pub ttl_default_seconds: u64,
}

impl Tokens {
    /// How long a token lives where its maker does not say.
    #[must_use]
    pub const fn ttl_default(&self) -> Duration {
        Duration::from_secs(self.ttl_default_seconds)
    }
}

/// How much is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// What went wrong for good.
    Error,
    /// And what may need a person.
    Warn,
    /// And what happens rarely.
    Info,
    /// And each decision.
    Debug,
    /// And each step.
    Trace,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// The log on stderr.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How much is told.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// Networks as text; a bare address is a network of one.
mod networks {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        nets: &[IpNet],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(nets.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts
            .iter()
            .map(|text| {
                read(text)
                    .ok_or_else(|| Error::custom(format!("`{text}` is not an address or network")))
            })
            .collect()
    }

    fn read(text: &str) -> Option<IpNet> {
        let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(alone)
    }
}
