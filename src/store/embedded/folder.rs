//! The store's folder: who may use it, how it is laid out, whether it was left in order.
//!
//! ```text
//! lock        held with an OS lock while a process uses the store; the file itself says nothing
//! clean       only between a clean stop and the next start: the number of the last commit
//! data/       the database, and `format`: the version of all rows and the store's own id
//! unfinished  only while the store is being filled by a restore or a copy: how far that came; nobody serves it then
//! new/        a database that is being made        repaired/   a copy that is being repaired
//! torn/       what a repaired copy takes the place of
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::OpenError;

/// The version of rows and keys that this program writes and reads.
pub(super) const FORMAT: u32 = 1;

const FORMAT_FILE: &str = "format";
const NOTE_FILE: &str = "unfinished";
const FORMAT_WORD: &str = "buho-store";

/// The folder, held against every other process until it is dropped.
pub(super) struct Folder {
    root: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes the folder, making it where there is none.
    pub(super) fn hold(root: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: root.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(io)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))
            .map_err(io)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse {
                    path: root.to_owned(),
                });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        let folder = Self {
            root: root.to_owned(),
            _lock: lock,
        };
        folder.tidy().map_err(io)?;
        Ok(folder)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn draft(&self) -> PathBuf {
        self.root.join("new")
    }

    pub(super) fn repaired(&self) -> PathBuf {
        self.root.join("repaired")
    }

    fn torn(&self) -> PathBuf {
        self.root.join("torn")
    }

    fn clean(&self) -> PathBuf {
        self.root.join("clean")
    }

    /// Ends what a crash has interrupted: a database half made, a repair half done.
    fn tidy(&self) -> io::Result<()> {
        if !self.data().try_exists()? && self.torn().try_exists()? {
            // The old data is moved away only once the repaired copy was verified.
            let successor = if self.repaired().try_exists()? {
                self.repaired()
            } else {
                self.torn()
            };
            fs::rename(successor, self.data())?;
        }
        for leftover in [self.draft(), self.repaired(), self.torn()] {
            if leftover.try_exists()? {
                fs::remove_dir_all(leftover)?;
            }
        }
        sync_folder(&self.root)
    }

    /// Puts a database that was just made in its place.
    pub(super) fn adopt_draft(&self) -> io::Result<()> {
        fs::rename(self.draft(), self.data())?;
        self.forget_clean()
    }

    /// Puts the repaired copy in the place of the torn data.
    pub(super) fn adopt_repaired(&self) -> io::Result<()> {
        fs::rename(self.data(), self.torn())?;
        fs::rename(self.repaired(), self.data())?;
        sync_folder(&self.root)?;
        fs::remove_dir_all(self.torn())
    }

    /// The number of the last commit, if the store was stopped in order.
    pub(super) fn clean_mark(&self) -> io::Result<Option<u64>> {
        match fs::read_to_string(self.clean()) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says that the store was stopped in order after this commit.
    pub(super) fn mark_clean(&self, commits: u64) -> io::Result<()> {
        write_whole(&self.clean(), format!("{commits}\n").as_bytes())
    }

    /// The note of whoever is filling the store as a whole.
    pub(super) fn note(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.root.join(NOTE_FILE)) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes or removes that note.
    pub(super) fn set_note(&self, note: Option<&[u8]>) -> io::Result<()> {
        let path = self.root.join(NOTE_FILE);
        match note {
            Some(note) => write_whole(&path, note),
            None => {
                fs::remove_file(path)?;
                sync_folder(&self.root)
            }
        }
    }

    /// Takes the mark back: from here on a stop is a crash.
    pub(super) fn forget_clean(&self) -> io::Result<()> {
        match fs::remove_file(self.clean()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        sync_folder(&self.root)
    }
}

/// Writes the version and the store's id into a database's folder.
pub(super) fn write_format(data: &Path, store: [u8; 16]) -> io::Result<()> {
    let id = u128::from_be_bytes(store);
    write_whole(
        &data.join(FORMAT_FILE),
        format!("{FORMAT_WORD} {FORMAT} {id:032x}\n").as_bytes(),
    )
}

/// Reads the store's id, if its version is one that we know.
pub(super) fn read_format(data: &Path) -> Result<[u8; 16], OpenError> {
    let damaged = |what| OpenError::Damaged {
        path: data.to_owned(),
        what,
        source: None,
    };
    let text = match fs::read_to_string(data.join(FORMAT_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged("its format file is missing"));
        }
        Err(source) => {
            return Err(OpenError::Io {
                path: data.to_owned(),
                source,
            });
        }
    };
    let mut words = text.split_whitespace();
    let version = (words.next() == Some(FORMAT_WORD))
        .then(|| words.next()?.parse().ok())
        .flatten();
    match version {
        Some(FORMAT) => {}
        Some(found) if FORMAT < found => {
            return Err(OpenError::NewerFormat {
                path: data.to_owned(),
                found,
                known: FORMAT,
            });
        }
        Some(_) | None => return Err(damaged("its format file says nothing we know")),
    }
    let id = words
        .next()
        .and_then(|it| u128::from_str_radix(it, 16).ok());
    id.map(u128::to_be_bytes)
        .ok_or_else(|| damaged("its format file has no id"))
}

/// Writes a file so that it is there wholly or not at all.
pub(in crate::store) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes the names in a folder durable.
pub(in crate::store) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
