//! Keys, access tokens, tickets and what they may do.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};

use crate::house::{Case, Client, Codec, House, cases, phone, text};

async fn me_tells_what_a_credential_may_do() {
    let house = House::open().await;
    let device = house.device("one").await;
    let key = house.key("messages:write, messages:read").await;
    let me = key.get("/v1/me").await.expect(200);
    assert_eq!(me["tenant"]["id"], house.tenant_id());
    assert_eq!(me["key"]["id"], key.key_id());
    let mut scopes: Vec<_> = me["scopes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    scopes.sort_unstable();
    assert_eq!(scopes, ["messages:read", "messages:write"]);
    assert!(me["limits"].is_object() && me["kind"].is_string());
    let bound = house.device_key(&[&device]).await;
    assert_eq!(
        bound.get("/v1/me").await.expect(200)["devices"],
        json!([device.id])
    );
    house.close().await;
}

async fn a_secret_has_the_published_form() {
    let house = House::open().await;
    let device = house.device("one").await;
    let bound = house.device_key(&[&device]).await;
    for (client, kind) in [(house.client(), "key"), (&bound, "dev")] {
        let parts: Vec<_> = client.secret().split('_').collect();
        assert_eq!(
            (parts.len(), parts[0], parts[1]),
            (5, "buho", kind),
            "{parts:?}"
        );
        assert_eq!(client.key_id(), format!("key_{}", parts[2]));
        assert!(parts[3].len() >= 27 && parts[4].len() == 6);
        assert!(
            parts[3..]
                .concat()
                .chars()
                .all(|it| it.is_ascii_alphanumeric())
        );
    }
    house.close().await;
}

async fn a_revoked_key_is_nobody() {
    let house = House::open().await;
    let key = house.key("devices:read").await;
    key.get("/v1/devices").await.expect(200);
    house.operator().revoke(key.key_id()).await;
    crate::house::until("the key is refused", async || {
        key.get("/v1/devices").await.status == 401
    })
    .await;
    house.get("/v1/devices").await.expect(200);
    house.close().await;
}

async fn a_token_works_and_verifies_with_the_published_keys() {
    let house = House::open().await;
    let wish = json!({"scopes": ["devices:read", "events:read"], "ttl_seconds": 600});
    let made = house.post("/v1/auth/tokens", wish).await.expect(201);
    assert_eq!(
        (&made["token_type"], &made["expires_in"]),
        (&json!("Bearer"), &json!(600))
    );
    assert!(made["expires_at"].is_string());
    let token = made["access_token"].as_str().unwrap();
    let client = house.with(token);
    client.get("/v1/devices").await.expect(200);
    client
        .post("/v1/devices", json!({"name": "x"}))
        .await
        .problem(403, "scope_missing");
    let claims = verified(&house, token).await;
    assert_eq!(
        (&claims["aud"], &claims["sub"]),
        (&json!("buho"), &json!(house.key_id()))
    );
    assert_eq!(claims["tenant"], house.tenant_id());
    assert_eq!(
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
        600
    );
    assert!(claims["jti"].is_string() && claims["iss"].is_string());
    let mut scope: Vec<_> = claims["scope"].as_str().unwrap().split(' ').collect();
    scope.sort_unstable();
    assert_eq!(scope, ["devices:read", "events:read"]);
    house.close().await;
}

async fn a_token_is_never_wider_than_its_key() {
    let house = House::open().await;
    let (mine, other) = (house.device("mine").await, house.device("other").await);
    let reader = house.key("devices:read").await;
    let wide = reader
        .post(
            "/v1/auth/tokens",
            json!({"scopes": ["devices:read", "messages:write"]}),
        )
        .await;
    wide.problem(403, "scope_missing");
    let plain = reader.post("/v1/auth/tokens", json!({})).await.expect(201);
    assert_eq!(
        (&plain["scope"], &plain["expires_in"]),
        (&json!("devices:read"), &json!(900))
    );
    let bound = house.device_key(&[&mine]).await;
    let wide = bound
        .post("/v1/auth/tokens", json!({"devices": [other.id]}))
        .await;
    assert!([403, 422].contains(&wide.status), "{}", wide.text());
    let narrow = house
        .post("/v1/auth/tokens", json!({"devices": [mine.id]}))
        .await
        .expect(201);
    let narrow = house.with(narrow["access_token"].as_str().unwrap());
    narrow.get(&mine.path("")).await.expect(200);
    narrow.get(&other.path("")).await.problem(404, "not_found");
    house.close().await;
}

async fn a_token_makes_no_tokens_and_its_life_has_bounds() {
    let house = House::open().await;
    for (body, pointer) in [
        (json!({"ttl_seconds": 0}), "/ttl_seconds"),
        (json!({"ttl_seconds": 3601}), "/ttl_seconds"),
        (json!({"ttl_seconds": "x"}), "/ttl_seconds"),
        (json!({"ttl": 60}), "/ttl"),
    ] {
        assert_eq!(
            house.post("/v1/auth/tokens", body).await.pointers(),
            [pointer]
        );
    }
    let made = house
        .post("/v1/auth/tokens", json!({"ttl_seconds": 3600}))
        .await
        .expect(201);
    let client = house.with(made["access_token"].as_str().unwrap());
    let absent = "/v1/keys/key_00000000000000000000000000";
    // Before anything of the path or the body is looked at.
    for refused in [
        client.post("/v1/auth/tokens", json!({})).await,
        client.post("/v1/auth/tokens", json!({"ttl": 60})).await,
        client.post("/v1/keys", json!({"name": ""})).await,
        client.patch(absent, json!({"name": 1})).await,
        client.post(&format!("{absent}/rotate"), json!([])).await,
    ] {
        refused.problem(403, "forbidden");
    }
    house.close().await;
}

async fn an_altered_token_is_nobody() {
    let house = House::open().await;
    let made = house.post("/v1/auth/tokens", json!({})).await.expect(201);
    let token = made["access_token"].as_str().unwrap();
    let parts: Vec<_> = token.split('.').collect();
    let none = "eyJhbGciOiJub25lIn0";
    let flipped = parts[1].replacen(
        &parts[1][10..11],
        if &parts[1][10..11] == "A" { "B" } else { "A" },
        1,
    );
    for wrong in [
        format!("{}.{}.", parts[0], parts[1]),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{}.{flipped}.{}", parts[0], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)),
        format!("{}.{}", parts[0], parts[1]),
        format!("{token}.{}", parts[2]),
        format!("{token}{}", "A".repeat(8_192)),
    ] {
        house
            .with(&wrong)
            .get("/v1/me")
            .await
            .problem(401, "unauthenticated");
    }
    house.with(token).get("/v1/me").await.expect(200);
    house.close().await;
}

async fn a_token_lives_over_a_restart_and_dies_with_its_key() {
    let mut house = House::open().await;
    let key = house.key("devices:read").await;
    let made = key.post("/v1/auth/tokens", json!({})).await.expect(201);
    let client = house.with(made["access_token"].as_str().unwrap());
    house.restart().await;
    client.get("/v1/devices").await.expect(200);
    house.operator().revoke(key.key_id()).await;
    crate::house::until("the token is refused", async || {
        client.get("/v1/devices").await.status == 401
    })
    .await;
    house.close().await;
}

async fn the_published_keys_are_public_ones_only() {
    let house = House::open().await;
    let set = house
        .anonymous()
        .get("/.well-known/jwks.json")
        .await
        .expect(200);
    let keys = set["keys"].as_array().unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        assert_eq!(
            (&key["kty"], &key["crv"]),
            (&json!("OKP"), &json!("Ed25519"))
        );
        assert!(
            key["kid"].is_string() && key["x"].is_string() && key.get("d").is_none(),
            "{key}"
        );
    }
    house.close().await;
}

