//! Words for people, on the terminal. A reader that went away is no failure.

use std::io::Write;

use serde_json::Value;

pub(super) fn to_stdout(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

pub(super) fn to_stderr(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// A tenant in one line.
pub(super) fn tenant(tenant: &Value) -> String {
    format!(
        "{}  {}  {}",
        member(tenant, "id"),
        member(tenant, "name"),
        limits(tenant)
    )
}

/// The limits of what has some.
pub(super) fn limits(of: &Value) -> String {
    let limits = of
        .get("limits")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let limits: Vec<String> = limits
        .filter(|(_, value)| value.as_u64() != Some(0))
        .map(|(name, value)| format!("{name}={}", scalar(value)))
        .collect();
    if limits.is_empty() {
        "no limits".to_owned()
    } else {
        limits.join(" ")
    }
}

/// A key in one line.
pub(super) fn key(key: &Value) -> String {
    let list = |name: &str| {
        let items = key
            .get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        items.map(scalar).collect::<Vec<_>>().join(" ")
    };
    let devices = Some(list("devices"))
        .filter(|devices| !devices.is_empty())
        .unwrap_or_else(|| "all devices".to_owned());
    format!(
        "{}  {}  {devices}  {}",
        member(key, "id"),
        member(key, "name"),
        list("scopes")
    )
}

/// The tree of actors: one line each, those below it indented.
pub(super) fn tree(node: &Value) -> String {
    let mut lines = Vec::new();
    grow(node, 0, &mut lines);
    lines.join("\n")
}

fn grow(node: &Value, depth: usize, lines: &mut Vec<String>) {
    let name = [member(node, "actor"), member(node, "name")].join(" ");
    let mut line = format!("{}{}", "  ".repeat(depth), name.trim());
    facts(node, "", &mut line);
    lines.push(line);
    for child in node
        .get("children")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        grow(child, depth + 1, lines);
    }
}

/// What is known of one actor, except who it is; absent facts are not shown.
fn facts(of: &Value, of_what: &str, line: &mut String) {
    for (name, value) in of.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) if name == "vitals" => facts(value, of_what, line),
            Value::Object(_) => facts(value, &format!("{of_what}{name}."), line),
            Value::Null => {}
            _ if matches!(name.as_str(), "actor" | "name" | "children") => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                line.push_str(&format!("  {of_what}{name}={}", scalar(value)));
            }
        }
    }
}

/// A member as text; empty where there is none.
pub(super) fn member(of: &Value, name: &str) -> String {
    of.get(name).map(scalar).unwrap_or_default()
}

fn scalar(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tree_is_indented_and_says_what_is_known() {
        let vitals = json!({"restarts": 2, "last_reason": "panic", "back_off_until": null});
        let node = json!({"actor": "node", "status": "Running", "queue": 0, "children": [
            {"actor": "tenant", "name": "ten_1", "status": "Running", "vitals": vitals, "log": {"restarts": 1}, "children": []},
        ]});
        assert_eq!(
            tree(&node),
            "node  queue=0  status=Running\n  tenant ten_1  log.restarts=1  status=Running  last_reason=panic  restarts=2"
        );
    }

    #[test]
    fn a_tenant_shows_only_the_limits_it_has() {
        let made =
            json!({"id": "ten_1", "name": "Acme", "limits": {"devices": 0, "connections": 5}});
        assert_eq!(tenant(&made), "ten_1  Acme  connections=5");
    }
}
