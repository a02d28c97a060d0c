//! Messages and chats.

use std::time::Duration;

use actors::model::{Chat, Direction, Jid, MessageId, MessageState, Status, Timestamp};
use actors::ports::{
    ChatQuery, History as _, MessageFilter, MessagePage, MessageQuery, Order, Write, Writer as _,
};

use super::{Opener, World, chat_row, jid, message};

pub(super) fn query(chat: Option<&Jid>, order: Order, limit: usize) -> MessageQuery {
    MessageQuery {
        chat: chat.cloned(),
        beyond: None,
        order,
        filter: MessageFilter::default(),
        limit,
    }
}

fn ids(page: &MessagePage) -> Vec<MessageId> {
    page.items.iter().map(|it| it.body.id).collect()
}

/// Follows a list to its end; says how many pages it took.
async fn all<O: Opener>(world: &World<O>, mut query: MessageQuery) -> (Vec<MessageId>, usize) {
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let page = world
            .store
            .messages(world.tenant, world.device, query.clone())
            .await
            .unwrap();
        assert!(page.items.len() <= query.limit);
        found.extend(ids(&page));
        pages += 1;
        let Some(next) = page.next else {
            return (found, pages);
        };
        assert_ne!(Some(next), query.beyond, "a page goes on");
        query.beyond = Some(next);
    }
}

pub(crate) async fn pages_run_both_ways_and_end<O: Opener>(world: World<O>) {
    let (chat, other) = (jid("51999888777"), jid("5199988877"));
    let mut said = Vec::new();
    for _ in 0..10 {
        said.push(world.say(&chat, "x").await);
        world.say(&other, "y").await;
    }
    let oldest = all(&world, query(Some(&chat), Order::Oldest, 4)).await;
    assert_eq!(oldest, (said.clone(), 3));
    let whole = all(&world, query(Some(&chat), Order::Oldest, 5)).await;
    assert_eq!(whole, (said.clone(), 2), "a full last page is the last");
    said.reverse();
    assert_eq!(
        all(&world, query(Some(&chat), Order::Newest, 4)).await,
        (said.clone(), 3)
    );
    let mut beyond = query(Some(&chat), Order::Newest, 2);
    beyond.beyond = Some(said[3]);
    let page = world
        .store
        .messages(world.tenant, world.device, beyond)
        .await
        .unwrap();
    assert_eq!(
        (ids(&page), page.next),
        (said[4..6].to_vec(), Some(said[5]))
    );
    let nobody = world
        .store
        .messages(
            world.tenant,
            world.device,
            query(Some(&jid("51999888776")), Order::Newest, 2),
        )
        .await
        .unwrap();
    assert_eq!((ids(&nobody), nobody.next), (vec![], None));
    world.end().await;
}

pub(crate) async fn a_device_is_paged_over_all_its_chats<O: Opener>(world: World<O>) {
    let mut said = Vec::new();
    for number in 0..9 {
        said.push(
            world
                .say(&jid(&format!("5199988877{}", number % 3)), "x")
                .await,
        );
    }
    assert_eq!(
        all(&world, query(None, Order::Oldest, 4)).await,
        (said.clone(), 3)
    );
    said.reverse();
    assert_eq!(all(&world, query(None, Order::Newest, 9)).await, (said, 1));
    world.end().await;
}

/// Messages whose times lie days, months and years apart: whatever a backend makes of time, pages do not show it.
pub(crate) async fn pages_run_over_years_as_over_minutes<O: Opener>(world: World<O>) {
    const DAY: i64 = 24 * 60 * 60 * 1_000;
    let (chat, other) = (jid("51999888777"), jid("51999888778"));
    let (mut of_chat, mut of_device) = (Vec::new(), Vec::new());
    for days in [
        0, 0, 1, 1, 11, 11, 12, 35, 35, 400, 401, 2_000, 2_000, 2_000,
    ] {
        let at = Timestamp::from_millis(world.now().as_millis() + days * DAY);
        for (chat, is_other) in [(&chat, false), (&other, true)] {
            let mut body = message(world.device, chat, "x", at);
            body.id = MessageId::at(at);
            let id = body.id;
            let state = MessageState::new(Status::Queued);
            world
                .write(vec![Write::Message {
                    body: body.into(),
                    state,
                }])
                .await;
            of_device.push(id);
            if !is_other {
                of_chat.push(id);
            }
        }
    }
    of_chat.sort();
    of_device.sort();
    for (which, mut said) in [(Some(&chat), of_chat), (None, of_device)] {
        for limit in [1, 3, 5, 100] {
            let (found, pages) = all(&world, query(which, Order::Oldest, limit)).await;
            assert_eq!((found, pages), (said.clone(), said.len().div_ceil(limit)));
        }
        said.reverse();
        for limit in [1, 3, 5, 100] {
            let (found, pages) = all(&world, query(which, Order::Newest, limit)).await;
            assert_eq!((found, pages), (said.clone(), said.len().div_ceil(limit)));
        }
    }
    world.end().await;
}

