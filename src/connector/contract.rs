//! What every connector does, whatever its network: each connector runs these rules on a bench of its own.

mod bench;

use std::sync::Arc;

use actors::model::{Direction, Status};
use actors::ports::connector::{Command, ConnectorError, Handed, Note, Start, Stop};

use self::bench::taken;
pub(crate) use self::bench::{Bench, Phone, until};

/// QR, scan, linked, connected: in this order.
pub(crate) async fn pairing_ends_connected(bench: &impl Bench) {
    let phone = Phone::connected(bench, "51900000001").await;
    let mut notes = phone.ear.notes().into_iter();
    let Some(Note::Qr(qr)) = notes.next() else {
        panic!("a QR comes first")
    };
    assert_eq!(qr.attempt, 1);
    assert!(!qr.code.is_empty());
    assert!(matches!(notes.next(), Some(Note::Linked { number }) if number == phone.number));
    assert!(matches!(notes.next(), Some(Note::Connected)));
    assert!(notes.next().is_none());
}

/// QRs that nobody scans end the pairing, and it can be asked for again.
pub(crate) async fn a_pairing_that_nobody_scans_ends(bench: &impl Bench) {
    let phone = Phone::open(bench, "51900000001").await;
    for round in 1..=2 {
        phone.session.start(Start::LinkQr).await.unwrap();
        let ends = || {
            phone
                .ear
                .notes()
                .iter()
                .filter(|it| matches!(it, Note::PairingTimeout))
                .count()
        };
        until("the pairing ended", || ends() == round).await;
    }
    let attempts: Vec<u32> = phone
        .ear
        .notes()
        .iter()
        .filter_map(|it| {
            if let Note::Qr(qr) = it {
                Some(qr.attempt)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        attempts[..attempts.len() / 2],
        attempts[attempts.len() / 2..]
    );
    assert!(
        attempts[..attempts.len() / 2]
            .iter()
            .copied()
            .eq(1..=u32::try_from(attempts.len() / 2).unwrap())
    );
}

/// Nothing is carried out off the network.
pub(crate) async fn a_session_that_is_not_connected_says_so(bench: &impl Bench) {
    let phone = Phone::open(bench, "51900000001").await;
    let message = phone.message(&bench.reader().await, "early");
    let answer = phone.session.execute(Command::Send(vec![message])).await;
    assert!(matches!(answer, Err(ConnectorError::NotConnected)));
    let other = Phone::connected(bench, "51900000002").await;
    other.session.stop(Stop::Disconnect).await;
    let answer = other.session.execute(Command::Send(vec![])).await;
    assert!(matches!(answer, Err(ConnectorError::NotConnected)));
    assert_eq!(other.ear.notes().len(), 3, "no note follows a stop");
}

/// A link outlives a disconnect and a restart; no QR is shown.
pub(crate) async fn a_link_is_resumed(bench: &mut impl Bench) {
    let phone = Phone::connected(bench, "51900000001").await;
    phone.session.stop(Stop::Disconnect).await;
    phone.session.start(Start::Resume).await.unwrap();
    until("it is connected again", || phone.ear.notes().len() == 4).await;
    assert!(matches!(phone.ear.notes()[3], Note::Connected));
    bench.restart().await;
    let phone = Phone::reopen(bench, phone.device, "51900000001").await;
    phone.session.start(Start::Resume).await.unwrap();
    until("it is connected after a restart", || {
        phone.ear.is_connected()
    })
    .await;
    assert_eq!(phone.ear.notes().len(), 1);
}

/// One answer a message, in order; what arrives elsewhere arrives in order.
pub(crate) async fn a_batch_is_answered_in_order(bench: &impl Bench) {
    let (from, to) = (
        Phone::connected(bench, "51900000001").await,
        Phone::connected(bench, "51900000002").await,
    );
    let (reader, nobody) = (bench.reader().await, bench.nobody().await);
    let mut batch = Vec::new();
    for nth in 0..50 {
        batch.push(from.message(&to.jid(), &nth.to_string()));
        batch.push(from.message(&nobody, "lost"));
        batch.push(from.message(&reader, "virtual"));
    }
    let answers = from.send(&batch).await;
    assert_eq!(answers.len(), batch.len());
    for (message, answer) in batch.iter().zip(&answers) {
        let refused = matches!(
            answer,
            Handed::Refused {
                code: "not_on_network",
                ..
            }
        );
        assert_eq!(
            (taken(answer), refused),
            (message.chat != nobody, message.chat == nobody)
        );
    }
    assert_eq!(
        to.ear.texts(),
        (0..50).map(|it| it.to_string()).collect::<Vec<_>>()
    );
    let first = to.ear.messages().swap_remove(0);
    assert_eq!(
        (&first.chat, &first.from, first.direction),
        (&from.jid(), &from.jid(), Direction::In)
    );
    assert_eq!(first.upstream_id, batch[0].upstream_id);
}

/// A second hand-over under the same name makes no second message.
pub(crate) async fn the_same_name_says_it_once(bench: &impl Bench) {
    let (from, to) = (
        Phone::connected(bench, "51900000001").await,
        Phone::connected(bench, "51900000002").await,
    );
    let message = from.message(&to.jid(), "once");
    assert!(taken(&from.send(&[Arc::clone(&message)]).await[0]));
    assert!(taken(&from.send(&[Arc::clone(&message)]).await[0]));
    assert_eq!(to.ear.texts(), ["once"]);
    to.session.stop(Stop::Disconnect).await;
    let away = from.message(&to.jid(), "while away");
    assert!(taken(&from.send(&[Arc::clone(&away)]).await[0]));
    assert!(taken(&from.send(&[Arc::clone(&away)]).await[0]));
    to.session.start(Start::Resume).await.unwrap();
    until("what was kept arrived", || to.ear.texts().len() == 2).await;
    assert_eq!(to.ear.texts(), ["once", "while away"]);
}

/// Delivered comes before read, for the right message.
pub(crate) async fn receipts_climb_the_ladder(bench: &impl Bench) {
    let (from, to) = (
        Phone::connected(bench, "51900000001").await,
        Phone::connected(bench, "51900000002").await,
    );
    let (virtual_one, real_one) = (
        from.message(&bench.reader().await, "a"),
        from.message(&to.jid(), "b"),
    );
    let answers = from
        .send(&[Arc::clone(&virtual_one), Arc::clone(&real_one)])
        .await;
    assert!(answers.iter().all(taken));
    until("it was read", || {
        from.steps_of(&virtual_one).contains(&Status::Read)
    })
    .await;
    assert_eq!(
        from.steps_of(&virtual_one),
        [Status::Delivered, Status::Read]
    );
    until("it arrived", || {
        from.steps_of(&real_one).contains(&Status::Delivered)
    })
    .await;
    let read = Command::MarkRead {
        chat: from.jid(),
        upstream_ids: vec![real_one.upstream_id.clone()],
    };
    assert!(to.session.execute(read).await.unwrap().is_empty());
    until("the other has read it", || {
        from.steps_of(&real_one).contains(&Status::Read)
    })
    .await;
    assert_eq!(from.steps_of(&real_one), [Status::Delivered, Status::Read]);
    assert!(
        from.ear
            .receipts()
            .iter()
            .all(|it| it.chat == real_one.chat || it.chat == virtual_one.chat)
    );
}

/// What comes for a device that is away comes when it is back: whole, in order, before it says it is connected.
pub(crate) async fn what_comes_while_away_comes_at_the_return(bench: &mut impl Bench) {
    let (from, to) = (
        Phone::connected(bench, "51900000001").await,
        Phone::connected(bench, "51900000002").await,
    );
    to.session.stop(Stop::Disconnect).await;
    let batch: Vec<_> = (0..300)
        .map(|nth| from.message(&to.jid(), &nth.to_string()))
        .collect();
    assert!(from.send(&batch).await.iter().all(taken));
    assert!(to.ear.texts().is_empty() && from.ear.receipts().is_empty());
    bench.restart().await;
    let from = Phone::reopen(bench, from.device, "51900000001").await;
    let to = Phone::reopen(bench, to.device, "51900000002").await;
    to.session.start(Start::Resume).await.unwrap();
    until("it is back", || to.ear.is_connected()).await;
    assert_eq!(
        to.ear.texts(),
        (0..300).map(|it| it.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(to.ear.before_connected(), Some(300));
    from.session.start(Start::Resume).await.unwrap();
    until("the sender has its receipts", || {
        batch
            .iter()
            .all(|it| from.steps_of(it) == [Status::Delivered])
    })
    .await;
}

/// A gateway that is too busy is offered the same again, and nothing is lost or turned round.
pub(crate) async fn a_busy_gateway_is_offered_it_again(bench: &impl Bench) {
    let (from, to) = (
        Phone::connected(bench, "51900000001").await,
        Phone::connected(bench, "51900000002").await,
    );
    to.ear.is_busy_for(3);
    let first = from.message(&to.jid(), "0");
    assert!(matches!(
        from.send(&[Arc::clone(&first)]).await[0],
        Handed::Later(_)
    ));
    from.send_until_taken(&first).await;
    from.send_until_taken(&from.message(&to.jid(), "1")).await;
    assert_eq!(to.ear.texts(), ["0", "1"]);
    from.ear.is_busy_for(4);
    let read = from.message(&bench.reader().await, "read");
    from.send_until_taken(&read).await;
    until("the receipts came all the same", || {
        from.steps_of(&read).len() == 2
    })
    .await;
    assert_eq!(from.steps_of(&read), [Status::Delivered, Status::Read]);
}

/// After a logout there is no link any more; the number is free.
pub(crate) async fn a_logout_gives_up_the_link(bench: &mut impl Bench) {
    let phone = Phone::connected(bench, "51900000001").await;
    phone.session.stop(Stop::Logout).await;
    bench.restart().await;
    let again = Phone::reopen(bench, phone.device, "51900000001").await;
    again.session.start(Start::Resume).await.unwrap();
    until("it learns that the link is gone", || {
        again.ear.has(|it| matches!(it, Note::LoggedOut))
    })
    .await;
    let other = Phone::connected(bench, "51900000001").await;
    assert!(other.ear.is_connected());
}

/// A deleted device leaves nothing behind.
pub(crate) async fn a_forgotten_device_leaves_nothing(bench: &mut impl Bench) {
    let (from, gone) = (
        Phone::connected(bench, "51900000001").await,
        Phone::connected(bench, "51900000002").await,
    );
    gone.session.stop(Stop::Disconnect).await;
    assert!(taken(
        &from
            .send(&[from.message(&gone.jid(), "for the old one")])
            .await[0]
    ));
    bench.connector().forget(bench.tenant(), gone.device).await;
    bench.restart().await;
    let fresh = Phone::connected(bench, "51900000002").await;
    assert!(fresh.ear.texts().is_empty());
    let again = Phone::reopen(bench, gone.device, "51900000003").await;
    again.session.start(Start::Resume).await.unwrap();
    until("the old one is unknown", || {
        again.ear.has(|it| matches!(it, Note::LoggedOut))
    })
    .await;
}
