//! Trouble with the CQL servers: killed, frozen, slow, or one of three gone. Calls end by themselves, nothing that was
//! acknowledged is lost or doubled, readers go on from where they were, and nobody has to help.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use super::auditor::{Auditor, Sender};
use super::binary::Binary;
use super::kill::until_settled;
use crate::house::{
    Case, Client, Cluster, Device, Dice, Proxy, cases, cql_settings, cursor_of, read_log, say, seed,
};

const SENDERS: usize = 32;
/// Acknowledgements that show that all is well.
const WELL: usize = 300;
/// How soon a gateway accepts again once its servers answer.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// Far longer than calls may take, and far shorter than the trouble would last if nobody ended it.
const ANSWERS_MAX: Duration = Duration::from_secs(90);
/// What the process may grow by while it cannot store anything.
const GROWTH_MAX: usize = 32 * 1_024 * 1_024;

/// How long a server is frozen, at least.
const FROZEN: Duration = Duration::from_secs(8);

/// A gateway on servers that trouble will come over, with senders that never stop and a reader that follows them.
struct Scene {
    gateway: Binary,
    client: Client,
    devices: Vec<Device>,
    auditor: Arc<Auditor>,
    senders: JoinSet<()>,
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
            };
            senders.spawn(sender.run());
        }
        let mut reader = JoinSet::new();
        reader.spawn(follow(client.clone(), Arc::clone(&auditor)));
        auditor.until_count(WELL).await;
        Self {
            cursor: client.head().await,
            gateway,
            client,
            devices,
            auditor,
            senders,
            reader,
            _folder: folder,
        }
    }

    /// Waits for more acknowledgements.
    async fn goes_on(&self, count: usize) {
        self.auditor.until_count(self.auditor.count() + count).await;
    }

    /// Every sender is told that it has to come again, while nothing can be stored.
    async fn turns_away(&self) {
        let (begun, before) = (Instant::now(), self.gateway.memory());
        let told = || self.auditor.refused() + self.auditor.unknown();
        let all = told() + SENDERS;
        let nobody = self.client.anonymous();
        // While it is not yet noticed, calls may be turned away because many wait.
        while told() < all || nobody.get("/health/ready").await.status != 503 {
            assert!(begun.elapsed() < ANSWERS_MAX, "calls wait for the servers");
            sleep(Duration::from_millis(20)).await;
        }
        nobody.get("/health/live").await.expect(200);
        let after = self.gateway.memory();
        assert!(after < before + GROWTH_MAX, "grew from {before} to {after}");
        say(&format!(
            "turned away {} and {} with an unknown outcome within {:?}, memory {before} to {after}",
            self.auditor.refused(),
            self.auditor.unknown(),
            begun.elapsed()
        ));
    }

    /// The servers answer again; so does the gateway, in time.
    async fn recovers(&self) {
        let begun = Instant::now();
        self.goes_on(1).await;
        let took = begun.elapsed();
        say(&format!("accepted again after {took:?}"));
        assert!(took < RECOVERY_MAX, "accepted again only after {took:?}");
        self.goes_on(WELL).await;
    }

    /// Everything is read back, by the one who stayed and by one who comes again.
    async fn close(mut self) {
        self.auditor.end();
        // A sender that found something wrong has panicked: that fails the test here.
        self.senders.join_all().await;
        until_settled(&self.client, &self.devices).await;
        self.auditor.audit(&self.client, &self.devices).await;
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
        say(&format!("{} acknowledged", self.auditor.count()));
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
    let unused = scene.client.post("/v1/keys", wish).await.expect(201);
    cluster.kill(1).await;
    scene.turns_away().await;
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
    cluster.pause(1).await;
    let frozen = sleep(FROZEN);
    // Calls end by their own deadline, not by the server's return.
    scene.turns_away().await;
    let read = scene.devices[0].get("/messages").await;
    read.problem(503, "unavailable");
    frozen.await;
    cluster.resume(1).await;
    scene.recovers().await;
    scene.close().await;
}

async fn one_of_three_servers_may_go_and_come_back() {
    let cluster = Cluster::start(3).await;
    let scene = Scene::open("three", |data| cluster.settings(data)).await;
    cluster.kill(2).await;
    scene.goes_on(WELL).await;
    cluster.start_one(2).await;
    scene.goes_on(WELL).await;
    // How many depends on how busy the machine is: three servers and the rest of the run share it.
    let told = scene.auditor.refused() + scene.auditor.unknown();
    say(&format!(
        "{told} were turned away, {} taken",
        scene.auditor.count()
    ));
    scene.close().await;
}

async fn slow_answers_are_waited_for_and_too_slow_ones_are_not() {
    let cluster = Cluster::start(1).await;
    let server: SocketAddr = cluster.contact_points()[0].parse().unwrap();
    let proxy = Proxy::open((server.ip(), 0).into(), server).await;
    let points = [proxy.address().to_string()];
    let scene = Scene::open("slow", |data| cql_settings(data, &points, 1)).await;
    proxy.delay(Duration::from_millis(200));
    scene.goes_on(WELL / 3).await;
    proxy.delay(Duration::from_secs(5));
    scene.turns_away().await;
    proxy.heal();
    scene.recovers().await;
    scene.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_server_that_is_killed_is_waited_for
        .threaded()
        .own_servers(),
    a_server_that_freezes_is_waited_for.threaded().own_servers(),
    one_of_three_servers_may_go_and_come_back
        .threaded()
        .own_servers(),
    slow_answers_are_waited_for_and_too_slow_ones_are_not
        .threaded()
        .own_servers(),
];
