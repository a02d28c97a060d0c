//! `/v1/keys`: API keys, made, changed, rotated, ended; and the admin keys, which are no tenant's.

use serde_json::{Value, json};

use crate::house::{Case, Client, House, Sse, cases, phone, text, until, walk};

/// Makes a key over the API.
async fn made(maker: &Client, wish: Value) -> (Value, Client) {
    let made = maker.post("/v1/keys", wish).await.expect(201);
    let client = maker.with(made["secret"].as_str().expect("a secret"));
    (made["key"].clone(), client)
}

fn path(key: &Value) -> String {
    format!("/v1/keys/{}", key["id"].as_str().expect("a key's id"))
}

async fn rotated(maker: &Client, key: &Value, overlap_seconds: u64) -> Client {
    let wish = json!({"overlap_seconds": overlap_seconds});
    let path = format!("{}/rotate", path(key));
    let told = maker.post(&path, wish).await.expect(200);
    assert_eq!(told["key"]["id"], key["id"]);
    maker.with(told["secret"].as_str().expect("a secret"))
}

async fn a_key_is_made_read_changed_and_ended() {
    let house = House::open().await;
    let wish = json!({"name": "one", "scopes": ["devices:read"], "allowed_ips": ["127.0.0.1", "10.0.0.0/8"], "expires_at": "2100-01-01T00:00:00.000Z"});
    let answer = house.post("/v1/keys", wish).await;
    let place = answer.header("location").map(str::to_owned);
    let whole = answer.expect(201);
    let (key, client) = (&whole["key"], house.with(whole["secret"].as_str().unwrap()));
    assert_eq!(place, Some(path(key)));
    assert_eq!(
        (&key["name"], &key["kind"], &key["scopes"], &key["devices"]),
        (
            &json!("one"),
            &json!("key"),
            &json!(["devices:read"]),
            &json!([])
        )
    );
    assert_eq!(key["allowed_ips"], json!(["127.0.0.1/32", "10.0.0.0/8"]));
    assert_eq!(key["expires_at"], "2100-01-01T00:00:00.000Z");
    assert_eq!(house.get(&path(key)).await.expect(200), *key);
    client.get("/v1/devices").await.expect(200);
    let listed = walk(&house, "/v1/keys?limit=1").await;
    assert_eq!(listed.len(), 2, "this one and the house's");
    assert_eq!(listed[0]["id"], key["id"], "newest first");
    assert!(!json!(listed).to_string().contains(client.secret()));

    let change = json!({"name": "two", "scopes": ["devices:read", "messages:read"], "allowed_ips": null, "expires_at": null});
    let changed = house.patch(&path(key), change).await.expect(200);
    assert_eq!(
        (
            &changed["name"],
            &changed["allowed_ips"],
            &changed["expires_at"]
        ),
        (&json!("two"), &json!([]), &Value::Null)
    );
    assert_eq!(
        house.patch(&path(key), json!({})).await.expect(200)["name"],
        "two"
    );
    let me = client.get("/v1/me").await.expect(200);
    assert_eq!(me["scopes"], json!(["devices:read", "messages:read"]));

    house.delete(&path(key)).await.expect(204);
    house.get(&path(key)).await.problem(404, "not_found");
    house.delete(&path(key)).await.problem(404, "not_found");
    client.get("/v1/me").await.problem(401, "unauthenticated");
    house.close().await;
}

