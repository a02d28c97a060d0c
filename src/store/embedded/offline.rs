//! A store that nobody serves: it is read and filled as a whole.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use actors::model::{DeviceId, TenantId, Timestamp};
use actors::ports::{Clock, StoreError};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;

use super::engine::{self, Engine, Held, Space};
use super::export::{self, Export};
use super::folder::Folder;
use super::keys::{Part, Place};
use super::repair::{Opened, Opening};
use super::space::FreeSpace;
use super::tenants::GATEWAY;
use super::{OpenError, keys, rows};
use crate::store::transfer::record::Record;
use crate::store::transfer::{Archive, Chunk, Mark};

/// Bytes of the database that are kept in memory.
const CACHE_BYTES: u64 = 64 << 20;

/// The numbers under which a store knows tenants and devices.
struct Numbers {
    commits: u64,
    tenants: HashMap<TenantId, u32>,
    devices: HashMap<(TenantId, DeviceId), u32>,
    next: u32,
}

impl Numbers {
    fn read(engine: &Engine, commits: u64) -> Result<Self, StoreError> {
        let mut numbers = Self {
            commits,
            tenants: HashMap::from([(TenantId::GATEWAY, GATEWAY)]),
            devices: HashMap::new(),
            next: GATEWAY + 1,
        };
        let mut owners = HashMap::from([(GATEWAY, TenantId::GATEWAY)]);
        let view = engine.view();
        for row in view.prefix(Space::Directory, &keys::tenants()) {
            let (key, row) = row?;
            let id = keys::id_at(&key, 1)
                .map(TenantId::from_bytes)
                .ok_or(StoreError::Damaged { what: "tenant key" })?;
            let number = rows::number(&row, "tenant")?;
            owners.insert(number, id);
            numbers.tenants.insert(id, number);
            numbers.reserve(number);
        }
        for row in view.prefix(Space::Directory, &keys::all_devices()) {
            let (key, row) = row?;
            let owner = keys::number_at(&key, 1).and_then(|it| owners.get(&it));
            let device = keys::id_at(&key, 5).map(DeviceId::from_bytes);
            let (owner, device) = owner
                .zip(device)
                .ok_or(StoreError::Damaged { what: "device key" })?;
            let number = rows::number(&row, "device")?;
            numbers.devices.insert((*owner, device), number);
            numbers.reserve(number);
        }
        Ok(numbers)
    }

    fn reserve(&mut self, number: u32) {
        self.next = self.next.max(number.saturating_add(1));
    }

    fn fresh(&mut self) -> u32 {
        let number = self.next;
        self.next = self.next.saturating_add(1);
        number
    }

    fn tenant(&self, id: TenantId) -> Result<u32, StoreError> {
        let number = self.tenants.get(&id).copied();
        number.ok_or(StoreError::Damaged {
            what: "owner of a record",
        })
    }

    fn place(&self, tenant: TenantId, device: DeviceId) -> Result<Place, StoreError> {
        let number = self.devices.get(&(tenant, device)).copied();
        Ok(Place {
            tenant: self.tenant(tenant)?,
            device: number.ok_or(StoreError::Damaged {
                what: "owner of a record",
            })?,
        })
    }
}

/// The database of a store, held against everybody else.
struct Base {
    folder: Folder,
    engine: Held,
    store: [u8; 16],
    space: FreeSpace,
    numbers: Mutex<Numbers>,
}

/// A store that nobody serves.
pub(in crate::store) struct Offline(Arc<Base>);

/// A clock from before all times, so that nothing is forgotten on the way.
struct Forever;

impl Clock for Forever {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(0)
    }
}

