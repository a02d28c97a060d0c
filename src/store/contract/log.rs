//! The log: order, limits, floor.

use actors::log::RingRead;
use actors::model::{DeviceId, Direction, Timestamp};
use actors::ports::{LogReader as _, Write, Writer as _};

use super::{Opener, World, entry, jid};

pub(crate) async fn entries_come_in_order_within_their_limits<O: Opener>(world: World<O>) {
    world
        .log(
            (0..20)
                .map(|it| entry(world.now(), &format!("{{\"n\":{it}}}")))
                .collect(),
        )
        .await;
    let seqs = async |after, entries, bytes| -> Vec<u64> {
        world
            .store
            .entries(world.tenant, after, entries, bytes)
            .await
            .unwrap()
            .iter()
            .map(|it| it.cursor().seq)
            .collect()
    };
    assert_eq!(seqs(0, 3, usize::MAX).await, [1, 2, 3]);
    assert_eq!(seqs(17, 10, usize::MAX).await, [18, 19, 20]);
    assert_eq!(seqs(5, 10, 1).await, [6], "one always comes");
    let weight = world.store.entries(world.tenant, 5, 1, 1).await.unwrap()[0].weight();
    assert_eq!(seqs(5, 10, weight * 5 / 2).await, [6, 7]);
    assert!(
        seqs(20, 10, usize::MAX).await.is_empty()
            && seqs(u64::MAX, 10, usize::MAX).await.is_empty()
    );
    world.end().await;
}

pub(crate) async fn a_floor_hides_at_once_and_never_sinks<O: Opener>(mut world: World<O>) {
    world
        .log((0..700).map(|_| entry(world.now(), "{}")).collect())
        .await;
    world.write(vec![Write::LogFloor(600)]).await;
    for _ in 0..2 {
        let entries = world
            .store
            .entries(world.tenant, 0, 1_000, usize::MAX)
            .await
            .unwrap();
        assert!(entries.iter().map(|it| it.cursor().seq).eq(601..=700));
        assert_eq!(world.store.log(world.tenant).unwrap().oldest().seq, 600);
        world.write(vec![Write::LogFloor(5)]).await;
        world.reopen().await;
    }
    world.write(vec![Write::LogFloor(u64::MAX)]).await;
    assert_eq!(
        world.store.log(world.tenant).unwrap().oldest().seq,
        700,
        "a floor is no higher than the head"
    );
    world.reopen().await;
    assert!(
        world
            .store
            .entries(world.tenant, 0, 1_000, usize::MAX)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        world.log(vec![entry(world.now(), "{}")]).await.seq,
        701,
        "an empty log goes on where it was"
    );
    world.end().await;
}

pub(crate) async fn a_time_leads_to_the_place_before_it<O: Opener>(world: World<O>) {
    let start = world.now().as_millis();
    let at = |seconds: i64| Timestamp::from_millis(start + seconds * 1_000);
    world
        .log((1..=10).map(|it| entry(at(it * 10), "{}")).collect())
        .await;
    let before = async |seconds| {
        world
            .store
            .seq_before(world.tenant, at(seconds))
            .await
            .unwrap()
    };
    assert_eq!(
        [
            before(0).await,
            before(10).await,
            before(11).await,
            before(50).await,
            before(51).await,
            before(1_000).await
        ],
        [0, 0, 1, 4, 5, 10]
    );
    world.write(vec![Write::LogFloor(4)]).await;
    assert_eq!([before(0).await, before(51).await], [4, 5]);
    // The clock steps back: from the answer on, nothing at or after the time is left out.
    world
        .log(vec![entry(at(20), "{}"), entry(at(110), "{}")])
        .await;
    assert_eq!(before(105).await, 11);
    world.end().await;
}

pub(crate) async fn an_entry_is_the_same_from_ring_and_store<O: Opener>(mut world: World<O>) {
    let mut draft = entry(world.now(), "{\"text\":\"ñ\"}");
    (draft.device, draft.chat, draft.direction) = (
        Some(DeviceId::generate()),
        Some(jid("123@g.us")),
        Some(Direction::In),
    );
    world.log(vec![draft, entry(world.now(), "{}")]).await;
    let mut ring = Vec::new();
    assert_eq!(
        world
            .store
            .log(world.tenant)
            .unwrap()
            .read_after(0, 10, &mut ring),
        RingRead::Read
    );
    for _ in 0..2 {
        let stored = world
            .store
            .entries(world.tenant, 0, 10, usize::MAX)
            .await
            .unwrap();
        assert!(
            ring.iter()
                .map(|it| it.json_frame())
                .eq(stored.iter().map(|it| it.json_frame()))
        );
        assert!(
            ring.iter()
                .map(|it| it.header())
                .eq(stored.iter().map(|it| it.header()))
        );
        world.reopen().await;
    }
    assert_eq!(
        world
            .store
            .log(world.tenant)
            .unwrap()
            .read_after(0, 10, &mut ring),
        RingRead::Behind,
        "an old entry is in the store only"
    );
    world.end().await;
}
