//! What a client asks for, read member by member, so that an answer can name what is wrong.

use actors::log::{ConsumerName, Filter, FilterTerms, Start};
use actors::model::{Cursor, Direction, Faults};
use serde_json::{Map, Value};

use super::frame::Refusal;

/// Events that may be open without an ack.
pub(super) const WINDOW_EVENTS_MAX: u32 = 1_000;

/// One frame of a client.
#[derive(Debug)]
pub(super) struct Frame {
    /// What an answer carries.
    pub(super) id: Option<Value>,
    /// What is asked for.
    pub(super) op: Op,
}

/// What a client may say.
#[derive(Debug)]
pub(super) enum Op {
    Auth {
        token: String,
        wish: Result<Option<Box<SubscribeWish>>, Wrong>,
    },
    Subscribe(Box<SubscribeWish>),
    Filter(Filter),
    Ack(Cursor),
    Heartbeat(Option<Cursor>),
    Reauth {
        token: String,
    },
    Request {
        method: String,
        params: Map<String, Value>,
        key: Option<String>,
    },
    Ephemeral {
        device: String,
        chat: String,
        kind: String,
        data: Value,
    },
    /// An `op` that there is not.
    Unknown,
    /// A member is wrong.
    Wrong(Wrong),
}

/// A wish that can't be granted as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is answered.
    Member(Refusal),
    /// It is answered, and the connection ends.
    Cursor(Refusal),
}

/// What a subscription shall be.
#[derive(Debug)]
pub(super) struct SubscribeWish {
    pub(super) filter: Filter,
    pub(super) start: Start,
    /// The window, where the client confirms.
    pub(super) window: Option<u32>,
    pub(super) consumer: Option<ConsumerName>,
}

impl Frame {
    /// Reads a map. Unknown members are ignored, `null` is absent.
    pub(super) fn read(mut map: Map<String, Value>) -> Self {
        map.retain(|_, value| !value.is_null());
        let id = map.remove("id");
        let op = match map.remove("op") {
            Some(Value::String(op)) => read_op(&op, &mut map).unwrap_or_else(Op::Wrong),
            Some(_) => Op::Wrong(member("/op", "must be a text")),
            None => Op::Unknown,
        };
        Self { id, op }
    }
}

fn read_op(op: &str, map: &mut Map<String, Value>) -> Result<Op, Wrong> {
    Ok(match op {
        "auth" => Op::Auth {
            token: needed(map, "token")?,
            wish: auth_wish(map),
        },
        "subscribe" => {
            let filter = map
                .remove("filter")
                .map_or_else(|| Ok(Filter::default()), |it| read_filter(it, "/filter"))?;
            Op::Subscribe(Box::new(subscribe_wish(filter, map)?))
        }
        "filter" => {
            let filter = map
                .remove("filter")
                .ok_or_else(|| member("/filter", "is missing"))?;
            Op::Filter(read_filter(filter, "/filter")?)
        }
        "ack" => Op::Ack(cursor(map)?.ok_or_else(|| Wrong::Cursor(Refusal::cursor("/cursor")))?),
        "heartbeat" => Op::Heartbeat(cursor(map)?),
        "reauth" => Op::Reauth {
            token: needed(map, "token")?,
        },
        "request" => {
            let params = match map.remove("params") {
                Some(Value::Object(params)) => params,
                Some(_) => return Err(member("/params", "must be a map")),
                None => Map::new(),
            };
            Op::Request {
                method: needed(map, "method")?,
                params,
                key: text(map, "idempotency_key")?,
            }
        }
        "ephemeral" => Op::Ephemeral {
            device: needed(map, "device")?,
            chat: needed(map, "chat")?,
            kind: needed(map, "type")?,
            data: map.remove("data").unwrap_or_default(),
        },
        _ => Op::Unknown,
    })
}

/// The subscription inside `auth`; none means commands only.
fn auth_wish(map: &mut Map<String, Value>) -> Result<Option<Box<SubscribeWish>>, Wrong> {
    let Some(filter) = map.remove("subscribe") else {
        return Ok(None);
    };
    let filter = read_filter(filter, "/subscribe")?;
    Ok(Some(Box::new(subscribe_wish(filter, map)?)))
}