pub(crate) async fn a_filter_gives_only_what_it_names<O: Opener>(world: World<O>) {
    let chat = jid("51999888777");
    let hello = world.say(&chat, "Hola mundo").await;
    world.clock.turn(10);
    let mut inbound = message(world.device, &chat, "adios", world.now());
    inbound.direction = Direction::In;
    let reply = inbound.id;
    world
        .write(vec![Write::Message {
            body: inbound.into(),
            state: MessageState::new(Status::Delivered),
        }])
        .await;
    let found = async |filter: MessageFilter| {
        let by_chat = all(
            &world,
            MessageQuery {
                filter: filter.clone(),
                ..query(Some(&chat), Order::Oldest, 1)
            },
        )
        .await
        .0;
        let by_device = all(
            &world,
            MessageQuery {
                filter,
                ..query(None, Order::Oldest, 1)
            },
        )
        .await
        .0;
        assert_eq!(by_chat, by_device);
        by_chat
    };
    let any = MessageFilter::default;
    assert_eq!(
        found(MessageFilter {
            text: Some("hola".to_owned()),
            ..any()
        })
        .await,
        [hello]
    );
    assert_eq!(
        found(MessageFilter {
            direction: Some(Direction::In),
            ..any()
        })
        .await,
        [reply]
    );
    assert_eq!(
        found(MessageFilter {
            status: Some(Status::Queued),
            ..any()
        })
        .await,
        [hello]
    );
    assert_eq!(
        found(MessageFilter {
            from: Some(world.now()),
            ..any()
        })
        .await,
        [reply]
    );
    assert_eq!(
        found(MessageFilter {
            to: Some(world.now()),
            ..any()
        })
        .await,
        [hello]
    );
    assert_eq!(found(any()).await, [hello, reply]);
    world.end().await;
}

pub(crate) async fn a_filter_that_finds_nothing_says_where_to_go_on<O: Opener>(world: World<O>) {
    let chat = jid("51999888777");
    let mut last = None;
    for _ in 0..21 {
        let said = |_| {
            let body = message(world.device, &chat, "x", world.now());
            Write::Message {
                body: body.into(),
                state: MessageState::new(Status::Queued),
            }
        };
        world.write((0..500).map(said).collect()).await;
    }
    last.get_or_insert(world.say(&chat, "needle").await);
    let filter = MessageFilter {
        text: Some("needle".to_owned()),
        ..MessageFilter::default()
    };
    let needle = MessageQuery {
        filter,
        ..query(Some(&chat), Order::Oldest, 5)
    };
    let page = world
        .store
        .messages(world.tenant, world.device, needle.clone())
        .await
        .unwrap();
    assert!(
        page.items.is_empty() && page.next.is_some(),
        "a bounded number of rows is looked at"
    );
    assert_eq!(all(&world, needle).await, (last.into_iter().collect(), 2));
    world.end().await;
}

