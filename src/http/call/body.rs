//! JSON bodies: what can't be read is told apart from what breaks a rule, and each broken rule gets its pointer.

use actors::model::Faults;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use sha2::{Digest, Sha256};

use crate::problem::{ApiError, Code};

/// Levels of arrays and objects.
const DEPTH_MAX: usize = 64;
/// Characters of a detail: some repeat what was given.
const DETAIL_CHARS_MAX: usize = 300;

/// Reads a body; none at all is an empty object.
///
/// # Errors
///
/// `invalid_json` where it can't be read; `invalid` with pointers where it breaks a rule.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let text = text(body)?;
    // Straight into its type. Only a body with something wrong is read again, to find out what and where.
    serde_json::from_str(text).or_else(|_| read_value(&parse(text)?).map_err(ApiError::invalid))
}

/// The body as a JSON value.
///
/// # Errors
///
/// `invalid_json` where it can't be read.
pub(crate) fn value(body: &[u8]) -> Result<Value, ApiError> {
    parse(text(body)?)
}

/// Reads a value that is already parsed.
///
/// # Errors
///
/// The rule that it breaks, and where.
#[expect(
    clippy::needless_pass_by_value,
    reason = "who reads a value has no more use for it"
)]
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Faults> {
    read_value(&value)
}

fn read_value<T: DeserializeOwned>(value: &Value) -> Result<T, Faults> {
    serde_path_to_error::deserialize(value).map_err(|wrong| {
        let path = segments(wrong.path());
        let text = wrong.inner().to_string();
        let detail: String = text.chars().take(DETAIL_CHARS_MAX).collect();
        Faults::one(pointer(value, path, &text), detail)
    })
}

fn text(body: &[u8]) -> Result<&str, ApiError> {
    let unreadable = || ApiError::new(Code::InvalidJson).detail("The body is not UTF-8.");
    let text = std::str::from_utf8(body).map_err(|_| unreadable())?;
    if text.is_empty() {
        return Ok("{}");
    }
    if is_deep(body) {
        let detail = format!("The body has more than {DEPTH_MAX} levels.");
        return Err(ApiError::new(Code::InvalidJson).detail(detail));
    }
    Ok(text)
}

fn parse(text: &str) -> Result<Value, ApiError> {
    serde_json::from_str(text).map_err(|error| {
        let detail = format!(
            "The body is not JSON: line {}, column {}.",
            error.line(),
            error.column()
        );
        ApiError::new(Code::InvalidJson).detail(detail)
    })
}

/// Whether arrays and objects are nested too deep; strings are stepped over.
fn is_deep(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if DEPTH_MAX < depth {
            return true;
        }
    }
    false
}

fn segments(path: &Path) -> Vec<String> {
    let segment = |it: &Segment| match it {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        // A variant is no level of its own where it is a plain word, and a member where it is one.
        Segment::Enum { variant } => Some(variant.clone()),
        Segment::Unknown => None,
    };
    path.iter().filter_map(segment).collect()
}

/// Where the fault is. Enums that are told apart by a `type` are read from a buffer, so their path ends at the object:
/// then what the text says leads on to the member.
fn pointer(root: &Value, path: Vec<String>, text: &str) -> String {
    let mut path = path;
    while !path.is_empty() && at(root, &path).is_none() {
        path.pop();
    }
    let object = at(root, &path).and_then(Value::as_object);
    let named = |start: &str| text.strip_prefix(start).and_then(|it| it.split('`').next());
    if let Some(field) = named("missing field `") {
        path.push(field.to_owned());
    } else if let Some(field) = named("unknown field `") {
        if object.is_some_and(|it| it.contains_key(field)) {
            path.push(field.to_owned());
        }
    } else if text.starts_with("unknown variant `") {
        if object.is_some_and(|it| it.contains_key("type")) {
            path.push("type".to_owned());
        }
    } else if let Some(given) = text
        .strip_prefix("invalid type: ")
        .or_else(|| text.strip_prefix("invalid value: "))
        && !given.starts_with("map")
        && let Some(object) = at(root, &path).filter(|it| it.is_object())
    {
        find(object, given, &mut path);
    }
    path.iter().fold(String::new(), |whole, it| {
        whole + "/" + &it.replace('~', "~0").replace('/', "~1")
    })
}

fn at<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |value, segment| match value {
        Value::Object(members) => members.get(segment),
        Value::Array(entries) => entries.get(segment.parse::<usize>().ok()?),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    })
}

