//! A plain file: the same bytes appended, one `fdatasync` a commit. What the disk alone allows.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::committer::Sink;
use super::store::filler;
use crate::error::LoadError;

/// A file that only grows.
pub(crate) struct Append {
    file: File,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Append {
    /// A new file in a folder, for messages of so many bytes.
    pub(crate) fn create(folder: &Path, message_bytes: usize) -> Result<Self, LoadError> {
        let path = folder.join("append.log");
        let file =
            File::create(&path).map_err(LoadError::io(format!("creating {}", path.display())))?;
        Ok(Self {
            file,
            message: filler(message_bytes),
            buffer: Vec::new(),
        })
    }
}

impl Sink for Append {
    fn commit(&mut self, messages: &[u64]) -> Result<(), LoadError> {
        self.buffer.clear();
        for message in messages {
            self.buffer.extend_from_slice(&message.to_be_bytes());
            // The number is part of the message's bytes.
            self.buffer.extend(self.message.iter().skip(8));
        }
        self.file
            .write_all(&self.buffer)
            .and_then(|()| self.file.sync_data())
            .map_err(LoadError::io("appending"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_appends_the_bytes_of_its_messages() {
        let folder = tempfile::tempdir().unwrap();
        let mut append = Append::create(folder.path(), 1_080).unwrap();
        append.commit(&[1, 2]).unwrap();
        append.commit(&[3]).unwrap();
        let length = std::fs::metadata(folder.path().join("append.log"))
            .unwrap()
            .len();
        assert_eq!(length, 3 * 1_080);
    }
}
