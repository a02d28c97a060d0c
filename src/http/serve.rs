//! The accept loop: bounded connections, bounded time for a request's head, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutWriter;
use tower::ServiceExt;

use super::layers::draw_request_id;
use crate::problem::{ApiError, Code, finish};

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
/// Bytes that a connection may have waiting to be read or written.
const BUFFER_BYTES_MAX: usize = 64 * 1_024;
/// Connections that may wait to be accepted, where the system allows as many (`net.core.somaxconn`). The handshake of one
/// more is dropped, and tried again after a second, then three: what many that come back at once would meet.
const BACKLOG: u32 = 4_096;
/// Connections beyond the cap that are told so; more are closed at once.
const REFUSALS_MAX: usize = 64;
/// How long a refused connection may take for its request.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);
/// How long to wait after a failed accept, such as one without a free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the listener may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServeLimits {
    /// Connections, upgraded ones included.
    pub(crate) connections: usize,
    /// How long a request's head may take.
    pub(crate) head_time: Duration,
    /// How long a write may make no progress.
    pub(crate) write_stall: Duration,
    /// How long what is under way may take when the gateway stops.
    pub(crate) grace: Duration,
}

/// Listens at an address, which may be one where a gateway listened a moment ago.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stopping` turns true (or its sender is gone), then takes no more connections, waits for what is under
/// way and cuts the rest off after the grace.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopping: watch::Receiver<bool>,
    limits: ServeLimits,
) {
    let seats = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = async { drop(stopping.wait_for(|it| *it).await) } => break,
        };
        let (stream, peer) = match accepted {
            Ok(it) => it,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Without it a small answer would wait for more; a socket that refuses is already gone.
        drop(stream.set_nodelay(true));
        if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
            let connection = connection(
                Seated::new(stream, seat),
                peer,
                router.clone(),
                limits,
                stopping.clone(),
            );
            connections.spawn(connection);
        } else if let Ok(seat) = Arc::clone(&refusals).try_acquire_owned() {
            connections.spawn(refuse(Seated::new(stream, seat)));
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.grace, ended).await.is_err() {
        tracing::info!(
            connections = connections.len(),
            "connections are cut off: the grace is over"
        );
    }
}

async fn connection(
    stream: Seated,
    peer: SocketAddr,
    router: Router,
    limits: ServeLimits,
    mut stopping: watch::Receiver<bool>,
) {
    let written = stream.written.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(written.clone());
        router.clone().oneshot(request)
    });
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_stall));
    let mut http = builder(limits.head_time);
    let serving = http
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => Some(served),
        () = async { drop(stopping.wait_for(|it| *it).await) } => None,
    };
    let served = match served {
        Some(served) => served,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn builder(head_time: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head_time)
        .max_header_size(HEAD_BYTES_MAX);
    builder
}

/// Answers one request of a connection for which there is no seat.
async fn refuse(stream: Seated) {
    let service = service_fn(|_: hyper::Request<Incoming>| async {
        let (id, wait) = (draw_request_id(), rand::random_range(1..=5));
        let error = ApiError::new(Code::Busy)
            .detail("Too many connections are open.")
            .after(wait);
        let mut response = finish(error.into_response(), &id);
        if let Ok(id) = id.try_into() {
            response.headers_mut().insert("x-request-id", id);
        }
        Ok::<_, std::convert::Infallible>(response)
    });
    let serving = builder(REFUSAL_TIME_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // It is of no concern how a refused connection ends.
    drop(tokio::time::timeout(REFUSAL_TIME_MAX, serving).await);
}

/// Bytes that a connection has taken from us so far: whether a write that is not through makes progress.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written(Arc<AtomicU64>);

impl Written {
    /// How many.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            let bytes = u64::try_from(*bytes).unwrap_or(u64::MAX);
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
        written
    }
}

/// A connection with its seat, which it keeps also after an upgrade.
struct Seated {
    stream: TcpStream,
    written: Written,
    _seat: OwnedSemaphorePermit,
}