/// Goes down to the first value that is what serde says it was given.
fn find(value: &Value, given: &str, path: &mut Vec<String>) -> bool {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, it)| (name.clone(), it))
            .collect(),
        Value::Array(entries) => entries
            .iter()
            .enumerate()
            .map(|(place, it)| (place.to_string(), it))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return false,
    };
    for (name, member) in members {
        path.push(name);
        if given.starts_with(&described(member)) || find(member, given, path) {
            return true;
        }
        path.pop();
    }
    false
}

/// A value in serde's words.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null,".to_owned(),
        Value::Bool(it) => format!("boolean `{it}`"),
        Value::Number(it) if it.is_f64() => format!("floating point `{it}`"),
        Value::Number(it) => format!("integer `{it}`"),
        Value::String(it) => format!("string {it:?}"),
        Value::Array(_) => "sequence".to_owned(),
        Value::Object(_) => "map".to_owned(),
    }
}

/// What a call asks for, so that a retry is known from another call: bodies are compared as values.
pub(crate) fn fingerprint(operation: &str, path: &str, body: &Value) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for text in [operation, path] {
        hasher.update(text.as_bytes());
        hasher.update([0]);
    }
    absorb(&mut hasher, body);
    hasher.finalize().into()
}

/// Each value begins with a letter for its kind and its length, so that no two values are written alike.
fn absorb(hasher: &mut Sha256, value: &Value) {
    let mut scalar = |kind: u8, text: &str| {
        hasher.update([kind]);
        hasher.update(text.len().to_be_bytes());
        hasher.update(text.as_bytes());
    };
    match value {
        Value::Null => scalar(b'n', ""),
        Value::Bool(it) => scalar(b'b', if *it { "1" } else { "0" }),
        // 1 and 1.0 are one number.
        Value::Number(it) => match it.as_f64().filter(|_| it.is_f64()) {
            Some(float) => scalar(b'd', &float.to_string()),
            None => scalar(b'd', &it.to_string()),
        },
        Value::String(it) => scalar(b's', it),
        Value::Array(entries) => {
            scalar(b'a', &entries.len().to_string());
            for entry in entries {
                absorb(hasher, entry);
            }
        }
        Value::Object(members) => {
            scalar(b'o', &members.len().to_string());
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            for (name, member) in sorted {
                absorb(hasher, &Value::String(name.clone()));
                absorb(hasher, member);
            }
        }
    }
}

