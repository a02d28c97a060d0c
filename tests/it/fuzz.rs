//! Nonsense at every operation of the published document: never a 5xx, never a hang.

use serde_json::{Value, json};

use crate::house::{Case, Client, Dice, House, cases, phone, seed, text};

/// Nonsense calls for each operation.
const ROUNDS: usize = 40;

/// Types under which raw bytes are sent.
const KINDS: [&str; 3] = ["text/plain", "application/json", "multipart/form-data"];

/// One operation of the document.
struct Operation {
    method: String,
    path: String,
    queries: Vec<String>,
    members: Vec<String>,
}

async fn nonsense_never_breaks_the_gateway() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "hola").await;
    let ids = [
        device.id.clone(),
        sent["id"].as_str().unwrap().into(),
        phone(1),
        "crm".into(),
        "not_found".into(),
    ];
    let document = house.get("/openapi.json").await.expect(200);
    let operations = operations(&document);
    assert!(operations.len() > 20, "the document has operations");
    let mut dice = Dice::new(seed("nonsense_never_breaks_the_gateway"));
    for operation in &operations {
        for _ in 0..ROUNDS {
            nonsense(&house, operation, &ids, &mut dice).await;
        }
    }
    house.anonymous().get("/health/ready").await.expect(200);
    // A round may have removed the first device; the gateway must still do its work.
    let device = house.device("after").await;
    let sent = device.send(&phone(1), "still here").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    house.close().await;
}

/// One call that is wrong in some ways and right in others.
async fn nonsense(client: &Client, operation: &Operation, ids: &[String], dice: &mut Dice) {
    let path = format!(
        "{}{}",
        fill(&operation.path, ids, dice),
        query(&operation.queries, dice)
    );
    let mut call = client.call(&operation.method, &path);
    if dice.below(4) == 0 {
        let (name, value) = header(dice);
        call = call.header(name, &value);
    }
    let has_body = ["POST", "PUT", "PATCH"].contains(&operation.method.as_str());
    let told = format!("{} {path}", operation.method);
    let kind = *dice.pick(&KINDS);
    call = match (has_body, dice.below(6)) {
        (false, 1..) | (true, 0) => call,
        (_, 1) => call.raw(kind, bytes(dice)),
        _ => call.raw(
            "application/json",
            body(&operation.members, ids, dice).to_string(),
        ),
    };
    // Only the head is read, for some answers are streams.
    match tokio::time::timeout(std::time::Duration::from_secs(40), call.open()).await {
        Ok(Ok(answer)) => assert!(
            answer.status().as_u16() < 500,
            "{told}: {}",
            answer.status()
        ),
        Ok(Err(error)) if error.is_builder() => {}
        Ok(Err(error)) => panic!("{told}: no answer: {error:?}"),
        Err(_) => panic!("{told}: hangs"),
    }
}

fn fill(path: &str, ids: &[String], dice: &mut Dice) -> String {
    let wrong = [
        "x",
        "%00",
        "%ff",
        "..%2f..",
        "%F0%9F%A6%89",
        "*",
        "a@b",
        "dev_00000000000000000000000000",
        "'--",
        "%",
    ];
    let mut filled = String::new();
    for piece in path.split_inclusive('}') {
        let (plain, name) = piece.split_once('{').unwrap_or((piece, ""));
        filled.push_str(plain);
        if !name.is_empty() {
            let fitting = ids
                .iter()
                .find(|id| name.starts_with(id.split('_').next().unwrap()));
            let value = match (dice.below(3), fitting) {
                (0, _) => (*dice.pick(&wrong)).to_owned(),
                (1, Some(id)) => id.clone(),
                // The first id is the device, without which most paths end early.
                _ if name == "device}" => ids[0].clone(),
                _ => dice.pick(ids).clone(),
            };
            filled.push_str(&value);
        }
    }
    filled
}

fn query(names: &[String], dice: &mut Dice) -> String {
    let wrong = [
        "",
        "0",
        "-1",
        "99999999999999999999",
        "x",
        "%00",
        "%ff",
        "null",
        "now",
        "oldest",
        "1-1",
        "a,b,,",
        "%",
        "*",
    ];
    let mut pairs = Vec::new();
    for name in names {
        if dice.below(3) == 0 {
            pairs.push(format!("{name}={}", dice.pick(&wrong)));
        }
    }
    if dice.below(8) == 0 {
        pairs.push("nonsense=1".into());
    }
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

fn header(dice: &mut Dice) -> (&'static str, String) {
    let long = "x".repeat(300);
    match dice.below(8) {
        0 => ("idempotency-key", long),
        1 => ("idempotency-key", "k".into()),
        2 => ("accept", "image/png;q=x, */".into()),
        3 => ("x-request-id", long),
        4 => ("last-event-id", "1-99999999999999999999".into()),
        5 => ("content-encoding", "gzip".into()),
        6 => ("range", "bytes=5-1".into()),
        _ => ("origin", "null".into()),
    }
}

fn bytes(dice: &mut Dice) -> Vec<u8> {
    let starts: [&[u8]; 7] = [
        b"",
        b"{",
        b"[",
        b"\"",
        b"{\"to\":",
        b"\xff\xfe",
        b"[[[[[[[[",
    ];
    let mut bytes = dice.pick(&starts).to_vec();
    bytes.extend((0..dice.below(200)).map(|_| u8::try_from(dice.below(256)).unwrap()));
    bytes
}

fn body(members: &[String], ids: &[String], dice: &mut Dice) -> Value {
    if dice.below(5) == 0 {
        return value(ids, dice, 3);
    }
    let mut map = serde_json::Map::new();
    for member in members {
        if dice.below(3) > 0 {
            map.insert(member.clone(), value(ids, dice, 3));
        }
    }
    Value::Object(map)
}

/// Any value, some of which are right somewhere.
fn value(ids: &[String], dice: &mut Dice, depth: usize) -> Value {
    match dice.below(if depth == 0 { 9 } else { 12 }) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(1e300),
        4 => json!(u64::MAX),
        5 => json!(dice.pick(ids)),
        6 => json!("\u{0}\u{202e}🦉"),
        7 => json!("x".repeat(dice.below(2_000))),
        8 => text("hola"),
        9 => Value::Array(
            (0..dice.below(4))
                .map(|_| value(ids, dice, depth - 1))
                .collect(),
        ),
        10 => {
            json!({"type": *dice.pick(&["text", "location", "contacts", "x"]), "text": value(ids, dice, depth - 1)})
        }
        _ => json!({"": value(ids, dice, depth - 1), "latitude": "north", "contacts": [null]}),
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["operationId"].is_string() {
                found.push(Operation {
                    method: method.to_uppercase(),
                    path: path.clone(),
                    queries: queries(document, operation),
                    members: members(document, operation),
                });
            }
        }
    }
    found
}

fn queries(document: &Value, operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let parameters = parameters.iter().map(|it| resolve(document, it));
    let in_query = parameters.filter(|it| it["in"] == "query");
    in_query
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect()
}

fn members(document: &Value, operation: &Value) -> Vec<String> {
    let body = resolve(document, &operation["requestBody"]);
    let schema = resolve(document, &body["content"]["application/json"]["schema"]);
    let members = schema["properties"].as_object();
    members
        .map(|it| it.keys().cloned().collect())
        .unwrap_or_default()
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let place = value["$ref"].as_str().and_then(|it| it.strip_prefix('#'));
    place.and_then(|it| document.pointer(it)).unwrap_or(value)
}

pub(crate) const CASES: &[Case] = cases![nonsense_never_breaks_the_gateway];