fn subscribe_wish(filter: Filter, map: &mut Map<String, Value>) -> Result<SubscribeWish, Wrong> {
    let start = match map.remove("after") {
        None => Start::Now,
        Some(Value::String(text)) => text
            .parse()
            .map_err(|_| Wrong::Cursor(Refusal::cursor("/after")))?,
        Some(Value::Object(mut after)) => {
            let time = text(&mut after, "time")?.and_then(|it| it.parse().ok());
            Start::Time(time.ok_or_else(|| Wrong::Cursor(Refusal::cursor("/after/time")))?)
        }
        Some(_) => return Err(Wrong::Cursor(Refusal::cursor("/after"))),
    };
    let confirms = match text(map, "ack")?.as_deref() {
        None | Some("none") => false,
        Some("client") => true,
        Some(_) => return Err(member("/ack", "must be `none` or `client`")),
    };
    let window = match map.remove("in_flight") {
        None => WINDOW_EVENTS_MAX,
        Some(number) => {
            let number = number
                .as_u64()
                .and_then(|it| u32::try_from(it).ok())
                .filter(|it| (1..=WINDOW_EVENTS_MAX).contains(it));
            number.ok_or_else(|| member("/in_flight", "must be a number from 1 to 1,000"))?
        }
    };
    let consumer = match text(map, "consumer")? {
        Some(name) => Some(
            name.parse::<ConsumerName>()
                .map_err(|error| member("/consumer", &format!("is {error}")))?,
        ),
        None => None,
    };
    if consumer.is_some() && !confirms {
        return Err(member("/ack", "must be `client` for a consumer"));
    }
    Ok(SubscribeWish {
        filter,
        start,
        window: confirms.then_some(window),
        consumer,
    })
}

fn cursor(map: &mut Map<String, Value>) -> Result<Option<Cursor>, Wrong> {
    match map.remove("cursor") {
        None => Ok(None),
        Some(Value::String(text)) => text
            .parse()
            .map(Some)
            .map_err(|_| Wrong::Cursor(Refusal::cursor("/cursor"))),
        Some(_) => Err(Wrong::Cursor(Refusal::cursor("/cursor"))),
    }
}

fn text(map: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Wrong> {
    match map.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(member(&format!("/{name}"), "must be a text")),
    }
}

fn needed(map: &mut Map<String, Value>, name: &str) -> Result<String, Wrong> {
    text(map, name)?.ok_or_else(|| member(&format!("/{name}"), "is missing"))
}

fn member(pointer: &str, detail: &str) -> Wrong {
    Wrong::Member(Refusal::invalid(pointer, detail))
}

/// Reads a filter; pointers begin with `under`.
fn read_filter(value: Value, under: &str) -> Result<Filter, Wrong> {
    let mut faults = Faults::default();
    let terms = read_terms(value, "", &mut faults);
    let filter = faults.into_result().and_then(|()| Filter::compile(&terms));
    filter.map_err(|faults| Wrong::Member(faults.under(under).into()))
}

/// The depth of the frame bounds the recursion.
fn read_terms(value: Value, at: &str, faults: &mut Faults) -> FilterTerms {
    let mut terms = FilterTerms::default();
    let Value::Object(map) = value else {
        faults.add(at, "must be a map");
        return terms;
    };
    for (name, value) in map.into_iter().filter(|(_, value)| !value.is_null()) {
        let at = format!("{at}/{name}");
        match name.as_str() {
            "types" => terms.types = texts(value, &at, faults),
            "devices" => terms.devices = texts(value, &at, faults),
            "chats" => terms.chats = texts(value, &at, faults),
            "direction" => match value.as_str() {
                Some("in") => terms.direction = Some(Direction::In),
                Some("out") => terms.direction = Some(Direction::Out),
                Some(_) | None => faults.add(at, "must be `in` or `out`"),
            },
            "not" => terms.not = Some(Box::new(read_terms(value, &at, faults))),
            _ => faults.add(at, "is not known"),
        }
    }
    terms
}

