//! A new engine in the place of one that has met a full disk. The engine takes no more writes after one that failed; the
//! process goes on with another one on the same files.
//!
//! Two engines must never write to one file. So everybody gives the old one back, its end is waited for, and the files are
//! seen to be closed before the new one opens them.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use actors::ports::Clock;
use tokio::time::Instant;

use super::OpenError;
use super::engine::Held;
use super::folder::Folder;
use super::repair::{Opened, Opening};

/// How long the old engine may take to be gone.
const PUT_AWAY_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The descriptors of this process.
const DESCRIPTORS: &str = "/proc/self/fd";

/// The old engine is not gone in time, or not surely.
#[derive(Debug, thiserror::Error)]
#[error("the engine could not be closed")]
pub(super) struct Stuck;

/// The engine that there is, and how another one is opened.
pub(super) struct Generations {
    pub(super) held: Held,
    pub(super) folder: Arc<Folder>,
    pub(super) cache_bytes: u64,
    pub(super) clock: Arc<dyn Clock>,
}

impl Generations {
    /// Takes the engine from everybody, and waits until nothing of it is left. Reads are away from here on.
    pub(super) fn put_away(&self) -> Result<(), Stuck> {
        let until = Instant::now() + PUT_AWAY_MAX;
        let Some(mut shared) = self.held.write().take() else {
            return Ok(());
        };
        let engine = loop {
            match Arc::try_unwrap(shared) {
                Ok(engine) => break engine,
                Err(back) => shared = back,
            }
            if until < Instant::now() {
                // Who reads may go on.
                *self.held.write() = Some(shared);
                return Err(Stuck);
            }
            thread::sleep(LOOK_EVERY);
        };
        // It waits for its own threads, and nothing here should wait for ever.
        let (tell, told) = mpsc::channel();
        let ending = thread::Builder::new().name("store-ending".to_owned());
        let ending = ending.spawn(move || {
            drop(engine);
            // Whoever has stopped waiting need not know.
            let _heard = tell.send(());
        });
        ending.map_err(|_| Stuck)?;
        told.recv_timeout(until.saturating_duration_since(Instant::now()))
            .map_err(|_| Stuck)?;
        let data = self.folder.data().canonicalize().map_err(|_| Stuck)?;
        while is_open(&data).map_err(|_| Stuck)? {
            if until < Instant::now() {
                return Err(Stuck);
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Opens another engine; it is held by nobody yet.
    pub(super) fn open_again(&self) -> Result<Opened, OpenError> {
        let opening = Opening {
            folder: &self.folder,
            cache_bytes: self.cache_bytes,
            clock: Arc::clone(&self.clock),
        };
        opening.open_again()
    }
}

/// Whether this process has a file in a folder open.
fn is_open(folder: &Path) -> io::Result<bool> {
    for descriptor in fs::read_dir(DESCRIPTORS)? {
        // One that was closed meanwhile leads nowhere.
        let file = fs::read_link(descriptor?.path());
        if file.is_ok_and(|it| it.starts_with(folder)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an error comes down to a disk or a share of it that is full.
pub(super) fn is_want_of_room(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind.is_some_and(|it| matches!(it, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_open_file_is_seen_until_it_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        assert!(!is_open(&path).unwrap());
        let file = File::create(path.join("x")).unwrap();
        assert!(is_open(&path).unwrap());
        fs::remove_file(path.join("x")).unwrap();
        assert!(is_open(&path).unwrap(), "it is open though it has no name");
        drop(file);
        assert!(!is_open(&path).unwrap());
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        let full = || io::Error::from_raw_os_error(28);
        assert!(is_want_of_room(&fjall::Error::Io(full())));
        assert!(is_want_of_room(&OpenError::Io {
            path: "x".into(),
            source: full(),
        }));
        assert!(!is_want_of_room(&fjall::Error::Io(
            io::Error::from_raw_os_error(5)
        )));
        assert!(!is_want_of_room(&fjall::Error::Poisoned));
    }
}
