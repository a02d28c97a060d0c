//! What the store keeps in memory, read when it is opened, and when its engine is opened again: then what is known of
//! tenants and devices stays as it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use actors::log::Sequencer;
use actors::model::{Cursor, DeviceId, TenantId};
use actors::ports::StoreError;

use super::cycle::{FIRST_EPOCH, Ledger, TenantState};
use super::engine::{Engine, Space, View};
use super::erasure::{Erasures, Task};
use super::keys::{self, Place};
use super::rows;
use super::tenants::Slot;
use super::writer::Shared;

/// Reads tenants, the numbers of devices, heads, floors and what is still to be erased.
pub(super) fn ledger(
    engine: &Engine,
    shared: &Shared,
    store: [u8; 16],
    commits: u64,
) -> Result<Ledger, StoreError> {
    let view = engine.view();
    let mut ledger = Ledger {
        store,
        commits,
        tenants: HashMap::new(),
        live: HashSet::new(),
        gone: HashSet::new(),
        erasures: Erasures::new(),
    };
    let slots = load_tenants(&view, shared, &mut ledger)?;
    for row in view.prefix(Space::Directory, &keys::all_devices()) {
        let (key, row) = row?;
        let device = keys::id_at(&key, 5)
            .map(DeviceId::from_bytes)
            .ok_or(StoreError::Damaged { what: "device key" })?;
        let tenant = keys::number_at(&key, 1).ok_or(StoreError::Damaged { what: "device key" })?;
        let number = rows::number(&row, "device")?;
        shared.tenants.reserve(number);
        ledger.live.insert(number);
        if let Some(slot) = slots.get(&tenant) {
            slot.set_device(device, number);
        }
    }
    for row in view.prefix(Space::Directory, &keys::erasures()) {
        let key = row?.0;
        let place = keys::number_at(&key, 1)
            .zip(keys::number_at(&key, 5))
            .map(|(tenant, device)| Place { tenant, device });
        let place = place.ok_or(StoreError::Damaged {
            what: "erasure key",
        })?;
        shared.tenants.reserve(place.device);
        ledger.gone.insert(place.device);
        ledger.erasures.push_back(Task::device(place));
    }
    Ok(ledger)
}

/// Reads the tenants; gives them by their numbers.
fn load_tenants(
    view: &View<'_>,
    shared: &Shared,
    ledger: &mut Ledger,
) -> Result<HashMap<u32, Arc<Slot>>, StoreError> {
    // One that is not here has its first job on its way.
    let mut slots: Vec<_> = shared.tenants.slot(TenantId::GATEWAY).into_iter().collect();
    for row in view.prefix(Space::Directory, &keys::tenants()) {
        let (key, row) = row?;
        let id = keys::id_at(&key, 1)
            .map(TenantId::from_bytes)
            .ok_or(StoreError::Damaged { what: "tenant key" })?;
        slots.push(shared.tenants.load(id, rows::number(&row, "tenant")?));
    }
    for slot in &slots {
        let number = slot.number();
        let head = view
            .get(Space::Directory, &keys::head(number))?
            .map(|it| rows::uncursor(&it, "head"))
            .transpose()?;
        let head = head.unwrap_or(Cursor {
            epoch: FIRST_EPOCH,
            seq: 0,
        });
        let floor = view
            .get(Space::Directory, &keys::floor(number))?
            .map(|it| rows::unpair(&it, "floor"))
            .transpose()?;
        let (floor, erased) = floor.unwrap_or_default();
        slot.start_log(head, floor, &shared.budget);
        if erased < floor {
            ledger.erasures.push_back(Task::Log { tenant: number });
        }
        let sequencer = Sequencer::new(slot.id(), head);
        let sequencer = match view.get(Space::Log, &keys::log(number, head.seq))? {
            Some(row) => sequencer.behind(&rows::unentry(slot.id(), &row)?),
            None => sequencer,
        };
        ledger.tenants.insert(
            number,
            TenantState {
                sequencer,
                floor,
                erased,
            },
        );
    }
    Ok(slots.into_iter().map(|it| (it.number(), it)).collect())
}
