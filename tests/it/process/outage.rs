//! Trouble with the CQL servers: killed, frozen, slow, or one of three gone. Calls end by themselves, nothing that was
//! acknowledged is lost or doubled, readers go on from where they were, and nobody has to help.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::auditor::{Auditor, Passerby, Sender};
use super::binary::Binary;
use super::kill::until_settled;
use crate::house::{
    Case, Client, Cluster, Device, Dice, Lease, Proxy, cases, cql_settings, cursor_of, insist,
    phone, read_log, say, seed, text, until, walk,
};

const SENDERS: usize = 16;
/// They leave the servers, which share two processors with the rest of the run, room to answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Those who never repeat a call, on a tenant of their own.
const PASSERSBY: usize = 4;
/// Acknowledgements that show that all is well.
const WELL: usize = 300;
/// How soon a gateway accepts again once its servers answer.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// No call waits longer: ten seconds are its own deadline, and some more are for a busy machine. Trouble lasts longer.
const CALL_MAX: Duration = Duration::from_secs(20);
/// How soon all are turned away.
const NOTICED_MAX: Duration = Duration::from_secs(30);
/// What the process may grow by while it cannot store anything.
const GROWTH_MAX: usize = 32 * 1_024 * 1_024;

/// How long a server is frozen that others wait for.
const FROZEN: Duration = Duration::from_secs(8);
/// How long there is no server at all, at least: memory that grows with the calls would show, and so would a call that
/// waits for its return.
const GONE: Duration = Duration::from_secs(25);
/// How long one of three servers stands still, at least: the other two take some eighteen seconds to notice by themselves.
const ONE_FROZEN: Duration = Duration::from_secs(24);
/// How long no message may be taken while one of three servers is in trouble. What was under way to it has to fail before it
/// is made again: two request times, or four seconds until a silent connection counts as broken. Three servers and the
/// rest of the run may share two processors.
const GAP_MAX: Duration = Duration::from_secs(14);
/// How long servers go by what they do with any table before they look at how its reads shall be made.
const TABLES_ARE_NEW: Duration = Duration::from_secs(12);

/// A gateway on servers that trouble will come over, with senders that never stop and a reader that follows them.
struct Scene {
    gateway: Binary,
    client: Client,
    devices: Vec<Device>,
    auditor: Arc<Auditor>,
    senders: JoinSet<()>,
    /// The tenant of those who never repeat a call, and their books.
    street: Client,
    corner: Device,
    passing: Arc<Auditor>,
    reader: JoinSet<Vec<Value>>,
    /// The head before the trouble.
    cursor: String,
    _folder: TempDir,
}

