//! The operator's socket: who may open it, how long a conversation lasts.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::line::{self, Command, LINE_MAX, Refusal};
use crate::telemetry::Chain;

/// Conversations at a time; further ones wait in the system's queue.
const CONNECTIONS_MAX: usize = 16;
/// The longest conversation: from the first byte of the line to the last of the answer.
const CONVERSATION_MAX: Duration = Duration::from_secs(30);
/// How long an ordered close waits for conversations that have begun.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// The pause after a connection that could not be taken, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Carries out what an operator asks for.
#[async_trait]
pub(crate) trait Desk: Send + Sync + 'static {
    /// The answer, one JSON object.
    async fn carry(&self, command: Command) -> Result<Value, Refusal>;
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another gateway answers there.
    #[error("another gateway answers at {0}: stop it, or set operator.socket to another path")]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{0} is not a socket: remove it, or set operator.socket to another path")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("the operator's socket {path} can't be opened")]
    Refused {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The open socket. Owns its conversations.
#[derive(Debug)]
pub(crate) struct OperatorSocket {
    path: PathBuf,
    stop: oneshot::Sender<()>,
    tasks: JoinSet<()>,
}

impl OperatorSocket {
    /// Opens the socket, mode 0600. A file that a killed gateway left behind is replaced.
    ///
    /// # Errors
    ///
    /// Where another gateway answers there, something else has the name, or the system refuses.
    pub(crate) fn open(path: &Path, desk: Arc<dyn Desk>) -> Result<Self, SocketError> {
        let refused = |source| SocketError::Refused {
            path: path.to_owned(),
            source,
        };
        clear_stale(path)?;
        let listener = UnixListener::bind(path).map_err(refused)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(refused)?;
        let (stop, stopped) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, desk, stopped));
        Ok(Self {
            path: path.to_owned(),
            stop,
            tasks,
        })
    }

    /// Takes no more commands, lets the begun ones end, and removes the file.
    pub(crate) async fn close(mut self) {
        drop(self.stop);
        while self.tasks.join_next().await.is_some() {}
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(error = %Chain(&error), "the operator's socket could not be removed");
        }
    }
}

/// Removes the file of a gateway that is gone.
fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let refused = |source| SocketError::Refused {
        path: path.to_owned(),
        source,
    };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    if !kind.is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(SocketError::InUse(path.to_owned()));
    }
    std::fs::remove_file(path).map_err(refused)
}

async fn serve(listener: UnixListener, desk: Arc<dyn Desk>, mut stop: oneshot::Receiver<()>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Some(_) = open.join_next() => {}
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    open.spawn(converse(stream, Arc::clone(&desk)));
                }
                Err(error) => {
                    tracing::warn!(error = %Chain(&error), "an operator's connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    let ended = timeout(CLOSE_MAX, async {
        while open.join_next().await.is_some() {}
    })
    .await;
    if ended.is_err() {
        tracing::warn!(
            open = open.len(),
            "operator's commands were cut off by the stop"
        );
    }
    open.shutdown().await;
}

async fn converse(mut stream: UnixStream, desk: Arc<dyn Desk>) {
    match timeout(CONVERSATION_MAX, one_line_each(&mut stream, &*desk)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(error = %Chain(&error), "an operator's connection broke"),
        Err(_) => tracing::warn!("an operator's connection took too long"),
    }
}

async fn one_line_each(stream: &mut UnixStream, desk: &dyn Desk) -> io::Result<()> {
    let (reading, mut writing) = stream.split();
    let outcome = match check_peer(reading.as_ref())? {
        Ok(()) => match read_line(reading).await? {
            Some(Ok(command)) => desk.carry(command).await,
            Some(Err(refusal)) => Err(refusal),
            None => return Ok(()),
        },
        Err(refusal) => Err(refusal),
    };
    writing.write_all(line::answer(outcome).as_bytes()).await?;
    writing.shutdown().await
}

/// The file's mode keeps others out; this does so too in the moment before the mode is set.
fn check_peer(stream: &UnixStream) -> io::Result<Result<(), Refusal>> {
    let peer = stream.peer_cred()?.uid();
    if peer == 0 || peer == rustix::process::geteuid().as_raw() {
        return Ok(Ok(()));
    }
    Ok(Err(Refusal::new(
        "forbidden",
        "this socket is for the gateway's own user",
    )))
}

/// The command; `None` where the caller hung up without one.
async fn read_line(
    reading: impl tokio::io::AsyncRead + Unpin,
) -> io::Result<Option<Result<Command, Refusal>>> {
    let room = u64::try_from(LINE_MAX + 1).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::new(reading.take(room))
        .read_until(b'\n', &mut line)
        .await?;
    Ok(match line.strip_suffix(b"\n") {
        Some(line) => Some(line::parse(line)),
        None if line.is_empty() => None,
        None if LINE_MAX < line.len() => Some(Err(Refusal::invalid(format!(
            "a line has at most {LINE_MAX} bytes"
        )))),
        None => Some(line::parse(&line)),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use serde_json::json;

    use super::*;
    use crate::operator::client::{AskError, ask};

    #[derive(Debug)]
    struct Echo;

    #[async_trait]
    impl Desk for Echo {
        async fn carry(&self, command: Command) -> Result<Value, Refusal> {
            if command == (Command::Ping {}) {
                Ok(json!({"pong": true}))
            } else {
                Err(Refusal::invalid("only ping"))
            }
        }
    }

    async fn asked(path: &Path, command: Command) -> Result<Value, AskError> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || ask(&path, &command))
            .await
            .unwrap()
    }

    async fn spoken(path: &Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut told = String::new();
        BufReader::new(stream).read_line(&mut told).await.unwrap();
        told
    }

    #[tokio::test]
    async fn a_line_is_answered_by_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.sock");
        let socket = OperatorSocket::open(&path, Arc::new(Echo)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            asked(&path, Command::Ping {}).await.unwrap(),
            json!({"pong": true})
        );
        let refused = asked(&path, Command::TenantList {}).await.unwrap_err();
        assert!(matches!(refused, AskError::Refused(refusal) if refusal.code == "invalid"));
        socket.close().await;
        assert!(!path.exists());
        assert!(matches!(
            asked(&path, Command::Ping {}).await,
            Err(AskError::NoGateway { .. })
        ));
    }

    #[tokio::test]
    async fn a_line_of_the_greatest_length_is_read_and_one_more_byte_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.sock");
        let socket = OperatorSocket::open(&path, Arc::new(Echo)).unwrap();
        let mut line = br#"{"command":"ping"}"#.to_vec();
        line.resize(LINE_MAX, b' ');
        line.push(b'\n');
        assert_eq!(spoken(&path, &line).await, "{\"pong\":true}\n");
        line.insert(LINE_MAX, b' ');
        assert!(spoken(&path, &line).await.contains("at most 65536 bytes"));
        assert_eq!(spoken(&path, b"").await, "");
        socket.close().await;
    }

    #[tokio::test]
    async fn a_stale_socket_does_not_block_and_a_live_one_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operator.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = OperatorSocket::open(&path, Arc::new(Echo)).unwrap();
        assert!(matches!(
            OperatorSocket::open(&path, Arc::new(Echo)),
            Err(SocketError::InUse(_))
        ));
        socket.close().await;
        std::fs::write(&path, "not a socket").unwrap();
        assert!(matches!(
            OperatorSocket::open(&path, Arc::new(Echo)),
            Err(SocketError::NotASocket(_))
        ));
    }
}
