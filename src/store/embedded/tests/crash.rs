//! What a crash leaves behind: torn ends are cut off, damage to what was acknowledged is not.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::super::journal::{self, Survey};
use super::*;

/// A copy of a store as a power cut would leave it, with its journal under the knife.
struct Wreck {
    house: House,
    survey: Survey,
}

impl Wreck {
    /// Commits `small` little jobs and one of `last` bytes, then pulls the plug.
    async fn new(small: u64, last: usize) -> Self {
        let (house, store) = House::new().await;
        for key in 0..small {
            house.put(&store, key, 200).await;
        }
        house.put(&store, small, last).await;
        drop(store);
        let data = house.path().join("data");
        let id = folder::read_format(&data).unwrap();
        let survey = journal::survey(&data, &keys::commit(id)).unwrap().unwrap();
        assert_eq!((survey.last, survey.torn), (Some(small + 2), false));
        Self { house, survey }
    }

    fn journal(&self) -> File {
        File::options()
            .read(true)
            .write(true)
            .open(self.survey.newest.as_ref().unwrap())
            .unwrap()
    }

    fn begin(&self) -> u64 {
        self.survey.last_batch_at.unwrap()
    }

    async fn opens_with(&self, expected: (usize, usize), epoch: u32) {
        let store = self.house.try_open().unwrap();
        assert_eq!(self.house.count(&store).await, expected);
        let seq = u64::try_from(expected.1).unwrap();
        assert_eq!(
            store.log(self.house.tenant).unwrap().head(),
            Cursor { epoch, seq }
        );
        assert_eq!(
            self.house.put(&store, 1_000, 3_000).await,
            Cursor {
                epoch,
                seq: seq + 1
            }
        );
        store.close().await;
        let store = self.house.try_open().unwrap();
        assert_eq!(
            self.house.count(&store).await,
            (expected.0 + 1, expected.1 + 1),
            "what is acknowledged after it stays"
        );
        store.close().await;
        let left: Vec<_> = ["new", "repaired", "torn"]
            .into_iter()
            .filter(|it| self.house.path().join(it).exists())
            .collect();
        assert!(left.is_empty(), "{left:?} was left behind");
    }

    fn is_damaged(&self) {
        let before = fs::read(self.survey.newest.as_ref().unwrap()).unwrap();
        let refused = self.house.try_open().unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains("restore a backup"));
        assert!(
            before == fs::read(self.survey.newest.as_ref().unwrap()).unwrap(),
            "the evidence stays as it was found"
        );
    }
}

#[tokio::test]
async fn a_store_that_was_not_stopped_opens_with_everything() {
    Wreck::new(20, 3_000).await.opens_with((21, 21), 1).await;
}

#[tokio::test]
async fn an_end_that_was_cut_off_is_left_out() {
    for lost in [1, 13, 200, 2_900] {
        let wreck = Wreck::new(5, 3_000).await;
        wreck.journal().set_len(wreck.survey.end - lost).unwrap();
        wreck.opens_with((5, 5), 1).await;
    }
}

#[tokio::test]
async fn an_end_that_is_garbage_or_zero_is_left_out() {
    for filling in [0, 0xff, 2] {
        let wreck = Wreck::new(5, 3_000).await;
        let len = usize::try_from(wreck.survey.end - wreck.begin()).unwrap();
        wreck
            .journal()
            .write_all_at(&vec![filling; len - 20], wreck.begin() + 20)
            .unwrap();
        wreck.opens_with((5, 5), 1).await;
    }
}

#[tokio::test]
async fn an_end_that_is_zero_from_any_byte_of_its_first_row_on_is_left_out() {
    const HEADERS: u64 = 13 + 21;
    for written in 1..=HEADERS {
        let wreck = Wreck::new(2, 3_000).await;
        let at = wreck.begin() + written;
        let lost = usize::try_from(wreck.survey.end - at).unwrap();
        wreck.journal().write_all_at(&vec![0; lost], at).unwrap();
        wreck.opens_with((2, 2), 1).await;
    }
}

