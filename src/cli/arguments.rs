//! The words of the command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use actors::model::{DeviceId, KeyId, TenantId};
use clap::{Args, Parser, Subcommand};
use gateway::transfer::Place;

/// A self-hosted, multi-tenant gateway for WhatsApp-type messaging.
#[derive(Debug, Parser)]
#[command(name = "buho", version, propagate_version = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) places: Places,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What stands before or behind every command.
#[derive(Debug, Args)]
pub(super) struct Places {
    /// The store's folder; also where the running gateway is looked for
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data: Option<PathBuf>,
    /// A configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Answer with one JSON object
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a gateway with a tenant, two linked simulated devices and a key, and say what to try
    Demo {
        /// Where to listen
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Run the gateway
    Serve {
        /// Where to listen
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Tenants of the running gateway
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// API keys of the running gateway
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Keys of the running gateway's administrators, who are no tenant
    AdminKey {
        #[command(subcommand)]
        command: AdminKeyCommand,
    },
    /// The keys that sign access tokens
    Jwt {
        #[command(subcommand)]
        command: JwtCommand,
    },
    /// The tree of the running gateway's actors
    Supervision,
    /// The whole store: back it up, restore it, move it to another kind
    Store {
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// The tables of the CQL store, in the keyspace that the section cql names
    Schema {
        #[command(subcommand)]
        command: SchemaCommand,
    },
    /// The configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TenantCommand {
    /// Make a tenant
    Create {
        /// Its name, for people
        #[arg(long)]
        name: String,
    },
    /// All tenants
    List,
    /// One tenant and what it has
    Show {
        /// Its id
        #[arg(value_name = "TEN")]
        tenant: TenantId,
    },
    /// Change what a tenant may use
    Limits {
        /// Its id
        #[arg(value_name = "TEN")]
        tenant: TenantId,
        /// devices, connections or requests_per_second; 0 means what the section limits says
        #[arg(long, value_name = "NAME=VALUE", required = true, num_args = 1.., value_parser = limit)]
        set: Vec<(String, u32)>,
    },
    /// Remove a tenant with its devices, messages, events and keys; there is no way back
    Delete {
        /// Its id
        #[arg(value_name = "TEN")]
        tenant: TenantId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key; its secret is shown this once
    Create {
        /// Whose
        #[arg(long, value_name = "TEN")]
        tenant: TenantId,
        /// What it may do, between spaces or commas; all that a tenant may where absent
        #[arg(long, value_name = "SCOPES")]
        scopes: Option<String>,
        /// Its name, for people
        #[arg(long)]
        name: Option<String>,
        /// The devices it is bound to; all where absent
        #[arg(long, value_name = "DEV", num_args = 1.., value_delimiter = ',')]
        device: Vec<DeviceId>,
    },
    /// The keys of a tenant
    List {
        /// Whose
        #[arg(long, value_name = "TEN")]
        tenant: TenantId,
    },
    /// End a key, its tokens and its connections
    Revoke {
        /// Its id
        #[arg(value_name = "KEY")]
        key: KeyId,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AdminKeyCommand {
    /// Make a key that reads /metrics from elsewhere; its secret is shown this once
    Create {
        /// Its name, for people
        #[arg(long)]
        name: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum JwtCommand {
    /// Sign with a new key from now on; tokens that are out stay valid
    Rotate,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Back up the store of the running gateway, which goes on; it shows one moment
    Backup {
        /// A folder that is empty or absent
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
    /// Make a store out of a backup; start a gateway on it afterwards
    Restore {
        /// The backup
        #[arg(value_name = "DIR")]
        from: PathBuf,
        /// A folder that is empty or absent; the configured store's where not named
        #[arg(long, value_name = "FOLDER")]
        into: Option<PathBuf>,
    },
    /// Write a stopped embedded store anew, so that what was erased gives back its room
    Compact,
    /// Copy a stopped store into an empty one; run again, it goes on where it was interrupted
    Copy {
        /// `embedded:FOLDER`, or `cql` for the tables that the section cql names
        #[arg(long, value_name = "STORE")]
        from: Place,
        /// Likewise
        #[arg(long, value_name = "STORE")]
        to: Place,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum SchemaCommand {
    /// The statements that make keyspace and tables
    Print,
    /// Make what is not there yet; a start of the gateway does the same
    Apply,
    /// Say whether the keyspace has them
    Check,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Every option with its default and what it means
    Default,
    /// What is in force here: defaults, file, environment and arguments together
    Show,
}

fn limit(text: &str) -> Result<(String, u32), String> {
    let (name, value) = text.split_once('=').ok_or("it must be like devices=10")?;
    let value = value
        .parse()
        .map_err(|_| format!("`{value}` is not a whole number"))?;
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn places_stand_before_or_behind_the_command() {
        for words in [
            ["buho", "--data", "d", "--json", "tenant", "list"],
            ["buho", "tenant", "list", "--json", "--data", "d"],
            ["buho", "tenant", "--json", "list", "--data", "d"],
        ] {
            let places = Arguments::try_parse_from(words).unwrap().places;
            assert!(
                places.json && places.data == Some(PathBuf::from("d")),
                "{words:?}"
            );
        }
    }
}