impl Seated {
    fn new(stream: TcpStream, seat: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            written: Written::default(),
            _seat: seat,
        }
    }
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written.count(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;

    struct Server {
        address: SocketAddr,
        stop: watch::Sender<bool>,
        tasks: JoinSet<()>,
        /// Told when `/slow` is under way.
        begun: Arc<Notify>,
    }

    const LONG: Duration = Duration::from_secs(600);

    async fn server(connections: usize, head_time: Duration) -> Server {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let begun = Arc::new(Notify::new());
        let begins = Arc::clone(&begun);
        let slow = async move || {
            begins.notify_one();
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "ok"))
            .route("/slow", get(slow))
            .route("/endless", get(endless));
        let (stop, stopping) = watch::channel(false);
        let limits = ServeLimits {
            connections,
            head_time,
            write_stall: Duration::from_millis(300),
            grace: Duration::from_secs(5),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, router, stopping, limits));
        Server {
            address,
            stop,
            tasks,
            begun,
        }
    }

    async fn endless() -> Body {
        let piece = || Ok::<_, io::Error>(vec![b'x'; 64 * 1_024]);
        Body::from_stream(futures_util::stream::repeat_with(piece))
    }

    async fn said(stream: &mut TcpStream, request: &str) -> String {
        // A server that has closed already is told by what can be read.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn head(bytes: usize) -> String {
        let plain = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: \r\n\r\n";
        plain.replace("x: ", &format!("x: {}", "y".repeat(bytes - plain.len())))
    }

    #[tokio::test]
    async fn those_who_come_at_once_wait_to_be_accepted() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for _ in 0..500 {
            let coming = TcpStream::connect(address);
            let came = tokio::time::timeout(Duration::from_secs(60), coming).await;
            waiting.push(came.unwrap().unwrap());
        }
    }

    #[tokio::test]
    async fn a_head_has_sixteen_kibibytes_and_little_time() {
        let (mut patient, mut hasty) = (
            server(10, LONG).await,
            server(10, Duration::from_millis(300)).await,
        );
        let told = async |server: &Server, request: &str| {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            said(&mut stream, request).await
        };
        let full = told(&patient, &head(HEAD_BYTES_MAX)).await;
        assert!(full.starts_with("HTTP/1.1 200"), "{full}");
        let over = told(&patient, &head(HEAD_BYTES_MAX + 1)).await;
        assert!(!over.starts_with("HTTP/1.1 200"), "{over}");
        let slow = told(&hasty, "GET / HTTP/1.1\r\nhost").await;
        assert!(!slow.starts_with("HTTP/1.1 200"), "{slow}");
        for server in [&mut patient, &mut hasty] {
            server.stop.send_replace(true);
            server.tasks.join_next().await;
        }
    }

    #[tokio::test]
    async fn beyond_the_cap_connections_are_told_to_wait() {
        let mut server = server(1, LONG).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        first
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let mut seen = [0; 15];
        first.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"HTTP/1.1 200 OK");
        let mut second = TcpStream::connect(server.address).await.unwrap();
        let refused = said(&mut second, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(
            refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: "),
            "{refused}"
        );
        server.stop.send_replace(true);
        server.tasks.join_next().await;
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_loses_its_seat() {
        let mut server = server(1, LONG).await;
        let mut idle = TcpStream::connect(server.address).await.unwrap();
        idle.write_all(b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let seated = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let mut next = TcpStream::connect(server.address).await.unwrap();
                let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                if said(&mut next, ask).await.starts_with("HTTP/1.1 200") {
                    break;
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), seated).await;
        assert!(waited.is_ok(), "its seat is still taken");
        drop(idle);
        server.stop.send_replace(true);
        server.tasks.join_next().await;
    }

    #[tokio::test]
    async fn what_is_under_way_ends_before_the_gateway_does() {
        let mut server = server(10, LONG).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        server.begun.notified().await;
        server.stop.send_replace(true);
        server.tasks.join_next().await;
        let answer = said(&mut stream, "").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("slow"),
            "{answer}"
        );
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
