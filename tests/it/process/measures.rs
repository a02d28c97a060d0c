//! What `/metrics` tells of a gateway of which there is one in its process.

use serde_json::json;
use tempfile::tempdir;

use super::binary::Binary;
use crate::house::{Case, Client, Sse, cases, phone, text, until};

/// The value of one line of the metrics; 0 where it is not there.
pub(super) async fn measured(client: &Client, name: &str) -> f64 {
    let told = client.get("/metrics").await.text();
    told.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .map_or(0.0, |value| value.parse().unwrap())
}

async fn until_measured(client: &Client, name: &str, value: f64) {
    let what = format!("{name} is {value}");
    let is_so = async || (measured(client, name).await - value).abs() < 0.5;
    until(&what, is_so).await;
}

async fn everything_that_may_fill_up_is_measured() {
    let folder = tempdir().unwrap();
    let mut gateway = Binary::serve(&folder.path().join("data")).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    for (actor, count) in [
        ("node", 1.0),
        ("tenant", 1.0),
        ("log", 1.0),
        ("device", 1.0),
    ] {
        until_measured(&client, &format!("buho_actors{{actor=\"{actor}\"}}"), count).await;
    }
    let allocated = measured(&client, "buho_memory_allocated_bytes").await;
    let resident = f64::from(u32::try_from(gateway.memory()).unwrap());
    assert!(
        1e6 < allocated && allocated < resident,
        "{allocated} of {resident}"
    );
    // A device that is away keeps its queue.
    device.post("/disconnect", json!({})).await.expect(200);
    for index in 0..3 {
        device.send(&phone(index), "later").await;
    }
    until_measured(&client, "buho_outbox_messages", 3.0).await;
    until_measured(&client, "buho_actors{actor=\"chat\"}", 3.0).await;
    assert!(0.0 < measured(&client, "buho_log_ring_bytes").await);
    device.post("/connect", json!({})).await.success();
    until_measured(&client, "buho_outbox_messages", 0.0).await;
    until_measured(&client, "buho_deliveries_total{outcome=\"taken\"}", 3.0).await;
    assert!(0.0 < measured(&client, "buho_handover_seconds_count").await);
    until_measured(&client, "buho_store_queue_bytes", 0.0).await;
    let body = json!({"to": phone(1), "content": text("x")});
    device.takes("/messages", body).await;
    let stream = Sse::open(client.call("GET", "/v1/events/stream")).await;
    until_measured(&client, "buho_event_readers{transport=\"sse\"}", 1.0).await;
    drop(stream);
    until_measured(&client, "buho_event_readers{transport=\"sse\"}", 0.0).await;
    let told = client.get("/metrics").await.text();
    for name in told
        .lines()
        .filter_map(|it| it.strip_prefix("# TYPE ")?.split(' ').next())
    {
        assert!(
            told.contains(&format!("# HELP {name} ")),
            "{name} is explained"
        );
    }
    gateway.kill().await;
}

pub(crate) const CASES: &[Case] = cases![everything_that_may_fill_up_is_measured];
