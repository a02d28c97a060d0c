//! What only a folder can do.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors::model::{
    Cursor, DeviceId, MessageState, Removal, Status, Tenant, TenantId, TenantLimits, Timestamp,
};
use actors::ports::{
    Clock, Directory as _, Job, LogReader as _, Outcome, StoreError, StoreHealth, SubmitError,
    Urgency, Write, Writer as _, commit,
};
use bytes::Bytes;
use tempfile::TempDir;

use super::engine::{Engine, Space};
use super::{EmbeddedOptions, EmbeddedStore, OpenError, folder, keys};
use crate::store::contract::{
    answer, chat_row, claim, committed, device_record, entry, jid, message,
};

mod crash;

/// A clock that stands still, and panics when it is told to.
#[derive(Default)]
struct StillClock(AtomicBool);

impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        assert!(
            !self.0.load(Ordering::SeqCst),
            "the clock was told to panic"
        );
        Timestamp::from_millis(1_000)
    }
}

/// A folder with a store in it.
struct House {
    dir: TempDir,
    tenant: TenantId,
    device: DeviceId,
}

impl House {
    fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn try_open(&self) -> Result<Arc<EmbeddedStore>, OpenError> {
        EmbeddedStore::open(
            EmbeddedOptions::new(self.path()),
            Arc::new(StillClock::default()),
        )
    }

    async fn new() -> (Self, Arc<EmbeddedStore>) {
        let device = device_record(Timestamp::from_millis(1));
        let house = Self {
            dir: tempfile::tempdir().unwrap(),
            tenant: TenantId::generate(),
            device: device.id,
        };
        let store = house.try_open().unwrap();
        let writes = vec![make_tenant(house.tenant), Write::Device(Box::new(device))];
        committed(commit(&*store, house.tenant, writes, vec![], None).await);
        (house, store)
    }

    /// Commits one entry with a value of some length beside it.
    async fn put(&self, store: &EmbeddedStore, key: u64, len: usize) -> Cursor {
        let write = Write::Value {
            space: "s",
            key: key.to_be_bytes().to_vec(),
            value: Some(Bytes::from(vec![b'x'; len])),
        };
        committed(
            commit(
                store,
                self.tenant,
                vec![write],
                vec![entry(Timestamp::from_millis(5), "{}")],
                None,
            )
            .await,
        )
    }

    /// How many values and entries there are.
    async fn count(&self, store: &EmbeddedStore) -> (usize, usize) {
        let values = store
            .values(self.tenant, "s", b"", None, 10_000)
            .await
            .unwrap()
            .len();
        (
            values,
            store
                .entries(self.tenant, 0, 10_000, usize::MAX)
                .await
                .unwrap()
                .len(),
        )
    }
}

fn make_tenant(id: TenantId) -> Write {
    Write::Tenant(Box::new(Tenant {
        id,
        name: "t".to_owned(),
        limits: TenantLimits::default(),
        created_at: Timestamp::from_millis(1),
        removal: Removal::None,
    }))
}

/// Bytes on the disk, not bytes of files: journals have holes.
fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::read_dir(path)
        .unwrap()
        .map(|it| it.unwrap())
        .fold(0, |sum, file| {
            let below = if file.file_type().unwrap().is_dir() {
                disk_usage(&file.path())
            } else {
                0
            };
            sum + file.metadata().unwrap().blocks() * 512 + below
        })
}

/// All rows of a table in a store that is closed.
fn rows(path: &Path, space: Space) -> usize {
    let engine =
        Engine::open(&path.join("data"), 1 << 20, Arc::new(StillClock::default())).unwrap();
    engine.view().prefix(space, &[]).count()
}

#[tokio::test]
async fn a_store_is_used_by_one_at_a_time() {
    let (house, store) = House::new().await;
    let refused = house.try_open().unwrap_err();
    assert!(matches!(refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("stop the process that has it"));
    store.close().await;
    assert!(
        house.path().join("lock").exists(),
        "a stale file blocks nobody"
    );
    house.try_open().unwrap().close().await;
}

#[tokio::test]
async fn a_newer_format_is_left_alone() {
    let (house, store) = House::new().await;
    store.close().await;
    let format = house.path().join("data").join("format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replacen(" 1 ", " 2 ", 1)).unwrap();
    let refused = house.try_open().unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::NewerFormat {
                found: 2,
                known: folder::FORMAT,
                ..
            }
        ),
        "{refused}"
    );
    fs::write(&format, "something else").unwrap();
    assert!(matches!(house.try_open(), Err(OpenError::Damaged { .. })));
    fs::write(&format, text).unwrap();
    let store = house.try_open().unwrap();
    assert_eq!(store.tenants().await.unwrap().len(), 1);
    store.close().await;
}

