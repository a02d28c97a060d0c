//! One HTTP/1.1 connection: a prepared request goes out, the answer comes back.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Endpoint;
use super::response::{Head, parse_head};
use crate::error::{LoadError, Problem};

/// Room for an answer; it grows where one is longer.
const READ_BYTES: usize = 4 * 1024;

/// How long an answer may take: far longer than any server that works takes.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// An answer, with its body unread.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// The body's bytes.
    pub(crate) body: Bytes,
}

impl Answer {
    /// Whether the status is a success.
    pub(crate) fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What the server says is wrong.
    pub(crate) fn problem(&self) -> Problem {
        #[derive(Deserialize)]
        struct Document {
            code: String,
            #[serde(default)]
            detail: String,
        }
        match serde_json::from_slice::<Document>(&self.body) {
            Ok(document) => Problem {
                status: self.status,
                code: document.code,
                detail: document.detail,
            },
            Err(_) => Problem {
                status: self.status,
                code: "(no problem document)".to_owned(),
                detail: String::from_utf8_lossy(&self.body)
                    .chars()
                    .take(200)
                    .collect(),
            },
        }
    }
}

/// A keep-alive connection. After an error, or where the server closes, the next exchange opens a new one.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    buffer: BytesMut,
}

impl Connection {
    /// A connection that opens with its first exchange.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            stream: None,
            buffer: BytesMut::with_capacity(READ_BYTES),
        }
    }

    /// Sends one request and reads its answer, if it comes in time.
    ///
    /// An exchange that is dropped half-way leaves the connection unusable; drop the connection too.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer, LoadError> {
        let Ok(answer) = timeout(ANSWER, self.exchange_whenever(request)).await else {
            // A half-read answer would be taken for the next one's.
            self.stream = None;
            self.buffer.clear();
            return Err(LoadError::Protocol(format!("no answer within {ANSWER:?}")));
        };
        answer
    }

    async fn exchange_whenever(&mut self, request: &[u8]) -> Result<Answer, LoadError> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await?,
        };
        stream
            .write_all(request)
            .await
            .map_err(LoadError::io("sending a request"))?;
        let head = self.read_head(&mut stream).await?;
        while self.buffer.len() < head.length + head.body {
            self.read_some(&mut stream).await?;
        }
        let mut answer = self.buffer.split_to(head.length + head.body);
        if !head.closes {
            self.stream = Some(stream);
        }
        Ok(Answer {
            status: head.status,
            body: answer.split_off(head.length).freeze(),
        })
    }

    async fn open(&mut self) -> Result<TcpStream, LoadError> {
        self.buffer.clear();
        let doing = || LoadError::io("connecting");
        let stream = TcpStream::connect(self.address).await.map_err(doing())?;
        stream.set_nodelay(true).map_err(doing())?;
        Ok(stream)
    }

    async fn read_head(&mut self, stream: &mut TcpStream) -> Result<Head, LoadError> {
        loop {
            if let Some(head) = parse_head(&self.buffer)? {
                return Ok(head);
            }
            self.read_some(stream).await?;
        }
    }

    async fn read_some(&mut self, stream: &mut TcpStream) -> Result<(), LoadError> {
        self.buffer.reserve(READ_BYTES);
        let read = stream
            .read_buf(&mut self.buffer)
            .await
            .map_err(LoadError::io("reading an answer"))?;
        if read == 0 {
            let cut = std::io::ErrorKind::UnexpectedEof;
            return Err(LoadError::io("reading an answer")(cut.into()));
        }
        Ok(())
    }
}

/// The bytes of a request, ready to be sent as often as wanted.
pub(crate) fn request(endpoint: &Endpoint, method: &str, path: &str, body: Option<&[u8]>) -> Bytes {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", endpoint.address);
    if let Some(credential) = &endpoint.credential {
        head.push_str("Authorization: Bearer ");
        head.push_str(credential);
        head.push_str("\r\n");
    }
    if let Some(body) = body {
        head.push_str("Content-Type: application/json\r\nContent-Length: ");
        head.push_str(&body.len().to_string());
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = BytesMut::from(head.as_bytes());
    bytes.extend_from_slice(body.unwrap_or_default());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    fn endpoint() -> Endpoint {
        Endpoint {
            address: "127.0.0.1:8080".parse().unwrap(),
            credential: Some("buho_key_x".to_owned()),
        }
    }

    #[test]
    fn a_request_says_its_length_and_credential() {
        let bytes = request(&endpoint(), "POST", "/v1/x", Some(b"{}"));
        assert_eq!(
            &bytes[..],
            b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAuthorization: Bearer buho_key_x\r\n\
              Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
        let bytes = request(&endpoint(), "GET", "/v1/x", None);
        assert!(!bytes.windows(7).any(|part| part == b"Content"));
    }

    #[test]
    fn a_problem_is_read_from_its_document_and_told_without_one() {
        let answer = |body: &'static str| Answer {
            status: 503,
            body: Bytes::from_static(body.as_bytes()),
        };
        let problem = answer(r#"{"code":"busy","detail":"later","status":503}"#).problem();
        assert_eq!(problem.tally_name(), "503 busy");
        let problem = answer("<html>").problem();
        assert_eq!(problem.tally_name(), "503 (no problem document)");
        assert_eq!(problem.detail, "<html>");
    }

    /// Answers two requests of one byte each, seven bytes at a time.
    async fn in_pieces(listener: TcpListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        for body in ["one", "three"] {
            stream.read_exact(&mut [0]).await.unwrap();
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            for piece in answer.as_bytes().chunks(7) {
                stream.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn two_answers_in_pieces_are_two_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(in_pieces(listener));
        let mut connection = Connection::new(address);
        assert_eq!(connection.exchange(b"1").await.unwrap().body, "one");
        assert_eq!(connection.exchange(b"2").await.unwrap().body, "three");
        let cut = connection.exchange(b"3").await.unwrap_err();
        assert!(cut.tally_name().starts_with("connection: "), "{cut:?}");
    }
}
