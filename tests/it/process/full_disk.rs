//! A disk without room: calls are told so, nothing is lost, and writes work again by themselves when there is room.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::statvfs;
use serde_json::json;
use tempfile::{TempDir, tempdir};
use tokio::task::JoinSet;

use super::auditor::{Auditor, Sender};
use super::binary::Binary;
use super::kill::until_settled;
use crate::house::{Case, Client, Device, Dice, Store, cases, say, seed, until};

/// Far more than the store needs to go on, and little enough to be filled at once.
const DISK: &str = "size=192m";
/// What is left of it when the gateway is to run into its end.
const REST: u64 = 256 << 10;
const BLOCK: usize = 64 << 10;
/// How often the gateway meets the disk's end.
const MET: u64 = 3;
const SENDERS: usize = 8;
/// Acknowledgements that show that all is well.
const WELL: usize = 300;
/// The gateway shall not see it coming.
const BLIND: &str = "store.min_free = 1\n";

/// A small disk of its own.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// The error is that this process may not mount one.
    fn mount() -> Result<Self, &'static str> {
        let folder = tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
            .arg(folder.path())
            .output();
        let is_there = mounted.is_ok_and(|it| it.status.success());
        let disk = is_there.then_some(Self { folder });
        disk.ok_or("a full disk is one of its own, which needs the right to mount")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Leaves hardly any room, but some at every moment: the gateway shall write into the end, not see it.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        let block = vec![1; BLOCK];
        let room = || {
            let found = statvfs(self.path()).unwrap();
            found.f_bavail * found.f_frsize
        };
        while REST < room() && filler.write_all(&block).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still runs on it keeps it until it ends.
        drop(Command::new("umount").arg("-l").arg(self.path()).output());
    }
}

/// Senders that come again and again, whatever they are told.
struct Crowd {
    auditor: Arc<Auditor>,
    devices: Vec<Device>,
    senders: JoinSet<()>,
}

impl Crowd {
    async fn gather(client: &Client, name: &str) -> Self {
        let devices = vec![client.device("one").await, client.device("two").await];
        let (auditor, mut dice) = (Arc::new(Auditor::default()), Dice::new(seed(name)));
        let mut senders = JoinSet::new();
        for index in 0..SENDERS {
            let sender = Sender {
                name: format!("s{index}"),
                devices: devices.clone(),
                auditor: Arc::clone(&auditor),
                dice: Dice::new(dice.bits()),
                batch_max: 20,
                bytes_max: 2_000,
                pause: std::time::Duration::ZERO,
            };
            senders.spawn(sender.run());
        }
        auditor.until_count(WELL).await;
        Self {
            auditor,
            devices,
            senders,
        }
    }

    async fn goes_on(&self) {
        self.auditor.until_count(self.auditor.count() + WELL).await;
    }

    async fn disperse(self, client: &Client) -> (Arc<Auditor>, Vec<Device>) {
        self.auditor.end();
        // A sender that found something wrong has panicked: that fails the test here.
        self.senders.join_all().await;
        until_settled(client, &self.devices).await;
        say(&format!(
            "{} acknowledged, {} told that there is no room, {} with an unknown outcome",
            self.auditor.count(),
            self.auditor.full(),
            self.auditor.unknown(),
        ));
        (self.auditor, self.devices)
    }
}

/// How often the store was opened anew.
async fn opened_again(client: &Client) -> u64 {
    let metrics = client.anonymous().get("/metrics").await.text();
    let line = metrics
        .lines()
        .find_map(|it| it.strip_prefix("buho_store_opened_again_total "));
    line.map_or(0, |it| it.trim().parse().unwrap())
}

async fn a_full_disk_is_told_and_lived_through_without_a_restart() {
    let disk = Disk::mount().unwrap();
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(disk.path().join("store")).unwrap();
    symlink(disk.path().join("store"), &data).unwrap();
    let settings = Store::current().settings(&data) + BLIND;
    let mut gateway = Binary::serve_on(&data, &settings).await;
    let client = gateway.tenant().await;
    let crowd = Crowd::gather(&client, "full_disk").await;
    // A write may use up the last byte, and a look at the disk come before the next one: such a round is one more.
    let mut rounds = 0;
    while opened_again(&client).await < MET {
        rounds += 1;
        assert!(rounds <= MET + 2, "the gateway sees it coming");
        let told = crowd.auditor.full();
        disk.fill();
        until("every sender hears that there is no room", async || {
            told + 2 * SENDERS <= crowd.auditor.full()
        })
        .await;
        client.anonymous().get("/health/live").await.expect(200);
        let ready = client.anonymous().get("/health/ready").await.expect(200);
        assert_eq!(ready["degraded"], json!(["store"]));
        until("reads go on", async || {
            crowd.devices[0].get("/messages?limit=1").await.status == 200
        })
        .await;
        disk.empty();
        crowd.goes_on().await;
    }
    let (auditor, devices) = crowd.disperse(&client).await;
    auditor.audit(&client, &devices).await;
    gateway.kill().await;
    let mut gateway = Binary::serve_on(&data, &settings).await;
    gateway.lead(&client);
    auditor.audit(&client, &devices).await;
    assert!(gateway.terminate().await.success());
}

pub(crate) const CASES: &[Case] = cases![
    a_full_disk_is_told_and_lived_through_without_a_restart
        .threaded()
        .embedded()
        .needing(|| Disk::mount().err()),
];
