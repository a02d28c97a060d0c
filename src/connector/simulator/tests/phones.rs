//! Virtual phones: when they confirm, answer, and keep silent.

use std::sync::Arc;
use std::time::Duration;

use actors::model::{Direction, Status};
use actors::ports::connector::Handed;
use actors::ports::simulation::{
    AutoReceipts, Phone as Behaviour, PhoneChoice, Simulation as _, SimulationError,
};
use tokio::time::Instant;

use super::SimulatorBench;
use crate::connector::contract::{Bench as _, Phone, until};
use crate::connector::simulator::SimulatorOptions;

const NUMBER: &str = "51988888888";

#[tokio::test(start_paused = true)]
async fn a_phone_that_nobody_set_delivers_after_50_ms_and_does_not_read() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let message = phone.message(&NUMBER.parse().unwrap(), "x");
    let began = Instant::now();
    phone.send_until_taken(&message).await;
    until("it arrived", || !phone.steps_of(&message).is_empty()).await;
    assert!(
        (50..60).contains(&began.elapsed().as_millis()),
        "{:?}",
        began.elapsed()
    );
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let receipts = phone.ear.receipts();
    assert_eq!(
        (receipts.len(), receipts[0].status, receipts[0].id),
        (1, Status::Delivered, Some(message.id))
    );
    assert_eq!(bench.simulator.node.timers.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn settings_of_phones_outlive_a_restart() {
    let mut bench = SimulatorBench::new();
    let own = Behaviour {
        name: Some("Ana".to_owned()),
        online: false,
        ..Behaviour::default()
    };
    let all = Behaviour {
        auto_receipts: None,
        ..Behaviour::default()
    };
    bench.set(Some(NUMBER), own.clone()).await;
    bench.set(None, all.clone()).await;
    bench.restart().await;
    let phone = |choice| bench.simulator.phone(bench.tenant, choice);
    assert_eq!(
        phone(PhoneChoice::Number(NUMBER.parse().unwrap())).await,
        Ok(own)
    );
    assert_eq!(
        phone(PhoneChoice::Number("51911111111".parse().unwrap())).await,
        Ok(all.clone())
    );
    assert_eq!(phone(PhoneChoice::Default).await, Ok(all));
}

#[tokio::test(start_paused = true)]
async fn one_more_number_with_settings_than_there_may_be_is_refused() {
    let bench = SimulatorBench::with(SimulatorOptions {
        phones_max: 1,
        ..SimulatorOptions::default()
    });
    bench.set(Some(NUMBER), Behaviour::default()).await;
    bench
        .set(
            Some(NUMBER),
            Behaviour {
                online: false,
                ..Behaviour::default()
            },
        )
        .await;
    bench.set(None, Behaviour::default()).await;
    let one_more = PhoneChoice::Number("51911111111".parse().unwrap());
    let answer = bench
        .simulator
        .set_phone(bench.tenant, one_more, Behaviour::default())
        .await;
    assert_eq!(answer, Err(SimulationError::Busy));
}

#[tokio::test(start_paused = true)]
async fn a_phone_gets_what_it_missed_when_it_comes_online_also_beyond_what_is_held() {
    let bench = SimulatorBench::with(SimulatorOptions {
        held_max: 2,
        ..SimulatorOptions::default()
    });
    bench
        .set(
            Some(NUMBER),
            Behaviour {
                online: false,
                ..Behaviour::default()
            },
        )
        .await;
    let phone = Phone::connected(&bench, "51900000001").await;
    let batch: Vec<_> = (0..5)
        .map(|nth| phone.message(&NUMBER.parse().unwrap(), &nth.to_string()))
        .collect();
    assert!(
        phone
            .send(&batch)
            .await
            .iter()
            .all(|it| matches!(it, Handed::Taken { .. }))
    );
    batch.iter().for_each(|it| bench.store_as(it, Status::Sent));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(phone.ear.receipts().is_empty());
    bench.set(Some(NUMBER), Behaviour::default()).await;
    until("all arrived", || {
        batch
            .iter()
            .all(|it| phone.steps_of(it).contains(&Status::Delivered))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_an_offline_phone_survives_a_crash() {
    let mut bench = SimulatorBench::new();
    bench
        .set(
            Some(NUMBER),
            Behaviour {
                online: false,
                ..Behaviour::default()
            },
        )
        .await;
    let phone = Phone::connected(&bench, "51900000001").await;
    let message = phone.message(&NUMBER.parse().unwrap(), "x");
    phone.send_until_taken(&message).await;
    bench.store_as(&message, Status::Sent);
    bench.crash();
    let phone = Phone::reopen(&bench, phone.device, "51900000001").await;
    phone
        .session
        .start(actors::ports::connector::Start::Resume)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(phone.ear.receipts().is_empty());
    bench.set(Some(NUMBER), Behaviour::default()).await;
    until("it arrived", || {
        phone.steps_of(&message) == [Status::Delivered]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_blocks_us_takes_messages_and_says_nothing() {
    let bench = SimulatorBench::new();
    bench
        .set(
            Some(NUMBER),
            Behaviour {
                blocks_us: true,
                auto_reply: Some("no".to_owned()),
                ..Behaviour::default()
            },
        )
        .await;
    let phone = Phone::connected(&bench, "51900000001").await;
    phone
        .send_until_taken(&phone.message(&NUMBER.parse().unwrap(), "x"))
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(phone.ear.receipts().is_empty() && phone.ear.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_phone_answers_after_it_got_the_message_and_once() {
    let bench = SimulatorBench::new();
    for (number, auto_receipts) in [
        (NUMBER, Behaviour::default().auto_receipts),
        ("51911111111", None),
    ] {
        bench
            .set(
                Some(number),
                Behaviour {
                    auto_reply: Some("gracias".to_owned()),
                    auto_receipts,
                    ..Behaviour::default()
                },
            )
            .await;
    }
    let phone = Phone::connected(&bench, "51900000001").await;
    for number in [NUMBER, "51911111111"] {
        let message = phone.message(&number.parse().unwrap(), "x");
        phone.send_until_taken(&message).await;
        phone.send_until_taken(&message).await;
    }
    until("both answered", || phone.ear.messages().len() == 2).await;
    until("nothing is on its way", || {
        bench.simulator.node.timers.used() == 0
    })
    .await;
    let answers = phone.ear.messages();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|it| it.chat == it.from
        && it.direction == Direction::In
        && it.upstream_id.starts_with("SIM")));
    assert!(
        phone
            .ear
            .receipts()
            .iter()
            .all(|it| it.chat.user() == NUMBER)
    );
}

#[tokio::test(start_paused = true)]
async fn groups_and_lists_that_nobody_knows_are_refused() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    for address in [
        "120363041234567890@g.us",
        "123456789@lid",
        "status@broadcast",
        "12@newsletter",
    ] {
        let answer = phone
            .send(&[phone.message(&address.parse().unwrap(), "x")])
            .await;
        assert!(
            matches!(
                answer[0],
                Handed::Refused {
                    code: "not_on_network",
                    ..
                }
            ),
            "{address}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_to_oneself_arrives_and_is_read() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let note = phone.message(&phone.jid(), "note to self");
    phone.send_until_taken(&note).await;
    until("it was read", || {
        phone.steps_of(&note) == [Status::Delivered, Status::Read]
    })
    .await;
    assert!(phone.ear.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_receipts_slows_the_network_and_loses_nothing() {
    let bench = SimulatorBench::with(SimulatorOptions {
        timers_max: 600,
        ..SimulatorOptions::default()
    });
    let receipts = Some(AutoReceipts {
        deliver_ms: 1_000,
        read_ms: Some(1_000),
    });
    bench
        .set(
            None,
            Behaviour {
                auto_receipts: receipts,
                ..Behaviour::default()
            },
        )
        .await;
    let phone = Phone::connected(&bench, "51900000001").await;
    let began = Instant::now();
    let mut sent = Vec::new();
    for _ in 0..6 {
        let batch: Vec<_> = (0..500)
            .map(|_| phone.message(&NUMBER.parse().unwrap(), "x"))
            .collect();
        assert!(
            phone
                .send(&batch)
                .await
                .iter()
                .all(|it| matches!(it, Handed::Taken { .. }))
        );
        sent.extend(batch);
    }
    assert!(
        10 <= began.elapsed().as_secs(),
        "each batch waited for the one before"
    );
    until("every receipt came", || {
        phone.ear.receipts().len() == 2 * sent.len()
    })
    .await;
    assert!(phone.ear.sizes().iter().all(|it| *it <= 512));
    assert_eq!(bench.simulator.node.timers.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn receipts_that_are_offered_again_keep_their_order() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let batch: Vec<_> = (0..20)
        .map(|nth| phone.message(&NUMBER.parse().unwrap(), &nth.to_string()))
        .collect();
    phone.send(&batch).await;
    phone.ear.is_busy_for(3);
    until("every receipt came", || {
        phone.ear.receipts().len() == batch.len()
    })
    .await;
    let names: Vec<_> = phone.ear.receipts().iter().filter_map(|it| it.id).collect();
    assert_eq!(names, batch.iter().map(|it| it.id).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_stays_full_puts_messages_off() {
    let bench = SimulatorBench::with(SimulatorOptions {
        timers_max: 1,
        ..SimulatorOptions::default()
    });
    let receipts = Some(AutoReceipts {
        deliver_ms: 3_600_000,
        read_ms: None,
    });
    bench
        .set(
            None,
            Behaviour {
                auto_receipts: receipts,
                ..Behaviour::default()
            },
        )
        .await;
    let phone = Phone::connected(&bench, "51900000001").await;
    let [first, second] = ["1", "2"].map(|it| phone.message(&NUMBER.parse().unwrap(), it));
    phone.send_until_taken(&first).await;
    assert!(matches!(
        phone.send(&[Arc::clone(&second)]).await[0],
        Handed::Later(_)
    ));
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    until("the first arrived", || {
        phone.steps_of(&first) == [Status::Delivered]
    })
    .await;
    phone.send_until_taken(&second).await;
}