impl Scene {
    async fn open(name: &str, settings: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempdir().unwrap();
        let data = folder.path().join("data");
        let mut dice = Dice::new(seed(name));
        let gateway = Binary::serve_on(&data, &settings(&data)).await;
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
                batch_max: 8,
                bytes_max: 200,
                pause: PAUSE,
            };
            senders.spawn(sender.run());
        }
        let street = gateway.tenant().await;
        let corner = street.device("corner").await;
        let passing = Arc::new(Auditor::default());
        for index in 0..PASSERSBY {
            let passerby = Passerby {
                name: format!("p{index}"),
                device: corner.clone(),
                auditor: Arc::clone(&passing),
            };
            senders.spawn(passerby.run());
        }
        let mut reader = JoinSet::new();
        reader.spawn(follow(client.clone(), Arc::clone(&auditor)));
        auditor.until_count(WELL).await;
        passing.until_count(PASSERSBY).await;
        auditor.pace();
        Self {
            cursor: client.head().await,
            gateway,
            client,
            devices,
            auditor,
            senders,
            street,
            corner,
            passing,
            reader,
            _folder: folder,
        }
    }

    /// Waits for more acknowledgements.
    async fn goes_on(&self, count: usize) {
        self.auditor.until_count(self.auditor.count() + count).await;
    }

    /// Every sender is told that it has to come again, while nothing can be stored; for so long at least.
    async fn turns_away(&self, at_least: Duration) {
        let (begun, before) = (Instant::now(), self.gateway.memory());
        let (auditor, passing) = (&*self.auditor, &*self.passing);
        auditor.forget_told();
        passing.forget_told();
        let nobody = self.client.anonymous();
        // While it is not yet noticed, calls may be turned away because many wait.
        while auditor.told() + passing.told() < SENDERS + PASSERSBY
            || passing.dropped() == 0
            || nobody.get("/health/ready").await.status != 503
        {
            assert!(begun.elapsed() < NOTICED_MAX, "calls wait for the servers");
            sleep(Duration::from_millis(20)).await;
        }
        let noticed = begun.elapsed();
        sleep(at_least.saturating_sub(noticed)).await;
        nobody.get("/health/live").await.expect(200);
        let after = self.gateway.memory();
        assert!(after < before + GROWTH_MAX, "grew from {before} to {after}");
        say(&format!(
            "all turned away within {noticed:?}; {} and {} told so, {} and {} of an unknown outcome; memory {before} to {after} \
             within {:?}",
            auditor.refused(),
            passing.refused(),
            auditor.unknown(),
            passing.unknown(),
            begun.elapsed()
        ));
    }

    /// Something is the matter with the servers, and all goes on.
    async fn hardly_notices(&self, trouble: &str, during: impl Future<Output = ()>) {
        let (told, count) = (self.told(), self.auditor.count());
        self.auditor.pace();
        self.passing.pace();
        let nobody = self.client.anonymous();
        let ready = async || nobody.get("/health/ready").await.status == 200;
        let mut looks = (0, 0);
        let watch = async {
            loop {
                looks.0 += 1;
                looks.1 += usize::from(!ready().await);
                sleep(Duration::from_millis(200)).await;
            }
        };
        let trouble_passes = async {
            during.await;
            self.goes_on(WELL).await;
        };
        tokio::select! {
            () = trouble_passes => {}
            () = watch => {}
        }
        let (looks, not_ready) = looks;
        let (pace, passing) = (self.auditor.pace(), self.passing.pace());
        let (told, count) = (self.told() - told, self.auditor.count() - count);
        let longest_call = pace.longest_call.max(passing.longest_call);
        say(&format!(
            "{trouble}: {told} turned away, {count} taken, never {:?} and {:?} without one, no call longer than \
             {longest_call:?}, {not_ready} of {looks} times not ready",
            pace.longest_gap, passing.longest_gap
        ));
        for gap in [pace.longest_gap, passing.longest_gap] {
            assert!(gap < GAP_MAX, "{trouble}: {gap:?}");
        }
        assert!(longest_call < CALL_MAX, "{trouble}: {longest_call:?}");
        assert!(
            10 * not_ready <= looks + 50,
            "{trouble}: {not_ready} of {looks}"
        );
        until("it is ready", ready).await;
    }

    /// Calls that were turned away.
    fn told(&self) -> usize {
        self.auditor.refused() + self.auditor.unknown()
    }

    /// The servers answer again; so does the gateway, in time.
    async fn recovers(&self) {
        let begun = Instant::now();
        let of_street = self.passing.until_count(self.passing.count() + 1);
        tokio::join!(self.goes_on(1), of_street);
        let took = begun.elapsed();
        say(&format!("accepted again after {took:?}"));
        assert!(took < RECOVERY_MAX, "accepted again only after {took:?}");
        self.goes_on(WELL).await;
        let longest = self.auditor.pace().longest_call;
        let longest = longest.max(self.passing.pace().longest_call);
        say(&format!("no call took longer than {longest:?}"));
        assert!(longest < CALL_MAX, "a call took {longest:?}");
    }

    /// Everything is read back, by the one who stayed and by one who comes again.
    async fn close(mut self) {
        self.auditor.end();
        self.passing.end();
        // A sender that found something wrong has panicked: that fails the test here.
        self.senders.join_all().await;
        until_settled(&self.client, &self.devices).await;
        self.auditor.audit(&self.client, &self.devices).await;
        let corner = [self.corner.clone()];
        until_settled(&self.street, &corner).await;
        self.passing.audit(&self.street, &corner).await;
        for books in [&self.auditor, &self.passing] {
            assert_eq!(books.unanswered(), 0, "calls without an answer");
        }
        let log = read_log(&self.client, "oldest").await;
        let followed = self.reader.join_all().await.concat();
        assert!(WELL < followed.len());
        assert_eq!(followed, log[..followed.len()], "what the reader saw");
        let mut socket = self.client.socket().await;
        socket.subscribe(json!({}), &self.cursor).await;
        let missed = log.iter().position(|it| cursor_of(it) == self.cursor);
        for entry in &log[missed.unwrap() + 1..] {
            assert_eq!(socket.event().await, *entry);
        }
        socket.close().await;
        say(&format!(
            "{} acknowledged; of those who never repeat a call {}, and {} refused, which are nowhere",
            self.auditor.count(),
            self.passing.count(),
            self.passing.dropped()
        ));
        assert!(self.gateway.terminate().await.success());
    }
}

