//! Lists: pages, limits, cursors.

use std::collections::BTreeSet;

use crate::house::{Case, House, cases};

async fn pages_hold_everything_once_in_order_with_one_event_cursor() {
    let house = House::open().await;
    let mut made = Vec::new();
    for index in 0..7 {
        made.push(house.fresh_device(&format!("d{index}")).await.id);
    }
    let (mut seen, mut cursor, mut event_cursors) = (Vec::new(), String::new(), BTreeSet::new());
    loop {
        let page = house
            .get(&format!("/v1/devices?limit=3{cursor}"))
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|it| it["id"].as_str().unwrap().to_owned()));
        event_cursors.insert(
            page["event_cursor"]
                .as_str()
                .expect("event_cursor")
                .to_owned(),
        );
        // What comes while one pages does not move what was there.
        house.fresh_device("late").await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    made.reverse();
    assert_eq!(seen, made, "newest first, each once");
    assert_eq!(event_cursors.len(), 1, "{event_cursors:?}");
    house.close().await;
}

async fn a_cursor_is_only_good_for_its_own_list_filters_and_tenant() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    for index in 0..3 {
        house.fresh_device(&format!("d{index}")).await;
        neighbour.fresh_device(&format!("n{index}")).await;
    }
    let page = house
        .get("/v1/devices?limit=1&state=created")
        .await
        .expect(200);
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    house
        .get(&format!(
            "/v1/devices?limit=1&state=created&cursor={cursor}"
        ))
        .await
        .expect(200);
    for path in [
        format!("/v1/devices?state=connected&cursor={cursor}"),
        format!("/v1/sessions?cursor={cursor}"),
    ] {
        house.get(&path).await.problem(422, "invalid_cursor");
    }
    let path = format!("/v1/devices?limit=1&state=created&cursor={cursor}");
    neighbour.get(&path).await.problem(422, "invalid_cursor");
    house.close().await;
}

async fn an_unknown_query_parameter_and_a_limit_out_of_bounds_are_422() {
    let house = House::open().await;
    for (query, pointer) in [
        ("limit=0", "?limit"),
        ("limit=201", "?limit"),
        ("limit=x", "?limit"),
        ("limt=5", "?limt"),
        ("state=asleep", "?state"),
    ] {
        let pointers = house.get(&format!("/v1/devices?{query}")).await.pointers();
        assert_eq!(pointers, [pointer], "{query}");
    }
    house.get("/v1/devices?limit=1").await.expect(200);
    house.get("/v1/devices?limit=200").await.expect(200);
    house
        .get("/v1/devices?cursor=abc")
        .await
        .problem(422, "invalid_cursor");
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    pages_hold_everything_once_in_order_with_one_event_cursor,
    a_cursor_is_only_good_for_its_own_list_filters_and_tenant,
    an_unknown_query_parameter_and_a_limit_out_of_bounds_are_422,
];
