//! A panic in one actor: it comes back, nothing acknowledged is lost, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::house::{
    Answer, Case, Client, Device, House, Moment, WANTED, cases, panic_in, person, phone, read_log,
    text, until, until_some,
};

/// More often than any test can bear.
const ALWAYS: u32 = u32::MAX;

/// Somebody who sends to one chat all the time and must never be refused.
struct Neighbour {
    client: Client,
    stop: Arc<AtomicBool>,
    sending: JoinSet<Vec<String>>,
}

impl Neighbour {
    fn of(device: &Device, chat: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, ended) = (device.clone(), Arc::clone(&stop));
        let mut sending = JoinSet::new();
        sending.spawn(async move {
            let mut taken = Vec::new();
            while !ended.load(Ordering::Acquire) || taken.is_empty() {
                let sent = sender.send(&phone(chat), "still here").await;
                taken.push(id_of(&sent));
            }
            taken
        });
        Self {
            client: device.client.clone(),
            stop,
            sending,
        }
    }

    /// Everything that was acknowledged is in its log, which has no hole.
    async fn had_peace(mut self) {
        self.stop.store(true, Ordering::Release);
        let taken = self
            .sending
            .join_next()
            .await
            .unwrap()
            .expect("no send was refused");
        assert_all_kept(&self.client, &taken).await;
    }
}

fn id_of(sent: &Value) -> String {
    sent["id"].as_str().expect("a message's id").into()
}

async fn assert_all_kept(client: &Client, taken: &[String]) {
    let log = read_log(client, "oldest").await;
    let seqs: Vec<u64> = log.iter().map(|it| it["seq"].as_u64().unwrap()).collect();
    let follow = |pair: &[u64]| matches!(pair, [before, after] if before + 1 == *after);
    assert!(seqs.windows(2).all(follow), "a hole in the log: {seqs:?}");
    for id in taken {
        let told = log
            .iter()
            .filter(|it| it["type"] == "message.created" && it["data"]["id"] == id.as_str());
        assert_eq!(told.count(), 1, "{id} was acknowledged");
    }
}

/// Asks again until it is taken, as a careful client does; while an actor is away it may only be told to come again.
async fn until_taken(what: &str, mut ask: impl AsyncFnMut() -> Answer) -> Value {
    until_some(what, async || {
        let answer = ask().await;
        if answer.is_success() {
            return Some(answer.body);
        }
        assert!(matches!(answer.status, 503 | 504), "{what}: {answer:?}");
        None
    })
    .await
}

async fn send_until_taken(device: &Device, chat: usize, key: &str) -> String {
    let body = json!({"to": phone(chat), "content": text(key)});
    let sent = until_taken(key, async || {
        let call = device.client.call("POST", &device.path("/messages"));
        call.once(key).json(&body).send().await
    })
    .await;
    id_of(&sent)
}

/// What the operator sees of one actor below the node; `Null` where it is not there.
async fn seen(house: &House, actor: &str, name: &str) -> Value {
    fn find(node: &Value, actor: &str, name: &str) -> Option<Value> {
        if node["actor"] == actor && node["name"] == name {
            return Some(node.clone());
        }
        let children = node["children"].as_array()?;
        children.iter().find_map(|it| find(it, actor, name))
    }
    let answer = house
        .operator()
        .ask(&json!({"command": "supervision"}))
        .await;
    find(&answer["tree"], actor, name).unwrap_or_default()
}

/// How often chats of a device were started again, those that were; their names are not shown whole.
async fn chat_restarts(house: &House, device: &Device) -> Vec<u64> {
    let seen = seen(house, "device", &device.id).await;
    let chats = seen["children"].as_array().expect("a device's chats");
    let restarts = chats.iter().map(|it| it["vitals"]["restarts"].as_u64());
    restarts.map(Option::unwrap).filter(|it| 0 < *it).collect()
}

fn is_restarted(vitals: &Value) -> bool {
    let told = vitals["last_failure"].as_str().unwrap_or_default();
    vitals["restarts"] == 1 && told.contains(WANTED)
}

