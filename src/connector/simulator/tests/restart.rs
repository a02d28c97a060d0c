//! What is unsettled at a crash gets its receipts after it.

use std::time::Duration;

use actors::model::{Direction, Message, MessageBody, MessageId, MessageState, Status};
use actors::ports::connector::{Start, Stop};
use actors::ports::simulation::{AutoReceipts, Phone as Behaviour};

use super::SimulatorBench;
use crate::connector::contract::{Phone, until};

const NUMBER: &str = "51988888888";

#[tokio::test(start_paused = true)]
async fn receipts_that_were_due_at_a_crash_come_after_it() {
    let mut bench = SimulatorBench::new();
    let receipts = Some(AutoReceipts {
        deliver_ms: 10_000,
        read_ms: Some(10_000),
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
    let batch: Vec<_> = (0..600)
        .map(|_| phone.message(&NUMBER.parse().unwrap(), "x"))
        .collect();
    phone.send(&batch).await;
    for (nth, message) in batch.iter().enumerate() {
        bench.store_as(
            message,
            if nth % 2 == 0 {
                Status::Sent
            } else {
                Status::Delivered
            },
        );
    }
    bench.crash();
    let phone = Phone::reopen(&bench, phone.device, "51900000001").await;
    phone.session.start(Start::Resume).await.unwrap();
    until("every message was read", || {
        batch
            .iter()
            .all(|it| phone.steps_of(it).last() == Some(&Status::Read))
    })
    .await;
    assert_eq!(phone.steps_of(&batch[0]), [Status::Delivered, Status::Read]);
    assert_eq!(
        phone.steps_of(&batch[1]),
        [Status::Read],
        "what had arrived does not arrive again"
    );
}

#[tokio::test(start_paused = true)]
async fn receipts_that_are_due_while_the_device_is_away_come_at_its_return() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let message = phone.message(&NUMBER.parse().unwrap(), "x");
    phone.send_until_taken(&message).await;
    bench.store_as(&message, Status::Sent);
    phone.session.stop(Stop::Disconnect).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(phone.ear.receipts().is_empty());
    assert_eq!(
        bench.simulator.node.timers.used(),
        0,
        "they leave memory meanwhile"
    );
    phone.session.start(Start::Resume).await.unwrap();
    until("it came", || {
        phone.steps_of(&message) == [Status::Delivered]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_is_not_searched_again() {
    let mut bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    assert!(bench.store.keys("mark/").is_empty(), "nothing is owed yet");
    let old = phone.message(&NUMBER.parse().unwrap(), "old");
    phone.send_until_taken(&old).await;
    assert_eq!(
        bench.store.keys("mark/").len(),
        1,
        "the mark is there before the answer"
    );
    until("it arrived", || phone.steps_of(&old) == [Status::Delivered]).await;
    // A newer one, in a later second of its id, moves the mark on.
    let mut newer = MessageBody::clone(&old);
    newer.id = MessageId::from_u128(old.id.as_u128() + (5_000_u128 << 80));
    newer.upstream_id = "NEWER".to_owned();
    let newer = std::sync::Arc::new(newer);
    phone.send_until_taken(&newer).await;
    until("it arrived too", || {
        phone.steps_of(&newer) == [Status::Delivered]
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.store_as(&old, Status::Sent);
    bench.crash();
    let phone = Phone::reopen(&bench, phone.device, "51900000001").await;
    phone.session.start(Start::Resume).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(phone.ear.receipts().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_can_not_be_kept_puts_the_message_off() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51900000001").await;
    let message = phone.message(&NUMBER.parse().unwrap(), "x");
    bench
        .store
        .is_full
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = phone.send(std::slice::from_ref(&message)).await;
    assert!(matches!(
        answer[0],
        actors::ports::connector::Handed::Later(_)
    ));
    assert_eq!(bench.simulator.node.timers.used(), 0);
    bench
        .store
        .is_full
        .store(false, std::sync::atomic::Ordering::Relaxed);
    phone.send_until_taken(&message).await;
    until("it arrived", || {
        phone.steps_of(&message) == [Status::Delivered]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_another_device_has_got_and_read_is_told_after_a_crash() {
    let mut bench = SimulatorBench::new();
    let (from, to) = (
        Phone::connected(&bench, "51900000001").await,
        Phone::connected(&bench, "51900000002").await,
    );
    let message = from.message(&to.jid(), "x");
    from.send_until_taken(&message).await;
    bench.store_as(&message, Status::Sent);
    let mut copy = MessageBody::clone(&message);
    (copy.id, copy.device, copy.chat, copy.direction) =
        (MessageId::generate(), to.device, from.jid(), Direction::In);
    bench
        .store
        .put(Message::new(copy, MessageState::new(Status::Read)), false);
    // The crash comes before the receipt has left.
    assert!(from.ear.receipts().is_empty());
    bench.crash();
    let from = Phone::reopen(&bench, from.device, "51900000001").await;
    from.session.start(Start::Resume).await.unwrap();
    until("it was read", || {
        from.steps_of(&message) == [Status::Delivered, Status::Read]
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_let_go_counts_as_disconnected() {
    let bench = SimulatorBench::new();
    let (from, to) = (
        Phone::connected(&bench, "51900000001").await,
        Phone::connected(&bench, "51900000002").await,
    );
    let (device, address) = (to.device, to.jid());
    drop(to.session);
    from.send_until_taken(&from.message(&address, "kept")).await;
    let to = Phone::reopen(&bench, device, "51900000002").await;
    to.session.start(Start::Resume).await.unwrap();
    until("it came", || to.ear.texts() == ["kept"]).await;
}

#[tokio::test(start_paused = true)]
async fn mail_and_messages_keep_their_order_while_the_mail_is_brought() {
    let bench = SimulatorBench::new();
    let (from, to) = (
        Phone::connected(&bench, "51900000001").await,
        Phone::connected(&bench, "51900000002").await,
    );
    to.session.stop(Stop::Disconnect).await;
    for nth in 0..400 {
        from.send_until_taken(&from.message(&to.jid(), &nth.to_string()))
            .await;
    }
    to.session.start(Start::Resume).await.unwrap();
    for nth in 400..500 {
        from.send_until_taken(&from.message(&to.jid(), &nth.to_string()))
            .await;
    }
    until("all came", || to.ear.texts().len() == 500).await;
    assert_eq!(
        to.ear.texts(),
        (0..500).map(|it| it.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(to.ear.repeats(), 0);
    until("every receipt came", || from.ear.receipts().len() == 500).await;
}