async fn what_a_key_can_not_be_is_told_by_member() {
    let house = House::open().await;
    let absent = "dev_00000000000000000000000000";
    for (wish, pointer) in [
        (json!({"name": "", "scopes": ["devices:read"]}), "/name"),
        (json!({"name": "k", "scopes": []}), "/scopes"),
        (json!({"name": "k", "scopes": ["devices:red"]}), "/scopes"),
        (
            json!({"name": "k", "scopes": ["devices:read"], "devices": [absent]}),
            "/devices/0",
        ),
        (
            json!({"name": "k", "scopes": ["devices:read"], "allowed_ips": ["::1", "nowhere"]}),
            "/allowed_ips/1",
        ),
        (
            json!({"name": "k", "scopes": ["devices:read"], "expires_at": "2020-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (
            json!({"name": "k", "scopes": ["devices:read"], "expires": null}),
            "/expires",
        ),
    ] {
        let told = house.post("/v1/keys", wish.clone()).await;
        assert_eq!(told.pointers(), [pointer], "{wish}");
    }
    let (key, _) = made(&house, json!({"name": "k", "scopes": ["devices:read"]})).await;
    let rotate = format!("{}/rotate", path(&key));
    let told = house
        .post(&rotate, json!({"overlap_seconds": 604_801}))
        .await;
    assert_eq!(told.pointers(), ["/overlap_seconds"]);
    house.close().await;
}

async fn a_key_neither_makes_nor_widens_beyond_itself() {
    let house = House::open().await;
    let device = house.device("one").await;
    let keeper = house.key("keys:write devices:read").await;
    let wide = json!({"name": "k", "scopes": ["devices:read", "messages:write"]});
    let refused = keeper.post("/v1/keys", wide.clone()).await;
    refused.problem(403, "scope_missing");
    let own = format!("/v1/keys/{}", keeper.key_id());
    let refused = keeper
        .patch(&own, json!({"scopes": ["messages:write"]}))
        .await;
    refused.problem(403, "scope_missing");
    // Whoever holds the new secret holds the rights.
    let rotate = format!("/v1/keys/{}/rotate", house.key_id());
    let refused = keeper.post(&rotate, json!({})).await;
    refused.problem(403, "scope_missing");
    made(&keeper, json!({"name": "k", "scopes": ["devices:read"]})).await;
    let refused = house
        .key("devices:read")
        .await
        .post("/v1/keys", json!({"name": "k", "scopes": ["devices:read"]}))
        .await;
    refused.problem(403, "scope_missing");

    let bound = house.device_key(&[&device]).await;
    let own = format!("/v1/keys/{}", bound.key_id());
    let refused = bound.patch(&own, json!({"devices": null})).await;
    refused.problem(403, "scope_missing");

    let token = house.post("/v1/auth/tokens", json!({})).await.expect(201);
    let token = house.with(token["access_token"].as_str().unwrap());
    token.post("/v1/keys", wide).await.problem(403, "forbidden");
    house.close().await;
}

async fn a_key_for_devices_reaches_these_alone() {
    let house = House::open().await;
    let (mine, other) = (house.device("mine").await, house.device("other").await);
    let wish = json!({"name": "k", "scopes": ["messages:write", "devices:read", "keys:write"], "devices": [mine.id]});
    let (key, bound) = made(&house, wish).await;
    assert_eq!(
        (&key["kind"], &key["devices"]),
        (&json!("dev"), &json!([mine.id]))
    );
    let message = json!({"to": phone(1), "content": text("hola")});
    let sent = bound.post(&mine.path("/messages"), message.clone()).await;
    sent.expect(202);
    let sent = bound.post(&other.path("/messages"), message).await;
    sent.problem(404, "not_found");
    let seen = walk(&bound, "/v1/devices").await;
    assert_eq!((seen.len(), &seen[0]["id"]), (1, &json!(mine.id)));
    // A key that it makes is bound as it is, and it sees no key but such.
    let (child, _) = made(
        &bound,
        json!({"name": "child", "scopes": ["messages:write"]}),
    )
    .await;
    assert_eq!(child["devices"], json!([mine.id]));
    let wish = json!({"name": "k", "scopes": ["messages:write"], "devices": [other.id]});
    let refused = bound.post("/v1/keys", wish).await;
    assert_eq!(refused.pointers(), ["/devices/0"]);
    assert_eq!(walk(&bound, "/v1/keys").await.len(), 2);
    let path = format!("/v1/keys/{}", house.key_id());
    bound.get(&path).await.problem(404, "not_found");
    house.close().await;
}

async fn a_key_counts_only_from_its_addresses() {
    let house = House::open().await;
    let wish = json!({"name": "k", "scopes": ["devices:read"], "allowed_ips": ["192.0.2.0/24"]});
    let (key, client) = made(&house, wish).await;
    client
        .get("/v1/devices")
        .await
        .problem(403, "ip_not_allowed");
    let refused = client.handshake().open().await.expect_err("no upgrade");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (403, &json!("ip_not_allowed"))
    );
    let change = json!({"allowed_ips": ["127.0.0.0/8"]});
    house.patch(&path(&key), change).await.expect(200);
    client.get("/v1/devices").await.expect(200);
    house.close().await;
}

async fn a_key_ends_at_its_time_with_its_socket() {
    let house = House::open().await;
    // Its end is the key's too: the test needs no clock.
    let wish = json!({"ttl_seconds": 12});
    let token = house.post("/v1/auth/tokens", wish).await.expect(201);
    let end = &token["expires_at"];
    let wish = json!({"name": "k", "scopes": ["devices:read", "events:read"], "expires_at": end});
    let (key, client) = made(&house, wish).await;
    assert_eq!(key["expires_at"], *end);
    let mut socket = client.socket().await;
    assert_eq!(socket.until_close().await, 4200);
    until("the key is refused", async || {
        client.get("/v1/me").await.status == 401
    })
    .await;
    house.close().await;
}

async fn a_rotated_secret_works_until_the_overlap_ends() {
    let house = House::open().await;
    let device = house.device("one").await;
    let scopes = ["events:read", "messages:read", "devices:read"];
    let (key, old) = made(&house, json!({"name": "k", "scopes": scopes})).await;
    let mut old_socket = old.socket().await;
    old_socket.subscribe(json!({}), "now").await;
    let mut stream = Sse::open(old.call("GET", "/v1/events/stream?after=now")).await;
    let poll = "/v1/events?after=now&types=device.deleted&wait_seconds=30";
    let (polled, new) = tokio::join!(old.get(poll), rotated(&house, &key, 6));
    let mut new_socket = new.socket().await;
    new_socket.subscribe(json!({}), "now").await;
    polled.problem(401, "unauthenticated");
    assert_eq!(old_socket.until_close().await, 4200);
    while stream.next().await.is_some() {}
    old.get("/v1/me").await.problem(401, "unauthenticated");
    // Nothing of it touches who came with the new one.
    device.send(&phone(1), "hola").await;
    new_socket.until_event("message.created").await;
    new_socket.close().await;
    house.close().await;
}

async fn never_more_than_two_secrets_of_a_key_count() {
    let house = House::open().await;
    let wish = json!({"name": "k", "scopes": ["devices:read", "events:read"]});
    let (key, first) = made(&house, wish).await;
    let mut socket = first.socket().await;
    let second = rotated(&house, &key, 604_800).await;
    let me = first.get("/v1/me").await.expect(200);
    assert!(me["expires_at"].is_string(), "{me}");
    let me = second.get("/v1/me").await.expect(200);
    assert_eq!(me["expires_at"], Value::Null, "{me}");
    let third = rotated(&house, &key, 604_800).await;
    assert_eq!(socket.until_close().await, 4401);
    first.get("/v1/me").await.problem(401, "unauthenticated");
    second.get("/v1/me").await.expect(200);
    let last = rotated(&house, &key, 0).await;
    for gone in [second, third] {
        gone.get("/v1/me").await.problem(401, "unauthenticated");
    }
    last.get("/v1/me").await.expect(200);
    house.close().await;
}

async fn a_narrowed_key_sends_its_sockets_away_to_prove_it_anew() {
    let house = House::open().await;
    let wish = json!({"name": "k", "scopes": ["events:read", "messages:read"]});
    let (key, client) = made(&house, wish).await;
    let mut socket = client.socket().await;
    socket.subscribe(json!({}), "now").await;
    let wider = json!({"scopes": ["events:read", "messages:read", "devices:read"]});
    house.patch(&path(&key), wider).await.expect(200);
    socket.send(&json!({"op": "heartbeat"})).await;
    socket.until_op("heartbeat_ack").await;
    let narrower = json!({"scopes": ["events:read"]});
    house.patch(&path(&key), narrower).await.expect(200);
    assert_eq!(socket.until_close().await, 4201);
    let again = client.socket().await;
    again.close().await;
    house.close().await;
}

async fn a_retry_makes_and_rotates_once_and_has_no_secret() {
    let mut house = House::open().await;
    let body = json!({"name": "k", "scopes": ["devices:read"]});
    let make = || house.call("POST", "/v1/keys").once("m").json(&body).send();
    let first = make().await.expect(201);
    let secret = first["secret"].as_str().unwrap().to_owned();
    let again = make().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let again = again.expect(201);
    assert_eq!(
        (&again["key"], &again["secret"]),
        (&first["key"], &Value::Null)
    );
    assert_eq!(walk(&house, "/v1/keys").await.len(), 2);
    let path = format!("{}/rotate", path(&first["key"]));
    let body = json!({"overlap_seconds": 0});
    let rotate = || house.call("POST", &path).once("r").json(&body).send();
    let turned = rotate().await.expect(200);
    house
        .with(&secret)
        .get("/v1/me")
        .await
        .problem(401, "unauthenticated");
    let client = house.with(turned["secret"].as_str().unwrap());
    house.restart().await;
    let rotate = || house.call("POST", &path).once("r").json(&body).send();
    let again = rotate().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.expect(200)["secret"], Value::Null);
    client.get("/v1/me").await.expect(200);
    house.close().await;
}

