//! The head of an HTTP/1.1 answer, parsed no further than status, length and keep-alive.

use thiserror::Error;

/// The longest head that is read.
pub(crate) const HEAD_BYTES: usize = 16 * 1024;
/// The longest body that is read.
pub(crate) const BODY_BYTES: usize = 16 << 20;

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// HTTP status.
    pub(crate) status: u16,
    /// Bytes of the head, with the empty line.
    pub(crate) length: usize,
    /// Bytes of the body.
    pub(crate) body: usize,
    /// Whether the server closes the connection after this answer.
    pub(crate) closes: bool,
}

/// Why bytes are not an answer that this client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum ResponseError {
    /// The first line is not one of HTTP/1.1.
    #[error("the answer does not start like HTTP/1.1")]
    NotHttp,
    /// No end of the head within the bound.
    #[error("the head of the answer is longer than 16 KiB")]
    HeadTooLong,
    /// The length is missing, not a number, or beyond the bound.
    #[error("the length of the body is missing or not usable")]
    Length,
}

/// Parses the head at the start of `bytes`; `None` while it is not complete.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<Head>, ResponseError> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > HEAD_BYTES {
            Err(ResponseError::HeadTooLong)
        } else {
            Ok(None)
        };
    };
    let head = bytes.get(..end).ok_or(ResponseError::NotHttp)?;
    let mut lines = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.trim_ascii_end());
    let status = lines
        .next()
        .and_then(parse_status)
        .ok_or(ResponseError::NotHttp)?;
    let mut body = None;
    let mut closes = false;
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            body = Some(parse_length(value).ok_or(ResponseError::Length)?);
        } else if name.eq_ignore_ascii_case(b"connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    // A chunked answer has no length either: the gateway's answers to what is measured here all have one.
    let body = match (body, status) {
        (Some(body), _) => body,
        (None, 204 | 304) => 0,
        (None, _) => return Err(ResponseError::Length),
    };
    Ok(Some(Head {
        status,
        length: end + 4,
        body,
        closes,
    }))
}

fn parse_status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ")?;
    let digits = rest.get(..3)?;
    let after = rest.get(3);
    if after.is_some_and(|byte| *byte != b' ') {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn parse_length(value: &[u8]) -> Option<usize> {
    let length: usize = std::str::from_utf8(value).ok()?.parse().ok()?;
    (length <= BODY_BYTES).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\ncontent-LENGTH:  17\r\n\r\n{\"id\":\"msg_1\"}...";

    #[test]
    fn status_and_length_are_found() {
        let head = parse_head(ANSWER).unwrap().unwrap();
        assert_eq!((head.status, head.body, head.closes), (202, 17, false));
        assert_eq!(ANSWER.len() - head.length, 17);
    }

    #[test]
    fn every_cut_of_a_head_is_incomplete_not_wrong() {
        let end = parse_head(ANSWER).unwrap().unwrap().length;
        for cut in 0..end {
            assert_eq!(parse_head(&ANSWER[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn a_closing_connection_is_seen() {
        let head =
            b"HTTP/1.1 503 Service Unavailable\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        assert!(parse_head(head).unwrap().unwrap().closes);
    }

    #[test]
    fn no_content_needs_no_length_and_others_do() {
        let none = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse_head(none).unwrap().unwrap().body, 0);
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(parse_head(chunked), Err(ResponseError::Length));
    }

    #[test]
    fn what_is_not_http_or_not_bounded_is_refused() {
        assert_eq!(
            parse_head(b"SSH-2.0-x\r\n\r\n"),
            Err(ResponseError::NotHttp)
        );
        assert_eq!(
            parse_head(b"HTTP/1.1 2022 X\r\ncontent-length: 0\r\n\r\n"),
            Err(ResponseError::NotHttp)
        );
        let huge = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
        assert_eq!(parse_head(huge), Err(ResponseError::Length));
        assert_eq!(
            parse_head(&vec![b'x'; HEAD_BYTES + 1]),
            Err(ResponseError::HeadTooLong)
        );
    }
}
