//! The contract on a real server, and what only tables on servers can do.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on shall fail loudly"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::model::{
    DeviceId, DeviceState, EventId, Jid, MessageId, MessageState, Removal, SessionChange, Status,
    Tenant, TenantId, TenantLimits, Timestamp,
};
use actors::ports::{
    Clock, Directory as _, Done, History as _, LogReader as _, MessageFilter, MessageQuery, Order,
    Outcome, StoreError, SubmitError, Write, Writer as _, commit,
};
use futures_util::future::join_all;

use super::change::Cell;
use super::job::{Encoded, chat_bucket, device_bucket, small, upstream_shard};
use super::look::Look;
use super::plan::Plan;
use super::queue::Queued;
use super::schema::{self, SchemaError, SchemaFound, Servers as ServersFound};
use super::{CqlOptions, CqlStore, OpenError, connect, journal};
use crate::config::Config;
use crate::store::contract::{
    ManualClock, Opener, answer, chat_row, claim, committed, device_record, entry, jid, message,
    store_contract,
};
use crate::testing::{Inside, inside, server};

/// A cluster of its own in the keyspace of this run.
struct Servers {
    options: CqlOptions,
}

/// The contract.
pub(crate) const CONTRACT: &[Inside] = store_contract!(crate::store::cql::tests::Servers::new());

/// What only tables on servers can do.
pub(crate) const CASES: &[Inside] = inside![
    a_commit_that_came_to_its_mark_is_completed_by_the_next_owner,
    a_cluster_is_owned_by_one_at_a_time,
    a_schema_is_applied_once_and_another_is_left_alone,
    gateways_that_start_at_once_make_one_schema,
    rows_of_a_removed_device_are_erased,
    what_the_servers_refuse_is_dropped_before_its_mark_and_tried_on_behind_it,
    rows_that_age_go_by_themselves,
    a_log_whose_first_entries_have_aged_away_begins_behind_them,
    calls_wait_for_a_place_among_those_under_way,
    a_page_in_the_middle_costs_what_the_first_costs.of_minutes(),
];

/// A cluster of its own on the servers to test on.
pub(in crate::store) fn options() -> CqlOptions {
    let mut config = Config::from_toml("").unwrap().cql;
    config.contact_points = server::contact_points().to_vec();
    // That of the black-box tests too: making tables is slow.
    config.keyspace = "buho_test".to_owned();
    config.cluster = actors::model::EventId::generate().to_string();
    config.replication = "1".parse().unwrap();
    // The machine may be busy with many cases at once.
    config.request_time_max_ms = 30_000;
    config.commit_time_max_ms = 60_000;
    config.lease_ms = 30_000;
    CqlOptions::new(config)
}

/// Runs a statement on the servers to test on.
pub(crate) async fn run(statement: &str) {
    let session = connect::connect(&options().cql).await.unwrap();
    session.query_unpaged(statement, ()).await.unwrap();
}

impl Servers {
    fn new() -> Self {
        Self { options: options() }
    }
}

impl Opener for Servers {
    type Backend = CqlStore;

    async fn open(&self, clock: Arc<ManualClock>) -> Arc<CqlStore> {
        let opened = Box::pin(CqlStore::open(self.options.clone(), clock)).await;
        opened.unwrap_or_else(|error| panic!("{}", crate::telemetry::Chain(&error)))
    }
}

/// A tenant with a device in a store.
struct House {
    servers: Servers,
    clock: Arc<ManualClock>,
    tenant: TenantId,
    device: DeviceId,
}

impl House {
    async fn open(&self) -> Arc<CqlStore> {
        self.servers.open(Arc::clone(&self.clock)).await
    }

    async fn new() -> (Self, Arc<CqlStore>) {
        Self::on(Servers::new()).await
    }

    async fn on(servers: Servers) -> (Self, Arc<CqlStore>) {
        let clock = Arc::new(ManualClock::default());
        let device = device_record(clock.now());
        let house = Self {
            servers,
            clock,
            tenant: TenantId::generate(),
            device: device.id,
        };
        let store = house.open().await;
        let tenant = Tenant {
            id: house.tenant,
            name: "t".to_owned(),
            limits: TenantLimits::default(),
            created_at: house.clock.now(),
            removal: Removal::None,
        };
        let writes = vec![
            Write::Tenant(Box::new(tenant)),
            Write::Device(Box::new(device)),
        ];
        committed(commit(&*store, house.tenant, writes, vec![], None).await);
        (house, store)
    }

