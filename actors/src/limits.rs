//! What the actors may hold and how long they wait: set once, from the configuration.

use std::time::Duration;

use crate::door::DoorLimits;
use crate::log::LogOptions;
use crate::model::TenantLimits;

/// Bounds of every actor.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Messages that wait in one chat, and how long a caller waits for the answer.
    pub chat: DoorLimits,
    /// How long a chat stays in memory after its last use.
    pub chat_idle: Duration,
    /// Chats in memory; the least recently used leave first.
    pub chats_resident_max: usize,
    /// Commands that wait at one device.
    pub device: DoorLimits,
    /// Messages of one device that wait for the network in memory; beyond that the store is the queue.
    pub outbox_window: usize,
    /// The first wait before a device that fell off the network comes back; doubles with each attempt.
    pub reconnect_min: Duration,
    /// The longest such wait.
    pub reconnect_max: Duration,
    /// Devices that connect at the same time.
    pub connects_max: usize,
    /// Commands that wait at one tenant, and at the node.
    pub tenant: DoorLimits,
    /// What a tenant may use that has no limit of its own.
    pub tenant_defaults: TenantLimits,
    /// The log of a tenant.
    pub log: LogOptions,
}