async fn a_panic_in_a_chat_hurts_no_other() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut taken = vec![send_until_taken(&device, 1, "before").await];
    let mut listener = house.socket().await;
    listener
        .subscribe(
            json!({"types": ["message.created"], "chats": [person(1)], "devices": [device.id]}),
            "now",
        )
        .await;
    let neighbours = [
        Neighbour::of(&device, 2),
        Neighbour::of(&house.device("two").await, 1),
        Neighbour::of(&house.tenant().await.device("other").await, 1),
    ];
    panic_in(
        format!("chat {} {}", device.id, person(1)),
        Moment::Message,
        1,
    );
    taken.push(send_until_taken(&device, 1, "after").await);
    listener
        .until_frame("the message after the panic", |it| {
            it["event"]["data"]["id"] == taken[1].as_str()
        })
        .await;
    assert_eq!(chat_restarts(&house, &device).await, [1]);
    let told = seen(&house, "device", &device.id).await["vitals"].clone();
    assert!(told["last_failure"].to_string().contains(WANTED), "{told}");
    assert_eq!(
        (&told["restarts"], &told["children_failed"]),
        (&json!(0), &json!(1))
    );
    for neighbour in neighbours {
        neighbour.had_peace().await;
    }
    assert_all_kept(&house, &taken).await;
    let words = device.history(&person(1)).await;
    assert_eq!(words.len(), 2, "one message for each key: {words:?}");
    listener.close().await;
    house.close().await;
}

async fn a_panic_in_a_device_hurts_no_other() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut taken = vec![send_until_taken(&device, 1, "before").await];
    let mut listener = house.socket().await;
    listener
        .subscribe(
            json!({"types": ["message.created"], "chats": [person(1)], "devices": [device.id]}),
            "now",
        )
        .await;
    let neighbours = [
        Neighbour::of(&house.device("two").await, 1),
        Neighbour::of(&house.tenant().await.device("other").await, 1),
    ];
    panic_in(format!("device {}", device.id), Moment::Message, 1);
    until_taken("a patch", async || {
        let path = device.path("");
        device.client.patch(&path, json!({"name": "renamed"})).await
    })
    .await;
    taken.push(send_until_taken(&device, 1, "after").await);
    device.until_status(&taken[1], "delivered").await;
    listener
        .until_frame("the message after the panic", |it| {
            it["event"]["data"]["id"] == taken[1].as_str()
        })
        .await;
    let vitals = seen(&house, "device", &device.id).await["vitals"].clone();
    assert!(is_restarted(&vitals), "{vitals}");
    for neighbour in neighbours {
        neighbour.had_peace().await;
    }
    assert_all_kept(&house, &taken).await;
    listener.close().await;
    house.close().await;
}

async fn a_panic_in_a_tenant_hurts_no_other() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut taken = vec![send_until_taken(&device, 1, "before").await];
    let mut listener = house.socket().await;
    listener
        .subscribe(
            json!({"types": ["message.created"], "chats": [person(1)], "devices": [device.id]}),
            "now",
        )
        .await;
    let neighbour = Neighbour::of(&house.tenant().await.device("other").await, 1);
    panic_in(format!("tenant {}", house.tenant_id()), Moment::Message, 1);
    let wish = json!({"name": "two", "connector": "simulator"});
    until_taken("a device", async || {
        let call = house.call("POST", "/v1/devices");
        call.once("two").json(&wish).send().await
    })
    .await;
    device.until_state("connected").await;
    taken.push(send_until_taken(&device, 1, "after").await);
    device.until_status(&taken[1], "delivered").await;
    listener
        .until_frame("the message after the panic", |it| {
            it["event"]["data"]["id"] == taken[1].as_str()
        })
        .await;
    let vitals = seen(&house, "tenant", house.tenant_id()).await["vitals"].clone();
    assert!(is_restarted(&vitals), "{vitals}");
    neighbour.had_peace().await;
    assert_all_kept(&house, &taken).await;
    listener.close().await;
    house.close().await;
}

