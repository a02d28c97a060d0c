//! A smoke of each load scenario against the real binary, seconds each. It fails on loss, repeats, disorder, or a
//! scenario that can't be run; never on speed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it leaves out"
)]

use std::process::ExitCode;

use futures_util::future::LocalBoxFuture;
use gateway::testing::server;
use libtest_mimic::{Arguments, Trial, run};
use serde_json::Value;
use tokio::runtime::Builder;

/// A case, by the name of its function.
macro_rules! case {
    ($case:ident) => {
        (stringify!($case), |store| Box::pin($case(store)))
    };
}

type Case = (&'static str, fn(Store) -> LocalBoxFuture<'static, ()>);

/// The scenarios, each on both stores.
const SCENARIOS: &[Case] = &[
    case!(every_door_takes_messages_and_the_log_has_each_once),
    case!(what_is_sent_arrives_in_both_encodings),
    case!(many_subscribers_get_everything),
    case!(idle_sockets_and_devices_are_weighed),
    case!(a_storm_loses_nothing),
    case!(histories_are_whole_at_each_level),
    case!(devices_connect_again_after_a_restart),
    case!(a_day_of_traffic_is_heard_in_full),
    case!(a_short_soak_keeps_its_books),
];
const IMAGE: Case = case!(the_image_runs_a_scenario_that_there_is);

/// Where the gateway of a smoke keeps its data.
#[derive(Clone, Copy, Debug)]
enum Store {
    Embedded,
    Cql,
}