async fn changes_of_a_key_at_once_lose_nothing_and_bring_nothing_back() {
    let house = House::open().await;
    for _ in 0..20 {
        let wish = json!({"name": "one", "scopes": ["devices:read"]});
        let (key, _) = made(&house, wish).await;
        let path = path(&key);
        let (name, end, last) = tokio::join!(
            house.patch(&path, json!({"name": "two"})),
            house.patch(&path, json!({"expires_at": "2100-01-01T00:00:00.000Z"})),
            house.patch(&path, json!({"allowed_ips": ["10.0.0.0/8"]})),
        );
        for answer in [name, end, last] {
            answer.expect(200);
        }
        let whole = house.get(&path).await.expect(200);
        assert_eq!(whole["name"], "two");
        assert_eq!(whole["expires_at"], "2100-01-01T00:00:00.000Z");
        assert_eq!(whole["allowed_ips"], json!(["10.0.0.0/8"]));

        let rotation = format!("{path}/rotate");
        let (gone, changed, rotated) = tokio::join!(
            house.delete(&path),
            house.patch(&path, json!({"name": "three"})),
            house.post(&rotation, json!({})),
        );
        gone.expect(204);
        assert!(matches!(changed.status, 200 | 404), "{}", changed.text());
        assert!(matches!(rotated.status, 200 | 404), "{}", rotated.text());
        house.get(&path).await.problem(404, "not_found");
    }
    house.close().await;
}

