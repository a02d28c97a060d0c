//! What moves stays the same, and what is not whole is refused.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on shall fail loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors::model::{
    Cursor, DeviceState, EventId, KeyId, KeyKind, KeyRecord, ScopeSet, SessionChange, Tenant,
    TenantId, Timestamp,
};
use actors::model::{MessageState, Status};
use actors::ports::{Clock, Directory as _, History as _, LogReader as _, Store, Write, commit};
use bytes::Bytes;
use parking_lot::Mutex;
use sha2::Digest as _;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::Duration;

use super::backup::{BackupError, Backups, Standing};
use super::copy::Copy;
use super::files::Draft;
use super::record::{Record, Tally};
use super::{Archive, Chunk, Mark, Phase, Place, TransferError, copy, count, moved, restore};
use crate::store::contract::{
    answer, chat_row, claim, committed, device_record, entry, jid, message,
};
use crate::store::cql::{self, CqlStore, tests as cql_tests};
use crate::store::embedded::Offline;
use crate::store::{EmbeddedOptions, EmbeddedStore, OpenError};
use crate::testing::{Inside, inside};

mod resume;

use resume::{
    a_copy_to_servers_and_one_back_go_on_where_they_were_interrupted,
    a_copy_to_servers_that_does_not_arrive_as_sent_is_found_out,
};

/// What is run on servers.
pub(crate) const CQL_CASES: &[Inside] = inside![
    a_store_goes_to_servers_and_comes_back,
    a_copy_to_servers_and_one_back_go_on_where_they_were_interrupted,
    a_copy_to_servers_that_does_not_arrive_as_sent_is_found_out,
];

const NOW: Timestamp = Timestamp::from_millis(1_767_225_700_000);

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Still)
}

fn later(millis: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + millis)
}

fn open(path: &Path) -> Result<Arc<EmbeddedStore>, OpenError> {
    EmbeddedStore::open(EmbeddedOptions::new(path.to_owned()), clock())
}

fn silent(_: Phase, _: u64, _: u64) {}

/// Puts at least two of everything into a store, with what must not move: a removed device, what lies behind a floor,
/// an answer whose time is over.
async fn fill(store: &dyn Store) -> Vec<TenantId> {
    let mut tenants = vec![TenantId::GATEWAY];
    for name in ["one", "two"] {
        let tenant = Tenant {
            id: TenantId::generate(),
            name: name.to_owned(),
            limits: actors::model::TenantLimits::default(),
            created_at: NOW,
            removal: actors::model::Removal::None,
        };
        let id = tenant.id;
        let write = vec![Write::Tenant(Box::new(tenant))];
        committed(commit(store, id, write, vec![], None).await);
        tenants.push(id);
    }
    for tenant in &tenants {
        fill_tenant(store, *tenant).await;
    }
    tenants
}

