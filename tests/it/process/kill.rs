//! SIGKILL at any moment: nothing acknowledged is lost, nothing is said twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep, timeout};

use super::auditor::{Auditor, Sender};
use super::binary::Binary;
use crate::house::{
    Case, Client, Device, Dice, PATIENCE, Pauses, Store, cases, option, say, seed, until, walk,
};

const SENDERS: usize = 8;
const KEY_KILLS: usize = 6;
/// So many keys are never made before the makers shall end.
const ENOUGH: usize = 1_000_000;

/// `BUHO_TEST_KILLS`, or so many that a run takes a minute or two, and the acknowledgements from one to the next. Whoever
/// comes after a kill on CQL servers waits for the end of a lease each time.
fn kills() -> (usize, usize) {
    let (usual, share) = match Store::current() {
        Store::Embedded => (25, 800),
        Store::Cql => (10, 400),
    };
    let wanted = option("BUHO_TEST_KILLS").map(|it| it.parse().expect("a number of kills"));
    (wanted.unwrap_or(usual), share)
}

async fn kills_lose_nothing_that_was_acknowledged() {
    let (kills, share) = kills();
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let seed = seed("kills_lose_nothing_that_was_acknowledged");
    let mut dice = Dice::new(seed);
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    let devices = vec![client.device("one").await, client.device("two").await];
    let auditor = Arc::new(Auditor::default());
    let mut senders = JoinSet::new();
    for index in 0..SENDERS {
        let sender = Sender {
            name: format!("s{index}"),
            devices: devices.clone(),
            auditor: Arc::clone(&auditor),
            dice: Dice::new(dice.bits()),
            batch_max: 100,
            bytes_max: 200,
            pause: Duration::ZERO,
        };
        senders.spawn(sender.run());
    }
    for round in 1..=kills {
        auditor
            .until_count(round * share - dice.below(share / 2))
            .await;
        sleep(Duration::from_millis(
            u64::try_from(dice.below(25)).unwrap(),
        ))
        .await;
        gateway.kill().await;
        gateway = Binary::serve(&data).await;
        gateway.lead(&client);
    }
    auditor.until_count(kills * share).await;
    auditor.end();
    // A sender that found something wrong has panicked: that fails the test here.
    senders.join_all().await;
    // A slow machine may have cut calls short: they were asked again under their keys, and count like all others.
    say(&format!(
        "{kills} kills, {} acknowledged, {} calls turned away, {} with an unknown outcome",
        auditor.count(),
        auditor.refused(),
        auditor.unknown(),
    ));
    until_settled(&client, &devices).await;
    auditor.audit(&client, &devices).await;
    assert!(gateway.terminate().await.success());
    let mut gateway = Binary::serve(&data).await;
    gateway.lead(&client);
    auditor.audit(&client, &devices).await;
    gateway.kill().await;
}

async fn a_key_made_under_an_idempotency_key_is_made_once_over_kills() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let seed = seed("a_key_made_under_an_idempotency_key_is_made_once_over_kills");
    let mut dice = Dice::new(seed);
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    let told = AtomicUsize::new(0);
    let makers = join_all((0..SENDERS).map(|index| make_keys(&client, index, &told)));
    let kills = async {
        for round in 1..=KEY_KILLS {
            let wanted = told.load(Ordering::SeqCst) + round;
            until("more keys are made", async || {
                wanted <= told.load(Ordering::SeqCst)
            })
            .await;
            let pause = u64::try_from(dice.below(25)).unwrap();
            sleep(Duration::from_millis(pause)).await;
            gateway.kill().await;
            gateway = Binary::serve(&data).await;
            gateway.lead(&client);
        }
        told.fetch_add(ENOUGH, Ordering::SeqCst);
    };
    let (made, ()) = tokio::join!(makers, kills);
    let mut made = made.concat();
    let keys = walk(&client, "/v1/keys").await;
    let name = |key: &Value| key["name"].as_str().unwrap().to_owned();
    let mut names: Vec<_> = keys.iter().map(name).filter(|it| it != "test").collect();
    names.sort();
    made.sort();
    assert_eq!(names, made, "each once");
    assert!(gateway.terminate().await.success());
}

/// Makes one key after the other, each until it is acknowledged, for as long as not enough was told; gives their names.
async fn make_keys(client: &Client, index: usize, told: &AtomicUsize) -> Vec<String> {
    let mut made = Vec::new();
    while told.load(Ordering::SeqCst) < ENOUGH {
        let name = format!("k{index}-{}", made.len());
        let body = json!({"name": name, "scopes": ["devices:read"]});
        let is_made = async || {
            let call = client.call("POST", "/v1/keys").once(&name).json(&body);
            // A kill breaks the connection, or meets a gateway that can't tell.
            call.attempt().await.is_ok_and(|it| {
                assert!([201, 503, 504].contains(&it.status), "{}", it.text());
                it.status == 201
            })
        };
        // A call may meet one kill after the other, with a whole start in between.
        let tried = async {
            let mut pauses = Pauses::default();
            while !is_made().await {
                pauses.next().await;
            }
        };
        timeout(PATIENCE * 10, tried)
            .await
            .expect("the key is made");
        told.fetch_add(1, Ordering::SeqCst);
        made.push(name);
    }
    made
}

/// Waits until the network has everything, as long as there is progress.
pub(super) async fn until_settled(client: &Client, devices: &[Device]) {
    let mut head = String::new();
    let mut standing = 0;
    while standing < 60 {
        let mut waiting = 0;
        for device in devices {
            for status in ["queued", "sent"] {
                let path = device.path(&format!("/messages?direction=out&status={status}&limit=1"));
                let page = client.read(&path).await;
                waiting += usize::from(page["items"] != json!([]));
            }
        }
        if waiting == 0 {
            return;
        }
        let now = client.head().await;
        standing = if now == head { standing + 1 } else { 0 };
        head = now;
        sleep(Duration::from_secs(1)).await;
    }
    panic!("messages wait and nothing happens any more");
}

pub(crate) const CASES: &[Case] = cases![
    kills_lose_nothing_that_was_acknowledged.threaded(),
    a_key_made_under_an_idempotency_key_is_made_once_over_kills.threaded(),
];
