//! What holds for every call: errors, bodies, limits, ids, addresses, the order of checks.

use std::collections::BTreeSet;

use serde_json::json;

use crate::house::{Case, House, cases, person, phone, text};

/// An id of the right form that nobody has.
const NOBODY: &str = "00000000000000000000000000";

async fn every_answer_has_a_request_id_and_a_good_one_is_echoed() {
    let house = House::open().await;
    let own = house.get("/v1/me").await;
    assert!(
        own.header("x-request-id")
            .is_some_and(|id| id.starts_with("req_"))
    );
    for good in ["a", "trace-1:2.3_4", &"x".repeat(128)] {
        let answer = house
            .call("GET", "/v1/me")
            .header("x-request-id", good)
            .send()
            .await;
        assert_eq!(answer.header("x-request-id"), Some(good));
    }
    for bad in ["with space", "ñ", &"x".repeat(129), "a/b"] {
        let answer = house
            .call("GET", "/v1/absent")
            .header("x-request-id", bad)
            .send()
            .await;
        let problem = answer.problem(404, "not_found");
        assert_ne!(problem["request_id"], bad);
    }
    house.close().await;
}

async fn a_call_without_or_with_an_unknown_credential_is_401() {
    let house = House::open().await;
    let nobody = house.anonymous();
    let answer = nobody.get("/v1/me").await;
    assert!(
        answer
            .header("www-authenticate")
            .is_some_and(|it| it.starts_with("Bearer"))
    );
    answer.problem(401, "unauthenticated");
    let mut altered = house.secret().to_owned();
    let last = altered.pop().unwrap();
    altered.push(if last == '0' { '1' } else { '0' });
    for wrong in [altered.as_str(), "buho_key_x", "x.y.z", ""] {
        house
            .with(wrong)
            .get("/v1/me")
            .await
            .problem(401, "unauthenticated");
    }
    let basic = nobody
        .call("GET", "/v1/me")
        .header("authorization", "Basic YTpi")
        .send()
        .await;
    basic.problem(401, "unauthenticated");
    house.close().await;
}

async fn the_apikey_header_is_an_alias_and_two_credentials_are_none() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let nobody = house.anonymous();
    let me = nobody
        .call("GET", "/v1/me")
        .header("apikey", house.secret())
        .send()
        .await
        .expect(200);
    assert_eq!(me["tenant"]["id"], house.tenant_id());
    let two = house
        .call("GET", "/v1/me")
        .header("apikey", neighbour.secret())
        .send()
        .await;
    two.problem(401, "unauthenticated");
    house.close().await;
}

async fn a_credential_in_the_query_is_refused_even_beside_a_good_one() {
    let house = House::open().await;
    for name in ["token", "access_token", "apikey"] {
        let path = format!("/v1/me?{name}={}", house.secret());
        house.get(&path).await.problem(401, "unauthenticated");
        house
            .anonymous()
            .get(&path)
            .await
            .problem(401, "unauthenticated");
    }
    house.close().await;
}

async fn what_cannot_be_read_is_400_and_what_breaks_a_rule_is_422() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let path = device.path("/messages");
    let deep = format!("{}1{}", "[".repeat(80), "]".repeat(80));
    for body in [&b"{"[..], b"", b"{\"to\": }", b"\xff\xfe", deep.as_bytes()] {
        let answer = house
            .call("POST", &path)
            .raw("application/json", body.to_vec())
            .send()
            .await;
        if body.is_empty() {
            // No body is an empty object, which lacks members.
            assert!(!answer.pointers().is_empty());
        } else {
            answer.problem(400, "invalid_json");
        }
    }
    for body in [json!(null), json!([]), json!(1), json!("x"), json!({})] {
        house.post(&path, body).await.problem(422, "invalid");
    }
    house
        .get("/v1/devices?q=%ff")
        .await
        .problem(400, "invalid_json");
    house.close().await;
}

async fn every_wrong_member_is_named_by_a_pointer() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let to = phone(1);
    let cases = [
        (
            json!({"to": to, "content": text("x"), "sendat": "2030-01-01T00:00:00Z"}),
            "/sendat",
        ),
        (
            json!({"to": to, "content": {"type": "text", "text": "x", "colour": 1}}),
            "/content/colour",
        ),
        (
            json!({"to": to, "content": {"type": "text", "text": 7}}),
            "/content/text",
        ),
        (json!({"to": "not a number", "content": text("x")}), "/to"),
        (
            json!({"to": to, "content": text("x"), "delay_ms": 60_001}),
            "/delay_ms",
        ),
        (
            json!({"to": to, "content": {"type": "novel"}}),
            "/content/type",
        ),
        (json!({"content": text("x")}), "/to"),
        (json!({"to": to}), "/content"),
    ];
    for (body, pointer) in cases {
        let pointers = device.post("/messages", body.clone()).await.pointers();
        assert!(
            pointers.iter().any(|it| it == pointer),
            "{body}: {pointers:?}"
        );
    }
    house.close().await;
}

