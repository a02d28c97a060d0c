//! Who is it: credentials in the header, in band, renewed, revoked.

use serde_json::json;

use crate::house::{Case, House, cases, phone};

async fn hello_comes_at_once_with_its_terms() {
    let house = House::open().await;
    let mut socket = house
        .anonymous()
        .handshake()
        .open()
        .await
        .expect("an upgrade");
    assert_eq!(socket.protocol(), Some("buho.v1.json"));
    let hello = socket.frame().await;
    assert_eq!(
        (&hello["op"], &hello["version"]),
        (&json!("hello"), &json!(1))
    );
    assert!(hello["connection"].is_string() && hello["node"].is_string());
    assert_eq!(
        (&hello["heartbeat_ms"], &hello["auth_ms"]),
        (&json!(25_000), &json!(10_000))
    );
    assert_eq!(hello["limits"]["frame_bytes"], 65_536);
    for name in ["rate", "burst", "in_flight"] {
        assert!(hello["limits"][name].is_u64(), "{name}: {hello}");
    }
    socket.close().await;
    house.close().await;
}

async fn one_round_trip_does_auth_subscribe_and_resume() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.anonymous().socket().await;
    let client = json!({"name": "test", "version": "1"});
    let wish = json!({"client": client, "subscribe": {"types": ["message.*"]}, "after": "oldest", "ack": "none"});
    let ready = socket.auth(house.secret(), wish).await;
    assert_eq!(ready["op"], "ready", "{ready}");
    assert_eq!(ready["tenant"], house.tenant_id());
    assert!(
        ready["session"].is_string() && ready["scopes"].is_array() && ready["resumed"].is_boolean()
    );
    assert!(ready["cursor"]["head"].is_string() && ready["cursor"]["oldest"].is_string());
    let sent = device.send(&phone(1), "hola").await;
    assert_eq!(
        socket.until_event("message.created").await["data"]["id"],
        sent["id"]
    );
    socket.close().await;
    house.close().await;
}

async fn an_access_token_opens_a_socket_and_tells_its_end() {
    let house = House::open().await;
    let made = house.post("/v1/auth/tokens", json!({})).await.expect(201);
    let token = made["access_token"].as_str().unwrap();
    let mut socket = house.anonymous().socket().await;
    let ready = socket
        .auth(token, json!({"subscribe": {}, "after": "now"}))
        .await;
    assert_eq!(ready["expires_at"], made["expires_at"], "{ready}");
    socket.close().await;
    let mut socket = house.with(token).socket().await;
    socket.subscribe(json!({}), "now").await;
    socket.close().await;
    house.close().await;
}

async fn a_bad_header_credential_is_401_before_the_upgrade() {
    let house = House::open().await;
    let refused = house
        .with("buho_key_nonsense")
        .handshake()
        .open()
        .await
        .expect_err("no upgrade");
    assert_eq!(refused.status, 401);
    assert_eq!(refused.body["code"], "unauthenticated");
    let in_query = house
        .anonymous()
        .handshake()
        .path(&format!("/v1/ws?token={}", house.secret()));
    assert_eq!(in_query.open().await.expect_err("no upgrade").status, 401);
    house.close().await;
}

async fn a_bad_token_in_band_and_anything_before_auth_is_4401() {
    let house = House::open().await;
    for frame in [
        json!({"op": "auth", "id": 1, "token": "buho_key_nonsense", "subscribe": {}, "after": "now"}),
        json!({"op": "subscribe", "id": 1, "filter": {}, "after": "now"}),
        json!({"op": "request", "id": 1, "method": "list_devices", "params": {}}),
    ] {
        let mut socket = house.anonymous().socket().await;
        socket.send(&frame).await;
        assert_eq!(socket.until_close().await, 4401, "{frame}");
    }
    house.close().await;
}

async fn who_says_nothing_is_sent_away() {
    let house = House::open().await;
    let mut socket = house.anonymous().socket().await;
    assert_eq!(socket.until_close().await, 4408);
    house.close().await;
}

