//! CQL servers of a case's own, apart from the one that all share, to do harm to.

use std::mem::take;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use gateway::testing::server::Hold;
use tempfile::{TempDir, tempdir};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::spawn_blocking;

use super::{Lease, cql_settings, option};

/// Nodes that run at the same time, whatever many cases do: each is a process of half a gibibyte, and those who share two
/// processors with more of them answer too late. A case holds no more than one cluster at a time, so that none waits for
/// another that waits for it.
static NODES: Semaphore = Semaphore::const_new(3);

/// Single nodes of the usual settings that cases have left whole: a start takes longer than many a case.
static SPARE: Mutex<Vec<Servers>> = Mutex::new(Vec::new());

/// Nodes that run, until this is dropped.
#[derive(Debug)]
struct Servers {
    hold: Arc<Hold>,
    // Below the hold: it is deleted when nothing runs in it any more.
    folder: TempDir,
}

/// One node or three, on addresses of their own.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: usize,
    /// Nothing once it is dropped.
    servers: Option<Servers>,
    /// Whether another case can take the nodes as they are.
    is_usual: bool,
    is_whole: AtomicBool,
    _places: SemaphorePermit<'static>,
}

/// Why there can be none here, and need not.
pub(crate) fn absence() -> Option<&'static str> {
    static ABSENCE: LazyLock<Option<String>> = LazyLock::new(|| {
        let folder = tempdir().expect("a folder for the nodes");
        let hold = Hold::take(folder.path()).unwrap();
        let is_required = option("BUHO_TEST_CQL").as_deref() == Some("required");
        hold.say(&["install"]).err().filter(|_| !is_required)
    });
    ABSENCE.as_deref()
}

impl Cluster {
    /// Nodes that answer and see each other. Acknowledged writes are on their disks.
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[]).await
    }

    /// As [`Self::start`], with more settings of `server.sh`.
    pub(crate) async fn start_with(
        nodes: usize,
        settings: &'static [(&'static str, &'static str)],
    ) -> Self {
        let places = NODES.acquire_many(u32::try_from(nodes).unwrap());
        let places = places.await.unwrap();
        let is_usual = nodes == 1 && settings.is_empty();
        let spare = is_usual.then(|| spare().pop()).flatten();
        if !is_usual {
            // Beside these they would be too many.
            spawn_blocking(Self::stop_spare).await.unwrap();
        }
        let cluster = Self {
            nodes,
            servers: spare.or_else(|| Some(Servers::new(settings))),
            is_usual,
            is_whole: AtomicBool::new(false),
            _places: places,
        };
        // Those that run already are only asked whether they do.
        cluster.say("start", nodes).await;
        cluster
    }

    /// Ends the nodes that nobody has taken over.
    pub(crate) fn stop_spare() {
        let spare = take(&mut *spare());
        // Not while others wait for the list.
        drop(spare);
    }

    fn servers(&self) -> &Servers {
        self.servers.as_ref().expect("they run until it is dropped")
    }

    /// What the first node proves itself by, where it speaks TLS.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.servers().folder.path().join("cql/n1/certificate.pem")
    }

    /// What the first node wants to see of a client, where it asks: a certificate and its key.
    pub(crate) fn client_identity(&self) -> [PathBuf; 2] {
        let client = self.servers().folder.path().join("cql/n1/client");
        ["certificate.pem", "key.pem"].map(|it| client.join(it))
    }

    /// Where the nodes listen, the first one first.
    pub(crate) fn contact_points(&self) -> Vec<String> {
        self.servers().hold.contact_points(self.nodes)
    }

    /// The lines of the configuration that put a gateway with this data folder on these nodes, each with all rows.
    pub(crate) fn settings(&self, data: &Path) -> String {
        cql_settings(data, &self.contact_points(), self.nodes, Lease::Short)
    }

    /// SIGKILL to a node.
    pub(crate) async fn kill(&self, node: usize) {
        self.say("kill", node).await;
    }

    /// Starts a node that was killed, on what it has on its disk, and waits until it answers.
    pub(crate) async fn start_one(&self, node: usize) {
        self.say("start-one", node).await;
    }

    /// Lets a node stand still: its connections stay open and nothing moves on them.
    pub(crate) async fn pause(&self, node: usize) {
        self.say("pause", node).await;
    }

    pub(crate) async fn resume(&self, node: usize) {
        self.say("resume", node).await;
    }

    async fn say(&self, verb: &'static str, number: usize) {
        self.is_whole.store(false, Ordering::Release);
        let hold = Arc::clone(&self.servers().hold);
        let saying = spawn_blocking(move || hold.say(&[verb, &number.to_string()]));
        assert_eq!(saying.await.unwrap(), Ok(()), "{verb} {number}");
        let is_whole = !["kill", "pause"].contains(&verb);
        self.is_whole.store(is_whole, Ordering::Release);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_usual && *self.is_whole.get_mut() {
            spare().extend(self.servers.take());
        }
    }
}

impl Servers {
    fn new(settings: &'static [(&'static str, &'static str)]) -> Self {
        let folder = tempdir().expect("a folder for the nodes");
        let mut hold = Hold::take(&folder.path().join("cql")).unwrap();
        hold.settings = settings;
        Self {
            hold: Arc::new(hold),
            folder,
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Where this fails, the nodes end when the hold is seen to be free.
        let _ = self.hold.say(&["wipe"]);
    }
}

fn spare() -> MutexGuard<'static, Vec<Servers>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}
