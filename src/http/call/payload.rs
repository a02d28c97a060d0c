//! The bytes of a body: how many, how fast, and of which type.

use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use crate::problem::{ApiError, Code};

/// Bytes of a body.
const BODY_BYTES_MAX: usize = 1_048_576;
/// How long a body may take.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// For each such piece that has come it gets a second more.
const BODY_PIECE_BYTES: usize = 32_768;
/// What is read and thrown away of a refused body, so that the refusal is not lost in a reset of the connection.
const DRAIN_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Reads a body within its bounds.
pub(super) async fn read_body(headers: &HeaderMap, body: &mut Body) -> Result<Bytes, ApiError> {
    let told = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.parse::<usize>().ok());
    if told.is_some_and(|it| BODY_BYTES_MAX < it) {
        return Err(ApiError::new(Code::BodyTooLarge));
    }
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    let begun = Instant::now();
    let mut deadline = begun + BODY_TIME_MAX;
    let cut =
        || ApiError::new(Code::InvalidJson).detail("The body did not arrive whole and in time.");
    while let Some(frame) = timeout_at(deadline, body.frame())
        .await
        .map_err(|_| cut())?
    {
        let Ok(data) = frame.map_err(|_| cut())?.into_data() else {
            continue;
        };
        let length = first
            .len()
            .saturating_add(whole.len())
            .saturating_add(data.len());
        if BODY_BYTES_MAX < length {
            return Err(ApiError::new(Code::BodyTooLarge));
        }
        // Most bodies come in one piece, which is taken as it is.
        if length == data.len() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
        let pieces = u64::try_from(length / BODY_PIECE_BYTES).unwrap_or(0);
        deadline = begun + BODY_TIME_MAX + Duration::from_secs(pieces);
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// Checks that the body's type can be read; tells whether it is a form.
pub(super) fn check_type(parts: &Parts, body: &Bytes, takes_form: bool) -> Result<bool, ApiError> {
    if body.is_empty() {
        return Ok(false);
    }
    let refused = || ApiError::new(Code::UnsupportedMediaType);
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(refused());
    }
    let kind = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|it| it.to_str().ok())
        .ok_or_else(refused)?;
    let mut pieces = kind.split(';').map(str::trim);
    let name = pieces.next().unwrap_or_default().to_ascii_lowercase();
    let is_utf8 = pieces
        .filter_map(|it| it.split_once('='))
        .all(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        });
    let is_patch = name == "application/merge-patch+json" && parts.method == Method::PATCH;
    let is_form = takes_form && name == "application/x-www-form-urlencoded";
    if is_utf8 && (name == "application/json" || is_patch || is_form) {
        Ok(is_form)
    } else {
        Err(refused())
    }
}

/// Reads what is left of a refused body and throws it away. Who waits for a `100 Continue` has not sent it.
pub(crate) async fn drain(headers: &HeaderMap, mut body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut left = DRAIN_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // Whoever is slower than this may lose the answer.
    drop(tokio::time::timeout(DRAIN_TIME_MAX, reading).await);
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn parts(method: Method, kind: Option<&str>, encoding: Option<&str>) -> Parts {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        parts.method = method;
        if let Some(kind) = kind {
            parts
                .headers
                .insert(header::CONTENT_TYPE, HeaderValue::from_str(kind).unwrap());
        }
        if let Some(encoding) = encoding {
            parts.headers.insert(
                header::CONTENT_ENCODING,
                HeaderValue::from_str(encoding).unwrap(),
            );
        }
        parts
    }

    #[test]
    fn only_plain_json_in_utf8_is_read() {
        let body = Bytes::from_static(b"{}");
        let check = |method, kind, encoding| {
            check_type(&parts(method, kind, encoding), &body, false).is_ok()
        };
        for kind in [
            "application/json",
            "Application/JSON; Charset=\"UTF-8\"",
            "application/json;a=b",
        ] {
            assert!(check(Method::POST, Some(kind), None), "{kind}");
        }
        for kind in [
            "text/json",
            "application/json; charset=latin1",
            "application/merge-patch+json",
            "",
            "json",
        ] {
            assert!(!check(Method::POST, Some(kind), None), "{kind}");
        }
        assert!(check(
            Method::PATCH,
            Some("application/merge-patch+json"),
            None
        ));
        assert!(!check(Method::POST, None, None));
        assert!(!check(
            Method::POST,
            Some("application/json"),
            Some("identity")
        ));
        assert!(!check(
            Method::POST,
            Some("application/x-www-form-urlencoded"),
            None
        ));
        let form = parts(
            Method::POST,
            Some("application/x-www-form-urlencoded"),
            None,
        );
        assert!(check_type(&form, &body, true).unwrap());
        assert!(!check_type(&parts(Method::POST, None, None), &Bytes::new(), false).unwrap());
    }

    #[tokio::test]
    async fn a_body_may_have_a_mebibyte_in_any_pieces() {
        for (bytes, fits) in [(BODY_BYTES_MAX, true), (BODY_BYTES_MAX + 1, false)] {
            let whole = vec![b' '; bytes];
            let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
                whole.chunks(60_000).map(|it| Ok(it.to_vec())).collect();
            for mut body in [
                Body::from(whole.clone()),
                Body::from_stream(futures_util::stream::iter(pieces)),
            ] {
                let read = read_body(&HeaderMap::new(), &mut body).await;
                assert_eq!(read.map(|it| it.len()).ok(), fits.then_some(bytes));
            }
        }
    }
}