/// The log's actor keeps the named consumers; what carries the events is not an actor. It also fails to start once.
async fn a_panic_in_a_log_hurts_nobody() {
    let house = House::open().await;
    let device = house.device("one").await;
    let neighbour = Neighbour::of(&device, 2);
    let mut listener = house.socket().await;
    listener
        .subscribe(
            json!({"types": ["message.created"], "chats": [person(1)]}),
            "now",
        )
        .await;
    let mut named = house.socket().await;
    let wish = json!({"op": "subscribe", "filter": {}, "after": "now", "ack": "client", "consumer": "crm"});
    assert_eq!(named.ask(wish).await["op"], "ready");
    panic_in(format!("log {}", house.tenant_id()), Moment::Message, 1);
    panic_in(format!("log {}", house.tenant_id()), Moment::Start, 1);
    until_taken("the consumers", async || house.get("/v1/consumers").await).await;
    let tenant = seen(&house, "tenant", house.tenant_id()).await;
    assert_eq!(tenant["log"]["restarts"], 2, "{tenant}");
    assert_eq!(tenant["vitals"]["restarts"], 0, "{tenant}");
    // Who holds a name is not known any more: he comes back at once and takes it again.
    assert_eq!(named.until_close().await, 4000);
    device.send(&phone(1), "after").await;
    listener.until_event("message.created").await;
    neighbour.had_peace().await;
    listener.close().await;
    house.close().await;
}

/// Five restarts within ten seconds, and one too many; on a machine that is slow they may be spread wider, and more.
fn are_enough(restarts: Option<u64>, begun: Instant) -> bool {
    let is_quick = begun.elapsed() < Duration::from_secs(10);
    restarts.is_some_and(|it| it == 6 || 6 < it && !is_quick)
}

async fn a_chat_that_always_panics_rests_while_others_go_on() {
    let house = House::open().await;
    let device = house.device("one").await;
    let neighbour = Neighbour::of(&device, 2);
    panic_in(
        format!("chat {} {}", device.id, person(1)),
        Moment::Message,
        ALWAYS,
    );
    let body = json!({"to": phone(1), "content": text("x")});
    let begun = Instant::now();
    until("the chat rests", async || {
        let answer = device.post("/messages", body.clone()).await;
        assert!(matches!(answer.status, 503 | 504), "{answer:?}");
        answer.status == 503
    })
    .await;
    let restarts = chat_restarts(&house, &device).await;
    let rests = restarts.len() == 1 && are_enough(restarts.first().copied(), begun);
    assert!(rests, "{restarts:?}");
    for _ in 0..10 {
        let answer = device.post("/messages", body.clone()).await;
        answer.problem(503, "unavailable");
    }
    // A refused call is no crash.
    assert_eq!(chat_restarts(&house, &device).await, restarts);
    neighbour.had_peace().await;
    house.close().await;
}

async fn what_always_panics_at_its_start_rests_while_others_go_on() {
    let house = House::open().await;
    let other = house.tenant().await;
    let neighbours = [
        Neighbour::of(&house.device("two").await, 1),
        Neighbour::of(&other.device("other").await, 1),
    ];
    let device = house.device("one").await;
    let broken = house.tenant().await;
    broken.device("three").await;
    let kinds = [
        ("device", device.id.as_str()),
        ("tenant", broken.tenant_id()),
    ];
    let begun = Instant::now();
    for (kind, id) in kinds {
        panic_in(format!("{kind} {id}"), Moment::Start, ALWAYS);
        panic_in(format!("{kind} {id}"), Moment::Message, 1);
    }
    let wish = json!({"name": "four", "connector": "simulator"});
    broken
        .post("/v1/devices", wish)
        .await
        .problem(504, "outcome_unknown");
    let path = device.path("");
    let patched = device.client.patch(&path, json!({"name": "new"})).await;
    assert!(matches!(patched.status, 503 | 504), "{patched:?}");
    for (kind, id) in kinds {
        until(&format!("the {kind} rests"), async || {
            let vitals = seen(&house, kind, id).await["vitals"].clone();
            vitals["resting_until"].is_string() && are_enough(vitals["restarts"].as_u64(), begun)
        })
        .await;
    }
    broken.get("/v1/devices").await.problem(503, "unavailable");
    for neighbour in neighbours {
        neighbour.had_peace().await;
    }
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_panic_in_a_chat_hurts_no_other.threaded(),
    a_panic_in_a_device_hurts_no_other.threaded(),
    a_panic_in_a_tenant_hurts_no_other.threaded(),
    a_panic_in_a_log_hurts_nobody.threaded(),
    a_chat_that_always_panics_rests_while_others_go_on.threaded(),
    what_always_panics_at_its_start_rests_while_others_go_on.threaded(),
];
