//! Order, durability and fairness of the writer.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors::log::RingRead;
use actors::model::{Cursor, MessageState, Status, TenantId, Timestamp};
use actors::ports::{
    Directory as _, History as _, Job, LogReader as _, Outcome, Store, StoreError, StoreHealth,
    SubmitError, Ticket, Urgency, Write, Writer as _, commit,
};

use super::{Opener, World, answer, claim, committed, entry, jid, message};

pub(crate) async fn what_was_committed_is_there_after_a_reopen<O: Opener>(mut world: World<O>) {
    let chat = jid("51999888777");
    let id = world.say(&chat, "hola").await;
    let cursor = world
        .log(vec![
            entry(world.now(), "{\"n\":1}"),
            entry(world.now(), "{\"n\":2}"),
        ])
        .await;
    assert_eq!(cursor, Cursor { epoch: 1, seq: 2 });
    world.reopen().await;
    let message = world
        .store
        .message(world.tenant, world.device, id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (message.body.id, message.body.chat, message.state.status),
        (id, chat, Status::Queued)
    );
    assert_eq!(world.store.log(world.tenant).unwrap().head(), cursor);
    let entries = world
        .store
        .entries(world.tenant, 0, 10, usize::MAX)
        .await
        .unwrap();
    assert_eq!(
        entries.iter().map(|it| it.data()).collect::<Vec<_>>(),
        ["{\"n\":1}", "{\"n\":2}"]
    );
    assert_eq!(world.log(vec![entry(world.now(), "{}")]).await.seq, 3);
    assert_eq!(world.store.tenants().await.unwrap().len(), 1);
    assert_eq!(world.store.health(), StoreHealth::Ready);
    world.end().await;
}

pub(crate) async fn places_have_no_hole_whoever_submits<O: Opener>(mut world: World<O>) {
    for round in 1..=2u64 {
        let mut submitters = tokio::task::JoinSet::new();
        for _ in 0..16 {
            submitters.spawn(submit_25_times_2(
                Arc::clone(&world.store),
                world.tenant,
                world.now(),
            ));
        }
        submitters.join_all().await;
        assert_eq!(
            world.store.log(world.tenant).unwrap().head().seq,
            round * 800
        );
        world.reopen().await;
    }
    let entries = world
        .store
        .entries(world.tenant, 0, 10_000, usize::MAX)
        .await
        .unwrap();
    assert!(entries.iter().map(|it| it.cursor().seq).eq(1..=1_600));
    world.end().await;
}

async fn submit_25_times_2(store: Arc<impl Store>, tenant: TenantId, now: Timestamp) {
    for _ in 0..25 {
        committed(
            commit(
                &*store,
                tenant,
                vec![],
                vec![entry(now, "{}"), entry(now, "{}")],
                None,
            )
            .await,
        );
    }
}

pub(crate) async fn an_entry_is_never_shown_before_its_rows<O: Opener>(world: World<O>) {
    let (store, tenant, device, now, chat) = (
        Arc::clone(&world.store),
        world.tenant,
        world.device,
        world.now(),
        jid("51999888777"),
    );
    let ids = Arc::new(Mutex::new(Vec::new()));
    let (said, writing) = (Arc::clone(&ids), chat.clone());
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(async move {
        for _ in 0..200 {
            let body = message(device, &writing, "x", now);
            said.lock().unwrap().push(body.id);
            let write = Write::Message {
                body: body.into(),
                state: MessageState::new(Status::Queued),
            };
            let outbox = |id| Write::OutboxAdd {
                device,
                chat: writing.clone(),
                id,
            };
            let id = *said.lock().unwrap().last().unwrap();
            committed(
                commit(
                    &*store,
                    tenant,
                    vec![write, outbox(id)],
                    vec![entry(now, "{}")],
                    None,
                )
                .await,
            );
        }
    });
    let mut seen = 0;
    while seen < 200 {
        let mut entries = Vec::new();
        assert_eq!(
            world
                .store
                .log(tenant)
                .unwrap()
                .read_after(seen, 50, &mut entries),
            RingRead::Read
        );
        for entry in entries {
            seen = entry.cursor().seq;
            let id = ids.lock().unwrap()[usize::try_from(seen).unwrap() - 1];
            assert!(
                world
                    .store
                    .message(tenant, device, id)
                    .await
                    .unwrap()
                    .is_some(),
                "entry {seen} came before its message"
            );
        }
        let waiting = world
            .store
            .outbox(tenant, device, None, 1_000)
            .await
            .unwrap()
            .len();
        let stored = world
            .store
            .entries(tenant, 0, 1_000, usize::MAX)
            .await
            .unwrap()
            .len();
        assert!(waiting <= stored, "half a job is seen");
        tokio::task::yield_now().await;
    }
    writer.join_all().await;
    world.end().await;
}

