//! Commands for the running gateway, over its operator's socket.

use gateway::config::Config;
use gateway::operator::client::ask;
use gateway::operator::line::{Command, LimitChanges};
use gateway::telemetry::Chain;
use serde_json::{Map, Value};

use super::Failure;
use super::arguments::{AdminKeyCommand, JwtCommand, KeyCommand, TenantCommand};
use super::print;

pub(super) fn tenant(config: &Config, command: TenantCommand, json: bool) -> Result<(), Failure> {
    match command {
        TenantCommand::Create { name } => {
            tell(config, &Command::TenantCreate { name }, json, one_tenant)
        }
        TenantCommand::List => tell(config, &Command::TenantList {}, json, |answer| {
            each(answer, "tenants", print::tenant)
        }),
        TenantCommand::Show { tenant } => {
            tell(config, &Command::TenantShow { tenant }, json, |answer| {
                let (devices, keys) = (
                    print::member(answer, "devices"),
                    print::member(answer, "keys"),
                );
                let limits = print::limits(answer);
                format!(
                    "{}  {devices} devices  {keys} keys  in force: {limits}",
                    one_tenant(answer)
                )
            })
        }
        TenantCommand::Delete { tenant } => {
            tell(config, &Command::TenantDelete { tenant }, json, |answer| {
                format!(
                    "deleted: {}; none of its keys works any more, and what it owned is being erased",
                    one_tenant(answer)
                )
            })
        }
        TenantCommand::Limits { tenant, set } => {
            let set = limit_changes(set)?;
            tell(
                config,
                &Command::TenantLimits { tenant, set },
                json,
                one_tenant,
            )
        }
    }
}

pub(super) fn key(config: &Config, command: KeyCommand, json: bool) -> Result<(), Failure> {
    match command {
        KeyCommand::Create {
            tenant,
            scopes,
            name,
            device,
        } => {
            let command = Command::KeyCreate {
                tenant,
                scopes,
                name,
                devices: device,
            };
            tell(config, &command, json, key_and_secret)
        }
        KeyCommand::List { tenant } => tell(config, &Command::KeyList { tenant }, json, |answer| {
            each(answer, "keys", print::key)
        }),
        KeyCommand::Revoke { key } => tell(config, &Command::KeyRevoke { key }, json, |answer| {
            let key = answer.get("key").map(print::key).unwrap_or_default();
            format!("revoked: {key}")
        }),
    }
}

pub(super) fn admin_key(
    config: &Config,
    command: AdminKeyCommand,
    json: bool,
) -> Result<(), Failure> {
    match command {
        AdminKeyCommand::Create { name } => {
            let command = Command::AdminKeyCreate { name };
            tell(config, &command, json, key_and_secret)
        }
    }
}

pub(super) fn jwt(config: &Config, command: &JwtCommand, json: bool) -> Result<(), Failure> {
    match command {
        JwtCommand::Rotate => tell(config, &Command::JwtRotate {}, json, |answer| {
            format!(
                "access tokens are signed with {} from now on",
                print::member(answer, "kid")
            )
        }),
    }
}

pub(super) fn supervision(config: &Config, json: bool) -> Result<(), Failure> {
    tell(config, &Command::Supervision {}, json, |answer| {
        answer.get("tree").map(print::tree).unwrap_or_default()
    })
}

/// Asks, and prints the answer: as it came, or in words for people.
fn tell(
    config: &Config,
    command: &Command,
    json: bool,
    words: impl Fn(&Value) -> String,
) -> Result<(), Failure> {
    let answer =
        ask(&config.operator_socket(), command).map_err(|error| Failure::failed(Chain(&error)))?;
    print::to_stdout(&if json {
        answer.to_string()
    } else {
        words(&answer)
    });
    Ok(())
}

fn key_and_secret(answer: &Value) -> String {
    let key = answer.get("key").map(print::key).unwrap_or_default();
    format!(
        "{key}\nsecret, shown this once: {}",
        print::member(answer, "secret")
    )
}

fn one_tenant(answer: &Value) -> String {
    answer.get("tenant").map(print::tenant).unwrap_or_default()
}

fn each(answer: &Value, list: &str, words: impl Fn(&Value) -> String) -> String {
    let items = answer
        .get(list)
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    items.map(words).collect::<Vec<_>>().join("\n")
}

fn limit_changes(set: Vec<(String, u32)>) -> Result<LimitChanges, Failure> {
    let named: Map<String, Value> = set
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    serde_json::from_value(Value::Object(named)).map_err(Failure::wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_there_is_not_is_an_argument_that_is_wrong() {
        let changes = limit_changes(vec![("devices".to_owned(), 3)]).unwrap();
        assert_eq!(
            changes,
            LimitChanges {
                devices: Some(3),
                ..LimitChanges::default()
            }
        );
        let failure = limit_changes(vec![("device".to_owned(), 3)]).unwrap_err();
        assert!(
            failure.code == 2 && failure.line.contains("`devices`"),
            "{}",
            failure.line
        );
    }
}