impl Store {
    /// What a scenario is told of it.
    fn arguments(self) -> Vec<String> {
        let words = match self {
            Self::Embedded => String::from("--store embedded"),
            Self::Cql => format!(
                "--store cql --contact-points {} --keyspace buho_test --set cql.replication=1",
                server::contact_points().join(",")
            ),
        };
        words.split(' ').map(String::from).collect()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let embedded = SCENARIOS.iter().chain([&IMAGE]);
    let embedded = embedded.map(|it| trial("embedded", Store::Embedded, *it));
    let cql = SCENARIOS.iter().map(|it| trial("cql", Store::Cql, *it));
    let cql: Vec<_> = cql.collect();
    let is_wanted = !arguments.list && !cql.iter().all(|it| arguments.is_filtered_out(it));
    let absence = is_wanted.then(server::absence).flatten();
    let cql = cql
        .into_iter()
        .map(|it| it.with_ignored_flag(absence.is_some()));
    let conclusion = run(&arguments, embedded.chain(cql).collect());
    if let Some(reason) = absence {
        println!("cases on `cql` were ignored: {reason}");
    }
    conclusion.exit_code()
}

fn trial(name: &str, store: Store, (case, body): Case) -> Trial {
    Trial::test(format!("{name}::{case}"), move || {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(body(store));
        Ok(())
    })
}

/// Runs a scenario small, against a gateway of its own; answers the report.
async fn smoke(store: Store, arguments: &str) -> Value {
    let words = ["buho-loadtest"].into_iter().chain(arguments.split(' '));
    let words = words.chain(["--start", env!("CARGO_BIN_EXE_buho")]);
    let words = words.map(String::from).chain(store.arguments());
    let verdict = buho_loadtest::run(words).await;
    assert_eq!(verdict.error, None, "{arguments}");
    let report = verdict.report.unwrap();
    // 3: all was there and in order, and a bound of time or memory was not kept. This machine may be busy.
    assert!(
        matches!(verdict.exit_code, 0 | 3),
        "{arguments}: {:#}\n{:#}",
        report["faults"],
        report["errors"]
    );
    report
}

fn figure(report: &Value, name: &str) -> f64 {
    let figures = report["figures"].as_array().unwrap();
    let found = figures.iter().find(|figure| figure["name"] == name);
    found.map_or(f64::NAN, |figure| figure["value"].as_f64().unwrap())
}

fn latencies(report: &Value, name: &str) -> u64 {
    let rows = report["latencies"].as_array().unwrap();
    let found = rows.iter().find(|row| row["name"] == name);
    found.map_or(0, |row| row["count"].as_u64().unwrap())
}

async fn every_door_takes_messages_and_the_log_has_each_once(store: Store) {
    let report = smoke(
        store,
        "ingest --via rest,batch,ws --codec json,msgpack --connections 4 --batch 20 --seconds 1 --warm-up 0 \
         --payload 128,8192",
    )
    .await;
    let doors = [
        "REST, 128 B, 4 connections",
        "REST, 8192 B, 4 connections",
        "batches of 20, 128 B, 4 connections",
        "WebSocket, 128 B, 4 sockets",
        "WebSocket in MessagePack, 8192 B, 4 sockets",
    ];
    for door in doors {
        assert!(
            figure(&report, &format!("{door}: messages")) > 0.0,
            "{door}: {report:#}"
        );
        // On a slow store little of a short window is written within it.
        assert!(
            figure(&report, &format!("{door}: records a message")) > 0.0,
            "{door}: {report:#}"
        );
        // The message, its event and its place in the outbox at least.
        assert!(
            figure(&report, &format!("{door}: records a message, until quiet")) >= 3.0,
            "{door}: {report:#}"
        );
    }
}

async fn what_is_sent_arrives_in_both_encodings(store: Store) {
    let report = smoke(
        store,
        "latency --rate 50 --senders 4 --seconds 1 --warm-up 1 --codec json,msgpack --payload 1024 --unfiltered --without-yardstick",
    )
    .await;
    for encoding in ["JSON", "MessagePack"] {
        assert_eq!(
            latencies(&report, &format!("50/s, 1024 B, {encoding}: due → event")),
            50,
            "{report:#}"
        );
    }
}

async fn many_subscribers_get_everything(store: Store) {
    for codec in ["json", "msgpack"] {
        let load = "--subscribers 20 --rate 20 --seconds 1 --burst 200 --batch 50";
        let report = smoke(store, &format!("fanout {load} --codec {codec}")).await;
        assert!(
            figure(&report, "burst to 20: deliveries") > 0.0,
            "{report:#}"
        );
    }
}

async fn idle_sockets_and_devices_are_weighed(store: Store) {
    let report = smoke(
        store,
        "idle --sockets 50 --devices 10 --chats 200 --set chats.idle_ms=200",
    )
    .await;
    assert!(
        figure(&report, "memory of a sleeping chat: standard error").is_finite(),
        "{report:#}"
    );
    assert!(
        figure(&report, "gateway: memory of an idle device") >= 0.0,
        "{report:#}"
    );
}

async fn a_storm_loses_nothing(store: Store) {
    for codec in ["json", "msgpack"] {
        let report = smoke(store, &format!(
            "storm --sockets 40 --cuts 2 --rate 20 --seconds 1 --codec {codec} --without-yardstick"
        ))
        .await;
        assert_eq!(
            latencies(&report, "called back → caught up"),
            80,
            "{report:#}"
        );
    }
}

async fn histories_are_whole_at_each_level(store: Store) {
    let report = smoke(store, "history --levels 1000,4000 --rate 20 --seconds 1").await;
    for level in [1_000, 4_000] {
        let name = format!("{level} messages: newest page of a chat");
        assert_eq!(latencies(&report, &name), 20, "{report:#}");
    }
}

async fn devices_connect_again_after_a_restart(store: Store) {
    let report = smoke(store, "start --devices 20").await;
    assert!(
        figure(&report, "restart: until all were connected") > 0.0,
        "{report:#}"
    );
}

async fn a_day_of_traffic_is_heard_in_full(store: Store) {
    let report = smoke(
        store,
        "mix --peak 60 --hour-seconds 1 --connections 8 --subscribers 4",
    )
    .await;
    assert!(
        figure(&report, "message.received heard") > 0.0,
        "{report:#}"
    );
}

async fn a_short_soak_keeps_its_books(store: Store) {
    let report = smoke(
        store,
        "soak --minutes 0.1 --rate 40 --connections 4 --subscribers 4 --churn 4 --cool-down 1",
    )
    .await;
    assert!(figure(&report, "memory: slope").is_finite(), "{report:#}");
    assert!(figure(&report, "buho_tasks: after") > 0.0, "{report:#}");
}

async fn the_image_runs_a_scenario_that_there_is(store: Store) {
    let image = include_str!("../Dockerfile");
    let commands = image.lines().filter_map(|line| line.strip_prefix("CMD "));
    let command: Vec<String> = commands
        .map(|words| serde_json::from_str(words).unwrap())
        .find(|words: &Vec<String>| words.iter().any(|it| it == "--start"))
        .unwrap();
    let until_gateway = command.iter().take_while(|word| *word != "--start");
    let words: Vec<_> = until_gateway.map(String::as_str).collect();
    let report = smoke(
        store,
        &format!("{} --seconds 1 --warm-up 0", words.join(" ")),
    )
    .await;
    assert!(
        figure(&report, "500/s, 128 B, JSON: acknowledged") > 0.0,
        "{report:#}"
    );
}
