//! The bodies and requests of sends, built before a run, and what their answers say.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Endpoint;
use super::frame::{FrameProblem, Sent};
use super::http::{Answer, request};
use crate::error::{LoadError, code_leaves_open};
use crate::report::ErrorCounts;

/// The most chats of one run: their requests are all kept in memory.
pub(crate) const CHATS: u64 = 100_000;

/// A number of a virtual phone: Peru's country code, the mobile digit, seven more of our own.
pub(crate) fn number(chat: u64) -> String {
    format!("5198{:07}", chat % 10_000_000)
}

/// A text of a given length.
pub(crate) fn text(bytes: usize) -> String {
    "buho ".chars().cycle().take(bytes).collect()
}

/// The body of one send.
pub(crate) fn body(to: &str, text: &str) -> Value {
    json!({"to": to, "content": {"type": "text", "text": text}})
}

/// The path of the single send.
pub(crate) fn path(device: &str) -> String {
    format!("/v1/devices/{device}/messages")
}

/// One request a chat.
pub(crate) fn singles(endpoint: &Endpoint, device: &str, chats: u64, text: &str) -> Arc<[Bytes]> {
    let path = path(device);
    (0..chats.clamp(1, CHATS))
        .map(|chat| {
            let body = body(&number(chat), text).to_string();
            request(endpoint, "POST", &path, Some(body.as_bytes()))
        })
        .collect()
}

/// The body of a batch.
pub(crate) fn batch_body(messages: &[Value]) -> Value {
    json!({"messages": messages})
}

/// As many batches as the chats fill, at least one.
pub(crate) fn batches(
    endpoint: &Endpoint,
    device: &str,
    chats: u64,
    batch: u64,
    text: &str,
) -> Arc<[Bytes]> {
    let path = format!("{}/batch", path(device));
    let (chats, batch) = (chats.clamp(1, CHATS), batch.clamp(1, 1_000));
    (0..chats.div_ceil(batch))
        .map(|index| {
            let first = index * batch;
            let messages: Vec<_> = (first..first + batch)
                .map(|chat| body(&number(chat % chats), text))
                .collect();
            let body = batch_body(&messages).to_string();
            request(endpoint, "POST", &path, Some(body.as_bytes()))
        })
        .collect()
}

/// Reads the answer to a single send.
pub(crate) fn read_sent(answer: &Answer) -> Result<Sent<'_>, LoadError> {
    let call = || "POST messages".to_owned();
    if answer.status != 202 {
        return Err(LoadError::Refused {
            call: call(),
            problem: answer.problem(),
        });
    }
    serde_json::from_slice(&answer.body).map_err(|source| LoadError::Body {
        call: call(),
        source,
    })
}

/// The answer to a batch.
#[derive(Debug, Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Debug, Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    ok: Option<Sent<'a>>,
    #[serde(borrow)]
    error: Option<FrameProblem<'a>>,
}

/// What became of the items of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchOutcome {
    /// Items that are stored.
    pub(crate) accepted: u64,
    /// The places of their events.
    pub(crate) seqs: Vec<u64>,
    /// The id of the first of them.
    pub(crate) first: Option<String>,
    /// Items that were refused.
    pub(crate) errors: ErrorCounts,
    /// Those of them that may be stored all the same.
    pub(crate) unknown: u64,
}

/// Reads the answer to a batch.
pub(crate) fn read_batch(answer: &Answer) -> Result<BatchOutcome, LoadError> {
    let call = || "POST messages/batch".to_owned();
    if answer.status != 202 {
        return Err(LoadError::Refused {
            call: call(),
            problem: answer.problem(),
        });
    }
    let batch: Batch<'_> =
        serde_json::from_slice(&answer.body).map_err(|source| LoadError::Body {
            call: call(),
            source,
        })?;
    let mut outcome = BatchOutcome::default();
    for item in batch.items {
        match (item.ok, item.error) {
            (Some(sent), _) => {
                outcome.accepted += 1;
                outcome.first.get_or_insert_with(|| sent.id.to_string());
                outcome.seqs.extend(sent.seq());
            }
            (None, Some(problem)) => {
                outcome.unknown += u64::from(code_leaves_open(&problem.code));
                outcome.errors.count(format!("item {}", problem.code));
            }
            (None, None) => outcome.errors.count("item without ok and error".to_owned()),
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint {
            address: "127.0.0.1:8080".parse().unwrap(),
            credential: None,
        }
    }

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer {
            status,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn every_chat_has_its_own_number_of_eleven_digits() {
        let numbers: std::collections::HashSet<_> = (0..1_000).map(number).collect();
        assert_eq!(numbers.len(), 1_000);
        assert!(numbers.iter().all(|number| number.len() == 11));
    }

    #[test]
    fn batches_cover_all_chats_and_are_full() {
        let requests = batches(&endpoint(), "dev_1", 250, 100, "x");
        assert_eq!(requests.len(), 3);
        let mut seen = std::collections::HashSet::new();
        for request in requests.iter() {
            let start = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let body: Value = serde_json::from_slice(&request[start..]).unwrap();
            let messages = body["messages"].as_array().unwrap();
            assert_eq!(messages.len(), 100);
            seen.extend(
                messages
                    .iter()
                    .map(|m| m["to"].as_str().unwrap().to_owned()),
            );
        }
        assert_eq!(seen.len(), 250);
    }

    #[test]
    fn items_of_a_batch_are_counted_one_by_one() {
        let answer = answer(
            202,
            r#"{"items":[{"ok":{"id":"msg_1","event_cursor":"1-5"}},{"error":{"code":"busy","status":503}},
                {"replayed":true,"ok":{"id":"msg_2","event_cursor":"1-6"}},{},{"error":{"code":"outcome_unknown"}}]}"#,
        );
        let outcome = read_batch(&answer).unwrap();
        assert_eq!((outcome.accepted, outcome.seqs), (2, vec![5, 6]));
        assert_eq!((outcome.errors.total(), outcome.unknown), (3, 1));
    }

    #[test]
    fn only_202_is_an_acknowledgement() {
        let fine = r#"{"id":"msg_1","event_cursor":"1-5"}"#;
        assert_eq!(read_sent(&answer(202, fine)).unwrap().seq(), Some(5));
        assert!(read_sent(&answer(200, fine)).is_err());
        let refused = read_sent(&answer(507, r#"{"code":"storage_full"}"#)).unwrap_err();
        assert_eq!(refused.tally_name(), "507 storage_full");
    }
}