impl Offline {
    /// Opens the store in a folder, or makes it.
    ///
    /// # Errors
    ///
    /// [`OpenError`], such as where a gateway runs on it.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_at(path, Arc::new(Forever))
    }

    /// As [`Self::open`], with a clock by which kept answers are forgotten.
    pub(in crate::store) fn open_at(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Self::open_in(Folder::hold(path)?, path, clock)
    }

    /// Makes a store that is to be filled, with a note from its first moment on. `None` where there is one already.
    ///
    /// # Errors
    ///
    /// [`OpenError`], such as where a gateway runs on it.
    pub(in crate::store) fn make(path: &Path, note: &[u8]) -> Result<Option<Self>, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let folder = Folder::hold(path)?;
        if folder.data().try_exists().map_err(io)? {
            return Ok(None);
        }
        folder.set_note(Some(note)).map_err(io)?;
        Self::open_in(folder, path, Arc::new(Forever)).map(Some)
    }

    fn open_in(folder: Folder, path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let opening = Opening {
            folder: &folder,
            cache_bytes: CACHE_BYTES,
            clock,
        };
        let Opened {
            engine,
            store,
            commits,
        } = opening.open()?;
        let numbers = Numbers::read(&engine, commits).map_err(|source| OpenError::Damaged {
            path: path.to_owned(),
            what: "its directory can't be read",
            source: Some(Box::new(source)),
        })?;
        Ok(Self(Arc::new(Base {
            folder,
            engine: Arc::new(RwLock::new(Some(Arc::new(engine)))),
            store,
            space: FreeSpace::of(path.to_owned(), None),
            numbers: Mutex::new(numbers),
        })))
    }

    /// Whether a folder has a store, or what a repair that was cut off has left of one.
    pub(in crate::store) fn is_there(path: &Path) -> bool {
        ["data", "torn"].iter().any(|it| path.join(it).is_dir())
    }

    /// Writes all tables anew, without what nobody can see any more. Gives their bytes on the disk.
    pub(in crate::store) async fn compact(
        &self,
        told: impl FnMut(usize, usize) + Send + 'static,
    ) -> Result<u64, StoreError> {
        self.blocking(|base| {
            let engine = base.engine()?;
            let done = engine.compact(told);
            done.map_err(|it| engine::failed("compact", it))?;
            Ok(engine.table_bytes())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Base) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let base = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&base)).await;
        done.unwrap_or(Err(StoreError::Failed))
    }
}

impl Base {
    fn engine(&self) -> Result<Arc<Engine>, StoreError> {
        self.engine.read().clone().ok_or(StoreError::Failed)
    }

    fn import(&self, records: &[Record]) -> Result<(), StoreError> {
        if self.space.is_full() {
            return Err(StoreError::Full);
        }
        let engine = self.engine()?;
        let mut numbers = self.numbers.lock();
        let mut batch = engine.batch(16 + records.len() * 4);
        let number = rows::count(numbers.commits + 1);
        batch.insert(
            engine.table(Space::Directory),
            keys::commit(self.store),
            number,
        );
        let mut bytes = 0;
        for record in records {
            for (space, key, value) in rows_of(record, &mut numbers)? {
                bytes += u64::try_from(key.len() + value.len()).unwrap_or(u64::MAX);
                batch.insert(engine.table(space), key, value);
            }
        }
        batch.commit().map_err(|it| engine::failed("commit", it))?;
        self.space.wrote(bytes);
        numbers.commits += 1;
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        let Some(engine) = self.engine.write().take() else {
            return Ok(());
        };
        engine.sync().map_err(io::Error::other)?;
        drop(engine);
        self.folder.mark_clean(self.numbers.lock().commits)
    }
}

/// A row: its table, its key and its value.
type Placed = (Space, Vec<u8>, Vec<u8>);

