//! Exit codes: what the shell learns, with one line that says what to do.

use std::fs;
use std::path::Path;

use gateway::testing::on_servers;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::tempdir;

use super::binary::{Binary, buho, run, serve_arguments};
use crate::house::{Case, Store, cases, phone, text};

async fn serve(data: &Path) -> (Option<i32>, String) {
    let arguments = serve_arguments(data);
    let (code, _, stderr) = run(buho(&arguments.each_ref().map(String::as_str))).await;
    (code, stderr)
}

async fn wrong_arguments_are_2() {
    for arguments in [
        &["fly"][..],
        &["serve", "--nonsense"],
        &["tenant", "create"],
        &["serve", "--listen", "nowhere"],
    ] {
        let (code, _, stderr) = run(buho(arguments)).await;
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
}

async fn an_unknown_word_in_the_configuration_is_2_and_names_the_nearest() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("buho.toml");
    fs::write(&file, "[server]\nlisen = \"127.0.0.1:0\"\n").unwrap();
    let (code, _, stderr) = run(buho(&["serve", "--config", file.to_str().unwrap()])).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("listen"), "{stderr}");
    let at = folder.path().join("data").display().to_string();
    let mut command = buho(&["serve", "--data", &at]);
    command.env("BUHO_SERVER__LISEN", "127.0.0.1:0");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.to_lowercase().contains("listen"), "{stderr}");
}

async fn the_environment_is_taken_and_an_argument_wins() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = buho(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .env("BUHO_STORE__PATH", &data)
        .env("BUHO_SERVER__LISTEN", "127.0.0.1:1");
    let mut gateway = Binary::start(command, &data).await;
    gateway.tenant().await.get("/v1/me").await.expect(200);
    assert!(gateway.terminate().await.success());
}

async fn one_that_is_overtaken_while_it_stands_still_is_1() {
    let folder = tempdir().unwrap();
    let (data, other) = (folder.path().join("data"), folder.path().join("other"));
    // Of two folders, but on one cluster.
    // Nobody is late to be heard while it stands still.
    let patient = "streams.heartbeat_ms = 600_000\n";
    let settings = Store::current().settings(&data) + patient;
    let mut first = Binary::serve_on(&data, &settings).await;
    let client = first.tenant().await;
    let device = client.device("one").await;
    let mut socket = client.socket().await;
    socket.subscribe(json!({}), "now").await;
    first.signal(Signal::STOP);
    let mut second = Binary::serve_on(&other, &settings).await;
    second.lead(&client);
    let body = json!({"to": phone(0), "content": text("to the second")});
    let sent = device.takes("/messages", body).await;
    first.signal(Signal::CONT);
    // Whoever reads from it is sent away, since all that comes is on the other one.
    assert_eq!(socket.until_close().await, 4001);
    assert_eq!(first.ended().await.code(), Some(1));
    let log = first.log();
    assert!(
        log.contains("another gateway has taken the cluster"),
        "{log}"
    );
    let id = sent["id"].as_str().unwrap();
    device.message(id).await;
    assert!(second.terminate().await.success());
}

async fn a_store_in_use_is_3_and_the_first_goes_on() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut first = Binary::serve(&data).await;
    let client = first.tenant().await;
    let (code, stderr) = serve(&data).await;
    assert_eq!(code, Some(3), "{stderr}");
    assert!(!stderr.trim().is_empty());
    client.read("/v1/me").await;
    client.fresh_device("still mine").await;
    first.operator().tenant("still here", client.base()).await;
    first.kill().await;
}

async fn a_folder_that_is_a_file_is_3() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    fs::write(&data, "not a folder").unwrap();
    let (code, stderr) = serve(&data).await;
    assert!(matches!(code, Some(2 | 3)), "{code:?}: {stderr}");
    assert_eq!(fs::read_to_string(&data).unwrap(), "not a folder");
}

