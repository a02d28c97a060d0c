//! The small things.

use actors::model::{
    Cursor, DeviceState, EventId, KeyId, KeyKind, KeyRecord, ScopeSet, SessionChange, TenantId,
    Timestamp,
};
use actors::ports::{Directory as _, Write, commit};

use super::{Opener, World, committed, device_record};

fn key(tenant: TenantId) -> KeyRecord {
    KeyRecord {
        id: KeyId::generate(),
        tenant,
        kind: KeyKind::Tenant,
        name: "k".to_owned(),
        scopes: ScopeSet::tenant(),
        devices: vec![],
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        expires_at: None,
        hash: [7; 32],
        created_at: Timestamp::from_millis(1),
    }
}

pub(crate) async fn keys_are_found_by_id_and_by_tenant<O: Opener>(mut world: World<O>) {
    let (first, second, admin) = (key(world.tenant), key(world.tenant), key(TenantId::GATEWAY));
    world
        .write(vec![
            Write::Key(Box::new(first.clone())),
            Write::Key(Box::new(second.clone())),
        ])
        .await;
    committed(
        commit(
            &*world.store,
            TenantId::GATEWAY,
            vec![Write::Key(Box::new(admin.clone()))],
            vec![],
            None,
        )
        .await,
    );
    world.reopen().await;
    assert_eq!(
        world.store.key(first.id).await.unwrap(),
        Some(first.clone())
    );
    assert_eq!(
        world.store.key(admin.id).await.unwrap(),
        Some(admin.clone())
    );
    assert_eq!(
        world.store.keys(world.tenant).await.unwrap(),
        [second.clone(), first.clone()]
    );
    assert_eq!(world.store.keys(TenantId::GATEWAY).await.unwrap(), [admin]);
    world.write(vec![Write::KeyRemoved(first.id)]).await;
    assert_eq!(world.store.key(first.id).await.unwrap(), None);
    assert_eq!(world.store.keys(world.tenant).await.unwrap(), [second]);
    world.end().await;
}

pub(crate) async fn one_tenant_removes_no_key_of_another<O: Opener>(world: World<O>) {
    let mine = key(world.tenant);
    world.write(vec![Write::Key(Box::new(mine.clone()))]).await;
    let other = world.add_tenant().await;
    committed(
        commit(
            &*world.store,
            other,
            vec![Write::KeyRemoved(mine.id)],
            vec![],
            None,
        )
        .await,
    );
    assert_eq!(world.store.key(mine.id).await.unwrap(), Some(mine.clone()));
    assert_eq!(world.store.keys(world.tenant).await.unwrap(), [mine]);
    assert_eq!(world.store.keys(other).await.unwrap(), []);
    world.end().await;
}

pub(crate) async fn devices_come_in_the_order_they_were_made<O: Opener>(mut world: World<O>) {
    let mut made: Vec<_> = (0..5).map(|_| device_record(world.now())).collect();
    world
        .write(
            made.iter()
                .rev()
                .map(|it| Write::Device(Box::new(it.clone())))
                .collect(),
        )
        .await;
    made[2].name = "changed".to_owned();
    world
        .write(vec![Write::Device(Box::new(made[2].clone()))])
        .await;
    world.reopen().await;
    assert_eq!(world.store.devices(world.tenant).await.unwrap()[1..], made);
    world.end().await;
}

pub(crate) async fn consumers_stand_where_they_were_put<O: Opener>(mut world: World<O>) {
    let at = |seq| Cursor { epoch: 1, seq };
    let put = |name: &str, seq| Write::Consumer {
        name: name.to_owned(),
        cursor: at(seq),
    };
    world
        .write(vec![put("a", 1), put("b", 2), put("a", 3)])
        .await;
    let other = world.add_tenant().await;
    world.reopen().await;
    assert_eq!(
        world.store.consumers(world.tenant).await.unwrap(),
        [("a".to_owned(), at(3)), ("b".to_owned(), at(2))]
    );
    world
        .write(vec![Write::ConsumerRemoved("a".to_owned())])
        .await;
    assert_eq!(
        world.store.consumers(world.tenant).await.unwrap(),
        [("b".to_owned(), at(2))]
    );
    assert_eq!(world.store.consumers(other).await.unwrap(), []);
    world.end().await;
}

pub(crate) async fn values_are_listed_by_prefix<O: Opener>(mut world: World<O>) {
    let put = |space, key: &str, value: Option<&'static str>| Write::Value {
        space,
        key: key.into(),
        value: value.map(Into::into),
    };
    world
        .write(vec![
            put("s", "a/1", Some("1")),
            put("s", "a/2", Some("")),
            put("s", "a/3", Some("3")),
            put("s", "b", Some("b")),
            put("t", "a/9", Some("9")),
        ])
        .await;
    world.write(vec![put("s", "a/1", None)]).await;
    world.reopen().await;
    let list = async |prefix: &str, beyond: Option<&str>, limit| -> Vec<(String, String)> {
        let found = world
            .store
            .values(
                world.tenant,
                "s",
                prefix.as_bytes(),
                beyond.map(str::as_bytes),
                limit,
            )
            .await
            .unwrap();
        found
            .into_iter()
            .map(|(key, value)| {
                (
                    String::from_utf8(key).unwrap(),
                    String::from_utf8(value.to_vec()).unwrap(),
                )
            })
            .collect()
    };
    let row = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(list("a/", None, 9).await, [row("a/2", ""), row("a/3", "3")]);
    assert_eq!(list("", None, 2).await, [row("a/2", ""), row("a/3", "3")]);
    assert_eq!(
        list("", Some("a/2"), 9).await,
        [row("a/3", "3"), row("b", "b")]
    );
    assert_eq!(list("a/", Some("a/3"), 9).await, []);
    assert_eq!(list("a/", Some("b"), 9).await, []);
    assert_eq!(list("b", Some("a/2"), 9).await, [row("b", "b")]);
    assert_eq!(list("a/2", None, 9).await, [row("a/2", "")]);
    let other = world.add_tenant().await;
    assert_eq!(
        world.store.values(other, "s", b"", None, 9).await.unwrap(),
        []
    );
    world.end().await;
}

pub(crate) async fn session_changes_come_newest_first<O: Opener>(mut world: World<O>) {
    let change = |reason: &str| SessionChange {
        state: DeviceState::Disconnected,
        previous: DeviceState::Connected,
        reason: Some(reason.to_owned()),
        at: Timestamp::from_millis(9),
    };
    let ids: Vec<_> = (0..3).map(|_| EventId::generate()).collect();
    for (id, reason) in ids.iter().zip(["a", "b", "c"]) {
        world
            .write(vec![Write::SessionChange {
                device: world.device,
                id: *id,
                change: change(reason),
            }])
            .await;
    }
    world.reopen().await;
    let list = async |beyond, limit| {
        world
            .store
            .session_changes(world.tenant, world.device, beyond, limit)
            .await
            .unwrap()
    };
    assert_eq!(
        list(None, 2).await,
        [(ids[2], change("c")), (ids[1], change("b"))]
    );
    assert_eq!(list(Some(ids[1]), 9).await, [(ids[0], change("a"))]);
    assert_eq!(list(Some(ids[0]), 9).await, []);
    world.end().await;
}
