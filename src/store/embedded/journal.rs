//! A look at the engine's journals before the engine opens them, which cuts off whatever it can't read.
//!
//! Every commit is one batch with its number in it, and is synced before the next one is written. So after a crash only
//! the last batch can be torn, and nobody was told of it. A tear with a later number behind it, or a number that is
//! missing, is damage to what was acknowledged: that must not be cut off in silence.
//!
//! The layout is fjall 3.1's: `1 count:u32 seqno:u64`, then items (`2 type:u8 compression:u8 keyspace:u64 key_len:u16
//! value_len:u32 stored_len:u32 key value`), then `3 checksum:u64 "FJL" 3`; little-endian, zeros behind the last batch.

use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::rows;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: &[u8] = b"FJL\x03";
/// The value behind a commit's key: a version byte and the number.
const NUMBER_LEN: usize = 9;
const CHUNK: usize = 64 << 10;
static ZEROS: [u8; CHUNK] = [0; CHUNK];

/// What the journals say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// The newest journal.
    pub(super) newest: Option<PathBuf>,
    /// The number of the last batch that is whole.
    pub(super) last: Option<u64>,
    /// Where the last whole batch of the newest journal begins.
    pub(super) last_batch_at: Option<u64>,
    /// Where it ends.
    pub(super) end: u64,
    /// Whether something torn follows it.
    pub(super) torn: bool,
}

/// What one journal says.
#[derive(Debug, Default)]
struct Walked {
    first: Option<u64>,
    last: Option<u64>,
    last_batch_at: Option<u64>,
    end: u64,
    torn: bool,
    /// Numbers seen behind the last whole batch.
    later: Vec<u64>,
}

/// Walks through all journals of a database; the inner error says what is damaged.
pub(super) fn survey(data: &Path, commit_key: &[u8]) -> io::Result<Result<Survey, &'static str>> {
    let mut journals = Vec::new();
    for file in std::fs::read_dir(data)? {
        let path = file?.path();
        let number = path
            .extension()
            .is_some_and(|it| it == "jnl")
            .then(|| path.file_stem()?.to_str()?.parse::<u64>().ok());
        journals.extend(number.flatten().map(|it| (it, path)));
    }
    journals.sort();
    let newest = journals.len().saturating_sub(1);
    let mut survey = Survey::default();
    for (index, (_, path)) in journals.into_iter().enumerate() {
        let walked = Walk::open(&path, commit_key)?.through()?;
        if survey
            .last
            .zip(walked.first)
            .is_some_and(|(last, first)| last.saturating_add(1) != first)
        {
            return Ok(Err("a batch is missing between two journals"));
        }
        let last = walked.last.or(survey.last);
        let expected = last
            .map(|it| it.saturating_add(1))
            .or(walked.later.first().copied());
        if walked.later.iter().any(|it| Some(*it) != expected)
            || (index < newest && !walked.later.is_empty())
        {
            return Ok(Err("a batch that was acknowledged can't be read"));
        }
        survey = Survey {
            newest: Some(path),
            last,
            last_batch_at: walked.last_batch_at,
            end: walked.end,
            torn: walked.torn,
        };
    }
    Ok(Ok(survey))
}

struct Walk<'a> {
    file: BufReader<File>,
    at: u64,
    len: u64,
    commit_key: &'a [u8],
}

impl<'a> Walk<'a> {
    fn open(path: &Path, commit_key: &'a [u8]) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file: BufReader::with_capacity(CHUNK, file),
            at: 0,
            len,
            commit_key,
        })
    }

    fn through(mut self) -> io::Result<Walked> {
        let mut walked = Walked::default();
        loop {
            let begin = self.at;
            let Some(number) = self.batch()? else { break };
            walked.first = walked.first.or(number);
            walked.last = number.or(walked.last);
            walked.last_batch_at = Some(begin);
            walked.end = self.at;
        }
        self.rest(&mut walked)?;
        Ok(walked)
    }

    /// Reads one batch; `None` where there is no whole one. Inside is its number.
    fn batch(&mut self) -> io::Result<Option<Option<u64>>> {
        let Some([START, count @ .., _, _, _, _, _, _, _, _]) = self.take::<13>()? else {
            return Ok(None);
        };
        let mut number = None;
        for _ in 0..u32::from_le_bytes(count) {
            match self.take()? {
                Some([ITEM]) => match self.item()? {
                    Some(found) => number = number.or(found),
                    None => return Ok(None),
                },
                Some([CLEAR]) if self.take::<8>()?.is_some() => {}
                Some(_) | None => return Ok(None),
            }
        }
        let Some([END, _, _, _, _, _, _, _, _, trailer @ ..]) = self.take::<13>()? else {
            return Ok(None);
        };
        Ok((trailer == TRAILER).then_some(number))
    }

    fn item(&mut self) -> io::Result<Option<Option<u64>>> {
        let Some(
            [
                _,
                compression,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                _,
                k0,
                k1,
                _,
                _,
                _,
                _,
                v0,
                v1,
                v2,
                v3,
            ],
        ) = self.take::<20>()?
        else {
            return Ok(None);
        };
        let (key_len, value_len) = (
            usize::from(u16::from_le_bytes([k0, k1])),
            u64::from(u32::from_le_bytes([v0, v1, v2, v3])),
        );
        if 1 < compression {
            return Ok(None);
        }
        let mut key = vec![0; key_len];
        if !self.fill(&mut key)? {
            return Ok(None);
        }
        if key == self.commit_key {
            return Ok(self.take::<NUMBER_LEN>()?.map(|it| rows::uncount(&it)));
        }
        Ok(self.skip(value_len)?.then_some(None))
    }

    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok(self.fill(&mut bytes)?.then_some(bytes))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.len - self.at < len {
            return Ok(false);
        }
        self.file.read_exact(bytes)?;
        self.at += len;
        Ok(true)
    }

    fn skip(&mut self, len: u64) -> io::Result<bool> {
        if self.len - self.at < len {
            return Ok(false);
        }
        self.file
            .seek_relative(i64::try_from(len).unwrap_or(i64::MAX))?;
        self.at += len;
        Ok(true)
    }

    /// Looks at what stands behind the last whole batch.
    fn rest(mut self, walked: &mut Walked) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(walked.end))?;
        let key_len = self.commit_key.len();
        // What may be the beginning of a number's row is looked at again with the next chunk.
        let mut window: Vec<u8> = Vec::with_capacity(2 * CHUNK);
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = self.file.read(&mut chunk)?;
            let Some(bytes) = chunk.get(..read).filter(|it| !it.is_empty()) else {
                return Ok(());
            };
            if Some(bytes) == ZEROS.get(..read) && !walked.torn {
                continue;
            }
            walked.torn = true;
            window.extend_from_slice(bytes);
            let rows = window
                .windows(key_len + NUMBER_LEN)
                .map(|it| it.split_at(key_len));
            walked.later.extend(
                rows.filter(|(key, _)| *key == self.commit_key)
                    .filter_map(|(_, value)| rows::uncount(value)),
            );
            let kept = window.len().saturating_sub(key_len + NUMBER_LEN - 1);
            window.drain(..kept);
        }
    }
}