async fn a_revoked_key_closes_its_sockets() {
    let house = House::open().await;
    let device = house.device("one").await;
    let key = house.key("events:read messages:read").await;
    let made = key.post("/v1/auth/tokens", json!({})).await.expect(201);
    let mut by_key = key.socket().await;
    let mut by_token = house
        .with(made["access_token"].as_str().unwrap())
        .socket()
        .await;
    let mut other = house.socket().await;
    for socket in [&mut by_key, &mut by_token, &mut other] {
        socket
            .subscribe(json!({"types": ["message.created"]}), "now")
            .await;
    }
    house.operator().revoke(key.key_id()).await;
    assert_eq!(by_key.until_close().await, 4401);
    assert_eq!(by_token.until_close().await, 4401);
    device.send(&phone(1), "hola").await;
    other.until_event("message.created").await;
    other.close().await;
    house.close().await;
}

async fn a_new_credential_needs_no_new_connection() {
    let house = House::open().await;
    let device = house.device("one").await;
    let (old, new) = (
        house.key("events:read messages:read").await,
        house.key("events:read messages:read").await,
    );
    let mut socket = old.socket().await;
    socket.subscribe(json!({}), "now").await;
    let reply = socket
        .ask(json!({"op": "reauth", "token": new.secret()}))
        .await;
    assert!(reply.get("error").is_none(), "{reply}");
    house.operator().revoke(old.key_id()).await;
    crate::house::until("the old key is refused", async || {
        old.get("/v1/me").await.status == 401
    })
    .await;
    let sent = device.send(&phone(1), "hola").await;
    assert_eq!(
        socket.until_event("message.created").await["data"]["id"],
        sent["id"]
    );
    house.operator().revoke(new.key_id()).await;
    assert_eq!(socket.until_close().await, 4401);
    house.close().await;
}

async fn a_credential_of_another_tenant_does_not_renew() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({}), "now").await;
    socket
        .send(&json!({"op": "reauth", "id": 77, "token": neighbour.secret()}))
        .await;
    let device = neighbour.device("theirs").await;
    device.send(&phone(1), "hola").await;
    let mut tenants = Vec::new();
    loop {
        match socket.heard().await {
            crate::house::Heard::Closed(code) => {
                assert!((4_400..4_500).contains(&code), "{code}");
                break;
            }
            crate::house::Heard::Frame(frame) if frame["id"] == 77 => {
                assert!(frame["error"]["code"].is_string(), "{frame}");
                socket.close().await;
                break;
            }
            crate::house::Heard::Frame(frame) => tenants.push(frame["event"]["tenant"].clone()),
        }
    }
    assert!(tenants.iter().all(|it| it != neighbour.tenant_id()));
    house.close().await;
}

async fn a_foreign_origin_is_refused_before_the_upgrade() {
    let house = House::open().await;
    for origin in ["https://evil.example", "null"] {
        let refused = house
            .handshake()
            .header("origin", origin)
            .open()
            .await
            .expect_err("no upgrade");
        assert_eq!(
            (refused.status, &refused.body["code"]),
            (403, &json!("origin_not_allowed")),
            "{origin}"
        );
    }
    let own = house.base().url();
    house
        .handshake()
        .header("origin", &own)
        .welcome()
        .await
        .close()
        .await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    hello_comes_at_once_with_its_terms,
    one_round_trip_does_auth_subscribe_and_resume,
    an_access_token_opens_a_socket_and_tells_its_end,
    a_bad_header_credential_is_401_before_the_upgrade,
    a_bad_token_in_band_and_anything_before_auth_is_4401,
    who_says_nothing_is_sent_away,
    a_revoked_key_closes_its_sockets,
    a_new_credential_needs_no_new_connection,
    a_credential_of_another_tenant_does_not_renew,
    a_foreign_origin_is_refused_before_the_upgrade,
];