async fn fill_tenant(store: &dyn Store, tenant: TenantId) {
    let (kept, removed) = (device_record(NOW), device_record(NOW));
    let mut writes = vec![
        Write::Device(Box::new(kept.clone())),
        Write::Device(Box::new(removed.clone())),
    ];
    for number in 0..3 {
        writes.push(Write::Key(Box::new(KeyRecord {
            id: KeyId::generate(),
            tenant,
            kind: KeyKind::Device,
            name: format!("key {number}"),
            scopes: ScopeSet::tenant(),
            devices: vec![kept.id],
            allowed_ips: Vec::new(),
            expires_at: None,
            hash: [number; 32],
            created_at: NOW,
        })));
        writes.push(Write::Consumer {
            name: format!("consumer {number}"),
            cursor: Cursor { epoch: 1, seq: 1 },
        });
        writes.push(Write::Value {
            space: "simulator",
            key: vec![number, 0, 255],
            value: Some(Bytes::copy_from_slice(&[number; 9])),
        });
    }
    committed(commit(store, tenant, writes, vec![], None).await);
    for device in [&kept, &removed] {
        let mut writes = vec![Write::SessionChange {
            device: device.id,
            id: EventId::generate(),
            change: SessionChange {
                state: DeviceState::Connected,
                previous: DeviceState::Connecting,
                reason: None,
                at: NOW,
            },
        }];
        for address in ["51999888777", "120363041234567890@g.us"] {
            let chat = jid(address);
            writes.push(Write::Chat(Box::new(chat_row(device.id, &chat, 3, NOW))));
            for text in ["hello", "good day"] {
                let body = message(device.id, &chat, text, NOW);
                let (id, state) = (body.id, MessageState::new(Status::Queued));
                writes.push(Write::Upstream {
                    device: device.id,
                    chat: chat.clone(),
                    from_me: true,
                    upstream_id: format!("3EB0{id}"),
                    id,
                });
                writes.push(Write::OutboxAdd {
                    device: device.id,
                    chat: chat.clone(),
                    id,
                });
                let body = body.into();
                writes.push(Write::Message { body, state });
            }
        }
        committed(commit(store, tenant, writes, vec![], None).await);
    }
    let entries = (0..5).map(|it| entry(NOW, &format!("{{\"n\":{it}}}")));
    committed(commit(store, tenant, vec![], entries.collect(), None).await);
    for (key, until) in [("kept", later(60_000)), ("over", NOW)] {
        let claim = Some((claim(key, 1, until), answer("{}")));
        committed(commit(store, tenant, vec![], vec![], claim).await);
    }
    let writes = vec![Write::LogFloor(2), Write::DeviceRemoved(removed.id)];
    committed(commit(store, tenant, writes, vec![], None).await);
}

/// All records that an archive had at `NOW`, sorted, as they are after a move.
async fn records(archive: &dyn Archive) -> Vec<String> {
    let (out, mut chunks) = mpsc::channel::<Chunk>(1);
    let reading = async move {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend(chunk.records.iter().map(|it| format!("{it:?}")));
        }
        all
    };
    let (exported, mut all) = tokio::join!(archive.export(NOW, None, out), reading);
    exported.unwrap();
    all.sort();
    all
}

async fn filled(path: &Path) -> Vec<TenantId> {
    let store = open(path).unwrap();
    let tenants = fill(&*store).await;
    actors::ports::Writer::close(&*store).await;
    tenants
}

fn copying(
    source: &Arc<impl Archive + 'static>,
    destination: &Arc<impl Archive + 'static>,
) -> Copy<'static> {
    Copy {
        source: Arc::clone(source) as Arc<dyn Archive>,
        destination: Arc::clone(destination) as Arc<dyn Archive>,
        called: "here".to_owned(),
        named: "there".to_owned(),
        progress: &silent,
        note_every: Duration::ZERO,
    }
}

fn offline(path: &Path) -> Arc<Offline> {
    Arc::new(Offline::open(path).unwrap())
}

