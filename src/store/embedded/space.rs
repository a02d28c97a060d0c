//! Room on the disk, looked at ahead: the engine does not survive a full disk, so writes stop before it meets one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Never look more often than this, unless much was written.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Look again when this much was written since the last look.
const LOOK_AFTER_BYTES: u64 = 8 << 20;
const MIN_FREE_MAX: u64 = 256 << 20;
const MIN_FREE_MIN: u64 = 32 << 20;
/// With less than this free a failure that names no reason counts as one for want of room: what could not be written
/// may have been taken away again.
const SHORT_BELOW: u64 = 64 << 20;

/// Free and all bytes of a file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What we may still use.
    pub(super) free: u64,
    /// What there is.
    pub(super) all: u64,
}

impl Room {
    fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            all: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    /// How much must stay free.
    fn least(self, min_free: Option<u64>) -> u64 {
        min_free.unwrap_or((self.all / 10).clamp(MIN_FREE_MIN, MIN_FREE_MAX))
    }
}

/// Whether the file system of a folder has more room than a store on it needs to go on.
pub(in crate::store) fn has_room(path: &Path, min_free: Option<u64>) -> io::Result<bool> {
    let room = Room::of(path)?;
    Ok(room.least(min_free) <= room.free)
}

type Look = Box<dyn Fn() -> io::Result<Room> + Send + Sync>;

/// Knows whether there is room to write.
pub(super) struct FreeSpace {
    look: Look,
    min_free: Option<u64>,
    full: AtomicBool,
    /// Whether the engine has met a full disk, in spite of all looking ahead; until there is room again.
    met: AtomicBool,
    written: AtomicU64,
    looked_at: Mutex<Option<Instant>>,
}

impl FreeSpace {
    /// Looks at the file system of a folder. `min_free` of `None` is the smaller of 256 MiB and 10 % of the file
    /// system, but at least 32 MiB.
    pub(super) fn of(path: PathBuf, min_free: Option<u64>) -> Self {
        Self::new(Box::new(move || Room::of(&path)), min_free)
    }

    fn new(look: Look, min_free: Option<u64>) -> Self {
        Self {
            look,
            min_free,
            full: AtomicBool::new(false),
            met: AtomicBool::new(false),
            written: AtomicU64::new(0),
            looked_at: Mutex::new(None),
        }
    }

    /// Says how much was written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether writes must stop for now.
    pub(super) fn is_full(&self) -> bool {
        // Whoever finds another looking goes by what is known.
        if let Some(mut looked_at) = self.looked_at.try_lock() {
            let much = LOOK_AFTER_BYTES <= self.written.load(Ordering::Relaxed);
            if much || looked_at.is_none_or(|it| LOOK_EVERY <= it.elapsed()) {
                *looked_at = Some(Instant::now());
                self.written.store(0, Ordering::Relaxed);
                self.refresh();
            }
        }
        self.full.load(Ordering::Relaxed)
    }

    /// Says that the engine has met a full disk: writes stop until there is room, and not too little of it.
    pub(super) fn met_full(&self) {
        self.met.store(true, Ordering::Relaxed);
        self.full.store(true, Ordering::Relaxed);
    }

    /// Whether there is so little room that a write may have failed for want of it.
    pub(super) fn is_short(&self) -> bool {
        let least = |room: Room| room.least(self.min_free).max(SHORT_BELOW);
        (self.look)().is_ok_and(|it| it.free < least(it))
    }

    fn refresh(&self) {
        match (self.look)() {
            Ok(room) => {
                let mut least = room.least(self.min_free);
                if self.met.load(Ordering::Relaxed) {
                    least = least.max(MIN_FREE_MIN);
                }
                let full = room.free < least;
                if !full {
                    self.met.store(false, Ordering::Relaxed);
                }
                if self.full.swap(full, Ordering::Relaxed) != full {
                    tracing::warn!(
                        free = room.free,
                        least,
                        "{}",
                        if full {
                            "storage is full: writes are refused"
                        } else {
                            "storage has room again"
                        }
                    );
                }
            }
            Err(error) => tracing::warn!(%error, "free space of the storage is unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn of(free: &Arc<AtomicU64>, all: u64, min_free: Option<u64>) -> FreeSpace {
        let free = Arc::clone(free);
        FreeSpace::new(
            Box::new(move || {
                Ok(Room {
                    free: free.load(Ordering::Relaxed),
                    all,
                })
            }),
            min_free,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn writes_stop_below_the_least_and_go_on_above_it() {
        let free = Arc::new(AtomicU64::new(100));
        let space = of(&free, 1_000, Some(100));
        assert!(!space.is_full());
        free.store(99, Ordering::Relaxed);
        assert!(!space.is_full(), "it does not look at every call");
        tokio::time::advance(LOOK_EVERY).await;
        assert!(space.is_full());
        free.store(100, Ordering::Relaxed);
        tokio::time::advance(LOOK_EVERY).await;
        assert!(!space.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_sooner_when_much_was_written() {
        let free = Arc::new(AtomicU64::new(100));
        let space = of(&free, 1_000, Some(100));
        assert!(!space.is_full());
        free.store(0, Ordering::Relaxed);
        space.wrote(LOOK_AFTER_BYTES);
        assert!(space.is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn once_met_a_full_disk_must_have_more_room_than_a_little() {
        let free = Arc::new(AtomicU64::new(0));
        let space = of(&free, 1 << 30, Some(1));
        assert!(space.is_full() && space.is_short());
        space.met_full();
        free.store(MIN_FREE_MIN - 1, Ordering::Relaxed);
        tokio::time::advance(LOOK_EVERY).await;
        assert!(space.is_full());
        free.store(MIN_FREE_MIN, Ordering::Relaxed);
        tokio::time::advance(LOOK_EVERY).await;
        assert!(!space.is_full() && space.is_short());
        free.store(1, Ordering::Relaxed);
        tokio::time::advance(LOOK_EVERY).await;
        assert!(!space.is_full(), "it goes by what is asked for again");
        free.store(SHORT_BELOW, Ordering::Relaxed);
        assert!(!space.is_short());
    }

    #[test]
    fn the_least_is_a_tenth_within_bounds() {
        for (all, least) in [
            (100 << 20, 32 << 20),
            (1 << 30, (1 << 30) / 10),
            (1 << 40, 256 << 20),
        ] {
            assert!(!of(&Arc::new(AtomicU64::new(least)), all, None).is_full());
            assert!(of(&Arc::new(AtomicU64::new(least - 1)), all, None).is_full());
        }
    }
}
