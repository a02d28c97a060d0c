//! One tenant's network: its lines, its numbers, its phones. Read from the store when it is first needed.

use std::collections::HashMap;
use std::sync::Arc;

use actors::model::{DeviceId, Jid, MessageId, TenantId};
use actors::ports::simulation::Phone;
use actors::ports::{Outcome, StoreError, SubmitError, Write, commit};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use super::digits::Digits;
use super::dues::Dues;
use super::line::{Account, Line};
use super::mail::Mail;
use super::phones::{Held, Phones};
use super::record::{self, LINKS, Link, MAIL, MARKS, PHONES, SPACE};
use super::{Node, chance};

/// How many values are read at once.
const PAGE: usize = 512;
/// How many numbers are tried for a device that has none.
const NUMBERS_TRIED: u32 = 64;

/// Why the network could not keep or read something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// Too much is under way, or kept.
    #[error("network is busy")]
    Busy,
    /// The store is away.
    #[error("store is away")]
    Away,
    /// The disk is full; nothing was written.
    #[error("storage is full")]
    Full,
    /// The store takes no writes until it is opened again; nothing was written.
    #[error("store has failed")]
    Failed,
    /// The store did not say whether it was written.
    #[error("outcome is unknown")]
    Unknown,
}

impl From<SubmitError> for Trouble {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy => Self::Busy,
            SubmitError::Full => Self::Full,
            SubmitError::Failed => Self::Failed,
            SubmitError::Closing | SubmitError::Away => Self::Away,
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refused) => return refused.into(),
            StoreError::Away | StoreError::Full | StoreError::Failed | StoreError::Gone => {}
            StoreError::Damaged { .. } | StoreError::Engine { .. } => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the simulated network could not use its store"
                );
            }
        }
        Self::Away
    }
}

/// Where a message goes.
pub(super) enum Route {
    /// To the sender's own number.
    Own,
    /// To another simulated device.
    Device(Arc<Line>),
    /// To a virtual phone.
    Phone(Digits),
    /// Nowhere.
    Nowhere,
}

/// A tenant's network. Its lines are the tenant's devices, which the gateway bounds.
#[derive(Debug)]
pub(super) struct Network {
    /// Whose it is.
    pub(super) tenant: TenantId,
    /// How the virtual phones behave.
    pub(super) phones: RwLock<Phones>,
    /// What waits for offline phones.
    pub(super) held: Mutex<Held>,
    /// What is kept for accounts that are away.
    pub(super) mail: Mail,
    /// Settings of phones change one after the other.
    pub(super) setting: tokio::sync::Mutex<()>,
    lines: RwLock<HashMap<DeviceId, Arc<Line>>>,
    numbers: RwLock<HashMap<Digits, Arc<Line>>>,
}

impl Network {
    fn new(tenant: TenantId) -> Self {
        Self {
            tenant,
            phones: RwLock::default(),
            held: Mutex::default(),
            mail: Mail::default(),
            setting: tokio::sync::Mutex::new(()),
            lines: RwLock::default(),
            numbers: RwLock::default(),
        }
    }

    /// The line of a device; made where there is none.
    pub(super) fn line(self: &Arc<Self>, device: DeviceId) -> Arc<Line> {
        if let Some(line) = self.lines.read().get(&device) {
            return Arc::clone(line);
        }
        let fresh = || {
            Arc::new(Line::new(
                Arc::downgrade(self),
                self.tenant,
                device,
                None,
                Dues::default(),
            ))
        };
        Arc::clone(self.lines.write().entry(device).or_insert_with(fresh))
    }

    /// Every line.
    pub(super) fn all_lines(&self) -> Vec<Arc<Line>> {
        self.lines.read().values().cloned().collect()
    }

    /// The line of a number.
    pub(super) fn line_of(&self, number: Digits) -> Option<Arc<Line>> {
        self.numbers.read().get(&number).cloned()
    }

