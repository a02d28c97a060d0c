//! Copies that come to harm: interrupted ones, keys whose time runs out meanwhile, records that do not arrive as sent.

use std::sync::atomic::{AtomicUsize, Ordering};

use actors::ports::StoreError;
use async_trait::async_trait;

use super::*;
use crate::store::rows;

/// Answers that fill more than one chunk; all of them are forgotten before the copy goes on.
const ANSWERS: usize = 2_500;

/// An archive that does not do as it should.
struct Faltering {
    archive: Arc<dyn Archive>,
    fault: Fault,
}

enum Fault {
    /// It takes so many chunks and then no more.
    Stops(AtomicUsize),
    /// It loses the values of connectors.
    Loses,
    /// It changes a byte of each value of a connector.
    Alters,
}

#[async_trait]
impl Archive for Faltering {
    async fn export(
        &self,
        as_of: Timestamp,
        from: Option<Mark>,
        out: mpsc::Sender<Chunk>,
    ) -> Result<(), StoreError> {
        self.archive.export(as_of, from, out).await
    }

    async fn import(&self, mut records: Vec<Record>) -> Result<(), StoreError> {
        let mut taken = Ok(());
        match &self.fault {
            Fault::Stops(takes) => {
                let less = |left: usize| left.checked_sub(1);
                let left = takes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                taken = left.map(drop).map_err(|_| StoreError::Away);
            }
            Fault::Loses => records.retain(|it| !matches!(it, Record::Value { .. })),
            Fault::Alters => {
                for record in &mut records {
                    if let Record::Value { row, .. } = record {
                        let mut bytes = row.to_vec();
                        bytes[0] ^= 1;
                        *row = bytes.into();
                    }
                }
            }
        }
        // What is refused may have been written, as where the servers are gone before they answer.
        self.archive.import(records).await?;
        taken
    }

    async fn version(&self) -> Result<String, StoreError> {
        self.archive.version().await
    }

    fn estimate(&self) -> u64 {
        self.archive.estimate()
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        self.archive.is_empty().await
    }

    async fn note(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.archive.note().await
    }

    async fn set_note(&self, note: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.archive.set_note(note).await
    }

    async fn held(&self) -> Result<(), StoreError> {
        self.archive.held().await
    }

    async fn close(&self) {
        self.archive.close().await;
    }
}

/// Copies at `NOW` until the destination takes no more chunks; gives how far the note says it came.
async fn interrupt(
    source: &Arc<impl Archive + 'static>,
    destination: &Arc<impl Archive + 'static>,
    takes: usize,
) -> u64 {
    let archive = Arc::clone(destination) as Arc<dyn Archive>;
    let faltering = Arc::new(Faltering {
        archive,
        fault: Fault::Stops(AtomicUsize::new(takes)),
    });
    let failed = Box::pin(copying(source, &faltering).run(NOW)).await;
    let failed = failed.unwrap_err();
    assert!(
        matches!(failed, TransferError::Store(StoreError::Away)),
        "{failed}"
    );
    let note = destination.note().await.unwrap().unwrap();
    let note: serde_json::Value = serde_json::from_slice(&note).unwrap();
    assert!(note["mark"].is_string(), "{note}");
    let tally: Tally = serde_json::from_value(note["tally"].clone()).unwrap();
    tally.records()
}

/// A copy into an archive that loses or changes records is found out, and is no store that may be used.
async fn found_out(
    source: &Arc<impl Archive + 'static>,
    destination: Arc<dyn Archive>,
    fault: Fault,
) {
    let archive = Arc::clone(&destination);
    let faltering = Arc::new(Faltering { archive, fault });
    let copied = Box::pin(copying(source, &faltering).run(NOW)).await;
    let differs = copied.unwrap_err();
    assert!(matches!(differs, TransferError::Differs(_)), "{differs}");
    let said = differs.to_string();
    assert!(
        said.contains("values") && said.contains("must not be used"),
        "{said}"
    );
    assert!(destination.note().await.unwrap().is_some());
    destination.close().await;
}

