//! A backup's folder.
//!
//! ```text
//! partial/         what is being written; a backup that was interrupted has nothing else
//! records/00001    frames, one behind the other: length, CRC-32, and records in MessagePack. Further files follow
//! manifest.json    written last. Line 1: what the files hold. Line 2: the SHA-256 of line 1
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use actors::model::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::record::{Record, Tally};
use super::{TransferError, count, unwritable};
use crate::store::embedded::{sync_folder, write_whole};

/// The version of files and records that this program writes and reads.
const FORMAT: u32 = 1;
/// Bytes after which the next file begins.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// The largest frame that is taken for one.
const FRAME_BYTES_MAX: u32 = 256 << 20;

const PARTIAL: &str = "partial";
const RECORDS: &str = "records";
const MANIFEST: &str = "manifest.json";

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The version of all of it.
    pub(super) format: u32,
    /// The moment that it shows.
    pub(super) made_at: Timestamp,
    /// How many files.
    pub(super) files: u32,
    /// What is in them.
    pub(super) tally: Tally,
}

/// What a manifest of any version says.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// A backup in the making.
pub(super) struct Draft {
    root: PathBuf,
    files: u32,
    file: Option<BufWriter<File>>,
    written: u64,
    tally: Tally,
}

impl Draft {
    /// Begins a backup in a folder that is empty, or makes it.
    pub(super) fn begin(root: &Path) -> Result<Self, TransferError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(TransferError::io(root))?;
        if !is_empty(root).map_err(TransferError::io(root))? {
            return Err(TransferError::NotEmpty(root.display().to_string()));
        }
        let draft = Self {
            root: root.to_owned(),
            files: 0,
            file: None,
            written: 0,
            tally: Tally::default(),
        };
        let mut partial = DirBuilder::new();
        let made = partial.mode(0o700).create(draft.partial());
        made.map_err(TransferError::io(draft.partial()))?;
        Ok(draft)
    }

    fn partial(&self) -> PathBuf {
        self.root.join(PARTIAL)
    }

    /// What was written.
    pub(super) const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Adds records.
    pub(super) fn add(&mut self, records: &[Record]) -> Result<(), TransferError> {
        let mut frame = Vec::new();
        for record in records {
            let bytes = record.to_bytes().map_err(unwritable)?;
            self.tally.add(record.kind(), &bytes);
            frame.extend_from_slice(&bytes);
        }
        self.write(&frame)
            .map_err(TransferError::io(self.partial()))
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        if FRAME_BYTES_MAX < length {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if self.file.is_none() || FILE_BYTES_MAX < self.written {
            self.end_file()?;
            self.files += 1;
            let file = File::create_new(self.partial().join(name(self.files)))?;
            self.file = Some(BufWriter::new(file));
            self.written = 0;
        }
        if let Some(file) = &mut self.file {
            file.write_all(&length.to_be_bytes())?;
            file.write_all(&crc32fast::hash(frame).to_be_bytes())?;
            file.write_all(frame)?;
        }
        self.written += 8 + u64::from(length);
        Ok(())
    }

    fn end_file(&mut self) -> io::Result<()> {
        match self.file.take() {
            Some(file) => file.into_inner()?.sync_all(),
            None => Ok(()),
        }
    }

    /// Makes it durable and reads it back, unless it is to stop; the manifest comes last. Where that fails, nothing stays.
    pub(super) fn end(
        mut self,
        made_at: Timestamp,
        stops: impl Fn() -> bool,
    ) -> Result<Manifest, TransferError> {
        let ended = self.seal(made_at, stops);
        if ended.is_err() {
            self.abandon();
        }
        ended
    }

    fn seal(
        &mut self,
        made_at: Timestamp,
        stops: impl Fn() -> bool,
    ) -> Result<Manifest, TransferError> {
        let manifest = Manifest {
            format: FORMAT,
            made_at,
            files: self.files,
            tally: std::mem::take(&mut self.tally),
        };
        self.place().map_err(TransferError::io(self.root.clone()))?;
        let backup = Backup {
            root: self.root.clone(),
            manifest,
        };
        let mut tally = Tally::default();
        backup.read(|records| {
            if stops() {
                return Err(TransferError::Stopped);
            }
            Ok(count(&mut tally, &records)?)
        })?;
        if let Some(difference) = backup.manifest.tally.difference(&tally) {
            return Err(TransferError::Differs(difference));
        }
        seal(&self.root, &backup.manifest).map_err(TransferError::io(&self.root))?;
        Ok(backup.manifest)
    }

    fn place(&mut self) -> io::Result<()> {
        self.end_file()?;
        sync_folder(&self.partial())?;
        fs::rename(self.partial(), self.root.join(RECORDS))?;
        sync_folder(&self.root)
    }

    /// Removes what was written, the manifest first. A folder that was there stays.
    pub(super) fn abandon(self) {
        let removed = [
            fs::remove_file(self.root.join(MANIFEST)),
            fs::remove_dir_all(self.root.join(RECORDS)),
            fs::remove_dir_all(self.partial()),
        ];
        for error in removed.into_iter().filter_map(Result::err) {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "an unfinished backup could not be removed");
            }
        }
    }
}