    /// Where messages of an account to these addresses go; one look at the numbers for all of them.
    pub(super) fn routes<'a>(
        &self,
        own: Digits,
        chats: impl Iterator<Item = &'a Jid>,
    ) -> Vec<Route> {
        let numbers = self.numbers.read();
        let route = |chat: &Jid| match Digits::of(chat) {
            None => Route::Nowhere,
            Some(number) if number == own => Route::Own,
            Some(number) => numbers
                .get(&number)
                .map_or(Route::Phone(number), |line| Route::Device(Arc::clone(line))),
        };
        chats.map(route).collect()
    }

    /// Takes a number for a line: the one that is wanted, or one that is free. `None` where it is another device's.
    pub(super) fn claim(
        &self,
        line: &Arc<Line>,
        wanted: Option<Digits>,
        seed: u64,
    ) -> Option<Digits> {
        let mut numbers = self.numbers.write();
        let free = |number: &Digits| {
            numbers
                .get(number)
                .is_none_or(|it| it.device == line.device)
        };
        let made_up = || {
            (0..NUMBERS_TRIED)
                .filter_map(|attempt| chance::made_up_number(seed, line.device, attempt))
                .find(free)
        };
        let number = match wanted {
            Some(number) => Some(number).filter(free),
            None => made_up(),
        }?;
        numbers.insert(number, Arc::clone(line));
        Some(number)
    }

    /// Gives a number of a line back.
    pub(super) fn release(&self, line: &Line, number: Digits) {
        let mut numbers = self.numbers.write();
        if numbers
            .get(&number)
            .is_some_and(|it| it.device == line.device)
        {
            numbers.remove(&number);
        }
    }

    /// A device is gone for good.
    pub(super) fn remove(&self, device: DeviceId) {
        self.lines.write().remove(&device);
    }

    fn add(self: &Arc<Self>, device: DeviceId, link: Link, mark: Option<MessageId>) {
        let Some(account) = Account::new(link) else {
            return;
        };
        let (number, dues) = (
            account.digits,
            mark.map_or_else(Dues::default, Dues::from_mark),
        );
        let line = Arc::new(Line::new(
            Arc::downgrade(self),
            self.tenant,
            device,
            Some(account),
            dues,
        ));
        self.lines.write().insert(device, Arc::clone(&line));
        self.numbers.write().insert(number, line);
    }
}

impl Node {
    /// The network of a tenant.
    pub(super) async fn network(&self, tenant: TenantId) -> Result<Arc<Network>, Trouble> {
        let cell = match self.networks.get(&tenant).map(|it| Arc::clone(&it)) {
            Some(cell) => cell,
            None if self.options.networks_max <= self.networks.len() => return Err(Trouble::Busy),
            None => Arc::clone(
                &self
                    .networks
                    .entry(tenant)
                    .or_insert_with(|| Arc::new(OnceCell::new())),
            ),
        };
        cell.get_or_try_init(|| self.load(tenant)).await.cloned()
    }

    async fn load(&self, tenant: TenantId) -> Result<Arc<Network>, Trouble> {
        let network = Arc::new(Network::new(tenant));
        let mut marks: HashMap<DeviceId, MessageId> = HashMap::new();
        self.each_value(tenant, MARKS, |key, value| {
            let mark = <[u8; 16]>::try_from(&**value)
                .ok()
                .map(MessageId::from_bytes);
            marks.extend(record::device_of(key, MARKS).zip(mark));
        })
        .await?;
        self.each_value(tenant, LINKS, |key, value| match record::device_of(key, LINKS).zip(record::decode::<Link>(value)) {
            Some((device, link)) => network.add(device, link, marks.get(&device).copied()),
            None => tracing::warn!(%tenant, "a link of the simulated network is damaged, it is left out"),
        })
        .await?;
        self.each_value(tenant, PHONES, |key, value| match record::phone_of(key).zip(record::decode::<Phone>(value)) {
            Some((number, phone)) => network.phones.write().set(number, phone),
            None => tracing::warn!(%tenant, "settings of a simulated phone are damaged, they are left out"),
        })
        .await?;
        self.each_value(tenant, MAIL, |key, _value| {
            if let Some((number, order)) = record::mail_of(key) {
                network.mail.found(number, order);
            }
        })
        .await?;
        Ok(network)
    }

    async fn each_value(
        &self,
        tenant: TenantId,
        prefix: &[u8],
        mut take: impl FnMut(&[u8], &Bytes) + Send,
    ) -> Result<(), Trouble> {
        let mut beyond: Option<Vec<u8>> = None;
        loop {
            let page = self
                .store
                .values(tenant, SPACE, prefix, beyond.as_deref(), PAGE)
                .await?;
            for (key, value) in &page {
                take(key, value);
            }
            match page.into_iter().next_back() {
                Some((key, _value)) => beyond = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Writes values; durable when this returns.
    pub(super) async fn write(&self, tenant: TenantId, writes: Vec<Write>) -> Result<(), Trouble> {
        match commit(&*self.store, tenant, writes, Vec::new(), None).await? {
            Outcome::Committed { cursor: _ } => Ok(()),
            Outcome::Failed(StoreError::Refused(refused)) => Err(refused.into()),
            Outcome::Failed(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the simulated network does not know what its store has written"
                );
                Err(Trouble::Unknown)
            }
            // Only jobs with a claim end so.
            Outcome::Replayed(_) | Outcome::Mismatch => Err(Trouble::Away),
        }
    }

    /// Writes one value.
    pub(super) async fn write_value(
        &self,
        tenant: TenantId,
        key: Vec<u8>,
        value: Option<Bytes>,
    ) -> Result<(), Trouble> {
        self.write(
            tenant,
            vec![Write::Value {
                space: SPACE,
                key,
                value,
            }],
        )
        .await
    }
}
