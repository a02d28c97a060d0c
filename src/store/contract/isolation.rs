//! What belongs to a device or a tenant is seen by nobody else, and by nobody once it is gone.

use actors::model::{
    DeviceId, DeviceState, EventId, Jid, MessageId, MessageState, SessionChange, Status, TenantId,
};
use actors::ports::{
    ChatQuery, Directory as _, History as _, Order, Outcome, StoreError, Write, Writer as _, commit,
};

use super::history::query;
use super::{Opener, World, chat_row, committed, device_record, entry, jid, message};

/// Has a device have everything that it can have.
async fn fill<O: Opener>(world: &World<O>, device: DeviceId, chat: &Jid) -> MessageId {
    let (id, writes) = everything(world, device, chat);
    world.write(writes).await;
    id
}

fn everything<O: Opener>(
    world: &World<O>,
    device: DeviceId,
    chat: &Jid,
) -> (MessageId, Vec<Write>) {
    let body = message(device, chat, "x", world.now());
    let id = body.id;
    let change = SessionChange {
        state: DeviceState::Connected,
        previous: DeviceState::Created,
        reason: None,
        at: world.now(),
    };
    (
        id,
        vec![
            Write::Message {
                body: body.into(),
                state: MessageState::new(Status::Queued),
            },
            Write::Chat(Box::new(chat_row(device, chat, 1, world.now()))),
            Write::OutboxAdd {
                device,
                chat: chat.clone(),
                id,
            },
            Write::Upstream {
                device,
                chat: chat.clone(),
                from_me: true,
                upstream_id: "u".to_owned(),
                id,
            },
            Write::SessionChange {
                device,
                id: EventId::generate(),
                change,
            },
        ],
    )
}

/// How much a tenant sees of a device: one for each kind of thing.
async fn seen<O: Opener>(
    world: &World<O>,
    tenant: TenantId,
    device: DeviceId,
    chat: &Jid,
    id: MessageId,
) -> [usize; 8] {
    let store = &world.store;
    let any = ChatQuery {
        beyond: None,
        unread: None,
        text: None,
        limit: 10,
    };
    [
        store
            .message(tenant, device, id)
            .await
            .unwrap()
            .into_iter()
            .count(),
        store
            .messages(tenant, device, query(Some(chat), Order::Newest, 10))
            .await
            .unwrap()
            .items
            .len(),
        store
            .messages(tenant, device, query(None, Order::Newest, 10))
            .await
            .unwrap()
            .items
            .len(),
        store
            .chat(tenant, device, chat)
            .await
            .unwrap()
            .into_iter()
            .count(),
        store.chats(tenant, device, any).await.unwrap().len(),
        store.outbox(tenant, device, None, 10).await.unwrap().len(),
        store
            .by_upstream(tenant, device, chat, true, "u")
            .await
            .unwrap()
            .into_iter()
            .count(),
        store
            .session_changes(tenant, device, None, 10)
            .await
            .unwrap()
            .len(),
    ]
}

pub(crate) async fn a_removed_device_takes_everything_with_it<O: Opener>(mut world: World<O>) {
    let chat = jid("51999888777");
    let gone = world.add_device().await;
    let (kept_id, gone_id) = (
        fill(&world, world.device, &chat).await,
        fill(&world, gone, &chat).await,
    );
    assert_eq!(
        seen(&world, world.tenant, gone, &chat, gone_id).await,
        [1; 8]
    );
    world.write(vec![Write::DeviceRemoved(gone)]).await;
    assert_eq!(
        seen(&world, world.tenant, gone, &chat, gone_id).await,
        [0; 8]
    );
    for _ in 0..2 {
        let head = world.store.log(world.tenant).unwrap().head();
        let (_, late) = everything(&world, gone, &chat);
        let news = vec![entry(world.now(), "{}")];
        let outcome = commit(&*world.store, world.tenant, late, news, None).await;
        assert!(
            matches!(outcome, Ok(Outcome::Failed(StoreError::Gone))),
            "what comes too late for it is turned down as a whole: {outcome:?}"
        );
        assert_eq!(world.store.log(world.tenant).unwrap().head(), head);
        assert_eq!(
            seen(&world, world.tenant, gone, &chat, gone_id).await,
            [0; 8]
        );
        assert_eq!(
            seen(&world, world.tenant, world.device, &chat, kept_id).await,
            [1; 8]
        );
        assert_eq!(world.store.devices(world.tenant).await.unwrap().len(), 1);
        world.reopen().await;
    }
    let fresh = world.add_device().await;
    assert_eq!(
        seen(&world, world.tenant, fresh, &chat, gone_id).await,
        [0; 8],
        "a new device inherits nothing"
    );
    world.end().await;
}

pub(crate) async fn one_tenant_reads_nothing_of_another<O: Opener>(world: World<O>) {
    let (chat, device) = (jid("51999888777"), world.device);
    let id = fill(&world, device, &chat).await;
    let other = world.add_tenant().await;
    assert_eq!(seen(&world, other, device, &chat, id).await, [0; 8]);
    assert_eq!(
        seen(&world, TenantId::generate(), device, &chat, id).await,
        [0; 8]
    );
    // Nor does it write there, whatever it names.
    let state = Write::MessageState {
        device,
        chat: chat.clone(),
        id,
        state: MessageState::new(Status::Revoked),
    };
    let row = Write::Chat(Box::new(chat_row(device, &chat, 99, world.now())));
    for write in [state, row] {
        let outcome = commit(&*world.store, other, vec![write], vec![], None).await;
        assert!(
            matches!(outcome, Ok(Outcome::Failed(StoreError::Gone))),
            "{outcome:?}"
        );
    }
    let removals = vec![
        Write::OutboxRemove {
            device,
            chat: chat.clone(),
            id,
        },
        Write::DeviceRemoved(device),
    ];
    committed(commit(&*world.store, other, removals, vec![], None).await);
    assert_eq!(seen(&world, world.tenant, device, &chat, id).await, [1; 8]);
    assert_eq!(
        world
            .store
            .message(world.tenant, device, id)
            .await
            .unwrap()
            .unwrap()
            .state
            .status,
        Status::Queued
    );
    assert_eq!(
        world
            .store
            .chat(world.tenant, device, &chat)
            .await
            .unwrap()
            .unwrap()
            .unread,
        1
    );
    // Even under the same name, a device of one is not that of the other.
    let mut twin = device_record(world.now());
    twin.id = device;
    committed(
        commit(
            &*world.store,
            other,
            vec![Write::Device(Box::new(twin))],
            vec![],
            None,
        )
        .await,
    );
    assert_eq!(seen(&world, other, device, &chat, id).await, [0; 8]);
    world.end().await;
}