    fn say(&self, chat: &Jid) -> (MessageId, Write) {
        let body = message(self.device, chat, "x", self.clock.now());
        let (id, state) = (body.id, MessageState::new(Status::Queued));
        (
            id,
            Write::Message {
                body: body.into(),
                state,
            },
        )
    }

    /// Writes a job into the journal as a commit does, and stops there: with its mark, or right before it.
    async fn journal_only(&self, store: &CqlStore, writes: Vec<Write>, marked: bool) {
        let slot = store.existing(self.tenant).unwrap();
        let shared = &store.shared;
        let entries = vec![entry(self.clock.now(), "{\"n\":1}")];
        let job = Encoded::of(&shared.cluster, &slot, writes, entries, None).unwrap();
        let ledger = slot.ledger.lock().await.clone();
        let ttl = super::job::ttl(Duration::from_secs(3_600));
        let mut plan = Plan::new(&slot, ledger, self.clock.now(), ttl, HashMap::new());
        let (ticket, done): (_, Done) = (1, Box::new(drop));
        plan.add(Queued { ticket, job, done });
        plan.seal(|count| shared.lease.stamps(count));
        plan.ledger.committed += 1;
        let stamps = |count| shared.lease.stamps(count);
        let owner = shared.owner(&slot);
        let written = journal::encode(&owner, &plan.ledger, &plan.changes, stamps);
        for part in written.parts {
            shared
                .db
                .write(shared.db.permit().await, &[part])
                .await
                .unwrap();
        }
        if marked {
            shared
                .db
                .write(shared.db.permit().await, &written.mark)
                .await
                .unwrap();
        }
    }
}

async fn a_commit_that_came_to_its_mark_is_completed_by_the_next_owner() {
    let (mut house, store) = House::new().await;
    house.servers.options.cql.lease_ms = 9_000;
    store.close().await;
    let store = house.open().await;
    let chat = jid("51999888777");
    let (ids, writes): (Vec<_>, Vec<_>) = (0..200).map(|_| house.say(&chat)).unzip();
    house.journal_only(&store, writes, true).await;
    let first = store.shared.lease.stamps(1);
    assert!(
        store
            .message(house.tenant, house.device, ids[0])
            .await
            .unwrap()
            .is_none()
    );
    // A crash: nothing is given back, and the lease has to end.
    drop(store);
    let store = house.open().await;
    assert_eq!(store.log(house.tenant).unwrap().head().seq, 1);
    let entries = store.entries(house.tenant, 0, 9, usize::MAX).await.unwrap();
    assert_eq!(entries.len(), 1);
    for id in &ids {
        assert!(
            store
                .message(house.tenant, house.device, *id)
                .await
                .unwrap()
                .is_some()
        );
    }
    assert!(
        first < store.shared.lease.stamps(1),
        "an old write never wins"
    );
    let (unmarked, writes): (Vec<_>, Vec<_>) = (0..200).map(|_| house.say(&chat)).unzip();
    house.journal_only(&store, writes, false).await;
    store.close().await;
    let store = house.open().await;
    assert_eq!(store.log(house.tenant).unwrap().head().seq, 1);
    let (last, write) = house.say(&chat);
    committed(commit(&*store, house.tenant, vec![write], vec![], None).await);
    drop(store);
    let store = house.open().await;
    let query = MessageQuery {
        chat: Some(chat),
        beyond: None,
        order: Order::Oldest,
        filter: MessageFilter::default(),
        limit: 1_000,
    };
    let page = store
        .messages(house.tenant, house.device, query)
        .await
        .unwrap();
    let found: Vec<_> = page.items.iter().map(|it| it.body.id).collect();
    assert_eq!(found, [&ids[..], &[last]].concat());
    assert!(!found.contains(&unmarked[0]));
    store.close().await;
}

async fn a_cluster_is_owned_by_one_at_a_time() {
    let (house, store) = House::new().await;
    let options = house.servers.options.clone();
    let refused = Box::pin(CqlStore::open(
        options,
        Arc::clone(&house.clock) as Arc<dyn Clock>,
    ))
    .await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("cql.cluster"));
    store.close().await;
    house.open().await.close().await;
}

