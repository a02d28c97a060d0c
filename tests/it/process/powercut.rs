//! The power fails: only what was synced is left, and everything acknowledged is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::task::JoinSet;

use super::auditor::{Auditor, Sender};
use super::binary::Binary;
use super::filesystem::Filesystem;
use super::strace::{absence, traced};
use super::trace::{Moment, TRACED, Trace};
use crate::house::{Case, Client, Device, Dice, cases, option, read_log, say, seed, walk};

/// Cuts on which the binary is started; `BUHO_TEST_POWERCUTS` gives another number.
const CUTS: usize = 25;
const ACKNOWLEDGEMENTS: usize = 600;

/// What the model is checked with: every way in which it knows files to change.
const SCRIPT: &str = "mkdir -p d/e && cd d && printf hello > a && sync a && printf more >> a && mv a e/b \\
    && printf 123456789 > c && sync c && truncate -s 4 c && printf x > gone && rm gone && mv e f && ln f/b g";

async fn the_model_of_the_disk_sees_what_a_program_did() {
    let folder = tempdir().unwrap();
    let log = folder.path().join("trace");
    let mut command = std::process::Command::new("strace");
    command
        .args(["-f", "-y", "-xx", "-s", "4000000", "-e", TRACED])
        .arg("-o")
        .arg(&log);
    command
        .args(["sh", "-c", SCRIPT])
        .current_dir(folder.path());
    assert!(command.status().unwrap().success());
    let trace = Trace::read(&log);
    let mut disk = Filesystem::empty(&folder.path().join("d"));
    trace
        .moments
        .iter()
        .for_each(|moment| disk.play(&trace, *moment));
    let files = disk.files();
    let told: Vec<_> = files
        .iter()
        .map(|(path, (safe, seen))| (path.file_name().unwrap(), &safe[..], &seen[..]))
        .collect();
    assert_eq!(
        told,
        [
            ("c".as_ref(), &b"123456789"[..], &b"1234"[..]),
            ("b".as_ref(), b"hello", b"hellomore"),
            ("g".as_ref(), b"hello", b"hellomore"),
        ]
    );
    for (path, (_, seen)) in files {
        assert_eq!(fs::read(&path).unwrap(), seen, "{}", path.display());
    }
}

async fn what_was_acknowledged_survives_a_power_cut() {
    let folder = tempdir().unwrap();
    let (data, log) = (folder.path().join("data"), folder.path().join("trace"));
    let mut dice = Dice::new(seed("what_was_acknowledged_survives_a_power_cut"));
    let (client, devices, ids) = record(&data, &log, &mut dice).await;
    let trace = Trace::read(&log);
    let acknowledged = acknowledgements(&trace);
    let known: BTreeSet<_> = ids.values().collect();
    let seen: BTreeSet<_> = acknowledged.values().flatten().collect();
    assert!(
        known.is_subset(&seen),
        "every acknowledgement is in the trace"
    );
    let cuts = cuts(&trace, &acknowledged, &mut dice);
    let mut disk = Filesystem::empty(&data);
    let mut promised = BTreeSet::new();
    let mut played = 0;
    for (number, cut) in cuts.into_iter().enumerate() {
        for place in played..cut {
            disk.play(&trace, trace.moments[place]);
            promised.extend(acknowledged.get(&place).into_iter().flatten().cloned());
        }
        played = cut;
        let left = folder.path().join(format!("cut-{number}"));
        disk.survive(&left.join("data"), &mut dice);
        say(&format!(
            "cut {number} before moment {cut}: {} messages were acknowledged",
            promised.len()
        ));
        check(&left.join("data"), &client, &devices, &promised).await;
        fs::remove_dir_all(&left).unwrap();
    }
}

/// Runs the gateway under `strace` while messages are sent.
async fn record(
    data: &Path,
    log: &Path,
    dice: &mut Dice,
) -> (Client, Vec<Device>, BTreeMap<String, String>) {
    let options = [
        "-y",
        "-xx",
        "-s",
        "4000000",
        "-e",
        TRACED,
        "-e",
        "signal=none",
    ];
    let command = traced(&options, log, data);
    let mut gateway = Binary::start(command, data).await;
    let client = gateway.tenant().await;
    let devices = vec![client.device("one").await];
    let auditor = Arc::new(Auditor::default());
    let mut senders = JoinSet::new();
    for index in 0..4 {
        let sender = Sender {
            name: format!("s{index}"),
            devices: devices.clone(),
            auditor: Arc::clone(&auditor),
            dice: Dice::new(dice.bits()),
            batch_max: 12,
            bytes_max: 12_000,
            pause: std::time::Duration::ZERO,
        };
        senders.spawn(sender.run());
    }
    // What a reader has been shown is promised as well: ids count wherever they left over a socket.
    let mut socket = client.socket().await;
    socket.subscribe(json!({}), "now").await;
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        loop {
            socket.event().await;
        }
    });
    auditor.until_count(ACKNOWLEDGEMENTS).await;
    auditor.end();
    senders.join_all().await;
    reading.shutdown().await;
    gateway.kill().await;
    (client, devices, auditor.ids())
}

