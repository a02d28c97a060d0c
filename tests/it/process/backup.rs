//! The whole store: backed up while the gateway works, restored, and copied.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use super::binary::{Binary, buho, run, serve_arguments};
use crate::house::{
    Case, Client, Device, Dice, Store, cases, cursor_place, phone, read_log, text, walk,
};

/// A copy is killed this often before it counts as too quick to be caught.
const KILLS_MAX: usize = 20;

async fn store(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let words = [&["store"], arguments, &["--json"]].concat();
    let (code, stdout, stderr) = run(buho(&words)).await;
    (
        code,
        serde_json::from_str(&stdout).unwrap_or_default(),
        stderr,
    )
}

async fn stored(arguments: &[&str]) -> Value {
    let (code, told, stderr) = store(arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    told
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Paths below a folder of the case's own.
struct Places {
    folder: TempDir,
}

impl Places {
    fn new() -> Self {
        Self {
            folder: tempdir().unwrap(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

async fn send_on(device: Device, sender: usize, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for index in 0..count {
        let body = json!({"to": phone(sender), "content": text(&format!("{sender}-{index}"))});
        let taken = device.send_once(&format!("{sender}-{index}"), &body).await;
        ids.push(taken.expect(202)["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// What was sent, with the key of each.
async fn filled(client: &Client, count: usize) -> (Device, Vec<String>) {
    let device = client.device("one").await;
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        senders.spawn(send_on(device.clone(), sender, count));
    }
    (device, senders.join_all().await.concat())
}

async fn all_are_there(client: &Client, device: &Device, ids: &[String]) {
    let there = walk(client, &device.path("/messages?limit=200")).await;
    for id in ids {
        assert!(there.iter().any(|it| it["id"] == **id), "{id} is lost");
    }
}

/// Cursors of before lead nowhere, keys are still known, and the log goes on without a hole.
async fn goes_on(client: &Client, device: &Device, cursor: &str) {
    let problem = client.get(&format!("/v1/events?after={cursor}")).await;
    let problem = problem.problem(410, "cursor_gone");
    assert_eq!(problem["reason"], "epoch", "{problem}");
    let body = json!({"to": phone(0), "content": text("0-0")});
    let again = device.send_once("0-0", &body).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    device.until_state("connected").await;
    device.send(&phone(1), "behind the move").await;
    let log = read_log(client, "oldest").await;
    assert!(
        log.iter()
            .enumerate()
            .all(|(index, it)| it["seq"] == index + 1)
    );
    let (before, _) = cursor_place(cursor);
    assert!(log.last().unwrap()["epoch"].as_u64().unwrap() > before);
}

async fn a_backup_under_traffic_is_restored_with_all_that_was_acknowledged_before() {
    let places = Places::new();
    let (data, backup, again) = (places.at("data"), places.at("backup"), places.at("again"));
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    let (device, ids) = filled(&client, 25).await;
    let mut traffic = JoinSet::new();
    for sender in 4..8 {
        traffic.spawn(send_on(device.clone(), sender, 40));
    }
    let made = stored(&["backup", text_of(&backup), "--data", text_of(&data)]).await;
    assert!(
        100 <= made["kinds"]["messages"]["count"].as_u64().unwrap(),
        "{made}"
    );
    traffic.join_all().await;
    let cursor = client.head().await;
    let refused = store(&["backup", text_of(&backup), "--data", text_of(&data)]).await;
    assert!(
        refused.0 == Some(1) && refused.2.contains("not empty"),
        "{refused:?}"
    );
    gateway.kill().await;
    let restored = stored(&["restore", text_of(&backup), "--into", text_of(&again)]).await;
    assert_eq!(made["records"], restored["records"]);
    let refused = store(&["restore", text_of(&backup), "--into", text_of(&again)]).await;
    assert!(
        refused.0 == Some(1) && refused.2.contains("not empty"),
        "{refused:?}"
    );
    let mut gateway = Binary::serve(&again).await;
    gateway.lead(&client);
    all_are_there(&client, &device, &ids).await;
    goes_on(&client, &device, &cursor).await;
    assert!(gateway.terminate().await.success());
}

async fn a_backup_that_is_not_whole_is_refused_and_nothing_is_made() {
    let places = Places::new();
    let (data, backup, again) = (places.at("data"), places.at("backup"), places.at("again"));
    let mut gateway = Binary::serve(&data).await;
    filled(&gateway.tenant().await, 5).await;
    stored(&["backup", text_of(&backup), "--data", text_of(&data)]).await;
    gateway.kill().await;
    for name in ["records/00001", "manifest.json"] {
        let good = fs::read(backup.join(name)).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 4;
        fs::write(backup.join(name), bad).unwrap();
        let (code, _, said) =
            store(&["restore", text_of(&backup), "--into", text_of(&again)]).await;
        assert!(code == Some(1) && said.contains("damaged"), "{said}");
        fs::write(backup.join(name), good).unwrap();
    }
    fs::remove_file(backup.join("manifest.json")).unwrap();
    let (code, _, said) = store(&["restore", text_of(&backup), "--into", text_of(&again)]).await;
    assert!(code == Some(1) && said.contains("not finished"), "{said}");
    assert!(!again.exists());
}

async fn a_compacted_store_is_smaller_and_has_all_that_counts() {
    let places = Places::new();
    let data = places.at("data");
    let compact = ["compact", "--data", text_of(&data)];
    let (code, _, said) = store(&compact).await;
    assert!(code == Some(3) && said.contains("no store"), "{said}");
    let mut gateway = Binary::serve(&data).await;
    let (code, _, said) = store(&compact).await;
    assert!(code == Some(3) && said.contains("in use"), "{said}");
    let client = gateway.tenant().await;
    let gone = client.device("two").await;
    let mut dice = Dice::new(1);
    for index in 0..50 {
        let words: String = (0..250).map(|_| format!("{:016x}", dice.bits())).collect();
        gone.send(&phone(index), &words).await;
    }
    let (device, ids) = filled(&client, 25).await;
    assert!(gateway.terminate().await.success());
    let size = async || stored(&compact).await["bytes"].as_u64().unwrap();
    let before = size().await;
    assert!(
        400_000 < before,
        "texts in messages and in the log: {before}"
    );
    let mut gateway = Binary::serve(&data).await;
    gateway.lead(&client);
    client.delete(&gone.path("")).await.expect(204);
    let log = read_log(&client, "oldest").await;
    // What a removal leaves to be erased is erased when there is time, at the next start at the latest.
    let mut after = before;
    for _ in 0..20 {
        assert!(gateway.terminate().await.success());
        after = size().await;
        gateway = Binary::serve(&data).await;
        if after + 150_000 < before {
            break;
        }
    }
    assert!(after + 150_000 < before, "{after} bytes, {before} before");
    gateway.lead(&client);
    all_are_there(&client, &device, &ids).await;
    assert_eq!(read_log(&client, "oldest").await[..log.len()], log[..]);
    let body = json!({"to": phone(0), "content": text("0-0")});
    let replayed = device.send_once("0-0", &body).await;
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert!(gateway.terminate().await.success());
}

async fn a_backup_needs_a_gateway_and_a_copy_needs_none() {
    let places = Places::new();
    let (data, there) = (places.at("data"), places.at("there"));
    let from = format!("embedded:{}", data.display());
    let to = format!("embedded:{}", there.display());
    let (code, _, said) = store(&["backup", text_of(&there), "--data", text_of(&data)]).await;
    assert!(code == Some(1) && said.contains("buho serve"), "{said}");
    let (code, _, said) = store(&["copy", "--from", &from, "--to", &to]).await;
    assert!(code == Some(3) && said.contains("no store"), "{said}");
    assert!(!data.exists() && !there.exists());
    let mut gateway = Binary::serve(&data).await;
    let (code, _, said) = store(&["copy", "--from", &from, "--to", &to]).await;
    assert!(code == Some(3) && said.contains("in use"), "{said}");
    let (code, ..) = store(&["copy", "--from", &from, "--to", "elsewhere"]).await;
    assert_eq!(code, Some(2));
    gateway.kill().await;
}

async fn a_copy_that_was_killed_goes_on_and_is_not_served_before() {
    let places = Places::new();
    let data = places.at("data");
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    let (device, ids) = filled(&client, 60).await;
    let cursor = client.head().await;
    assert!(gateway.terminate().await.success());
    let from = format!("embedded:{}", data.display());
    let there = interrupted(&places, &from).await;
    let arguments = serve_arguments(&there);
    let (code, _, said) = run(buho(&arguments.each_ref().map(String::as_str))).await;
    assert!(code == Some(3) && said.contains("not whole"), "{said}");
    let to = format!("embedded:{}", there.display());
    let copied = stored(&["copy", "--from", &from, "--to", &to]).await;
    assert!(
        copied["kinds"]["messages"]["count"].as_u64().unwrap() >= 240,
        "{copied}"
    );
    let (code, _, said) = store(&["copy", "--from", &from, "--to", &to]).await;
    assert!(code == Some(1) && said.contains("not empty"), "{said}");
    let mut gateway = Binary::serve(&there).await;
    gateway.lead(&client);
    all_are_there(&client, &device, &ids).await;
    goes_on(&client, &device, &cursor).await;
    assert!(gateway.terminate().await.success());
}

/// A folder with a copy that was killed before its end.
async fn interrupted(places: &Places, from: &str) -> PathBuf {
    for attempt in 0..KILLS_MAX {
        let there = places.at(&format!("there-{attempt}"));
        let to = format!("embedded:{}", there.display());
        let mut command = buho(&["store", "copy", "--from", from, "--to", &to]);
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut copy = quiet.kill_on_drop(true).spawn().unwrap();
        let note = there.join("unfinished");
        while !note.exists() && copy.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        // The first ones are killed at once, the later ones further on.
        sleep(Duration::from_millis(
            u64::try_from(KILLS_MAX - attempt).unwrap(),
        ))
        .await;
        copy.kill().await.unwrap();
        if note.exists() {
            return there;
        }
    }
    panic!("every copy was through before it could be killed");
}

async fn a_store_goes_to_servers_and_back_with_all_it_has() {
    let places = Places::new();
    let (data, back, config) = (places.at("data"), places.at("back"), places.at("buho.toml"));
    let mut gateway = Binary::serve_on(&data, &Store::Embedded.settings(&data)).await;
    let client = gateway.tenant().await;
    let (device, ids) = filled(&client, 10).await;
    let cursor = client.head().await;
    assert!(gateway.terminate().await.success());
    fs::write(&config, Store::Cql.settings(&places.at("cluster"))).unwrap();
    let config = text_of(&config);
    let at = format!("embedded:{}", data.display());
    let out = stored(&["copy", "--from", &at, "--to", "cql", "--config", config]).await;
    let at = format!("embedded:{}", back.display());
    let home = stored(&["copy", "--from", "cql", "--to", &at, "--config", config]).await;
    let counts = |told: &Value| -> Vec<(String, Value)> {
        let kinds = told["kinds"].as_object().unwrap();
        kinds
            .iter()
            .map(|(kind, sum)| (kind.clone(), sum["count"].clone()))
            .collect()
    };
    assert_eq!(counts(&out), counts(&home));
    let mut gateway = Binary::serve_on(&back, &Store::Embedded.settings(&back)).await;
    gateway.lead(&client);
    all_are_there(&client, &device, &ids).await;
    goes_on(&client, &device, &cursor).await;
    assert!(gateway.terminate().await.success());
}

async fn a_gateway_on_servers_names_their_own_snapshots() {
    let places = Places::new();
    let (data, to) = (places.at("data"), places.at("backup"));
    let mut gateway = Binary::serve(&data).await;
    let config = data.with_extension("toml");
    let words = ["backup", text_of(&to), "--config", text_of(&config)];
    let (code, _, said) = store(&words).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nodetool snapshot"), "{said}");
    assert!(!to.exists());
    assert!(gateway.terminate().await.success());
}

pub(crate) const CASES: &[Case] = cases![
    a_backup_under_traffic_is_restored_with_all_that_was_acknowledged_before
        .threaded()
        .embedded(),
    a_backup_that_is_not_whole_is_refused_and_nothing_is_made.embedded(),
    a_compacted_store_is_smaller_and_has_all_that_counts.embedded(),
    a_backup_needs_a_gateway_and_a_copy_needs_none.embedded(),
    a_copy_that_was_killed_goes_on_and_is_not_served_before.embedded(),
    a_gateway_on_servers_names_their_own_snapshots.cql(),
    a_store_goes_to_servers_and_back_with_all_it_has.cql(),
];