/// Reads a member of a merge patch (RFC 7396): with `default` beside it, `None` is absent and `Some(None)` is `null`.
pub(crate) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use actors::model::Content;
    use axum::response::IntoResponse;
    use futures_util::FutureExt;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        to: String,
        content: Content,
        #[serde(default)]
        delay_ms: Option<u32>,
        #[serde(default)]
        status: Option<actors::model::Status>,
        #[serde(default)]
        metadata: BTreeMap<String, String>,
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "a/b~c")]
        odd: u8,
    }

    fn faults(body: &[u8]) -> (u16, Vec<String>) {
        let error = read::<Wanted>(body).unwrap_err();
        let response = crate::problem::finish(error.into_response(), "r");
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 100_000)
            .now_or_never()
            .unwrap()
            .unwrap();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let pointers = body["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|it| it["pointer"].as_str().unwrap().to_owned());
        (status, pointers.collect())
    }

    #[test]
    fn a_pointer_leads_to_what_is_wrong() {
        let text = json!({"type": "text", "text": "x"});
        for (body, pointer) in [
            (json!({"to": "1", "content": text, "sendat": 1}), "/sendat"),
            (
                json!({"to": "1", "content": {"type": "text", "text": "x", "colour": 1}}),
                "/content/colour",
            ),
            (
                json!({"to": "1", "content": {"type": "text", "text": 7}}),
                "/content/text",
            ),
            (
                json!({"to": "1", "content": {"type": "text", "text": null}}),
                "/content/text",
            ),
            (
                json!({"to": "1", "content": {"type": "text", "text": ["a"]}}),
                "/content/text",
            ),
            (
                json!({"to": "1", "content": {"type": "text"}}),
                "/content/text",
            ),
            (
                json!({"to": "1", "content": {"type": "novel"}}),
                "/content/type",
            ),
            (json!({"to": "1", "content": {"type": 1}}), "/content/type"),
            (json!({"to": "1", "content": {}}), "/content/type"),
            (json!({"to": "1", "content": 3}), "/content"),
            (
                json!({"to": "1", "content": {"type": "location", "latitude": "n", "longitude": 1.5}}),
                "/content/latitude",
            ),
            (json!({"content": text}), "/to"),
            (json!({"to": "1"}), "/content"),
            (json!({"to": 1, "content": text}), "/to"),
            (
                json!({"to": "1", "content": text, "delay_ms": "x"}),
                "/delay_ms",
            ),
            (
                json!({"to": "1", "content": text, "delay_ms": -1}),
                "/delay_ms",
            ),
            (
                json!({"to": "1", "content": text, "status": "gone"}),
                "/status",
            ),
            (
                json!({"to": "1", "content": text, "metadata": {"a": 1}}),
                "/metadata/a",
            ),
            (
                json!({"to": "1", "content": text, "list": [{"a/b~c": 1}, {"a/b~c": "x"}]}),
                "/list/1/a~1b~0c",
            ),
            (
                json!({"to": "1", "content": text, "list": [{"a/b~c": 1}, {}]}),
                "/list/1/a~1b~0c",
            ),
            (json!([]), ""),
            (json!("x"), ""),
            (json!(null), ""),
        ] {
            assert_eq!(
                faults(body.to_string().as_bytes()),
                (422, vec![pointer.to_owned()]),
                "{body}"
            );
        }
        assert_eq!(faults(b""), (422, vec!["/to".to_owned()]));
    }

    #[test]
    fn a_syntax_error_anywhere_beats_a_fault() {
        for body in [
            "{",
            "{\"to\": }",
            "{\"sendat\": 1, ",
            "{\"to\": 1} x",
            "\u{feff}{}",
            "{\"to\": \"\\ud800\"}",
            "nul",
        ] {
            assert_eq!(faults(body.as_bytes()), (400, Vec::new()), "{body}");
        }
        assert_eq!(faults(b"\xff\xfe"), (400, Vec::new()));
        assert_eq!(faults(b"{\"to\": \"\xc3\"}"), (400, Vec::new()));
    }

    #[test]
    fn sixty_four_levels_pass_and_one_more_does_not() {
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(value(nested(64).as_bytes()).is_ok());
        assert_eq!(
            value(nested(65).as_bytes()).unwrap_err().code(),
            Code::InvalidJson
        );
        let hidden = format!("[\"{}\\\"[\", {}]", "[{".repeat(100), nested(63));
        assert!(value(hidden.as_bytes()).is_ok());
    }

    #[test]
    fn the_last_of_two_equal_members_counts() {
        let body =
            b"{\"to\": \"1\", \"to\": \"2\", \"content\": {\"type\": \"text\", \"text\": \"x\"}}";
        assert_eq!(read::<Wanted>(body).unwrap().to, "2");
    }

    #[test]
    fn a_fingerprint_is_of_values_and_not_of_bytes() {
        let print = |text: &str| fingerprint("op", "/p", &value(text.as_bytes()).unwrap());
        assert_eq!(
            print("{\"a\": 1, \"b\": [1, 2]}"),
            print("{ \"b\":[1,2.0],\"a\":1.0 }")
        );
        assert_eq!(print(""), print("{}"));
        let all = [
            "{}",
            "[]",
            "null",
            "\"\"",
            "{\"a\":1}",
            "{\"a\":\"1\"}",
            "[1,2]",
            "[12]",
            "[[1],2]",
            "[1,[2]]",
            "{\"a\":null}",
        ];
        let prints: std::collections::HashSet<_> = all.iter().map(|it| print(it)).collect();
        assert_eq!(prints.len(), all.len());
        assert_ne!(
            fingerprint("op", "/p", &json!({})),
            fingerprint("op/", "p", &json!({}))
        );
    }

    #[test]
    fn a_patch_tells_absent_from_null() {
        #[derive(Debug, Deserialize)]
        struct Patch {
            #[serde(default, deserialize_with = "present")]
            a: Option<Option<u8>>,
            #[serde(default, deserialize_with = "present")]
            b: Option<Option<u8>>,
            #[serde(default, deserialize_with = "present")]
            c: Option<Option<u8>>,
        }
        let patch: Patch = read(b"{\"a\": null, \"b\": 2}").unwrap();
        assert_eq!(
            (patch.a, patch.b, patch.c),
            (Some(None), Some(Some(2)), None)
        );
    }
}