async fn a_ticket_opens_one_socket() {
    let house = House::open().await;
    let device = house.device("one").await;
    let made = house.post("/v1/ws/tickets", json!({})).await.expect(201);
    assert!(made["expires_at"].is_string() && made["url"].is_string());
    let path = format!("/v1/ws?ticket={}", made["ticket"].as_str().unwrap());
    let nobody = house.anonymous();
    let mut socket = nobody.handshake().path(&path).welcome().await;
    socket.subscribe(json!({}), "now").await;
    device.send(&phone(1), "hola").await;
    socket.until_event("message.created").await;
    let again = nobody.handshake().path(&path).open().await;
    assert_eq!(again.expect_err("used once").status, 401);
    let bad = nobody
        .handshake()
        .path("/v1/ws?ticket=nonsense")
        .open()
        .await;
    assert_eq!(bad.expect_err("not a ticket").status, 401);
    nobody
        .get(&format!(
            "/v1/me?ticket={}",
            made["ticket"].as_str().unwrap()
        ))
        .await
        .problem(401, "unauthenticated");
    socket.close().await;
    house.close().await;
}

async fn a_ticket_is_narrow_and_ends_with_its_key() {
    let house = House::open().await;
    let device = house.device("one").await;
    let key = house.key("events:read messages:read messages:write").await;
    let wide = key
        .post("/v1/ws/tickets", json!({"scopes": ["devices:write"]}))
        .await;
    wide.problem(403, "scope_missing");
    let made = key
        .post(
            "/v1/ws/tickets",
            json!({"scopes": ["events:read", "messages:read"]}),
        )
        .await
        .expect(201);
    let path = format!("/v1/ws?ticket={}", made["ticket"].as_str().unwrap());
    let mut socket = house
        .anonymous()
        .handshake()
        .path(&path)
        .codec(Codec::Json)
        .welcome()
        .await;
    let params = json!({"device": device.id, "to": phone(1), "content": text("x")});
    let reply = socket.request("send_message", params, None).await;
    assert_eq!(reply["error"]["code"], "scope_missing", "{reply}");
    let unused = key.post("/v1/ws/tickets", json!({})).await.expect(201);
    house.operator().revoke(key.key_id()).await;
    assert_eq!(socket.until_close().await, 4401);
    let path = format!("/v1/ws?ticket={}", unused["ticket"].as_str().unwrap());
    assert_eq!(
        house
            .anonymous()
            .handshake()
            .path(&path)
            .open()
            .await
            .expect_err("revoked")
            .status,
        401
    );
    house.close().await;
}