/// The rows of a record.
fn rows_of(record: &Record, numbers: &mut Numbers) -> Result<Vec<Placed>, StoreError> {
    use Space::{ByDevice, Chats, Directory, Idempotency, Log, Messages, Outbox, Upstream};
    let owner = record.tenant();
    Ok(match record {
        Record::Tenant {
            tenant,
            row,
            head,
            floor,
        } => {
            let known = numbers.tenants.get(tenant).copied();
            let number = known.unwrap_or_else(|| numbers.fresh());
            numbers.tenants.insert(*tenant, number);
            let mut placed = vec![
                (Directory, keys::head(number), rows::cursor(*head)),
                (Directory, keys::floor(number), rows::pair(*floor, *floor)),
            ];
            if let Some(row) = row {
                let row = rows::with_number(number, row, "tenant")?;
                placed.push((Directory, keys::tenant(*tenant), row));
            }
            placed
        }
        Record::Device { device, row, .. } => {
            let known = numbers.devices.get(&(owner, *device)).copied();
            let number = known.unwrap_or_else(|| numbers.fresh());
            numbers.devices.insert((owner, *device), number);
            let key = keys::device(numbers.tenant(owner)?, *device);
            vec![(Directory, key, rows::with_number(number, row, "device")?)]
        }
        Record::Key { id, row, .. } => {
            let number = numbers.tenant(owner)?;
            vec![
                (Directory, keys::key(number, *id), row.to_vec()),
                (Directory, keys::key_owner(*id, number), rows::raw(&[])),
            ]
        }
        Record::Consumer { name, row, .. } => {
            let key = keys::consumer(numbers.tenant(owner)?, name);
            vec![(Directory, key, row.to_vec())]
        }
        Record::SessionChange {
            device, id, row, ..
        } => {
            let key = keys::session_change(numbers.place(owner, *device)?, *id);
            vec![(Directory, key, row.to_vec())]
        }
        Record::Value {
            space, key, row, ..
        } => {
            let key = keys::value(numbers.tenant(owner)?, space, key);
            vec![(Directory, key, row.to_vec())]
        }
        Record::Message {
            device,
            chat,
            id,
            body,
            state,
            ..
        } => {
            let place = numbers.place(owner, *device)?;
            let key = |part| keys::message(place, chat, *id, part);
            vec![
                (Messages, key(Part::Body), body.to_vec()),
                (Messages, key(Part::State), state.to_vec()),
                (ByDevice, keys::by_device(place, *id), rows::jid(chat)),
            ]
        }
        Record::Chat {
            device, chat, row, ..
        } => {
            let key = keys::chat(numbers.place(owner, *device)?, chat);
            vec![(Chats, key, row.to_vec())]
        }
        Record::Outbox {
            device, chat, id, ..
        } => {
            let key = keys::outbox(numbers.place(owner, *device)?, chat, *id);
            vec![(Outbox, key, rows::raw(&[]))]
        }
        Record::Upstream {
            device,
            chat,
            from_me,
            upstream_id,
            id,
            ..
        } => {
            let place = numbers.place(owner, *device)?;
            let key = keys::upstream(place, chat, *from_me, upstream_id);
            vec![(Upstream, key, rows::raw(&id.to_bytes()))]
        }
        Record::Entry { seq, row, .. } => {
            vec![(Log, keys::log(numbers.tenant(owner)?, *seq), row.to_vec())]
        }
        Record::Answer {
            operation,
            key,
            row,
            ..
        } => {
            let key = keys::idempotency(numbers.tenant(owner)?, operation, key);
            vec![(Idempotency, key, row.to_vec())]
        }
    })
}

#[async_trait]
impl Archive for Offline {
    async fn export(
        &self,
        as_of: Timestamp,
        from: Option<Mark>,
        out: mpsc::Sender<Chunk>,
    ) -> Result<(), StoreError> {
        self.blocking(move |base| {
            let export = Export::new(&base.engine, as_of)?;
            let mut mark = from;
            while let Some(chunk) = export.next(mark.as_ref())? {
                mark.clone_from(&chunk.mark);
                if out.blocking_send(chunk).is_err() {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    async fn import(&self, records: Vec<Record>) -> Result<(), StoreError> {
        self.blocking(move |base| base.import(&records)).await
    }

    async fn version(&self) -> Result<String, StoreError> {
        let store = u128::from_be_bytes(self.0.store);
        let commits = self.0.numbers.lock().commits;
        Ok(format!("embedded store {store:032x} at commit {commits}"))
    }

    fn estimate(&self) -> u64 {
        self.0.engine().map_or(0, |it| export::estimate(&it))
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.0.numbers.lock().commits == 0)
    }

    async fn note(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.blocking(|base| base.folder.note().map_err(unfiled))
            .await
    }

    async fn set_note(&self, note: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.blocking(move |base| base.folder.set_note(note.as_deref()).map_err(unfiled))
            .await
    }

    async fn held(&self) -> Result<(), StoreError> {
        // The folder is locked for as long as this is here.
        Ok(())
    }

    async fn close(&self) {
        let closed = self.blocking(|base| base.close().map_err(unfiled)).await;
        if let Err(error) = closed {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a store could not be closed in order"
            );
        }
    }
}

fn unfiled(source: io::Error) -> StoreError {
    StoreError::Engine {
        operation: "write a file",
        source: Box::new(source),
    }
}
