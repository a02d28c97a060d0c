//! `schema.cql`: what of it a keyspace has, and how the rest comes into it.
//!
//! Whoever finds a keyspace without it takes a lock (a light transaction on `schema_state`), makes the tables, and
//! writes version and digest behind the last one. Others wait for that, or go on where it was left.

use std::time::Duration;

use actors::model::EventId;
use scylla::client::session::Session;
use scylla::errors::{DbError, PrepareError, RequestAttemptError};
use scylla::serialize::row::SerializeRow;
use scylla::statement::Statement;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::Row;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::{OpenError, connect};
use crate::config::{Cql, Replication};

/// The file.
const SCHEMA: &str = include_str!("../../../schema.cql");
/// The version of the file.
const VERSION: i32 = 1;
/// How long one statement of it may take: servers agree on a schema slowly.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
/// How long one that applies it may be heard of no more before another takes over: longer than a statement may take, and
/// the servers until they agree on it.
const LOCK_SECONDS: i32 = 120;
/// How long is waited for one that applies it.
const WAIT_MAX: Duration = Duration::from_secs(150);
/// How long tombstones stay in a table that says nothing else.
const GRACE_SECONDS: u32 = 10 * 24 * 3_600;
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a keyspace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaFound {
    /// Nothing, or what was left when one that applied it was stopped.
    Absent,
    /// This version.
    Same,
}

