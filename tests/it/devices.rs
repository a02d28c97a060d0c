//! `/v1/devices`: making, reading, changing, removing.

use std::collections::HashMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::house::{Case, DISK_FULL, Device, House, cases, person, phone, read_log, text, until};

async fn a_new_device_is_created_with_its_place_and_its_event() {
    let house = House::open().await;
    let wish = json!({"name": "Front desk", "connector": "simulator", "metadata": {"shop": "7", "ñ": "á"}});
    let answer = house.post("/v1/devices", wish).await;
    let place = answer.header("location").expect("Location").to_owned();
    let made = answer.expect(201);
    assert_eq!(
        place,
        format!("/v1/devices/{}", made["id"].as_str().unwrap())
    );
    assert_eq!(made["name"], "Front desk");
    assert_eq!(made["connector"]["type"], "simulator");
    assert_eq!(made["state"], "created");
    assert_eq!(made["metadata"], json!({"shop": "7", "ñ": "á"}));
    assert_eq!(house.get(&place).await.expect(200), made);
    let entry = house
        .until_entry("oldest", "device.created", |it| it["device"] == made["id"])
        .await;
    assert_eq!(entry["data"], made);
    house.close().await;
}

async fn the_simulator_is_the_default_and_an_object_names_it_too() {
    let house = House::open().await;
    let plain = house
        .post("/v1/devices", json!({"name": "a"}))
        .await
        .expect(201);
    assert_eq!(plain["connector"]["type"], "simulator");
    let object = json!({"name": "b", "connector": {"type": "simulator"}});
    assert_eq!(
        house.post("/v1/devices", object).await.expect(201)["connector"]["type"],
        "simulator"
    );
    let unknown = house
        .post("/v1/devices", json!({"name": "c", "connector": "pigeon"}))
        .await;
    assert!(unknown.pointers()[0].starts_with("/connector"));
    house.close().await;
}

async fn what_breaks_a_rule_makes_no_device() {
    let house = House::open().await;
    let many: serde_json::Map<_, _> = (0..51)
        .map(|index| (format!("k{index}"), json!("v")))
        .collect();
    for (body, pointer) in [
        (json!({}), "/name"),
        (json!({"name": 7}), "/name"),
        (json!({"name": "x", "tenant": house.tenant_id()}), "/tenant"),
        (json!({"name": "x", "number": "12"}), "/number"),
        (json!({"name": "x", "metadata": many}), "/metadata"),
        (
            json!({"name": "x", "metadata": {"k": "v".repeat(501)}}),
            "/metadata/k",
        ),
    ] {
        let pointers = house.post("/v1/devices", body.clone()).await.pointers();
        assert!(
            pointers.iter().any(|it| it == pointer),
            "{body}: {pointers:?}"
        );
    }
    let long = json!({"name": "x", "metadata": {"k".repeat(65): "v"}});
    assert!(house.post("/v1/devices", long).await.pointers()[0].starts_with("/metadata"));
    let full = json!({"name": "x", "metadata": {"k".repeat(64): "v".repeat(500)}});
    house.post("/v1/devices", full).await.expect(201);
    assert_eq!(
        house.get("/v1/devices").await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    house.close().await;
}

async fn a_number_is_taken_once_in_a_tenant() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let wish = json!({"name": "a", "number": format!("+{}", phone(1))});
    let made = house.post("/v1/devices", wish.clone()).await.expect(201);
    assert!(
        made["number"].as_str().unwrap().ends_with(&phone(1)),
        "{made}"
    );
    house
        .post("/v1/devices", wish.clone())
        .await
        .problem(409, "number_taken");
    neighbour.post("/v1/devices", wish).await.expect(201);
    house
        .delete(&format!("/v1/devices/{}", made["id"].as_str().unwrap()))
        .await
        .expect(204);
    let again = json!({"name": "b", "number": phone(1)});
    house.post("/v1/devices", again).await.expect(201);
    house.close().await;
}

async fn a_device_with_a_number_has_that_address() {
    let house = House::open().await;
    let made = house
        .post("/v1/devices", json!({"name": "a", "number": phone(5)}))
        .await
        .expect(201);
    let path = format!("/v1/devices/{}", made["id"].as_str().unwrap());
    house
        .post(&format!("{path}/connect"), json!({}))
        .await
        .expect(202);
    house
        .post(&format!("{path}/simulations/scan"), json!({}))
        .await
        .success();
    let entry = house
        .until_entry("oldest", "device.state", |it| {
            it["data"]["state"] == "connected"
        })
        .await;
    assert_eq!(entry["device"], made["id"]);
    assert_eq!(house.get(&path).await.expect(200)["jid"], person(5));
    house.close().await;
}

