//! Commands for the tables of the CQL store. They need no running gateway.

use gateway::config::Config;
use gateway::schema::{self, SchemaFound};
use gateway::telemetry::Chain;
use serde_json::json;
use tokio::runtime::Builder;

use super::arguments::SchemaCommand;
use super::{Failure, STORE, print};

pub(super) fn carry(config: &Config, command: &SchemaCommand, json: bool) -> Result<(), Failure> {
    let cql = &config.cql;
    let (apply, words) = match command {
        SchemaCommand::Print => {
            print::to_stdout(schema::text(cql).trim_end());
            return Ok(());
        }
        SchemaCommand::Apply => (
            true,
            ["the schema was applied", "the schema was there already"],
        ),
        SchemaCommand::Check => (false, ["the schema is not there", "the schema is there"]),
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(Chain(&error)))?;
    let found = runtime.block_on(async {
        if apply {
            Box::pin(schema::apply(cql)).await
        } else {
            Box::pin(schema::check(cql)).await
        }
    });
    let found = found.map_err(|error| Failure {
        code: STORE,
        line: Chain(&error).to_string(),
    })?;
    let [absent, same] = words;
    let told = match found {
        SchemaFound::Absent => absent,
        SchemaFound::Same => same,
    };
    let keyspace = &cql.keyspace;
    if found == SchemaFound::Absent && !apply {
        let line = format!("{told} in keyspace {keyspace}: `buho schema apply` makes it");
        return Err(Failure { code: STORE, line });
    }
    print::to_stdout(&if json {
        json!({ "keyspace": keyspace, "changed": found == SchemaFound::Absent }).to_string()
    } else {
        format!("{told}: keyspace {keyspace}")
    });
    Ok(())
}
