//! `/v1/me`, and the limits that it tells: each of them is one that counts.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::house::{Case, Client, House, cases, until, until_some};

/// Gives a tenant limits of its own.
async fn limit(house: &House, set: Value) {
    let tenant = house.tenant_id();
    let wish = json!({"command": "tenant_limits", "tenant": tenant, "set": set});
    let told = house.operator().ask(&wish).await;
    assert_eq!(told["tenant"]["id"], tenant, "{told}");
}

async fn limits(client: &Client) -> Value {
    client.get("/v1/me").await.expect(200)["limits"].clone()
}

async fn a_tenants_own_limits_go_before_the_configured_ones() {
    let mut house = House::open().await;
    let none = json!({"devices": 0, "connections": 0, "requests_per_second": 0});
    assert_eq!(limits(&house).await, none);
    let settings = "limits.devices = 5\nlimits.connections = 6\nlimits.requests_per_second = 7_000";
    house.restart_with(settings).await;
    let configured = json!({"devices": 5, "connections": 6, "requests_per_second": 7_000});
    assert_eq!(limits(&house).await, configured);
    limit(&house, json!({"devices": 9, "requests_per_second": 9_000})).await;
    let both = json!({"devices": 9, "connections": 6, "requests_per_second": 9_000});
    assert_eq!(limits(&house).await, both);
    let wish = json!({"command": "tenant_show", "tenant": house.tenant_id()});
    let shown = house.operator().ask(&wish).await;
    assert_eq!(shown["limits"], both, "{shown}");
    assert_eq!(shown["tenant"]["limits"]["connections"], 0, "{shown}");
    limit(&house, json!({"devices": 0, "requests_per_second": 0})).await;
    assert_eq!(limits(&house).await, configured);
    house.close().await;
}

async fn calls_beyond_the_rate_are_told_when_there_is_more() {
    let house = House::open_with("limits.requests_per_second = 1").await;
    let refused = until_some("a call is refused", async || {
        let calls = join_all((0..20).map(|_| house.get("/v1/me"))).await;
        for call in &calls {
            assert_eq!(call.header("ratelimit-limit"), Some("1"), "{}", call.text());
            assert!(call.header("ratelimit-remaining").is_some());
            assert!(call.header("ratelimit-reset").is_some());
        }
        calls.into_iter().find(|it| it.status != 200)
    })
    .await;
    assert_eq!(refused.header("ratelimit-remaining"), Some("0"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    refused.problem(429, "rate_limited");
    // A neighbour has a rate of its own.
    house.tenant().await.get("/v1/me").await.expect(200);
    limit(&house, json!({"requests_per_second": 1_000_000})).await;
    for _ in 0..3 {
        let call = house.get("/v1/me").await;
        assert_eq!(call.header("ratelimit-limit"), Some("1000000"));
        call.expect(200);
    }
    house.close().await;
}

async fn connections_beyond_the_limit_are_sent_to_wait() {
    let house = House::open_with("limits.connections = 1").await;
    let mut first = house.socket().await;
    first.subscribe(json!({}), "now").await;
    let refused = house.handshake().open().await.expect_err("no upgrade");
    assert_eq!(
        (refused.status, &refused.body["code"]),
        (429, &json!("limit_reached"))
    );
    let mut second = house.anonymous().socket().await;
    let wish =
        json!({"op": "auth", "id": 1, "token": house.secret(), "subscribe": {}, "after": "now"});
    second.send(&wish).await;
    assert_eq!(second.until_close().await, 4102);
    let stream = || house.call("GET", "/v1/events/stream?after=now");
    stream().send().await.problem(429, "limit_reached");
    house.tenant().await.socket().await.close().await;
    first.close().await;
    until("its place is free", async || {
        stream().open().await.unwrap().status() == 200
    })
    .await;
    let mut open = Vec::new();
    limit(&house, json!({"connections": 2})).await;
    until("two streams are open", async || {
        let answer = stream().open().await.unwrap();
        if answer.status() == 200 {
            open.push(answer);
        }
        open.len() == 2
    })
    .await;
    assert_eq!(stream().send().await.status, 429);
    drop(open);
    until("a place is free again", async || {
        stream().open().await.unwrap().status() == 200
    })
    .await;
    house.close().await;
}

async fn devices_beyond_the_limit_are_not_made() {
    let house = House::open_with("limits.devices = 1").await;
    let first = house.fresh_device("one").await;
    let make = async || house.post("/v1/devices", json!({"name": "two"})).await;
    make().await.problem(429, "limit_reached");
    limit(&house, json!({"devices": 2})).await;
    make().await.expect(201);
    make().await.problem(429, "limit_reached");
    house.delete(&first.path("")).await.expect(204);
    make().await.expect(201);
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_tenants_own_limits_go_before_the_configured_ones,
    calls_beyond_the_rate_are_told_when_there_is_more,
    connections_beyond_the_limit_are_sent_to_wait,
    devices_beyond_the_limit_are_not_made,
];