/// Reads the log from its start by long poll until the run is over, whatever happens meanwhile.
async fn follow(client: Client, auditor: Arc<Auditor>) -> Vec<Value> {
    let (mut cursor, mut entries) = ("oldest".to_owned(), Vec::new());
    loop {
        let is_over = auditor.is_over();
        let path = format!("/v1/events?after={cursor}&limit=1000&wait_seconds=1");
        let page = client.call("GET", &path).attempt().await.unwrap();
        if page.status != 200 {
            assert_eq!(page.status, 503, "{}", page.text());
            sleep(Duration::from_millis(100)).await;
            continue;
        }
        cursor = page.body["next_cursor"].as_str().unwrap().to_owned();
        let items = page.body["items"].as_array().unwrap();
        entries.extend(items.iter().cloned());
        if is_over && items.is_empty() {
            return entries;
        }
    }
}

async fn a_server_that_is_killed_is_waited_for() {
    let cluster = Cluster::start(1).await;
    let scene = Scene::open("killed", |data| cluster.settings(data)).await;
    let wish = json!({"name": "unused", "scopes": ["events:read"]});
    let made = insist(|| scene.client.post("/v1/keys", wish.clone()));
    let unused = made.await.expect(201);
    cluster.kill(1).await;
    scene.turns_away(GONE).await;
    // Whether a credential is good is not known: that is no reason to call it bad.
    let mut socket = scene.client.anonymous().socket().await;
    let auth = json!({"op": "auth", "id": 1, "token": unused["secret"]});
    socket.send(&auth).await;
    assert_eq!(socket.until_close().await, 4103);
    let read = scene.devices[0].get("/messages").await;
    read.problem(503, "unavailable");
    cluster.start_one(1).await;
    scene.recovers().await;
    scene.close().await;
}

async fn a_server_that_freezes_is_waited_for() {
    let cluster = Cluster::start(1).await;
    let scene = Scene::open("frozen", |data| cluster.settings(data)).await;
    let folder = tempdir().unwrap();
    let data = folder.path().join("idle");
    let mut idle = Binary::serve_on(&data, &cluster.settings(&data)).await;
    let nobody = idle.tenant().await.anonymous();
    cluster.pause(1).await;
    let frozen = Instant::now();
    // Calls end by their own deadline, not by the server's return.
    scene.turns_away(FROZEN).await;
    let read = scene.devices[0].get("/messages").await;
    read.problem(503, "unavailable");
    // One that has nothing to write notices too.
    while nobody.get("/health/ready").await.status != 503 {
        assert!(frozen.elapsed() < NOTICED_MAX, "nobody looks");
        sleep(Duration::from_millis(20)).await;
    }
    cluster.resume(1).await;
    scene.recovers().await;
    let ready = async || nobody.get("/health/ready").await.status == 200;
    until("the idle one is ready again", ready).await;
    assert!(idle.terminate().await.success());
    scene.close().await;
}