fn as_moved(records: Vec<String>) -> Vec<String> {
    let epoch = format!("epoch: {}", 100);
    records
        .into_iter()
        .map(|it| {
            if it.starts_with("Tenant") {
                it.replace("head: 1-", "head: 100-")
                    .replace("epoch: 1", &epoch)
            } else {
                it
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_copied_reads_the_same() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let tenants = filled(from.path()).await;
    let (source, destination) = (offline(from.path()), offline(to.path()));
    let tally = copying(&source, &destination).run(NOW).await.unwrap();
    let before = records(&*source).await;
    assert_eq!(as_moved(before.clone()), records(&*destination).await);
    assert_eq!(tally.records(), u64::try_from(before.len()).unwrap());
    let counts: Vec<(&str, u64)> = tally.kinds().map(|(kind, sum)| (kind, sum.count)).collect();
    let expected = [
        ("chats", 6),
        ("consumers", 9),
        ("devices", 3),
        ("kept answers", 3),
        ("keys", 9),
        ("log entries", 9),
        ("messages", 12),
        ("session changes", 3),
        ("tenants", 3),
        ("upstream ids", 12),
        ("values", 9),
        ("waiting messages", 12),
    ];
    assert_eq!(counts, expected);
    source.close().await;
    destination.close().await;
    drop((source, destination));
    let store = open(to.path()).unwrap();
    for tenant in tenants {
        let head = actors::ports::Writer::log(&*store, tenant).unwrap().head();
        assert_eq!(head, Cursor { epoch: 100, seq: 5 });
        let entries = store.entries(tenant, 0, 100, 1 << 20).await.unwrap();
        assert_eq!(entries.len(), 3);
        assert!(entries.iter().all(|it| it.cursor().epoch == 1));
        let [device] = &store.devices(tenant).await.unwrap()[..] else {
            panic!("one device")
        };
        let waiting = store.outbox(tenant, device.id, None, 10).await.unwrap();
        assert_eq!(waiting.len(), 4);
        let again = claim("kept", 1, later(60_000));
        let again = commit(
            &*store,
            tenant,
            vec![],
            vec![],
            Some((again, answer("other"))),
        );
        let again = again.await.unwrap();
        assert!(
            matches!(again, actors::ports::Outcome::Replayed(kept) if kept.answer == answer("{}"))
        );
        let next = committed(commit(&*store, tenant, vec![], vec![entry(NOW, "{}")], None).await);
        assert_eq!(next, Cursor { epoch: 100, seq: 6 });
    }
    actors::ports::Writer::close(&*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_tells_how_far_it_came() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(from.path()).await;
    let (source, destination) = (offline(from.path()), offline(to.path()));
    let told = Mutex::new(Vec::new());
    let progress = |phase, records, about| told.lock().push((phase, records, about));
    let copy = Copy {
        progress: &progress,
        ..copying(&source, &destination)
    };
    let all = copy.run(NOW).await.unwrap().records();
    let told = told.lock();
    for phase in [Phase::Write, Phase::Verify] {
        let of_phase = told.iter().filter(|it| it.0 == phase);
        let records: Vec<u64> = of_phase.clone().map(|it| it.1).collect();
        assert!(records.is_sorted());
        assert_eq!(records.last(), Some(&all), "{phase:?}");
        assert!(of_phase.clone().all(|it| 0 < it.2), "{phase:?}");
    }
    assert!(
        told.iter()
            .filter(|it| it.0 == Phase::Verify)
            .all(|it| it.2 == all)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_goes_on_where_it_was_interrupted_and_nobody_serves_it_before() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(from.path()).await;
    let (source, destination) = (offline(from.path()), offline(to.path()));
    // A part of it is there, and somewhat more than the note says.
    let (out, mut chunks) = mpsc::channel::<Chunk>(1);
    source.export(NOW, None, out).await.unwrap();
    let mut part = chunks.recv().await.unwrap().records;
    part.truncate(20);
    moved(&mut part, NOW);
    destination.import(part.clone()).await.unwrap();
    let mut tally = Tally::default();
    count(&mut tally, &part[..3]).unwrap();
    // All tenants, which come first: the walk goes on with its next step.
    assert!(
        part[..3]
            .iter()
            .all(|it| matches!(it, Record::Tenant { .. }))
    );
    let note = serde_json::json!({
        "source": source.version().await.unwrap(), "began_at": NOW, "mark": Mark(vec![1]), "tally": tally,
    });
    destination
        .set_note(Some(note.to_string().into_bytes()))
        .await
        .unwrap();
    destination.close().await;
    drop(destination);
    assert!(matches!(open(to.path()), Err(OpenError::Unfinished { .. })));
    // Nor is it copied on.
    let beyond = TempDir::new().unwrap();
    let place = |it: &TempDir| Place::Embedded(it.path().to_owned());
    let config = crate::config::Config::from_toml("").unwrap();
    let part = copy(&config, &place(&to), &place(&beyond), clock(), &silent).await;
    let part = part.unwrap_err();
    assert!(matches!(part, TransferError::NotWhole(_)), "{part}");
    assert_eq!(fs::read_dir(beyond.path()).unwrap().count(), 0);
    let destination = offline(to.path());
    copying(&source, &destination)
        .run(later(5_000))
        .await
        .unwrap();
    assert_eq!(
        as_moved(records(&*source).await),
        records(&*destination).await
    );
    assert_eq!(destination.note().await.unwrap(), None);
    let again = copying(&source, &destination).run(NOW).await.unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty(_)), "{again}");
}

async fn a_store_goes_to_servers_and_comes_back() {
    let options = cql_tests::options();
    let (from, back) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(from.path()).await;
    let (source, last) = (offline(from.path()), offline(back.path()));
    let opened = Box::pin(CqlStore::open_unfinished(options.clone(), clock())).await;
    let servers = opened.unwrap();
    // What a copy leaves that was interrupted.
    let note = serde_json::json!({
        "source": source.version().await.unwrap(), "began_at": NOW, "mark": null, "tally": Tally::default(),
    });
    let note = note.to_string().into_bytes();
    servers.set_note(Some(note.clone())).await.unwrap();
    assert_eq!(servers.note().await.unwrap(), Some(note));
    Archive::close(&*servers).await;
    let refused = Box::pin(CqlStore::open(options.clone(), clock())).await;
    assert!(matches!(refused, Err(cql::OpenError::Unfinished { .. })));
    let opened = Box::pin(CqlStore::open_unfinished(options.clone(), clock())).await;
    let servers = opened.unwrap();
    Box::pin(copying(&source, &servers).run(NOW)).await.unwrap();
    let before = as_moved(records(&*source).await);
    assert_eq!(before, records(&*servers).await);
    Archive::close(&*servers).await;
    drop(servers);
    // A gateway may start on it, and the copy back finds what it has read.
    let opened = Box::pin(CqlStore::open(options.clone(), clock())).await;
    let servers = opened.unwrap();
    let again = Box::pin(copying(&source, &servers).run(NOW))
        .await
        .unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty(_)), "{again}");
    Box::pin(copying(&servers, &last).run(NOW)).await.unwrap();
    let after = records(&*last).await;
    let came_back: Vec<String> = after
        .iter()
        .map(|it| it.replace("epoch: 101", "epoch: 100"))
        .collect();
    assert_eq!(before, came_back);
    assert_eq!(
        after.iter().filter(|it| it.contains("epoch: 101")).count(),
        3
    );
    Archive::close(&*servers).await;
    // Into another cluster of the keyspace, where its rows would lie on those of the first.
    let mut beside = options.clone();
    beside.cql.cluster.push_str("-beside");
    let opened = Box::pin(CqlStore::open_unfinished(beside, clock())).await;
    let beside = opened.unwrap();
    let refused = Box::pin(copying(&source, &beside).run(NOW)).await;
    let refused = crate::telemetry::Chain(&refused.unwrap_err()).to_string();
    let word = format!(
        "is in the cluster {} of the same keyspace",
        options.cql.cluster
    );
    assert!(refused.contains(&word), "{refused}");
    Archive::close(&*beside).await;
    let opened = Box::pin(CqlStore::open(options, clock())).await;
    let servers = opened.unwrap();
    assert_eq!(before, records(&*servers).await, "nothing was touched");
    Archive::close(&*servers).await;
}

/// Backs a store up, and gives the folder.
async fn backed_up(store: Arc<EmbeddedStore>, dir: &TempDir) -> PathBuf {
    let path = dir.path().join("backup");
    let backups = Backups::new(Some(store), Some(0), clock());
    backups.begin(path.clone()).await.unwrap();
    loop {
        match backups.standing() {
            Standing::Running { .. } => tokio::task::yield_now().await,
            Standing::Done { .. } => break,
            other @ (Standing::None | Standing::Failed { .. }) => panic!("{other:?}"),
        }
    }
    let again = backups.begin(path.clone()).await.unwrap_err();
    assert!(matches!(
        again,
        BackupError::Begin(TransferError::NotEmpty(_))
    ));
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_as_it_was() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(from.path()).unwrap();
    fill(&*store).await;
    let path = backed_up(Arc::clone(&store), &to).await;
    let late = vec![entry(NOW, "{}")];
    committed(commit(&*store, TenantId::GATEWAY, vec![], late, None).await);
    actors::ports::Writer::close(&*store).await;
    drop(store);
    let into = to.path().join("into");
    let restored = restore(&path, &into, NOW, &silent).await.unwrap();
    assert_eq!(restored.tally.records(), 90);
    let store = open(&into).unwrap();
    assert_eq!(store.tenants().await.unwrap().len(), 2);
    actors::ports::Writer::close(&*store).await;
    let again = restore(&path, &into, NOW, &silent).await.unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty(_)), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_with_one_wrong_byte_is_refused() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(from.path()).unwrap();
    fill(&*store).await;
    let path = backed_up(Arc::clone(&store), &to).await;
    let into = to.path().join("into");
    for name in ["records/00001", "manifest.json"] {
        let file = path.join(name);
        let good = fs::read(&file).unwrap();
        for at in (0..good.len()).step_by(good.len() / 7) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, bad).unwrap();
            let refused = restore(&path, &into, NOW, &silent).await.unwrap_err();
            assert!(
                matches!(refused, TransferError::Damaged { .. }),
                "{name} {at}: {refused}"
            );
        }
        fs::write(&file, &good[..good.len() - 1]).unwrap();
        let refused = restore(&path, &into, NOW, &silent).await.unwrap_err();
        assert!(
            matches!(refused, TransferError::Damaged { .. }),
            "{refused}"
        );
        fs::write(&file, good).unwrap();
    }
    fs::rename(path.join("manifest.json"), path.join("x")).unwrap();
    let refused = restore(&path, &into, NOW, &silent).await.unwrap_err();
    assert!(
        refused.to_string().contains("it was not finished"),
        "{refused}"
    );
    assert!(!into.exists());
    actors::ports::Writer::close(&*store).await;
}

