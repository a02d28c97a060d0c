//! What the actors tell about themselves. No tenant and no device is named: their number has no bound.

use super::NodeHandle;
use crate::device::OutboxView;

/// The actors of one kind, and what waits at their doors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kind {
    actors: usize,
    queued: usize,
    queued_max: usize,
}

impl Kind {
    fn add(&mut self, depth: usize) {
        self.actors += 1;
        self.queued += depth;
        self.queued_max = self.queued_max.max(depth);
    }

    fn tell(self, actor: &'static str) {
        metrics::gauge!("buho_actors", "actor" => actor).set(float(self.actors));
        metrics::gauge!("buho_actor_queue", "actor" => actor).set(float(self.queued));
        metrics::gauge!("buho_actor_queue_max", "actor" => actor).set(float(self.queued_max));
    }
}

impl NodeHandle {
    /// Sets the gauges of all actors, of the rings and of the outboxes: to be called before they are read.
    pub fn measure(&self) {
        let (mut node, mut tenants, mut logs) = (Kind::default(), Kind::default(), Kind::default());
        let (mut devices, mut chats) = (Kind::default(), Kind::default());
        let (mut waiting, mut overflowing, mut ring_bytes) = (0, 0, 0);
        node.add(self.door().depth());
        for tenant in self.running() {
            tenants.add(tenant.depth());
            if let Ok(log) = tenant.log() {
                logs.add(log.depth());
                ring_bytes += log.log().bytes();
            }
            for device in tenant.devices() {
                devices.add(device.depth());
                let OutboxView { messages, goes_on } = device.outbox();
                waiting += messages;
                overflowing += usize::from(goes_on);
            }
        }
        self.chats().depths(|depth| chats.add(depth));
        for (kind, actor) in [
            (node, "node"),
            (tenants, "tenant"),
            (logs, "log"),
            (devices, "device"),
            (chats, "chat"),
        ] {
            kind.tell(actor);
        }
        metrics::gauge!("buho_outbox_messages").set(float(waiting));
        metrics::gauge!("buho_outbox_overflowing_devices").set(float(overflowing));
        metrics::gauge!("buho_log_ring_bytes").set(float(ring_bytes));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
const fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_a_sum_and_its_longest_queue() {
        let mut kind = Kind::default();
        [3, 0, 5].into_iter().for_each(|depth| kind.add(depth));
        let expected = Kind {
            actors: 3,
            queued: 8,
            queued_max: 5,
        };
        assert_eq!(kind, expected);
    }
}
