//! The CQL store's section. What each option means stands in `defaults.toml`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

/// How a CQL server is reached, and where in it the data lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cql {
    /// Servers to begin with, as `host:port`.
    pub contact_points: Vec<String>,
    /// The keyspace.
    pub keyspace: String,
    /// Whose data in the keyspace: one gateway at a time owns a cluster.
    pub cluster: String,
    /// Copies of each row, for a keyspace that is made.
    pub replication: Replication,
    /// The datacenter whose servers are asked first; empty for no such wish.
    pub datacenter: String,
    /// How many copies must have a write before it counts, and are asked in a read.
    pub consistency: Consistency,
    /// The user; empty where the server asks for none.
    pub user: String,
    /// The password, where it is not in a file.
    pub password: Secret,
    /// A file with nothing but the password; empty for none.
    pub password_file: PathBuf,
    /// The certificates that the servers' are signed with, PEM; empty for a connection without TLS.
    pub tls_ca_file: PathBuf,
    /// The gateway's own certificate, PEM; empty where the server asks for none.
    pub tls_cert_file: PathBuf,
    /// The key of the gateway's own certificate, PEM.
    pub tls_key_file: PathBuf,
    /// See [`Cql::request_time_max`].
    pub request_time_max_ms: u64,
    /// See [`Cql::commit_time_max`].
    pub commit_time_max_ms: u64,
    /// Calls under way at a time.
    pub concurrency: usize,
    /// See [`Cql::lease`].
    pub lease_ms: u64,
}

impl Cql {
    /// The longest that one call of the server may take.
    #[must_use]
    pub const fn request_time_max(&self) -> Duration {
        Duration::from_millis(self.request_time_max_ms)
    }

    /// How long calls may fail before the servers count as away, and how often a connection is asked for a sign of life: as
    /// long as a call, and not so short that no second server could be asked meanwhile.
    #[must_use]
    pub fn silence_max(&self) -> Duration {
        self.request_time_max().max(Duration::from_secs(2))
    }

    /// How long a commit waits for servers that are away before it is dropped, if nothing of it can be written.
    #[must_use]
    pub const fn commit_time_max(&self) -> Duration {
        Duration::from_millis(self.commit_time_max_ms)
    }

    /// How long a cluster stays owned by a gateway that is heard of no more.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// How many copies must have a write, or are asked in a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One: a write may be lost with its server, and a read may miss it. For trying things out.
    One,
    /// More than half of all.
    Quorum,
    /// More than half of those in the own datacenter.
    LocalQuorum,
    /// Every one.
    All,
}

/// How many copies of a row there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replication {
    /// So many in each datacenter.
    Everywhere(u32),
    /// So many in each of these datacenters.
    Datacenters(Vec<(String, u32)>),
}

/// Why a text is no replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be a number such as 3, or like dc1:3,dc2:2")]
pub struct ReplicationError;

impl FromStr for Replication {
    type Err = ReplicationError;

    fn from_str(text: &str) -> Result<Self, ReplicationError> {
        let factor = |text: &str| text.trim().parse().ok().filter(|it| (1..=16).contains(it));
        if let Some(factor) = factor(text) {
            return Ok(Self::Everywhere(factor));
        }
        let named = |part: &str| {
            let (name, copies) = part.split_once(':')?;
            let plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.');
            let name = name.trim();
            (!name.is_empty() && name.chars().all(plain)).then_some(())?;
            Some((name.to_owned(), factor(copies)?))
        };
        let datacenters: Option<Vec<_>> = text.split(',').map(named).collect();
        datacenters.map(Self::Datacenters).ok_or(ReplicationError)
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(factor) => write!(f, "{factor}"),
            Self::Datacenters(datacenters) => {
                for (place, (name, factor)) in datacenters.iter().enumerate() {
                    let between = if place == 0 { "" } else { "," };
                    write!(f, "{between}{name}:{factor}")?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for Replication {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Replication {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A text that is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    const fn shown(&self) -> &'static str {
        if self.0.is_empty() { "" } else { "***" }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}