fn texts(value: Value, at: &str, faults: &mut Faults) -> Vec<String> {
    let Value::Array(items) = value else {
        faults.add(at, "must be an array of texts");
        return Vec::new();
    };
    let mut texts = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        match item {
            Value::String(text) => texts.push(text),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                faults.add(format!("{at}/{place}"), "must be a text");
            }
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use actors::model::Timestamp;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Frame {
        let Value::Object(map) = value else {
            panic!("a map")
        };
        Frame::read(map)
    }

    fn subscribe(mut value: Value) -> Result<SubscribeWish, Wrong> {
        value["op"] = json!("subscribe");
        let op = read(value).op;
        if let Op::Subscribe(wish) = op {
            return Ok(*wish);
        }
        let Op::Wrong(wrong) = op else {
            panic!("neither a wish nor a wrong one")
        };
        Err(wrong)
    }

    fn refused(value: Value) -> (String, String) {
        match subscribe(value).unwrap_err() {
            Wrong::Member(refusal) | Wrong::Cursor(refusal) => {
                (refusal.code, refusal.errors[0].pointer.clone())
            }
        }
    }

    #[test]
    fn null_is_absent_and_unknown_members_are_ignored() {
        let frame = read(json!({"op": "heartbeat", "id": null, "cursor": null, "unknown": [1]}));
        assert!(frame.id.is_none());
        assert!(matches!(frame.op, Op::Heartbeat(None)));
        assert!(matches!(
            read(json!({"op": "dance", "id": 1})).op,
            Op::Unknown
        ));
        assert!(matches!(
            read(json!({"op": 7, "id": 1})).op,
            Op::Wrong(Wrong::Member(_))
        ));
    }

    #[test]
    fn places_to_begin() {
        assert_eq!(subscribe(json!({})).unwrap().start, Start::Now);
        assert_eq!(
            subscribe(json!({"after": "oldest"})).unwrap().start,
            Start::Oldest
        );
        let time = Start::Time(Timestamp::from_millis(1000));
        assert_eq!(
            subscribe(json!({"after": {"time": "1970-01-01T00:00:01Z"}}))
                .unwrap()
                .start,
            time
        );
        assert_eq!(
            subscribe(json!({"after": "1970-01-01T00:00:01Z"}))
                .unwrap()
                .start,
            time
        );
        for wrong in [
            json!("x"),
            json!(""),
            json!(7),
            json!({"time": "x"}),
            json!({}),
        ] {
            assert!(
                matches!(subscribe(json!({"after": wrong})), Err(Wrong::Cursor(_))),
                "{wrong}"
            );
        }
        assert!(matches!(
            read(json!({"op": "ack", "cursor": 7})).op,
            Op::Wrong(Wrong::Cursor(_))
        ));
    }

    #[test]
    fn a_consumer_has_a_name_and_confirms() {
        let wish = subscribe(json!({"ack": "client", "consumer": "crm", "in_flight": 2})).unwrap();
        assert_eq!(
            (wish.window, wish.consumer.unwrap().as_str()),
            (Some(2), "crm")
        );
        assert_eq!(
            refused(json!({"consumer": "crm"})),
            ("invalid".into(), "/ack".into())
        );
        assert_eq!(
            refused(json!({"ack": "client", "consumer": ""})),
            ("invalid".into(), "/consumer".into())
        );
        assert_eq!(
            refused(json!({"ack": "client", "in_flight": 1001})),
            ("invalid".into(), "/in_flight".into())
        );
        assert_eq!(subscribe(json!({"in_flight": 5})).unwrap().window, None);
    }

    #[test]
    fn a_wrong_filter_names_its_member() {
        for (filter, pointer) in [
            (json!([]), "/filter"),
            (json!({"kinds": []}), "/filter/kinds"),
            (json!({"types": "message.*"}), "/filter/types"),
            (json!({"types": [7]}), "/filter/types/0"),
            (json!({"direction": "up"}), "/filter/direction"),
            (json!({"not": {"devices": ["x"]}}), "/filter/not/devices/0"),
        ] {
            assert_eq!(
                refused(json!({"filter": filter})),
                ("invalid".into(), pointer.into()),
                "{filter}"
            );
        }
    }

    #[test]
    fn auth_without_a_filter_means_commands_only() {
        let Op::Auth {
            token,
            wish: Ok(None),
        } = read(json!({"op": "auth", "token": "t"})).op
        else {
            panic!("no wish")
        };
        assert_eq!(token, "t");
        let frame = read(json!({"op": "auth", "token": "t", "subscribe": {}, "after": "oldest"}));
        assert!(matches!(
            frame.op,
            Op::Auth {
                wish: Ok(Some(_)),
                ..
            }
        ));
        let frame = read(json!({"op": "auth", "token": "t", "subscribe": 7}));
        assert!(matches!(
            frame.op,
            Op::Auth {
                wish: Err(Wrong::Member(_)),
                ..
            }
        ));
    }
}
