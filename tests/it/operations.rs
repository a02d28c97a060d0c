//! What stands around the API: health, metrics, documentation, problem pages.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::house::{Case, House, Store, cases, phone};

/// The methods that OpenAPI knows.
const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];

async fn health_is_open_to_all() {
    let house = House::open().await;
    let nobody = house.anonymous();
    nobody.get("/health/live").await.expect(200);
    let ready = nobody.get("/health/ready").await.expect(200);
    let durability = match Store::current() {
        Store::Embedded => "fsync",
        Store::Cql => "quorum",
    };
    assert_eq!(ready["dur"], durability, "{ready}");
    house.close().await;
}

async fn metrics_are_in_the_form_of_prometheus_and_count() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "metrics-canary").await;
    let answer = house.anonymous().get("/metrics").await;
    let told = answer.text();
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    answer.expect(200);
    assert!(told.contains("# TYPE "));
    let tasks = told.lines().find_map(|it| it.strip_prefix("buho_tasks "));
    assert!(tasks.unwrap().parse::<u32>().unwrap() > 0, "{told}");
    for line in told
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
    {
        let value = line.rsplit(' ').next().unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(
        !told.contains("metrics-canary")
            && !told.contains(&phone(1))
            && !told.contains(house.secret())
    );
    house.close().await;
}

async fn the_list_of_operations_changes_only_on_purpose() {
    let house = House::open().await;
    let document = house.anonymous().get("/openapi.json").await.expect(200);
    let mut lines = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations(item) {
            let id = operation["operationId"].as_str().expect("an operationId");
            lines.insert(format!("{method} {path} {id}"));
        }
    }
    let mut told = String::new();
    for line in &lines {
        writeln!(told, "{line}").unwrap();
    }
    house.close().await;
    insta::assert_snapshot!("operations", told);
}

async fn no_shape_of_the_api_changes_unnoticed() {
    let house = House::open().await;
    let document = house.anonymous().get("/openapi.json").await.expect(200);
    house.close().await;
    insta::assert_json_snapshot!("openapi", document);
}

async fn the_document_is_sound() {
    let house = House::open().await;
    let document = house.anonymous().get("/openapi.json").await.expect(200);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations(item) {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} stands twice");
            let is_snake = id
                .chars()
                .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '_');
            assert!(is_snake, "{id} is not snake_case");
            assert!(
                operation["responses"].is_object(),
                "{method} {path} promises nothing"
            );
            let text = format!("{}{}", item["parameters"], operation["parameters"]);
            // What has no effect needs no key.
            let takes_key = method == "post" && id != "introspect_token";
            assert_eq!(text.contains("\"Idempotency-Key\""), takes_key, "{id}");
            for name in path
                .split('{')
                .skip(1)
                .map(|it| it.split('}').next().unwrap())
            {
                assert!(
                    text.contains(&format!("\"{name}\"")),
                    "{method} {path} does not tell of {name}"
                );
            }
        }
    }
    let whole = document.to_string();
    for reference in whole
        .split("\"$ref\":\"#")
        .skip(1)
        .map(|it| it.split('"').next().unwrap())
    {
        assert!(
            document.pointer(reference).is_some(),
            "{reference} leads nowhere"
        );
    }
    house.close().await;
}

async fn the_documentation_works_offline() {
    let house = House::open().await;
    let nobody = house.anonymous();
    let mut path = "/docs".to_owned();
    let mut page = nobody.get(&path).await;
    for _ in 0..3 {
        if let Some(place) = page.header("location") {
            path = if place.starts_with('/') {
                place.to_owned()
            } else {
                format!("/docs/{place}")
            };
            page = nobody.get(&path).await;
        }
    }
    let html = page.text();
    page.expect(200);
    let base = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut files = 0;
    for attribute in ["src=\"", "href=\""] {
        for link in html
            .split(attribute)
            .skip(1)
            .map(|it| it.split('"').next().unwrap())
        {
            assert!(!link.contains("//"), "{link} is elsewhere");
            let link = link.trim_start_matches("./");
            let link = if link.starts_with('/') {
                link.to_owned()
            } else {
                format!("{base}/{link}")
            };
            let file = nobody.get(&link).await;
            assert!(
                file.status == 200 && !file.bytes.is_empty(),
                "{link}: {}",
                file.status
            );
            files += 1;
        }
    }
    assert!(files > 0, "a page without files: {html}");
    house.close().await;
}