async fn an_address_in_use_is_1() {
    let folder = tempdir().unwrap();
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let at = folder.path().join("data").display().to_string();
    let (code, _, stderr) = run(buho(&["serve", "--data", &at, "--listen", &listen])).await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&listen), "{stderr}");
}

async fn a_socket_path_too_long_is_2_and_names_the_option() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("x".repeat(110));
    let (code, stderr) = serve(&data).await;
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("operator.socket"), "{stderr}");
}

async fn the_operators_socket_is_for_its_owner_alone_and_a_stale_one_blocks_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    for _ in 0..3 {
        let mut gateway = Binary::serve(&data).await;
        let mode = fs::metadata(data.join("operator.sock"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        gateway.tenant().await.get("/v1/me").await.expect(200);
        gateway.kill().await;
    }
}

/// A keyspace that is not this gateway's: every server has it.
const FOREIGN: &str = "system_distributed";

async fn the_tables_are_printed_made_once_and_checked() {
    let folder = tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("try.toml"));
    let keyspace = format!("buho_test_exits_{}", std::process::id());
    let settings = |keyspace: &str| {
        let shared = Store::current().settings(&data);
        let mine = format!("cql.keyspace = \"{keyspace}\"");
        let lines = shared.lines().map(|line| {
            if line.starts_with("cql.keyspace") {
                &mine
            } else {
                line
            }
        });
        fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
    };
    let buho = async |words: &[&str]| {
        run(buho(
            &[words, &["--config", config.to_str().unwrap()]].concat(),
        ))
        .await
    };
    settings(&keyspace);
    let (code, printed, _) = buho(&["schema", "print"]).await;
    assert_eq!(code, Some(0));
    let made = format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} ");
    assert!(printed.starts_with(&made), "{printed}");
    assert!(printed.contains("CREATE TABLE messages ("), "{printed}");
    let (code, _, said) = buho(&["schema", "check"]).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("buho schema apply"), "{said}");
    let (code, told, said) = buho(&["schema", "apply"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(told.contains("was applied"), "{told}");
    let (code, told, _) = buho(&["schema", "apply", "--json"]).await;
    assert_eq!(code, Some(0));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told, json!({"keyspace": keyspace, "changed": false}));
    let (code, told, _) = buho(&["schema", "check"]).await;
    assert_eq!(code, Some(0));
    assert!(told.contains("is there"), "{told}");

    on_servers(&format!(
        "UPDATE {keyspace}.schema_state SET version = 99 WHERE id = 0"
    ))
    .await;
    for words in [&["schema", "check"][..], &["schema", "apply"], &["serve"]] {
        let (code, _, said) = buho(words).await;
        assert_eq!(code, Some(3), "{words:?}: {said}");
        assert!(said.contains("start the newer version again"), "{said}");
    }
    on_servers(&format!("DROP KEYSPACE {keyspace}")).await;
    settings(FOREIGN);
    for words in [&["schema", "check"][..], &["schema", "apply"], &["serve"]] {
        let (code, _, said) = buho(words).await;
        assert_eq!(code, Some(3), "{words:?}: {said}");
        assert!(said.contains("set cql.keyspace to another one"), "{said}");
    }
}

pub(crate) const CASES: &[Case] = cases![
    wrong_arguments_are_2.embedded(),
    an_unknown_word_in_the_configuration_is_2_and_names_the_nearest.embedded(),
    the_environment_is_taken_and_an_argument_wins,
    the_tables_are_printed_made_once_and_checked.cql(),
    a_store_in_use_is_3_and_the_first_goes_on.embedded(),
    a_folder_that_is_a_file_is_3.embedded(),
    an_address_in_use_is_1.embedded(),
    one_that_is_overtaken_while_it_stands_still_is_1
        .threaded()
        .cql(),
    a_socket_path_too_long_is_2_and_names_the_option.embedded(),
    the_operators_socket_is_for_its_owner_alone_and_a_stale_one_blocks_nothing,
];