/// Why the schema is not there, and can't be.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer version has written it.
    #[error(
        "the keyspace {keyspace} has schema version {found}, and this version knows no more than {VERSION}: start the newer version again"
    )]
    Newer {
        /// The keyspace.
        keyspace: String,
        /// Its version.
        found: i32,
    },
    /// The keyspace is somebody else's.
    #[error(
        "the keyspace {keyspace} has tables that are not this gateway's: set cql.keyspace to another one"
    )]
    Foreign {
        /// The keyspace.
        keyspace: String,
    },
    /// Somebody applies it for too long.
    #[error(
        "the schema of keyspace {keyspace} is being applied by somebody else for too long: try again in a minute"
    )]
    Busy {
        /// The keyspace.
        keyspace: String,
    },
    /// The server refuses.
    #[error(
        "the schema of keyspace {keyspace} can't be read or applied: look at the user's permissions, and on ScyllaDB before \
         2025.4 whether the keyspace was made without tablets"
    )]
    Refused {
        /// The keyspace.
        keyspace: String,
        /// What the driver says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A light transaction or a look that failed.
pub(super) type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Reaches the servers and makes what is not there; says what was there before. Twice is once.
///
/// # Errors
///
/// When the servers can't be reached, or the keyspace has another schema.
pub async fn apply(cql: &Cql) -> Result<SchemaFound, OpenError> {
    let session = connect::connect(cql).await?;
    Ok(Schema::new(&session, cql).apply().await?)
}

/// Reaches the servers and looks.
///
/// # Errors
///
/// When the servers can't be reached, or the keyspace has another schema.
pub async fn check(cql: &Cql) -> Result<SchemaFound, OpenError> {
    let session = connect::connect(cql).await?;
    Ok(Schema::new(&session, cql).look().await?)
}

/// The whole schema as it would be applied, for people and for `cqlsh`.
#[must_use]
pub fn text(cql: &Cql) -> String {
    format!(
        "{};\n\nUSE {};\n\n{SCHEMA}",
        create_keyspace(cql, Servers::Cassandra),
        cql.keyspace
    )
}

/// The statements of the file; each does nothing where its table is there.
fn statements() -> Vec<String> {
    let lines = SCHEMA
        .lines()
        .filter(|it| !it.trim_start().starts_with("--"));
    let code = lines.collect::<Vec<_>>().join(" ");
    let words = |it: &str| it.split_whitespace().collect::<Vec<_>>().join(" ");
    code.split(';')
        .map(words)
        .filter(|it| !it.is_empty())
        .map(|it| it.replacen("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1))
        .collect()
}

fn digest() -> String {
    let hash = Sha256::digest(statements().join(";"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Servers {
    Cassandra,
    Scylla,
}

impl Servers {
    /// Only those of ScyllaDB tell the driver how they share their rows among processors.
    pub(super) fn behind(session: &Session) -> Self {
        let state = session.get_cluster_state();
        let is_scylla = state
            .get_nodes_info()
            .iter()
            .any(|it| it.sharder().is_some());
        if is_scylla {
            Self::Scylla
        } else {
            Self::Cassandra
        }
    }
}

pub(super) fn create_keyspace(cql: &Cql, servers: Servers) -> String {
    let copies = match &cql.replication {
        Replication::Everywhere(factor) => format!("'replication_factor': {factor}"),
        Replication::Datacenters(datacenters) => datacenters
            .iter()
            .map(|(name, factor)| format!("'{name}': {factor}"))
            .collect::<Vec<_>>()
            .join(", "),
    };
    // Where rows lie in tablets, servers before 2025.4 refuse light transactions. Cassandra does not know the word.
    let tablets = match servers {
        Servers::Cassandra => "",
        Servers::Scylla => " AND tablets = {'enabled': false}",
    };
    format!(
        "CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {{'class': 'NetworkTopologyStrategy', {copies}}}{tablets}",
        cql.keyspace
    )
}

/// A table whose tombstones may go early. ScyllaDB may go by repairs instead, and then keeps those of the outbox, one a
/// message, until the next one.
fn with_grace(statement: String, servers: Servers) -> String {
    let told = statement
        .split_once("gc_grace_seconds = ")
        .map(|(_, told)| told);
    let grace = told.and_then(|it| it.split_whitespace().next()?.parse::<u32>().ok());
    match (servers, grace) {
        (Servers::Scylla, Some(grace)) if grace < GRACE_SECONDS => {
            format!("{statement} AND tombstone_gc = {{'mode': 'timeout'}}")
        }
        (Servers::Scylla | Servers::Cassandra, _) => statement,
    }
}

/// Works on the schema of one keyspace.
pub(super) struct Schema<'a> {
    session: &'a Session,
    cql: &'a Cql,
}

impl<'a> Schema<'a> {
    pub(super) fn new(session: &'a Session, cql: &'a Cql) -> Self {
        Self { session, cql }
    }

    fn keyspace(&self) -> String {
        self.cql.keyspace.clone()
    }

    fn refused(&self, source: Fault) -> SchemaError {
        SchemaError::Refused {
            keyspace: self.keyspace(),
            source,
        }
    }

    /// What the keyspace has.
    pub(super) async fn look(&self) -> Result<SchemaFound, SchemaError> {
        let found = self.find().await.map_err(|it| self.refused(it))?;
        match found {
            Found::Nothing | Found::Begun => Ok(SchemaFound::Absent),
            Found::Foreign => Err(SchemaError::Foreign {
                keyspace: self.keyspace(),
            }),
            Found::Version(version, found) if version == VERSION && found == digest() => {
                Ok(SchemaFound::Same)
            }
            Found::Version(version, _) if VERSION < version => Err(SchemaError::Newer {
                keyspace: self.keyspace(),
                found: version,
            }),
            Found::Version(_, _) => Err(SchemaError::Foreign {
                keyspace: self.keyspace(),
            }),
        }
    }

    /// Makes what is not there; says what was there before. Twice is once.
    pub(super) async fn apply(&self) -> Result<SchemaFound, SchemaError> {
        if self.look().await? == SchemaFound::Same {
            return Ok(SchemaFound::Same);
        }
        let holder = EventId::generate().to_string();
        let servers = Servers::behind(self.session);
        let begin = async {
            // Whoever has made one for us may not let us make any, or may have made it in his own way.
            if !self.has_keyspace().await? {
                self.define(&create_keyspace(self.cql, servers)).await?;
            }
            if let Some(first) = statements().first() {
                self.define(&self.qualified(first)).await?;
            }
            let row = format!(
                "INSERT INTO {}.schema_state (id) VALUES (0) IF NOT EXISTS",
                self.cql.keyspace
            );
            self.transact(&row, ()).await
        };
        begin.await.map_err(|it| self.refused(it))?;
        let since = Instant::now();
        while !self.lock(&holder).await.map_err(|it| self.refused(it))? {
            if WAIT_MAX < since.elapsed() {
                return Err(SchemaError::Busy {
                    keyspace: self.keyspace(),
                });
            }
            sleep(LOOK_AGAIN).await;
            if self.look().await? == SchemaFound::Same {
                return Ok(SchemaFound::Same);
            }
        }
        // Another may have ended between the look and the lock.
        let found = self.look().await?;
        let make = async {
            for statement in statements() {
                if !self.renew(&holder).await? {
                    return Ok(false);
                }
                let statement = self.qualified(&statement);
                self.define(&with_grace(statement, servers)).await?;
            }
            let done = format!(
                "UPDATE {}.schema_state SET version = ?, digest = ?, holder = null WHERE id = 0 IF holder = ?",
                self.cql.keyspace
            );
            self.transact(&done, (VERSION, digest(), &holder)).await
        };
        let made = make.await.map_err(|it| self.refused(it))?;
        // Another took over, because this one was not heard of for too long.
        made.then_some(found).ok_or_else(|| SchemaError::Busy {
            keyspace: self.keyspace(),
        })
    }

    /// Says that it goes on; whether it may.
    async fn renew(&self, holder: &str) -> Result<bool, Fault> {
        let renew = format!(
            "UPDATE {}.schema_state USING TTL {LOCK_SECONDS} SET holder = ? WHERE id = 0 IF holder = ?",
            self.cql.keyspace
        );
        self.transact(&renew, (holder, holder)).await
    }

    async fn lock(&self, holder: &str) -> Result<bool, Fault> {
        let lock = format!(
            "UPDATE {}.schema_state USING TTL {LOCK_SECONDS} SET holder = ? WHERE id = 0 IF holder = null",
            self.cql.keyspace
        );
        self.transact(&lock, (holder,)).await
    }

    async fn transact(&self, cql: &str, values: impl SerializeRow) -> Result<bool, Fault> {
        let statement = self.session.prepare(cql).await?;
        transact(self.session, &statement, values).await
    }

    fn qualified(&self, statement: &str) -> String {
        let table = format!("CREATE TABLE IF NOT EXISTS {}.", self.cql.keyspace);
        statement.replacen("CREATE TABLE IF NOT EXISTS ", &table, 1)
    }

    async fn define(&self, cql: &str) -> Result<(), Fault> {
        let mut statement = Statement::new(cql);
        statement.set_request_timeout(Some(STATEMENT_MAX));
        self.session.query_unpaged(statement, ()).await?;
        Ok(())
    }

    async fn has_keyspace(&self) -> Result<bool, Fault> {
        let named = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let named = self.session.prepare(named).await?;
        let keyspace = (&self.cql.keyspace,);
        let found = self.session.execute_unpaged(&named, keyspace).await?;
        Ok(found.into_rows_result()?.rows_num() != 0)
    }

    async fn find(&self) -> Result<Found, Fault> {
        let tables = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ?";
        let tables = self.session.prepare(tables).await?;
        let keyspace = (&self.cql.keyspace,);
        let tables = self.session.execute_unpaged(&tables, keyspace).await?;
        let tables = tables.into_rows_result()?;
        let mut names = Vec::new();
        for row in tables.rows::<(String,)>()? {
            names.push(row?.0);
        }
        if names.is_empty() {
            return Ok(Found::Nothing);
        }
        if !names.iter().any(|it| it == "schema_state") {
            return Ok(Found::Foreign);
        }
        let state = format!(
            "SELECT version, digest FROM {}.schema_state WHERE id = 0",
            self.cql.keyspace
        );
        let mut state = match self.session.prepare(state).await {
            Ok(state) => state,
            Err(error) if is_unknown(&error) => return Ok(Found::Begun),
            Err(error) => return Err(error.into()),
        };
        state.set_consistency(connect::serial(self.cql));
        let state = self.session.execute_unpaged(&state, ()).await?;
        let state = state.into_rows_result()?;
        let state = state.maybe_first_row::<(Option<i32>, Option<String>)>()?;
        Ok(match state {
            Some((Some(version), Some(digest))) => Found::Version(version, digest),
            Some((_, _)) | None => Found::Begun,
        })
    }
}

enum Found {
    Nothing,
    Begun,
    Foreign,
    Version(i32, String),
}

/// Whether the servers do not know what a statement names. They list a table somewhat before they know it, so that this
/// happens while another gateway is making the first one.
const fn is_unknown(error: &PrepareError) -> bool {
    let PrepareError::AllAttemptsFailed { first_attempt } = error else {
        return false;
    };
    matches!(
        first_attempt,
        RequestAttemptError::DbError(DbError::Invalid, _)
    )
}

/// Runs a light transaction; says whether it was applied. The servers differ in what else they answer.
pub(super) async fn transact(
    session: &Session,
    statement: &PreparedStatement,
    values: impl SerializeRow,
) -> Result<bool, Fault> {
    let answer = Box::pin(session.execute_unpaged(statement, values)).await?;
    let rows = answer.into_rows_result()?;
    let column = rows
        .column_specs()
        .get_by_name("[applied]")
        .map(|(at, _)| at);
    let row = rows.first_row::<Row>()?;
    let told = column.and_then(|at| row.columns.get(at)?.as_ref()?.as_boolean());
    told.ok_or_else(|| "a light transaction did not say whether it was applied".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::cql::change::Kind;
    use crate::store::cql::look::Look;

    #[test]
    fn the_file_holds_its_version_and_every_table_that_is_used() {
        assert!(SCHEMA.contains(&format!("-- version {VERSION}\n")));
        let statements = statements();
        assert!(statements[0].starts_with("CREATE TABLE IF NOT EXISTS schema_state ("));
        let made = |table: &str| {
            let start = format!("CREATE TABLE IF NOT EXISTS {table} (");
            statements.iter().any(|it| it.starts_with(&start))
        };
        let used = Kind::ALL
            .iter()
            .map(|it| it.cql())
            .chain(Look::ALL.iter().map(|it| it.cql()));
        for cql in used {
            let mut words = cql
                .split(' ')
                .skip_while(|it| *it != "INTO" && *it != "FROM");
            let table = words.nth(1).unwrap();
            assert!(made(table), "{table}");
        }
    }

    #[test]
    fn only_scylla_is_told_of_tablets() {
        let cql = crate::config::Config::from_toml("").unwrap().cql;
        let made = |servers| create_keyspace(&cql, servers);
        assert!(made(Servers::Scylla).ends_with("} AND tablets = {'enabled': false}"));
        assert!(!made(Servers::Cassandra).contains("tablets"));
    }

    #[test]
    fn scylla_goes_by_the_time_that_tombstones_may_stay() {
        let with = |servers| {
            let made = statements().into_iter().map(|it| with_grace(it, servers));
            let told = made.filter(|it| it.ends_with(" AND tombstone_gc = {'mode': 'timeout'}"));
            let named = told.map(|it| it.split(' ').nth(5).unwrap().to_owned());
            named.collect::<Vec<_>>()
        };
        let early = [
            "journal",
            "event_log",
            "idempotency",
            "connector_values",
            "outbox",
        ];
        assert_eq!(with(Servers::Scylla), early);
        assert!(with(Servers::Cassandra).is_empty());
    }

    #[test]
    fn every_table_names_its_query() {
        let mut comment = String::new();
        let mut tables = 0;
        for line in SCHEMA.lines() {
            match line.strip_prefix("--") {
                Some(said) => comment.push_str(said),
                None if line.starts_with("CREATE TABLE") => {
                    assert!(comment.contains("Read: "), "{line}");
                    tables += 1;
                }
                None => comment.clear(),
            }
        }
        assert_eq!(tables, statements().len());
        for word in ["INDEX", "MATERIALIZED", "counter", "ALLOW FILTERING"] {
            assert!(!statements().concat().contains(word), "{word}");
        }
    }

    #[test]
    fn one_server_that_stands_still_holds_no_read_up() {
        for made in statements() {
            assert!(made.contains("speculative_retry = '100ms'"), "{made}");
        }
    }

    #[test]
    fn rows_that_age_lie_in_windows_of_time() {
        let aging = |it: &&String| it.contains("'TimeWindowCompactionStrategy'");
        let in_windows: Vec<String> = statements().iter().filter(aging).cloned().collect();
        let of_ttl: Vec<&str> = Kind::ALL
            .iter()
            .map(|it| it.cql())
            .filter(|it| it.contains("USING TTL"))
            .map(|it| it.split(' ').nth(2).unwrap())
            .collect();
        assert_eq!(of_ttl, ["event_log", "idempotency"]);
        assert_eq!(in_windows.len(), of_ttl.len());
        for (table, made) in of_ttl.iter().zip(in_windows) {
            let start = format!("CREATE TABLE IF NOT EXISTS {table} (");
            assert!(made.starts_with(&start), "{made}");
        }
    }
}
