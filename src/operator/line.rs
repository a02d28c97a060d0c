//! The words on the operator's socket.

use std::path::PathBuf;

use actors::CommandError;
use actors::model::{DeviceId, KeyId, TenantId, TenantLimits};
use actors::ports::StoreError;
use serde::{Deserialize, Serialize};

use crate::problem::ApiError;
use crate::store::transfer::backup::BackupError;
use crate::telemetry::Chain;

/// The longest line that is taken, its end not counted.
pub const LINE_MAX: usize = 65_536;

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Whether anybody is there: `{"pong": true}`.
    Ping {},
    /// Makes a tenant: `{"tenant"}`.
    TenantCreate {
        /// Its name, for people.
        name: String,
    },
    /// All tenants: `{"tenants"}`.
    TenantList {},
    /// One tenant and what it has: `{"tenant", "limits", "devices", "keys"}`, the last two as numbers. The tenant shows its
    /// own limits, `limits` are those that count.
    TenantShow {
        /// Which one.
        tenant: TenantId,
    },
    /// Changes what a tenant may use: `{"tenant"}`.
    TenantLimits {
        /// Which one.
        tenant: TenantId,
        /// What changes.
        set: LimitChanges,
    },
    /// Removes a tenant with all that it owns: `{"tenant"}`. Told when nobody is let in any more, now and after a restart;
    /// what it owns goes while the gateway goes on.
    TenantDelete {
        /// Which one.
        tenant: TenantId,
    },
    /// Makes a key: `{"key", "secret"}`. The secret is told this once.
    KeyCreate {
        /// Whose.
        tenant: TenantId,
        /// What it may do, between spaces or commas; all that a tenant may where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scopes: Option<String>,
        /// Its name, for people; `operator` where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The devices it is bound to; all where empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<DeviceId>,
    },
    /// Makes an admin key: `{"key", "secret"}`. The secret is told this once.
    AdminKeyCreate {
        /// Its name, for people; `operator` where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The keys of a tenant: `{"keys"}`.
    KeyList {
        /// Whose.
        tenant: TenantId,
    },
    /// Ends a key and all that lives by it: `{"key"}`.
    KeyRevoke {
        /// Which one.
        key: KeyId,
    },
    /// Signs access tokens with a new key from now on: `{"kid"}`. Tokens that are out stay valid.
    JwtRotate {},
    /// The tree of actors: `{"tree"}`.
    Supervision {},
    /// Begins a backup into a folder that is empty or absent: `{"backup"}`. It goes on when the connection has ended.
    StoreBackup {
        /// The folder, with its whole path.
        path: PathBuf,
    },
    /// How the last backup stands: `{"backup"}`.
    StoreBackupState {},
}

/// The limits of a tenant that change; 0 means none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitChanges {
    /// Devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<u32>,
    /// Open WebSocket and event stream connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Calls a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
}

impl LimitChanges {
    /// The limits after the change.
    #[must_use]
    pub fn over(self, limits: TenantLimits) -> TenantLimits {
        TenantLimits {
            devices: self.devices.unwrap_or(limits.devices),
            connections: self.connections.unwrap_or(limits.connections),
            requests_per_second: self
                .requests_per_second
                .unwrap_or(limits.requests_per_second),
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// In one word; the API's words.
    pub code: String,
    /// For people.
    pub detail: String,
}

impl Refusal {
    /// Puts it into words.
    #[must_use]
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            detail: detail.into(),
        }
    }

    /// For what the operator got wrong.
    #[must_use]
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new("invalid", detail)
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::new(error.code().as_str(), error.text())
    }
}

impl From<CommandError> for Refusal {
    fn from(error: CommandError) -> Self {
        if let CommandError::Store(cause) = &error {
            tracing::error!(error = %Chain(cause), "a command of the operator failed");
        }
        ApiError::from(error).into()
    }
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Self {
        let code = match error {
            BackupError::NotEmbedded | BackupError::Relative => "invalid",
            BackupError::Busy(_) | BackupError::Begin(_) => "state_conflict",
        };
        Self::new(code, Chain(&error).to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        CommandError::from(error).into()
    }
}

/// Reads a command.
///
/// # Errors
///
/// Says what is wrong with the line.
pub fn parse(line: &[u8]) -> Result<Command, Refusal> {
    serde_json::from_slice(line)
        .map_err(|error| Refusal::invalid(format!("not a command: {error}")))
}

/// Writes an answer, with the end of the line.
#[must_use]
pub fn answer(outcome: Result<serde_json::Value, Refusal>) -> String {
    let answer = outcome.unwrap_or_else(|refusal| serde_json::json!({ "error": refusal }));
    format!("{answer}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_is_read_as_it_is_written() {
        let commands = [
            Command::Ping {},
            Command::TenantCreate {
                name: "Acme".to_owned(),
            },
            Command::TenantLimits {
                tenant: TenantId::from_u128(7),
                set: LimitChanges {
                    devices: Some(3),
                    ..LimitChanges::default()
                },
            },
            Command::KeyCreate {
                tenant: TenantId::from_u128(7),
                scopes: None,
                name: None,
                devices: Vec::new(),
            },
            Command::KeyRevoke {
                key: KeyId::from_u128(9),
            },
            Command::AdminKeyCreate { name: None },
            Command::JwtRotate {},
            Command::StoreBackup {
                path: PathBuf::from("/backups/today"),
            },
        ];
        for command in commands {
            let line = serde_json::to_vec(&command).unwrap();
            assert_eq!(parse(&line), Ok(command));
        }
    }

    #[test]
    fn a_line_that_is_no_command_is_told_why() {
        let told = |line: &str| parse(line.as_bytes()).unwrap_err().detail;
        assert!(told("tenant_list").starts_with("not a command"));
        assert!(told(r#"{"command":"tenant_drop"}"#).contains("tenant_drop"));
        assert!(told(r#"{"command":"tenant_create","nmae":"x"}"#).contains("nmae"));
        assert!(told(r#"{"command":"ping","loud":true}"#).contains("loud"));
        assert!(told(r#"{"command":"tenant_show","tenant":"dev_x"}"#).contains("ten_"));
    }

    #[test]
    fn an_answer_is_one_line() {
        assert_eq!(
            answer(Ok(json!({"text": "a\nb"}))),
            "{\"text\":\"a\\nb\"}\n"
        );
        let refused = answer(Err(Refusal::new("not_found", "gone")));
        assert_eq!(
            refused,
            "{\"error\":{\"code\":\"not_found\",\"detail\":\"gone\"}}\n"
        );
    }

    #[test]
    fn a_refusal_speaks_the_words_of_the_api() {
        let refused = |error: CommandError| Refusal::from(error).code;
        assert_eq!(refused(CommandError::NotFound), "not_found");
        assert_eq!(refused(CommandError::StorageFull), "storage_full");
        assert_eq!(
            refused(StoreError::Damaged { what: "tenant" }.into()),
            "internal"
        );
    }

    #[test]
    fn only_named_limits_change() {
        let before = TenantLimits {
            devices: 1,
            connections: 2,
            requests_per_second: 3,
        };
        let changes = LimitChanges {
            connections: Some(0),
            ..LimitChanges::default()
        };
        assert_eq!(
            changes.over(before),
            TenantLimits {
                connections: 0,
                ..before
            }
        );
    }
}
