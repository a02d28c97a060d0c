//! A key is used once.

use std::sync::Arc;
use std::time::Duration;

use actors::ports::{Directory as _, Outcome, commit};

use super::{Opener, World, answer, claim, committed, entry};

pub(crate) async fn a_retry_gets_the_first_answer_and_writes_nothing<O: Opener>(
    mut world: World<O>,
) {
    let until = world.now().plus(Duration::from_secs(60));
    let first = Some((claim("k", 1, until), answer("first")));
    let cursor = committed(
        commit(
            &*world.store,
            world.tenant,
            vec![],
            vec![entry(world.now(), "{}")],
            first,
        )
        .await,
    );
    for round in 0..2 {
        let retry = Some((claim("k", 1, until), answer("second")));
        match commit(
            &*world.store,
            world.tenant,
            vec![],
            vec![entry(world.now(), "{}")],
            retry,
        )
        .await
        {
            Ok(Outcome::Replayed(kept)) => assert_eq!(
                (kept.answer, kept.cursor, kept.expires_at),
                (answer("first"), cursor, until)
            ),
            other => panic!("not replayed in round {round}: {other:?}"),
        }
        let kept = world
            .store
            .kept_answer(world.tenant, "send_message", "k")
            .await
            .unwrap()
            .unwrap();
        assert_eq!((kept.answer, kept.fingerprint), (answer("first"), [1; 32]));
        world.reopen().await;
    }
    assert_eq!(world.log(vec![]).await, cursor);
    world.end().await;
}

pub(crate) async fn another_call_under_the_same_key_is_a_mismatch<O: Opener>(world: World<O>) {
    let until = world.now().plus(Duration::from_secs(60));
    let ask = async |what| {
        commit(
            &*world.store,
            world.tenant,
            vec![],
            vec![entry(world.now(), "{}")],
            Some((claim("k", what, until), answer("a"))),
        )
        .await
    };
    committed(ask(1).await);
    assert!(matches!(ask(2).await, Ok(Outcome::Mismatch)));
    assert!(
        matches!(ask(1).await, Ok(Outcome::Replayed(_))),
        "the first call keeps its answer"
    );
    assert_eq!(world.log(vec![]).await.seq, 1);
    world.end().await;
}

pub(crate) async fn parallel_twins_are_written_once<O: Opener>(world: World<O>) {
    let until = world.now().plus(Duration::from_secs(60));
    let mut twins = tokio::task::JoinSet::new();
    for number in 0..50u8 {
        let (store, tenant, now) = (Arc::clone(&world.store), world.tenant, world.now());
        twins.spawn(async move {
            let claim = claim("k", number % 2, until);
            commit(
                &*store,
                tenant,
                vec![],
                vec![entry(now, "{}")],
                Some((claim, answer(&number.to_string()))),
            )
            .await
            .unwrap()
        });
    }
    let (mut committed, mut answers, mut mismatches) = (0, Vec::new(), 0);
    for outcome in twins.join_all().await {
        match outcome {
            Outcome::Committed { .. } => committed += 1,
            Outcome::Replayed(kept) => answers.push(kept.answer),
            Outcome::Mismatch => mismatches += 1,
            Outcome::Failed(error) => panic!("{error}"),
        }
    }
    assert_eq!((committed, answers.len(), mismatches), (1, 24, 25));
    assert!(
        answers.iter().all(|it| *it == answers[0]),
        "all get the same answer"
    );
    assert_eq!(world.log(vec![]).await.seq, 1);
    world.end().await;
}

pub(crate) async fn an_answer_whose_time_is_over_is_absent<O: Opener>(world: World<O>) {
    let ask = async |word| {
        let until = world.now().plus(Duration::from_secs(60));
        commit(
            &*world.store,
            world.tenant,
            vec![],
            vec![entry(world.now(), "{}")],
            Some((claim("k", 1, until), answer(word))),
        )
        .await
    };
    committed(ask("first").await);
    world.clock.turn(59_999);
    assert!(matches!(ask("second").await, Ok(Outcome::Replayed(_))));
    world.clock.turn(1);
    assert_eq!(
        world
            .store
            .kept_answer(world.tenant, "send_message", "k")
            .await
            .unwrap(),
        None
    );
    assert_eq!(committed(ask("third").await).seq, 2);
    let kept = world
        .store
        .kept_answer(world.tenant, "send_message", "k")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((kept.answer, kept.cursor.seq), (answer("third"), 2));
    world.end().await;
}

pub(crate) async fn keys_of_other_operations_and_tenants_do_not_meet<O: Opener>(world: World<O>) {
    let until = world.now().plus(Duration::from_secs(60));
    let other = world.add_tenant().await;
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
    committed(
        commit(
            &*world.store,
            other,
            vec![],
            vec![],
            Some((claim("k", 2, until), answer("b"))),
        )
        .await,
    );
    let mut elsewhere = claim("k", 3, until);
    elsewhere.operation = "create_device";
    committed(
        commit(
            &*world.store,
            world.tenant,
            vec![],
            vec![],
            Some((elsewhere, answer("c"))),
        )
        .await,
    );
    let kept = async |tenant, operation| {
        world
            .store
            .kept_answer(tenant, operation, "k")
            .await
            .unwrap()
            .map(|it| it.answer)
    };
    assert_eq!(kept(world.tenant, "send_message").await, Some(answer("a")));
    assert_eq!(kept(other, "send_message").await, Some(answer("b")));
    assert_eq!(kept(world.tenant, "create_device").await, Some(answer("c")));
    assert_eq!(kept(other, "create_device").await, None);
    world.end().await;
}