/// A store with kept answers that are forgotten a second after `NOW`.
async fn with_answers(path: &Path) -> Arc<Offline> {
    let source = offline(path);
    let tenant = TenantId::GATEWAY;
    let kept = |number: usize| {
        let (claim, answer) = (claim("k", 1, later(1_000)), answer("{}"));
        Record::Answer {
            tenant,
            operation: claim.operation.to_owned(),
            key: format!("key {number}"),
            row: rows::kept_answer(&answer, claim.fingerprint, claim.expires_at)
                .unwrap()
                .into(),
        }
    };
    let mut records = vec![Record::Tenant {
        tenant,
        row: None,
        head: Cursor { epoch: 1, seq: 5 },
        floor: 2,
    }];
    records.extend((0..ANSWERS).map(kept));
    source.import(records).await.unwrap();
    source
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_runs_out_while_a_copy_waits_to_go_on_does_it_no_harm() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = with_answers(from.path()).await;
    let destination = offline(to.path());
    let noted = interrupt(&source, &destination, 2).await;
    assert_eq!(noted, 2_000);
    let tally = copying(&source, &destination)
        .run(later(60_000))
        .await
        .unwrap();
    assert_eq!(tally.records(), u64::try_from(ANSWERS).unwrap() + 1);
    assert_eq!(
        as_moved(records(&*source).await),
        records(&*destination).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_interrupted_long_ago_begins_again() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let source = with_answers(from.path()).await;
    let destination = offline(to.path());
    interrupt(&source, &destination, 1).await;
    let next_day = later(24 * 3_600 * 1_000);
    let tally = copying(&source, &destination).run(next_day).await.unwrap();
    assert_eq!(tally.records(), 1, "nothing but the tenant counts any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_does_not_arrive_as_sent_is_found_out() {
    let from = TempDir::new().unwrap();
    filled(from.path()).await;
    let source = offline(from.path());
    for fault in [Fault::Loses, Fault::Alters] {
        let to = TempDir::new().unwrap();
        found_out(&source, offline(to.path()), fault).await;
        assert!(matches!(open(to.path()), Err(OpenError::Unfinished { .. })));
    }
}

pub(super) async fn a_copy_to_servers_that_does_not_arrive_as_sent_is_found_out() {
    for fault in [Fault::Loses, Fault::Alters] {
        // A store is in one cluster of a keyspace.
        let from = TempDir::new().unwrap();
        filled(from.path()).await;
        let source = offline(from.path());
        let options = cql_tests::options();
        let opened = Box::pin(CqlStore::open_unfinished(options.clone(), clock())).await;
        found_out(&source, opened.unwrap(), fault).await;
        let refused = Box::pin(CqlStore::open(options, clock())).await;
        assert!(matches!(refused, Err(cql::OpenError::Unfinished { .. })));
    }
}

pub(super) async fn a_copy_to_servers_and_one_back_go_on_where_they_were_interrupted() {
    let options = cql_tests::options();
    let (from, back) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(from.path()).await;
    let (source, last) = (with_answers(from.path()).await, offline(back.path()));
    let opened = Box::pin(CqlStore::open_unfinished(options, clock())).await;
    let servers = opened.unwrap();
    interrupt(&source, &servers, 1).await;
    let whole = Box::pin(copying(&source, &servers).run(later(60_000)))
        .await
        .unwrap();
    let before = records(&*servers).await;
    assert_eq!(before, as_moved(records(&*source).await));
    // From the servers an owner or a range of the ring comes whole: the mark is behind one of them.
    let noted = interrupt(&servers, &last, 3).await;
    assert!(noted < whole.records());
    let tally = Box::pin(copying(&servers, &last).run(later(60_000)))
        .await
        .unwrap();
    assert_eq!(tally.records(), whole.records());
    let after = records(&*last).await;
    let came_back: Vec<String> = after
        .iter()
        .map(|it| it.replace("epoch: 101", "epoch: 100"))
        .collect();
    assert_eq!(before, came_back);
    Archive::close(&*servers).await;
}
