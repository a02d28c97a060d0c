//! What every backend must do, beyond the signatures of [`actors::ports::Store`]: a list of sentences, each a test.
//!
//! A backend gives an [`Opener`] and names it in [`store_contract`]; [`crate::testing`] has them run.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on shall fail loudly"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use actors::model::{
    Chat, ConnectorChoice, Content, ContentKind, Cursor, Desired, DeviceId, DeviceRecord,
    Direction, EntryDraft, EventType, Jid, MessageBody, MessageId, MessageState, Removal,
    SessionState, Status, Tenant, TenantId, TenantLimits, Timestamp,
};
use actors::ports::{Answer, Claim, Clock, Outcome, Store, Write, Writer as _, commit};
use bytes::Bytes;

pub(crate) mod directory;
pub(crate) mod history;
pub(crate) mod idempotency;
pub(crate) mod isolation;
pub(crate) mod log;
pub(crate) mod writer;

/// Opens one and the same store again and again.
pub(crate) trait Opener {
    /// The backend.
    type Backend: Store;

    /// Opens it; the one before was closed.
    fn open(&self, clock: Arc<ManualClock>) -> impl Future<Output = Arc<Self::Backend>> + Send;
}

/// A clock that is turned by hand.
#[derive(Debug)]
pub(crate) struct ManualClock(AtomicI64);

impl Default for ManualClock {
    fn default() -> Self {
        Self(AtomicI64::new(1_700_000_000_000))
    }
}

impl ManualClock {
    fn turn(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A store with one tenant and one device of it.
pub(crate) struct World<O: Opener> {
    opener: O,
    clock: Arc<ManualClock>,
    pub(crate) store: Arc<O::Backend>,
    pub(crate) tenant: TenantId,
    pub(crate) device: DeviceId,
}

impl<O: Opener> World<O> {
    pub(crate) async fn new(opener: O) -> Self {
        let clock = Arc::<ManualClock>::default();
        let store = opener.open(Arc::clone(&clock)).await;
        let mut world = Self {
            opener,
            clock,
            store,
            tenant: TenantId::generate(),
            device: DeviceId::generate(),
        };
        world.tenant = world.add_tenant().await;
        world.device = world.add_device().await;
        world
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.store.close().await;
        self.store = self.opener.open(Arc::clone(&self.clock)).await;
    }

    pub(crate) async fn end(self) {
        self.store.close().await;
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) async fn add_tenant(&self) -> TenantId {
        let tenant = Tenant {
            id: TenantId::generate(),
            name: "t".to_owned(),
            limits: TenantLimits::default(),
            created_at: self.now(),
            removal: Removal::None,
        };
        let id = tenant.id;
        committed(
            commit(
                &*self.store,
                id,
                vec![Write::Tenant(Box::new(tenant))],
                vec![],
                None,
            )
            .await,
        );
        id
    }

    pub(crate) async fn add_device(&self) -> DeviceId {
        let device = device_record(self.now());
        let id = device.id;
        self.write(vec![Write::Device(Box::new(device))]).await;
        id
    }

    /// Commits rows of the tenant.
    pub(crate) async fn write(&self, writes: Vec<Write>) -> Cursor {
        committed(commit(&*self.store, self.tenant, writes, vec![], None).await)
    }

    /// Commits entries of the tenant.
    pub(crate) async fn log(&self, entries: Vec<EntryDraft>) -> Cursor {
        committed(commit(&*self.store, self.tenant, vec![], entries, None).await)
    }

    /// Commits a message of the device.
    pub(crate) async fn say(&self, chat: &Jid, text: &str) -> MessageId {
        let body = message(self.device, chat, text, self.now());
        let id = body.id;
        self.write(vec![Write::Message {
            body: body.into(),
            state: MessageState::new(Status::Queued),
        }])
        .await;
        id
    }
}

pub(crate) fn committed(outcome: Result<Outcome, actors::ports::SubmitError>) -> Cursor {
    match outcome {
        Ok(Outcome::Committed { cursor }) => cursor,
        other => panic!("not committed: {other:?}"),
    }
}

pub(crate) fn jid(text: &str) -> Jid {
    text.parse().unwrap()
}

pub(crate) fn device_record(now: Timestamp) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId::generate(),
        name: "d".to_owned(),
        connector: ConnectorChoice::Simulator {},
        number: Some("51900000001".parse().unwrap()),
        linked: true,
        desired: Desired::Connected,
        session: SessionState::created(now),
        last_inbound_at: None,
        last_ack_at: None,
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        created_at: now,
    }
}