async fn every_problem_code_has_a_page() {
    let house = House::open().await;
    let nobody = house.anonymous();
    for code in [
        "invalid_json",
        "unauthenticated",
        "scope_missing",
        "not_found",
        "method_not_allowed",
        "not_acceptable",
        "state_conflict",
        "number_taken",
        "idempotency_mismatch",
        "idempotency_in_progress",
        "cursor_gone",
        "body_too_large",
        "unsupported_media_type",
        "invalid",
        "invalid_cursor",
        "unsupported_by_connector",
        "internal",
        "busy",
        "unavailable",
        "store_failed",
        "outcome_unknown",
    ] {
        let page = nobody.get(&format!("/problems/{code}")).await;
        let told = page.text();
        page.expect(200);
        assert!(told.contains(code) && told.len() > 80, "{code}: {told}");
    }
    for absent in [
        "/problems/no_such_code",
        "/problems/%ff",
        "/docs/%ff",
        "/docs/none",
    ] {
        nobody.get(absent).await.problem(404, "not_found");
    }
    house.close().await;
}

async fn there_is_no_cors_unless_origins_are_listed() {
    let house = House::open().await;
    let answer = house
        .call("GET", "/v1/me")
        .header("origin", "https://evil.example")
        .send()
        .await;
    assert!(answer.header("access-control-allow-origin").is_none());
    house.close().await;
}

async fn every_list_tells_of_its_pages_and_every_patch_of_its_form() {
    let house = House::open().await;
    let document = house.anonymous().get("/openapi.json").await.expect(200);
    house.close().await;
    let (mut lists, mut patches) = (0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations(item) {
            let id = operation["operationId"].as_str().unwrap();
            if method == "patch" {
                patches += 1;
                let content = operation["requestBody"]["content"].as_object().unwrap();
                for kind in ["application/json", "application/merge-patch+json"] {
                    assert!(content.contains_key(kind), "{id} does not take {kind}");
                }
            }
            if !path.starts_with("/v1/") || !id.starts_with("list_") {
                continue;
            }
            lists += 1;
            let parameters = operation["parameters"].as_array().unwrap();
            // The log has cursors of its own.
            let cursor = if id == "list_events" {
                "after"
            } else {
                "cursor"
            };
            for name in ["limit", cursor] {
                let told = parameters.iter().any(|it| it["name"] == name);
                assert!(told, "{id} does not tell of {name}");
            }
        }
    }
    assert!(lists >= 9 && patches >= 2, "{lists} {patches}");
    let history = &document["paths"]["/v1/devices/{device}/chats/{chat}/messages"]["get"];
    assert!(history["parameters"].to_string().contains("\"around\""));
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(
        (&schemes["apikey"]["in"], &schemes["apikey"]["name"]),
        (&json!("header"), &json!("apikey"))
    );
}

fn operations(item: &Value) -> impl Iterator<Item = (&String, &Value)> {
    item.as_object()
        .unwrap()
        .iter()
        .filter(|(method, _)| METHODS.contains(&method.as_str()))
}

pub(crate) const CASES: &[Case] = cases![
    health_is_open_to_all,
    metrics_are_in_the_form_of_prometheus_and_count,
    the_list_of_operations_changes_only_on_purpose.embedded(),
    no_shape_of_the_api_changes_unnoticed.embedded(),
    the_document_is_sound.embedded(),
    the_documentation_works_offline.embedded(),
    every_problem_code_has_a_page.embedded(),
    there_is_no_cors_unless_origins_are_listed.embedded(),
    every_list_tells_of_its_pages_and_every_patch_of_its_form.embedded(),
];