async fn an_admin_key_serves_no_tenant() {
    let house = House::open().await;
    let admin = house.operator().admin_key(house.base()).await;
    assert!(admin.secret().starts_with("buho_adm_"));
    let document = house.anonymous().get("/openapi.json").await.expect(200);
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace(['{', '}'], "");
        if !path.starts_with("/v1/") || path == "/v1/ws" {
            continue;
        }
        for method in ["get", "post", "put", "patch", "delete"] {
            if item[method].is_object() {
                let answer = admin.call(&method.to_uppercase(), &path).send().await;
                answer.problem(403, "forbidden");
                operations += 1;
            }
        }
    }
    assert!(20 < operations);
    let refused = admin.handshake().open().await.expect_err("no upgrade");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (403, &json!("forbidden"))
    );
    let mut socket = house.anonymous().socket().await;
    let wish =
        json!({"op": "auth", "id": 1, "token": admin.secret(), "subscribe": {}, "after": "now"});
    socket.send(&wish).await;
    assert_eq!(socket.until_close().await, 4403);
    house.close().await;
}

async fn from_elsewhere_the_metrics_are_for_admin_keys() {
    let house = House::open().await;
    let admin = house.operator().admin_key(house.base()).await;
    // Behind a proxy on this machine it is somebody else who asks.
    let ask = |client: &Client| {
        let call = client.call("GET", "/metrics");
        call.header("x-forwarded-for", "192.0.2.1").send()
    };
    ask(&house.anonymous())
        .await
        .problem(401, "unauthenticated");
    ask(&house).await.problem(403, "forbidden");
    ask(&admin).await.expect(200);
    house.operator().revoke(admin.key_id()).await;
    ask(&admin).await.problem(401, "unauthenticated");
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_key_is_made_read_changed_and_ended,
    what_a_key_can_not_be_is_told_by_member,
    a_key_neither_makes_nor_widens_beyond_itself,
    a_key_for_devices_reaches_these_alone,
    a_key_counts_only_from_its_addresses,
    a_key_ends_at_its_time_with_its_socket,
    a_rotated_secret_works_until_the_overlap_ends,
    never_more_than_two_secrets_of_a_key_count,
    a_narrowed_key_sends_its_sockets_away_to_prove_it_anew,
    a_retry_makes_and_rotates_once_and_has_no_secret,
    changes_of_a_key_at_once_lose_nothing_and_bring_nothing_back,
    an_admin_key_serves_no_tenant,
    from_elsewhere_the_metrics_are_for_admin_keys,
];