#[tokio::test]
async fn a_backup_of_a_newer_version_is_told_apart_from_damage() {
    let dir = TempDir::new().unwrap();
    let line = r#"{"format":2,"what":"nobody knows"}"#;
    let hash = sha2::Sha256::digest(line);
    let hash: String = hash.iter().map(|it| format!("{it:02x}")).collect();
    let manifest = dir.path().join("manifest.json");
    fs::write(manifest, format!("{line}\n{hash}\n")).unwrap();
    let into = dir.path().join("into");
    let refused = restore(dir.path(), &into, NOW, &silent).await.unwrap_err();
    assert!(matches!(refused, TransferError::Newer { found: 2, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_fails_leaves_nothing_behind_and_the_store_goes_on() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = open(from.path()).unwrap();
    fill(&*store).await;
    for (min_free, stops, word) in [(u64::MAX, false, "no room"), (0, true, "stopped")] {
        let backups = Backups::new(Some(Arc::clone(&store)), Some(min_free), clock());
        if stops {
            backups.stop().await;
        }
        backups.begin(to.path().to_owned()).await.unwrap();
        while matches!(backups.standing(), Standing::Running { .. }) {
            tokio::task::yield_now().await;
        }
        let Standing::Failed { reason, .. } = backups.standing() else {
            panic!("it has not failed")
        };
        assert!(reason.contains(word), "{reason}");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    }
    let late = vec![entry(NOW, "{}")];
    committed(commit(&*store, TenantId::GATEWAY, vec![], late, None).await);
    let of_servers = Backups::new(None, None, clock());
    let refused = of_servers.begin(to.path().to_owned()).await.unwrap_err();
    assert!(refused.to_string().contains("snapshots"), "{refused}");
    let backups = Backups::new(Some(Arc::clone(&store)), Some(0), clock());
    let refused = backups.begin("here".into()).await.unwrap_err();
    assert!(matches!(refused, BackupError::Relative));
    actors::ports::Writer::close(&*store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_stopped_while_it_is_read_back_leaves_nothing_behind() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(from.path()).await;
    let (out, mut chunks) = mpsc::channel::<Chunk>(9);
    offline(from.path()).export(NOW, None, out).await.unwrap();
    let records = chunks.recv().await.unwrap().records;
    let mut draft = Draft::begin(to.path()).unwrap();
    draft.add(&records).unwrap();
    let stopped = draft.end(NOW, || true).unwrap_err();
    assert!(matches!(stopped, TransferError::Stopped), "{stopped}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn an_epoch_is_never_the_old_one() {
    let tenant = |epoch| Record::Tenant {
        tenant: TenantId::GATEWAY,
        row: None,
        head: Cursor { epoch, seq: 3 },
        floor: 0,
    };
    let mut records = [tenant(1), tenant(500)];
    moved(&mut records, NOW);
    assert_eq!(records, [tenant(100), tenant(501)]);
}