async fn a_body_of_one_mebibyte_passes_and_one_byte_more_does_not() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let path = device.path("/messages");
    let body = |bytes: usize| {
        let plain = json!({"to": phone(1), "content": text("x")}).to_string();
        format!("{plain}{}", " ".repeat(bytes - plain.len()))
    };
    let full = house
        .call("POST", &path)
        .raw("application/json", body(1_048_576))
        .send()
        .await;
    full.expect(202);
    let over = house
        .call("POST", &path)
        .raw("application/json", body(1_048_577))
        .send()
        .await;
    over.problem(413, "body_too_large");
    let pieces = body(1_048_577).into_bytes();
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
        pieces.chunks(65_536).map(|it| Ok(it.to_vec())).collect();
    let chunked = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
    let over = house
        .call("POST", &path)
        .raw("application/json", chunked)
        .send()
        .await;
    over.problem(413, "body_too_large");
    house.close().await;
}

async fn a_body_without_a_type_of_another_type_or_packed_is_415() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let path = device.path("/messages");
    let body = json!({"to": phone(1), "content": text("x")}).to_string();
    let bare = house.call("POST", &path).bare(body.clone()).send().await;
    bare.problem(415, "unsupported_media_type");
    for kind in [
        "text/plain",
        "application/xml",
        "application/json; charset=latin1",
        "application/merge-patch+json",
    ] {
        let answer = house
            .call("POST", &path)
            .raw(kind, body.clone())
            .send()
            .await;
        answer.problem(415, "unsupported_media_type");
    }
    let packed = house
        .call("POST", &path)
        .header("content-encoding", "gzip")
        .raw("application/json", body.clone());
    packed.send().await.problem(415, "unsupported_media_type");
    let plain = house
        .call("POST", &path)
        .raw("application/json; charset=utf-8", body)
        .send()
        .await;
    plain.expect(202);
    let patch = house
        .call("PATCH", &device.path(""))
        .raw("application/merge-patch+json", "{\"name\":\"two\"}");
    assert_eq!(patch.send().await.expect(200)["name"], "two");
    house.close().await;
}

async fn a_wrong_method_is_405_with_allow_and_a_slash_too_much_is_404() {
    let house = House::open().await;
    let answer = house.call("PUT", "/v1/devices").send().await;
    let allow = answer.header("allow").expect("Allow").to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    answer.problem(405, "method_not_allowed");
    house.get("/v1/devices/").await.problem(404, "not_found");
    house.get("/v1/nothing").await.problem(404, "not_found");
    house.close().await;
}

async fn a_wish_for_another_form_is_406() {
    let house = House::open().await;
    let answer = house
        .call("GET", "/v1/me")
        .header("accept", "application/xml")
        .send()
        .await;
    answer.problem(406, "not_acceptable");
    for good in [
        "*/*",
        "application/json",
        "application/*",
        "text/html, application/json;q=0.5",
    ] {
        house
            .call("GET", "/v1/me")
            .header("accept", good)
            .send()
            .await
            .expect(200);
    }
    house.close().await;
}

async fn head_is_answered_as_get_without_a_body() {
    let house = House::open().await;
    let answer = house.call("HEAD", "/v1/devices").send().await;
    assert_eq!((answer.status, answer.bytes.len()), (200, 0));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    house.close().await;
}

async fn checks_come_in_their_order() {
    let house = House::open().await;
    let nobody = house.anonymous();
    let reader = house.key("messages:read").await;
    let absent = format!("/v1/devices/dev_{NOBODY}/messages");
    let big = " ".repeat(1_048_577);
    // 405 before 401, 401 before 413, 415 before 403, 403 before 404, 404 before 400, 400 before 422.
    nobody
        .call("PUT", "/v1/devices")
        .send()
        .await
        .problem(405, "method_not_allowed");
    nobody
        .call("POST", &absent)
        .raw("application/json", big)
        .send()
        .await
        .problem(401, "unauthenticated");
    let typed = reader
        .call("POST", &absent)
        .raw("text/plain", "x")
        .send()
        .await;
    typed.problem(415, "unsupported_media_type");
    reader
        .post(&absent, json!({}))
        .await
        .problem(403, "scope_missing");
    house
        .call("POST", &absent)
        .raw("application/json", "{")
        .send()
        .await
        .problem(404, "not_found");
    let device = house.fresh_device("one").await;
    let both = house
        .call("POST", &format!("{}?what=1", device.path("/messages")))
        .raw("application/json", "{");
    both.send().await.problem(400, "invalid_json");
    // 403 of a credential before what its body says; 404 before what the query says.
    let bound = house.device_key(&[&device]).await;
    let nameless = bound.post("/v1/devices", json!({"name": 1})).await;
    nameless.problem(403, "forbidden");
    device
        .get("/messages/nonsense/receipts?what=1")
        .await
        .problem(404, "not_found");
    // 422 before 409: nothing is being shown, and the method is not one.
    let wrong = device.post("/connect", json!({"method": "pigeon"})).await;
    assert_eq!(wrong.pointers(), ["/method"]);
    house.close().await;
}