#[tokio::test]
async fn garbage_behind_the_end_is_left_out() {
    let wreck = Wreck::new(5, 3_000).await;
    wreck
        .journal()
        .write_all_at(&[0xab; 700], wreck.survey.end)
        .unwrap();
    wreck.opens_with((6, 6), 1).await;
}

#[tokio::test]
async fn a_lost_sector_within_the_last_batch_is_repaired_and_begins_an_epoch() {
    let wreck = Wreck::new(5, 3_000).await;
    wreck
        .journal()
        .write_all_at(&[0; 512], wreck.begin() + 1_024)
        .unwrap();
    let data = wreck.house.path().join("data");
    assert!(
        Engine::open(&data, 1 << 20, Arc::new(StillClock::default())).is_err(),
        "the engine alone refuses"
    );
    wreck.opens_with((5, 5), 2).await;
}

#[tokio::test]
async fn a_repair_that_was_interrupted_is_ended_at_the_next_start() {
    let wreck = Wreck::new(5, 3_000).await;
    let path = wreck.house.path();
    fs::create_dir(path.join("repaired")).unwrap();
    fs::write(path.join("repaired").join("half"), "").unwrap();
    let store = wreck.house.try_open().unwrap();
    assert_eq!(wreck.house.count(&store).await, (6, 6));
    drop(store);
    // The old data is moved away, its verified successor not yet in its place.
    fs::rename(path.join("data"), path.join("repaired")).unwrap();
    fs::create_dir(path.join("torn")).unwrap();
    wreck.opens_with((6, 6), 1).await;
}

#[tokio::test]
async fn damage_in_front_of_an_acknowledged_batch_is_not_cut_off() {
    // In the header of a row: the engine alone would cut off everything behind it, in silence.
    let wreck = Wreck::new(5, 3_000).await;
    let before_last = {
        let data = wreck.house.path().join("data");
        let id = folder::read_format(&data).unwrap();
        let content = fs::read(wreck.survey.newest.as_ref().unwrap()).unwrap();
        let key = keys::commit(id);
        let found: Vec<_> = content
            .windows(key.len())
            .enumerate()
            .filter(|(_, it)| *it == key)
            .map(|(at, _)| at)
            .collect();
        u64::try_from(found[found.len() - 3]).unwrap()
    };
    wreck
        .journal()
        .write_all_at(&[0xff; 4], before_last - 20)
        .unwrap();
    wreck.is_damaged();
}

#[tokio::test]
async fn a_changed_byte_in_an_acknowledged_batch_is_not_cut_off() {
    let wreck = Wreck::new(5, 3_000).await;
    let journal = wreck.journal();
    journal.write_all_at(b"y", wreck.begin() - 150).unwrap();
    wreck.is_damaged();
}

#[tokio::test]
async fn after_a_clean_stop_nothing_may_be_torn() {
    let wreck = Wreck::new(5, 3_000).await;
    wreck.house.try_open().unwrap().close().await;
    wreck.journal().set_len(wreck.survey.end - 1).unwrap();
    let refused = wreck.house.try_open().unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::Damaged {
                what: "its last commits are missing",
                ..
            }
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn journals_that_follow_each_other_are_walked_through() {
    let (house, store) = House::new().await;
    // Past the size at which the engine begins a new journal.
    for key in 0..80 {
        house.put(&store, key, 1 << 20).await;
    }
    drop(store);
    let data = house.path().join("data");
    let id = folder::read_format(&data).unwrap();
    let survey = journal::survey(&data, &keys::commit(id)).unwrap().unwrap();
    assert_eq!(survey.last, Some(81));
    let store = house.try_open().unwrap();
    assert_eq!(house.count(&store).await, (80, 80));
    store.close().await;
}

#[test]
fn no_engine_is_needed_to_read_an_empty_folder() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        journal::survey(dir.path(), b"key").unwrap(),
        Ok(Survey::default())
    );
}
