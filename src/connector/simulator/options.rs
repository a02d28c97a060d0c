//! What can be set about the simulated network.

use std::time::Duration;

/// How the simulated network behaves as a whole. Its bounds are per tenant unless something else is said.
#[derive(Clone, Debug)]
pub(crate) struct SimulatorOptions {
    /// What all chance derives from: one seed, one run.
    pub(crate) seed: u64,
    /// How long the first QR of a pairing lives.
    pub(crate) first_qr: Duration,
    /// How long each later QR lives.
    pub(crate) next_qr: Duration,
    /// How many QRs a pairing shows before it ends.
    pub(crate) qr_max: u32,
    /// How long the phone that scans waits for a QR.
    pub(crate) scan_wait: Duration,
    /// How long a receipt is on its way between two simulated devices.
    pub(crate) transit: Duration,
    /// How long the network waits for the gateway to take what it offers, before it offers it again.
    pub(crate) offer_time_max: Duration,
    /// Receipts that are on their way, in the whole node; a hand-over waits for room.
    pub(crate) timers_max: usize,
    /// Messages that wait in memory for a phone to come online; the rest is found again in the store.
    pub(crate) held_max: usize,
    /// Messages and receipts kept for devices that are away; beyond it a hand-over is put off.
    pub(crate) kept_max: u64,
    /// Numbers with settings of their own; one more is refused.
    pub(crate) phones_max: usize,
    /// Tenants with a network in memory; one more is refused.
    pub(crate) networks_max: usize,
    /// How often the place from which receipts are owed is written down, where it moved.
    pub(crate) mark_every: Duration,
}

impl Default for SimulatorOptions {
    /// As the real networks do it.
    fn default() -> Self {
        Self {
            seed: 0,
            first_qr: Duration::from_secs(60),
            next_qr: Duration::from_secs(20),
            qr_max: 6,
            scan_wait: Duration::from_secs(5),
            transit: Duration::from_millis(5),
            offer_time_max: Duration::from_secs(15),
            timers_max: 262_144,
            held_max: 16_384,
            kept_max: 100_000,
            phones_max: 100_000,
            networks_max: 100_000,
            mark_every: Duration::from_secs(2),
        }
    }
}