fn seal(root: &Path, manifest: &Manifest) -> io::Result<()> {
    let line = serde_json::to_string(manifest)?;
    let told = format!("{line}\n{}\n", digest(line.as_bytes()));
    write_whole(&root.join(MANIFEST), told.as_bytes())
}

/// Whether a folder has nothing.
pub(super) fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}

fn name(number: u32) -> String {
    format!("{number:05}")
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|it| format!("{it:02x}")).collect()
}

/// A backup that has its manifest.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    root: PathBuf,
    pub(super) manifest: Manifest,
}

impl Backup {
    /// Finds a backup.
    pub(super) fn open(root: &Path) -> Result<Self, TransferError> {
        let damaged = |what: &str| TransferError::Damaged {
            path: root.to_owned(),
            what: what.to_owned(),
        };
        let path = root.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("it has no manifest: it was not finished"));
            }
            Err(error) => return Err(TransferError::io(path)(error)),
        };
        let other = || damaged("its manifest is not as it was written");
        let text = String::from_utf8(text).map_err(|_| other())?;
        let (line, sum) = text.split_once('\n').ok_or_else(other)?;
        if sum != format!("{}\n", digest(line.as_bytes())) {
            return Err(other());
        }
        let Versioned { format } = serde_json::from_str(line).map_err(|_| other())?;
        if FORMAT < format {
            return Err(TransferError::Newer {
                path: root.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        Ok(Self {
            root: root.to_owned(),
            manifest: serde_json::from_str(line).map_err(|_| other())?,
        })
    }

    /// Reads everything, a frame at a time. What does not hold what it should ends it.
    pub(super) fn read(
        &self,
        mut take: impl FnMut(Vec<Record>) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        for number in 1..=self.manifest.files {
            let path = self.root.join(RECORDS).join(name(number));
            let damaged = || self.damaged(format!("file {} can't be read", name(number)));
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged()),
                Err(error) => return Err(TransferError::io(path)(error)),
            };
            let mut file = BufReader::new(file);
            loop {
                match frame(&mut file) {
                    Ok(Some(records)) => take(records)?,
                    Ok(None) => break,
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                        ) =>
                    {
                        return Err(damaged());
                    }
                    Err(error) => return Err(TransferError::io(path)(error)),
                }
            }
        }
        Ok(())
    }

    /// Says that it is not whole.
    pub(super) fn damaged(&self, what: String) -> TransferError {
        TransferError::Damaged {
            path: self.root.clone(),
            what,
        }
    }
}

/// The next records; `None` at the end of the file.
fn frame(file: &mut BufReader<File>) -> io::Result<Option<Vec<Record>>> {
    let mut head = Vec::new();
    file.take(8).read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(None);
    }
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let (length, sum) = head.split_at_checked(4).unzip();
    let (length, sum) = length
        .and_then(number)
        .zip(sum.and_then(number))
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    if FRAME_BYTES_MAX < length {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = Vec::new();
    file.take(u64::from(length)).read_to_end(&mut body)?;
    if u32::try_from(body.len()) != Ok(length) || crc32fast::hash(&body) != sum {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut rest = body.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        let read = rmp_serde::from_read(&mut rest);
        records.push(read.map_err(|_| io::ErrorKind::InvalidData)?);
    }
    Ok(Some(records))
}
