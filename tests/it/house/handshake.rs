//! Opening a WebSocket: which credential, which encoding, which headers.

use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Client, Socket};

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    MsgPack,
}

/// A WebSocket about to be opened.
#[derive(Debug)]
pub(crate) struct Handshake {
    authority: String,
    path: String,
    codec: Codec,
    headers: Vec<(String, String)>,
    receive_buffer: Option<u32>,
}

/// An upgrade that was answered with HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Client {
    /// A JSON socket with this client's credential in its header, if it has one.
    pub(crate) fn handshake(&self) -> Handshake {
        let mut headers = vec![("sec-websocket-protocol".into(), "buho.v1.json".into())];
        if let Some(secret) = self.credential() {
            headers.push(("authorization".into(), format!("Bearer {secret}")));
        }
        Handshake {
            authority: self.base().authority(),
            path: "/v1/ws".into(),
            codec: Codec::Json,
            headers,
            receive_buffer: None,
        }
    }

    /// Opens a JSON socket and reads its `hello`.
    pub(crate) async fn socket(&self) -> Socket {
        self.handshake().welcome().await
    }
}

impl Handshake {
    pub(crate) fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        match codec {
            Codec::Json => self.protocols(Some("buho.v1.json")),
            Codec::MsgPack => self.protocols(Some("buho.v1.msgpack")),
        }
    }

    /// What is offered as subprotocols.
    pub(crate) fn protocols(mut self, offer: Option<&str>) -> Self {
        self.headers
            .retain(|(name, _)| name != "sec-websocket-protocol");
        match offer {
            Some(offer) => self.header("sec-websocket-protocol", offer),
            None => self,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Path and query.
    pub(crate) fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// Bytes that the kernel takes for a reader that does not read.
    pub(crate) const fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Opens it; an HTTP answer is given as it came.
    pub(crate) async fn open(self) -> Result<Socket, Refused> {
        match self.upgrade().await {
            Ok(socket) => Ok(socket),
            Err(Error::Http(answer)) => {
                let status = answer.status().as_u16();
                let body = answer.body().as_deref().unwrap_or_default();
                let body = serde_json::from_slice(body).unwrap_or(Value::Null);
                Err(Refused { status, body })
            }
            Err(other) => panic!("no upgrade: {other}"),
        }
    }

    /// Opens it, unless nobody is there or it is refused.
    pub(crate) async fn attempt(self) -> Option<Socket> {
        self.upgrade().await.ok()
    }

    async fn upgrade(self) -> Result<Socket, Error> {
        let mut request = format!("ws://{}{}", self.authority, self.path)
            .into_client_request()
            .unwrap();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request
                .headers_mut()
                .append(name, HeaderValue::from_str(value).unwrap());
        }
        let stream = self.connect().await?;
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let (stream, answer) = client_async_with_config(request, stream, Some(config)).await?;
        let protocol = answer.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|it| it.to_str().unwrap().into());
        Ok(Socket::new(stream, self.codec, protocol))
    }

    /// Opens it and reads its `hello`.
    pub(crate) async fn welcome(self) -> Socket {
        let mut socket = self.open().await.expect("an upgrade");
        let hello = socket.frame().await;
        assert_eq!(hello["op"], "hello", "{hello}");
        socket
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let address = self.authority.parse().expect("host and port");
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.connect(address).await
    }
}
