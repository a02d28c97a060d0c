//! The proxy of the fault tests does what it says.

use tokio::time::{Duration, Instant, timeout};

use crate::house::{Base, Case, Client, House, Proxy, cases, until};

const DELAY: Duration = Duration::from_millis(300);

async fn proxied() -> (House, Proxy, Client) {
    let house = House::open().await;
    let server = house.base().authority().parse().unwrap();
    let proxy = Proxy::open(([127, 0, 0, 1], 0).into(), server).await;
    let base = Base::default();
    base.set(&format!("http://{}", proxy.address()));
    let client = Client::new(&base, house.tenant_id(), house.key_id(), house.secret());
    client.get("/v1/me").await.expect(200);
    (house, proxy, client)
}

async fn is_cut(client: &Client) -> bool {
    client.call("GET", "/v1/me").attempt().await.is_err()
}

async fn a_slow_line_delays_both_ways() {
    let (house, proxy, client) = proxied().await;
    proxy.delay(DELAY);
    let begun = Instant::now();
    client.get("/v1/me").await.expect(200);
    assert!(2 * DELAY <= begun.elapsed(), "{:?}", begun.elapsed());
    proxy.heal();
    // Only the delay is gone; how quick the gateway is, is not the matter here.
    client.get("/v1/me").await.expect(200);
    house.close().await;
}

async fn a_silent_line_keeps_what_was_said_until_it_is_healed() {
    let (house, proxy, client) = proxied().await;
    proxy.silence();
    let asked = client.get("/v1/me");
    tokio::pin!(asked);
    assert!(timeout(DELAY, &mut asked).await.is_err(), "answered");
    proxy.heal();
    asked.await.expect(200);
    house.close().await;
}

async fn a_cut_line_ends_what_is_open_and_takes_nothing_new() {
    let (house, proxy, client) = proxied().await;
    let mut socket = client.socket().await;
    proxy.cut();
    assert_eq!(socket.until_close().await, 1006);
    assert!(is_cut(&client).await && is_cut(&client).await);
    house.get("/v1/me").await.expect(200);
    proxy.heal();
    until("the line is whole", async || !is_cut(&client).await).await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_slow_line_delays_both_ways.embedded(),
    a_silent_line_keeps_what_was_said_until_it_is_healed.embedded(),
    a_cut_line_ends_what_is_open_and_takes_nothing_new.embedded(),
];