pub(crate) fn message(device: DeviceId, chat: &Jid, text: &str, now: Timestamp) -> MessageBody {
    MessageBody {
        id: MessageId::generate(),
        device,
        chat: chat.clone(),
        direction: Direction::Out,
        from: None,
        to: Some(chat.clone()),
        participant: None,
        kind: ContentKind::Text,
        content: Content::Text {
            text: text.to_owned(),
            preview_url: None,
        },
        reply_to: None,
        mentions: None,
        mention_all: false,
        metadata: None,
        upstream_id: "3EB0".to_owned(),
        created_at: now,
        send_at: None,
        delay_ms: None,
        expires_at: None,
    }
}

pub(crate) fn chat_row(device: DeviceId, jid: &Jid, unread: u32, active_at: Timestamp) -> Chat {
    Chat {
        jid: jid.clone(),
        device,
        unread,
        last_message: None,
        read_up_to: None,
        active_at,
        created_at: active_at,
    }
}

pub(crate) fn entry(time: Timestamp, data: &str) -> EntryDraft {
    EntryDraft {
        kind: EventType::MessageCreated,
        time,
        device: None,
        chat: None,
        direction: None,
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

pub(crate) fn claim(key: &str, what: u8, expires_at: Timestamp) -> Claim {
    Claim {
        operation: "send_message",
        key: key.into(),
        fingerprint: [what; 32],
        expires_at,
    }
}

pub(crate) fn answer(word: &str) -> Answer {
    Answer::Given {
        status: 201,
        location: None,
        body: Bytes::copy_from_slice(word.as_bytes()),
    }
}

/// Every sentence of the contract, on the backend that an expression opens.
macro_rules! store_contract {
    ($opener:expr) => {
        store_contract!(@ $opener,
            writer::what_was_committed_is_there_after_a_reopen,
            writer::places_have_no_hole_whoever_submits,
            writer::an_entry_is_never_shown_before_its_rows,
            writer::jobs_of_one_submitter_keep_their_order,
            writer::a_full_queue_is_busy_at_once_and_only_for_its_tenant,
            writer::a_flood_of_one_tenant_does_not_hold_another,
            writer::passed_waits_until_the_job_is_settled,
            writer::a_tenant_begins_with_the_job_that_makes_it,
            writer::a_closed_store_takes_nothing,
            writer::a_listener_that_panics_hurts_nobody,
            idempotency::a_retry_gets_the_first_answer_and_writes_nothing,
            idempotency::another_call_under_the_same_key_is_a_mismatch,
            idempotency::parallel_twins_are_written_once,
            idempotency::an_answer_whose_time_is_over_is_absent,
            idempotency::keys_of_other_operations_and_tenants_do_not_meet,
            log::entries_come_in_order_within_their_limits,
            log::a_floor_hides_at_once_and_never_sinks,
            log::a_time_leads_to_the_place_before_it,
            log::an_entry_is_the_same_from_ring_and_store,
            history::pages_run_both_ways_and_end,
            history::a_device_is_paged_over_all_its_chats,
            history::pages_run_over_years_as_over_minutes,
            history::a_filter_gives_only_what_it_names,
            history::a_filter_that_finds_nothing_says_where_to_go_on,
            history::the_last_state_of_a_message_counts,
            history::the_last_row_of_a_chat_counts,
            history::chats_come_last_active_first,
            history::the_outbox_keeps_the_order_of_each_chat,
            history::a_repeat_is_found_by_its_upstream_name,
            isolation::a_removed_device_takes_everything_with_it,
            isolation::one_tenant_reads_nothing_of_another,
            directory::keys_are_found_by_id_and_by_tenant,
            directory::one_tenant_removes_no_key_of_another,
            directory::devices_come_in_the_order_they_were_made,
            directory::consumers_stand_where_they_were_put,
            directory::values_are_listed_by_prefix,
            directory::session_changes_come_newest_first,
        )
    };
    (@ $opener:expr, $($room:ident :: $sentence:ident,)*) => {
        &[$($crate::testing::Inside::new(
            concat!("contract::", stringify!($room), "::", stringify!($sentence)),
            || Box::pin(async {
                let world = $crate::store::contract::World::new($opener).await;
                $crate::store::contract::$room::$sentence(world).await;
            }),
        )),*]
    };
}
pub(crate) use store_contract;