async fn a_schema_is_applied_once_and_another_is_left_alone() {
    let mut cql = options().cql;
    schema::apply(&cql).await.unwrap();
    assert_eq!(schema::apply(&cql).await.unwrap(), SchemaFound::Same);
    assert_eq!(schema::check(&cql).await.unwrap(), SchemaFound::Same);
    let session = connect::connect(&cql).await.unwrap();
    cql.keyspace = format!("buho_test_foreign_{}", std::process::id());
    assert_eq!(schema::check(&cql).await.unwrap(), SchemaFound::Absent);
    let define = async |statement: String| session.query_unpaged(statement, ()).await.unwrap();
    let keyspace = &cql.keyspace;
    let servers = ServersFound::behind(&session);
    define(schema::create_keyspace(&cql, servers)).await;
    define(format!(
        "CREATE TABLE {keyspace}.theirs (id int PRIMARY KEY)"
    ))
    .await;
    let refused = schema::apply(&cql).await.unwrap_err();
    assert!(
        matches!(refused, OpenError::Schema(SchemaError::Foreign { .. })),
        "{refused}"
    );
    define(format!(
        "CREATE TABLE {keyspace}.schema_state (id int PRIMARY KEY, version int, digest text, holder text)"
    ))
    .await;
    define(format!(
        "INSERT INTO {keyspace}.schema_state (id, version, digest) VALUES (0, 99, 'd')"
    ))
    .await;
    let refused = schema::apply(&cql).await.unwrap_err();
    let newer = matches!(
        refused,
        OpenError::Schema(SchemaError::Newer { found: 99, .. })
    );
    assert!(
        newer
            && refused
                .to_string()
                .contains("start the newer version again"),
        "{refused}"
    );
    define(format!("DROP KEYSPACE {keyspace}")).await;
}

async fn gateways_that_start_at_once_make_one_schema() {
    let mut cql = options().cql;
    cql.keyspace = format!("buho_test_race_{}", std::process::id());
    let applied = join_all((0..8).map(|_| Box::pin(schema::apply(&cql)))).await;
    for one in applied {
        one.unwrap();
    }
    assert_eq!(schema::check(&cql).await.unwrap(), SchemaFound::Same);
    let session = connect::connect(&cql).await.unwrap();
    let drop = format!("DROP KEYSPACE {}", cql.keyspace);
    session.query_unpaged(drop, ()).await.unwrap();
}

