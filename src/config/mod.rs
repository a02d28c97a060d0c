//! Configuration: built-in defaults, then a file, then the environment, then the command line.
//!
//! `defaults.toml` is the manual: every option with its default and what it means.

mod check;
mod cql;
mod layers;
mod sections;
mod show;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use cql::{Consistency, Cql, Replication, ReplicationError, Secret};
pub use sections::{
    Chats, Devices, Limits, Log, LogFormat, LogLevel, Operator, Outbox, Server, Simulator, Store,
    StoreKind, Streams, Tokens,
};

/// The built-in configuration, with an explanation of each option.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// The socket's name in the store's folder.
const SOCKET_NAME: &str = "operator.sock";

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The HTTP listener and the process around it.
    pub server: Server,
    /// The store.
    pub store: Store,
    /// The CQL store's servers.
    pub cql: Cql,
    /// The event log and its readers.
    pub streams: Streams,
    /// What a tenant may use that has no limit of its own.
    pub limits: Limits,
    /// Chats in memory.
    pub chats: Chats,
    /// Devices and their way back to the network.
    pub devices: Devices,
    /// Messages on their way to the network.
    pub outbox: Outbox,
    /// The back office's way in.
    pub operator: Operator,
    /// The simulated network.
    pub simulator: Simulator,
    /// Access tokens.
    pub tokens: Tokens,
    /// The log on stderr.
    pub log: Log,
}

/// What the command line says over all the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`: over `server.listen`.
    pub listen: Option<SocketAddr>,
    /// `--data`: over `store.path`.
    pub data: Option<PathBuf>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration file {file} can't be read")]
    File {
        /// Which file.
        file: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{origin} is not valid TOML: {reason}")]
    Syntax {
        /// Which file.
        origin: String,
        /// Where and why, on one line.
        reason: String,
    },
    /// A word that no option has.
    #[error("{word} is not an option; the nearest one is {nearest}")]
    Unknown {
        /// The word, and where it stands.
        word: String,
        /// A word that would be understood.
        nearest: String,
    },
    /// A value that an option can't have.
    #[error("{place} is not valid: {reason}")]
    Invalid {
        /// Which option, and where it was set.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Config {
    /// Reads the defaults, the file (if any), the environment of the process, and the command line's wishes.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or an option is unknown, has the wrong type, or makes no sense.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        Self::assemble(file, std::env::vars_os(), overrides)
    }

    /// The built-in defaults with some lines of TOML over them, whatever the environment says.
    ///
    /// # Errors
    ///
    /// When an option is unknown, has the wrong type, or makes no sense.
    pub fn from_toml(lines: &str) -> Result<Self, ConfigError> {
        let config = layers::merge(Some(&layers::FileLayer::read("the text", lines)?), &[])?;
        config.check()?;
        Ok(config)
    }

    fn assemble(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = layers::Variable>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigError> {
        let file = file.map(layers::FileLayer::open).transpose()?;
        let mut config = layers::merge(file.as_ref(), &layers::environment(environment)?)?;
        if let Some(listen) = overrides.listen {
            config.server.listen = listen;
        }
        if let Some(data) = &overrides.data {
            config.store.path.clone_from(data);
        }
        config.check()?;
        Ok(config)
    }

    /// Where the back office's socket is.
    #[must_use]
    pub fn operator_socket(&self) -> PathBuf {
        self.operator
            .socket
            .clone()
            .unwrap_or_else(|| self.store.path.join(SOCKET_NAME))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn from_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables
            .iter()
            .map(|(name, text)| (OsString::from(name), OsString::from(text)));
        Config::assemble(None, variables, &Overrides::default())
    }

    #[test]
    fn the_defaults_are_valid_and_as_documented() {
        let config = Config::from_toml("").unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.operator_socket(), Path::new("./data/operator.sock"));
        assert_eq!(config.streams.heartbeat().as_secs(), 25);
        assert_eq!(config.streams.retention().as_secs(), 7 * 24 * 3600);
    }

    #[test]
    fn an_unknown_word_names_the_nearest_option() {
        let told = |lines: &str| Config::from_toml(lines).unwrap_err().to_string();
        assert_eq!(
            told("[streams]\nheartbeat = 3"),
            "`streams.heartbeat` in the text is not an option; the nearest one is `streams.heartbeat_ms`"
        );
        assert!(told("[servr]\nlisten = '127.0.0.1:1'").ends_with("`server.listen`"));
        assert!(told("[simulatr]").ends_with("`[simulator]`"));
        assert!(told("listen = '127.0.0.1:1'").ends_with("`server.listen`"));
    }

    #[test]
    fn an_unknown_variable_names_the_nearest_one() {
        let error = from_environment(&[("BUHO_SERVER__LISTN", "127.0.0.1:1")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the environment variable BUHO_SERVER__LISTN is not an option; the nearest one is BUHO_SERVER__LISTEN"
        );
        assert!(from_environment(&[("BUHO_HOME", "x"), ("OTHER__NAME", "x")]).is_ok());
    }

    #[test]
    fn the_environment_stands_over_the_file_and_the_command_line_over_both() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("buho.toml");
        std::fs::write(
            &file,
            "[server]\nlisten = '127.0.0.1:1'\n[chats]\ndoor = 7\n[limits]\ndevices = 1",
        )
        .unwrap();
        let environment = [
            ("BUHO_SERVER__LISTEN", "127.0.0.1:2"),
            ("BUHO_CHATS__DOOR", "8"),
            ("BUHO_STORE__PATH", "2024"),
            ("BUHO_STORE__MIN_FREE", "4096"),
            (
                "BUHO_SERVER__ALLOWED_ORIGINS",
                "https://a.example, https://b.example",
            ),
            (
                "BUHO_SERVER__TRUSTED_PROXIES",
                "[\"10.0.0.0/8\", \"192.0.2.1\"]",
            ),
        ];
        let environment = environment
            .iter()
            .map(|(name, text)| (OsString::from(name), OsString::from(text)));
        let overrides = Overrides {
            listen: Some("127.0.0.1:3".parse().unwrap()),
            data: None,
        };
        let config = Config::assemble(Some(&file), environment, &overrides).unwrap();
        assert_eq!(config.server.listen.port(), 3);
        assert_eq!((config.chats.door, config.limits.devices), (8, 1));
        assert_eq!(
            (config.store.path.to_str(), config.store.min_free),
            (Some("2024"), Some(4096))
        );
        assert_eq!(
            config.server.allowed_origins,
            ["https://a.example", "https://b.example"]
        );
        assert_eq!(config.server.trusted_proxies.len(), 2);
    }

    #[test]
    fn a_wrong_value_names_its_option_and_where_it_was_set() {
        let error = from_environment(&[("BUHO_CHATS__DOOR", "many")])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(
                "`chats.door` (the environment variable BUHO_CHATS__DOOR) is not valid"
            ),
            "{error}"
        );
        let error = Config::from_toml("[store]\nkind = 'paper'")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`store.kind` (the text)") && error.contains("embedded"),
            "{error}"
        );
        let error = Config::from_toml("[store\nkind = 1")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not valid TOML") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error =
            Config::load(Some(Path::new("/nowhere/buho.toml")), &Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/buho.toml"));
    }
}