async fn only_a_valid_token_of_the_same_tenant_is_active() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let wish = json!({"scopes": ["devices:read"]});
    let made = house
        .post("/v1/auth/tokens", wish.clone())
        .await
        .expect(201);
    let token = made["access_token"].as_str().unwrap();
    let theirs = neighbour.post("/v1/auth/tokens", wish).await.expect(201);
    let theirs = theirs["access_token"].as_str().unwrap();
    let told = introspected(&house, token).await;
    assert_eq!(
        (&told["active"], &told["scope"]),
        (&json!(true), &json!("devices:read"))
    );
    assert_eq!(
        (&told["tenant"], &told["key"]),
        (&json!(house.tenant_id()), &json!(house.key_id()))
    );
    assert_eq!(told["exp"], verified(&house, token).await["exp"]);
    for other in [theirs, house.secret(), "nonsense"] {
        assert_eq!(
            introspected(&house, other).await,
            json!({"active": false}),
            "{other}"
        );
    }
    assert_eq!(introspected(&neighbour, theirs).await["active"], true);
    house.close().await;
}

async fn a_token_is_ended_before_its_time_by_its_tenant_alone() {
    let mut house = House::open().await;
    let neighbour = house.tenant().await;
    let made = house.post("/v1/auth/tokens", json!({})).await.expect(201);
    let token = made["access_token"].as_str().unwrap();
    let client = house.with(token);
    let mut socket = client.socket().await;
    let revoke = "/v1/auth/revoke";
    let body = json!({"token": token});
    assert_eq!(
        neighbour.post(revoke, body.clone()).await.expect(200),
        json!({})
    );
    client.get("/v1/me").await.expect(200);
    let form = house
        .call("POST", revoke)
        .raw(FORM, format!("token={token}"));
    assert_eq!(form.send().await.expect(200), json!({}));
    assert_eq!(socket.until_close().await, 4401);
    client.get("/v1/me").await.problem(401, "unauthenticated");
    assert_eq!(introspected(&house, token).await, json!({"active": false}));
    for again in [body, json!({"token": "nonsense"})] {
        assert_eq!(house.post(revoke, again).await.expect(200), json!({}));
    }
    house.restart().await;
    client.get("/v1/me").await.problem(401, "unauthenticated");
    house.close().await;
}

async fn a_token_that_ends_closes_its_socket() {
    let house = House::open().await;
    let wish = json!({"ttl_seconds": 12});
    let made = house.post("/v1/auth/tokens", wish).await.expect(201);
    let client = house.with(made["access_token"].as_str().unwrap());
    let mut socket = client.socket().await;
    socket.subscribe(json!({}), "now").await;
    let notice = socket.until_op("notice").await;
    assert_eq!(notice["code"], "token_expires", "{notice}");
    assert_eq!(socket.until_close().await, 4200);
    house.close().await;
}

