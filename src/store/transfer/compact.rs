//! A stopped store on the embedded engine is written anew, to give back the room of what was erased.

use std::path::Path;
use std::sync::Arc;

use actors::ports::Clock;

use super::TransferError;
use crate::store::embedded::Offline;

/// Flushes and compacts the store in a folder. Rows that were erased and kept answers whose time is over take no room
/// afterwards. Tells how many tables of how many are done, and gives their bytes on the disk. It needs room for the largest table once more.
///
/// # Errors
///
/// [`TransferError`], such as where a gateway runs on it. Cut short it leaves the store as good as it was.
pub async fn compact(
    path: &Path,
    clock: Arc<dyn Clock>,
    told: impl FnMut(usize, usize) + Send + 'static,
) -> Result<u64, TransferError> {
    if !Offline::is_there(path) {
        return Err(TransferError::NoStore(path.to_owned()));
    }
    let opened = Offline::open_at(path, clock);
    let store = opened.map_err(|it| TransferError::Open(Box::new(it)))?;
    let compacted = store.compact(told).await;
    super::Archive::close(&store).await;
    Ok(compacted?)
}