pub(crate) async fn the_last_state_of_a_message_counts<O: Opener>(mut world: World<O>) {
    let (chat, device) = (jid("51999888777"), world.device);
    let id = world.say(&chat, "x").await;
    let state = |status| Write::MessageState {
        device,
        chat: chat.clone(),
        id,
        state: MessageState {
            sent_at: Some(Timestamp::from_millis(5)),
            ..MessageState::new(status)
        },
    };
    world
        .write(vec![state(Status::Sent), state(Status::Delivered)])
        .await;
    for _ in 0..2 {
        let message = world
            .store
            .message(world.tenant, device, id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (message.state.status, message.state.sent_at),
            (Status::Delivered, Some(Timestamp::from_millis(5)))
        );
        world.reopen().await;
    }
    let stray = MessageId::generate();
    world
        .write(vec![Write::MessageState {
            device,
            chat: chat.clone(),
            id: stray,
            state: MessageState::new(Status::Sent),
        }])
        .await;
    assert!(
        world
            .store
            .message(world.tenant, device, stray)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(
        all(&world, query(Some(&chat), Order::Newest, 9)).await.0,
        [id],
        "a state alone is no message"
    );
    world.end().await;
}

pub(crate) async fn the_last_row_of_a_chat_counts<O: Opener>(world: World<O>) {
    let (chat, start) = (jid("51999888777"), world.now());
    for unread in 1..=300 {
        let row = Write::Chat(Box::new(chat_row(world.device, &chat, unread, start)));
        let job = actors::ports::Job {
            writes: vec![row],
            entries: vec![],
            claim: None,
            urgency: actors::ports::Urgency::Now,
            is_baseless: None,
            done: Box::new(drop),
        };
        world.store.submit(world.tenant, job).unwrap();
    }
    world.write(vec![]).await;
    let found = world
        .store
        .chat(world.tenant, world.device, &chat)
        .await
        .unwrap();
    assert_eq!(found, Some(chat_row(world.device, &chat, 300, start)));
    assert_eq!(
        world
            .store
            .chat(world.tenant, world.device, &jid("123@lid"))
            .await
            .unwrap(),
        None
    );
    world.end().await;
}

pub(crate) async fn chats_come_last_active_first<O: Opener>(world: World<O>) {
    let start = world.now();
    // Two are as old as each other: an address decides, and always the same way.
    for (number, seconds) in [(1, 30), (2, 10), (3, 20), (4, 20), (5, 50)] {
        let chat = chat_row(
            world.device,
            &jid(&format!("5199988877{number}")),
            number % 2,
            start.plus(Duration::from_secs(seconds)),
        );
        world.write(vec![Write::Chat(Box::new(chat))]).await;
    }
    let any = ChatQuery {
        beyond: None,
        unread: None,
        text: None,
        limit: 10,
    };
    let found = async |query: ChatQuery| {
        world
            .store
            .chats(world.tenant, world.device, query)
            .await
            .unwrap()
    };
    let digits = |chats: &[Chat]| -> String {
        chats
            .iter()
            .filter_map(|it| it.jid.user().chars().last())
            .collect()
    };
    assert_eq!(digits(&found(any.clone()).await), "51432");
    assert_eq!(
        digits(
            &found(ChatQuery {
                limit: 2,
                ..any.clone()
            })
            .await
        ),
        "51"
    );
    assert_eq!(
        digits(
            &found(ChatQuery {
                unread: Some(true),
                ..any.clone()
            })
            .await
        ),
        "513"
    );
    assert_eq!(
        digits(
            &found(ChatQuery {
                unread: Some(false),
                limit: 1,
                ..any.clone()
            })
            .await
        ),
        "4"
    );
    assert_eq!(
        digits(
            &found(ChatQuery {
                text: Some("9888773".to_owned()),
                ..any.clone()
            })
            .await
        ),
        "3"
    );
    let (mut paged, mut beyond) = (Vec::new(), None);
    while let [chat] = &found(ChatQuery {
        beyond: beyond.clone(),
        limit: 1,
        ..any.clone()
    })
    .await[..]
    {
        beyond = Some((chat.active_at, chat.jid.clone()));
        paged.push(chat.clone());
    }
    assert_eq!(digits(&paged), "51432");
    world.end().await;
}

pub(crate) async fn the_outbox_keeps_the_order_of_each_chat<O: Opener>(mut world: World<O>) {
    let (device, chats) = (world.device, [jid("51999888771"), jid("51999888772")]);
    let add = |chat: &Jid, id| Write::OutboxAdd {
        device,
        chat: chat.clone(),
        id,
    };
    let mut said = [Vec::new(), Vec::new()];
    for number in 0..8 {
        let (chat, said) = (&chats[number % 2], &mut said[number % 2]);
        let id = world.say(chat, "x").await;
        said.push((chat.clone(), id));
        world.write(vec![add(chat, id)]).await;
    }
    world
        .write(vec![add(&chats[0], MessageId::generate())])
        .await;
    world
        .write(vec![Write::OutboxRemove {
            device,
            chat: chats[0].clone(),
            id: said[0].remove(1).1,
        }])
        .await;
    let expected = said.concat();
    for _ in 0..2 {
        let (mut found, mut beyond) = (Vec::new(), None);
        loop {
            let page = world
                .store
                .outbox(world.tenant, device, beyond, 3)
                .await
                .unwrap();
            let Some(last) = page.last() else { break };
            beyond = Some((last.body.chat.clone(), last.body.id));
            found.extend(page.into_iter().map(|it| (it.body.chat, it.body.id)));
        }
        assert_eq!(found, expected, "removed and unknown messages are skipped");
        world.reopen().await;
    }
    world.end().await;
}

pub(crate) async fn a_repeat_is_found_by_its_upstream_name<O: Opener>(mut world: World<O>) {
    let (device, chat, id) = (world.device, jid("51999888777"), MessageId::generate());
    world
        .write(vec![Write::Upstream {
            device,
            chat: chat.clone(),
            from_me: true,
            upstream_id: "3EB0".to_owned(),
            id,
        }])
        .await;
    world.reopen().await;
    let named = async |chat: &Jid, from_me, name: &str| {
        world
            .store
            .by_upstream(world.tenant, device, chat, from_me, name)
            .await
            .unwrap()
    };
    assert_eq!(named(&chat, true, "3EB0").await, Some(id));
    assert_eq!(
        [
            named(&chat, false, "3EB0").await,
            named(&chat, true, "3EB").await,
            named(&jid("123@lid"), true, "3EB0").await
        ],
        [None; 3]
    );
    world.end().await;
}
