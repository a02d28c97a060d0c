//! The pure parts of the hot path: what is done for each message, entry and reader, without store or network.
//!
//! `cargo bench --bench hot -- --save-baseline before`, change something, then `cargo bench --bench hot -- --baseline
//! before` prints how much each has changed.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot go on shall fail loudly"
)]

use std::hint::black_box;
use std::sync::Arc;

use actors::chat::Draft;
use actors::log::{Entry, Facts, Filter, FilterTerms, Sequencer};
use actors::model::{
    Content, ContentKind, Cursor, DeviceId, Direction, EntryDraft, EventType, Jid, Message,
    MessageBody, MessageId, MessageState, Status, Step, TenantId, Timestamp,
};
// Named so by the sources that are taken in below.
use actors::{model, ports};
use criterion::{Criterion, criterion_group, criterion_main};

use self::state::ChatState;

#[expect(
    dead_code,
    unused_imports,
    reason = "only some keys belong to the hot path, and their own tests run elsewhere"
)]
#[path = "../src/store/embedded/keys.rs"]
mod keys;

/// A chat without its runtime, and what it asks of its neighbours.
#[expect(
    dead_code,
    reason = "only some of it belongs to the hot path, and its own tests run elsewhere"
)]
#[path = "../actors/src/chat/state.rs"]
mod state;
mod handle {
    pub(super) use actors::chat::Draft;
}
mod message {
    pub(super) use actors::chat::ReadMark;
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn chat() -> Jid {
    "51999888777".parse().expect("an address")
}

fn message() -> Message {
    let id = MessageId::generate();
    let body = MessageBody {
        id,
        device: DeviceId::generate(),
        chat: chat(),
        direction: Direction::Out,
        from: Some("51999000001".parse().expect("an address")),
        to: Some(chat()),
        participant: None,
        kind: ContentKind::Text,
        content: Content::Text {
            text: "Tu pedido 4711 ya está en camino. ".repeat(4),
            preview_url: None,
        },
        reply_to: None,
        mentions: None,
        mention_all: false,
        metadata: None,
        upstream_id: format!("{:032X}", id.as_u128()),
        created_at: NOW,
        send_at: None,
        delay_ms: None,
        expires_at: Some(NOW),
    };
    Message::new(body, MessageState::new(Status::Queued))
}

fn created(message: &Message) -> EntryDraft {
    EntryDraft {
        kind: EventType::MessageCreated,
        time: NOW,
        device: Some(message.body.device),
        chat: Some(message.body.chat.clone()),
        direction: Some(Direction::Out),
        data: serde_json::to_vec(message)
            .expect("a message can be written")
            .into(),
    }
}

fn sequencer() -> Sequencer {
    Sequencer::new(TenantId::generate(), Cursor { epoch: 1, seq: 0 })
}

fn entry() -> Arc<Entry> {
    sequencer().place(created(&message()))
}

fn encode(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("encode");
    let message = message();
    group.bench_function("message as JSON", |it| {
        it.iter(|| serde_json::to_vec(black_box(&message)));
    });
    group.bench_function("message as a row", |it| {
        it.iter(|| rmp_serde::to_vec_named(black_box(&message.body)));
    });
    let (mut sequencer, draft) = (sequencer(), created(&message));
    group.bench_function("entry, placed and as a JSON frame", |it| {
        it.iter(|| sequencer.place(black_box(&draft).clone()));
    });
    group.bench_function("entry as a MessagePack frame", |it| {
        it.iter_batched(
            entry,
            |entry| entry.packed_frame(),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn filter(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("filter");
    let entry = entry();
    let facts = Facts::from(&*entry);
    let types = |types: &[&str]| FilterTerms {
        types: types.iter().map(|it| (*it).to_owned()).collect(),
        ..FilterTerms::default()
    };
    let narrow = FilterTerms {
        chats: (0..50).map(|it| format!("519998880{it:02}")).collect(),
        direction: Some(Direction::Out),
        ..types(&["message.*"])
    };
    for (name, terms) in [
        ("everything", FilterTerms::default()),
        ("one type", types(&["message.created"])),
        ("types, 50 chats and a direction", narrow),
    ] {
        let filter = Filter::compile(&terms).expect("a filter");
        group.bench_function(name, |it| it.iter(|| filter.passes(black_box(facts))));
    }
    group.finish();
}

fn decide(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("decide");
    let queued = MessageState::new(Status::Queued);
    let (sent, read) = (Step::to(Status::Sent, NOW), Step::to(Status::Read, NOW));
    group.bench_function("a step forward", |it| {
        it.iter(|| black_box(&queued).advanced(black_box(&sent)));
    });
    let done = queued.advanced(&read).expect("a step forward");
    group.bench_function("a step back", |it| {
        it.iter(|| black_box(&done).advanced(black_box(&sent)));
    });
    let place = |chat: &mut ChatState| {
        let draft = Draft::text("Tu pedido 4711 ya está en camino.");
        chat.place_outbound(draft, None, NOW).message.body.id
    };
    let new_chat = || ChatState::new(DeviceId::generate(), chat(), None);
    let mut old_chat = new_chat();
    group.bench_function("a message's place in its chat, and its entry", |it| {
        it.iter(|| place(&mut old_chat));
    });
    group.bench_function("a receipt, and its entry", |it| {
        let placed = || {
            let mut chat = new_chat();
            let id = place(&mut chat);
            (chat, id)
        };
        it.iter_batched(
            placed,
            |(mut chat, id)| chat.step(id, &sent),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn key(bench: &mut Criterion) {
    let mut group = bench.benchmark_group("key");
    let (chat, id) = (chat(), MessageId::generate());
    let place = keys::Place {
        tenant: 7,
        device: 9,
    };
    group.bench_function("of a message", |it| {
        it.iter(|| keys::message(black_box(place), &chat, id, keys::Part::Body));
    });
    group.bench_function("of an entry", |it| {
        it.iter(|| keys::log(black_box(7), black_box(4_711)));
    });
    let text = id.to_string();
    group.bench_function("id from its text", |it| {
        it.iter(|| black_box(text.as_str()).parse::<MessageId>());
    });
    group.bench_function("address from its text", |it| {
        it.iter(|| black_box("51999888777@s.whatsapp.net").parse::<Jid>());
    });
    group.finish();
}

criterion_group!(hot, encode, filter, decide, key);
criterion_main!(hot);
