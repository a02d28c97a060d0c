//! Opening the database, and cutting off a torn tail where the engine itself does not.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use actors::model::Cursor;
use actors::ports::{Clock, StoreError};

use super::engine::{Engine, Space};
use super::folder::{self, Folder};
use super::journal::{self, Survey};
use super::{OpenError, keys, rows};

/// How to open a database.
pub(super) struct Opening<'a> {
    /// Where it is.
    pub(super) folder: &'a Folder,
    /// How much of it is kept in memory.
    pub(super) cache_bytes: u64,
    /// The time.
    pub(super) clock: Arc<dyn Clock>,
}

/// A database that is open.
pub(super) struct Opened {
    pub(super) engine: Engine,
    /// Its own id.
    pub(super) store: [u8; 16],
    /// The number of its last commit.
    pub(super) commits: u64,
}

impl Opening<'_> {
    /// Opens the database, or makes it where there is none.
    pub(super) fn open(&self) -> Result<Opened, OpenError> {
        let data = self.folder.data();
        if !data.try_exists().map_err(|it| self.io(it))? {
            self.make()?;
        }
        let store = folder::read_format(&data)?;
        let clean = self.folder.clean_mark().map_err(|it| self.io(it))?;
        let (engine, least) = match clean {
            Some(commits) => (
                self.engine(&data).map_err(|it| self.refused(it))?,
                Some(commits),
            ),
            None => self.after_crash(&data, store)?,
        };
        let commits = engine
            .commits(store)
            .map_err(|it| self.damaged("the number of its last commit can't be read", it))?;
        if least.is_some_and(|it| commits < it) {
            return Err(OpenError::Damaged {
                path: data,
                what: "its last commits are missing",
                source: None,
            });
        }
        self.folder.forget_clean().map_err(|it| self.io(it))?;
        Ok(Opened {
            engine,
            store,
            commits,
        })
    }

    /// Opens a database that this process has closed. Everything in it is synced, and nothing is repaired: who has told of
    /// its end may have told of what a repair would cut off.
    pub(super) fn open_again(&self) -> Result<Opened, OpenError> {
        let data = self.folder.data();
        let store = folder::read_format(&data)?;
        let engine = self.engine(&data).map_err(|it| self.refused(it))?;
        engine.sync().map_err(|it| self.refused(it))?;
        let commits = engine
            .commits(store)
            .map_err(|it| self.damaged("the number of its last commit can't be read", it))?;
        Ok(Opened {
            engine,
            store,
            commits,
        })
    }

    /// Makes an empty database; it counts from the moment it has its name.
    fn make(&self) -> Result<(), OpenError> {
        let new = self.folder.draft();
        drop(self.engine(&new).map_err(|it| self.refused(it))?);
        folder::write_format(&new, rand::random()).map_err(|it| self.io(it))?;
        self.folder.adopt_draft().map_err(|it| self.io(it))
    }

    /// Opens what was not stopped in order. The number is the least that its last commit must have.
    fn after_crash(
        &self,
        data: &Path,
        store: [u8; 16],
    ) -> Result<(Engine, Option<u64>), OpenError> {
        let survey = journal::survey(data, &keys::commit(store)).map_err(|it| self.io(it))?;
        let survey = survey.map_err(|what| OpenError::Damaged {
            path: data.to_owned(),
            what,
            source: None,
        })?;
        match self.engine(data) {
            Ok(engine) => Ok((engine, survey.last)),
            Err(error @ fjall::Error::JournalRecovery(_)) => {
                self.repair(data, store, &survey, error)
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Cuts off the last batch, on a copy that takes the place of the data once it has opened.
    fn repair(
        &self,
        data: &Path,
        store: [u8; 16],
        survey: &Survey,
        refusal: fjall::Error,
    ) -> Result<(Engine, Option<u64>), OpenError> {
        let (cut_at, least) = if survey.torn {
            (Some(survey.end), survey.last)
        } else {
            (
                survey.last_batch_at,
                survey.last.map(|it| it.saturating_sub(1)),
            )
        };
        let (Some(cut_at), Some(journal)) =
            (cut_at, survey.newest.as_ref().and_then(|it| it.file_name()))
        else {
            return Err(self.refused(refusal));
        };
        let copy = self.folder.repaired();
        let cut = || -> io::Result<()> {
            copy_database(data, &copy)?;
            let journal = File::options().write(true).open(copy.join(journal))?;
            journal.set_len(cut_at)?;
            journal.sync_all()
        };
        cut().map_err(|it| self.io(it))?;
        // Where it does not open now, more than the last batch is damaged: the data stays as it was found.
        let Ok(engine) = self.engine(&copy) else {
            return Err(self.refused(refusal));
        };
        begin_epochs(&engine, store, least)
            .map_err(|it| self.damaged("its torn end can't be cut off", it))?;
        drop(engine);
        self.folder.adopt_repaired().map_err(|it| self.io(it))?;
        tracing::warn!(
            path = %self.folder.root().display(), cut_at,
            "the store's last batch was torn by a crash before it was acknowledged; it was cut off and every log starts a new epoch"
        );
        Ok((self.engine(data).map_err(|it| self.refused(it))?, least))
    }

    fn engine(&self, path: &Path) -> fjall::Result<Engine> {
        Engine::open(path, self.cache_bytes, Arc::clone(&self.clock))
    }

    fn io(&self, source: io::Error) -> OpenError {
        OpenError::Io {
            path: self.folder.root().to_owned(),
            source,
        }
    }

    fn damaged(&self, what: &'static str, source: StoreError) -> OpenError {
        OpenError::Damaged {
            path: self.folder.root().to_owned(),
            what,
            source: Some(Box::new(source)),
        }
    }

    fn refused(&self, error: fjall::Error) -> OpenError {
        let path = self.folder.root().to_owned();
        if let fjall::Error::Io(source) = error {
            return OpenError::Io { path, source };
        }
        if matches!(error, fjall::Error::Locked) {
            return OpenError::InUse { path };
        }
        OpenError::Damaged {
            path,
            what: "the engine can't read it",
            source: Some(Box::new(error)),
        }
    }
}

/// Readers of every log must learn that its end may have been another.
fn begin_epochs(engine: &Engine, store: [u8; 16], least: Option<u64>) -> Result<(), StoreError> {
    let commits = engine.commits(store)?;
    if least.is_some_and(|it| commits < it) {
        return Err(StoreError::Damaged {
            what: "commit number",
        });
    }
    let mut batch = engine.batch(16);
    let directory = engine.table(Space::Directory);
    batch.insert(
        directory,
        keys::commit(store),
        rows::count(commits.saturating_add(1)),
    );
    for row in engine.view().prefix(Space::Directory, &keys::heads()) {
        let (key, row) = row?;
        let head = rows::uncursor(&row, "head")?;
        batch.insert(
            directory,
            key,
            rows::cursor(Cursor {
                epoch: head.epoch.saturating_add(1),
                seq: head.seq,
            }),
        );
    }
    batch
        .commit()
        .map_err(|it| super::engine::failed("commit", it))?;
    engine
        .sync()
        .map_err(|it| super::engine::failed("sync", it))
}

/// Copies a database. Its tables never change once they are written, so they are linked.
fn copy_database(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    let tables = from.file_name().is_some_and(|it| it == "tables");
    for file in fs::read_dir(from)? {
        let file = file?;
        let target = to.join(file.file_name());
        if file.file_type()?.is_dir() {
            copy_database(&file.path(), &target)?;
        } else if tables {
            fs::hard_link(file.path(), target)?;
        } else {
            fs::copy(file.path(), &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    folder::sync_folder(to)
}
