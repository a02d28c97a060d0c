//! The CQL server of a test run: the one that `BUHO_TEST_CQL` names, or Apache Cassandra where `server.sh` can fetch it.
//!
//! Test processes that run at once or one after the other share a server: it stops some seconds after the last of them,
//! in whatever way that ended.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cql/server.sh");
const PORT: u16 = 9042;
/// Seconds without a test process after which a server stops: `cargo test` takes less from one to the next.
const GUARD: &str = "20";

static FOUND: LazyLock<Found> = LazyLock::new(find);

enum Found {
    At(
        Vec<String>,
        #[expect(dead_code, reason = "held until the process ends")] Option<Hold>,
    ),
    Absent(String),
    Broken(String),
}

/// Nodes of a folder, which run at least as long as this is held.
#[derive(Debug)]
pub struct Hold {
    run: PathBuf,
    net: String,
    /// More settings of `server.sh`.
    pub settings: &'static [(&'static str, &'static str)],
    _user: File,
}

/// Why the cases that need a CQL server cannot run here; nothing where they can, or where `BUHO_TEST_CQL` is `required`.
pub fn absence() -> Option<&'static str> {
    match &*FOUND {
        Found::Absent(reason) if wish().as_deref() != Some("required") => Some(reason),
        Found::At(..) | Found::Absent(_) | Found::Broken(_) => None,
    }
}

/// Where the server of this run listens.
pub fn contact_points() -> &'static [String] {
    match &*FOUND {
        Found::At(points, _) => points,
        Found::Absent(reason) | Found::Broken(reason) => panic!("no CQL server: {reason}"),
    }
}

fn find() -> Found {
    match wish() {
        Some(points) if points != "required" => Found::At(
            points.split(',').map(|it| it.trim().to_owned()).collect(),
            None,
        ),
        Some(_) | None => match Hold::take(&shared_folder()) {
            Ok(hold) => match hold.say(&["install"]) {
                Err(reason) => Found::Absent(reason),
                Ok(()) => match hold.say(&["start", "1"]) {
                    Err(reason) => Found::Broken(reason),
                    Ok(()) => Found::At(hold.contact_points(1), Some(hold)),
                },
            },
            Err(error) => Found::Broken(error.to_string()),
        },
    }
}

impl Hold {
    /// Holds what runs or will run in a folder; waits while what ran there before is being stopped.
    pub fn take(run: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(run)?;
        let user = File::create(run.join("users"))?;
        user.lock_shared()?;
        let mut hasher = DefaultHasher::new();
        run.hash(&mut hasher);
        let [second, third, ..] = hasher.finish().to_be_bytes();
        Ok(Self {
            run: run.to_owned(),
            // Far from 127.0.0.1, where somebody else's server may listen, and another one for each folder.
            net: format!("127.{}.{third}", 64 + second % 64),
            settings: &[],
            _user: user,
        })
    }

    /// Where the first nodes listen.
    pub fn contact_points(&self, nodes: usize) -> Vec<String> {
        (1..=nodes)
            .map(|node| format!("{}.{node}:{PORT}", self.net))
            .collect()
    }

    /// Runs `server.sh`; an error is what it said.
    pub fn say(&self, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new("bash")
            .arg(SCRIPT)
            .args(arguments)
            .env("BUHO_CQL_RUN", &self.run)
            .env("BUHO_CQL_NET", &self.net)
            .env("BUHO_CQL_PORT", PORT.to_string())
            .env("BUHO_CQL_GUARD", GUARD)
            .env("BUHO_CQL_SYNC", "batch")
            .envs(self.settings.iter().copied())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("bash: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        output.status.success().then_some(()).ok_or(said)
    }
}

/// The folder of the server that all test processes of this build share.
fn shared_folder() -> PathBuf {
    let built = std::env::current_exe().unwrap_or_default();
    let target = built.ancestors().nth(3).unwrap_or(Path::new("target"));
    target.join("cql").join("run")
}

#[expect(
    clippy::disallowed_methods,
    reason = "options of the test run have no other way in"
)]
fn wish() -> Option<String> {
    std::env::var("BUHO_TEST_CQL")
        .ok()
        .filter(|it| !it.is_empty())
}
