//! A disk that stops syncing: from then on no acknowledgement, until a restart.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::auditor::Auditor;
use super::binary::{Binary, serve_arguments};
use crate::house::{Case, Device, cases, option, phone, until, walk};

/// Each thread syncs so often before its syncs fail.
const GOOD_SYNCS: usize = 400;
/// How exactly, in seconds, strace's two clocks agree.
const GRAIN: f64 = 1e-4;
/// Sends after which a failure must have come.
const SENDS_MAX: usize = 3_000;

/// Why a test that needs `strace` can't run here and need not.
pub(crate) fn absence() -> Option<&'static str> {
    let is_required = option("BUHO_TEST_STRACE").is_some_and(|it| it == "required");
    let mut strace = std::process::Command::new("strace");
    let is_absent = !is_required && strace.arg("--version").output().is_err();
    is_absent.then_some("install the Debian package `strace`")
}

/// The gateway below `strace`.
pub(crate) fn traced(options: &[&str], log: &Path, data: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).arg(log).args(options);
    command
        .arg(env!("CARGO_BIN_EXE_buho"))
        .args(serve_arguments(data));
    command
}

async fn after_a_failed_sync_nothing_is_acknowledged() {
    let folder = tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("trace"));
    let inject = format!("inject=fdatasync,fsync:error=EIO:when={GOOD_SYNCS}+");
    let command = traced(
        &["-ttt", "-T", "-e", "trace=fdatasync,fsync", "-e", &inject],
        &log,
        &data,
    );
    let mut gateway = Binary::start(command, &data).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    let auditor = Arc::new(Auditor::default());
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        senders.spawn(send_until_refused(
            device.clone(),
            Arc::clone(&auditor),
            sender,
        ));
    }
    let acknowledged: Vec<(f64, f64)> = senders.join_all().await.concat();
    refuses(&device, &auditor).await;
    let syncs = good_syncs(&log);
    for (begun, told) in acknowledged {
        let within = |(start, end): &(f64, f64)| begun <= *start && *end <= told + GRAIN;
        assert!(
            syncs.iter().any(within),
            "a call begun at {begun} was acknowledged at {told}, and no sync lies in between"
        );
    }
    let nobody = client.anonymous();
    nobody.get("/health/live").await.expect(200);
    until("the gateway is not ready", async || {
        nobody.get("/health/ready").await.status == 503
    })
    .await;
    assert!(nobody.get("/health/ready").await.text().contains("store"));
    let ids = auditor.ids();
    assert!(!ids.is_empty(), "some were acknowledged before");
    for id in ids.values() {
        device.get(&format!("/messages/{id}")).await.expect(200);
    }
    gateway.kill().await;
    let mut gateway = Binary::serve(&data).await;
    gateway.lead(&client);
    let stored = walk(&client, &device.path("/messages?limit=200")).await;
    for (key, id) in &ids {
        let fits = |it: &&Value| it["id"] == *id && it["metadata"]["key"] == *key;
        assert_eq!(
            stored.iter().filter(fits).count(),
            1,
            "{key} was acknowledged"
        );
    }
    client.anonymous().get("/health/ready").await.expect(200);
    device.send(&phone(1), "writes work again").await;
    gateway.kill().await;
}

/// Sends one after the other until one is refused; gives the times at which calls were begun and acknowledged.
async fn send_until_refused(
    device: Device,
    auditor: Arc<Auditor>,
    sender: usize,
) -> Vec<(f64, f64)> {
    let mut acknowledged = Vec::new();
    for index in 0..SENDS_MAX {
        let key = format!("{sender}-{index}");
        let body = auditor.body(&key, &phone(sender), 0);
        let start = wall_clock();
        let answer = device.send_once(&key, &body).await;
        let told = wall_clock();
        if answer.status != 202 {
            // Stored or not, nobody knows: the sync failed under this very call, or before it.
            assert!(
                matches!(answer.status, 500 | 503 | 504),
                "{}",
                answer.text()
            );
            return acknowledged;
        }
        auditor.acknowledge(&key, &answer.body);
        acknowledged.push((start, told));
    }
    panic!("no sync failed in {SENDS_MAX} sends");
}

/// Every kind of write is refused now, and says why.
async fn refuses(device: &Device, auditor: &Auditor) {
    for index in 0..20 {
        let key = format!("after-{index}");
        let answer = device
            .send_once(&key, &auditor.body(&key, &phone(1), 0))
            .await;
        answer.problem(503, "store_failed");
    }
    let made = device
        .client
        .post("/v1/devices", json!({"name": "late"}))
        .await;
    made.problem(503, "store_failed");
}

/// When the syncs that went well were begun and had ended, in seconds since 1970.
fn good_syncs(log: &Path) -> Vec<(f64, f64)> {
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("EIO"), "a sync failed");
    let mut open: HashMap<&str, f64> = HashMap::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(time)) = (words.next(), words.next()) else {
            continue;
        };
        let mut start = time.parse().unwrap();
        if line.ends_with("<unfinished ...>") {
            open.insert(thread, start);
            continue;
        }
        if line.contains(" resumed>") {
            start = open.remove(thread).expect("what is resumed was begun");
        }
        // strace tells how long a call took behind its result.
        let took = line
            .rsplit_once(" = 0 <")
            .map(|(_, it)| it.trim_end_matches('>'));
        found.extend(took.map(|it| (start, start + it.parse::<f64>().unwrap())));
    }
    found
}

#[expect(
    clippy::disallowed_methods,
    reason = "strace writes the wall clock, and the calls are compared with it"
)]
fn wall_clock() -> f64 {
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

pub(crate) const CASES: &[Case] = cases![
    after_a_failed_sync_nothing_is_acknowledged
        .threaded()
        .embedded()
        .needing(absence)
];
