//! What can be set about the simulated network.

use std::time::Duration;

/// How the simulated network behaves as a whole. Its bounds are per tenant unless something else is said.
#[derive(Clone, Debug)]
pub struct SimulatorOptions {
    /// What all chance derives from: one seed, one run.
    pub seed: u64,
    /// How long the first QR of a pairing lives.
    pub first_qr: Duration,
    /// How long each later QR lives.
    pub next_qr: Duration,
    /// How many QRs a pairing shows before it ends.
    pub qr_max: u32,
    /// How long the phone that scans waits for a QR.
    pub scan_wait: Duration,
    /// How long a receipt is on its way between two simulated devices.
    pub transit: Duration,
    /// How long the network waits for the gateway to take what it offers, before it offers it again.
    pub offer_time_max: Duration,
    /// Receipts that are on their way, in the whole node; a hand-over waits for room.
    pub timers_max: usize,
    /// Messages that wait in memory for a phone to come online; the rest is found again in the store.
    pub held_max: usize,
    /// Messages and receipts kept for devices that are away; beyond it a hand-over is put off.
    pub kept_max: u64,
    /// Numbers with settings of their own; one more is refused.
    pub phones_max: usize,
    /// Tenants with a network in memory; one more is refused.
    pub networks_max: usize,
    /// How often the place from which receipts are owed is written down, where it moved.
    pub mark_every: Duration,
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
