//! Reading whole lists and the whole log.

use serde_json::Value;

use super::Client;

/// Pages that a walk may take before it is taken for endless.
const PAGES_MAX: usize = 5_000;

/// All items of a list, in its order, over all its pages.
pub(crate) async fn walk(client: &Client, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    let joint = if path.contains('?') { '&' } else { '?' };
    for _ in 0..PAGES_MAX {
        let page = match &cursor {
            None => client.read(path).await,
            Some(cursor) => client.read(&format!("{path}{joint}cursor={cursor}")).await,
        };
        items.extend(page["items"].as_array().expect("items").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.into()),
            None => return items,
        }
    }
    panic!("{path} has no last page");
}

/// All entries of the log after a cursor (`oldest` too), up to its head.
pub(crate) async fn read_log(client: &Client, after: &str) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut after: String = after.into();
    for _ in 0..PAGES_MAX {
        let path = format!("/v1/events?after={after}&limit=1000");
        let page = client.read(&path).await;
        let items = page["items"].as_array().expect("items");
        entries.extend(items.iter().cloned());
        after = page["next_cursor"]
            .as_str()
            .expect("next_cursor is never null")
            .into();
        if items.is_empty() && page["next_cursor"] == page["head"] {
            return entries;
        }
    }
    panic!("the log has no end");
}

/// The cursor that stands for an entry.
pub(crate) fn cursor_of(entry: &Value) -> String {
    format!("{}-{}", entry["epoch"], entry["seq"])
}

/// Epoch and seq of a cursor.
pub(crate) fn cursor_place(cursor: &str) -> (u64, u64) {
    let (epoch, seq) = cursor
        .split_once('-')
        .unwrap_or_else(|| panic!("not a cursor: {cursor}"));
    (epoch.parse().unwrap(), seq.parse().unwrap())
}

/// Where a status stands on the ladder that never goes back.
pub(crate) fn ladder(status: &str) -> u8 {
    match status {
        "scheduled" => 0,
        "queued" => 1,
        "sent" => 2,
        "delivered" => 3,
        "read" => 4,
        "played" => 5,
        "failed" | "expired" | "revoked" => 6,
        other => panic!("not a status: {other}"),
    }
}
