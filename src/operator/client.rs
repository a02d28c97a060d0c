//! The other end of the operator's socket, for the command line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::line::{Command, Refusal};

/// The longest wait for one piece of the answer; longer than the gateway itself waits for anything.
const WAIT_MAX: Duration = Duration::from_secs(40);
/// The longest answer that is read.
const ANSWER_MAX: u64 = 64 << 20;

/// Why a command was not answered.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error(
        "no gateway answers at {path}: start one with `buho serve`, or name its folder with --data"
    )]
    NoGateway {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The gateway went away before it answered. The command may have been carried out.
    #[error("the gateway did not answer; the command may have been carried out")]
    Broken(#[source] io::Error),
    /// The answer is not what a gateway says.
    #[error("the answer is not a line of JSON; is it a gateway of this version?")]
    Garbled(#[source] serde_json::Error),
    /// The gateway said no.
    #[error("{0}")]
    Refused(Refusal),
}

/// Asks the running gateway; blocks until it has answered.
///
/// # Errors
///
/// Where nobody is there, or the gateway refuses.
pub fn ask(socket: &Path, command: &Command) -> Result<Value, AskError> {
    let mut stream = UnixStream::connect(socket).map_err(|source| AskError::NoGateway {
        path: socket.to_owned(),
        source,
    })?;
    let line = converse(&mut stream, command).map_err(AskError::Broken)?;
    let mut answer: Value = serde_json::from_str(&line).map_err(AskError::Garbled)?;
    match answer.get_mut("error").map(Value::take) {
        Some(error) => Err(AskError::Refused(
            serde_json::from_value(error).map_err(AskError::Garbled)?,
        )),
        None => Ok(answer),
    }
}

fn converse(stream: &mut UnixStream, command: &Command) -> io::Result<String> {
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    let mut question = serde_json::to_string(command)?;
    question.push('\n');
    stream.write_all(question.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_MAX)).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line)
}