async fn rows_of_a_removed_device_are_erased() {
    let (house, store) = House::new().await;
    let chat = jid("51999888777");
    let (id, message) = house.say(&chat);
    let (device, now) = (house.device, house.clock.now());
    let change = SessionChange {
        state: DeviceState::Connected,
        previous: DeviceState::Connecting,
        reason: None,
        at: now,
    };
    let (named, said) = (chat.clone(), "3EB0".to_owned());
    let writes = vec![
        message,
        Write::OutboxAdd {
            device,
            chat: chat.clone(),
            id,
        },
        Write::Upstream {
            device,
            chat: named,
            from_me: true,
            upstream_id: said.clone(),
            id,
        },
        Write::Chat(Box::new(chat_row(device, &chat, 1, now))),
        Write::SessionChange {
            device,
            id: EventId::generate(),
            change,
        },
    ];
    committed(commit(&*store, house.tenant, writes, vec![], None).await);
    let slot = store.existing(house.tenant).unwrap();
    let session = &store.shared.db.link().session;
    let left = async || {
        let mut left = Vec::new();
        let chat = || Cell::text(chat.as_str());
        for (table, rest, key) in [
            ("session_changes", "", vec![]),
            ("chats", "", vec![]),
            ("outbox", "", vec![]),
            ("chat_buckets", "", vec![]),
            ("device_buckets", "", vec![]),
            (
                "messages",
                " AND chat = ? AND bucket = ?",
                vec![chat(), Cell::int(chat_bucket(id))],
            ),
            (
                "device_messages",
                " AND bucket = ?",
                vec![Cell::int(device_bucket(id))],
            ),
            (
                "upstream",
                " AND chat = ? AND shard = ?",
                vec![chat(), small(upstream_shard(&said))],
            ),
        ] {
            let keyspace = &store.shared.keyspace;
            let cql = format!(
                "SELECT count(*) FROM {keyspace}.{table} WHERE tenant = ? AND device = ?{rest}"
            );
            let mut values = vec![slot.key(), Cell::id(device.to_bytes())];
            values.extend(key);
            let count = session.prepare(cql).await.unwrap();
            let count = session.execute_unpaged(&count, values).await.unwrap();
            let count = count.into_rows_result().unwrap();
            left.push((table, count.single_row::<(i64,)>().unwrap().0));
        }
        let devices: Vec<(Vec<u8>, Vec<u8>)> = {
            let db = &store.shared.db;
            db.rows(Look::Devices, (slot.key(),)).await.unwrap()
        };
        left.push(("devices", i64::try_from(devices.len()).unwrap()));
        left
    };
    let before = left().await;
    assert!(before.iter().all(|(_, count)| *count == 1), "{before:?}");
    let removed = vec![Write::DeviceRemoved(device)];
    committed(commit(&*store, house.tenant, removed, vec![], None).await);
    let patience = Instant::now() + Duration::from_secs(300);
    loop {
        let left = left().await;
        if left.iter().all(|(_, count)| *count == 0) {
            break;
        }
        assert!(Instant::now() < patience, "{left:?} are not erased");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await;
}

async fn what_the_servers_refuse_is_dropped_before_its_mark_and_tried_on_behind_it() {
    let mut servers = Servers::new();
    let keyspace = format!("buho_test_refusal_{}", std::process::id());
    servers.options.cql.keyspace.clone_from(&keyspace);
    let (house, store) = House::on(servers).await;
    let chat = jid("51999888777");
    let send = async |text: &str| {
        let row = chat_row(house.device, &chat, 1, house.clock.now());
        let writes = vec![house.say(&chat).1, Write::Chat(Box::new(row))];
        let told = vec![entry(house.clock.now(), text)];
        commit(&*store, house.tenant, writes, told, None).await
    };
    committed(send("{\"n\":1}").await);
    // The journal lacks a column: nothing of a commit can be written.
    run(&format!("ALTER TABLE {keyspace}.journal DROP fence")).await;
    let refused = send("{\"n\":2}").await;
    assert!(
        matches!(
            refused,
            Ok(Outcome::Failed(StoreError::Refused(SubmitError::Away)))
        ),
        "{refused:?}"
    );
    run(&format!(
        "ALTER TABLE {keyspace}.journal ADD fence bigint static"
    ))
    .await;
    committed(send("{\"n\":3}").await);
    // Another table does: what came to its mark is written as soon as it can be.
    run(&format!("ALTER TABLE {keyspace}.chats DROP unread")).await;
    let mut sent = Box::pin(send("{\"n\":4}"));
    let told = tokio::time::timeout(Duration::from_secs(2), &mut sent).await;
    assert!(told.is_err(), "it is neither told nor dropped: {told:?}");
    run(&format!("ALTER TABLE {keyspace}.chats ADD unread int")).await;
    committed(sent.await);
    let entries = store.entries(house.tenant, 0, 9, usize::MAX).await.unwrap();
    let told: Vec<_> = entries.iter().map(|it| it.data()).collect();
    assert_eq!(told, ["{\"n\":1}", "{\"n\":3}", "{\"n\":4}"]);
    store.close().await;
    run(&format!("DROP KEYSPACE {keyspace}")).await;
}

async fn rows_that_age_go_by_themselves() {
    let (house, store) = House::new().await;
    let now = house.clock.now();
    let until = Timestamp::from_millis(now.as_millis() + 3_600_000);
    let kept = Some((claim("aging", 1, until), answer("{}")));
    let entries = vec![entry(now, "{}")];
    committed(commit(&*store, house.tenant, vec![], entries, kept).await);
    let slot = store.existing(house.tenant).unwrap();
    let session = &store.shared.db.link().session;
    let left = async |what: &str, key: Vec<Cell>| {
        let keyspace = &store.shared.keyspace;
        let cql = format!("SELECT TTL(body) FROM {keyspace}.{what}");
        let look = session.prepare(cql).await.unwrap();
        let rows = session.execute_unpaged(&look, key).await.unwrap();
        let rows = rows.into_rows_result().unwrap();
        rows.first_row::<(Option<i32>,)>().unwrap().0.unwrap()
    };
    let seq = Cell::count(1);
    let key = vec![slot.key(), Cell::count(0), seq];
    let entry = left("event_log WHERE tenant = ? AND bucket = ? AND seq = ?", key).await;
    let day = 24 * 3_600;
    // As long as the log is kept, and a day; at a slow machine the servers' clock has gone on meanwhile.
    assert!((8 * day - 600..=8 * day).contains(&entry), "{entry}");
    let operation = Cell::text(claim("aging", 1, until).operation);
    let key = vec![slot.key(), operation, Cell::text("aging")];
    let kept = "idempotency WHERE tenant = ? AND operation = ? AND key = ?";
    let kept = left(kept, key).await;
    // As long as it counts, and an hour.
    assert!((7_200 - 600..=7_200).contains(&kept), "{kept}");
    store.close().await;
}

async fn a_log_whose_first_entries_have_aged_away_begins_behind_them() {
    let (house, store) = House::new().await;
    let entries = vec![entry(house.clock.now(), "{}"); 5];
    committed(commit(&*store, house.tenant, vec![], entries, None).await);
    let slot = store.existing(house.tenant).unwrap();
    let session = &store.shared.db.link().session;
    let ages = async |seq: u64| {
        let (keyspace, stamp) = (&store.shared.keyspace, store.shared.lease.stamps(1));
        let cql = format!(
            "DELETE FROM {keyspace}.event_log USING TIMESTAMP {stamp} WHERE tenant = ? AND bucket = 0 AND seq = ?"
        );
        let age = session.prepare(cql).await.unwrap();
        let key = (slot.key(), Cell::count(seq));
        session.execute_unpaged(&age, key).await.unwrap();
    };
    let read = async |after| {
        let found = store.entries(house.tenant, after, 9, usize::MAX);
        let found = found.await.unwrap();
        found.iter().map(|it| it.cursor().seq).collect::<Vec<_>>()
    };
    let oldest = || store.log(house.tenant).unwrap().oldest().seq;
    for seq in 1..=3 {
        ages(seq).await;
    }
    assert_eq!((read(2).await, oldest()), (vec![4, 5], 3));
    assert_eq!((read(0).await, oldest()), (vec![4, 5], 3));
    for seq in 4..=5 {
        ages(seq).await;
    }
    assert_eq!((read(3).await, oldest()), (vec![], 5));
    store.close().await;
}

async fn calls_wait_for_a_place_among_those_under_way() {
    let (mut house, store) = House::new().await;
    store.close().await;
    house.servers.options.cql.concurrency = 2;
    house.servers.options.cql.request_time_max_ms = 5_000;
    house.servers.options.cql.commit_time_max_ms = 5_000;
    let store = house.open().await;
    let read = async || store.devices(house.tenant).await;
    let write = async || {
        let (_, write) = house.say(&jid("51999888777"));
        commit(&*store, house.tenant, vec![write], vec![], None).await
    };
    // In so little time busy servers may not answer, and what comes while a dropped commit is told goes with it.
    let both_pass = async || {
        let patience = Instant::now() + Duration::from_secs(120);
        while !matches!(read().await.as_deref(), Ok([_]))
            || !matches!(write().await, Ok(Outcome::Committed { .. }))
        {
            assert!(Instant::now() < patience, "a call waits for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let db = &store.shared.db;
    let first = db.permit().await;
    both_pass().await;
    let second = db.permit().await;
    // A read gives up when its time is over, and a commit when its own is.
    let (found, told) = tokio::join!(read(), write());
    assert!(matches!(found, Err(StoreError::Away)));
    let is_refused = matches!(
        told,
        Ok(Outcome::Failed(StoreError::Refused(SubmitError::Away)))
    );
    assert!(is_refused, "{told:?}");
    drop((first, second));
    both_pass().await;
    store.close().await;
}

/// Writes 100,000 messages.
#[expect(clippy::print_stderr, reason = "the figures are what it is run for")]
async fn a_page_in_the_middle_costs_what_the_first_costs() {
    let (house, store) = House::new().await;
    let chat = jid("51999888777");
    let mut ids = Vec::new();
    for _ in 0..500 {
        let (said, writes): (Vec<_>, Vec<_>) = (0..200).map(|_| house.say(&chat)).unzip();
        ids.extend(said);
        committed(commit(&*store, house.tenant, writes, vec![], None).await);
    }
    let median = async |beyond| {
        let mut took = Vec::new();
        for _ in 0..101 {
            let query = MessageQuery {
                chat: Some(chat.clone()),
                beyond,
                order: Order::Newest,
                filter: MessageFilter::default(),
                limit: 50,
            };
            let started = Instant::now();
            let page = store
                .messages(house.tenant, house.device, query)
                .await
                .unwrap();
            assert_eq!(page.items.len(), 50);
            took.push(started.elapsed());
        }
        took.sort();
        took[50]
    };
    let (_warm, first, middle) = (
        median(None).await,
        median(None).await,
        median(Some(ids[50_000])).await,
    );
    eprintln!("first {first:?}, middle {middle:?}");
    assert!(middle < first * 3 / 2, "first {first:?}, middle {middle:?}");
    store.close().await;
}
