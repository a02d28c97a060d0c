use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::state::Input;
use crate::door::Reply;
use crate::model::{
    DeviceRecord, Faults, Jid, MessageBody, MessageId, Metadata, Qr, check_metadata,
};
use crate::ports::connector::Typing;
use crate::ports::{Outcome, StoreError};

/// What a device can be asked, and what comes back from its slow work.
pub(super) enum DeviceMsg {
    /// The owner wants something of the session.
    Command {
        input: Input,
        reply: Reply<Arc<DeviceRecord>>,
    },
    /// The owner changes its description.
    Patch {
        patch: DevicePatch,
        reply: Reply<Arc<DeviceRecord>>,
    },
    /// The owner removes it.
    Remove { reply: Reply<()> },
    /// Somebody types on it.
    Type {
        chat: Jid,
        typing: Typing,
        span: Option<Duration>,
        reply: Reply<()>,
    },
    /// The network tells something.
    Noted(Input),
    /// The network shows a QR.
    QrShown(Qr),
    /// A save was settled.
    Saved(Outcome),
    /// A save can be tried again.
    SaveAgain,
    /// A stop or start of the session is over.
    Steered { failed: bool },
    /// A fresh message is durable.
    Offered(Arc<MessageBody>),
    /// A fresh message did not fit and was left in the store.
    Overlooked,
    /// A page of the outbox was read.
    PageRead(Result<Vec<Arc<MessageBody>>, StoreError>),
    /// A batch was handed over.
    HandedOver(HandedOver),
    /// Messages have ended: expired.
    Ended(Vec<MessageId>),
    /// Something is due.
    Due,
    /// All that belonged to it is gone.
    Removed,
}

/// What became of a batch.
pub(super) struct HandedOver {
    pub(super) settled: Vec<MessageId>,
    pub(super) again: Vec<(Arc<MessageBody>, Duration)>,
}

/// A change of a device's description; absent members stay as they are.
#[derive(Clone, Debug, Default)]
pub struct DevicePatch {
    /// Its name.
    pub name: Option<String>,
    /// The integrator's own pairs.
    pub metadata: Option<MetadataPatch>,
}

/// A change of the integrator's own pairs (RFC 7396).
#[derive(Clone, Debug)]
pub enum MetadataPatch {
    /// None are left.
    Erase,
    /// These are set, or with `None` erased; the others stay.
    Merge(BTreeMap<String, Option<String>>),
}

impl DevicePatch {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.metadata.is_none()
    }

    /// The description that comes of it.
    ///
    /// # Errors
    ///
    /// Every rule that it would break.
    pub(super) fn over(
        self,
        name: &str,
        metadata: &Metadata,
    ) -> Result<(String, Metadata), Faults> {
        let name = self.name.unwrap_or_else(|| name.to_owned());
        let metadata = match self.metadata {
            None => metadata.clone(),
            Some(MetadataPatch::Erase) => Metadata::new(),
            Some(MetadataPatch::Merge(change)) => {
                let mut merged = metadata.clone();
                for (key, value) in change {
                    match value {
                        Some(value) => merged.insert(key, value),
                        None => merged.remove(&key),
                    };
                }
                merged
            }
        };
        check_description(&name, &metadata)?;
        Ok((name, metadata))
    }
}

/// Checks the bounds of a device's description.
///
/// # Errors
///
/// Every rule that is broken.
pub(crate) fn check_description(name: &str, metadata: &Metadata) -> Result<(), Faults> {
    let mut faults = Faults::default();
    let fits = !name.trim().is_empty() && name.chars().count() <= 100;
    faults.check(fits, "/name", "must have 1 to 100 characters");
    if let Err(of_metadata) = check_metadata(metadata) {
        faults.extend(of_metadata.under("/metadata"));
    }
    faults.into_result()
}