async fn a_patch_merges_and_an_empty_one_changes_nothing() {
    let house = House::open().await;
    let wish = json!({"name": "a", "metadata": {"x": "1", "y": "2"}});
    let made = house.post("/v1/devices", wish).await.expect(201);
    let path = format!("/v1/devices/{}", made["id"].as_str().unwrap());
    let changed = house
        .patch(
            &path,
            json!({"name": "b", "metadata": {"x": null, "z": "3"}}),
        )
        .await
        .expect(200);
    assert_eq!(changed["name"], "b");
    assert_eq!(changed["metadata"], json!({"y": "2", "z": "3"}));
    let entry = house
        .until_entry("oldest", "device.updated", |it| it["device"] == made["id"])
        .await;
    assert_eq!(entry["data"], changed);
    assert_eq!(house.patch(&path, json!({})).await.expect(200), changed);
    assert_eq!(
        house
            .patch(&path, json!({"state": "connected"}))
            .await
            .pointers(),
        ["/state"]
    );
    assert_eq!(house.get(&path).await.expect(200), changed);
    house.close().await;
}

async fn the_list_filters_by_state_connector_and_words() {
    let house = House::open().await;
    let linked = house.device("Alpha store").await;
    let fresh = house.fresh_device("Beta store").await;
    for (query, expected) in [
        ("state=connected", vec![&linked.id]),
        ("state=created", vec![&fresh.id]),
        ("connector=simulator", vec![&fresh.id, &linked.id]),
        ("q=alpha", vec![&linked.id]),
        ("q=store&state=created", vec![&fresh.id]),
        ("q=gamma", vec![]),
    ] {
        let page = house.get(&format!("/v1/devices?{query}")).await.expect(200);
        let ids: Vec<_> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["id"].as_str().unwrap())
            .collect();
        assert_eq!(ids, expected, "{query}");
    }
    house.close().await;
}

async fn a_deleted_device_is_gone_with_its_history_and_its_queue_fails() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "sent").await;
    device.post("/disconnect", json!({})).await.expect(200);
    let queued = device.send(&phone(2), "never sent").await;
    let answer = house.delete(&device.path("")).await;
    assert!(answer.bytes.is_empty());
    answer.expect(204);
    for rest in ["", "/messages", "/session", "/chats"] {
        device.get(rest).await.problem(404, "not_found");
    }
    house
        .delete(&device.path(""))
        .await
        .problem(404, "not_found");
    assert_eq!(
        house.get("/v1/devices").await.expect(200)["items"],
        json!([])
    );
    house
        .until_entry("oldest", "device.deleted", |it| it["device"] == device.id)
        .await;
    let failed = house
        .until_entry("oldest", "message.status", |it| {
            it["data"]["id"] == queued["id"]
        })
        .await;
    assert_eq!(failed["data"]["status"], "failed");
    assert_eq!(failed["data"]["error"]["code"], "device_deleted");
    house.close().await;
}

async fn devices_are_there_again_after_a_restart() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let fresh = house.fresh_device("two").await;
    let before = fresh.get("").await.expect(200);
    let log = read_log(&house, "oldest").await;
    house.restart().await;
    assert_eq!(fresh.get("").await.expect(200), before);
    device.until_state("connected").await;
    let after = read_log(&house, "oldest").await;
    assert_eq!(
        after[..log.len()],
        log[..],
        "the log's past does not change"
    );
    house.close().await;
}

async fn what_a_full_disk_refuses_does_not_happen_later() {
    let mut house = House::open().await;
    let device = house.fresh_device("before").await;
    let head = house.head().await;
    house.restart_with(DISK_FULL).await;
    let name = json!({"name": "after"});
    let renamed = house.patch(&device.path(""), name).await;
    renamed.problem(507, "storage_full");
    let connected = device.post("/connect", json!({})).await;
    connected.problem(507, "storage_full");
    let deleted = house.delete(&device.path("")).await;
    deleted.problem(507, "storage_full");
    let made = json!({"name": "two", "connector": "simulator"});
    let made = house.post("/v1/devices", made).await;
    made.problem(507, "storage_full");
    assert_eq!(device.get("").await.expect(200)["name"], "before");
    assert_eq!(device.state().await, "created");
    house.restart().await;
    assert_eq!(device.get("").await.expect(200)["name"], "before");
    assert_eq!(device.state().await, "created");
    assert_eq!(read_log(&house, &head).await, Vec::<Value>::new());
    house.close().await;
}

async fn nothing_is_told_of_a_device_behind_its_end_and_nothing_taken_is_left_open() {
    let house = House::open().await;
    for round in 0..5 {
        let device = house.device("one").await;
        let head = house.head().await;
        let send = async |sender: usize| {
            let mut taken = Vec::new();
            for number in 0.. {
                let body = json!({"to": phone(sender), "content": text(&number.to_string())});
                let answer = device.post("/messages", body).await;
                if answer.status != 202 {
                    answer.problem(404, "not_found");
                    break;
                }
                taken.push(answer.expect(202)["id"].as_str().unwrap().to_owned());
            }
            taken
        };
        let removal = async {
            until("there is traffic", async || {
                10 * (round + 1) < read_log(&house, &head).await.len()
            })
            .await;
            until_gone(&device).await;
        };
        let (taken, ()) = tokio::join!(join_all((0..4).map(send)), removal);
        let log = read_log(&house, &head).await;
        let last = log.last().unwrap();
        assert_eq!(last["type"], "device.deleted", "{last}");
        for id in taken.concat() {
            let states: Vec<&str> = log
                .iter()
                .filter(|it| it["data"]["id"] == id)
                .filter_map(|it| it["data"]["status"].as_str())
                .collect();
            assert!(
                states.contains(&"sent") || states.contains(&"failed"),
                "{id}: {states:?}"
            );
        }
    }
    house.close().await;
}

