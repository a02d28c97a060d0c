//! The load test against a gateway that is made up, so that it can lose, double and refuse on demand: a load test
//! that does not see a fault is worth nothing.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod fake;

use std::process::Output;

use fake::{Fake, Fault};
use serde_json::Value;
use tokio::process::Command;

/// Runs the binary; answers its exit code and its JSON report.
async fn load(fake: &Fake, arguments: &str) -> (i32, Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_buho-loadtest"))
        .args(arguments.split(' '))
        .args(["--url", &fake.url(), "--key", fake::KEY, "--json"])
        .arg(&file)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let report = std::fs::read(&file).map_err(|_| said(&output)).unwrap();
    let code = output.status.code().unwrap();
    (code, serde_json::from_slice(&report).unwrap())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn figure(report: &Value, name: &str) -> f64 {
    let figures = report["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name);
    found.map_or(f64::NAN, |figure| figure["value"].as_f64().unwrap())
}

/// A figure of the only leg of `SEND`.
fn leg(report: &Value, name: &str) -> f64 {
    figure(report, &format!("200/s, 128 B, JSON: {name}"))
}

/// Each yardstick runs, small.
#[tokio::test]
async fn the_yardsticks_give_figures() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let small = "yardstick --connections 4 --callers 4 --sockets 50 --warm-up 0 --store-seconds 1 --subscribers 20 --rate 20 --seconds 1 \
         --burst 200 --batch 50";
    let output = Command::new(env!("CARGO_BIN_EXE_buho-loadtest"))
        .args(small.split(' '))
        .arg("--scratch")
        .arg(folder.path())
        .arg("--json")
        .arg(&file)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let figures = report["figures"].as_array().unwrap();
    let parts = [
        "bare axum",
        "bare broadcast, paced",
        "bare broadcast, burst",
        "store",
        "append",
        "one record alone",
    ];
    for part in parts {
        let of_part = figures
            .iter()
            .filter(|it| it["name"].as_str().unwrap().starts_with(part));
        let greatest = of_part
            .map(|it| it["value"].as_f64().unwrap())
            .fold(0.0, f64::max);
        assert!(0.0 < greatest, "{part}: {report:#}");
    }
}

const SEND: &str = "latency --rate 200 --seconds 1 --warm-up 1 --senders 4 --unfiltered";
const FANOUT: &str = "fanout --subscribers 20 --rate 50 --seconds 1 --burst 200 --batch 50";

#[tokio::test]
async fn a_sound_gateway_passes() {
    let fake = Fake::open(Fault::None).await;
    let (code, report) = load(&fake, SEND).await;
    assert_eq!(code, 0, "{report}");
    assert!(
        leg(&report, "acknowledged, with warm-up") >= 399.0,
        "{report}"
    );
    assert_eq!(report["latencies"][1]["count"], 200, "{report}");
    let (code, report) = load(&fake, FANOUT).await;
    assert_eq!(code, 0, "{report}");
    assert!(figure(&report, "burst to 20: deliveries") > 0.0, "{report}");
    assert!(fake.silenced());
}

const STORM: &str = "storm --sockets 20 --cuts 2 --rate 100 --seconds 1";
const INGEST: &str =
    "ingest --via rest,ws --connections 4 --chats 50 --seconds 1 --warm-up 0 --payload 128";

#[tokio::test]
async fn a_sound_gateway_weathers_a_storm() {
    let fake = Fake::open(Fault::None).await;
    let (code, report) = load(&fake, STORM).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["latencies"][1]["count"], 40, "{report}");
    assert!(figure(&report, "published") >= 200.0, "{report}");
}

#[tokio::test]
async fn a_fault_in_the_log_is_found_by_those_who_read_it_later() {
    for (fault, what) in [
        (Fault::Lose(20), "lost"),
        (Fault::Double(20), "doubled"),
        (Fault::Swap(20), "disordered"),
    ] {
        let fake = Fake::open(fault).await;
        let (code, report) = load(&fake, INGEST).await;
        assert_eq!(code, 1, "{report}");
        for door in ["REST, 128 B, 4 connections", "WebSocket, 128 B, 4 sockets"] {
            assert!(
                figure(&report, &format!("{door}: {what}")) >= 1.0,
                "{door}: {report}"
            );
        }
        let (code, report) = load(&fake, STORM).await;
        assert_eq!(code, 1, "{report}");
        let name = format!("all sockets together: {what}");
        assert!(figure(&report, &name) >= 20.0, "{report}");
    }
}