async fn a_malformed_id_in_a_path_is_just_absent() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let upper = device.id.to_uppercase();
    for id in [
        "x",
        "dev_",
        &device.id[..device.id.len() - 1],
        &upper,
        &device.id.replace("dev_", "msg_"),
        "%00",
    ] {
        house
            .get(&format!("/v1/devices/{id}"))
            .await
            .problem(404, "not_found");
    }
    device
        .get("/messages/msg_nonsense")
        .await
        .problem(404, "not_found");
    house
        .get("/v1/events/evt_nonsense")
        .await
        .problem(404, "not_found");
    house.close().await;
}

async fn ids_have_their_form_and_rise_with_time() {
    let house = House::open().await;
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        ids.push(house.fresh_device(name).await.id);
    }
    for id in &ids {
        let suffix = id.strip_prefix("dev_").expect("a device's prefix");
        let is_base32 =
            |it: char| it.is_ascii_digit() || (it.is_ascii_lowercase() && !"ilou".contains(it));
        assert!(suffix.len() == 26 && suffix.chars().all(is_base32), "{id}");
    }
    assert!(
        ids.is_sorted() && ids.iter().collect::<BTreeSet<_>>().len() == 3,
        "{ids:?}"
    );
    house.close().await;
}

async fn times_are_utc_with_milliseconds() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let made = device.get("").await.expect(200);
    for name in ["created_at", "since"] {
        let time = made[name].as_str().unwrap();
        let is_form =
            time.len() == 24 && time.ends_with('Z') && &time[10..11] == "T" && &time[19..20] == ".";
        assert!(is_form, "{name}: {time}");
    }
    house.close().await;
}

async fn every_form_of_an_address_leads_to_one_chat() {
    let house = House::open().await;
    let device = house.device("one").await;
    let digits = phone(7);
    let spaced = format!("+{} {}-({})", &digits[..2], &digits[2..5], &digits[5..]);
    let forms = [
        digits.clone(),
        format!("+{digits}"),
        spaced,
        format!("{digits}@c.us"),
        format!("{digits}:3@s.whatsapp.net"),
    ];
    for form in forms {
        let sent = device.send(&form, "hola").await;
        assert_eq!(sent["chat"], person(7), "{form}");
    }
    for form in [
        person(7),
        person(7).replace('@', "%40"),
        digits.clone(),
        format!("%2B{digits}"),
    ] {
        let page = device
            .get(&format!("/chats/{form}/messages"))
            .await
            .expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), 5, "{form}");
        let page = device
            .get(&format!("/messages?chat={form}"))
            .await
            .expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), 5, "{form}");
    }
    for wrong in [
        "123456",
        "1234567890123456",
        "",
        "a@b",
        "51999888777@example.com",
    ] {
        let answer = device
            .post("/messages", json!({"to": wrong, "content": text("x")}))
            .await;
        assert_eq!(answer.pointers(), ["/to"], "{wrong}");
    }
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    every_answer_has_a_request_id_and_a_good_one_is_echoed,
    a_call_without_or_with_an_unknown_credential_is_401,
    the_apikey_header_is_an_alias_and_two_credentials_are_none,
    a_credential_in_the_query_is_refused_even_beside_a_good_one,
    what_cannot_be_read_is_400_and_what_breaks_a_rule_is_422,
    every_wrong_member_is_named_by_a_pointer,
    a_body_of_one_mebibyte_passes_and_one_byte_more_does_not,
    a_body_without_a_type_of_another_type_or_packed_is_415,
    a_wrong_method_is_405_with_allow_and_a_slash_too_much_is_404,
    a_wish_for_another_form_is_406,
    head_is_answered_as_get_without_a_body,
    checks_come_in_their_order,
    a_malformed_id_in_a_path_is_just_absent,
    ids_have_their_form_and_rise_with_time,
    times_are_utc_with_milliseconds,
    every_form_of_an_address_leads_to_one_chat,
];