async fn one_of_three_servers_may_stand_still_or_go_and_come_back() {
    let cluster = Cluster::start(3).await;
    let scene = Scene::open("three", |data| cluster.settings(data)).await;
    sleep(TABLES_ARE_NEW).await;
    // Each is the first one for some of the rows.
    for (node, at_least) in [(2, ONE_FROZEN), (3, FROZEN)] {
        let frozen = async {
            cluster.pause(node).await;
            let frozen = sleep(at_least);
            // Nobody waits for it to come back.
            scene.goes_on(WELL).await;
            frozen.await;
        };
        scene
            .hardly_notices(&format!("{node} is frozen"), frozen)
            .await;
        let thawed = cluster.resume(node);
        scene.hardly_notices("thawed", thawed).await;
    }
    scene.hardly_notices("killed", cluster.kill(2)).await;
    let back = cluster.start_one(2);
    scene.hardly_notices("back", back).await;
    scene.close().await;
}

async fn slow_answers_are_waited_for_and_too_slow_ones_are_not() {
    let cluster = Cluster::start(1).await;
    let server: SocketAddr = cluster.contact_points()[0].parse().unwrap();
    let proxy = Proxy::open((server.ip(), 0).into(), server).await;
    let points = [proxy.address().to_string()];
    // Renewals of a short lease may take a second, and this delay is most of it.
    let settings = |data: &Path| cql_settings(data, &points, 1, Lease::Long);
    let scene = Scene::open("slow", settings).await;
    proxy.delay(Duration::from_millis(200));
    scene.hardly_notices("200 ms each way", async {}).await;
    proxy.delay(Duration::from_secs(5));
    scene.turns_away(Duration::ZERO).await;
    proxy.heal();
    scene.recovers().await;
    scene.close().await;
}

async fn what_was_written_without_a_word_is_of_unknown_outcome_and_there_once() {
    let cluster = Cluster::start(1).await;
    let server: SocketAddr = cluster.contact_points()[0].parse().unwrap();
    let proxy = Proxy::open((server.ip(), 0).into(), server).await;
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let points = [proxy.address().to_string()];
    let settings = cql_settings(&data, &points, 1, Lease::Long);
    let mut gateway = Binary::serve_on(&data, &settings).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    let body = |key: &str| json!({"to": phone(0), "content": text(key), "metadata": {"key": key}});
    let once = async |key: &str| device.send_once(key, &body(key)).await;
    // Without a key there is nothing to look up, which would fail before anything was written.
    let send = async |key: &str| device.post("/messages", body(key)).await;
    let is_sent = async || once("before").await.status == 202;
    until("a message is sent", is_sent).await;
    until_settled(&client, std::slice::from_ref(&device)).await;
    let nobody = client.anonymous();
    let is_ready = async || nobody.get("/health/ready").await.status == 200;
    until("it is ready", is_ready).await;
    proxy.withhold_answers();
    let begun = Instant::now();
    send("within").await.problem(504, "outcome_unknown");
    assert!(begun.elapsed() < CALL_MAX);
    // By now it is known that nothing can be written.
    let refused = send("behind").await;
    assert!(refused.header("retry-after").is_some());
    refused.problem(503, "unavailable");
    proxy.heal();
    // Under one key: it may be stored although nobody could say so.
    let accepted = async || once("after").await.status == 202;
    until("the gateway accepts again", accepted).await;
    until_settled(&client, std::slice::from_ref(&device)).await;
    let there = walk(&client, &device.path("/messages?direction=out&limit=200")).await;
    let mut keys: Vec<_> = there
        .iter()
        .map(|it| it["metadata"]["key"].as_str())
        .collect();
    keys.sort();
    assert_eq!(keys, [Some("after"), Some("before"), Some("within")]);
    let log = read_log(&client, "oldest").await;
    let created = log.iter().filter(|it| it["type"] == "message.created");
    assert_eq!(created.count(), 3);
    assert!(gateway.terminate().await.success());
}