#[tokio::test]
async fn a_threshold_sets_the_exit_code_and_a_fault_comes_first() {
    let fake = Fake::open(Fault::None).await;
    let send = "latency --rate 50 --seconds 1 --warm-up 0 --threshold";
    let run = async |fake: &Fake, bound: &str| load(fake, &format!("{send} {bound}")).await.0;
    assert_eq!(
        run(&fake, "50/s,_128_B,_JSON:_lost<=0").await,
        3,
        "no such figure"
    );
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("report.html");
    let page = html.display().to_string();
    let verdict = buho_loadtest::run(
        [
            "buho-loadtest",
            "latency",
            "--rate",
            "50",
            "--seconds",
            "1",
            "--warm-up",
            "0",
            "--url",
        ]
        .into_iter()
        .map(str::to_owned)
        .chain([
            fake.url(),
            "--key".into(),
            fake::KEY.into(),
            "--html".into(),
            page,
        ])
        .chain([
            "--threshold".into(),
            "50/s, 128 B, JSON: due → event p99 >= 0".into(),
        ]),
    )
    .await;
    assert_eq!(verdict.exit_code, 0, "{verdict:?}");
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("<svg") && page.contains("due → event"));
    let fake = Fake::open(Fault::Lose(5)).await;
    assert_eq!(run(&fake, "lots<=0").await, 1);
}

#[tokio::test]
async fn a_lost_event_is_found() {
    let fake = Fake::open(Fault::Lose(50)).await;
    let (code, report) = load(&fake, SEND).await;
    assert_eq!(code, 1);
    assert!(leg(&report, "lost") >= 7.0, "{report}");
    assert!(leg(&report, "holes in seq") >= 7.0, "{report}");
    let (code, report) = load(&fake, FANOUT).await;
    assert_eq!(code, 1);
    assert!(figure(&report, "burst to 20: lost") >= 80.0, "{report}");
}

#[tokio::test]
async fn a_doubled_event_is_found() {
    let fake = Fake::open(Fault::Double(50)).await;
    let (code, report) = load(&fake, SEND).await;
    assert_eq!(code, 1);
    assert!(leg(&report, "doubled") >= 7.0, "{report}");
    let (code, report) = load(&fake, FANOUT).await;
    assert_eq!(code, 1);
    assert!(figure(&report, "burst to 20: doubled") >= 80.0, "{report}");
}

#[tokio::test]
async fn a_message_that_was_stored_twice_is_found() {
    let fake = Fake::open(Fault::Twice(20)).await;
    for (arguments, name) in [
        (SEND, "200/s, 128 B, JSON: doubled"),
        (FANOUT, "burst to 20: doubled"),
        (STORM, "all sockets together: doubled"),
        (INGEST, "REST, 128 B, 4 connections: doubled"),
        (INGEST, "WebSocket, 128 B, 4 sockets: doubled"),
    ] {
        let (code, report) = load(&fake, arguments).await;
        assert_eq!(code, 1, "{report}");
        assert!(figure(&report, name) >= 5.0, "{name}: {report}");
    }
}

#[tokio::test]
async fn disorder_is_found() {
    let fake = Fake::open(Fault::Swap(50)).await;
    let (code, report) = load(&fake, SEND).await;
    assert_eq!(code, 1);
    assert!(leg(&report, "disordered") >= 7.0, "{report}");
    assert_eq!(leg(&report, "doubled").to_bits(), 0.0_f64.to_bits());
    let (code, report) = load(&fake, FANOUT).await;
    assert_eq!(code, 1);
    assert!(
        figure(&report, "burst to 20: disordered") >= 80.0,
        "{report}"
    );
}

#[tokio::test]
async fn refusals_are_counted_by_code_and_are_no_loss() {
    let fake = Fake::open(Fault::Refuse(10)).await;
    let (code, report) = load(&fake, SEND).await;
    assert_eq!(code, 0, "{report}");
    assert!(
        report["errors"]["send: 503 busy"].as_u64().unwrap() >= 30,
        "{report}"
    );
}

#[tokio::test]
async fn every_door_is_counted_by_its_acknowledgements() {
    let fake = Fake::open(Fault::None).await;
    let doors = [
        ("rest", "REST, 128 B, 4 connections: messages"),
        ("batch", "batches of 10, 128 B, 4 connections: messages"),
        ("ws", "WebSocket, 128 B, 4 sockets: messages"),
    ];
    for (via, name) in doors {
        let arguments = format!(
            "ingest --via {via} --connections 4 --batch 10 --chats 50 --seconds 1 --warm-up 0"
        );
        let stored = fake.stored();
        let (code, report) = load(&fake, &arguments).await;
        assert_eq!(code, 0, "{report}");
        assert_eq!(report["errors"], serde_json::json!({}), "{report}");
        let stored = fake.stored() - stored;
        let told = figure(&report, name);
        // What was under way at the end is stored and not counted.
        assert!(
            told > 0.0 && told < f64::from(stored) * 1.2,
            "{stored}: {report}"
        );
        assert!(told > f64::from(stored) * 0.5, "{stored}: {report}");
    }
}

#[tokio::test]
async fn idle_opens_sockets_and_devices_and_removes_them() {
    let fake = Fake::open(Fault::None).await;
    let pid = std::process::id();
    let (code, report) = load(
        &fake,
        &format!("idle --sockets 20 --devices 20 --pid {pid}"),
    )
    .await;
    assert_eq!(code, 0, "{report}");
    assert!(figure(&report, "gateway: memory of an idle socket") >= 0.0);
    assert_eq!((fake.devices_made(), fake.devices_left()), (70, 0));
}