/// Ids of messages in answers and events, by the moment at which they began to leave.
fn acknowledgements(trace: &Trace) -> BTreeMap<usize, Vec<String>> {
    let mut found = BTreeMap::new();
    for (place, moment) in trace.moments.iter().enumerate() {
        let Moment::Begins(index) = *moment else {
            continue;
        };
        let call = &trace.calls[index];
        let is_out = ["write", "writev", "sendto", "sendmsg"].contains(&call.name.as_str());
        if is_out && call.behind(0).starts_with("socket:") {
            let place_of_bytes = 1;
            let bytes = call.bytes(place_of_bytes);
            let text = String::from_utf8_lossy(&bytes);
            let ids = text
                .split("\"msg_")
                .skip(1)
                .map(|it| format!("msg_{}", &it[..26]));
            found.insert(place, ids.collect());
        }
    }
    found
}

/// Moments before which the power fails: some at random, some right after an answer left or before a sync has ended.
fn cuts(
    trace: &Trace,
    acknowledged: &BTreeMap<usize, Vec<String>>,
    dice: &mut Dice,
) -> BTreeSet<usize> {
    let answers: Vec<_> = acknowledged
        .iter()
        .filter(|(_, ids)| !ids.is_empty())
        .map(|(place, _)| *place)
        .collect();
    let first = answers[0];
    let syncs: Vec<_> = (first..trace.moments.len())
        .filter(|place| match trace.moments[*place] {
            Moment::Ends(index) => trace.calls[index].name.ends_with("sync"),
            Moment::Begins(_) => false,
        })
        .collect();
    assert!(!syncs.is_empty(), "the gateway syncs");
    let wanted = option("BUHO_TEST_POWERCUTS").map_or(CUTS, |it| it.parse().expect("a number"));
    let wanted = wanted.min(trace.moments.len() / 4);
    // One while the folder was set up: nothing is promised then but that it opens.
    let mut cuts = BTreeSet::from([1 + dice.below(first)]);
    while cuts.len() < wanted {
        cuts.insert(match dice.below(3) {
            0 => first + dice.below(trace.moments.len() - first),
            1 => *dice.pick(&answers) + 1,
            _ => *dice.pick(&syncs),
        });
    }
    cuts
}

/// The gateway opens what is left by itself and has all that was promised.
async fn check(data: &Path, client: &Client, devices: &[Device], promised: &BTreeSet<String>) {
    let mut gateway = Binary::serve(data).await;
    if promised.is_empty() {
        return gateway.kill().await;
    }
    gateway.lead(client);
    let mut stored = BTreeMap::new();
    for device in devices {
        for message in walk(client, &device.path("/messages?direction=out&limit=200")).await {
            let key = message["metadata"]["key"].as_str().unwrap().to_owned();
            let words = message["content"]["text"].as_str().unwrap().to_owned();
            assert!(
                words.starts_with(&key),
                "{key} has the bytes that were sent"
            );
            let id = message["id"].as_str().unwrap().to_owned();
            assert!(stored.insert(id, key).is_none());
        }
    }
    for id in promised {
        assert!(stored.contains_key(id), "{id} was acknowledged and is lost");
    }
    let keys: BTreeSet<_> = stored.values().collect();
    assert_eq!(keys.len(), stored.len(), "one key, one message");
    let log = read_log(client, "oldest").await;
    let seqs: Vec<_> = log.iter().map(|it| it["seq"].as_u64().unwrap()).collect();
    assert!(
        seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "a hole in the log"
    );
    let created = log
        .iter()
        .filter(|it| it["type"] == "message.created")
        .map(|it: &Value| it["data"]["id"].as_str());
    let created: BTreeSet<_> = created.flatten().collect();
    assert_eq!(created.len(), stored.len(), "each message has its entry");
    gateway.kill().await;
}

pub(crate) const CASES: &[Case] = cases![
    the_model_of_the_disk_sees_what_a_program_did
        .embedded()
        .needing(absence),
    what_was_acknowledged_survives_a_power_cut
        .threaded()
        .embedded()
        .needing(absence),
];
