//! Reads the log afterwards: every acknowledged message is there, once, in order.

use std::collections::HashSet;

use crate::audit::SequenceAudit;
use crate::client::calls::Api;
use crate::error::LoadError;
use crate::progress;
use crate::report::Report;

/// What the log said.
#[derive(Debug)]
pub(crate) struct ReadBack {
    lost: u64,
    doubled: u64,
    disordered: u64,
}

impl ReadBack {
    /// Reads from a cursor on to the end of the log, and compares. Of what was never acknowledged, so many sends of unknown
    /// outcome may be there; more is doubled.
    pub(crate) async fn read(
        api: &Api,
        after: &str,
        expected: &[u64],
        unknown: u64,
    ) -> Result<Self, LoadError> {
        let mut audit = SequenceAudit::default();
        let length = u64::try_from(expected.len()).unwrap_or(u64::MAX);
        let bar = progress::bar(length, "reading the log");
        let mut cursor = after.to_owned();
        loop {
            let page = api.events(&cursor).await?;
            page.items.iter().for_each(|entry| audit.note(entry.seq));
            bar.inc(u64::try_from(page.items.len()).unwrap_or_default());
            // Without progress the end of the log is reached.
            if page.next_cursor == cursor {
                break;
            }
            cursor = page.next_cursor;
        }
        bar.finish_and_clear();
        Ok(Self {
            lost: audit.lost(expected),
            doubled: audit.doubled
                + repeats(expected)
                + audit.unexpected(expected).saturating_sub(unknown),
            disordered: audit.disordered + audit.outside,
        })
    }

    /// Puts the comparison into a report.
    pub(crate) fn tell(&self, name: &str, report: &mut Report) {
        report.must_be_zero(
            name,
            "messages",
            &[
                ("lost", self.lost),
                ("doubled", self.doubled),
                ("disordered", self.disordered),
            ],
        );
    }
}

/// Acknowledgements that name the same place as another.
fn repeats(expected: &[u64]) -> u64 {
    let different: HashSet<_> = expected.iter().collect();
    u64::try_from(expected.len() - different.len()).unwrap_or(u64::MAX)
}