async fn patches_of_different_pairs_at_once_are_all_kept() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let path = device.path("");
    let patch = async |index: usize| {
        let pair = json!({"metadata": {format!("k{index}"): "v"}});
        house.patch(&path, pair).await.expect(200)
    };
    join_all((0..20).map(patch)).await;
    let shown = device.get("").await.expect(200);
    assert_eq!(shown["metadata"].as_object().unwrap().len(), 20, "{shown}");
    let more: Value = (20..51).map(|it| (format!("k{it}"), json!("v"))).collect();
    let refused = house.patch(&path, json!({"metadata": more})).await;
    assert_eq!(refused.pointers(), ["/metadata"], "51 pairs altogether");
    let erased = house.patch(&path, json!({"metadata": null})).await;
    assert_eq!(erased.expect(200)["metadata"], json!({}));
    let refused = house.patch(&path, json!({"name": null})).await;
    assert_eq!(refused.pointers(), ["/name"]);
    house.close().await;
}

/// Deletes a device that has much to do. A slow machine may not be through with that in time: whoever asks again hears of
/// the end.
async fn until_gone(device: &Device) {
    let delete = async || device.client.delete(&device.path("")).await;
    let mut gone = delete().await;
    for _ in 0..10 {
        if gone.status != 504 {
            break;
        }
        gone = delete().await;
        if gone.status == 404 {
            return;
        }
    }
    gone.expect(204);
}

/// Cold chats read the store first, and a batch waits for places: both are slow to come to the writer.
async fn a_send_that_was_taken_while_its_device_goes_ends_as_failed() {
    let house = House::open().await;
    for _ in 0..5 {
        let device = house.fresh_device("one").await;
        let head = house.head().await;
        let send = async |sender: usize| {
            let mut taken = Vec::new();
            for round in 0.. {
                let item = |number: usize| {
                    // Half of them to one chat, so that they wait; the rest each to a chat of its own.
                    let cold = 1 + sender * 1_000 + round * 25 + number;
                    let chat = if number < 25 { sender } else { cold };
                    json!({"to": phone(chat), "content": text("x")})
                };
                let messages: Vec<_> = (0..50).map(item).collect();
                let body = json!({"messages": messages});
                let answer = device.post("/messages/batch", body).await;
                if answer.status == 404 {
                    break;
                }
                let answer = answer.expect(202);
                for item in answer["items"].as_array().unwrap() {
                    match item["ok"]["id"].as_str() {
                        Some(id) => taken.push(id.to_owned()),
                        None => assert_eq!(item["error"]["code"], "not_found", "{item}"),
                    }
                }
            }
            taken
        };
        let removal = async {
            until("there is traffic", async || {
                20 < read_log(&house, &head).await.len()
            })
            .await;
            until_gone(&device).await;
        };
        let (taken, ()) = tokio::join!(join_all((0..4).map(send)), removal);
        let log = read_log(&house, &head).await;
        assert_eq!(log.last().unwrap()["type"], "device.deleted");
        let mut told: HashMap<&str, Vec<_>> = HashMap::new();
        for entry in &log {
            let data = &entry["data"];
            let kind = (entry["type"].as_str(), data["error"]["code"].as_str());
            let id = data["id"].as_str().unwrap_or_default();
            told.entry(id).or_default().push(kind);
        }
        for id in taken.concat() {
            let failed = (Some("message.status"), Some("device_deleted"));
            assert_eq!(
                told.get(&*id).map(Vec::as_slice),
                Some(&[(Some("message.created"), None), failed][..]),
                "{id}"
            );
        }
    }
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_new_device_is_created_with_its_place_and_its_event,
    the_simulator_is_the_default_and_an_object_names_it_too,
    what_breaks_a_rule_makes_no_device,
    a_number_is_taken_once_in_a_tenant,
    a_device_with_a_number_has_that_address,
    a_patch_merges_and_an_empty_one_changes_nothing,
    the_list_filters_by_state_connector_and_words,
    a_deleted_device_is_gone_with_its_history_and_its_queue_fails,
    devices_are_there_again_after_a_restart,
    what_a_full_disk_refuses_does_not_happen_later.embedded(),
    a_send_that_was_taken_while_its_device_goes_ends_as_failed.threaded(),
    nothing_is_told_of_a_device_behind_its_end_and_nothing_taken_is_left_open.threaded(),
    patches_of_different_pairs_at_once_are_all_kept,
];
