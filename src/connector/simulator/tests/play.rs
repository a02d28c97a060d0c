//! The levers: scanning, playing messages, receipts, notes and trouble.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::model::{Content, Health, HealthState, MessageId, Status};
use actors::ports::connector::{Availability, Command, Note, Start, Stop, Typing};
use actors::ports::simulation::{ConnectionEvent, PlayedMessage, Simulation as _, SimulationError};

use super::SimulatorBench;
use crate::connector::contract::{Bench as _, Phone, until};
use crate::connector::simulator::SimulatorOptions;

fn played(count: u32, seed: u128) -> PlayedMessage {
    PlayedMessage {
        from: "51988888888".parse().unwrap(),
        content: Content::Text {
            text: "hola".to_owned(),
            preview_url: None,
        },
        group: None,
        timestamp: None,
        count,
        seed,
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_waits_for_the_qr_and_gives_up_without_one() {
    let bench = SimulatorBench::new();
    let phone = Phone::open(&bench, "51900000001").await;
    let scan = bench.simulator.scan(bench.tenant, phone.device, None);
    assert_eq!(scan.await, Err(SimulationError::NoQr));
    let begin = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        phone.session.start(Start::LinkQr).await.unwrap();
    };
    let (scanned, ()) = tokio::join!(
        bench.simulator.scan(bench.tenant, phone.device, None),
        begin
    );
    assert_eq!(scanned, Ok(()));
    until("it is connected", || phone.ear.is_connected()).await;
    assert_eq!(
        bench.simulator.scan(bench.tenant, phone.device, None).await,
        Ok(()),
        "a linked device is fine"
    );
}

#[tokio::test(start_paused = true)]
async fn a_number_is_one_device_s_only_and_a_made_up_one_repeats() {
    let bench = SimulatorBench::new();
    let first = Phone::connected(&bench, "51900000001").await;
    let second = Phone::open(&bench, "51900000001").await;
    second.session.start(Start::LinkQr).await.unwrap();
    let scan = |number: Option<&str>| {
        bench.simulator.scan(
            bench.tenant,
            second.device,
            number.map(|it| it.parse().unwrap()),
        )
    };
    assert_eq!(
        scan(Some("51900000001")).await,
        Err(SimulationError::NumberTaken)
    );
    assert_eq!(scan(None).await, Ok(()));
    let made_up = second.ear.linked_number().unwrap();
    assert_ne!(Some(&made_up), first.ear.linked_number().as_ref());
    second.session.stop(Stop::Logout).await;
    let again = Phone::reopen(&bench, second.device, "51900000001").await;
    again.session.start(Start::LinkQr).await.unwrap();
    assert_eq!(scan(None).await, Ok(()));
    assert_eq!(again.ear.linked_number(), Some(made_up));
}

#[tokio::test(start_paused = true)]
async fn a_scan_that_can_not_be_kept_links_nothing() {
    let bench = SimulatorBench::new();
    let phone = Phone::open(&bench, "51900000001").await;
    phone.session.start(Start::LinkQr).await.unwrap();
    bench.store.is_full.store(true, Ordering::Relaxed);
    assert_eq!(
        bench.simulator.scan(bench.tenant, phone.device, None).await,
        Err(SimulationError::Full)
    );
    bench.store.is_full.store(false, Ordering::Relaxed);
    assert!(!phone.ear.has(|it| matches!(it, Note::Linked { .. })));
    assert_eq!(
        bench.simulator.scan(bench.tenant, phone.device, None).await,
        Ok(())
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_qr_lives_a_minute_and_the_next_five_twenty_seconds_each() {
    let bench = SimulatorBench::new();
    let phone = Phone::open(&bench, "51900000001").await;
    let began = tokio::time::Instant::now();
    phone.session.start(Start::LinkQr).await.unwrap();
    // Started again, it begins anew, and the old timer does not cut it short.
    tokio::time::sleep(Duration::from_secs(30)).await;
    phone.session.start(Start::LinkQr).await.unwrap();
    until("it is over", || {
        phone.ear.has(|it| matches!(it, Note::PairingTimeout))
    })
    .await;
    assert_eq!(began.elapsed().as_secs(), 30 + 60 + 5 * 20);
    let codes: Vec<_> = phone
        .ear
        .notes()
        .into_iter()
        .filter_map(|it| {
            if let Note::Qr(qr) = it {
                Some(qr)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(
        codes.iter().map(|it| it.attempt).collect::<Vec<_>>(),
        [1, 1, 2, 3, 4, 5, 6]
    );
    assert!(codes.iter().all(|it| it.code.starts_with("2@")));
    assert_eq!(
        codes[2].expires_at.since(codes[1].expires_at),
        Duration::from_secs(20)
    );
}

#[tokio::test(start_paused = true)]
async fn played_messages_come_once_and_are_kept_while_the_device_is_away() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let play = |message| {
        bench
            .simulator
            .play_messages(bench.tenant, phone.device, message)
    };
    let names = play(played(1_000, 1)).await.unwrap().unwrap();
    assert_eq!((names.len(), phone.ear.sizes()), (1_000, vec![512, 488]));
    assert_eq!(
        play(played(1_000, 1)).await.unwrap().unwrap(),
        names,
        "the same act makes no second message"
    );
    assert_eq!(phone.ear.repeats(), 1_000);
    phone.session.stop(Stop::Disconnect).await;
    assert_eq!(play(played(700, 2)).await, Ok(None));
    assert_eq!(bench.store.keys("mail/").len(), 700);
    phone.session.start(Start::Resume).await.unwrap();
    until("they came", || phone.ear.messages().len() == 1_700).await;
    until("nothing is kept any more", || {
        bench.store.keys("mail/").is_empty()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_message_in_a_group_names_who_wrote_it() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let group = "120363041234567890@g.us".parse().unwrap();
    let message = PlayedMessage {
        group: Some(group),
        ..played(1, 1)
    };
    bench
        .simulator
        .play_messages(bench.tenant, phone.device, message.clone())
        .await
        .unwrap();
    let came = phone.ear.messages().remove(0);
    assert_eq!(
        (Some(&came.chat), came.participant.as_ref()),
        (message.group.as_ref(), Some(&message.from))
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_busy_gateway_does_not_take_is_kept_and_comes_later() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    phone.ear.is_busy_for(10);
    assert_eq!(
        bench
            .simulator
            .play_messages(bench.tenant, phone.device, played(5, 1))
            .await,
        Ok(None)
    );
    until("they came", || phone.ear.messages().len() == 5).await;
    let names = bench
        .simulator
        .play_messages(bench.tenant, phone.device, played(1, 2))
        .await;
    assert!(matches!(names, Ok(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn nothing_overtakes_what_was_kept() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    // Busy until the first message is kept, and once more when it is brought.
    phone.ear.is_busy_for(4);
    for (seed, text) in [(1, "first"), (2, "second")] {
        let content = Content::Text {
            text: text.to_owned(),
            preview_url: None,
        };
        let message = PlayedMessage {
            content,
            ..played(1, seed)
        };
        let names = bench
            .simulator
            .play_messages(bench.tenant, phone.device, message)
            .await;
        assert_eq!(names, Ok(None));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("both came", || phone.ear.texts().len() == 2).await;
    assert_eq!(phone.ear.texts(), ["first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_puts_off_what_is_handed_over() {
    let bench = SimulatorBench::with(SimulatorOptions {
        kept_max: 3,
        ..SimulatorOptions::default()
    });
    let (from, to) = (
        Phone::connected(&bench, "51900000001").await,
        Phone::connected(&bench, "51900000002").await,
    );
    to.session.stop(Stop::Disconnect).await;
    assert_eq!(
        bench
            .simulator
            .play_messages(bench.tenant, to.device, played(3, 1))
            .await,
        Ok(None)
    );
    assert_eq!(
        bench
            .simulator
            .play_messages(bench.tenant, to.device, played(1, 2))
            .await,
        Err(SimulationError::Busy)
    );
    let message = from.message(&to.jid(), "x");
    assert!(matches!(
        from.send(std::slice::from_ref(&message)).await[0],
        actors::ports::connector::Handed::Later(_)
    ));
    to.session.start(Start::Resume).await.unwrap();
    from.send_until_taken(&message).await;
    until("all came", || to.ear.messages().len() == 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_receipt_is_played_only_for_what_was_handed_over() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let message = phone.message(&"51988888888".parse().unwrap(), "x");
    let play = || {
        bench.simulator.play_receipt(
            bench.tenant,
            phone.device,
            message.chat.clone(),
            message.id,
            Status::Played,
        )
    };
    assert_eq!(play().await, Err(SimulationError::UnknownMessage));
    bench.store_as(&message, Status::Queued);
    assert_eq!(play().await, Err(SimulationError::UnknownMessage));
    bench.store_as(&message, Status::Sent);
    assert_eq!(play().await, Ok(()));
    assert_eq!(phone.steps_of(&message), [Status::Played]);
    phone.session.stop(Stop::Disconnect).await;
    assert_eq!(play().await, Ok(()));
    phone.session.start(Start::Resume).await.unwrap();
    until("the kept one came", || phone.steps_of(&message).len() == 2).await;
    let unknown = bench.simulator.play_receipt(
        bench.tenant,
        phone.device,
        message.chat.clone(),
        MessageId::generate(),
        Status::Read,
    );
    assert_eq!(unknown.await, Err(SimulationError::UnknownMessage));
}

#[tokio::test(start_paused = true)]
async fn typing_and_presence_reach_a_device_that_is_there() {
    let bench = SimulatorBench::new();
    let (from, to) = (
        Phone::connected(&bench, "51900000001").await,
        Phone::connected(&bench, "51900000002").await,
    );
    from.session
        .execute(Command::Typing {
            chat: to.jid(),
            typing: Typing::Recording,
        })
        .await
        .unwrap();
    assert!(to.ear.has(|it| matches!(it, Note::Typing { chat, participant, typing: Typing::Recording } if *chat == from.jid() && *participant == from.jid())));
    let someone: actors::model::Jid = "51988888888".parse().unwrap();
    bench
        .simulator
        .play_presence(
            bench.tenant,
            to.device,
            someone.clone(),
            Availability::Unavailable,
        )
        .await
        .unwrap();
    assert!(to.ear.has(
        |it| matches!(it, Note::Presence { contact, last_seen: Some(_), .. } if *contact == someone)
    ));
    bench
        .simulator
        .play_typing(
            bench.tenant,
            to.device,
            someone.clone(),
            someone.clone(),
            Typing::Composing,
        )
        .await
        .unwrap();
    to.session.stop(Stop::Disconnect).await;
    let before = to.ear.notes().len();
    bench
        .simulator
        .play_typing(
            bench.tenant,
            to.device,
            someone.clone(),
            someone.clone(),
            Typing::Composing,
        )
        .await
        .unwrap();
    assert_eq!(to.ear.notes().len(), before);
    let stranger = Phone::open(&bench, "51900000003").await;
    let answer = bench
        .simulator
        .play_presence(
            bench.tenant,
            stranger.device,
            someone,
            Availability::Available,
        )
        .await;
    assert_eq!(answer, Err(SimulationError::NotLinked));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_session_comes_back_with_its_link() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    bench
        .simulator
        .play_connection(bench.tenant, phone.device, ConnectionEvent::Drop)
        .await
        .unwrap();
    assert!(phone.ear.has(|it| matches!(
        it,
        Note::Dropped {
            reason: "connection_lost"
        }
    )));
    assert!(
        phone
            .session
            .execute(Command::Send(Vec::new()))
            .await
            .is_err()
    );
    phone.session.start(Start::Resume).await.unwrap();
    assert!(matches!(phone.ear.notes().last(), Some(Note::Connected)));
}

#[tokio::test(start_paused = true)]
async fn a_banned_account_stays_out_until_it_is_linked_anew() {
    let mut bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    bench
        .simulator
        .play_connection(bench.tenant, phone.device, ConnectionEvent::Ban)
        .await
        .unwrap();
    assert!(matches!(
        phone.ear.notes().last(),
        Some(Note::Banned { .. })
    ));
    bench.restart().await;
    let phone = Phone::reopen(&bench, phone.device, "51900000001").await;
    phone.session.start(Start::Resume).await.unwrap();
    assert!(matches!(
        phone.ear.notes().as_slice(),
        [Note::Banned { .. }]
    ));
    phone.session.start(Start::LinkQr).await.unwrap();
    assert_eq!(
        bench.simulator.scan(bench.tenant, phone.device, None).await,
        Ok(())
    );
    until("it is connected", || phone.ear.is_connected()).await;
}

#[tokio::test(start_paused = true)]
async fn a_restricted_account_still_sends_and_is_told_again_after_a_restart() {
    let mut bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    bench
        .simulator
        .play_connection(bench.tenant, phone.device, ConnectionEvent::Restrict)
        .await
        .unwrap();
    let restricted = |phone: &Phone| {
        phone.ear.has(|it| matches!(it, Note::Health(health) if health.state == HealthState::Restricted && health.until.is_some()))
    };
    assert!(restricted(&phone));
    phone
        .send_until_taken(&phone.message(&"51988888888".parse().unwrap(), "x"))
        .await;
    bench.restart().await;
    let phone = Phone::reopen(&bench, phone.device, "51900000001").await;
    phone.session.start(Start::Resume).await.unwrap();
    until("it is told", || restricted(&phone)).await;
}

#[tokio::test(start_paused = true)]
async fn a_restriction_ends_by_itself_also_for_who_was_away() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let restrict = || {
        bench
            .simulator
            .play_connection(bench.tenant, phone.device, ConnectionEvent::Restrict)
    };
    let good = || {
        let notes = phone.ear.notes();
        let is_good =
            |it: &&Note| matches!(it, Note::Health(health) if *health == Health::default());
        notes.iter().filter(is_good).count()
    };
    restrict().await.unwrap();
    tokio::time::sleep(Duration::from_hours(23)).await;
    // Begins anew: what the first one set does not end it.
    restrict().await.unwrap();
    tokio::time::sleep(Duration::from_hours(23)).await;
    assert_eq!(good(), 0);
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert_eq!(good(), 1, "told once");
    restrict().await.unwrap();
    phone.session.stop(Stop::Disconnect).await;
    tokio::time::sleep(Duration::from_hours(25)).await;
    assert_eq!(good(), 1, "nobody is there to be told");
    phone.session.start(Start::Resume).await.unwrap();
    until("it is told at its return", || good() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_phone_that_gives_up_the_link_is_told_and_forgotten() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    bench
        .simulator
        .play_connection(bench.tenant, phone.device, ConnectionEvent::Logout)
        .await
        .unwrap();
    assert!(matches!(phone.ear.notes().last(), Some(Note::LoggedOut)));
    assert!(bench.store.keys("link/").is_empty());
    let again = bench
        .simulator
        .play_connection(bench.tenant, phone.device, ConnectionEvent::Drop)
        .await;
    assert_eq!(again, Err(SimulationError::NotLinked));
}