pub(crate) async fn jobs_of_one_submitter_keep_their_order<O: Opener>(world: World<O>) {
    let (told, order) = mpsc::channel();
    for number in 0..500u32 {
        let told = told.clone();
        let done = Box::new(move |outcome| {
            told.send((number, matches!(outcome, Outcome::Committed { .. })))
                .unwrap();
        });
        let entries = vec![entry(world.now(), &number.to_string())];
        world
            .store
            .submit(
                world.tenant,
                Job {
                    writes: vec![],
                    entries,
                    claim: None,
                    urgency: Urgency::Now,
                    is_baseless: None,
                    done,
                },
            )
            .unwrap();
    }
    drop(told);
    let told = tokio::task::spawn_blocking(move || order.iter().collect::<Vec<_>>())
        .await
        .unwrap();
    assert!(told.into_iter().eq((0..500).map(|it| (it, true))));
    let entries = world
        .store
        .entries(world.tenant, 0, 1_000, usize::MAX)
        .await
        .unwrap();
    assert!(
        entries
            .iter()
            .map(|it| it.data())
            .eq((0..500u32).map(|it| it.to_string()))
    );
    world.end().await;
}

/// A job whose listener holds the writer until it is let go.
fn hold<O: Opener>(world: &World<O>) -> mpsc::Sender<()> {
    let (held, is_held) = mpsc::channel();
    let (let_go, wait) = mpsc::channel::<()>();
    let done = Box::new(move |_| {
        held.send(()).unwrap();
        let _let_go = wait.recv_timeout(Duration::from_secs(30));
    });
    world
        .store
        .submit(
            world.tenant,
            Job {
                writes: vec![],
                entries: vec![entry(world.now(), "{}")],
                claim: None,
                urgency: Urgency::Now,
                is_baseless: None,
                done,
            },
        )
        .unwrap();
    is_held.recv_timeout(Duration::from_secs(30)).unwrap();
    let_go
}

fn quiet<O: Opener>(world: &World<O>, done: actors::ports::Done) -> Job {
    Job {
        writes: vec![],
        entries: vec![entry(world.now(), "{}")],
        claim: None,
        urgency: Urgency::Now,
        is_baseless: None,
        done,
    }
}

pub(crate) async fn a_full_queue_is_busy_at_once_and_only_for_its_tenant<O: Opener>(
    world: World<O>,
) {
    let other = world.add_tenant().await;
    let let_go = hold(&world);
    let mut taken = 0;
    let (told, refusals) = mpsc::channel();
    let refused = loop {
        let told = told.clone();
        let tell = Box::new(move |outcome| {
            if let Outcome::Failed(StoreError::Refused(refused)) = outcome {
                told.send(refused).unwrap();
            }
        });
        match world.store.submit(world.tenant, quiet(&world, tell)) {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken <= 4_096, "the queue has a bound");
    };
    assert_eq!((refused, taken), (SubmitError::Busy, 4_096));
    assert_eq!(
        refusals.try_recv(),
        Ok(SubmitError::Busy),
        "who listens for the outcome hears it too"
    );
    let last = world
        .store
        .submit(other, quiet(&world, Box::new(drop)))
        .unwrap();
    drop(let_go);
    world.store.passed(other, last).await;
    world.store.passed(world.tenant, Ticket(4_096)).await;
    assert_eq!(
        world.log(vec![]).await.seq,
        4_097,
        "what was taken is written, what was refused is not"
    );
    world.end().await;
}

pub(crate) async fn a_flood_of_one_tenant_does_not_hold_another<O: Opener>(world: World<O>) {
    let other = world.add_tenant().await;
    let let_go = hold(&world);
    let order = Arc::new(Mutex::new(Vec::new()));
    let tell = |word: &'static str| {
        let order = Arc::clone(&order);
        Box::new(move |_| order.lock().unwrap().push(word))
    };
    let mut last = Ticket(0);
    for _ in 0..3_000 {
        last = world
            .store
            .submit(world.tenant, quiet(&world, tell("flood")))
            .unwrap();
    }
    world
        .store
        .submit(other, quiet(&world, tell("other")))
        .unwrap();
    drop(let_go);
    world.store.passed(world.tenant, last).await;
    let place = order
        .lock()
        .unwrap()
        .iter()
        .position(|it| *it == "other")
        .unwrap();
    assert!(place < 100, "served as number {place}");
    world.end().await;
}

