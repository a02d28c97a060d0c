//! The gateway's own metrics, as its Prometheus page tells them.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::calls::Api;
use crate::error::LoadError;
use crate::report::Aim;

/// The numbers of one reading.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// By name, where labels are summed up; and by name with labels.
    values: BTreeMap<String, f64>,
    gauges: BTreeSet<String>,
}

impl Metrics {
    /// Reads the gateway's page.
    pub(crate) async fn read(api: &Api) -> Result<Self, LoadError> {
        let page = api.page("/metrics").await?;
        Ok(Self::parse(&String::from_utf8_lossy(&page)))
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            if let Some(told) = line.strip_prefix("# TYPE ") {
                if let Some((name, "gauge")) = told.split_once(' ') {
                    found.gauges.insert(name.to_owned());
                }
                continue;
            }
            // NAME{LABELS} VALUE, where a label may hold spaces.
            let Some((whole, value)) = line.rsplit_once(' ') else {
                continue;
            };
            if let (false, Ok(value)) = (line.starts_with('#'), value.parse::<f64>()) {
                if let Some((name, _)) = whole.split_once('{') {
                    *found.values.entry(name.to_owned()).or_default() += value;
                }
                *found.values.entry(whole.to_owned()).or_default() += value;
            }
        }
        found
    }

    /// Messages that the simulated network has taken or refused since an earlier reading; `None` where it does not tell.
    pub(crate) fn handed_over(&self, before: &Self) -> Option<f64> {
        let of = |outcome: &str| format!("buho_simulator_messages_total{{outcome=\"{outcome}\"}}");
        let known = self.values.contains_key("buho_simulator_messages_total");
        known.then(|| self.since(before, &of("taken")) + self.since(before, &of("refused")))
    }

    /// A number, 0 where there is none.
    pub(crate) fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or_default()
    }

    /// What a counter grew by since an earlier reading.
    pub(crate) fn since(&self, before: &Self, name: &str) -> f64 {
        self.value(name) - before.value(name)
    }

    /// The names and values of what goes up and down.
    pub(crate) fn gauges(&self) -> impl Iterator<Item = (&str, f64)> {
        self.gauges
            .iter()
            .map(|name| (name.as_str(), self.value(name)))
    }
}

/// What keeps the gateway's data, as far as its metrics tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The engine that the yardstick knows too.
    Embedded,
    /// Another one, which the yardstick can only stand beside.
    Other,
}

impl Engine {
    /// What a comparison with the embedded engine has to add to its name.
    pub(crate) fn besides(self) -> &'static str {
        match self {
            Self::Embedded => "",
            Self::Other => ", beside the embedded engine",
        }
    }

    /// The aim holds where like stands beside like.
    pub(crate) fn aim(self, aim: Aim) -> Aim {
        match self {
            Self::Embedded => aim,
            Self::Other => Aim::None,
        }
    }
}

/// What the gateway's store did for each message of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreWork {
    /// Which store it is.
    pub(crate) engine: Engine,
    /// Records written.
    pub(crate) records: f64,
    /// Bytes of those records.
    pub(crate) bytes: f64,
    /// Messages that shared a sync.
    pub(crate) per_sync: f64,
}

impl StoreWork {
    /// The work between two readings for so many messages; `None` where the gateway does not tell, or did nothing.
    pub(crate) fn between(before: &Metrics, after: &Metrics, messages: f64) -> Option<Self> {
        let records = after.since(before, "buho_store_records_total");
        // A server of its own syncs as it likes: there a commit is what messages share.
        let (engine, syncs) = match after.since(before, "buho_store_syncs_total") {
            syncs if syncs >= 1.0 => (Engine::Embedded, syncs),
            _ => (
                Engine::Other,
                after.since(before, "buho_store_commits_total"),
            ),
        };
        if messages < 1.0 || records < 1.0 || syncs < 1.0 {
            return None;
        }
        Some(Self {
            engine,
            records: records / messages,
            bytes: after.since(before, "buho_store_record_bytes_total") / messages,
            per_sync: messages / syncs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE buho_store_records_total counter\nbuho_store_records_total 75\n\n\
        # TYPE buho_store_syncs_total counter\nbuho_store_syncs_total 25\n\
        # TYPE x counter\nx{route=\"a b\",status=\"200\"} 2\nx{route=\"c\"} 3\n\
        # TYPE buho_store_queue_jobs gauge\nbuho_store_queue_jobs 4\n";

    #[test]
    fn labels_are_summed_up_and_gauges_known() {
        let found = Metrics::parse(PAGE);
        let near = |name: &str, wanted: f64| (found.value(name) - wanted).abs() < 1e-9;
        assert!(
            near("x", 5.0)
                && near("x{route=\"c\"}", 3.0)
                && near("buho_store_records_total", 75.0)
                && near("none", 0.0)
        );
        let gauges: Vec<_> = found.gauges().map(|(name, _)| name).collect();
        assert_eq!(gauges, ["buho_store_queue_jobs"]);
    }

    #[test]
    fn the_work_of_a_message_is_the_growth_over_the_messages() {
        let (before, after) = (Metrics::default(), Metrics::parse(PAGE));
        let work = StoreWork::between(&before, &after, 50.0).unwrap();
        assert!((work.records - 1.5).abs() < 1e-9 && (work.per_sync - 2.0).abs() < 1e-9);
        assert_eq!(work.engine, Engine::Embedded);
        assert!(StoreWork::between(&after, &after, 50.0).is_none());
        let other = PAGE.replace("buho_store_syncs_total", "buho_store_commits_total");
        let work = StoreWork::between(&before, &Metrics::parse(&other), 50.0).unwrap();
        assert_eq!(
            (work.engine, work.engine.aim(Aim::AtMost(2.0))),
            (Engine::Other, Aim::None)
        );
    }

    #[test]
    fn what_waits_for_another_try_is_not_handed_over() {
        let page = |taken: u32| {
            let name = "buho_simulator_messages_total";
            format!(
                "{name}{{outcome=\"taken\"}} {taken}\n{name}{{outcome=\"refused\"}} 1\n{name}{{outcome=\"later\"}} 40\n"
            )
        };
        let (before, after) = (Metrics::parse(&page(2)), Metrics::parse(&page(9)));
        assert_eq!(after.handed_over(&before), Some(7.0));
        assert_eq!(Metrics::parse(PAGE).handed_over(&before), None);
    }
}
