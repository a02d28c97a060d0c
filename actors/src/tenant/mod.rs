//! One tenant: the unit of ownership, policy and isolation.
//!
//! - **Owns:** the list of its devices, its limits; one writer gives the order of its log.
//! - **Supervised by:** the node. **Supervises:** its log and its devices.
//! - **On a crash:** started again by the node from the store, with everything below it; other tenants notice nothing.
//! - **Stops** with the node.

mod actor;
mod handle;
mod message;

pub(crate) use handle::Shared;
pub use handle::TenantHandle;
pub use message::{CreatedDevice, DeviceDraft};
