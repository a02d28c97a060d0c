//! A WebSocket by hand, for what a well-behaved library would never do.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, timeout};

use super::Client;

/// Longer than the longest silence that the protocol allows (35 s).
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// A TCP connection after the upgrade. It never answers a ping and never closes by itself.
#[derive(Debug)]
pub(crate) struct RawSocket {
    stream: TcpStream,
}

impl RawSocket {
    /// Opens a JSON socket with the client's credential in the header.
    pub(crate) async fn open(client: &Client) -> Self {
        Self::offering(client, "buho.v1.json").await
    }

    /// Opens a socket that offers any subprotocol.
    pub(crate) async fn offering(client: &Client, protocol: &str) -> Self {
        let authority = client.base().authority();
        let mut stream = TcpStream::connect(&authority).await.expect("a connection");
        let head = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: {authority}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             sec-websocket-protocol: {protocol}\r\nauthorization: Bearer {}\r\n\r\n",
            client.secret()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("the head of the answer"));
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        Self { stream }
    }

    /// Writes one masked frame.
    pub(crate) async fn frame(&mut self, is_last: bool, opcode: u8, payload: &[u8]) {
        let mut bytes = vec![if is_last { 0x80 | opcode } else { opcode }];
        match u16::try_from(payload.len()) {
            Ok(length) if length < 126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
            Ok(length) => {
                bytes.push(0x80 | 126);
                bytes.extend(length.to_be_bytes());
            }
            Err(_) => {
                bytes.push(0x80 | 127);
                bytes.extend(u64::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        // A mask of zeroes leaves the payload as it is.
        bytes.extend([0; 4]);
        bytes.extend(payload);
        // The server may have closed in the middle of what it does not want.
        let _ = self.stream.write_all(&bytes).await;
    }

    /// The code of the Close that ends this connection, 1006 where it ends without one.
    pub(crate) async fn until_close(&mut self) -> u16 {
        timeout(SILENCE_MAX, self.read_close())
            .await
            .expect("the connection ends")
    }

    async fn read_close(&mut self) -> u16 {
        while let Ok((opcode, payload)) = self.read_frame().await {
            if opcode == 8 {
                return payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code));
            }
        }
        1006
    }

    async fn read_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let opcode = self.stream.read_u8().await? & 0x0F;
        let length = match self.stream.read_u8().await? & 0x7F {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await?;
        Ok((opcode, payload))
    }
}