pub(crate) async fn passed_waits_until_the_job_is_settled<O: Opener>(world: World<O>) {
    world.store.passed(world.tenant, Ticket(0)).await;
    let let_go = hold(&world);
    let settled = Arc::new(Mutex::new(false));
    let told = Arc::clone(&settled);
    let ticket = world
        .store
        .submit(
            world.tenant,
            quiet(&world, Box::new(move |_| *told.lock().unwrap() = true)),
        )
        .unwrap();
    let early = tokio::time::timeout(
        Duration::from_millis(50),
        world.store.passed(world.tenant, ticket),
    )
    .await;
    assert!(early.is_err(), "it waits");
    drop(let_go);
    world.store.passed(world.tenant, ticket).await;
    assert!(*settled.lock().unwrap());
    // A job that is turned down is settled too.
    let until = world.now().plus(Duration::from_secs(60));
    committed(
        commit(
            &*world.store,
            world.tenant,
            vec![],
            vec![],
            Some((claim("k", 1, until), answer("a"))),
        )
        .await,
    );
    let job = Job {
        writes: vec![],
        entries: vec![],
        claim: Some((claim("k", 2, until), answer("b"))),
        urgency: Urgency::Now,
        is_baseless: None,
        done: Box::new(drop),
    };
    let ticket = world.store.submit(world.tenant, job).unwrap();
    world.store.passed(world.tenant, ticket).await;
    world.end().await;
}

pub(crate) async fn a_tenant_begins_with_the_job_that_makes_it<O: Opener>(mut world: World<O>) {
    let stranger = TenantId::generate();
    assert!(world.store.log(stranger).is_none());
    assert!(
        world
            .store
            .submit(stranger, quiet(&world, Box::new(drop)))
            .is_err()
    );
    let made = world.add_tenant().await;
    assert_eq!(
        world.store.log(made).unwrap().head(),
        Cursor { epoch: 1, seq: 0 }
    );
    let gateway = commit(
        &*world.store,
        TenantId::GATEWAY,
        vec![Write::Value {
            space: "s",
            key: b"k".to_vec(),
            value: Some("v".into()),
        }],
        vec![],
        None,
    );
    committed(gateway.await);
    world.reopen().await;
    assert!(world.store.log(stranger).is_none());
    assert_eq!(
        world.store.log(made).unwrap().head(),
        Cursor { epoch: 1, seq: 0 }
    );
    assert_eq!(world.store.tenants().await.unwrap().len(), 2);
    assert_eq!(
        world
            .store
            .values(TenantId::GATEWAY, "s", b"", None, 9)
            .await
            .unwrap()
            .len(),
        1
    );
    world.end().await;
}

pub(crate) async fn a_closed_store_takes_nothing<O: Opener>(world: World<O>) {
    let (told, outcomes) = mpsc::channel();
    for _ in 0..50 {
        let told = told.clone();
        world
            .store
            .submit(
                world.tenant,
                quiet(
                    &world,
                    Box::new(move |it| told.send(matches!(it, Outcome::Committed { .. })).unwrap()),
                ),
            )
            .unwrap();
    }
    drop(told);
    world.store.close().await;
    assert_eq!(
        outcomes.iter().collect::<Vec<_>>(),
        [true; 50],
        "what was taken is settled"
    );
    assert_eq!(
        world
            .store
            .submit(world.tenant, quiet(&world, Box::new(drop))),
        Err(SubmitError::Closing)
    );
    assert!(world.store.devices(world.tenant).await.is_err());
    assert!(
        world
            .store
            .kept_answer(world.tenant, "send_message", "k")
            .await
            .is_err()
    );
}

pub(crate) async fn a_listener_that_panics_hurts_nobody<O: Opener>(world: World<O>) {
    let ticket = world
        .store
        .submit(
            world.tenant,
            quiet(&world, Box::new(|_| panic!("a listener's own fault"))),
        )
        .unwrap();
    world.store.passed(world.tenant, ticket).await;
    assert_eq!(world.log(vec![entry(world.now(), "{}")]).await.seq, 2);
    assert_eq!(world.store.health(), StoreHealth::Ready);
    world.end().await;
}
