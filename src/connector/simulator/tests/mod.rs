//! The simulated network on a store in memory, with a clock that jumps.

mod phones;
mod play;
mod restart;
mod store;
mod storm;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actors::model::{
    DeviceId, Jid, Message, MessageBody, MessageState, PhoneNumber, Status, TenantId, Timestamp,
};
use actors::ports::Clock;
use actors::ports::connector::{Command, Connector, ConnectorBase, Handed};
use actors::ports::simulation::{AutoReceipts, Phone as Behaviour, PhoneChoice, Simulation as _};
use async_trait::async_trait;
use tokio::time::Instant;

use self::store::MemoryStore;
use super::{Simulator, SimulatorOptions};
use crate::connector::contract::{self, Bench, Phone, until};

/// Wall time that goes with tokio's, from now on.
struct TestClock {
    began: Instant,
    at: Timestamp,
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.at.plus(self.began.elapsed())
    }
}

struct SimulatorBench {
    simulator: Arc<Simulator>,
    store: Arc<MemoryStore>,
    clock: Arc<TestClock>,
    options: SimulatorOptions,
    tenant: TenantId,
}

impl SimulatorBench {
    fn new() -> Self {
        Self::with(SimulatorOptions::default())
    }

    fn with(options: SimulatorOptions) -> Self {
        let store = Arc::new(MemoryStore::default());
        // Ids carry the real time.
        let clock = Arc::new(TestClock {
            began: Instant::now(),
            at: DeviceId::generate().time(),
        });
        let simulator = Simulator::new(
            ConnectorBase {
                store: Arc::clone(&store) as _,
                clock: Arc::clone(&clock) as _,
            },
            options.clone(),
        );
        Self {
            simulator,
            store,
            clock,
            options,
            tenant: TenantId::generate(),
        }
    }

    /// A new life on the same store; the old one is cut off as by a crash.
    fn crash(&mut self) {
        let base = ConnectorBase {
            store: Arc::clone(&self.store) as _,
            clock: Arc::clone(&self.clock) as _,
        };
        self.simulator = Simulator::new(base, self.options.clone());
    }

    async fn set(&self, number: Option<&str>, phone: Behaviour) {
        let choice = number.map_or(PhoneChoice::Default, |it| {
            PhoneChoice::Number(it.parse().unwrap())
        });
        self.simulator
            .set_phone(self.tenant, choice, phone)
            .await
            .unwrap();
    }

    /// Stores a message as the gateway does once the network has it.
    fn store_as(&self, body: &MessageBody, status: Status) {
        let sent_at = Some(self.clock.now());
        let state = MessageState {
            status,
            sent_at,
            ..MessageState::new(status)
        };
        self.store.put(Message::new(body.clone(), state), true);
    }
}

#[async_trait]
impl Bench for SimulatorBench {
    fn connector(&self) -> Arc<dyn Connector> {
        Arc::clone(&self.simulator) as _
    }

    fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn scan(&self, device: DeviceId, number: PhoneNumber) {
        self.simulator
            .scan(self.tenant, device, Some(number))
            .await
            .unwrap();
    }

    async fn reader(&self) -> Jid {
        let receipts = Some(AutoReceipts {
            deliver_ms: 40,
            read_ms: Some(60),
        });
        self.set(
            Some("51977777777"),
            Behaviour {
                auto_receipts: receipts,
                ..Behaviour::default()
            },
        )
        .await;
        "51977777777".parse().unwrap()
    }

    async fn nobody(&self) -> Jid {
        self.set(
            Some("51966666666"),
            Behaviour {
                exists: false,
                ..Behaviour::default()
            },
        )
        .await;
        "51966666666".parse().unwrap()
    }

    async fn restart(&mut self) {
        self.simulator.close().await;
        self.crash();
    }
}

macro_rules! contract {
    ($($rule:ident)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $rule() {
            let bench = SimulatorBench::new();
            contract::$rule(&bench).await;
            bench.simulator.close().await;
        })*
    };
}

macro_rules! contract_with_restart {
    ($($rule:ident)*) => {
        $(#[tokio::test(start_paused = true)]
        async fn $rule() {
            let mut bench = SimulatorBench::new();
            contract::$rule(&mut bench).await;
            bench.simulator.close().await;
        })*
    };
}

contract! {
    pairing_ends_connected
    a_pairing_that_nobody_scans_ends
    a_session_that_is_not_connected_says_so
    a_batch_is_answered_in_order
    the_same_name_says_it_once
    receipts_climb_the_ladder
    a_busy_gateway_is_offered_it_again
}

contract_with_restart! {
    a_link_is_resumed
    what_comes_while_away_comes_at_the_return
    a_logout_gives_up_the_link
    a_forgotten_device_leaves_nothing
}

#[tokio::test(start_paused = true)]
async fn a_tenant_does_not_see_the_devices_of_another() {
    let mut bench = SimulatorBench::new();
    let theirs = Phone::connected(&bench, "51900000002").await;
    bench.tenant = TenantId::generate();
    let ours = Phone::connected(&bench, "51900000001").await;
    let message = ours.message(&theirs.jid(), "to a virtual phone");
    ours.send_until_taken(&message).await;
    contract::until("the virtual phone has it", || {
        ours.steps_of(&message) == [Status::Delivered]
    })
    .await;
    assert!(theirs.ear.texts().is_empty());
    Phone::connected(&bench, "51900000002").await;
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_is_given_up_half_way_leaves_nothing_behind() {
    let bench = SimulatorBench::new();
    let phone = Phone::connected(&bench, "51911111111").await;
    let to = bench.reader().await;
    let message = phone.message(&to, "a");
    let send = || {
        let batch = Command::Send(vec![Arc::clone(&message)]);
        phone.session.execute(batch)
    };
    bench.store.is_silent.store(true, Ordering::Relaxed);
    let given_up = tokio::time::timeout(Duration::from_secs(30), send()).await;
    assert!(given_up.is_err(), "the mark is not durable: {given_up:?}");
    assert_eq!(bench.simulator.node.timers.used(), 0);
    bench.store.speak();
    let handed = send().await.unwrap();
    assert!(matches!(handed[..], [Handed::Taken { .. }]), "{handed:?}");
    until("both receipts came", || phone.ear.receipts().len() == 2).await;
    until("nothing is on its way", || {
        bench.simulator.node.timers.used() == 0
    })
    .await;
    bench.simulator.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_messages_to_silent_phones_cost_no_time_and_no_write() {
    let bench = SimulatorBench::new();
    bench
        .set(
            None,
            Behaviour {
                auto_receipts: None,
                ..Behaviour::default()
            },
        )
        .await;
    let phone = Phone::connected(&bench, "51900000001").await;
    let batch: Vec<_> = (0..500)
        .map(|nth| phone.message(&format!("5198{nth:07}").parse().unwrap(), "x"))
        .collect();
    let (jobs, began) = (
        bench.store.jobs.load(std::sync::atomic::Ordering::Relaxed),
        Instant::now(),
    );
    for _ in 0..200 {
        assert_eq!(phone.send(&batch).await.len(), 500);
    }
    assert_eq!(
        bench.store.jobs.load(std::sync::atomic::Ordering::Relaxed),
        jobs
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(bench.simulator.node.timers.used(), 0);
}
