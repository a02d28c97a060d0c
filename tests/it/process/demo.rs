//! `buho demo`: the first minute.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use super::binary::{Binary, buho};
use crate::house::{Base, Case, Client, Device, cases, text};

async fn demo(data: &Path) -> (Binary, Value) {
    let at = data.display().to_string();
    let command = buho(&["demo", "--data", &at, "--listen", "127.0.0.1:0"]);
    let gateway = Binary::start(command, data).await;
    let file = data.join("demo.json");
    let kept = crate::house::until_some("demo.json is there", async || fs::read(&file).ok()).await;
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    (gateway, serde_json::from_slice(&kept).unwrap())
}

fn client(gateway: &Binary, kept: &Value) -> Client {
    let base = Base::default();
    base.set(gateway.url());
    Client::new(
        &base,
        kept["tenant"].as_str().unwrap(),
        "",
        kept["key"].as_str().unwrap(),
    )
}

async fn the_demo_makes_two_linked_devices_and_the_same_ones_again() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let (mut gateway, kept) = demo(&data).await;
    assert_eq!(kept["url"], gateway.url());
    assert_eq!(kept["devices"].as_array().unwrap().len(), 2);
    let house = client(&gateway, &kept);
    let device = |place: usize| Device {
        client: house.clone(),
        id: kept["devices"][place]["id"].as_str().unwrap().into(),
        jid: String::new(),
    };
    let (one, two) = (device(0), device(1));
    one.until_state("connected").await;
    two.until_state("connected").await;
    let body = json!({"to": kept["devices"][1]["number"], "content": text("hola")});
    let sent = one.takes("/messages", body).await;
    one.until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    house
        .until_entry("oldest", "message.received", |it| it["device"] == two.id)
        .await;
    assert!(gateway.terminate().await.success());
    let (mut gateway, again) = demo(&data).await;
    for member in ["tenant", "key", "devices"] {
        assert_eq!(again[member], kept[member]);
    }
    let house = client(&gateway, &again);
    assert_eq!(
        house.get("/v1/devices").await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    gateway.kill().await;
}

pub(crate) const CASES: &[Case] = cases![the_demo_makes_two_linked_devices_and_the_same_ones_again];