#[tokio::test]
async fn a_fresh_store_with_two_tenants_takes_little_room() {
    let (house, store) = House::new().await;
    let other = TenantId::generate();
    committed(commit(&*store, other, vec![make_tenant(other)], vec![], None).await);
    house.put(&store, 1, 100).await;
    let used = disk_usage(&house.path());
    assert!(used <= 16 << 20, "{used} bytes");
    store.close().await;
    let store = house.try_open().unwrap();
    assert!(disk_usage(&house.path()) <= 16 << 20);
    store.close().await;
}

#[tokio::test]
async fn a_folder_that_is_a_file_says_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let refused = EmbeddedStore::open(
        EmbeddedOptions::new(dir.path().join("file")),
        Arc::new(StillClock::default()),
    )
    .unwrap_err();
    assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_serves_reads() {
    let (house, store) = House::new().await;
    house.put(&store, 1, 10).await;
    store.close().await;
    let options = EmbeddedOptions {
        min_free: Some(u64::MAX),
        ..EmbeddedOptions::new(house.path())
    };
    let store = EmbeddedStore::open(options, Arc::new(StillClock::default())).unwrap();
    assert_eq!(store.health(), StoreHealth::Full);
    let refused = commit(&*store, house.tenant, vec![], vec![], None).await;
    assert!(matches!(refused, Err(SubmitError::Full)));
    assert_eq!(house.count(&store).await, (1, 1));
    store.close().await;
    let store = house.try_open().unwrap();
    house.put(&store, 2, 10).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_writer_answers_and_acknowledges_nothing() {
    let (house, store) = House::new().await;
    house.put(&store, 1, 10).await;
    store.close().await;
    let clock = Arc::new(StillClock::default());
    let store = EmbeddedStore::open(
        EmbeddedOptions::new(house.path()),
        Arc::clone(&clock) as Arc<dyn Clock>,
    )
    .unwrap();
    clock.0.store(true, Ordering::SeqCst);
    let ask = || {
        commit(
            &*store,
            house.tenant,
            vec![],
            vec![entry(Timestamp::from_millis(5), "{}")],
            None,
        )
    };
    let first = tokio::time::timeout(Duration::from_secs(10), ask())
        .await
        .unwrap();
    assert!(
        matches!(first, Ok(Outcome::Failed(StoreError::Failed))),
        "{first:?}"
    );
    assert!(matches!(ask().await, Err(SubmitError::Failed)));
    assert_eq!(store.health(), StoreHealth::Failed);
    tokio::time::timeout(
        Duration::from_secs(10),
        store.passed(house.tenant, actors::ports::Ticket(99)),
    )
    .await
    .unwrap();
    clock.0.store(false, Ordering::SeqCst);
    assert_eq!(house.count(&store).await, (1, 1), "reads go on");
    store.close().await;
    let store = house.try_open().unwrap();
    assert_eq!(house.put(&store, 2, 10).await, Cursor { epoch: 1, seq: 2 });
    store.close().await;
}

#[tokio::test]
async fn what_nobody_sees_is_erased() {
    let (house, store) = House::new().await;
    let chat = jid("51999888777");
    let fill = |device| {
        let body = message(device, &chat, "x", Timestamp::from_millis(1));
        let (chat, id) = (chat.clone(), body.id);
        vec![
            Write::OutboxAdd {
                device,
                chat: chat.clone(),
                id,
            },
            Write::Upstream {
                device,
                chat: chat.clone(),
                from_me: true,
                upstream_id: id.to_string(),
                id,
            },
            Write::Chat(Box::new(chat_row(
                device,
                &chat,
                1,
                Timestamp::from_millis(1),
            ))),
            Write::Message {
                body: body.into(),
                state: MessageState::new(Status::Queued),
            },
        ]
    };
    let gone = device_record(Timestamp::from_millis(2));
    let mut writes = vec![Write::Device(Box::new(gone.clone()))];
    writes.extend(fill(house.device));
    committed(commit(&*store, house.tenant, writes, vec![], None).await);
    committed(
        commit(
            &*store,
            house.tenant,
            (0..600).flat_map(|_| fill(gone.id)).collect(),
            vec![],
            None,
        )
        .await,
    );
    let entries = (0..1_000)
        .map(|_| entry(Timestamp::from_millis(5), "{}"))
        .collect();
    committed(commit(&*store, house.tenant, vec![], entries, None).await);
    // Stopped right behind the removal: what is left is erased after the start.
    committed(
        commit(
            &*store,
            house.tenant,
            vec![Write::DeviceRemoved(gone.id), Write::LogFloor(900)],
            vec![],
            None,
        )
        .await,
    );
    drop(store);
    let store = house.try_open().unwrap();
    for _ in 0..100 {
        // Each commit erases a piece; an idle writer goes on by itself.
        committed(commit(&*store, house.tenant, vec![], vec![], None).await);
    }
    store.close().await;
    let found = [
        Space::Messages,
        Space::ByDevice,
        Space::Outbox,
        Space::Upstream,
        Space::Chats,
        Space::Log,
    ]
    .map(|it| rows(&house.path(), it));
    assert_eq!(found, [2, 1, 1, 1, 1, 100]);
    let engine = Engine::open(
        &house.path().join("data"),
        1 << 20,
        Arc::new(StillClock::default()),
    )
    .unwrap();
    assert_eq!(
        engine
            .view()
            .prefix(Space::Directory, &keys::erasures())
            .count(),
        0,
        "nothing is left to be done"
    );
}

#[tokio::test]
async fn what_builds_on_a_job_that_was_not_taken_is_not_taken() {
    let (house, store) = House::new().await;
    let base = Arc::new(AtomicBool::new(false));
    let (let_go, wait) = std::sync::mpsc::channel::<()>();
    let job = |is_baseless, done| Job {
        writes: vec![],
        entries: vec![entry(Timestamp::from_millis(1), "{}")],
        claim: None,
        urgency: Urgency::Now,
        is_baseless,
        done,
    };
    // Whoever is told sets it while the next one waits already.
    let told = Arc::clone(&base);
    let (begin, begun) = tokio::sync::oneshot::channel();
    let hold = Box::new(move |_| {
        let _heard = begin.send(());
        let _let_go = wait.recv_timeout(Duration::from_secs(30));
        told.store(true, Ordering::SeqCst);
    });
    store.submit(house.tenant, job(None, hold)).unwrap();
    begun.await.unwrap();
    let (tell, outcome) = tokio::sync::oneshot::channel();
    let done = Box::new(move |it| drop(tell.send(it)));
    let waiting = job(Some(Arc::clone(&base)), done);
    store.submit(house.tenant, waiting).unwrap();
    drop(let_go);
    let outcome = outcome.await.unwrap();
    assert!(
        matches!(
            outcome,
            Outcome::Failed(StoreError::Refused(SubmitError::Busy))
        ),
        "{outcome:?}"
    );
    let late = store.submit(house.tenant, job(Some(base), Box::new(drop)));
    assert_eq!(late, Err(SubmitError::Busy));
    assert_eq!(house.put(&store, 1, 1).await.seq, 2);
    store.close().await;
}

#[tokio::test]
async fn what_waits_behind_a_removal_leaves_no_rows() {
    let (house, store) = House::new().await;
    let (chat, device) = (jid("51999888777"), house.device);
    let (let_go, wait) = std::sync::mpsc::channel::<()>();
    let job = |writes, done| Job {
        writes,
        entries: vec![],
        claim: None,
        urgency: Urgency::Now,
        is_baseless: None,
        done,
    };
    let hold = Box::new(move |_| {
        let _let_go = wait.recv_timeout(Duration::from_secs(30));
    });
    let submit = |it| store.submit(house.tenant, it).unwrap();
    submit(job(vec![], hold));
    submit(job(vec![Write::DeviceRemoved(device)], Box::new(drop)));
    // So far behind that the erasure has gone past its rows when it comes.
    for _ in 0..3_500 {
        submit(job(vec![], Box::new(drop)));
    }
    let body = message(device, &chat, "x", Timestamp::from_millis(1));
    let late = Write::Message {
        body: body.into(),
        state: MessageState::new(Status::Queued),
    };
    submit(job(vec![late], Box::new(drop)));
    drop(let_go);
    store.close().await;
    assert_eq!(
        [Space::Messages, Space::ByDevice].map(|it| rows(&house.path(), it)),
        [0, 0]
    );
}

#[tokio::test]
async fn answers_whose_time_is_over_leave_the_disk() {
    let (house, store) = House::new().await;
    let keep = async |key, until| {
        let kept = Some((claim(key, 1, Timestamp::from_millis(until)), answer("a")));
        committed(commit(&*store, house.tenant, vec![], vec![], kept).await);
    };
    keep("over", 1_000).await;
    keep("kept", 1_001).await;
    store.close().await;
    let engine = Engine::open(
        &house.path().join("data"),
        1 << 20,
        Arc::new(StillClock::default()),
    )
    .unwrap();
    let table = engine.table(Space::Idempotency);
    assert_eq!(engine.view().prefix(Space::Idempotency, &[]).count(), 2);
    table.rotate_memtable_and_wait().unwrap();
    table.major_compact().unwrap();
    assert_eq!(engine.view().prefix(Space::Idempotency, &[]).count(), 1);
}

#[tokio::test]
async fn one_large_job_passes_an_empty_queue() {
    let (house, store) = House::new().await;
    house.put(&store, 1, 6 << 20).await;
    house.put(&store, 2, 10).await;
    let values = store
        .values(house.tenant, "s", b"", None, 10)
        .await
        .unwrap();
    assert_eq!(
        values
            .iter()
            .map(|(_, value)| value.len())
            .collect::<Vec<_>>(),
        [6 << 20, 10]
    );
    let job = Job {
        writes: vec![],
        entries: vec![],
        claim: None,
        urgency: Urgency::Now,
        is_baseless: None,
        done: Box::new(drop),
    };
    store.submit(house.tenant, job).unwrap();
    store.close().await;
}