const FORM: &str = "application/x-www-form-urlencoded";

/// What a token is, asked in both forms.
async fn introspected(client: &Client, token: &str) -> Value {
    let path = "/v1/auth/introspect";
    let told = client.post(path, json!({"token": token})).await.expect(200);
    let form = client
        .call("POST", path)
        .raw(FORM, format!("token={token}"));
    assert_eq!(form.send().await.expect(200), told);
    told
}

/// The claims of a token that verifies with `/.well-known/jwks.json`.
async fn verified(client: &Client, token: &str) -> Value {
    let set: JwkSet =
        serde_json::from_value(client.get("/.well-known/jwks.json").await.expect(200)).unwrap();
    let header = decode_header(token).unwrap();
    assert_eq!(header.alg, Algorithm::EdDSA);
    let key = set
        .find(header.kid.as_deref().expect("a kid"))
        .expect("the key is published");
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_audience(&["buho"]);
    decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &rules)
        .unwrap()
        .claims
}

async fn a_key_tells_when_and_from_where_it_was_last_used() {
    let mut house = House::open().await;
    let quiet = house.key("events:read").await;
    let path = format!("/v1/keys/{}", quiet.key_id());
    let key = house.get(&path).await.expect(200);
    assert_eq!(
        (&key["last_used_at"], &key["last_used_ip"]),
        (&Value::Null, &Value::Null)
    );
    quiet.get("/v1/me").await.expect(200);
    let key = house.get(&path).await.expect(200);
    assert_eq!(key["last_used_ip"], "127.0.0.1", "{key}");
    let used = key["last_used_at"].as_str().unwrap().to_owned();
    assert!(
        key["created_at"].as_str().unwrap() <= used.as_str(),
        "{key}"
    );
    house.restart().await;
    let listed = house.get("/v1/keys").await.expect(200);
    let items = listed["items"].as_array().unwrap();
    let listed = items.iter().find(|it| it["id"] == key["id"]).unwrap();
    assert_eq!(listed["last_used_at"], used, "it outlives a restart");
    house.delete(&path).await.expect(204);
    house.close().await;
}

async fn a_token_or_ticket_names_devices_that_are_there() {
    let house = House::open().await;
    let own = house.fresh_device("own").await;
    let theirs = house.tenant().await.fresh_device("theirs").await;
    let bound = house.device_key(&[&own]).await;
    for path in ["/v1/auth/tokens", "/v1/ws/tickets"] {
        for absent in [&theirs.id, "dev_00000000000000000000000000"] {
            let wish = json!({"devices": [own.id, absent]});
            let pointers = house.post(path, wish.clone()).await.pointers();
            assert_eq!(pointers, ["/devices/1"], "{path} {absent}");
            // One that sees no others can't tell which of them are there.
            let wide = bound.post(path, wish).await;
            wide.problem(403, "scope_missing");
        }
        house
            .post(path, json!({"devices": [own.id]}))
            .await
            .expect(201);
    }
    house.close().await;
}

async fn what_a_key_always_has_can_not_be_erased() {
    let house = House::open().await;
    let key = house.key("devices:read").await;
    let path = format!("/v1/keys/{}", key.key_id());
    let patch = json!({"name": null, "scopes": null});
    assert_eq!(
        house.patch(&path, patch).await.pointers(),
        ["/name", "/scopes"]
    );
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    me_tells_what_a_credential_may_do,
    a_secret_has_the_published_form,
    a_revoked_key_is_nobody,
    a_token_works_and_verifies_with_the_published_keys,
    a_token_is_never_wider_than_its_key,
    a_token_makes_no_tokens_and_its_life_has_bounds,
    an_altered_token_is_nobody,
    a_token_lives_over_a_restart_and_dies_with_its_key,
    the_published_keys_are_public_ones_only,
    a_ticket_opens_one_socket,
    a_ticket_is_narrow_and_ends_with_its_key,
    a_key_tells_when_and_from_where_it_was_last_used,
    a_token_or_ticket_names_devices_that_are_there,
    what_a_key_always_has_can_not_be_erased,
    only_a_valid_token_of_the_same_tenant_is_active,
    a_token_is_ended_before_its_time_by_its_tenant_alone,
    a_token_that_ends_closes_its_socket,
];
