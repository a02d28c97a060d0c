//! Everything at once on many threads: devices that write to each other while they come and go.

use std::sync::Arc;
use std::time::Duration;

use actors::model::{Jid, MessageBody};
use actors::ports::connector::{Command, Handed, Start, Stop};

use super::SimulatorBench;
use crate::connector::contract::{Phone, until};

const DEVICES: usize = 6;
const MESSAGES: usize = 150;

/// Hands one message over as often as it takes, over disconnects too.
async fn send(phone: &Phone, message: &Arc<MessageBody>) {
    loop {
        match phone
            .session
            .execute(Command::Send(vec![Arc::clone(message)]))
            .await
            .as_deref()
        {
            Ok([Handed::Taken { .. }]) => return,
            Ok([Handed::Later(_)]) | Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(other) => panic!("unexpected: {other:?}"),
        }
    }
}

async fn send_all(phone: &Phone, to: &Jid) {
    for place in 0..MESSAGES {
        send(phone, &phone.message(to, &place.to_string())).await;
    }
}

async fn flap(phone: &Phone) {
    for round in 0..40 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        match round % 4 {
            0 => phone.session.stop(Stop::Disconnect).await,
            1 => phone.ear.is_busy_for(3),
            _ => phone.session.start(Start::Resume).await.unwrap(),
        }
    }
    phone.session.start(Start::Resume).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_doubled_or_turned_round_in_a_storm() {
    let bench = SimulatorBench::new();
    let mut phones = Vec::new();
    for nth in 0..DEVICES {
        phones.push(Arc::new(
            Phone::connected(&bench, &format!("5190000000{nth}")).await,
        ));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (nth, phone) in phones.iter().enumerate() {
        let (flapping, sending) = (Arc::clone(phone), Arc::clone(phone));
        tasks.spawn(async move { flap(&flapping).await });
        let to = phones[(nth + 1) % DEVICES].jid();
        tasks.spawn(async move { send_all(&sending, &to).await });
    }
    let ended = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    assert!(
        tokio::time::timeout(Duration::from_secs(60), ended)
            .await
            .is_ok(),
        "the storm did not end"
    );
    let expected: Vec<String> = (0..MESSAGES).map(|it| it.to_string()).collect();
    for (nth, phone) in phones.iter().enumerate() {
        until("every message came", || {
            MESSAGES <= phone.ear.messages().len()
        })
        .await;
        assert_eq!(phone.ear.texts(), expected, "device {nth}");
    }
    until("nothing is kept", || bench.store.keys("mail/").is_empty()).await;
    until("nothing is on its way", || {
        bench.simulator.node.timers.used() == 0
    })
    .await;
    bench.simulator.close().await;
}