/// Calls are given up long before the servers count as away.
const IMPATIENT: &str = "chats.command_time_max_ms = 1000\ncql.request_time_max_ms = 5000\n";
/// How long after a message its receipt comes.
const RECEIPT_MS: u64 = 2_500;
/// How soon what waits is refused once the servers count as away.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);

async fn a_receipt_that_is_told_again_and_then_refused_is_not_lost() {
    let cluster = Cluster::start(1).await;
    let server: SocketAddr = cluster.contact_points()[0].parse().unwrap();
    let proxy = Proxy::open((server.ip(), 0).into(), server).await;
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let settings = cql_settings(&data, &[proxy.address().to_string()], 1, Lease::Long);
    let mut gateway = Binary::serve_on(&data, &settings).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    let slow = json!({"auto_receipts": {"deliver_ms": RECEIPT_MS, "read_ms": null}});
    device.phone_behaves("*", slow).await;
    assert!(gateway.terminate().await.success());
    let mut gateway = Binary::serve_on(&data, &(settings + IMPATIENT)).await;
    gateway.lead(&client);
    device.until_state("connected").await;
    // On a busy machine a receipt may be there before anybody has looked.
    let id = loop {
        let late = json!({"to": phone(0), "content": text("its receipt comes late")});
        let sent = device.post("/messages", late).await;
        if sent.status != 202 {
            continue;
        }
        let id = sent.body["id"].as_str().unwrap().to_owned();
        let mut status = Value::Null;
        let has_left = async || {
            status = device.message(&id).await["status"].clone();
            status != "queued"
        };
        until("it has left", has_left).await;
        if status == "sent" {
            break id;
        }
    };
    proxy.withhold_answers();
    // The receipt waits behind this one, for longer than the network waits for an answer.
    let body = json!({"to": phone(0), "content": text("written without a word")});
    let sent = device.post("/messages", body).await;
    sent.problem(504, "outcome_unknown");
    let nobody = client.anonymous();
    let is_away = async || nobody.get("/health/ready").await.status == 503;
    until("the servers count as away", is_away).await;
    sleep(REFUSED_WITHIN).await;
    proxy.heal();
    until_settled(&client, std::slice::from_ref(&device)).await;
    assert_eq!(device.message(&id).await["status"], "delivered");
    assert!(gateway.terminate().await.success());
}

/// Servers that say yes before they have written it down.
const LAX: &[(&str, &str)] = &[("BUHO_CQL_SYNC", "periodic")];

async fn a_start_says_where_something_acknowledged_may_be_lost() {
    for (settings, is_lax) in [(LAX, true), (&[][..], false)] {
        let cluster = Cluster::start_with(1, settings).await;
        let folder = tempdir().unwrap();
        let data = folder.path().join("data");
        let mut gateway = Binary::serve_on(&data, &cluster.settings(&data)).await;
        let said = gateway.log();
        assert_eq!(said.contains("may be lost"), is_lax, "{said}");
        assert_eq!(said.contains("commitlog_sync"), is_lax, "{said}");
        assert!(gateway.terminate().await.success());
    }
}

pub(crate) const CASES: &[Case] = cases![
    a_start_says_where_something_acknowledged_may_be_lost
        .threaded()
        .own_servers(),
    a_receipt_that_is_told_again_and_then_refused_is_not_lost
        .threaded()
        .own_servers(),
    a_server_that_is_killed_is_waited_for
        .threaded()
        .own_servers(),
    a_server_that_freezes_is_waited_for.threaded().own_servers(),
    slow_answers_are_waited_for_and_too_slow_ones_are_not
        .threaded()
        .own_servers(),
    what_was_written_without_a_word_is_of_unknown_outcome_and_there_once
        .threaded()
        .own_servers(),
    one_of_three_servers_may_stand_still_or_go_and_come_back
        .threaded()
        .own_servers(),
];
